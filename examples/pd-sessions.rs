//! Sessions by themselves, for `ci/bench`: how many full handshakes a node answers in a second, and what idle ones cost it.
#![expect(clippy::print_stdout, reason = "the line of JSON is what this program is for")]

use clap::{Parser, Subcommand};
use portdistrict::error::Result;
use portdistrict::exit::try_::way;
use portdistrict::exit::way::{Failure, Way};
use portdistrict::token::Invite;
use serde_json::json;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Enough to keep two processors busy, few enough for a node to answer all.
const AT_ONCE: usize = 32;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Connect, handshake, close, again and again
    Handshakes {
        #[arg(long)]
        seconds: f64,
        invite: String,
    },
    /// Sessions that are open and silent until stdin ends
    Idle {
        #[arg(long)]
        count: usize,
        invite: String,
    },
}

async fn handshakes(way: Arc<Way>, seconds: f64) -> serde_json::Value {
    let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (started, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (way, done, failed) = (way.clone(), done.clone(), failed.clone());
            tokio::spawn(async move {
                while started.elapsed() < limit {
                    match way.reach().await {
                        Ok(reached) => {
                            reached.session.close();
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        let _ = worker.await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let done = done.load(Ordering::Relaxed);
    json!({"count": done, "failed": failed.load(Ordering::Relaxed), "seconds": seconds, "per_second": done as f64 / seconds})
}

async fn idle(way: Arc<Way>, count: usize) {
    let mut open = Vec::with_capacity(count);
    let mut error = None;
    while open.len() < count && error.is_none() {
        let some = (count - open.len()).min(AT_ONCE);
        let tries: Vec<_> = (0..some)
            .map(|_| {
                let way = way.clone();
                tokio::spawn(async move { way.reach().await })
            })
            .collect();
        for one in tries {
            match one.await {
                Ok(Ok(reached)) => open.push(reached.session),
                Ok(Err(failure)) => error = Some(Failure::into_error(failure).message().to_owned()),
                Err(panic) => error = Some(panic.to_string()),
            }
        }
    }
    println!("{}", json!({"open": open.len(), "failed": count - open.len(), "error": error}));
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
}

#[tokio::main]
async fn main() -> Result<()> {
    let of = |blob: &str| Invite::from_blob(blob).map_err(portdistrict::error::Error::from).and_then(|invite| way(&invite)).map(Arc::new);
    match Cli::parse().job {
        Job::Handshakes { seconds, invite } => println!("{}", handshakes(of(&invite)?, seconds).await),
        Job::Idle { count, invite } => idle(of(&invite)?, count).await,
    }
    Ok(())
}

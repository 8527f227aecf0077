//! What `ci/bench` does to a node besides fetching: full handshakes, garbage, and sessions that stay idle.
//! Says what it saw as one line of JSON.
#![expect(clippy::print_stdout, reason = "the line of JSON is what this program is for")]

use clap::{Parser, Subcommand};
use portdistrict::config::time::now_s;
use portdistrict::session::{Hello, Session, connect};
use portdistrict::token::Invite;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Full handshakes, each on a connection of its own
    Handshakes {
        /// An invite of mode `many`
        #[arg(long)]
        invite: String,
        /// How many
        #[arg(long, default_value_t = 5000)]
        count: usize,
        /// How many at a time
        #[arg(long, default_value_t = 32)]
        parallel: usize,
    },
    /// Random first flights as fast as the node takes them
    Garbage {
        /// The node's address
        #[arg(long)]
        address: SocketAddr,
        /// For how long, in seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Sessions that are opened and kept until standard input ends
    Idle {
        /// An invite of mode `many`
        #[arg(long)]
        invite: String,
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
}

struct Target {
    address: SocketAddr,
    node: [u8; 32],
    secret: [u8; 32],
    hello: Hello,
}

impl Target {
    fn of(blob: &str) -> Target {
        let invite = Invite::from_blob(blob).expect("a readable invite");
        let addresses = &invite.transport.addresses;
        let secret = *invite.secret.as_ref().expect("an invite that is not sealed").subject_secret();
        let hello = Hello { grant: invite.grant.encode(), bind: None, version: "bench".to_owned() };
        Target { address: addresses[0].parse().expect("an address with a port"), node: invite.node, secret, hello }
    }

    async fn session(&self) -> Session {
        let tcp = TcpStream::connect(self.address).await.expect("a connection");
        let (session, _) = connect(tcp, &self.secret, &self.node, self.hello.clone(), now_s()).await.expect("a session");
        session
    }
}

async fn handshakes(target: &Target, count: usize, parallel: usize) -> serde_json::Value {
    let begun = Instant::now();
    let worker = async || {
        for _ in 0..count / parallel {
            target.session().await.close();
        }
    };
    futures::future::join_all((0..parallel).map(|_| worker())).await;
    let done = count / parallel * parallel;
    json!({ "handshakes": done, "per_second": done as f64 / begun.elapsed().as_secs_f64() })
}

/// 256 connections at a time, each with 600 random bytes and then silence, cut by us to make room for the next.
async fn garbage(address: SocketAddr, seconds: u64) -> serde_json::Value {
    let end = Instant::now() + Duration::from_secs(seconds);
    let worker = async || {
        let (mut sent, mut answered) = (0u64, 0u64);
        let mut bytes = [0u8; 600];
        while Instant::now() < end {
            getrandom::fill(&mut bytes).expect("randomness");
            let Ok(mut tcp) = TcpStream::connect(address).await else { continue };
            let _ = tcp.write_all(&bytes).await;
            let mut byte = [0u8];
            let answer = tokio::time::timeout(Duration::from_millis(5), tcp.read(&mut byte)).await;
            answered += u64::from(matches!(answer, Ok(Ok(1))));
            sent += 1;
        }
        (sent, answered)
    };
    let all = futures::future::join_all((0..64).map(|_| worker())).await;
    let (sent, answered) = all.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    json!({ "sent": sent, "per_second": sent as f64 / seconds as f64, "answered": answered })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    match Cli::parse().job {
        Job::Handshakes { invite, count, parallel } => println!("{}", handshakes(&Target::of(&invite), count, parallel).await),
        Job::Garbage { address, seconds } => println!("{}", garbage(address, seconds).await),
        Job::Idle { invite, count } => {
            let target = Target::of(&invite);
            let mut sessions = Vec::with_capacity(count);
            while sessions.len() < count {
                let batch = (count - sessions.len()).min(64);
                sessions.extend(futures::future::join_all((0..batch).map(|_| target.session())).await);
            }
            println!("{}", json!({ "sessions": sessions.len() }));
            let mut rest = Vec::new();
            let _ = tokio::io::stdin().read_to_end(&mut rest).await;
            let alive = sessions.iter().filter(|session| !session.is_closed()).count();
            println!("{}", json!({ "alive": alive }));
        }
    }
}

//! Keeps one session to a node: connects, notices its end, connects again with back-off, and dials streams over it.

use super::proxy::{DialError, Dialer};
use super::way::{Failure, Reached, Way};
use crate::error::Result;
use crate::session::Stream;
use crate::session::messages::{ExitReply, ExitRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// Waits between attempts; the last one repeats.
const BACK_OFF: [u64; 5] = [1, 2, 5, 10, 30];
/// How long a local request waits for a session that is being made anew.
pub const WAIT_FOR_SESSION: Duration = Duration::from_secs(20);
/// How long a node may take to open a destination, its own deadlines included.
const WAIT_FOR_REPLY: Duration = Duration::from_secs(45);

/// What a tunnel is doing.
#[derive(Clone, Debug)]
pub enum State {
    /// Trying to reach the node; `why` is what ended the last attempt or session.
    Connecting {
        /// Which attempt this is, from 1.
        attempt: usize,
        /// Seconds until it starts.
        wait: u64,
        /// What went wrong before.
        why: Option<String>,
    },
    /// A session stands.
    Up(Reached),
    /// The node refuses for good.
    Refused(String),
}

/// A session to a node that is made anew whenever it ends.
#[derive(Debug)]
pub struct Tunnel {
    name: String,
    state: watch::Receiver<State>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.keeper.abort();
        if let State::Up(reached) = &*self.state.borrow() {
            reached.session.close();
        }
    }
}

impl Tunnel {
    /// Starts from a session that stands already.
    pub fn keep(way: Way, reached: Reached) -> Arc<Tunnel> {
        let (sender, state) = watch::channel(State::Up(reached.clone()));
        let name = way.name.clone();
        Arc::new(Tunnel { name, state, keeper: tokio::spawn(keep(way, reached, sender)) })
    }

    /// Follows what the tunnel does.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    async fn reached(&self) -> Result<Reached, DialError> {
        let mut state = self.state.clone();
        let up = state.wait_for(|state| !matches!(state, State::Connecting { .. }));
        match tokio::time::timeout(WAIT_FOR_SESSION, up).await {
            Ok(Ok(state)) => match &*state {
                State::Up(reached) => Ok(reached.clone()),
                State::Refused(why) => Err(DialError { reply: ExitReply::NotAllowed, sentence: why.clone() }),
                State::Connecting { .. } => Err(self.away()),
            },
            _ => Err(self.away()),
        }
    }

    fn away(&self) -> DialError {
        let sentence = format!("Exit `{}` is not reachable at the moment; it is being tried again.", self.name);
        DialError { reply: ExitReply::NetworkUnreachable, sentence }
    }

    fn explain(&self, reply: ExitReply, host: &str, port: u16) -> DialError {
        let name = &self.name;
        let sentence = match reply {
            ExitReply::NotAllowed => {
                format!(
                    "Exit `{name}` does not let guests go to {host}:{port}. Its owner can allow it: portdistrict machine deploy … --allow {host}:{port}"
                )
            }
            ExitReply::NetworkUnreachable => format!("Exit `{name}` has no route to {host}."),
            ExitReply::HostUnreachable => format!("Exit `{name}` cannot find {host}, or it did not answer in time."),
            ExitReply::ConnectionRefused => format!("Nothing listens on {host}:{port}, says exit `{name}`."),
            ExitReply::LimitReached => format!("The limit of your invite to exit `{name}` is used up. Ask its owner for a new one."),
            ExitReply::Busy => format!("Exit `{name}` is busy or stopping; try again in a moment."),
            ExitReply::Open | ExitReply::Failed => format!("Exit `{name}` could not open {host}:{port}."),
        };
        DialError { reply, sentence }
    }
}

impl Dialer for Tunnel {
    async fn dial(&self, host: &str, port: u16, early: &[u8]) -> Result<Stream, DialError> {
        if host.len() > crate::session::messages::MAX_HOST {
            return Err(self.explain(ExitReply::HostUnreachable, "a name of more than 255 characters", port));
        }
        let mut first = ExitRequest { host: host.to_owned(), port }.first_bytes();
        first.extend_from_slice(early);
        // A session may end between being chosen and being used: the next one gets one more chance.
        for _ in 0..2 {
            let reached = self.reached().await?;
            let Ok(mut stream) = reached.session.open(&first).await else { continue };
            let reply = match tokio::time::timeout(WAIT_FOR_REPLY, stream.read_u8()).await {
                Ok(Ok(byte)) => ExitReply::from_byte(byte),
                Ok(Err(_)) if reached.session.is_closed() => return Err(self.away()),
                Ok(Err(_)) => ExitReply::Busy,
                Err(_) => ExitReply::HostUnreachable,
            };
            return if reply == ExitReply::Open { Ok(stream) } else { Err(self.explain(reply, host, port)) };
        }
        Err(self.away())
    }
}

async fn keep(way: Way, mut reached: Reached, state: watch::Sender<State>) {
    loop {
        reached.session.closed().await;
        match again(&way, &state).await {
            Some(next) => reached = next,
            None => return,
        }
        state.send_replace(State::Up(reached.clone()));
    }
}

/// Tries until a session stands; `None` once the node refuses for good.
async fn again(way: &Way, state: &watch::Sender<State>) -> Option<Reached> {
    let mut why = Some("the session ended".to_owned());
    for attempt in 1.. {
        // The first attempt is made at once: a node that was restarted answers already.
        let wait = if attempt == 1 { 0 } else { BACK_OFF[(attempt - 2).min(BACK_OFF.len() - 1)] };
        tracing::info!(attempt, wait, why = why.as_deref(), "reconnecting");
        state.send_replace(State::Connecting { attempt, wait, why: why.take() });
        tokio::time::sleep(Duration::from_secs(wait)).await;
        match way.reach().await {
            Ok(reached) => return Some(reached),
            Err(Failure::Refused(code, error)) if !code.is_passing() => {
                state.send_replace(State::Refused(error.to_string()));
                return None;
            }
            Err(failure) => {
                let error = failure.into_error();
                why = Some(error.causes().first().cloned().unwrap_or_else(|| error.to_string()));
            }
        }
    }
    None
}

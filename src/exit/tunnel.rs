//! Keeps sessions to a node: connects, notices their end, connects again with back-off, and dials streams over them.
//!
//! One session is enough; over Tor several, each over circuits of its own, carry more and outlive the loss of one.

use super::known::Known;
use super::proxy::{DialError, Dialed, Dialer};
use super::way::{Failure, GATE, Reached, Way};
use crate::error::{Code, Error, Result};
use crate::session::Answer;
use crate::session::messages::{ExitReply, ExitRequest, MAX_HOST};
use crate::trust::Refusal;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};

/// Waits between attempts; the last one repeats. Over Tor alone it is [`GATE`].
const BACK_OFF: [u64; 5] = [1, 2, 5, 10, 30];
/// How long a local request waits for a session that is being made anew.
pub const WAIT_FOR_SESSION: Duration = Duration::from_secs(20);
/// The same where Tor is the way, or may be.
pub const WAIT_OVER_TOR: Duration = Duration::from_secs(60);
/// Most sessions that are kept beside each other.
pub const MAX_CIRCUITS: usize = 8;
/// A session that lasted so long was a good one: the next attempt is made at once. After a shorter one the back-off goes on,
/// so that a node that welcomes and hangs up is not asked without end.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// How long a node may take to open a destination, its own deadlines included.
const WAIT_FOR_REPLY: Duration = Duration::from_secs(45);

/// Most different sentences about what is not allowed that one tunnel tells.
const MAX_DENIALS: usize = 64;

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
    Refused(Refusal),
}

/// What happens to a tunnel.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Its state is another one.
    State(&'a State),
    /// A session stands again.
    Back {
        /// The new one.
        reached: &'a Reached,
        /// How long there was none.
        after: Duration,
    },
    /// A local program asked for what the owner of the exit does not allow.
    Denied(&'a str),
}

/// Sessions to a node that are made anew whenever they end.
#[derive(Debug)]
pub struct Tunnel {
    name: String,
    patience: Duration,
    /// The first one is the one that is told of.
    lanes: Vec<Lane>,
    next: AtomicUsize,
    denials: Denials,
    known: Known,
}

/// One session and its successors.
#[derive(Debug)]
struct Lane {
    state: watch::Receiver<State>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Lane {
    /// The session, if there is one at this moment; it may be over before its keeper has noticed.
    fn up(&self) -> Option<Reached> {
        match &*self.state.borrow() {
            State::Up(reached) if !reached.session.is_closed() => Some(reached.clone()),
            _ => None,
        }
    }

    fn refused(&self) -> Option<Refusal> {
        match &*self.state.borrow() {
            State::Refused(refusal) => Some(*refusal),
            _ => None,
        }
    }
}

/// What the owner of the exit does not allow, one sentence each, for whoever shows it. Each is told once: a page that asks
/// a hundred times for what it may not have is one piece of news.
#[derive(Debug)]
struct Denials {
    told: Mutex<HashSet<String>>,
    sender: mpsc::Sender<String>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<String>>,
}

impl Denials {
    fn new() -> Denials {
        let (sender, receiver) = mpsc::channel(MAX_DENIALS);
        Denials { told: Mutex::default(), sender, receiver: tokio::sync::Mutex::new(receiver) }
    }

    fn add(&self, error: &DialError) {
        if !matches!(error.reply, ExitReply::NotAllowed | ExitReply::LimitReached) {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_DENIALS && told.insert(error.sentence.clone()) {
            let _ = self.sender.try_send(error.sentence.clone());
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.keeper.abort();
        if let State::Up(reached) = &*self.state.borrow() {
            reached.session.close();
        }
    }
}

impl Tunnel {
    /// Starts from a session that stands already, and makes others beside it until there are `circuits` of them.
    pub fn keep(way: Way, reached: Reached, circuits: usize) -> Arc<Tunnel> {
        let name = way.name.clone();
        let patience = if way.onion.is_some() { WAIT_OVER_TOR } else { WAIT_FOR_SESSION };
        let mut lanes = Vec::new();
        for _ in 1..circuits.clamp(1, MAX_CIRCUITS) {
            let (sender, state) = watch::channel(State::Connecting { attempt: 1, wait: 0, why: None });
            lanes.push(Lane { state, keeper: tokio::spawn(keep(way.clone(), None, sender)) });
        }
        let (sender, state) = watch::channel(State::Up(reached.clone()));
        lanes.insert(0, Lane { state, keeper: tokio::spawn(keep(way, Some(reached), sender)) });
        Arc::new(Tunnel { name, patience, lanes, next: AtomicUsize::new(0), denials: Denials::new(), known: Known::default() })
    }

    /// The state now and later.
    pub fn state(&self) -> watch::Receiver<State> {
        self.lanes[0].state.clone()
    }

    /// Tells what happens until the node refuses for good, which is the error this ends with.
    pub async fn follow(&self, tell: impl Fn(Change<'_>)) -> Error {
        let mut states = self.state();
        let mut denials = self.denials.receiver.lock().await;
        let mut lost: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { break },
                // The sender lives as long as this tunnel.
                Some(sentence) = denials.recv() => {
                    tell(Change::Denied(&sentence));
                    continue;
                }
            }
            let state = states.borrow_and_update().clone();
            match &state {
                State::Up(reached) => tell(Change::Back { reached, after: lost.take().map_or(Duration::ZERO, |lost| lost.elapsed()) }),
                State::Connecting { .. } | State::Refused(_) => {
                    lost.get_or_insert_with(Instant::now);
                    tell(Change::State(&state));
                }
            }
            if let State::Refused(refusal) = state {
                return refusal.to_error(&format!("exit `{}`", self.name));
            }
        }
        Error::new(Code::Failed, format!("exit `{}` is not kept any more", self.name)).hint("connect again")
    }

    /// Tells what [`Tunnel::follow`] had no time for.
    pub fn last_denials(&self, tell: impl Fn(&str)) {
        if let Ok(mut denials) = self.denials.receiver.try_lock() {
            while let Ok(sentence) = denials.try_recv() {
                tell(&sentence);
            }
        }
    }

    async fn reached(&self) -> Result<Reached, DialError> {
        tokio::time::timeout(self.patience, self.next_up()).await.unwrap_or_else(|_| Err(self.away()))
    }

    /// The next session in turn; if there is none, the first one that is made.
    async fn next_up(&self) -> Result<Reached, DialError> {
        loop {
            let mut states: Vec<_> = self.lanes.iter().map(|lane| lane.state.clone()).collect();
            states.iter_mut().for_each(|state| drop(state.borrow_and_update()));
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            let in_turn = (0..self.lanes.len()).map(|n| &self.lanes[(first + n) % self.lanes.len()]);
            if let Some(reached) = in_turn.clone().find_map(Lane::up) {
                return Ok(reached);
            }
            if let Some(refusal) = self.lanes.iter().find_map(Lane::refused) {
                let exit = format!("exit `{}`", self.name);
                let sentence = format!("{}; {}.", refusal.for_friend(&exit), refusal.remedy());
                return Err(DialError { reply: ExitReply::NotAllowed, sentence });
            }
            let changes = states.iter_mut().map(|state| Box::pin(state.changed()));
            if futures::future::select_all(changes).await.0.is_err() {
                return Err(self.away());
            }
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
                    "Exit `{name}` does not let guests go to {host}:{port}. Only its owner can allow it, by deploying a machine with --allow {host}:{port}"
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
    async fn dial(self: &Arc<Self>, host: &str, port: u16, early: &[u8], sure: bool) -> Result<Dialed, DialError> {
        self.open(host, port, early, sure).await.inspect_err(|error| self.denials.add(error))
    }
}

impl Tunnel {
    async fn open(self: &Arc<Self>, host: &str, port: u16, early: &[u8], sure: bool) -> Result<Dialed, DialError> {
        if host.is_empty() || host.len() > MAX_HOST {
            return Err(self.explain(ExitReply::HostUnreachable, "a name that is empty or has more than 255 characters", port));
        }
        let mut first = ExitRequest { host: host.to_owned(), port }.first_bytes();
        first.extend_from_slice(early);
        // A session may end between being chosen and being used: the next one gets one more chance.
        for _ in 0..2 {
            let reached = self.reached().await?;
            let Ok(mut stream) = reached.session.open(&first).await else { continue };
            let session = reached.welcome.session_id;
            if !sure && self.known.has(&session, host, port) {
                return Ok(Dialed { stream, answer: Some(self.clone().judge_later(session, host.to_owned(), port)) });
            }
            let reply = match tokio::time::timeout(WAIT_FOR_REPLY, stream.read_u8()).await {
                Ok(Ok(byte)) => ExitReply::from_byte(byte),
                Ok(Err(_)) if reached.session.is_closed() => return Err(self.away()),
                Ok(Err(_)) => ExitReply::Busy,
                Err(_) => ExitReply::HostUnreachable,
            };
            return self.judge(reply, &session, host, port).map(|()| Dialed { stream, answer: None });
        }
        Err(self.away())
    }

    /// Remembers what the node answered, and puts a no into words.
    fn judge(&self, reply: ExitReply, session: &[u8; 16], host: &str, port: u16) -> Result<(), DialError> {
        if reply == ExitReply::Open {
            self.known.add(session, host, port);
            return Ok(());
        }
        self.known.remove(host, port);
        Err(self.explain(reply, host, port))
    }

    /// The same for an answer that nobody waits for.
    fn judge_later(self: Arc<Self>, session: [u8; 16], host: String, port: u16) -> Answer {
        Box::new(move |byte| {
            self.judge(ExitReply::from_byte(byte), &session, &host, port).map_err(|error| {
                self.denials.add(&error);
                io::Error::new(io::ErrorKind::ConnectionReset, error.sentence)
            })
        })
    }
}

async fn keep(way: Way, mut reached: Option<Reached>, state: watch::Sender<State>) {
    let mut attempt = 0;
    loop {
        if let Some(reached) = reached {
            let begun = Instant::now();
            reached.session.closed().await;
            attempt = if begun.elapsed() >= GOOD_SESSION { 0 } else { attempt };
        }
        match again(&way, &state, &mut attempt).await {
            Ok(next) => {
                state.send_replace(State::Up(next.clone()));
                reached = Some(next);
            }
            Err(refusal) => {
                state.send_replace(State::Refused(refusal));
                return;
            }
        }
    }
}

/// Tries until a session stands, or until the node refuses for good.
async fn again(way: &Way, state: &watch::Sender<State>, attempt: &mut usize) -> Result<Reached, Refusal> {
    let mut why = Some("the session ended".to_owned());
    loop {
        *attempt += 1;
        // The first attempt is made at once: a node that was restarted answers already.
        let waits: &[u64] = if way.addresses.is_empty() { &GATE } else { &BACK_OFF };
        let wait = if *attempt == 1 { 0 } else { waits[(*attempt - 2).min(waits.len() - 1)] };
        tracing::info!(attempt, wait, why = why.as_deref(), "reconnecting");
        state.send_replace(State::Connecting { attempt: *attempt, wait, why: why.take() });
        tokio::time::sleep(Duration::from_secs(wait)).await;
        match way.reach().await {
            Ok(reached) => return Ok(reached),
            Err(Failure::Refused(refusal, _)) if !refusal.is_passing() => return Err(refusal),
            Err(failure) => {
                let error = failure.into_error();
                why = Some(error.causes().first().cloned().unwrap_or_else(|| error.to_string()));
            }
        }
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;

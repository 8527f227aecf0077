//! What all threads of a node share.

use super::config::Config;
use super::egress::{Policy, Rule};
use super::evidence::{Speaker, Witness};
use super::gate::Gate;
use super::log::Log;
use super::onion::Onion;
use super::rules::InForce;
use super::slots::Slots;
use crate::owner::ready::Ready;
use crate::session::Acceptor;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, watch};

/// How far the node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Serving.
    Running,
    /// Asked to end: no new connections, open streams have a moment.
    Stopping,
    /// The serving threads must return.
    Ending,
    /// All is written and closed.
    Ended,
}

/// Shared by the supervisor and the serving threads.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) fixed_owner: Option<[u8; 32]>,
    /// Whether its keys are its own; else it waits for the seed that its owner brings, and then begins anew.
    pub(super) has_seed: bool,
    pub(super) key: [u8; 32],
    pub(super) address: SocketAddr,
    pub(super) started: u64,
    pub(super) log: Log,
    pub(super) gate: Arc<Gate>,
    pub(super) acceptor: Acceptor,
    /// Connections whose handshake is under way.
    pub(super) handshakes: Arc<Slots>,
    /// Connections that will get no answer.
    pub(super) lingering: Arc<Slots>,
    /// Connections that got none, since the last line about them.
    pub(super) unanswered: AtomicU64,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) flush: Notify,
    /// Wakes whoever waits for an owner, also one who begins to wait later.
    pub(super) claimed: Notify,
    /// The onion service, if the node is one.
    pub(super) onion: Option<Onion>,
    /// What the hardware of this machine says.
    pub(super) witness: Arc<Witness>,
    start_over: AtomicBool,
    /// What the owner's policy says of destinations.
    pub(super) rules: InForce,
    policy: RwLock<Arc<Policy>>,
    streams: AtomicUsize,
    app_digest: OnceCell<[u8; 32]>,
}

/// An exit stream is counted while this lives.
pub(super) struct StreamCount(Arc<Core>);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What [`Core::new`] is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) fixed_owner: Option<[u8; 32]>,
    pub(super) has_seed: bool,
    pub(super) key: [u8; 32],
    pub(super) address: SocketAddr,
    pub(super) log: Log,
    pub(super) gate: Arc<Gate>,
    pub(super) acceptor: Acceptor,
    pub(super) policy: Policy,
    pub(super) rules: InForce,
    pub(super) onion: Option<Onion>,
    pub(super) witness: Arc<Witness>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let bounds = parts.config.limits;
        Core {
            handshakes: Slots::new(bounds.handshakes, bounds.handshakes_per_source),
            lingering: Slots::new(bounds.lingering, bounds.lingering_per_source),
            config: parts.config,
            fixed_owner: parts.fixed_owner,
            has_seed: parts.has_seed,
            key: parts.key,
            address: parts.address,
            started: crate::config::time::now_s(),
            log: parts.log,
            gate: parts.gate,
            acceptor: parts.acceptor,
            unanswered: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Running),
            flush: Notify::new(),
            claimed: Notify::new(),
            onion: parts.onion,
            witness: parts.witness,
            start_over: AtomicBool::new(false),
            rules: parts.rules,
            policy: RwLock::new(Arc::new(parts.policy)),
            streams: AtomicUsize::new(0),
            app_digest: OnceCell::new(),
        }
    }

    /// The policy in force.
    pub(super) fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the allow-list; streams that are open stay open.
    pub(super) fn set_allow(&self, rules: Vec<Rule>) {
        let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        *policy = Arc::new(policy.with_allow(rules));
    }

    /// Exit streams open now.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Counts a stream; `None` if the node is full or stopping.
    pub(super) fn count_stream(self: &Arc<Self>) -> Option<StreamCount> {
        if self.gate.is_draining() {
            return None;
        }
        let max = self.config.limits.streams;
        self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).ok()?;
        Some(StreamCount(self.clone()))
    }

    /// Asks for usage to be written soon.
    pub(super) fn wake_flush(&self) {
        self.flush.notify_one();
    }

    /// Takes no more guests and streams, and ends the node when the last stream has ended.
    pub(super) fn drain(self: &Arc<Self>) {
        self.gate.drain();
        let core = self.clone();
        tokio::spawn(async move {
            // At least once around: the answer to the owner has to leave.
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if core.streams() == 0 {
                    return core.stop();
                }
            }
        });
    }

    /// Ends the node so that another one begins in its place, with what this one has written down.
    pub(super) fn start_over(&self) {
        self.start_over.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Whether another one is to begin after this one has ended.
    pub(super) fn starts_over(&self) -> bool {
        self.start_over.load(Ordering::Relaxed)
    }

    /// Ends the node.
    pub(super) fn stop(&self) {
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            if first {
                *phase = Phase::Stopping;
            }
            first
        });
    }

    /// Waits until the node has come this far.
    pub(super) async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.subscribe();
        let _ = watch.wait_for(|now| *now >= phase).await;
    }

    /// How it is, for the control socket.
    pub(super) fn ready(&self) -> Ready {
        let mut ready = Ready::new(self.address, &self.key, self.config.label.as_str());
        ready.claimed = self.gate.owner().is_some();
        ready.sessions = self.gate.sessions();
        ready.draining = self.gate.is_draining();
        ready.onion = self.onion.as_ref().map(Onion::status);
        ready
    }

    /// What its evidence says of it.
    pub(super) async fn speaker(&self) -> Speaker {
        Speaker { node: self.key, app_digest: self.app_digest().await, seed: self.config.seed_source() }
    }

    /// SHA-256 of the running program, worked out when first asked for.
    pub(super) async fn app_digest(&self) -> [u8; 32] {
        let work = || async { tokio::task::spawn_blocking(hash_program).await.unwrap_or_default() };
        *self.app_digest.get_or_init(work).await
    }
}

fn hash_program() -> [u8; 32] {
    use sha2::Digest;
    let mut hasher = sha2::Sha256::new();
    // The kernel's link to the very file that runs, also after it was replaced.
    match std::fs::File::open("/proc/self/exe").and_then(|mut file| std::io::copy(&mut file, &mut hasher)) {
        Ok(_) => hasher.finalize().into(),
        Err(_) => [0; 32],
    }
}

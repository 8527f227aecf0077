//! The node as an onion service: hosts it, serves who comes over it, and knows whether it can really be reached.
//!
//! "Ready" rests on a connection that this node made to itself through the network, over circuits that nothing else uses,
//! and that ended at its own key. What Arti says of descriptor and introduction points can only hold that back.

use super::core::{Core, Phase};
use super::serve::{Source, connection};
use crate::config::time::now_s;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring::{Purpose, Seed, x25519_public};
use crate::resolve::{Resolver, Sources};
use crate::session::messages::{OnionState, OnionStatus};
use crate::session::{ConnectError, Hello, connect};
use crate::tor::{Arrival, DiscoveryKey, Facts, Hosting, NOT_PUBLISHED, Places, Role, Service, Settings, Stage, Tor, onion_address};
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

/// Threads for circuits: their cryptography is what a node over Tor is busy with.
const THREADS: usize = 2;
/// Time for the node's connection to itself.
const TEST_PATIENCE: Duration = Duration::from_secs(25);
/// How soon after a failed test comes the next; a friend's patience is counted in such times.
const TEST_AGAIN: Duration = Duration::from_secs(5);
/// How often one that lacks something is tested.
const TEST_DEGRADED: Duration = Duration::from_secs(20);
/// How often a service that nothing has happened to is tested.
const TEST_EVERY: Duration = Duration::from_secs(5 * 60);
/// The same for so long after it was launched or was not well: trouble seldom comes alone.
const TEST_OFTEN: Duration = Duration::from_secs(25);
const CONVALESCENCE: Duration = Duration::from_secs(10 * 60);
/// How long a service may take until it is reached for the first time.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long a service may be out of reach before Tor is started anew: at first, and after each start that did not help. A new one
/// needs time of its own to learn which relays there are.
const LOST_PATIENCE: [Duration; 4] = [Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(90)];
/// The same while there are sessions; those whose circuit is dead look alive for 40 s.
const LOST_IN_USE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a descriptor may take to be found everywhere after it was handed out.
const PUBLISHED_BY: Duration = Duration::from_secs(10);
/// After so long a run of a service that is not tested the waits between attempts begin anew.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(300);
/// Waits between attempts to join the network or to launch the service; the last one repeats.
const AGAIN: [u64; 4] = [1, 5, 10, 20];
/// Introduction points below which the service counts as degraded.
const POINTS: usize = 3;
/// The key under which the node finds its own restricted service.
const SELF: &str = "self";

/// What other parts of the node see of its onion service.
pub(super) struct Onion {
    key: Zeroizing<[u8; 32]>,
    restricted_key: Zeroizing<[u8; 32]>,
    /// With which the node visits itself: X25519, new for each start.
    tester: Zeroizing<[u8; 32]>,
    tester_public: [u8; 32],
    own_discovery: Zeroizing<[u8; 32]>,
    discovery: watch::Sender<Vec<[u8; 32]>>,
    status: watch::Sender<OnionStatus>,
    clients: Arc<AtomicU64>,
    circuits: Arc<AtomicUsize>,
    /// Whether the owner wants it.
    up: watch::Sender<bool>,
}

/// A session over Tor is counted while this lives.
pub(super) struct ClientCount(Arc<AtomicU64>);

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Onion {
    /// Derives everything from the node's seed; nothing is started.
    pub(super) fn new(seed: &Seed, discovery: Vec<[u8; 32]>, up: bool) -> Onion {
        let (key, restricted_key) = (seed.derive(Purpose::NodeOnion), seed.derive(Purpose::NodeOnionRestricted));
        let mut tester = Zeroizing::new([0; 32]);
        // Without randomness there is no key, and without a key no test: the service never counts as ready.
        let _ = getrandom::fill(&mut *tester);
        let status = OnionStatus::new(onion_address(&key), onion_address(&restricted_key));
        Onion {
            key,
            restricted_key,
            tester_public: x25519_public(&tester),
            tester,
            own_discovery: seed.derive(Purpose::NodeDiscovery),
            discovery: watch::Sender::new(discovery),
            status: watch::Sender::new(status),
            clients: Arc::default(),
            circuits: Arc::default(),
            up: watch::Sender::new(up),
        }
    }

    /// How it is.
    pub(super) fn status(&self) -> OnionStatus {
        let mut status = self.status.borrow().clone();
        status.clients = self.clients.load(Ordering::Relaxed);
        status.circuits = self.circuits.load(Ordering::Relaxed) as u64;
        status.discovery_keys = self.discovery.borrow().len() as u64;
        status
    }

    /// Switches it on or off.
    pub(super) fn set_up(&self, up: bool) {
        self.up.send_if_modified(|now| std::mem::replace(now, up) != up);
    }

    /// Waits until friends can come over it, or are not meant to.
    pub(super) async fn settled(&self) {
        let (mut status, mut up) = (self.status.subscribe(), self.up.subscribe());
        tokio::select! {
            _ = status.wait_for(|status| status.state.is_reachable()) => {}
            _ = up.wait_for(|up| !up) => {}
        }
    }

    /// Replaces the keys that may discover the restricted service.
    pub(super) fn set_discovery(&self, keys: Vec<[u8; 32]>) {
        self.discovery.send_if_modified(|now| {
            let changed = *now != keys;
            *now = keys;
            changed
        });
    }

    /// Whether this client is the node itself.
    pub(super) fn is_self_test(&self, client: &[u8; 32]) -> bool {
        *client == self.tester_public
    }

    /// Counts a session that came over Tor.
    pub(super) fn count_client(&self) -> ClientCount {
        self.clients.fetch_add(1, Ordering::Relaxed);
        ClientCount(self.clients.clone())
    }

    fn keys(&self) -> Vec<DiscoveryKey> {
        let own = (SELF.to_owned(), x25519_public(&self.own_discovery));
        let friends = self.discovery.borrow().iter().enumerate().map(|(n, key)| (format!("k{n}"), *key)).collect::<Vec<_>>();
        std::iter::once(own).chain(friends).collect()
    }
}

/// Starts the thread of the onion service, if the node is to be one; it ends with the node.
pub(super) fn start(core: &Arc<Core>, sources: &Sources) -> Result<Option<JoinHandle<()>>> {
    if core.onion.is_none() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("node-tor").enable_all().build();
    let runtime = runtime.doing("start", "the node's Tor runtime")?;
    let (core, sources) = (core.clone(), sources.clone());
    let work = move || {
        let resolver = Arc::new(Resolver::new(sources));
        runtime.block_on(async {
            tokio::select! {
                () = keep_while_wanted(&core, &resolver) => {}
                () = core.reached(Phase::Ending) => {}
            }
        });
        runtime.shutdown_timeout(Duration::from_millis(100));
    };
    std::thread::Builder::new().name("node-onion".to_owned()).spawn(work).map(Some).doing("start", "a thread of the node")
}

/// Keeps the service going for as long as the owner wants it; while it is off, nothing of Tor runs.
async fn keep_while_wanted(core: &Arc<Core>, resolver: &Arc<Resolver>) {
    let (Some(onion), Some(config)) = (&core.onion, &core.config.tor) else { return };
    let settings = Settings { file: config.config_file.clone(), bridges: config.bridges.clone() };
    let tor = Tor::new(Places::within(&core.config.state_dir.join("tor")), settings, Role::Host);
    let mut up = onion.up.subscribe();
    loop {
        if !*up.borrow_and_update() {
            note(core, onion, OnionState::Unreachable, Some("the owner has switched it off".to_owned()));
            tor.start_over().await;
            let _ = up.wait_for(|up| *up).await;
            note(core, onion, OnionState::Joining, None);
        }
        tokio::select! {
            () = keep(core, onion, &tor, resolver, config.self_test) => return,
            _ = up.wait_for(|up| !up) => {}
        }
    }
}

/// Hosts it; what fails is tried again for as long as the node runs.
async fn keep(core: &Arc<Core>, onion: &Onion, tor: &Arc<Tor>, resolver: &Arc<Resolver>, self_test: bool) {
    let mut attempt = 0;
    loop {
        let (begun, since) = (Instant::now(), now_s());
        let error = host(core, onion, tor, resolver, LOST_PATIENCE[attempt]).await;
        let was_well = match self_test {
            true => onion.status.borrow().tested_at.is_some_and(|at| at >= since),
            false => begun.elapsed() > GOOD_RUN,
        };
        attempt = if was_well { 0 } else { (attempt + 1).min(AGAIN.len() - 1) };
        core.log.event("onion.failed").with("error", error.message()).with("causes", error.causes().join("; ")).write();
        note(core, onion, OnionState::Unreachable, Some(sentence(&error)));
        tor.start_over().await;
        sleep(Duration::from_secs(AGAIN[attempt])).await;
    }
}

fn sentence(error: &Error) -> String {
    match error.causes().first() {
        Some(cause) => format!("{}: {cause}", error.message()),
        None => error.message().to_owned(),
    }
}

/// Changes the state, and says so in the log when it is another one.
fn note(core: &Core, onion: &Onion, state: OnionState, reason: Option<String>) {
    let changed = onion.status.send_if_modified(|status| {
        let changed = status.state != state || status.reason != reason;
        (status.state, status.reason) = (state, reason.clone());
        changed
    });
    if changed {
        let line = core.log.event("onion").with("state", state.as_str());
        match reason {
            Some(reason) => line.with("reason", reason).write(),
            None => line.write(),
        }
    }
}

/// Joins the network, launches the service and serves until the network fails. A service whose descriptor was lost by the
/// directories is launched again, which publishes it; sessions that stand are not touched by that.
async fn host(core: &Arc<Core>, onion: &Onion, tor: &Arc<Tor>, resolver: &Arc<Resolver>, patience: Duration) -> Error {
    if let Err(error) = join(core, onion, tor).await {
        return error;
    }
    let state = onion.status.borrow().state;
    if state == OnionState::Joining {
        note(core, onion, OnionState::Publishing, Some("looking for introduction points".to_owned()));
    }
    loop {
        let hosting = Hosting { key: &onion.key, restricted_to: None, circuits: onion.circuits.clone() };
        let (service, arrivals) = match Service::host(tor, hosting).await {
            Ok(hosted) => hosted,
            Err(error) => return error,
        };
        let lost = tokio::select! {
            () = serve(core, resolver, arrivals) => Lost::Network(Error::new(Code::Failed, "the onion service has ended")),
            lost = watch_over(core, onion, tor, &service, patience) => lost,
            failed = host_restricted(core, onion, tor, resolver) => Lost::Network(failed),
        };
        match lost {
            Lost::Network(error) => return error,
            Lost::Descriptor => core.log.event("onion.published-again").write(),
        }
    }
}

/// Why a service must be launched again.
enum Lost {
    /// Directories that took the descriptor do not have it any more.
    Descriptor,
    /// There is no way in or out.
    Network(Error),
}

/// Joins the network and shows how far it is.
async fn join(core: &Core, onion: &Onion, tor: &Tor) -> Result<()> {
    let mut stage = tor.stage();
    let show = async {
        loop {
            let now = *stage.borrow_and_update();
            if let Stage::Joining { percent, .. } = now {
                onion.status.send_modify(|status| status.percent = percent.into());
                note(core, onion, OnionState::Joining, Some(now.waits_for().to_owned()));
            }
            if stage.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        joined = tor.join() => joined?,
        never = show => never,
    }
    onion.status.send_modify(|status| status.percent = 100);
    Ok(())
}

/// Hands every arrival to a task of its own.
async fn serve(core: &Arc<Core>, resolver: &Arc<Resolver>, mut arrivals: mpsc::Receiver<Arrival>) {
    while let Some(arrival) = arrivals.recv().await {
        let slot = core.handshakes.enter(Source::Tor.ip());
        let number = slot.number();
        let task = tokio::spawn(connection(core.clone(), resolver.clone(), arrival, Source::Tor, slot));
        core.handshakes.arm(number, task.abort_handle());
    }
}

/// Hosts the restricted service from the first key on that may discover it.
async fn host_restricted(core: &Arc<Core>, onion: &Onion, tor: &Arc<Tor>, resolver: &Arc<Resolver>) -> Error {
    let mut discovery = onion.discovery.subscribe();
    if discovery.wait_for(|keys| !keys.is_empty()).await.is_err() {
        return std::future::pending().await;
    }
    let keys = onion.keys();
    let hosted =
        Service::host(tor, Hosting { key: &onion.restricted_key, restricted_to: Some(&keys), circuits: onion.circuits.clone() }).await;
    let (service, arrivals) = match hosted {
        Ok(hosted) => hosted,
        Err(error) => return error,
    };
    let update = async {
        while discovery.changed().await.is_ok() {
            if let Err(error) = service.restrict_to(&onion.keys()) {
                return error;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = serve(core, resolver, arrivals) => Error::new(Code::Failed, "the restricted onion service has ended"),
        error = update => error,
    }
}

/// Judges the service for as long as it runs: at once when something changes, often while it is not well, now and then
/// when nothing happens.
///
/// Ends when the service is lost.
async fn watch_over(core: &Arc<Core>, onion: &Onion, tor: &Tor, service: &Service, patience: Duration) -> Lost {
    let launched = Instant::now();
    let mut trouble = launched;
    let mut lost: Option<Instant> = None;
    let mut facts = service.facts();
    let mut changes = service.changes();
    loop {
        let seen = facts.borrow_and_update().clone();
        count(onion, &seen);
        let verdict = judge(core, onion, tor, service, &seen).await;
        let state = verdict.state;
        let well = state == OnionState::Ready;
        if !well {
            trouble = Instant::now();
        }
        if verdict.unpublished && launched.elapsed() > PUBLISHED_BY {
            return Lost::Descriptor;
        }
        if state.is_reachable() {
            lost = None;
        } else {
            // Starting Tor anew ends every circuit: not at once while somebody may still use one.
            let in_use = seen.introduction_points > 0 && onion.clients.load(Ordering::Relaxed) > 0;
            let patience = match state {
                OnionState::Publishing => START_PATIENCE,
                _ if in_use => patience.max(LOST_IN_USE_PATIENCE),
                _ => patience,
            };
            if lost.get_or_insert_with(Instant::now).elapsed() > patience {
                let reason = verdict.reason.unwrap_or_else(|| "the onion service is lost".to_owned());
                return Lost::Network(Error::new(Code::Unreachable, reason));
            }
        }
        let mut next = std::pin::pin!(sleep(match state {
            OnionState::Ready if trouble.elapsed() < CONVALESCENCE => TEST_OFTEN,
            OnionState::Ready => TEST_EVERY,
            OnionState::Degraded => TEST_DEGRADED,
            _ => TEST_AGAIN,
        }));
        // Uploads come by the dozen; they matter to a service that is well only when they leave it worse.
        loop {
            tokio::select! {
                () = &mut next => break,
                _ = facts.changed() => sleep(SETTLE).await,
                Some(()) = changes.next() => {}
            }
            let now = facts.borrow().clone();
            count(onion, &now);
            let worse = now.introduction_points < seen.introduction_points || shortfall(service, &now).is_some();
            if !well || worse {
                break;
            }
        }
    }
}

/// Copies what can be counted into the status.
fn count(onion: &Onion, facts: &Facts) {
    onion.status.send_modify(|status| {
        status.directories = facts.wanted.len() as u64;
        status.directories_reached = facts.uploaded.len() as u64;
        status.uploaded_at = facts.uploaded_at;
        status.introduction_points = facts.introduction_points as u64;
    });
}

/// What makes a test pointless: nobody could come.
fn shortfall(service: &Service, facts: &Facts) -> Option<String> {
    if facts.introduction_points == 0 {
        return Some("no introduction point holds".to_owned());
    }
    let enough = facts.wanted.len().div_ceil(2).max(1);
    if facts.uploaded.len() < enough {
        return Some(format!("{} of {} directories have its descriptor", facts.uploaded.len(), facts.wanted.len()));
    }
    service.complaint().map(str::to_owned)
}

/// How the service was found.
struct Verdict {
    state: OnionState,
    reason: Option<String>,
    /// The directories say that they do not know it.
    unpublished: bool,
}

/// Finds out how the service is, and notes it.
async fn judge(core: &Core, onion: &Onion, tor: &Tor, service: &Service, facts: &Facts) -> Verdict {
    let verdict = find_out(core, onion, tor, service, facts).await;
    note(core, onion, verdict.state, verdict.reason.clone());
    verdict
}

async fn find_out(core: &Core, onion: &Onion, tor: &Tor, service: &Service, facts: &Facts) -> Verdict {
    let was = onion.status.borrow().state;
    // Before it was ever reached it is on its way; afterwards it has been lost.
    let not_yet =
        if matches!(was, OnionState::Joining | OnionState::Publishing) { OnionState::Publishing } else { OnionState::Unreachable };
    let bad = |reason: String, unpublished| Verdict { state: not_yet, reason: Some(reason), unpublished };
    if let Some(reason) = shortfall(service, facts) {
        return bad(reason, false);
    }
    if core.config.tor.as_ref().is_some_and(|tor| tor.self_test) {
        // One way in may be luck while relays come and go: a service that was lost has to be found twice.
        let was_lost = !was.is_reachable() && onion.status.borrow().tested_at.is_some();
        let times = if was_lost { 2 } else { 1 };
        for _ in 0..times {
            if let Err(error) = test(core, onion, tor).await {
                return bad(sentence(&error), error.message() == NOT_PUBLISHED);
            }
        }
        onion.status.send_modify(|status| status.tested_at = Some(now_s()));
    }
    let missing = facts.introduction_points < POINTS;
    let state = if missing { OnionState::Degraded } else { OnionState::Ready };
    let reason = missing.then(|| format!("{} of {POINTS} introduction points hold", facts.introduction_points));
    Verdict { state, reason, unpublished: false }
}

/// Visits the node's own session port through the network.
async fn test(core: &Core, onion: &Onion, tor: &Tor) -> Result<()> {
    let address = onion_address(&onion.key);
    let visit = async {
        let stream = tor.connect(&address, None).await?;
        let hello = Hello { grant: Vec::new(), bind: None, version: env!("CARGO_PKG_VERSION").to_owned() };
        match connect(stream, &onion.tester, &core.key, hello, now_s()).await {
            // The key that answered is ours, so the way ends here.
            Err(ConnectError::Refused { .. }) => Ok(()),
            Ok(_) | Err(_) => Err(Error::new(Code::Unreachable, "the session port did not answer through the network")),
        }
    };
    let too_long = || Error::new(Code::TimedOut, "a test connection through the network took too long");
    timeout(TEST_PATIENCE, visit).await.unwrap_or_else(|_| Err(too_long()))
}

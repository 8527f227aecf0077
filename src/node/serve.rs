//! The node's port and its threads: one accepts, one for each processor serves.
//!
//! Each serving thread has a runtime of its own, so a session never moves between processors. Whoever connects waits in a
//! bounded set until the handshake is done; strangers get no answer, only a closed connection after a while.

use super::config::Config;
use super::core::{Core, Parts, Phase};
use super::egress::Policy;
use super::evidence::Witness;
use super::gate::Gate;
use super::log::Log;
use super::onion::{self, Onion};
use super::rules::InForce;
use super::slots::Slot;
use super::state::State;
use super::{claim, guest};
use crate::config::time::now_s;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring::{Purpose, x25519_public};
use crate::owner::ready::{Ready, Socket};
use crate::resolve::{Resolver, Sources};
use crate::session::{AcceptError, Acceptor, BoxedIo, Incoming, Io, ReplayGuard, Request, Welcome, linger};
use crate::token::{Role, Way};
use crate::trust::Refusal;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

/// The kernel's queue: a burst of connections must not meet one-second SYN retransmissions.
const BACKLOG: i32 = 4096;
/// Threads of one runtime that may wait for the disk.
const BLOCKING: usize = 8;
/// Connections that wait for a serving thread.
const QUEUE: usize = 1024;
/// How often usage is written and strangers are counted.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
const FLUSH_GAP: Duration = Duration::from_millis(200);
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// What open streams get when the node ends, out of the second that it may take.
const FAREWELL: Duration = Duration::from_millis(600);

/// A node that runs in this process, on threads of its own.
pub struct Node {
    core: Arc<Core>,
    supervisor: Option<JoinHandle<()>>,
}

/// A connection on its way to a serving thread.
type Arrival = (std::net::TcpStream, SocketAddr, Slot);

impl Node {
    /// Opens the state folder and the port; returns when connections are accepted.
    pub fn start(config: Config, log: Log) -> Result<Node> {
        Self::start_on(config, log, Witness::none())
    }

    /// As [`Node::start`], on a machine whose hardware can speak for it.
    pub fn start_on(config: Config, log: Log, witness: Arc<Witness>) -> Result<Node> {
        let sources = Sources::system(config.name_servers.clone());
        Self::start_with(config, log, &sources, witness)
    }

    /// The same, with names from somewhere else than the system's files.
    pub fn start_with(config: Config, log: Log, sources: &Sources, witness: Arc<Witness>) -> Result<Node> {
        config.check()?;
        raise_descriptor_limit();
        let state = State::open_with(&config.state_dir, config.first_seed()?.as_ref())?;
        let seed = state.seed()?;
        let secret = seed.derive(Purpose::NodeNoise);
        let key = x25519_public(&secret);
        let replay = ReplayGuard::open(&config.state_dir.join("replay"), now_s())?;
        let acceptor = Acceptor::new(&secret, config.bootstrap_cover()?, replay);
        let snapshot = state.snapshot()?;
        let rules = InForce::remembered(snapshot.rules.as_deref(), snapshot.owner)?;
        let allow = match snapshot.allow {
            Some(texts) => super::egress::Rule::parse_list(&texts)?,
            None => config.rules()?,
        };
        let gate = Arc::new(Gate::new(state, key, config.limits.sessions, log.clone())?);
        let listener = listen(config.listen)?;
        let address = listener.local_addr().doing("listen at", config.listen)?;
        let socket = Socket::bind(&config.state_dir)?;
        let policy = Policy::new(allow, vec![address]);
        let fixed_owner = config.owner_key()?;
        let discovery = gate.state().discovery(now_s())?;
        // Without the seed that the owner brings there is no address to publish.
        let has_seed = !config.seed_from_owner || gate.owner().is_some();
        let onion = config.tor.as_ref().filter(|_| has_seed).map(|_| Onion::new(&seed, discovery, !gate.switches().tor.off));
        let core =
            Arc::new(Core::new(Parts { config, fixed_owner, has_seed, key, address, log, gate, acceptor, policy, rules, onion, witness }));
        let shards = Shards::start(&core, sources)?;
        let onion = onion::start(&core, sources)?;
        let supervisor = {
            let core = core.clone();
            let runtime = runtime()?;
            let door = Door::open(&core, listener, shards.queues.clone())?;
            spawn("node", move || {
                runtime.block_on(supervise(&core, door, &socket));
                drop(socket);
                shards.join();
                if let Some(onion) = onion {
                    let _ = onion.join();
                }
                finish(&core);
            })?
        };
        Ok(Node { core, supervisor: Some(supervisor) })
    }

    /// What is said once it is ready.
    pub fn ready(&self) -> Ready {
        self.core.ready()
    }

    /// Waits until friends can come by every way that the node offers: at once by TCP, over Tor when the way was tried.
    pub async fn reachable(&self) {
        if let Some(onion) = &self.core.onion {
            onion.settled().await;
        }
    }

    /// Waits until somebody has claimed it, who had not before it began.
    pub async fn claimed(&self) {
        self.core.claimed.notified().await;
    }

    /// The address it really listens at.
    pub fn address(&self) -> SocketAddr {
        self.core.address
    }

    /// The node's Noise key.
    pub fn key(&self) -> [u8; 32] {
        self.core.key
    }

    /// Its log, as the owner reads it through the control stream.
    pub fn log(&self) -> &Log {
        &self.core.log
    }

    /// Asks it to end; [`Node::ended`] says when it has.
    pub fn request_stop(&self) {
        self.core.stop();
    }

    /// Whether it ended so that another one begins in its place: the owner has brought its seed.
    pub fn starts_over(&self) -> bool {
        self.core.starts_over()
    }

    /// Waits until it has ended, for whatever reason.
    pub async fn ended(&self) {
        self.core.reached(Phase::Ended).await;
    }

    /// Ends it, within a second, and waits for that.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.core.stop();
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

fn runtime() -> Result<Runtime> {
    // The disk is written by one at a time; more threads that wait for it would only hold memory.
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING).build().doing("start", "the node's runtime")
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).doing("start", "a thread of the node")
}

/// As many descriptors as we may have: each session needs one, each stream another.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        // The library's queue is 128 long; asking again makes it longer.
        rustix::net::listen(&listener, BACKLOG)?;
        // Accepted connections inherit it.
        rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
        Ok(listener)
    };
    open().map_err(|error: io::Error| {
        let (code, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => (Code::Precondition, "choose another port in `listen`, or end the program that uses this one"),
            io::ErrorKind::PermissionDenied => (Code::Precondition, "choose a port above 1023 in `listen`"),
            _ => (Code::Io, "check the address in `listen`"),
        };
        Error::new(code, format!("cannot listen at {address}")).cause(error).hint(hint)
    })
}

/// The port, and the thread that takes connections from it, until dropped.
struct Door {
    listener: Arc<std::net::TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(core: &Arc<Core>, listener: std::net::TcpListener, queues: Vec<mpsc::Sender<Arrival>>) -> Result<Self> {
        let listener = Arc::new(listener);
        let (core, port) = (core.clone(), listener.clone());
        let thread = spawn("node-accept", move || accept(&core, &port, &queues))?;
        Ok(Door { listener, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Whoever waits in accept() is told that there is nothing to wait for.
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The serving threads.
struct Shards {
    queues: Vec<mpsc::Sender<Arrival>>,
    threads: Vec<JoinHandle<()>>,
}

impl Shards {
    fn start(core: &Arc<Core>, sources: &Sources) -> Result<Self> {
        let wanted = core.config.limits.threads;
        let count = if wanted > 0 { wanted } else { std::thread::available_parallelism().map_or(1, usize::from) };
        let mut shards = Shards { queues: Vec::new(), threads: Vec::new() };
        for n in 0..count {
            let (queue, arrivals) = mpsc::channel(QUEUE);
            let runtime = runtime()?;
            let (core, sources) = (core.clone(), sources.clone());
            shards.threads.push(spawn(&format!("node-{n}"), move || {
                runtime.block_on(shard(core, Arc::new(Resolver::new(sources)), arrivals));
                runtime.shutdown_timeout(Duration::from_millis(100));
            })?);
            shards.queues.push(queue);
        }
        Ok(shards)
    }

    fn join(self) {
        drop(self.queues);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

async fn shard(core: Arc<Core>, resolver: Arc<Resolver>, mut arrivals: mpsc::Receiver<Arrival>) {
    let mut ending = std::pin::pin!(core.reached(Phase::Ending));
    loop {
        let (tcp, peer, slot) = tokio::select! {
            arrival = arrivals.recv() => match arrival {
                Some(arrival) => arrival,
                None => break,
            },
            () = &mut ending => break,
        };
        let number = slot.number();
        let Ok(tcp) = TcpStream::from_std(tcp) else { continue };
        let task = tokio::spawn(connection(core.clone(), resolver.clone(), tcp, Source::Direct(peer.ip()), slot));
        core.handshakes.arm(number, task.abort_handle());
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// TCP from this address.
    Direct(IpAddr),
    /// The onion service; nobody knows from where.
    Tor,
}

impl Source {
    /// Whom it is counted for. All who come over Tor share one budget.
    pub(super) fn ip(self) -> IpAddr {
        match self {
            Source::Direct(ip) => ip,
            Source::Tor => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn way(self) -> Way {
        match self {
            Source::Direct(_) => Way::Direct,
            Source::Tor => Way::Tor,
        }
    }
}

/// Serves one connection, whatever it comes over, from its first byte to its last.
pub(super) async fn connection(core: Arc<Core>, resolver: Arc<Resolver>, io: impl Io, source: Source, slot: Slot) {
    match core.acceptor.accept(io, now_s()).await {
        Ok(Incoming::Session(request)) => session(core, resolver, *request, source, slot).await,
        Ok(Incoming::Bootstrap(pipe)) => {
            let _ = claim::serve(&core, *pipe).await;
        }
        Err((error, io)) => {
            core.unanswered.fetch_add(1, Ordering::Relaxed);
            if matches!(error, AcceptError::Clock) {
                // Somebody with an invite: the owner can tell them what is wrong.
                core.log.event("session.unanswered").with("reason", "clock").write();
            }
            // The place is free again for somebody who knows what to say.
            drop(slot);
            if !matches!(error, AcceptError::Io(_)) {
                hold(&core, io, source.ip());
            }
        }
    }
}

/// Keeps a stranger waiting in silence. Among too many the one who has waited longest goes: whoever knocks as fast as it can
/// thus waits, too, and takes less of the processors than if it were sent away at once.
fn hold(core: &Core, io: BoxedIo, ip: IpAddr) {
    let place = core.lingering.enter(ip);
    let number = place.number();
    let task = tokio::spawn(async move {
        let _place = place;
        linger(io).await;
    });
    core.lingering.arm(number, task.abort_handle());
}

async fn session(core: Arc<Core>, resolver: Arc<Resolver>, request: Request, source: Source, slot: Slot) {
    if core.onion.as_ref().is_some_and(|onion| onion.is_self_test(&request.client)) {
        // The answer alone shows that the way through the network ends here.
        let _ = request.refuse(Refusal::UnknownKey, "self-test").await;
        return;
    }
    match core.gate.admit(request.client, &request.hello, source.way(), now_s()).await {
        Err(refusal) => {
            core.gate.history().turned_away(refusal.as_str(), now_s());
            let _ = request.refuse(refusal, &refusal.for_friend("this exit")).await;
        }
        Ok(admitted) => {
            let mut session_id = [0; 16];
            if getrandom::fill(&mut session_id).is_err() {
                return;
            }
            let welcome = Welcome { session_id, limits: admitted.limits, expires: admitted.expires };
            let Ok(session) = request.welcome(welcome).await else { return };
            drop(slot);
            if admitted.role == Role::Exit {
                core.gate.history().began(&admitted.grant, now_s());
            }
            let _counted = core.onion.as_ref().filter(|_| source == Source::Tor).map(Onion::count_client);
            guest::serve(&core, resolver, admitted, session, source.way()).await;
        }
    }
}

/// Runs on the node's first thread until the node ends.
async fn supervise(core: &Arc<Core>, door: Door, socket: &Socket) {
    tokio::select! {
        () = answer_socket(core, socket) => {}
        () = write_usage(core) => {}
        () = report(core) => {}
        () = core.reached(Phase::Stopping) => {}
    }
    drop(door);
    core.gate.drain();
    let _ = timeout(FAREWELL, async {
        while core.streams() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    core.gate.close_all("node-stopping");
    // A moment for the farewells to leave.
    sleep(Duration::from_millis(30)).await;
    core.phase.send_replace(Phase::Ending);
}

fn finish(core: &Core) {
    if let Err(error) = core.gate.flush(now_s()) {
        core.log.event("storage.failed").with("error", error.message()).write();
    }
    core.log.event("stopped").write();
    core.phase.send_replace(Phase::Ended);
}

/// Takes connections until the port is shut. On a thread that waits in the kernel: in an event loop each connection would
/// be registered and taken out again before it goes where it will live.
fn accept(core: &Core, listener: &std::net::TcpListener, queues: &[mpsc::Sender<Arrival>]) {
    for turn in (0..queues.len()).cycle() {
        let (tcp, peer) = match accept_one(listener) {
            Ok(arrived) => arrived,
            Err(Errno::INVAL) => return,
            Err(Errno::CONNABORTED | Errno::INTR) => continue,
            Err(_) => {
                // Out of descriptors or memory.
                core.handshakes.evict_oldest();
                core.lingering.evict_oldest();
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let slot = core.handshakes.enter(peer.ip());
        // A full queue waits in the kernel's, which is longer.
        if queues[turn].blocking_send((tcp, peer, slot)).is_err() {
            return;
        }
    }
}

fn accept_one(listener: &std::net::TcpListener) -> Result<(std::net::TcpStream, SocketAddr), Errno> {
    let (tcp, peer) = rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::CONNABORTED)?;
    Ok((tcp.into(), peer))
}

/// Answers the machine that the node runs on; the folder's mode says who may ask.
async fn answer_socket(core: &Core, socket: &Socket) {
    let Ok(listener) = socket.listener().and_then(UnixListener::from_std) else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let mut line = serde_json::to_vec(&core.ready()).unwrap_or_default();
                line.push(b'\n');
                let _ = timeout(Duration::from_secs(1), stream.write_all(&line)).await;
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn write_usage(core: &Arc<Core>) {
    loop {
        let _ = timeout(FLUSH_EVERY, core.flush.notified()).await;
        let gate = core.gate.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || gate.flush(now_s())).await {
            core.log.event("storage.failed").with("error", error.message()).with("causes", error.causes().join("; ")).write();
            sleep(FLUSH_EVERY).await;
        }
        // Sessions that end together are written together.
        sleep(FLUSH_GAP).await;
    }
}

async fn report(core: &Core) {
    let mut beat = interval(REPORT_EVERY);
    loop {
        beat.tick().await;
        let count = core.unanswered.swap(0, Ordering::Relaxed);
        if count > 0 {
            core.log.event("connections.unanswered").with("count", count).write();
        }
    }
}

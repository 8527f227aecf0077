//! A laboratory of network namespaces: one for the machine under test, one for its neighbours, cables between them.
//! Needs root, and Debian's iproute2, dnsmasq-base and radvd. Everything is gone when the test ends, however it ends.

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Decodable, Encodable};
use portdistrict::node::init::net::{Net, Options, Summary};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use std::fmt::Debug;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// Everything is waited for this long; on a busy machine the kernel alone may take seconds over an IPv6 address.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The neighbour's address on the first cable, and one that is only behind it.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Two namespaces, and the programs that run in the second.
pub(crate) struct Lab {
    /// Of the machine under test.
    pub(crate) ours: String,
    /// Of the neighbours.
    pub(crate) theirs: String,
    /// For files.
    pub(crate) folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Lab {
    /// Without cables yet.
    pub(crate) fn new() -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pd{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { ours: format!("{name}a"), theirs: format!("{name}b"), folder: tempfile::tempdir().unwrap(), children: Vec::new() };
        for namespace in [&lab.ours, &lab.theirs] {
            ip(&format!("netns add {namespace}"));
        }
        ip(&format!("-n {} link set lo up", lab.theirs));
        ip(&format!("-n {} addr add {FAR}/32 dev lo", lab.theirs));
        // One that does not forward tells its neighbours that it is no router, and they drop their route to it.
        within(&lab.theirs, || std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
        lab
    }

    /// With one cable, from `c0` to the router's `s0`.
    pub(crate) fn with_router() -> Lab {
        let lab = Lab::new();
        lab.cable(0);
        ip(&format!("-n {} addr add {ROUTER}/24 dev s0", lab.theirs));
        lab
    }

    /// Lays a cable from `cN` here to `sN` there, which is switched on.
    pub(crate) fn cable(&self, n: u8) {
        ip(&format!("link add c{n} netns {} type veth peer name s{n} netns {}", self.ours, self.theirs));
        ip(&format!("-n {} link set s{n} up", self.theirs));
    }

    /// Runs `ip` for the neighbours.
    pub(crate) fn theirs(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.theirs));
    }

    /// What `ip` says of the machine under test.
    pub(crate) fn ours(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.ours))
    }

    /// Makes the machine under test forward packets, as an exit with containers would.
    pub(crate) fn forward(&self) {
        within(&self.ours, || std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
    }

    /// Starts a program among the neighbours.
    pub(crate) fn start(&mut self, program: &str, arguments: &[String]) {
        let log = File::create(self.folder.path().join(format!("{program}.log"))).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.theirs, program]).args(arguments);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        self.children.push(child);
    }

    /// Starts dnsmasq on `s0`, with these options besides.
    pub(crate) fn dnsmasq(&mut self, options: &[&str]) {
        let fixed = "--keep-in-foreground --conf-file=/dev/null --interface=s0 --bind-interfaces --port=0 --no-ping --leasefile-ro \
                     --pid-file= --user=root --log-facility=-";
        let arguments: Vec<String> = fixed.split_whitespace().chain(options.iter().copied()).map(String::from).collect();
        self.start("dnsmasq", &arguments);
    }

    /// Starts radvd with this configuration, again if it runs already.
    pub(crate) fn radvd(&mut self, config: &str) {
        self.stop();
        let path = self.folder.path().join("radvd.conf");
        std::fs::write(&path, config).unwrap();
        // One of its own: the helper of a predecessor may hold the lock on another for a moment longer.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let pid = self.folder.path().join(format!("radvd-{}.pid", STARTED.fetch_add(1, Ordering::Relaxed)));
        let arguments = ["-n", "-m", "stderr", "-C", path.to_str().unwrap(), "-p", pid.to_str().unwrap()];
        self.start("radvd", &arguments.map(String::from));
    }

    /// Ends the programs.
    pub(crate) fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    /// Whether the machine under test can really talk to an address behind its router.
    pub(crate) fn reaches_far(&self, from: Ipv4Addr) -> bool {
        self.theirs(&format!("route replace {from}/32 dev s0"));
        let far = within(&self.theirs, || UdpSocket::bind((FAR, 7)).unwrap());
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let near = within(&self.ours, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        near.send_to(b"hello", (FAR, 7)).unwrap();
        let mut buffer = [0; 16];
        let (length, sender) = far.recv_from(&mut buffer).unwrap();
        &buffer[..length] == b"hello" && sender.ip() == from
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
        for namespace in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn ip(arguments: &str) -> String {
    let out = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is needed");
    assert!(out.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Does something on a thread of its own inside a namespace.
fn within<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    enter(namespace, work).join().unwrap()
}

fn enter<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("this test needs root");
        work()
    })
}

/// What the machine under test lets see.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    State(Summary),
    Line(String),
    Ready(Result<Summary, String>),
}

/// The module under test, at work in a namespace.
pub(crate) struct Machine {
    seen: mpsc::Receiver<Seen>,
    history: Vec<Seen>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts it, and has it say after `deadline` whether it is ready.
    pub(crate) fn start(lab: &Lab, deadline: Duration) -> Machine {
        let (tell, seen) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let resolv_conf = Some(lab.resolv_conf());
        let thread = enter(&lab.ours, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let log = {
                    let tell = tell.clone();
                    move |line: &str| drop(tell.send(Seen::Line(line.into())))
                };
                let net = Net::start(Options { resolv_conf, log: Arc::new(log) }).unwrap();
                let watch = async {
                    let mut state = net.watch();
                    while state.changed().await.is_ok() {
                        let _ = tell.send(Seen::State(state.borrow_and_update().clone()));
                    }
                };
                let ready = async {
                    let ready = net.ready(Instant::now() + deadline).await;
                    let _ = tell.send(Seen::Ready(ready.map_err(|error| error.to_string())));
                    std::future::pending::<()>().await;
                };
                tokio::select! { () = watch => {} () = ready => {} _ = stopped => {} }
            });
        });
        Machine { seen, history: Vec::new(), stop: Some(stop), thread: Some(thread) }
    }

    /// Waits for what this makes something of; everything seen before is passed over.
    pub(crate) fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(seen) => {
                    let found = wanted(&seen);
                    self.history.push(seen);
                    if let Some(found) = found {
                        return found;
                    }
                }
                Err(_) => panic!("{what} did not come; seen: {:#?}", self.history),
            }
        }
    }

    /// Waits for a state, or takes the present one.
    pub(crate) fn state(&mut self, what: &str, wanted: impl Fn(&Summary) -> bool) -> Summary {
        let state = |seen: &Seen| match seen {
            Seen::State(summary) | Seen::Ready(Ok(summary)) => Some(summary.clone()),
            _ => None,
        };
        let present = self.history.iter().rev().find_map(state).filter(|summary| wanted(summary));
        present.unwrap_or_else(|| self.until(what, |seen| state(seen).filter(|summary| wanted(summary))))
    }

    /// Waits for a log line with this in it.
    pub(crate) fn line(&mut self, part: &str) -> String {
        self.until(part, |seen| if let Seen::Line(line) = seen { Some(line.clone()).filter(|line| line.contains(part)) } else { None })
    }

    /// Waits for what `ready` says.
    pub(crate) fn ready(&mut self) -> Result<Summary, String> {
        self.until("ready", |seen| if let Seen::Ready(ready) = seen { Some(ready.clone()) } else { None })
    }

    /// The log lines seen so far.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.history.iter().filter_map(|seen| if let Seen::Line(line) = seen { Some(line.as_str()) } else { None }).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A request that the scripted server got.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: MessageType,
    /// To the server alone, not to everybody.
    pub(crate) unicast: bool,
    pub(crate) message: Message,
}

/// A DHCPv4 server on `s0` that answers as a test says.
pub(crate) struct Scripted {
    requests: mpsc::Receiver<Request>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Scripted {
    pub(crate) fn start(lab: &Lab, script: impl Fn(&Request) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Scripted {
        let (tell, requests) = mpsc::channel();
        let (stop, script) = (Arc::new(AtomicBool::new(false)), Arc::new(script));
        // A socket on the broadcast address hears only what is for everybody; the other one speaks for both.
        let [to_us, to_all] = [ROUTER, Ipv4Addr::BROADCAST].map(|ip| Arc::new(within(&lab.theirs, move || server_socket((ip, 67).into()))));
        let threads = [(to_us.clone(), true), (to_all, false)].map(|(socket, unicast)| {
            let (tell, stop, script, out) = (tell.clone(), stop.clone(), script.clone(), to_us.clone());
            spawn(move || {
                let mut buffer = [0; 2000];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let message = Message::from_bytes(&buffer[..length]).unwrap();
                    let request = Request { kind: message.opts().msg_type().unwrap(), unicast, message };
                    let to = if unicast { from } else { (Ipv4Addr::BROADCAST, 68).into() };
                    for answer in script(&request) {
                        out.send_to(&answer, to).unwrap();
                    }
                    let _ = tell.send(request);
                }
            })
        });
        Scripted { requests, stop, threads: threads.into() }
    }

    /// Waits for a request of this kind.
    pub(crate) fn request(&self, kind: MessageType) -> Request {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = self.requests.recv_timeout(deadline.saturating_duration_since(Instant::now())).expect("a request");
            if request.kind == kind {
                return request;
            }
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn server_socket(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind_device(Some(b"s0")).unwrap();
    socket.set_broadcast(true).unwrap();
    // Only so that the thread sees that it shall stop.
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.into()
}

/// An answer to a request, with a default route and these options besides.
pub(crate) fn answer(request: &Request, kind: MessageType, address: Ipv4Addr, lease: u32, options: &[DhcpOption]) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(request.message.xid(), none, address, none, none, request.message.chaddr());
    message.set_opcode(Opcode::BootReply);
    let fixed = [
        DhcpOption::MessageType(kind),
        DhcpOption::ServerIdentifier(ROUTER),
        DhcpOption::SubnetMask([255, 255, 255, 0].into()),
        DhcpOption::Router(vec![ROUTER]),
        DhcpOption::AddressLeaseTime(lease),
    ];
    fixed.iter().chain(options).for_each(|option| drop(message.opts_mut().insert(option.clone())));
    message.to_vec().unwrap()
}

/// What an honest server says to a request: an offer, or the lease.
pub(crate) fn honest(request: &Request, address: Ipv4Addr, lease: u32) -> Vec<u8> {
    let kind = if request.kind == MessageType::Discover { MessageType::Offer } else { MessageType::Ack };
    answer(request, kind, address, lease, &[])
}

/// Waits until something holds that no event tells of.
pub(crate) fn eventually<T: Debug>(what: &str, mut look: impl FnMut() -> T, holds: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if holds(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come: {found:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

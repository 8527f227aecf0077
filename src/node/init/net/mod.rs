//! The network of a machine on which this program is the first one and the only one: no shell, no DHCP client, no `/etc`.
//!
//! Switches on every Ethernet interface, gets IPv4 addresses by DHCP and IPv6 ones from routers or DHCPv6, keeps them, and
//! says what it has. The kernel does what it can (router advertisements, duplicate addresses); nothing here has state that
//! outlives the process. What comes from the network is unauthenticated, so each module that reads it says what it refuses.
//!
//! Parts: `hub` sees to everything, `kernel` and `listen` are netlink, `dhcp` the clients, `socket` their
//! sockets, `resolv` the file with name servers.

mod dhcp;
mod hub;
mod kernel;
mod listen;
mod refused;
mod resolv;
mod socket;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Takes log lines for people, without line end and time.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// What the caller decides.
#[derive(Clone)]
pub struct Options {
    /// Where to keep the list of name servers, in the format of resolv.conf(5); its folder must exist.
    pub resolv_conf: Option<PathBuf>,
    /// Where log lines go.
    pub log: Log,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no netlink for us.
    #[error("cannot talk to the kernel about the network")]
    Kernel(#[source] std::io::Error),
    /// Nothing to switch on.
    #[error("no network interface: is the driver in the image?")]
    NoInterface,
    /// None of the interfaces leads to the internet; a line for each.
    #[error("no network: {}", .0.join("; "))]
    NotReady(Vec<String>),
}

/// What an interface still lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing answers at the other end of the cable.
    NoCarrier,
    /// Nobody answered over DHCPv4 since then.
    NoDhcp4Answer(Instant),
    /// A router sends us to DHCPv6, where nobody answered since then.
    NoDhcp6Answer(Instant),
    /// No IPv6 router has spoken; usual on a network that has none.
    NoAdvertisement,
    /// A sentence: an error of the kernel, or why an answer is ignored.
    Other(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NoCarrier => f.write_str("no carrier"),
            Trouble::NoDhcp4Answer(since) => write!(f, "no DHCP answer in {} s", since.elapsed().as_secs()),
            Trouble::NoDhcp6Answer(since) => write!(f, "no DHCPv6 answer in {} s", since.elapsed().as_secs()),
            Trouble::NoAdvertisement => f.write_str("no IPv6 router"),
            Trouble::Other(text) => f.write_str(text),
        }
    }
}

/// How an address came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A lease over DHCPv4.
    Dhcp4,
    /// A lease over DHCPv6.
    Dhcp6,
    /// Made by the kernel from a router's prefix.
    Slaac,
    /// Link-local, or set by somebody else, as with `ip=` on the kernel's command line.
    Other,
}

impl How {
    /// The name in logs and JSON; never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            How::Dhcp4 => "dhcp4",
            How::Dhcp6 => "dhcp6",
            How::Slaac => "slaac",
            How::Other => "other",
        }
    }
}

/// An address that packets can carry now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix: u8,
    /// Where it is from.
    pub how: How,
}

impl Address {
    /// Whether it can have a way to the internet: for IPv6 global unicast, for IPv4 private addresses too (behind NAT).
    fn is_global(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
        }
    }
}

/// What is known of one Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's name for it.
    pub name: String,
    /// Every address that works, link-local ones too.
    pub addresses: Vec<Address>,
    /// Next hops of default routes; an unspecified one means that the whole internet is on the link.
    pub routers: Vec<IpAddr>,
    /// Those of DHCPv4, DHCPv6 and router advertisements, in this order.
    pub name_servers: Vec<IpAddr>,
    /// What it lacks, if anything; some of it may be usual.
    pub troubles: Vec<Trouble>,
}

impl Interface {
    /// Whether there is a global address with a default route of the same family.
    pub fn is_usable(&self) -> bool {
        let routed = |address: &Address| self.routers.iter().any(|router| router.is_ipv4() == address.ip.is_ipv4());
        self.addresses.iter().any(|address| address.is_global() && routed(address))
    }

    /// A line with the name and all that is wrong.
    fn lacks(&self) -> String {
        let stranded = self.addresses.iter().find(|address| address.is_global()).filter(|_| !self.is_usable());
        let route = stranded.map(|address| format!("no default route for {}", address.ip));
        let troubles: Vec<String> = self.troubles.iter().map(ToString::to_string).chain(route).collect();
        format!("{}: {}", self.name, troubles.join(", "))
    }
}

/// What is known of the network now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The Ethernet interfaces, in the kernel's order.
    pub interfaces: Vec<Interface>,
}

impl Summary {
    /// Whether some interface leads to the internet, as far as can be seen from here.
    pub fn is_usable(&self) -> bool {
        self.interfaces.iter().any(Interface::is_usable)
    }

    /// The name servers of all interfaces, each once.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        let mut servers = Vec::new();
        for ip in self.interfaces.iter().flat_map(|interface| &interface.name_servers) {
            if !servers.contains(ip) {
                servers.push(*ip);
            }
        }
        servers
    }
}

/// The network, kept up for as long as this lives.
pub struct Net {
    /// Ends with it.
    _tasks: JoinSet<()>,
    state: watch::Receiver<Summary>,
}

impl Net {
    /// Starts to see to the network, on the tokio runtime of the caller. Needs `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub fn start(options: Options) -> Result<Net, Error> {
        let (publish, state) = watch::channel(Summary::default());
        let hub = hub::Hub::open(options, publish).map_err(Error::Kernel)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(hub.run());
        Ok(Net { _tasks: tasks, state })
    }

    /// Waits until some interface leads to the internet; after the deadline, says what each one lacks.
    pub async fn ready(&self, deadline: Instant) -> Result<Summary, Error> {
        let mut state = self.watch();
        if let Ok(Ok(summary)) = tokio::time::timeout_at(deadline.into(), state.wait_for(Summary::is_usable)).await {
            return Ok(summary.clone());
        }
        let summary = self.state.borrow();
        if summary.interfaces.is_empty() {
            return Err(Error::NoInterface);
        }
        Err(Error::NotReady(summary.interfaces.iter().map(Interface::lacks).collect()))
    }

    /// Every change from now on, and the present state.
    pub fn watch(&self) -> watch::Receiver<Summary> {
        self.state.clone()
    }
}

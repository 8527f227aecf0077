//! What an IPv4 lease may change on this machine: a pure decision over what a server said.
//!
//! DHCP is not authenticated. A neighbour who answers first becomes our router, which cannot be helped; but it must not
//! get loopback, multicast or broadcast addresses into our tables, nor more of anything than a sane network has.

use super::message::Answer;
use crate::node::init::net::refused::Refused;
use crate::node::init::net::{MAX_NAME_SERVERS, MIN_LEASE};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Most routes of one lease; cloud networks send a handful.
pub(crate) const MAX_ROUTES: usize = 32;
/// Widest subnet accepted; a mask of 0.0.0.0 would put the whole internet on the link.
const MIN_PREFIX: u8 = 8;
/// Smallest MTU accepted: what every IPv4 host must be able to receive (RFC 791).
const MIN_MTU: u16 = 576;

/// A route to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Network address, its host bits zero.
    pub(crate) destination: Ipv4Addr,
    /// Length of the network's prefix, 0 to 32.
    pub(crate) prefix: u8,
    /// Next router; `None` for a network on the link itself.
    pub(crate) gateway: Option<Ipv4Addr>,
}

impl Route {
    fn covers(&self, ip: Ipv4Addr) -> bool {
        network(ip, self.prefix) == self.destination
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " by {gateway}"))
    }
}

/// An accepted lease: all that it will change, in the order to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Who gave it.
    pub(crate) server: Ipv4Addr,
    /// Our address.
    pub(crate) address: Ipv4Addr,
    /// Prefix length of our subnet, 8 to 32.
    pub(crate) prefix: u8,
    /// At most [`MAX_ROUTES`] and their gateways' host routes; whatever a route needs stands before it.
    pub(crate) routes: Vec<Route>,
    /// At most [`MAX_NAME_SERVERS`].
    pub(crate) name_servers: Vec<Ipv4Addr>,
    /// Largest packet of the link, 576 to 65535 bytes.
    pub(crate) mtu: Option<u16>,
    /// When to renew (T1), to ask any server (T2), and when it ends; each counted from the request.
    pub(crate) times: [Duration; 3],
}

impl Lease {
    /// Judges an answer; the second value has a sentence for each part that was left out.
    pub(crate) fn judge(answer: &Answer) -> Result<(Lease, Vec<String>), Refused> {
        let own = |why| Refused::Address(answer.address.into(), why);
        plain(answer.server).map_err(|why| Refused::Server(answer.server.into(), why))?;
        plain(answer.address).map_err(own)?;
        if answer.address.is_link_local() {
            return Err(own("link-local"));
        }
        let prefix = prefix(answer.mask)?;
        if prefix < 31 && answer.address == network(answer.address, prefix) {
            return Err(own("its own subnet"));
        }
        if prefix < 31 && answer.address.to_bits() | mask(prefix) == u32::MAX {
            return Err(own("the broadcast address of its subnet"));
        }
        let mut notes = Vec::new();
        let lease = Lease {
            server: answer.server,
            address: answer.address,
            prefix,
            routes: routes(answer, prefix, &mut notes),
            name_servers: name_servers(&answer.name_servers, &mut notes),
            mtu: answer.mtu.filter(|mtu| *mtu >= MIN_MTU),
            times: times(answer)?,
        };
        if lease.mtu != answer.mtu {
            notes.push(format!("an MTU of {} is left out: too small", answer.mtu.unwrap_or(0)));
        }
        Ok((lease, notes))
    }
}

/// Whether a machine can have the address at all; the error names what it is instead.
pub(crate) fn plain(ip: Ipv4Addr) -> Result<(), &'static str> {
    match ip.octets() {
        [0, ..] => Err("unspecified"),
        [127, ..] => Err("loopback"),
        [224..=239, ..] => Err("multicast"),
        [255, 255, 255, 255] => Err("broadcast"),
        [240..=255, ..] => Err("reserved"),
        _ => Ok(()),
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn network(ip: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(ip.to_bits() & mask(prefix))
}

/// Without a mask the machine is alone on its link, and its router gets a host route: that works everywhere.
fn prefix(given: Option<Ipv4Addr>) -> Result<u8, Refused> {
    let Some(given) = given else { return Ok(32) };
    let prefix = given.to_bits().leading_ones() as u8;
    if prefix >= MIN_PREFIX && mask(prefix) == given.to_bits() { Ok(prefix) } else { Err(Refused::Mask(given.into())) }
}

/// T1 and T2 as given if they are in order, else the shares that RFC 2131, section 4.4.5, sets.
fn times(answer: &Answer) -> Result<[Duration; 3], Refused> {
    let seconds = answer.lease_time.unwrap_or(0);
    let end = Duration::from_secs(seconds.into());
    if end < MIN_LEASE {
        return Err(Refused::Time(seconds));
    }
    let given = |time: Option<u32>| time.map(|seconds| Duration::from_secs(seconds.into()));
    match (given(answer.renewal_time), given(answer.rebinding_time)) {
        (Some(t1), Some(t2)) if MIN_LEASE / 2 <= t1 && t1 < t2 && t2 < end => Ok([t1, t2, end]),
        _ => Ok([end / 2, end / 8 * 7, end]),
    }
}

fn name_servers(given: &[Ipv4Addr], notes: &mut Vec<String>) -> Vec<Ipv4Addr> {
    let mut servers = Vec::new();
    for ip in given {
        match plain(*ip) {
            Err(why) => notes.push(format!("the name server {ip} is left out: {why}")),
            Ok(()) if servers.contains(ip) => {}
            Ok(()) if servers.len() == MAX_NAME_SERVERS => {
                notes.push(format!("only the first {MAX_NAME_SERVERS} name servers are used"));
                break;
            }
            Ok(()) => servers.push(*ip),
        }
    }
    servers
}

/// The routes that are allowed, and what they need to work. Option 121 replaces option 3 (RFC 3442).
fn routes(answer: &Answer, prefix: u8, notes: &mut Vec<String>) -> Vec<Route> {
    let default = answer.routers.first().map(|router| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(*router) });
    let given = answer.routes.clone().unwrap_or_else(|| default.into_iter().collect());
    let mut accepted: Vec<Route> = Vec::new();
    for route in given {
        let route = Route { destination: network(route.destination, route.prefix), ..route };
        match allowed(&route, answer.address) {
            Err(why) => notes.push(format!("the route {route} is left out: {why}")),
            Ok(()) if accepted.iter().any(|old| (old.destination, old.prefix) == (route.destination, route.prefix)) => {}
            Ok(()) if accepted.len() == MAX_ROUTES => {
                notes.push(format!("only the first {MAX_ROUTES} routes are used"));
                break;
            }
            Ok(()) => accepted.push(route),
        }
    }
    let subnet = Route { destination: network(answer.address, prefix), prefix, gateway: None };
    on_link_first(accepted, subnet)
}

fn allowed(route: &Route, own: Ipv4Addr) -> Result<(), &'static str> {
    // Wider routes, as 0.0.0.0/0, may contain such addresses: the kernel's own table goes before them.
    if route.prefix > 0 {
        plain(route.destination)?;
    }
    match route.gateway {
        Some(gateway) if gateway == own => Err("its router would be this machine"),
        Some(gateway) => plain(gateway).map_err(|_| "its router cannot be one"),
        None => Ok(()),
    }
}

/// The kernel takes a gateway only if a route to it on the link is there: own ones first, then missing ones (/32 leases).
fn on_link_first(accepted: Vec<Route>, subnet: Route) -> Vec<Route> {
    let (mut routes, by_gateway): (Vec<Route>, Vec<Route>) = accepted.into_iter().partition(|route| route.gateway.is_none());
    for gateway in by_gateway.iter().filter_map(|route| route.gateway) {
        if !subnet.covers(gateway) && !routes.iter().any(|route| route.covers(gateway)) {
            routes.push(Route { destination: gateway, prefix: 32, gateway: None });
        }
    }
    routes.extend(by_gateway);
    routes
}

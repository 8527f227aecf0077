//! What a lease may change on this machine: a pure decision over what a server said.
//!
//! DHCP is not authenticated. A neighbour who answers first becomes our router, which cannot be helped; but it must not
//! get loopback, multicast or broadcast addresses into our tables, nor more of anything than a sane network has.

use super::super::refused::Refused;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Most routes of one lease; cloud networks send a handful.
const MAX_ROUTES: usize = 32;
/// Most name servers of one lease or advertisement; resolvers ask no more than three in earnest.
pub(crate) const MAX_NAME_SERVERS: usize = 4;
/// Shortest lease accepted; a shorter one would have us ask all day.
pub(crate) const MIN_LEASE: Duration = Duration::from_secs(10);
/// Widest subnet accepted; a mask of 0.0.0.0 would put the whole internet on the link.
const MIN_PREFIX: u8 = 8;

/// An accepted lease: all that it will change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Who gave it: an IPv4 address, or the identifier of a DHCPv6 server.
    pub(crate) server: Vec<u8>,
    /// Our address and the length of its prefix; `None` if only name servers were asked for.
    pub(crate) address: Option<(IpAddr, u8)>,
    /// Whatever a route needs stands before it.
    pub(crate) routes: Vec<Route>,
    /// At most [`MAX_NAME_SERVERS`].
    pub(crate) name_servers: Vec<IpAddr>,
    /// Largest packet of the link in bytes.
    pub(crate) mtu: Option<u16>,
    /// When to renew (T1), to ask any server (T2), and when it ends; each counted from the request.
    pub(crate) times: [Duration; 3],
    /// A sentence for each part that was left out.
    pub(crate) notes: Vec<String>,
}

/// An IPv4 route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Network address.
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

/// Whether a machine can have the address at all; the error names what it is instead.
pub(crate) fn plain(ip: IpAddr) -> Result<(), &'static str> {
    match ip {
        ip if ip.is_unspecified() => Err("unspecified"),
        ip if ip.is_loopback() => Err("loopback"),
        ip if ip.is_multicast() => Err("multicast"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Err("broadcast"),
        IpAddr::V4(ip) if matches!(ip.octets()[0], 0 | 240..=255) => Err("reserved"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err("link-local"),
        // Global unicast and unique local; the rest is reserved or IPv4 in disguise.
        IpAddr::V6(ip) if !matches!(ip.segments()[0], 0x2000..=0x3fff | 0xfc00..=0xfdff) => Err("reserved"),
        _ => Ok(()),
    }
}

/// Checks the address that this machine shall have.
pub(crate) fn own_address(ip: IpAddr, prefix: u8) -> Result<(IpAddr, u8), Refused> {
    let refuse = |why| Refused::Address(ip, why);
    plain(ip).map_err(refuse)?;
    if let IpAddr::V4(ip) = ip {
        if ip.is_link_local() {
            return Err(refuse("link-local"));
        }
        if prefix < 31 && ip == network(ip, prefix) {
            return Err(refuse("its own subnet"));
        }
        if prefix < 31 && ip.to_bits() | mask(prefix) == u32::MAX {
            return Err(refuse("the broadcast address of its subnet"));
        }
    }
    Ok((ip, prefix))
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn network(ip: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(ip.to_bits() & mask(prefix))
}

/// The prefix of a subnet mask. Without one the machine is alone on its link, and its router gets a host route: that
/// works everywhere.
pub(crate) fn prefix(given: Option<Ipv4Addr>) -> Result<u8, Refused> {
    let Some(given) = given else { return Ok(32) };
    let prefix = given.to_bits().leading_ones() as u8;
    if prefix >= MIN_PREFIX && mask(prefix) == given.to_bits() { Ok(prefix) } else { Err(Refused::Mask(given.into())) }
}

/// Times in seconds: T1 and T2 as given if they are in order, else the shares of `base` that RFC 2131, section 4.4.5, sets.
pub(crate) fn times(t1: u32, t2: u32, base: u32, end: u32) -> Result<[Duration; 3], Refused> {
    let [given1, given2, base, end] = [t1, t2, base, end].map(|seconds| Duration::from_secs(seconds.into()));
    if base < MIN_LEASE || end < base {
        return Err(Refused::Time(end.min(base).as_secs()));
    }
    let is_in_order = MIN_LEASE / 2 <= given1 && given1 < given2 && given2 < end;
    Ok(if is_in_order { [given1, given2, end] } else { [base / 2, base / 8 * 7, end] })
}

/// The name servers that are allowed, each once.
pub(crate) fn name_servers<T: Into<IpAddr>>(given: impl IntoIterator<Item = T>, notes: &mut Vec<String>) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for ip in given.into_iter().map(Into::into) {
        match plain(ip) {
            Err(why) => notes.push(format!("the name server {ip} is left out: it is {why}")),
            Ok(()) if servers.contains(&ip) || servers.len() == MAX_NAME_SERVERS => {}
            Ok(()) => servers.push(ip),
        }
    }
    servers
}

/// The routes that are allowed, and what they need to work; `own` and `prefix` are our address.
pub(crate) fn routes(given: &[Route], own: Ipv4Addr, prefix: u8, notes: &mut Vec<String>) -> Vec<Route> {
    let mut accepted: Vec<Route> = Vec::new();
    for route in given {
        let route = Route { destination: network(route.destination, route.prefix), ..*route };
        match allowed(&route, own) {
            Err(why) => notes.push(format!("the route {route} is left out: {why}")),
            Ok(()) if accepted.iter().any(|old| (old.destination, old.prefix) == (route.destination, route.prefix)) => {}
            Ok(()) if accepted.len() == MAX_ROUTES => {
                notes.push(format!("only the first {MAX_ROUTES} routes are used"));
                break;
            }
            Ok(()) => accepted.push(route),
        }
    }
    on_link_first(accepted, Route { destination: network(own, prefix), prefix, gateway: None })
}

fn allowed(route: &Route, own: Ipv4Addr) -> Result<(), &'static str> {
    // Wider routes, as 0.0.0.0/0, may contain such addresses: the kernel's own table goes before them.
    if route.prefix > 0 {
        plain(route.destination.into())?;
    }
    match route.gateway {
        Some(gateway) if gateway == own => Err("its router would be this machine"),
        Some(gateway) => plain(gateway.into()).map_err(|_| "its router cannot be one"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        let (network, gateway) = text.split_once(" by ").map_or((text, None), |(network, gateway)| (network, Some(gateway)));
        let (destination, prefix) = network.split_once('/').unwrap();
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Route { destination: destination.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway }
    }

    /// What becomes of routes for this address, as text, and how many notes there are.
    fn decided(own: &str, prefix: u8, given: &[&str]) -> (Vec<String>, usize) {
        let given: Vec<Route> = given.iter().map(|text| route(text)).collect();
        let mut notes = Vec::new();
        let routes = routes(&given, own.parse().unwrap(), prefix, &mut notes);
        (routes.iter().map(Route::to_string).collect(), notes.len())
    }

    #[test]
    fn routes_are_decided_as_the_table_says() {
        type Case<'a> = (&'a str, &'a str, u8, &'a [&'a str], &'a [&'a str], usize);
        let table: &[Case<'_>] = &[
            ("a home", "10.0.0.5", 24, &["0.0.0.0/0 by 10.0.0.1"], &["0.0.0.0/0 by 10.0.0.1"], 0),
            (
                "Google: the router is told to be on the link",
                "10.128.0.2",
                32,
                &["10.128.0.1/32", "0.0.0.0/0 by 10.128.0.1"],
                &["10.128.0.1/32", "0.0.0.0/0 by 10.128.0.1"],
                0,
            ),
            (
                "the same in the other order",
                "10.128.0.2",
                32,
                &["0.0.0.0/0 by 10.128.0.1", "10.128.0.1/32"],
                &["10.128.0.1/32", "0.0.0.0/0 by 10.128.0.1"],
                0,
            ),
            ("Hetzner: it is not told", "5.9.1.2", 32, &["0.0.0.0/0 by 172.31.1.1"], &["172.31.1.1/32", "0.0.0.0/0 by 172.31.1.1"], 0),
            (
                "OpenStack: metadata by another router",
                "10.0.0.5",
                24,
                &["169.254.169.254/32 by 10.0.0.2", "0.0.0.0/0 by 10.0.0.1"],
                &["169.254.169.254/32 by 10.0.0.2", "0.0.0.0/0 by 10.0.0.1"],
                0,
            ),
            (
                "two routes by one router outside",
                "5.9.1.2",
                32,
                &["10.0.0.0/8 by 1.1.1.1", "0.0.0.0/0 by 1.1.1.1"],
                &["1.1.1.1/32", "10.0.0.0/8 by 1.1.1.1", "0.0.0.0/0 by 1.1.1.1"],
                0,
            ),
            (
                "a router in a network on the link",
                "5.9.1.2",
                32,
                &["1.1.1.0/24", "0.0.0.0/0 by 1.1.1.1"],
                &["1.1.1.0/24", "0.0.0.0/0 by 1.1.1.1"],
                0,
            ),
            ("host bits", "10.0.0.5", 24, &["172.16.9.9/12 by 10.0.0.1"], &["172.16.0.0/12 by 10.0.0.1"], 0),
            ("the first of equals", "10.0.0.5", 24, &["0.0.0.0/0 by 10.0.0.1", "0.0.0.0/0 by 10.0.0.2"], &["0.0.0.0/0 by 10.0.0.1"], 0),
            (
                "networks that nobody can have",
                "10.0.0.5",
                24,
                &[
                    "127.0.0.0/8 by 10.0.0.1",
                    "127.0.0.53/32",
                    "224.0.0.0/4 by 10.0.0.1",
                    "239.1.1.1/32",
                    "240.0.0.0/4",
                    "255.255.255.255/32",
                    "0.0.0.0/8",
                    "0.0.0.1/32",
                ],
                &[],
                8,
            ),
            (
                "routers that cannot be",
                "10.0.0.5",
                24,
                &["0.0.0.0/0 by 127.0.0.1", "8.0.0.0/8 by 224.0.0.1", "9.0.0.0/8 by 255.255.255.255", "11.0.0.0/8 by 10.0.0.5"],
                &[],
                4,
            ),
        ];
        for (name, own, prefix, given, expected, notes) in table {
            assert_eq!(decided(own, *prefix, given), (expected.iter().map(ToString::to_string).collect(), *notes), "{name}");
        }
    }

    #[test]
    fn no_more_routes_than_allowed() {
        for count in [MAX_ROUTES - 1, MAX_ROUTES, MAX_ROUTES + 1, 250] {
            let given: Vec<String> = (0..count).map(|n| format!("20.0.{n}.0/24 by 10.0.0.1")).collect();
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            let (routes, notes) = decided("10.0.0.5", 24, &given);
            assert_eq!((routes.len(), notes), (count.min(MAX_ROUTES), usize::from(count > MAX_ROUTES)), "{count}");
        }
    }

    #[test]
    fn own_addresses() {
        for (ip, prefix, why) in [
            ("10.0.0.5", 24, None),
            ("10.0.0.0", 24, Some("its own subnet")),
            ("10.0.0.255", 24, Some("the broadcast address of its subnet")),
            ("10.0.0.0", 31, None),
            ("10.0.0.255", 31, None),
            ("10.0.0.255", 32, None),
            ("0.0.0.0", 24, Some("unspecified")),
            ("0.1.2.3", 24, Some("reserved")),
            ("127.0.0.5", 24, Some("loopback")),
            ("169.254.1.1", 16, Some("link-local")),
            ("224.0.0.5", 24, Some("multicast")),
            ("240.0.0.5", 24, Some("reserved")),
            ("255.255.255.255", 32, Some("broadcast")),
            ("2001:db8::5", 128, None),
            ("fd00::5", 128, None),
            ("fe80::5", 128, Some("link-local")),
            ("ff02::1", 128, Some("multicast")),
            ("::1", 128, Some("loopback")),
            ("::ffff:10.0.0.1", 128, Some("reserved")),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let expected = why.map_or(Ok((ip, prefix)), |why| Err(Refused::Address(ip, why)));
            assert_eq!(own_address(ip, prefix), expected, "{ip}/{prefix}");
        }
    }

    #[test]
    fn masks() {
        for (given, expected) in [
            (None, Some(32)),
            (Some("255.255.255.255"), Some(32)),
            (Some("255.255.255.0"), Some(24)),
            (Some("255.0.0.0"), Some(8)),
            (Some("254.0.0.0"), None),
            (Some("0.0.0.0"), None),
            (Some("255.0.255.0"), None),
            (Some("0.0.0.255"), None),
        ] {
            assert_eq!(prefix(given.map(|text| text.parse().unwrap())).ok(), expected, "{given:?}");
        }
    }

    #[test]
    fn times_in_order_are_kept_and_others_replaced() {
        let seconds = |list: [Duration; 3]| list.map(|time| time.as_secs());
        for (t1, t2, base, end, expected) in [
            (0, 0, 80, 80, Some([40, 70, 80])),
            (10, 20, 80, 80, Some([10, 20, 80])),
            (20, 10, 80, 80, Some([40, 70, 80])),
            (10, 80, 80, 80, Some([40, 70, 80])),
            (4, 20, 80, 80, Some([40, 70, 80])),
            (5, 20, 80, 80, Some([5, 20, 80])),
            (0, 0, 80, 800, Some([40, 70, 800])),
            (0, 0, 9, 9, None),
            (0, 0, 10, 10, Some([5, 8, 10])),
            (0, 0, 20, 10, None),
            (0, 0, 0, 0, None),
            (0, 0, u32::MAX, u32::MAX, Some([2_147_483_647, 3_758_096_383, 4_294_967_295])),
        ] {
            assert_eq!(times(t1, t2, base, end).ok().map(seconds), expected, "{t1} {t2} {base} {end}");
        }
    }

    #[test]
    fn name_servers_are_few_and_each_once() {
        for count in 0..=MAX_NAME_SERVERS as u8 + 1 {
            let given: Vec<Ipv4Addr> = (0..count).flat_map(|n| [Ipv4Addr::new(10, 0, 0, n + 1); 2]).collect();
            assert_eq!(name_servers(given, &mut Vec::new()).len(), usize::from(count).min(MAX_NAME_SERVERS));
        }
        let mut notes = Vec::new();
        let hostile = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "169.254.169.254", "2001:db8::53"];
        let used = name_servers(hostile.map(|ip| ip.parse::<IpAddr>().unwrap()), &mut notes);
        // Google's and Amazon's name servers have link-local addresses.
        assert_eq!(used, ["169.254.169.254".parse::<IpAddr>().unwrap(), "2001:db8::53".parse().unwrap()]);
        assert_eq!(notes.len(), 6);
        assert_eq!(notes[0], "the name server 127.0.0.1 is left out: it is loopback");
    }
}

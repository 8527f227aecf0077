//! Destinations in rules: a host by name, glob or network, and ports. Grants, nodes and the owner's policy write them alike.

use crate::error::{Code, Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest name in DNS (RFC 1035 §2.3.4), and more than any name of a grant.
const MAX_GLOB: usize = 255;

/// A port, several, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    const ALL: Ports = Ports { first: 1, last: u16::MAX };

    /// Whether the port is among them.
    pub fn covers(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The lowest of them.
    pub fn first(self) -> u16 {
        self.first
    }
}

/// Where a friend wants to go: what he asked for, and the address it came to, as far as each is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The name, lower case, without a final dot.
    pub name: Option<String>,
    /// The address; none as long as the name is not resolved.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Destination {
    /// What a guest asks for before anything is resolved: a name, or an address in words.
    pub fn asked(host: &str, port: u16) -> Destination {
        match host.parse::<IpAddr>() {
            Ok(ip) => Destination { name: None, ip: Some(ip.to_canonical()), port },
            Err(_) => Destination { name: Some(plain(host)), ip: None, port },
        }
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Destination> {
        let bad = || {
            Error::new(Code::Usage, format!("`{}` is no destination", text.escape_debug()))
                .hint("write a name or an address with a port, as in example.org:443 or [2001:db8::1]:443")
        };
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let asked = Destination::asked(bare, port);
        match (&asked.name, asked.ip) {
            // Without brackets nobody knows where an IPv6 address ends and its port begins.
            (None, Some(ip)) if bare != host || ip.is_ipv4() => Ok(asked),
            (Some(name), _) if bare == host && is_name(name, false) => Ok(asked),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.ip) {
            (Some(name), _) => write!(f, "{name}:{}", self.port),
            (None, Some(IpAddr::V6(ip))) => write!(f, "[{ip}]:{}", self.port),
            (None, Some(ip)) => write!(f, "{ip}:{}", self.port),
            (None, None) => write!(f, "*:{}", self.port),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// Names and addresses, all of them.
    Any,
    /// A name; `*` stands for any characters, dots included.
    Glob(String),
    /// Addresses of a network.
    Net { network: IpAddr, prefix: u8 },
}

/// A destination, or many: `example.org:443`, `*.example.org`, `10.0.0.0/8:80-90`, `*:25`.
///
/// ```
/// use portdistrict::config::Pattern;
/// let pattern: Pattern = "*.example.org:443".parse().unwrap();
/// assert!(pattern.covers(&"www.example.org:443".parse().unwrap()));
/// assert!(!pattern.covers(&"example.org:443".parse().unwrap()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    host: Host,
    ports: Ports,
}

impl Pattern {
    /// Whether it speaks of this destination. A network says nothing about a name that is not resolved.
    pub fn covers(&self, to: &Destination) -> bool {
        self.ports.covers(to.port)
            && match &self.host {
                Host::Any => true,
                Host::Glob(pattern) => to.name.as_deref().is_some_and(|name| glob(pattern, name)),
                Host::Net { network, prefix } => to.ip.is_some_and(|ip| masked(ip.to_canonical(), *prefix) == Some(*network)),
            }
    }

    /// Whether what a name resolves to can decide whether it covers.
    pub fn needs_address(&self) -> bool {
        matches!(self.host, Host::Net { .. })
    }

    /// One destination that it covers, for comparing policies.
    pub fn example(&self) -> Destination {
        let (name, ip) = match &self.host {
            Host::Any => (Some("anything.example".to_owned()), None),
            Host::Glob(pattern) => (Some(pattern.replace(['*', '?'], "x")), None),
            Host::Net { network, .. } => (None, Some(*network)),
        };
        Destination { name, ip, port: self.ports.first }
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pattern> {
        let bad = |why: &str| {
            Error::new(Code::Usage, format!("`{}` is no destination: {why}", text.escape_debug()))
                .hint("write a name or a network, with or without ports: *.example.org:443, example.org, 10.0.0.0/8:8080-8090, [2001:db8::1]:443, *:443")
        };
        let (host, ports) = split(text.trim());
        let host = host.strip_suffix('.').unwrap_or(host);
        let ports = match ports {
            None => Ports::ALL,
            Some(ports) => parse_ports(ports).ok_or_else(|| bad("ports are written as 443 or 8000-8080"))?,
        };
        let (address, length) = host.split_once('/').map_or((host, None), |(address, length)| (address, Some(length)));
        let host = match (host, address.parse::<IpAddr>()) {
            ("*", _) => Host::Any,
            (_, Ok(ip)) => {
                let ip = ip.to_canonical();
                let width = if ip.is_ipv4() { 32 } else { 128 };
                let prefix = length.map_or(Some(width), |digits| digits.parse().ok().filter(|prefix| *prefix <= width));
                let prefix = prefix.ok_or_else(|| bad("the prefix length is out of range"))?;
                let network = masked(ip, prefix).ok_or_else(|| bad("the prefix length is out of range"))?;
                if network != ip {
                    return Err(bad(&format!("the network of that length is {network}/{prefix}")));
                }
                Host::Net { network, prefix }
            }
            (_, Err(_)) if is_name(host, true) => Host::Glob(plain(host)),
            (_, Err(_)) => {
                return Err(bad("a name has letters, digits, hyphens and dots, and * or ? for any; others are written as xn--…"));
            }
        };
        Ok(Pattern { host, ports })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.host {
            Host::Any => "*".to_owned(),
            Host::Glob(pattern) => pattern.clone(),
            Host::Net { network, prefix } if *prefix == if network.is_ipv4() { 32 } else { 128 } => network.to_string(),
            Host::Net { network, prefix } => format!("{network}/{prefix}"),
        };
        let Ports { first, last } = self.ports;
        match (self.ports == Ports::ALL, host.contains(':')) {
            (true, _) => return f.write_str(&host),
            (false, true) => write!(f, "[{host}]:{first}")?,
            (false, false) => write!(f, "{host}:{first}")?,
        }
        if last == first { Ok(()) } else { write!(f, "-{last}") }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The host, and the ports where there are some. IPv6 has its ports only behind brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, ports)) => (host, Some(ports.strip_prefix(':').unwrap_or(ports))),
        None if text.matches(':').count() == 1 => text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports))),
        None => (text, None),
    }
}

fn parse_ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let plain = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten();
    let ports = Ports { first: plain(first)?, last: plain(last)? };
    (ports.first > 0 && ports.first <= ports.last).then_some(ports)
}

fn masked(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    Some(match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32u32.checked_sub(prefix)?).unwrap_or(0)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128u32.checked_sub(prefix)?).unwrap_or(0)).into(),
    })
}

/// As names are compared: in small letters, without the root's dot.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether it can be a name, or a pattern of names. One that ends in a number was meant as an address.
fn is_name(host: &str, pattern: bool) -> bool {
    let fits = |b: u8| is_host_byte(b) || pattern && matches!(b, b'*' | b'?');
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(fits);
    host.len() <= MAX_GLOB && host.split('.').all(label) && host.rsplit('.').next().is_none_or(|last| last.parse::<u64>().is_err())
}

fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

/// Refuses a pattern that no name could match.
pub fn check_glob(pattern: &str) -> std::result::Result<(), String> {
    let fits = |b: u8| is_host_byte(b) || matches!(b, b'*' | b'?');
    if pattern.is_empty() || pattern.len() > MAX_GLOB || !pattern.bytes().all(fits) {
        return Err(format!("`{}` cannot be a name; write letters, digits, - and _, and * or ? for any", pattern.escape_debug()));
    }
    Ok(())
}

/// Whether a name matches: `*` stands for any characters or none, `?` for one. Takes at most pattern × name steps.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last star stood, and up to where it has swallowed.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    n = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covers(pattern: &str, to: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().covers(&to.parse().unwrap())
    }

    #[test]
    fn names_networks_and_ports() {
        for (pattern, to) in [
            ("*", "example.org:1"),
            ("*", "[::1]:65535"),
            ("*:443", "example.org:443"),
            ("*.example.org", "a.b.example.org:80"),
            ("Example.ORG:443", "example.org.:443"),
            ("example.org", "EXAMPLE.org:22"),
            ("10.0.0.0/8", "10.9.8.7:1"),
            ("10.0.0.0/8", "[::ffff:10.9.8.7]:1"),
            ("[fd00::/8]:80-90", "[fd12::1]:85"),
            ("2001:db8::1", "[2001:db8::1]:5"),
            ("192.0.2.1:443", "192.0.2.1:443"),
        ] {
            assert!(covers(pattern, to), "{pattern} should cover {to}");
        }
        for (pattern, to) in [
            ("*:443", "example.org:80"),
            ("*.example.org", "example.org:80"),
            ("*.example.org", "evil-example.org:80"),
            ("10.0.0.0/8", "11.0.0.1:1"),
            ("10.0.0.0/8", "ten.example:1"),
            ("192.0.2.1", "192.0.2.1.example:1"),
            ("[fd00::/8]:80-90", "[fd12::1]:91"),
        ] {
            assert!(!covers(pattern, to), "{pattern} should not cover {to}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in [
            "",
            ":",
            "a b",
            "*:0",
            "*:65536",
            "*:9-8",
            "*:+1",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "[::1",
            "[::1]80x",
            "a/8",
            "é.example",
            &"a".repeat(256),
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
        for text in ["", "example.org", "example.org:0", "example.org:x", "::1:80", "a b:1", "*:1", "[example.org]:1"] {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_star_storm_costs_no_time() {
        let pattern = "*a".repeat(120);
        assert!(!glob(&pattern, &"a".repeat(119)));
        assert!(glob(&pattern, &"a".repeat(255)));
    }

    proptest! {
        #[test]
        fn patterns_are_written_as_they_are_read(text in "[a-c*?.]{1,9}(:[0-9]{1,5}(-[0-9]{1,5})?)?|[0-9]{1,3}\\.0\\.0\\.0/[0-9]{1,2}(:80)?|\\[fd[0-9]{2}::\\]:8") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
            }
        }

        /// Against the definition by recursion.
        #[test]
        fn glob_is_what_it_says(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            fn slow(p: &[u8], n: &[u8]) -> bool {
                match (p, n) {
                    ([], _) => n.is_empty(),
                    ([b'*', rest @ ..], _) => slow(rest, n) || (!n.is_empty() && slow(p, &n[1..])),
                    ([b'?', p @ ..], [_, n @ ..]) => slow(p, n),
                    ([a, p @ ..], [b, n @ ..]) => a == b && slow(p, n),
                    (_, []) => false,
                }
            }
            prop_assert_eq!(glob(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn every_example_is_covered(text in "[a-c*?]{1,3}(\\.[a-c*?]{1,3})?(:[1-9][0-9]{0,3})?") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert!(pattern.covers(&pattern.example()), "{}", pattern);
            }
        }
    }
}

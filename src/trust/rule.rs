//! One line of a list of destinations that names addresses: a network, with one port or any.

use crate::error::{Code, Error};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Rules that one list may hold; far above what a person writes, far below what would slow a look-up.
pub const MAX_RULES: usize = 256;

/// One line of an allow-list: an address or a network, with one port or any.
///
/// ```
/// use portdistrict::trust::Rule;
/// let rule: Rule = "10.0.0.0/8:8080".parse()?;
/// assert!(rule.covers("10.1.2.3".parse().unwrap(), 8080));
/// assert!(!rule.covers("10.1.2.3".parse().unwrap(), 80));
/// # Ok::<(), portdistrict::error::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    network: IpAddr,
    prefix: u8,
    port: Option<u16>,
}

impl Rule {
    /// Whether the rule covers this address and port.
    pub fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && masked(ip.to_canonical(), self.prefix) == Some(self.network)
    }

    /// Covers it and is about this one address, not about a network that happens to contain it.
    pub fn names(&self, ip: IpAddr, port: u16) -> bool {
        self.prefix == width(ip.to_canonical()) && self.covers(ip, port)
    }

    /// The one port that it is about; none for any.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Reads a list of rules, as in a config file or a policy message.
    pub fn parse_list<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Rule>, Error> {
        if texts.len() > MAX_RULES {
            return Err(Error::new(Code::Usage, format!("{} rules in one list, at most {MAX_RULES} are allowed", texts.len()))
                .hint("cover several addresses with one network, as in 10.0.0.0/8"));
        }
        texts.iter().map(|text| text.as_ref().parse()).collect()
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::new(Code::Usage, format!("`{}` is no rule for destinations: {why}", text.escape_debug()))
                .hint("write an address or a network, with or without a port: 10.1.2.3:80, 10.0.0.0/8, [fd00::1]:443, 10.0.0.0/8:8080")
        };
        let (host, port) = split_port(text.trim()).ok_or_else(|| bad("the port must be a number from 1 to 65535"))?;
        let (address, prefix) = match host.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (host, None),
        };
        let ip: IpAddr =
            address.parse().map_err(|_| bad("names are not taken here, only addresses, since a name can change what it means"))?;
        if ip != ip.to_canonical() {
            return Err(bad(&format!("write it as {}", ip.to_canonical())));
        }
        let prefix = match prefix {
            None => width(ip),
            Some(digits) => digits.parse().ok().filter(|p| *p <= width(ip)).ok_or_else(|| bad("the prefix length is out of range"))?,
        };
        match masked(ip, prefix) {
            Some(network) if network == ip => Ok(Rule { network, prefix, port }),
            Some(network) => Err(bad(&format!("the network of that length is {network}/{prefix}"))),
            None => Err(bad("the prefix length is out of range")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut host = self.network.to_string();
        if self.prefix < width(self.network) {
            host = format!("{host}/{}", self.prefix);
        }
        match self.port {
            None => f.write_str(&host),
            Some(port) if self.network.is_ipv6() => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Splits off `:port`; IPv6 has its port only behind brackets. `None` if the port is wrong.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else if text.matches(':').count() == 1 {
        let (host, port) = text.split_once(':')?;
        (host, Some(port))
    } else {
        (text, None)
    };
    match port {
        None => Some((host, None)),
        Some(digits) => digits.parse().ok().filter(|port| *port != 0).map(|port| (host, Some(port))),
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The network of this length around the address; `None` if the family has no such length.
fn masked(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(prefix.into())?).unwrap_or(0);
            Some(IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask)))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(prefix.into())?).unwrap_or(0);
            Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask)))
        }
    }
}

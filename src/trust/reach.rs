//! Where a grant lets its guest go: lists of names and networks that only narrow what the node allows.
//!
//! A name is judged before it is resolved, and each address that it leads to after, before it is tried. A rule for a name
//! says nothing about an address that is asked for as such, and the other way round: whoever must not reach a service at
//! all is denied its networks.

use super::rule::Rule;
use crate::error::{Code, Error, Result};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One destination in a list: a network, a name with `*` for any letters, or everything; with one port or any.
///
/// ```
/// use portdistrict::trust::Destination;
/// let rule: Destination = "*.example.org:443".parse()?;
/// assert!(rule.is_name("www.Example.org.", 443));
/// assert!(!rule.is_name("example.org", 443) && !rule.is_name("www.example.org", 80));
/// # Ok::<(), portdistrict::error::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Addresses.
    Network(Rule),
    /// Names, in small letters, that match a pattern.
    Name(String, Option<u16>),
    /// Whatever it is, at this port.
    Any(Option<u16>),
}

impl Destination {
    /// Whether it covers this name (or, for [`Destination::Any`], whatever is asked for) at this port.
    pub fn is_name(&self, host: &str, port: u16) -> bool {
        match self {
            Destination::Network(_) => false,
            Destination::Name(pattern, own) => own.is_none_or(|own| own == port) && matches(pattern, &plain(host)),
            Destination::Any(own) => own.is_none_or(|own| own == port),
        }
    }

    /// Whether it covers this address at this port, as an address.
    pub fn is_address(&self, ip: IpAddr, port: u16) -> bool {
        matches!(self, Destination::Network(rule) if rule.covers(ip, port))
    }

    fn is_network(&self) -> bool {
        matches!(self, Destination::Network(_))
    }
}

/// As names are compared: in small letters, without the root's dot.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether a text is of a pattern in which `*` stands for any letters, also none. In linear time for one star, and never
/// worse than the product of both lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(Code::Usage, format!("`{}` is no destination: {why}", text.escape_debug()))
                .hint("write a name or a network, with or without a port: *.example.org:443, example.org, 10.0.0.0/8:8080, [2001:db8::1]:443, *:443")
        };
        let text = text.trim();
        let (host, port) = match text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']')) {
            Some((host, port)) => {
                (host, Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad("the port must be a number from 1 to 65535"))?))
            }
            None => (text, None),
        };
        let is_address =
            |host: &str| host.contains([':', '/', '[']) || host.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_ok());
        match host {
            "*" => Ok(Destination::Any(port)),
            host if is_address(host) => text.parse().map(Destination::Network),
            host => {
                let host = plain(host);
                let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*' | b'.');
                let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(letter);
                if host.len() > 253 || !host.split('.').all(label) {
                    return Err(bad("a name has letters, digits, hyphens and dots; others are written as xn--…"));
                }
                Ok(Destination::Name(host, port))
            }
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = match self {
            Destination::Network(rule) => return rule.fmt(f),
            Destination::Name(host, port) => (host.as_str(), port),
            Destination::Any(port) => ("*", port),
        };
        match port {
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(host),
        }
    }
}

/// The destinations of a grant and of all who narrowed it: one must be met in each list, none among the denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    allow: Vec<Vec<Destination>>,
    deny: Vec<Destination>,
}

/// What is left to ask after the name was judged: the lists in which an address must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByName(Vec<usize>);

impl Reach {
    /// Reads the lists of a grant's terms.
    pub fn parse(allow: &[Vec<String>], deny: &[String]) -> Result<Reach> {
        let list = |texts: &Vec<String>| texts.iter().map(|text| text.parse()).collect::<Result<Vec<Destination>>>();
        Ok(Reach {
            allow: allow.iter().map(list).collect::<Result<_>>()?,
            deny: deny.iter().map(|text| text.parse()).collect::<Result<_>>()?,
        })
    }

    /// Judges what was asked for, a name or an address in words, before anything is resolved; `None` refuses it.
    pub fn of_name(&self, host: &str, port: u16) -> Option<ByName> {
        let asked_as_address = host.parse::<IpAddr>().is_ok();
        let met = |rule: &Destination| match rule {
            Destination::Name(..) => !asked_as_address && rule.is_name(host, port),
            other => other.is_name(host, port),
        };
        if self.deny.iter().any(met) {
            return None;
        }
        let mut open = Vec::new();
        for (n, list) in self.allow.iter().enumerate().filter(|(_, list)| !list.iter().any(met)) {
            if !list.iter().any(Destination::is_network) {
                return None;
            }
            open.push(n);
        }
        Some(ByName(open))
    }

    /// Judges one address to which it leads.
    pub fn of_address(&self, by_name: &ByName, ip: IpAddr, port: u16) -> bool {
        let covers = |list: &[Destination]| list.iter().any(|rule| rule.is_address(ip, port));
        !covers(&self.deny) && by_name.0.iter().all(|n| covers(&self.allow[*n]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reach(allow: &[&[&str]], deny: &[&str]) -> Reach {
        let own = |list: &&[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Reach::parse(&allow.iter().map(own).collect::<Vec<_>>(), &own(&deny)).unwrap()
    }

    fn goes(reach: &Reach, host: &str, ip: &str, port: u16) -> bool {
        let ip = ip.parse().unwrap();
        reach.of_name(host, port).is_some_and(|by_name| reach.of_address(&by_name, ip, port))
    }

    #[test]
    fn destinations_read_and_show_alike() {
        for text in [
            "*.example.org:443",
            "example.org",
            "10.0.0.0/8:8080",
            "10.1.2.3",
            "[2001:db8::1]:443",
            "2001:db8::/32",
            "*:443",
            "*",
            "api-*.test",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert_eq!("WWW.Example.ORG.:80".parse::<Destination>().unwrap().to_string(), "www.example.org:80");
        for text in
            ["", "a..b", "exa mple", "example.org:0", "example.org:70000", "10.0.0.1/8", "1.2.3", "bücher.example", "tcp:443:1", "[::1"]
        {
            let error = text.parse::<Destination>().unwrap_err();
            assert!(error.code() == Code::Usage && error.hint_text().is_some(), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_any_letters() {
        for (pattern, text, expected) in [
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "evilexample.org", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn names_are_judged_before_and_addresses_after() {
        let by_name = reach(&[&["*.example.org:443", "192.0.2.0/24"]], &[]);
        assert!(goes(&by_name, "www.example.org", "203.0.113.1", 443));
        assert!(!goes(&by_name, "www.example.org", "203.0.113.1", 80), "the port counts");
        assert!(goes(&by_name, "other.test", "192.0.2.7", 80) && !goes(&by_name, "other.test", "203.0.113.1", 80));
        let names_only = reach(&[&["*.example.org"]], &[]);
        assert_eq!(names_only.of_name("other.test", 443), None, "refused before it is resolved");
        assert_eq!(names_only.of_name("203.0.113.1", 443), None);
        assert!(goes(&reach(&[&["*:443"]], &[]), "203.0.113.1", "203.0.113.1", 443));
    }

    #[test]
    fn what_is_denied_is_denied_whatever_is_allowed() {
        let denied = reach(&[&["*"]], &["ads.example.org", "203.0.113.0/24", "*:25"]);
        assert!(!goes(&denied, "ADS.example.org.", "192.0.2.1", 443));
        assert!(!goes(&denied, "other.test", "203.0.113.9", 443), "another name for a denied address");
        assert!(!goes(&denied, "::ffff:203.0.113.9", "::ffff:203.0.113.9", 443));
        assert!(!goes(&denied, "other.test", "192.0.2.1", 25) && goes(&denied, "other.test", "192.0.2.1", 443));
    }

    #[test]
    fn each_list_must_be_met() {
        let both = reach(&[&["*.org", "10.0.0.0/8"], &["*.example.org", "10.1.0.0/16"]], &[]);
        assert!(goes(&both, "a.example.org", "203.0.113.1", 80) && !goes(&both, "other.org", "203.0.113.1", 80));
        assert!(goes(&both, "10.1.2.3", "10.1.2.3", 80) && !goes(&both, "10.2.2.3", "10.2.2.3", 80));
    }

    proptest! {
        #[test]
        fn any_text_is_a_destination_or_an_error(text in "[a-z0-9.:/*\\[\\]-]{0,30}") {
            if let Ok(rule) = text.parse::<Destination>() {
                prop_assert_eq!(rule.to_string().parse::<Destination>().unwrap(), rule);
            }
        }

        #[test]
        fn another_list_never_widens(host in "(a|b|c)\\.(org|test)", port in prop_oneof![Just(80u16), Just(443)], ip in any::<[u8; 4]>(), list in 0usize..4) {
            let lists: [&[&str]; 4] = [&["*.org"], &["a.*:443", "0.0.0.0/1"], &["128.0.0.0/1"], &["*"]];
            let ip = std::net::Ipv4Addr::from(ip).to_string();
            let (wide, narrow) = (reach(&[lists[0]], &[]), reach(&[lists[0], lists[list]], &["b.org"]));
            prop_assert!(goes(&wide, &host, &ip, port) || !goes(&narrow, &host, &ip, port));
        }
    }
}

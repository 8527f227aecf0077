//! Where a grant lets its guest go: lists of names and networks that only narrow what the node allows.
//!
//! A name is judged before it is resolved, and each address that it leads to after, before it is tried. A rule for a name
//! says nothing about an address that is asked for as such, and the other way round: whoever must not reach a service at
//! all is denied its networks.

use crate::config::{Destination, Pattern};
use crate::error::Result;
use std::net::IpAddr;

/// The destinations of a grant and of all who narrowed it: one must be met in each list, none among the denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    allow: Vec<Vec<Pattern>>,
    deny: Vec<Pattern>,
}

/// What is left to ask after the name was judged: the lists in which an address must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByName(Vec<usize>);

impl Reach {
    /// Reads the lists of a grant's terms.
    pub fn parse(allow: &[Vec<String>], deny: &[String]) -> Result<Reach> {
        let list = |texts: &Vec<String>| texts.iter().map(|text| text.parse()).collect::<Result<Vec<Pattern>>>();
        Ok(Reach {
            allow: allow.iter().map(list).collect::<Result<_>>()?,
            deny: deny.iter().map(|text| text.parse()).collect::<Result<_>>()?,
        })
    }

    /// Judges what was asked for, a name or an address in words, before anything is resolved; `None` refuses it.
    pub fn of_name(&self, host: &str, port: u16) -> Option<ByName> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return Some(ByName(Vec::new()));
        }
        // A rule for a name says nothing about an address that is asked for as such.
        let asked = Destination { ip: None, ..Destination::asked(host, port) };
        let met = |rule: &Pattern| rule.covers(&asked);
        if self.deny.iter().any(met) {
            return None;
        }
        let mut open = Vec::new();
        for (n, list) in self.allow.iter().enumerate().filter(|(_, list)| !list.iter().any(met)) {
            if !list.iter().any(Pattern::needs_address) {
                return None;
            }
            open.push(n);
        }
        Some(ByName(open))
    }

    /// Judges one address to which it leads.
    pub fn of_address(&self, by_name: &ByName, ip: IpAddr, port: u16) -> bool {
        let to = Destination { name: None, ip: Some(ip), port };
        let covers = |list: &[Pattern]| list.iter().any(|rule| rule.covers(&to));
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
        fn another_list_never_widens(host in "(a|b|c)\\.(org|test)", port in prop_oneof![Just(80u16), Just(443)], ip in any::<[u8; 4]>(), list in 0usize..4) {
            let lists: [&[&str]; 4] = [&["*.org"], &["a.*:443", "0.0.0.0/1"], &["128.0.0.0/1"], &["*"]];
            let ip = std::net::Ipv4Addr::from(ip).to_string();
            let (wide, narrow) = (reach(&[lists[0]], &[]), reach(&[lists[0], lists[list]], &["b.org"]));
            prop_assert!(goes(&wide, &host, &ip, port) || !goes(&narrow, &host, &ip, port));
        }
    }
}

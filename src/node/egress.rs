//! Where a node lets its guests go: one pure question, `Policy::check(address, port)`, asked for every address tried.
//!
//! The question is put after resolution and again for each address, so a name that resolves elsewhere the second time
//! (DNS rebinding) gains nothing. IPv6 is default-deny outside global unicast; forms that carry an IPv4 address are
//! judged by the address they carry.

pub use crate::trust::{MAX_RULES, Rule};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why a destination is refused; the name goes into the node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 127/8, ::1
    Loopback,
    /// 10/8, 172.16/12, 192.168/16
    Private,
    /// 100.64/10 (RFC 6598)
    Shared,
    /// 169.254/16, fe80::/10
    LinkLocal,
    /// fc00::/7
    UniqueLocal,
    /// 224/4, ff00::/8
    Multicast,
    /// Addresses at which clouds hand secrets to a machine.
    Metadata,
    /// 0/8, 240/4, broadcast, documentation, benchmarks, tunnels that cannot be judged, everything outside 2000::/3.
    Reserved,
    /// Port 25: an exit that can send mail is an exit on every block list.
    MailPort,
    /// The node's own listening port.
    OwnPort,
    /// Port 0 cannot be connected to.
    PortZero,
    /// Outside what the grant itself allows.
    Grant,
    /// Outside what the owner's policy allows.
    Rules,
}

impl Reason {
    /// The name in logs; never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Loopback => "loopback",
            Reason::Private => "private",
            Reason::Shared => "shared",
            Reason::LinkLocal => "link-local",
            Reason::UniqueLocal => "unique-local",
            Reason::Multicast => "multicast",
            Reason::Metadata => "metadata",
            Reason::Reserved => "reserved",
            Reason::MailPort => "mail-port",
            Reason::OwnPort => "own-port",
            Reason::PortZero => "port-zero",
            Reason::Grant => "outside-grant",
            Reason::Rules => "policy",
        }
    }
}

/// The answer for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// May be connected to.
    Allowed,
    /// Must not be connected to.
    Refused(Reason),
}

/// What a node lets through beyond the public internet, and what it never does.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    allow: Vec<Rule>,
    own: Vec<SocketAddr>,
}

impl Policy {
    /// `own` are the addresses at which the node listens; an unspecified address there means every address of the machine
    /// that can be told from its form (loopback), the caller asks the kernel about the others.
    pub fn new(allow: Vec<Rule>, own: Vec<SocketAddr>) -> Self {
        Policy { allow, own }
    }

    /// The allow-list.
    pub fn allow(&self) -> &[Rule] {
        &self.allow
    }

    /// Replaces the allow-list and keeps the own addresses.
    #[must_use]
    pub fn with_allow(&self, allow: Vec<Rule>) -> Self {
        Policy { allow, own: self.own.clone() }
    }

    /// Whether the node listens at this port, at whatever address.
    pub fn is_own_port(&self, port: u16) -> bool {
        self.own.iter().any(|own| own.port() == port)
    }

    /// May a guest be connected to this address and port?
    ///
    /// The node's own port is refused whatever the list says. Port 25 needs a rule with that very port, a metadata
    /// address a rule with that very address, so that `0.0.0.0/0` opens neither by accident.
    pub fn check(&self, ip: IpAddr, port: u16) -> Verdict {
        let ip = ip.to_canonical();
        if port == 0 {
            return Verdict::Refused(Reason::PortZero);
        }
        if self.is_own(ip, port) {
            return Verdict::Refused(Reason::OwnPort);
        }
        let named = |rule: &&Rule| rule.covers(ip, port);
        match classify(ip) {
            Some(Reason::Metadata) if self.allow.iter().any(|rule| rule.names(ip, port)) => {}
            Some(Reason::Metadata) => return Verdict::Refused(Reason::Metadata),
            Some(reason) if !self.allow.iter().any(|rule| named(&rule)) => return Verdict::Refused(reason),
            _ => {}
        }
        if port == 25 && !self.allow.iter().any(|rule| rule.port() == Some(25) && named(&rule)) {
            return Verdict::Refused(Reason::MailPort);
        }
        Verdict::Allowed
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.iter().filter(|own| own.port() == port).any(|own| {
            let listens = own.ip().to_canonical();
            listens == ip || ip.is_unspecified() || (listens.is_unspecified() && ip.is_loopback())
        })
    }
}

/// What kind of special address this is; `None` for the public internet.
fn classify(ip: IpAddr) -> Option<Reason> {
    match ip {
        IpAddr::V4(ip) => classify_v4(ip),
        IpAddr::V6(ip) => classify_v6(ip),
    }
}

/// IANA's IPv4 special-purpose registry, and the addresses where clouds keep a machine's secrets.
fn classify_v4(ip: Ipv4Addr) -> Option<Reason> {
    match ip.octets() {
        // EC2, GCE, Azure and most others; ECS; Alibaba; Oracle; Azure's wire server, the one in public space.
        [169, 254, 169, 254] | [169, 254, 170, 2] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Some(Reason::Metadata),
        [127, ..] => Some(Reason::Loopback),
        [10, ..] | [192, 168, ..] => Some(Reason::Private),
        [172, b, ..] if b & 0xf0 == 16 => Some(Reason::Private),
        [100, b, ..] if b & 0xc0 == 64 => Some(Reason::Shared),
        [169, 254, ..] => Some(Reason::LinkLocal),
        [224..=239, ..] => Some(Reason::Multicast),
        // "This network", future use and broadcast, protocol assignments, documentation, 6to4 relays, benchmarks.
        [0 | 240..=255, ..] | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => {
            Some(Reason::Reserved)
        }
        _ => None,
    }
}

/// Global unicast (2000::/3) only, less what inside it is special; forms that carry IPv4 are judged by what they carry.
fn classify_v6(ip: Ipv6Addr) -> Option<Reason> {
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Some(Reason::Metadata),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Reason::Loopback),
        // IPv4-compatible (RFC 4291 §2.5.5.1, deprecated) and IPv4-translated (RFC 2765): never routed in public.
        [0, 0, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(classify_v4(embedded(high, low)).unwrap_or(Reason::Reserved))
        }
        // NAT64 (RFC 6052) leads to the IPv4 address it carries; its local-use range (RFC 8215) leads anywhere.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => classify_v4(embedded(high, low)),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => classify_v4(embedded(high, low)),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some(Reason::LinkLocal),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some(Reason::UniqueLocal),
        [first, ..] if first & 0xff00 == 0xff00 => Some(Reason::Multicast),
        // Teredo, ORCHID and other protocol assignments (2001::/23), documentation (RFC 3849, RFC 9637).
        [0x2001, second, ..] if second < 0x200 => Some(Reason::Reserved),
        [0x2001, 0xdb8, ..] => Some(Reason::Reserved),
        [0x3fff, second, ..] if second < 0x1000 => Some(Reason::Reserved),
        [first, ..] if first & 0xe000 != 0x2000 => Some(Reason::Reserved),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(allow: &[&str]) -> Policy {
        Policy::new(Rule::parse_list(allow).unwrap(), vec!["0.0.0.0:4433".parse().unwrap(), "[2a00:1::9]:4434".parse().unwrap()])
    }

    fn verdict(policy: &Policy, destination: &str) -> Option<&'static str> {
        let address: SocketAddr = destination.parse().unwrap();
        match policy.check(address.ip(), address.port()) {
            Verdict::Allowed => None,
            Verdict::Refused(reason) => Some(reason.as_str()),
        }
    }

    #[test]
    fn default_policy_by_table() {
        let policy = policy(&[]);
        let table = [
            // The public internet, and the neighbours of every special range.
            ("1.1.1.1:443", None),
            ("9.255.255.255:80", None),
            ("11.0.0.0:80", None),
            ("100.63.255.255:80", None),
            ("100.128.0.0:80", None),
            ("126.255.255.255:80", None),
            ("128.0.0.0:80", None),
            ("169.253.255.255:80", None),
            ("169.255.0.0:80", None),
            ("172.15.255.255:80", None),
            ("172.32.0.0:80", None),
            ("192.167.255.255:80", None),
            ("192.169.0.0:80", None),
            ("198.17.255.255:80", None),
            ("198.20.0.0:80", None),
            ("223.255.255.255:80", None),
            ("[2606:4700::1111]:443", None),
            ("[2001:200::1]:80", None),
            ("[2a00:1::9]:443", None),
            // The special ranges, first and last address.
            ("0.0.0.0:80", Some("reserved")),
            ("0.255.255.255:80", Some("reserved")),
            ("10.0.0.0:80", Some("private")),
            ("10.255.255.255:80", Some("private")),
            ("100.64.0.0:80", Some("shared")),
            ("100.127.255.255:80", Some("shared")),
            ("127.0.0.1:80", Some("loopback")),
            ("127.255.255.255:80", Some("loopback")),
            ("169.254.0.0:80", Some("link-local")),
            ("169.254.255.255:80", Some("link-local")),
            ("172.16.0.0:80", Some("private")),
            ("172.31.255.255:80", Some("private")),
            ("192.168.0.0:80", Some("private")),
            ("192.168.255.255:80", Some("private")),
            ("192.0.0.1:80", Some("reserved")),
            ("192.0.2.1:80", Some("reserved")),
            ("192.88.99.1:80", Some("reserved")),
            ("198.18.0.0:80", Some("reserved")),
            ("198.19.255.255:80", Some("reserved")),
            ("198.51.100.1:80", Some("reserved")),
            ("203.0.113.1:80", Some("reserved")),
            ("224.0.0.0:80", Some("multicast")),
            ("239.255.255.255:80", Some("multicast")),
            ("240.0.0.0:80", Some("reserved")),
            ("255.255.255.255:80", Some("reserved")),
            // Metadata.
            ("169.254.169.254:80", Some("metadata")),
            ("169.254.170.2:80", Some("metadata")),
            ("100.100.100.200:80", Some("metadata")),
            ("192.0.0.192:80", Some("metadata")),
            ("168.63.129.16:32526", Some("metadata")),
            ("[fd00:ec2::254]:80", Some("metadata")),
            ("[fd20:ce::254]:80", Some("metadata")),
            // IPv6.
            ("[::]:80", Some("reserved")),
            ("[::1]:80", Some("loopback")),
            ("[fe80::1]:80", Some("link-local")),
            ("[febf::1]:80", Some("link-local")),
            ("[fec0::1]:80", Some("reserved")),
            ("[fc00::1]:80", Some("unique-local")),
            ("[fdff::1]:80", Some("unique-local")),
            ("[ff02::1]:80", Some("multicast")),
            ("[100::1]:80", Some("reserved")),
            ("[2001::1]:80", Some("reserved")),
            ("[2001:db8::1]:80", Some("reserved")),
            ("[3fff::1]:80", Some("reserved")),
            ("[4000::1]:80", Some("reserved")),
            // Forms that carry IPv4.
            ("[::ffff:127.0.0.1]:80", Some("loopback")),
            ("[::ffff:10.0.0.1]:80", Some("private")),
            ("[::ffff:169.254.169.254]:80", Some("metadata")),
            ("[::ffff:1.1.1.1]:80", None),
            ("[::127.0.0.1]:80", Some("loopback")),
            ("[::1.1.1.1]:80", Some("reserved")),
            ("[::ffff:0:10.0.0.1]:80", Some("private")),
            ("[64:ff9b::10.0.0.1]:80", Some("private")),
            ("[64:ff9b::169.254.169.254]:80", Some("metadata")),
            ("[64:ff9b::1.1.1.1]:80", None),
            ("[64:ff9b:1::1.1.1.1]:80", Some("reserved")),
            ("[2002:7f00:1::1]:80", Some("loopback")),
            ("[2002:a00:1::]:80", Some("private")),
            ("[2002:101:101::1]:80", None),
            // Ports.
            ("1.1.1.1:25", Some("mail-port")),
            ("1.1.1.1:24", None),
            ("1.1.1.1:26", None),
            ("[2606:4700::1111]:25", Some("mail-port")),
            ("1.1.1.1:0", Some("port-zero")),
            // The node itself.
            ("127.0.0.1:4433", Some("own-port")),
            ("[::ffff:127.0.0.1]:4433", Some("own-port")),
            ("[2a00:1::9]:4434", Some("own-port")),
        ];
        for (destination, expected) in table {
            assert_eq!(verdict(&policy, destination), expected, "{destination}");
        }
    }

    #[test]
    fn allow_list_by_table() {
        let policy = policy(&["10.1.2.3:80", "127.0.0.0/8", "[fd00::1]:443", "192.168.0.0/16:8080", "1.2.3.4:25", "169.254.0.0/16"]);
        let table = [
            ("10.1.2.3:80", None),
            ("[::ffff:10.1.2.3]:80", None),
            ("10.1.2.3:81", Some("private")),
            ("10.1.2.4:80", Some("private")),
            ("127.9.9.9:1", None),
            ("127.0.0.1:4433", Some("own-port")),
            ("127.0.0.1:25", Some("mail-port")),
            ("[fd00::1]:443", None),
            ("[fd00::2]:443", Some("unique-local")),
            ("192.168.7.7:8080", None),
            ("192.168.7.7:80", Some("private")),
            ("1.2.3.4:25", None),
            ("1.2.3.5:25", Some("mail-port")),
            ("169.254.1.1:80", None),
            // A network that contains it does not name it.
            ("169.254.169.254:80", Some("metadata")),
            // Nor does a rule for an address open another form that leads there.
            ("[64:ff9b::10.1.2.3]:80", Some("private")),
        ];
        for (destination, expected) in table {
            assert_eq!(verdict(&policy, destination), expected, "{destination}");
        }
        let metadata = policy.with_allow(Rule::parse_list(&["169.254.169.254:80"]).unwrap());
        assert_eq!(verdict(&metadata, "169.254.169.254:80"), None);
        assert_eq!(verdict(&metadata, "169.254.169.254:443"), Some("metadata"));
    }

    #[test]
    fn everything_allowed_still_keeps_mail_metadata_and_self() {
        let policy = policy(&["0.0.0.0/0", "::/0"]);
        assert_eq!(verdict(&policy, "10.0.0.1:80"), None);
        assert_eq!(verdict(&policy, "[fd00::1]:80"), None);
        assert_eq!(verdict(&policy, "1.1.1.1:25"), Some("mail-port"));
        assert_eq!(verdict(&policy, "169.254.169.254:80"), Some("metadata"));
        assert_eq!(verdict(&policy, "127.0.0.1:4433"), Some("own-port"));
    }

    #[test]
    fn rules_read_and_print() {
        for text in [
            "10.1.2.3",
            "10.1.2.3:80",
            "10.0.0.0/8",
            "10.0.0.0/8:8080",
            "fd00::1",
            "[fd00::1]:443",
            "fd00::/8",
            "[fd00::/8]:443",
            "0.0.0.0/0",
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!(" 10.1.2.3:80 ".parse::<Rule>().unwrap().to_string(), "10.1.2.3:80");
    }

    #[test]
    fn bad_rules_say_why() {
        let table = [
            ("example.org:80", "names are not taken here"),
            ("", "names are not taken here"),
            ("10.1.2.3:0", "from 1 to 65535"),
            ("10.1.2.3:65536", "from 1 to 65535"),
            ("10.1.2.3:", "from 1 to 65535"),
            ("[fd00::1", "from 1 to 65535"),
            ("[fd00::1]443", "from 1 to 65535"),
            ("10.0.0.0/33", "prefix length"),
            ("10.0.0.0/", "prefix length"),
            ("fd00::/129", "prefix length"),
            ("10.1.2.3/8", "the network of that length is 10.0.0.0/8"),
            ("::ffff:10.0.0.1", "write it as 10.0.0.1"),
        ];
        for (text, expected) in table {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.message().contains(expected), "{text}: {error}");
            assert!(error.hint_text().is_some());
        }
        assert!(Rule::parse_list(&vec!["10.0.0.1"; MAX_RULES]).is_ok());
        assert!(Rule::parse_list(&vec!["10.0.0.1"; MAX_RULES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_printing_reads_back(text in "[0-9a-f:./\\[\\]]{0,40}") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
            }
        }

        #[test]
        fn every_embedding_of_a_refused_ipv4_is_refused(bits in any::<u32>(), port in 1u16..) {
            let policy = Policy::default();
            let ip = Ipv4Addr::from_bits(bits);
            if let Verdict::Refused(_) = policy.check(ip.into(), port) {
                let [a, b, c, d] = ip.octets().map(u16::from);
                let (high, low) = (a << 8 | b, c << 8 | d);
                for form in [[0, 0, 0, 0, 0, 0xffff, high, low], [0, 0, 0, 0, 0, 0, high, low], [0x64, 0xff9b, 0, 0, 0, 0, high, low], [0x2002, high, low, 0, 0, 0, 0, 1]] {
                    prop_assert_ne!(policy.check(Ipv6Addr::from(form).into(), port), Verdict::Allowed);
                }
            }
        }
    }
}

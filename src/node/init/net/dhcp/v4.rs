//! DHCPv4 messages (RFC 2131, options of RFC 2132 and 3442): writes a client's, reads a server's.
//!
//! Any neighbour may send an answer, so the reader takes only the options that are needed here, refuses what is
//! malformed instead of guessing, and never looks at names. That is less than a general codec does, and it is all that
//! the first program of a machine should run on a stranger's bytes.

use super::super::refused::Refused;
use super::client::{Answer, Ask, MAC_LEN, Question};
use super::lease::{self, Lease, Route};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Where the options begin: fixed fields (RFC 2131, section 2) and the magic cookie.
const OPTIONS_AT: usize = 240;
/// Marks the options as DHCP's (RFC 2131, section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Shorter messages are dropped by old relays (RFC 1542, section 2.1).
const MIN_LEN: usize = 300;
/// Longest answer we ask for: what fits into one Ethernet frame after the IP and UDP headers.
const MAX_ANSWER: u16 = 1472;
/// Smallest MTU accepted: what every IPv4 host must be able to receive (RFC 791).
const MIN_MTU: u16 = 576;

const MASK: u8 = 1;
const ROUTERS: u8 = 3;
const NAME_SERVERS: u8 = 6;
const MTU: u8 = 26;
const REQUESTED: u8 = 50;
const LEASE_TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const WANTED: u8 = 55;
const MAX_SIZE: u8 = 57;
const RENEWAL_TIME: u8 = 58;
const REBINDING_TIME: u8 = 59;
/// Classless static routes (RFC 3442).
const ROUTES: u8 = 121;
/// What a server is asked for; option 121 before option 3, as RFC 3442 wants it. Nothing else is read.
const PARAMETERS: [u8; 8] = [MASK, ROUTES, ROUTERS, NAME_SERVERS, MTU, LEASE_TIME, RENEWAL_TIME, REBINDING_TIME];

/// Kinds of message (option 53).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Writes a message of ours; which fields it has is the table in RFC 2131, section 4.4.1.
pub(crate) fn write(ask: &Ask<'_>) -> Vec<u8> {
    let address = match ask.lease {
        Some(Lease { address: Some((IpAddr::V4(address), _)), .. }) => *address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let is_held = matches!(ask.question, Question::Renew | Question::Rebind);
    let mut out = vec![1, 1, MAC_LEN as u8, 0]; // a request, over Ethernet, no relay passed
    out.extend(ask.xid.to_be_bytes());
    out.extend(u16::try_from(ask.elapsed.as_secs()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend([0, 0]); // the answer may be unicast: a packet socket hears it
    out.extend(if is_held { address } else { Ipv4Addr::UNSPECIFIED }.octets());
    out.resize(28, 0);
    out.extend(ask.mac);
    out.resize(OPTIONS_AT - COOKIE.len(), 0);
    out.extend(COOKIE);
    put(&mut out, KIND, &[if ask.question == Question::Search { DISCOVER } else { REQUEST }]);
    if let (Question::Accept, Some(offer)) = (ask.question, ask.lease) {
        put(&mut out, REQUESTED, &address.octets());
        put(&mut out, SERVER, &offer.server);
    }
    put(&mut out, MAX_SIZE, &MAX_ANSWER.to_be_bytes());
    put(&mut out, WANTED, &PARAMETERS);
    out.push(255);
    out.resize(out.len().max(MIN_LEN), 0);
    out
}

fn put(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    out.extend([code, value.len() as u8]);
    out.extend(value);
}

/// Reads and judges a message to us; `Ok(None)` if it is for another machine, another question, or no answer at all.
pub(crate) fn read(packet: &[u8], xid: u32, mac: [u8; MAC_LEN]) -> Result<Option<Answer>, Refused> {
    let (Some(head), Some(options)) = (packet.get(..OPTIONS_AT), packet.get(OPTIONS_AT..)) else {
        return Err(Refused::Short(packet.len()));
    };
    let is_ours = head.starts_with(&[2, 1, MAC_LEN as u8]) && head[4..8] == xid.to_be_bytes() && head[28..34] == mac;
    if !is_ours || head[OPTIONS_AT - COOKIE.len()..] != COOKIE {
        return Ok(None);
    }
    let mut found = Options::default();
    found.collect(options)?;
    // The fields for a boot file and a server name may hold more options (RFC 2132, section 9.3).
    let overload = found.fixed::<1>(OVERLOAD)?.map_or(0, |[bits]| bits);
    if overload & 1 != 0 {
        found.collect(&head[108..236])?;
    }
    if overload & 2 != 0 {
        found.collect(&head[44..108])?;
    }
    let kind = found.fixed::<1>(KIND)?.map_or(0, |[kind]| kind);
    if !matches!(kind, OFFER | ACK | NAK) {
        return Ok(None);
    }
    let server = found.address(SERVER)?.ok_or(Refused::Missing(SERVER.into()))?;
    lease::plain(server.into()).map_err(|why| Refused::Server(server.into(), why))?;
    let address = Ipv4Addr::new(head[16], head[17], head[18], head[19]);
    Ok(Some(match kind {
        NAK => Answer::No(server.octets().into()),
        OFFER => Answer::Offer(found.lease(server, address)?),
        _ => Answer::Grant(found.lease(server, address)?),
    }))
}

/// Option values by code; parts of a long option are joined (RFC 3396).
#[derive(Default)]
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    fn collect(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        loop {
            match *bytes {
                [0, ref rest @ ..] => bytes = rest,
                [] | [255, ..] => return Ok(()),
                [code, length, ref rest @ ..] if rest.len() >= usize::from(length) => {
                    let (value, rest) = rest.split_at(length.into());
                    self.0.entry(code).or_default().extend(value);
                    bytes = rest;
                }
                [code, ..] => return Err(Refused::Option(code.into())),
            }
        }
    }

    fn lease(&self, server: Ipv4Addr, address: Ipv4Addr) -> Result<Lease, Refused> {
        let mut notes = Vec::new();
        let prefix = lease::prefix(self.address(MASK)?)?;
        let default = |router: &Ipv4Addr| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(*router) };
        // Option 121 replaces option 3 (RFC 3442).
        let routers = self.addresses(ROUTERS)?;
        let routes = self.routes()?.unwrap_or_else(|| routers.first().map(default).into_iter().collect());
        let given_mtu = self.fixed(MTU)?.map(u16::from_be_bytes);
        let mtu = given_mtu.filter(|mtu| *mtu >= MIN_MTU);
        if mtu != given_mtu {
            notes.push(format!("an MTU of less than {MIN_MTU} is left out"));
        }
        let time = |code| Ok(self.fixed(code)?.map_or(0, u32::from_be_bytes));
        let end = time(LEASE_TIME)?;
        Ok(Lease {
            server: server.octets().into(),
            address: Some(lease::own_address(address.into(), prefix)?),
            routes: lease::routes(&routes, address, prefix, &mut notes),
            name_servers: lease::name_servers(self.addresses(NAME_SERVERS)?, &mut notes),
            mtu,
            times: lease::times(time(RENEWAL_TIME)?, time(REBINDING_TIME)?, end, end)?,
            notes,
        })
    }

    fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, Refused> {
        self.0.get(&code).map(|value| value.as_slice().try_into().map_err(|_| Refused::Option(code.into()))).transpose()
    }

    fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, Refused> {
        Ok(self.fixed::<4>(code)?.map(Ipv4Addr::from))
    }

    fn addresses(&self, code: u8) -> Result<Vec<Ipv4Addr>, Refused> {
        let (list, rest) = self.0.get(&code).map(Vec::as_slice).unwrap_or_default().as_chunks::<4>();
        if rest.is_empty() { Ok(list.iter().copied().map(Ipv4Addr::from).collect()) } else { Err(Refused::Option(code.into())) }
    }

    /// Option 121: for each route the prefix length, the bytes of the destination that it touches, and the gateway.
    fn routes(&self) -> Result<Option<Vec<Route>>, Refused> {
        let Some(mut value) = self.0.get(&ROUTES).map(Vec::as_slice) else { return Ok(None) };
        let mut routes = Vec::new();
        while let [prefix, rest @ ..] = value {
            let significant = usize::from(prefix.div_ceil(8));
            if *prefix > 32 || rest.len() < significant + 4 {
                return Err(Refused::Option(ROUTES.into()));
            }
            let (network, rest) = rest.split_at(significant);
            let mut destination = [0; 4];
            destination[..significant].copy_from_slice(network);
            let gateway = Some(Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3])).filter(|ip| !ip.is_unspecified());
            routes.push(Route { destination: destination.into(), prefix: *prefix, gateway });
            value = &rest[4..];
        }
        Ok(Some(routes))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
    use dhcproto::{Decodable, Encodable};
    use proptest::prelude::*;
    use std::time::Duration;

    pub(crate) const MAC: [u8; MAC_LEN] = [2, 0, 0, 0, 0, 7];
    const XID: u32 = 0x0102_0304;

    /// A server's message, written by another implementation.
    pub(crate) fn message(kind: MessageType, xid: u32, server: [u8; 4], address: [u8; 4], options: &[DhcpOption]) -> Vec<u8> {
        let mut message = Message::new_with_id(xid, [0; 4].into(), address.into(), [0; 4].into(), [0; 4].into(), &MAC);
        message.set_opcode(Opcode::BootReply);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(server.into()));
        options.iter().for_each(|option| drop(message.opts_mut().insert(option.clone())));
        message.to_vec().unwrap()
    }

    fn full() -> Vec<u8> {
        let options = [
            DhcpOption::SubnetMask([255, 255, 255, 0].into()),
            DhcpOption::Router(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]),
            DhcpOption::DomainNameServer(vec![[10, 0, 0, 1].into(), [127, 0, 0, 1].into()]),
            DhcpOption::InterfaceMtu(1460),
            DhcpOption::AddressLeaseTime(3600),
            DhcpOption::Renewal(600),
            DhcpOption::Rebinding(1200),
            DhcpOption::Hostname("evil".into()),
            DhcpOption::DomainName("evil.example".into()),
        ];
        message(MessageType::Ack, XID, [10, 0, 0, 1], [10, 0, 0, 5], &options)
    }

    /// A head that is for us, and these bytes as options.
    fn with_options(options: &[u8]) -> Vec<u8> {
        [&full()[..OPTIONS_AT], options].concat()
    }

    fn lease(packet: &[u8]) -> Lease {
        match read(packet, XID, MAC) {
            Ok(Some(Answer::Grant(lease) | Answer::Offer(lease))) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_answer_is_read() {
        let default = Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some([10, 0, 0, 1].into()) };
        let expected = Lease {
            server: vec![10, 0, 0, 1],
            address: Some((IpAddr::from([10, 0, 0, 5]), 24)),
            routes: vec![default],
            name_servers: vec![[10, 0, 0, 1].into()],
            mtu: Some(1460),
            times: [600, 1200, 3600].map(Duration::from_secs),
            notes: vec!["the name server 127.0.0.1 is left out: it is loopback".into()],
        };
        assert_eq!(read(&full(), XID, MAC), Ok(Some(Answer::Grant(expected))));
        let nak = message(MessageType::Nak, XID, [10, 0, 0, 1], [0; 4], &[]);
        assert_eq!(read(&nak, XID, MAC), Ok(Some(Answer::No(vec![10, 0, 0, 1]))));
    }

    #[test]
    fn answers_to_others_are_passed_over() {
        assert_eq!(read(&full(), XID + 1, MAC), Ok(None));
        assert_eq!(read(&full(), XID, [2, 0, 0, 0, 0, 8]), Ok(None));
        for at in [0, 1, 2, OPTIONS_AT - 1] {
            let mut packet = full();
            packet[at] ^= 0x10;
            assert_eq!(read(&packet, XID, MAC), Ok(None), "byte {at}");
        }
        assert_eq!(read(&message(MessageType::Discover, XID, [10, 0, 0, 1], [0; 4], &[]), XID, MAC), Ok(None));
    }

    #[test]
    fn malformed_options_are_refused_by_number() {
        let good = [53, 1, 5, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16];
        assert_eq!(lease(&with_options(&good)).address, Some(([10, 0, 0, 5].into(), 32)));
        for (bad, refused) in [
            (&[1, 3, 255, 255, 255][..], Refused::Option(1)),
            (&[3, 5, 10, 0, 0, 1, 10], Refused::Option(3)),
            (&[6, 1, 10], Refused::Option(6)),
            (&[26, 1, 9], Refused::Option(26)),
            (&[51, 4, 0, 0, 14, 16], Refused::Option(51)), // twice, so it is twice as long
            (&[121, 5, 33, 10, 0, 0, 1], Refused::Option(121)),
            (&[121, 4, 0, 10, 0, 0], Refused::Option(121)),
            (&[121, 10, 32, 10, 0, 0, 1, 10, 0, 0, 1, 8], Refused::Option(121)), // a second route, cut short,
            (&[26, 200, 1], Refused::Option(26)),
            (&[77], Refused::Option(77)),
            (&[1, 4, 255, 0, 255, 0], Refused::Mask([255, 0, 255, 0].into())),
        ] {
            assert_eq!(read(&with_options(&[&good, bad].concat()), XID, MAC), Err(refused), "{bad:?}");
        }
        assert_eq!(read(&with_options(&good[..3]), XID, MAC), Err(Refused::Missing(54)));
        assert_eq!(read(&with_options(&good[..9]), XID, MAC), Err(Refused::Time(0)));
        let loopback = [53, 1, 5, 54, 4, 127, 0, 0, 1, 51, 4, 0, 0, 14, 16];
        assert_eq!(read(&with_options(&loopback), XID, MAC), Err(Refused::Server([127, 0, 0, 1].into(), "loopback")));
        assert_eq!(read(&full()[..OPTIONS_AT - 1], XID, MAC), Err(Refused::Short(OPTIONS_AT - 1)));
    }

    #[test]
    fn mtu_at_its_bound() {
        for (mtu, used) in [(68, None), (575, None), (576, Some(576)), (1460, Some(1460)), (65535, Some(65535))] {
            let options = [DhcpOption::AddressLeaseTime(60), DhcpOption::InterfaceMtu(mtu)];
            let lease = lease(&message(MessageType::Ack, XID, [10, 0, 0, 1], [10, 0, 0, 5], &options));
            assert_eq!((lease.mtu, lease.notes.len()), (used, usize::from(used.is_none())), "{mtu}");
        }
    }

    #[test]
    fn option_121_goes_before_option_3() {
        let routes = vec![("10.0.0.1/32".parse().unwrap(), [0; 4].into()), ("0.0.0.0/0".parse().unwrap(), [10, 0, 0, 1].into())];
        let options =
            [DhcpOption::AddressLeaseTime(60), DhcpOption::Router(vec![[10, 0, 0, 9].into()]), DhcpOption::ClasslessStaticRoute(routes)];
        let lease = lease(&message(MessageType::Ack, XID, [10, 0, 0, 1], [10, 0, 0, 5], &options));
        assert_eq!(lease.routes.iter().map(Route::to_string).collect::<Vec<_>>(), ["10.0.0.1/32", "0.0.0.0/0 by 10.0.0.1"]);
    }

    #[test]
    fn options_in_other_fields_and_in_parts_are_found() {
        let mut packet = with_options(&[53, 1, 5, 52, 1, 3, 54, 4, 10, 0, 0, 1, 3, 2, 10, 0, 255]);
        packet[108..115].copy_from_slice(&[51, 4, 0, 0, 14, 16, 255]);
        packet[44..49].copy_from_slice(&[3, 2, 0, 1, 255]);
        let lease = lease(&packet);
        assert_eq!(lease.times[2], Duration::from_secs(3600));
        assert_eq!(lease.routes[1].gateway, Some([10, 0, 0, 1].into()));
    }

    #[test]
    fn others_read_what_we_write() {
        let offer = lease(&full());
        let ask = |question, lease| {
            let elapsed = Duration::from_secs(100_000);
            let bytes = write(&Ask { question, xid: XID, mac: MAC, elapsed, lease });
            assert!(bytes.len() >= MIN_LEN);
            Message::from_bytes(&bytes).unwrap()
        };
        let search = ask(Question::Search, None);
        assert_eq!((search.opcode(), search.xid(), search.chaddr(), search.secs()), (Opcode::BootRequest, XID, &MAC[..], u16::MAX));
        assert_eq!(search.opts().msg_type(), Some(MessageType::Discover));
        assert_eq!(search.opts().get(OptionCode::MaxMessageSize), Some(&DhcpOption::MaxMessageSize(MAX_ANSWER)));
        let Some(DhcpOption::ParameterRequestList(wanted)) = search.opts().get(OptionCode::ParameterRequestList) else { panic!() };
        assert_eq!(wanted.iter().map(|code| u8::from(*code)).collect::<Vec<_>>(), PARAMETERS);
        let accept = ask(Question::Accept, Some(&offer));
        assert_eq!((accept.opts().msg_type(), accept.ciaddr()), (Some(MessageType::Request), Ipv4Addr::UNSPECIFIED));
        assert_eq!(accept.opts().get(OptionCode::RequestedIpAddress), Some(&DhcpOption::RequestedIpAddress([10, 0, 0, 5].into())));
        assert_eq!(accept.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier([10, 0, 0, 1].into())));
        for question in [Question::Renew, Question::Rebind] {
            let renew = ask(question, Some(&offer));
            assert_eq!((renew.opts().msg_type(), renew.ciaddr()), (Some(MessageType::Request), [10, 0, 0, 5].into()));
            assert!(!renew.opts().contains(OptionCode::RequestedIpAddress) && !renew.opts().contains(OptionCode::ServerIdentifier));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = read(&bytes, XID, MAC);
        }

        #[test]
        fn any_options_are_survived(options in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = read(&with_options(&options), XID, MAC);
        }

        /// Right codes with any values reach the deepest code.
        #[test]
        fn any_values_are_survived(
            values in prop::collection::vec((prop::sample::select(PARAMETERS.to_vec()), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let mut options = vec![53, 1, 2, 54, 4, 10, 0, 0, 1];
            values.iter().for_each(|(code, value)| put(&mut options, *code, value));
            if let Ok(Some(Answer::Offer(lease))) = read(&with_options(&options), XID, MAC) {
                prop_assert!(lease.routes.iter().all(|route| route.prefix == 0 || lease::plain(route.destination.into()).is_ok()));
                prop_assert!(lease.name_servers.iter().all(|ip| lease::plain(*ip).is_ok()) && lease.name_servers.len() <= 4);
            }
        }

        #[test]
        fn a_cut_answer_is_survived(length in 0usize..400) {
            let packet = full();
            let _ = read(&packet[..length.min(packet.len())], XID, MAC);
        }
    }
}

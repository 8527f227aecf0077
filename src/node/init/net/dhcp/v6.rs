//! DHCPv6 messages (RFC 8415, options of RFC 3646): writes a client's, reads a server's. As strict as its IPv4 sister:
//! one address, name servers and their times, nothing else. Routes come from router advertisements, which the kernel hears.

use super::super::refused::Refused;
use super::client::{Answer, Ask, MAC_LEN, Question};
use super::lease::{self, Lease};
use std::net::{IpAddr, Ipv6Addr};

const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const WANTED: u16 = 6;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const NAME_SERVERS: u16 = 23;
const REFRESH: u16 = 32;
/// Longest identifier of a server (RFC 8415, section 11.1).
const MAX_ID: usize = 130;
/// Seconds until name servers alone are asked for again, if the server says nothing, and at least (RFC 8415, section 7.6).
const REFRESH_DEFAULT: u32 = 86_400;
const REFRESH_MIN: u32 = 600;
/// A lease is for the address alone.
const PREFIX: u8 = 128;

/// Kinds of message (RFC 8415, section 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const INFORMATION: u8 = 11;

/// Writes a message of ours: for an address, or for name servers alone.
pub(crate) fn write(ask: &Ask<'_>, wants_address: bool) -> Vec<u8> {
    let kind = match ask.question {
        Question::Search if wants_address => SOLICIT,
        Question::Search => INFORMATION,
        Question::Accept => REQUEST,
        Question::Renew => RENEW,
        Question::Rebind => REBIND,
    };
    let mut out = ask.xid.to_be_bytes().to_vec();
    out[0] = kind; // only 24 bits of the number are sent
    put(&mut out, CLIENT, &identity(ask.mac));
    if let (Question::Accept | Question::Renew, Some(lease)) = (ask.question, ask.lease) {
        put(&mut out, SERVER, &lease.server);
    }
    let hundredths = u16::try_from(ask.elapsed.as_millis() / 10).unwrap_or(u16::MAX);
    put(&mut out, ELAPSED, &hundredths.to_be_bytes());
    put(&mut out, WANTED, &[NAME_SERVERS.to_be_bytes(), REFRESH.to_be_bytes()].concat());
    if wants_address {
        // The association's name is the end of the MAC; its times are the server's business.
        let mut association = [&ask.mac[2..], &[0; 8]].concat();
        if let Some(Lease { address: Some((IpAddr::V6(address), _)), .. }) = ask.lease {
            put(&mut association, IA_ADDRESS, &[&address.octets()[..], &[0; 8]].concat());
        }
        put(&mut out, IA_NA, &association);
    }
    out
}

/// Our DUID: the link-layer address over Ethernet (RFC 8415, section 11.4). It survives a reboot without being stored.
fn identity(mac: [u8; MAC_LEN]) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac[..]].concat()
}

fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_be_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

/// Reads and judges a message to us; `Ok(None)` if it is for another machine, another question, or no answer at all.
pub(crate) fn read(packet: &[u8], xid: u32, mac: [u8; MAC_LEN], wants_address: bool) -> Result<Option<Answer>, Refused> {
    let Some((head, options)) = packet.split_first_chunk::<4>() else { return Err(Refused::Short(packet.len())) };
    if !matches!(head[0], ADVERTISE | REPLY) || head[1..] != xid.to_be_bytes()[1..] {
        return Ok(None);
    }
    let mut found = Found::default();
    let mut is_ours = false;
    each_option(options, |code, value| {
        match code {
            CLIENT => is_ours = value == identity(mac),
            SERVER if value.len() <= MAX_ID => found.server = value.to_vec(),
            SERVER => return Err(Refused::Option(SERVER)),
            IA_NA if value.starts_with(&mac[2..]) => found.association(value)?,
            STATUS => found.note_status(value)?,
            NAME_SERVERS => found.name_servers = addresses(value)?,
            REFRESH => found.refresh = Some(number(value, 0, code)?),
            _ => {}
        }
        Ok(())
    })?;
    match head[0] {
        _ if !is_ours => Ok(None),
        _ if found.server.is_empty() => Err(Refused::Missing(SERVER)),
        ADVERTISE if found.status != 0 => Err(Refused::Status(found.status)),
        ADVERTISE => Ok(Some(Answer::Offer(found.lease(wants_address)?))),
        // No such lease any more, or it ends now (RFC 8415, section 18.2.10.1).
        _ if found.status != 0 || found.address.is_some_and(|address| address.valid == 0) => Ok(Some(Answer::No(found.server))),
        _ => Ok(Some(Answer::Grant(found.lease(wants_address)?))),
    }
}

/// What a server's message says, not yet judged.
#[derive(Default)]
struct Found {
    server: Vec<u8>,
    /// The first status that is not success.
    status: u16,
    address: Option<Address>,
    name_servers: Vec<Ipv6Addr>,
    refresh: Option<u32>,
}

/// An address with its times in seconds.
#[derive(Clone, Copy)]
struct Address {
    ip: Ipv6Addr,
    t1: u32,
    t2: u32,
    preferred: u32,
    valid: u32,
}

impl Found {
    /// Takes the first address of an association (RFC 8415, sections 21.4 and 21.6).
    fn association(&mut self, value: &[u8]) -> Result<(), Refused> {
        let (t1, t2) = (number(value, 4, IA_NA)?, number(value, 8, IA_NA)?);
        each_option(&value[12..], |code, value| match code {
            STATUS => self.note_status(value),
            IA_ADDRESS if self.address.is_none() => {
                let (ip, _) = value.split_first_chunk::<16>().ok_or(Refused::Option(code))?;
                let (preferred, valid) = (number(value, 16, code)?, number(value, 20, code)?);
                self.address = Some(Address { ip: Ipv6Addr::from(*ip), t1, t2, preferred, valid });
                each_option(&value[24..], |code, value| if code == STATUS { self.note_status(value) } else { Ok(()) })
            }
            _ => Ok(()),
        })
    }

    fn note_status(&mut self, value: &[u8]) -> Result<(), Refused> {
        let (status, _) = value.split_first_chunk::<2>().ok_or(Refused::Option(STATUS))?;
        if self.status == 0 {
            self.status = u16::from_be_bytes(*status);
        }
        Ok(())
    }

    fn lease(self, wants_address: bool) -> Result<Lease, Refused> {
        let mut notes = Vec::new();
        let (address, times) = if wants_address {
            let given = self.address.ok_or(Refused::Missing(IA_NA))?;
            let times = lease::times(given.t1, given.t2, given.preferred, given.valid)?;
            (Some(lease::own_address(given.ip.into(), PREFIX)?), times)
        } else {
            let refresh = self.refresh.unwrap_or(REFRESH_DEFAULT).max(REFRESH_MIN);
            (None, [std::time::Duration::from_secs(refresh.into()); 3])
        };
        let name_servers = lease::name_servers(self.name_servers, &mut notes);
        Ok(Lease { server: self.server, address, name_servers, times, notes, ..Lease::default() })
    }
}

fn each_option(mut bytes: &[u8], mut take: impl FnMut(u16, &[u8]) -> Result<(), Refused>) -> Result<(), Refused> {
    while let Some(([c0, c1, l0, l1], rest)) = bytes.split_first_chunk() {
        let (code, length) = (u16::from_be_bytes([*c0, *c1]), u16::from_be_bytes([*l0, *l1]));
        let (value, rest) = rest.split_at_checked(length.into()).ok_or(Refused::Option(code))?;
        take(code, value)?;
        bytes = rest;
    }
    if bytes.is_empty() { Ok(()) } else { Err(Refused::Short(bytes.len())) }
}

fn number(value: &[u8], at: usize, code: u16) -> Result<u32, Refused> {
    let (number, _) = value.get(at..).and_then(|rest| rest.split_first_chunk()).ok_or(Refused::Option(code))?;
    Ok(u32::from_be_bytes(*number))
}

fn addresses(value: &[u8]) -> Result<Vec<Ipv6Addr>, Refused> {
    let (list, rest) = value.as_chunks::<16>();
    if rest.is_empty() { Ok(list.iter().copied().map(Ipv6Addr::from).collect()) } else { Err(Refused::Option(NAME_SERVERS)) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode};
    use dhcproto::{Decodable, Encodable};
    use proptest::prelude::*;
    use std::time::Duration;

    pub(crate) const MAC: [u8; MAC_LEN] = [2, 0, 0, 0, 0, 7];
    const XID: u32 = 0x0010_2030;

    /// A server's message, written by another implementation.
    pub(crate) fn message(kind: MessageType, xid: u32, server: &[u8], options: Vec<DhcpOption>) -> Vec<u8> {
        let [_, a, b, c] = xid.to_be_bytes();
        let mut message = Message::new_with_id(kind, [a, b, c]);
        message.opts_mut().insert(DhcpOption::ClientId(identity(MAC)));
        message.opts_mut().insert(DhcpOption::ServerId(server.to_vec()));
        options.into_iter().for_each(|option| message.opts_mut().insert(option));
        message.to_vec().unwrap()
    }

    pub(crate) fn address(ip: &str, preferred_life: u32, valid_life: u32) -> DhcpOption {
        let address = IAAddr { addr: ip.parse().unwrap(), preferred_life, valid_life, opts: dhcproto::v6::DhcpOptions::new() };
        let id = u32::from_be_bytes([MAC[2], MAC[3], MAC[4], MAC[5]]);
        DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts: [DhcpOption::IAAddr(address)].into_iter().collect() })
    }

    pub(crate) fn status(status: Status) -> DhcpOption {
        DhcpOption::StatusCode(StatusCode { status, msg: "no".into() })
    }

    fn servers() -> DhcpOption {
        DhcpOption::DomainNameServers(vec!["2001:db8::53".parse().unwrap(), "ff02::1".parse().unwrap(), "fe80::1".parse().unwrap()])
    }

    fn full() -> Vec<u8> {
        message(MessageType::Reply, XID, b"server", vec![address("2001:db8::5", 80, 100), servers()])
    }

    #[test]
    fn a_full_answer_is_read() {
        let Ok(Some(Answer::Grant(lease))) = read(&full(), XID, MAC, true) else { panic!() };
        assert_eq!(lease.address, Some(("2001:db8::5".parse().unwrap(), 128)));
        assert_eq!(lease.name_servers, ["2001:db8::53".parse::<IpAddr>().unwrap()]);
        assert_eq!((lease.times, lease.notes.len()), ([40, 70, 100].map(Duration::from_secs), 2));
        assert_eq!((&lease.server[..], lease.mtu, lease.routes), (&b"server"[..], None, Vec::new()));
    }

    #[test]
    fn name_servers_alone_are_read() {
        for (refresh, seconds) in [(None, 86_400), (Some(1), 600), (Some(600), 600), (Some(7200), 7200)] {
            let options = [servers()].into_iter().chain(refresh.map(DhcpOption::InformationRefreshTime)).collect();
            let Ok(Some(Answer::Grant(lease))) = read(&message(MessageType::Reply, XID, b"s", options), XID, MAC, false) else { panic!() };
            assert_eq!((lease.address, lease.times), (None, [Duration::from_secs(seconds); 3]));
        }
    }

    #[test]
    fn refusals_and_answers_to_others() {
        let reply = |options| read(&message(MessageType::Reply, XID, b"s", options), XID, MAC, true);
        assert_eq!(reply(vec![servers()]), Err(Refused::Missing(3)));
        assert_eq!(reply(vec![address("fe80::5", 80, 100)]), Err(Refused::Address("fe80::5".parse().unwrap(), "link-local")));
        assert_eq!(reply(vec![address("2001:db8::5", 9, 100)]), Err(Refused::Time(9)));
        assert_eq!(reply(vec![address("2001:db8::5", 80, 79)]), Err(Refused::Time(79)));
        assert_eq!(reply(vec![address("2001:db8::5", 0, 0)]), Ok(Some(Answer::No(b"s".to_vec()))));
        assert_eq!(reply(vec![status(Status::NoBinding)]), Ok(Some(Answer::No(b"s".to_vec()))));
        let advertise = message(MessageType::Advertise, XID, b"s", vec![status(Status::NoAddrsAvail)]);
        assert_eq!(read(&advertise, XID, MAC, true), Err(Refused::Status(2)));
        assert_eq!(read(&message(MessageType::Reply, XID, &[1; MAX_ID + 1], vec![]), XID, MAC, true), Err(Refused::Option(2)));
        assert_eq!(read(&message(MessageType::Reply, XID, b"", vec![]), XID, MAC, true), Err(Refused::Missing(2)));
        assert_eq!(read(&full(), XID + 1, MAC, true), Ok(None));
        assert_eq!(read(&full(), XID, [2, 0, 0, 0, 0, 8], true), Ok(None));
        assert_eq!(read(&message(MessageType::Solicit, XID, b"s", vec![]), XID, MAC, true), Ok(None));
        assert_eq!(read(&full()[..3], XID, MAC, true), Err(Refused::Short(3)));
    }

    #[test]
    fn others_read_what_we_write() {
        let Ok(Some(Answer::Offer(offer))) = read(&[&[2], &full()[1..]].concat(), XID, MAC, true) else { panic!() };
        let ask = |question, lease, wants_address| {
            let elapsed = Duration::from_millis(1230);
            Message::from_bytes(&write(&Ask { question, xid: XID | 0xff00_0000, mac: MAC, elapsed, lease }, wants_address)).unwrap()
        };
        for (question, kind, has_server) in [
            (Question::Search, MessageType::Solicit, false),
            (Question::Accept, MessageType::Request, true),
            (Question::Renew, MessageType::Renew, true),
            (Question::Rebind, MessageType::Rebind, false),
        ] {
            let message = ask(question, Some(&offer).filter(|_| question != Question::Search), true);
            assert_eq!((message.msg_type(), message.xid()), (kind, [0x10, 0x20, 0x30]));
            assert_eq!(message.opts().get(OptionCode::ClientId), Some(&DhcpOption::ClientId(identity(MAC))));
            assert_eq!(message.opts().get(OptionCode::ElapsedTime), Some(&DhcpOption::ElapsedTime(123)));
            assert_eq!(message.opts().get(OptionCode::ServerId).is_some(), has_server);
            let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else { panic!() };
            assert_eq!(association.opts.get(OptionCode::IAAddr).is_some(), question != Question::Search);
        }
        let information = ask(Question::Search, None, false);
        assert_eq!(information.msg_type(), MessageType::InformationRequest);
        assert!(information.opts().get(OptionCode::IANA).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), wants_address: bool) {
            let _ = read(&bytes, XID, MAC, wants_address);
            let _ = read(&[&full()[..4], &bytes].concat(), XID, MAC, wants_address);
        }

        #[test]
        fn any_changed_byte_is_survived(at in 0usize..120, value: u8, wants_address: bool) {
            let mut packet = full();
            let at = at % packet.len();
            packet[at] = value;
            let _ = read(&packet, XID, MAC, wants_address);
            let _ = read(&packet[..at], XID, MAC, wants_address);
        }
    }
}

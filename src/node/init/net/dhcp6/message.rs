//! DHCPv6 messages (RFC 8415, options of RFC 3646): writes a client's, reads a server's. As strict as its IPv4 sister:
//! one address, name servers and their times, nothing else.

use crate::node::init::net::dhcp4::message::MAC_LEN;
use crate::node::init::net::refused::Refused;
use std::net::Ipv6Addr;

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

/// What a message is for (RFC 8415, section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Solicit = 1,
    Advertise = 2,
    Request = 3,
    Renew = 5,
    Rebind = 6,
    Reply = 7,
    Information = 11,
}

/// A message of ours.
pub(crate) struct Ask<'a> {
    pub(crate) kind: Kind,
    /// The lower 24 bits count.
    pub(crate) xid: u32,
    pub(crate) mac: [u8; MAC_LEN],
    /// Hundredths of a second since the exchange began.
    pub(crate) elapsed: u16,
    /// Whom it is for; empty for all servers.
    pub(crate) server: &'a [u8],
    /// The address wanted or held.
    pub(crate) address: Option<Ipv6Addr>,
}

impl Ask<'_> {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = (((self.kind as u32) << 24) | (self.xid & 0xff_ffff)).to_be_bytes().to_vec();
        put(&mut out, CLIENT, &identity(self.mac));
        if !self.server.is_empty() {
            put(&mut out, SERVER, self.server);
        }
        put(&mut out, ELAPSED, &self.elapsed.to_be_bytes());
        put(&mut out, WANTED, &[NAME_SERVERS.to_be_bytes(), REFRESH.to_be_bytes()].concat());
        if self.kind != Kind::Information {
            // The association's name is the end of the MAC; its times are the server's business.
            let mut association = [&self.mac[2..], &[0; 8]].concat();
            if let Some(address) = self.address {
                put(&mut association, IA_ADDRESS, &[&address.octets()[..], &[0; 8]].concat());
            }
            put(&mut out, IA_NA, &association);
        }
        out
    }
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

/// A server's message, read but not yet judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) server: Vec<u8>,
    /// The first status that is not success.
    pub(crate) status: u16,
    pub(crate) address: Option<Address>,
    pub(crate) name_servers: Vec<Ipv6Addr>,
    /// Seconds until name servers should be asked for again.
    pub(crate) refresh: Option<u32>,
}

/// An address of an answer; times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: Ipv6Addr,
    pub(crate) t1: u32,
    pub(crate) t2: u32,
    pub(crate) preferred: u32,
    pub(crate) valid: u32,
}

impl Answer {
    /// Reads a message to us; `Ok(None)` if it is for another machine, another question, or no answer at all.
    pub(crate) fn read(packet: &[u8], xid: u32, mac: [u8; MAC_LEN]) -> Result<Option<Answer>, Refused> {
        let Some((head, options)) = packet.split_first_chunk::<4>() else { return Err(Refused::Short(packet.len())) };
        let kind = match head[0] {
            2 => Kind::Advertise,
            7 => Kind::Reply,
            _ => return Ok(None),
        };
        if head[1..] != xid.to_be_bytes()[1..] {
            return Ok(None);
        }
        let mut answer = Answer { kind, server: Vec::new(), status: 0, address: None, name_servers: Vec::new(), refresh: None };
        let mut is_ours = false;
        each_option(options, |code, value| {
            match code {
                CLIENT => is_ours = value == identity(mac),
                SERVER if value.len() <= MAX_ID => answer.server = value.to_vec(),
                SERVER => return Err(Refused::Option(SERVER)),
                IA_NA if value.starts_with(&mac[2..]) => answer.association(value)?,
                STATUS => answer.note_status(value)?,
                NAME_SERVERS => answer.name_servers = addresses(value)?,
                REFRESH => answer.refresh = Some(number(value, 0, code)?),
                _ => {}
            }
            Ok(())
        })?;
        match (is_ours, answer.server.is_empty()) {
            (false, _) => Ok(None),
            (true, true) => Err(Refused::Missing(SERVER)),
            (true, false) => Ok(Some(answer)),
        }
    }

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

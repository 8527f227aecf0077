//! DHCPv4 messages (RFC 2131, options of RFC 2132 and 3442): writes a client's, reads a server's.
//!
//! Any neighbour may send an answer, so the reader takes only the options that are needed here, refuses what is
//! malformed instead of guessing, and never looks at names. That is less than a general codec does, and it is all that
//! program 1 of a machine should run on a stranger's bytes.

use super::lease::Route;
use crate::node::init::net::refused::Refused;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Length of an Ethernet address.
pub(crate) const MAC_LEN: usize = 6;
/// Where the options begin: fixed fields (RFC 2131, section 2) and the magic cookie.
const OPTIONS_AT: usize = 240;
/// Marks the options as DHCP's (RFC 2131, section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Shorter messages are dropped by old relays (RFC 1542, section 2.1).
const MIN_LEN: usize = 300;
/// Longest answer we ask for: what fits into one Ethernet frame after the IP and UDP headers.
const MAX_ANSWER: u16 = 1472;

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

/// What a message is for (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
}

/// A message of ours.
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    pub(crate) xid: u32,
    pub(crate) mac: [u8; MAC_LEN],
    /// Seconds since the first attempt.
    pub(crate) secs: u16,
    /// The address we hold; unspecified if none.
    pub(crate) held: Ipv4Addr,
    /// The offer we accept: address and server.
    pub(crate) accepted: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Ask {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = vec![1, 1, MAC_LEN as u8, 0]; // a request, over Ethernet, no relay passed
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend([0, 0]); // the answer may be unicast: a packet socket hears it
        out.extend(self.held.octets());
        out.resize(28, 0);
        out.extend(self.mac);
        out.resize(OPTIONS_AT - COOKIE.len(), 0);
        out.extend(COOKIE);
        out.extend([KIND, 1, self.kind as u8]);
        if let Some((address, server)) = self.accepted {
            out.extend([REQUESTED, 4]);
            out.extend(address.octets());
            out.extend([SERVER, 4]);
            out.extend(server.octets());
        }
        out.extend([MAX_SIZE, 2]);
        out.extend(MAX_ANSWER.to_be_bytes());
        out.extend([WANTED, PARAMETERS.len() as u8]);
        out.extend(PARAMETERS);
        out.push(255);
        out.resize(out.len().max(MIN_LEN), 0);
        out
    }
}

/// A server's message, read but not yet judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) server: Ipv4Addr,
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: Option<Ipv4Addr>,
    pub(crate) routers: Vec<Ipv4Addr>,
    /// `None` if the option is absent.
    pub(crate) routes: Option<Vec<Route>>,
    pub(crate) name_servers: Vec<Ipv4Addr>,
    pub(crate) mtu: Option<u16>,
    /// Seconds.
    pub(crate) lease_time: Option<u32>,
    pub(crate) renewal_time: Option<u32>,
    pub(crate) rebinding_time: Option<u32>,
}

impl Answer {
    /// Reads a message to us; `Ok(None)` if it is for another machine, another question, or no answer at all.
    pub(crate) fn read(packet: &[u8], xid: u32, mac: [u8; MAC_LEN]) -> Result<Option<Answer>, Refused> {
        let (Some(head), Some(options)) = (packet.get(..OPTIONS_AT), packet.get(OPTIONS_AT..)) else {
            return Err(Refused::Short(packet.len()));
        };
        let ours = head.starts_with(&[2, 1, MAC_LEN as u8]) && head[4..8] == xid.to_be_bytes() && head[28..34] == mac;
        if !ours || head[OPTIONS_AT - COOKIE.len()..] != COOKIE {
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
        let kind = match found.fixed::<1>(KIND)? {
            Some([2]) => Kind::Offer,
            Some([5]) => Kind::Ack,
            Some([6]) => Kind::Nak,
            _ => return Ok(None),
        };
        found.answer(kind, Ipv4Addr::new(head[16], head[17], head[18], head[19])).map(Some)
    }
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
                [code, len, ref rest @ ..] if rest.len() >= usize::from(len) => {
                    let (value, rest) = rest.split_at(len.into());
                    self.0.entry(code).or_default().extend(value);
                    bytes = rest;
                }
                [code, ..] => return Err(Refused::Option(code.into())),
            }
        }
    }

    fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, Refused> {
        self.0.get(&code).map(|value| value.as_slice().try_into().map_err(|_| Refused::Option(code.into()))).transpose()
    }

    fn number(&self, code: u8) -> Result<Option<u32>, Refused> {
        Ok(self.fixed(code)?.map(u32::from_be_bytes))
    }

    fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, Refused> {
        Ok(self.fixed::<4>(code)?.map(Ipv4Addr::from))
    }

    fn addresses(&self, code: u8) -> Result<Vec<Ipv4Addr>, Refused> {
        let value = self.0.get(&code).map_or(&[][..], |value| value);
        let (list, rest) = value.as_chunks::<4>();
        if rest.is_empty() { Ok(list.iter().copied().map(Ipv4Addr::from).collect()) } else { Err(Refused::Option(code.into())) }
    }

    fn routes(&self) -> Result<Option<Vec<Route>>, Refused> {
        let Some(mut value) = self.0.get(&ROUTES).map(Vec::as_slice) else { return Ok(None) };
        let mut routes = Vec::new();
        while let [prefix, rest @ ..] = value {
            // Only the bytes of the destination that the prefix touches are on the wire.
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

    fn answer(&self, kind: Kind, address: Ipv4Addr) -> Result<Answer, Refused> {
        Ok(Answer {
            kind,
            server: self.address(SERVER)?.ok_or(Refused::Missing(SERVER.into()))?,
            address,
            mask: self.address(MASK)?,
            routers: self.addresses(ROUTERS)?,
            routes: self.routes()?,
            name_servers: self.addresses(NAME_SERVERS)?,
            mtu: self.fixed(MTU)?.map(u16::from_be_bytes),
            lease_time: self.number(LEASE_TIME)?,
            renewal_time: self.number(RENEWAL_TIME)?,
            rebinding_time: self.number(REBINDING_TIME)?,
        })
    }
}

//! The DHCPv6 client as a state machine without sockets or clock (RFC 8415, section 18.2): one address with name
//! servers, or name servers alone. The default route comes from router advertisements, which the kernel hears.

use super::message::{Answer, Ask, Kind};
use crate::node::init::net::dhcp4::message::MAC_LEN;
use crate::node::init::net::refused::Refused;
use crate::node::init::net::{MAX_NAME_SERVERS, MIN_LEASE, chance};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// First and longest wait of a search (SOL_TIMEOUT; the longest is that of RFC 3315, as an hour is too long at boot).
const SEARCH_WAIT: [u64; 2] = [1, 120];
/// First and longest wait for the answer to a request (REQ_TIMEOUT, REQ_MAX_RT).
const REQUEST_WAIT: [u64; 2] = [1, 30];
/// First and longest wait of a renewal (REN_TIMEOUT, REN_MAX_RT).
const RENEW_WAIT: [u64; 2] = [10, 600];
/// How often an offer is accepted before we look for another server (REQ_MAX_RC).
const MAX_REQUESTS: u32 = 10;
/// Default and least time between two questions for name servers alone (IRT_DEFAULT, IRT_MINIMUM).
const REFRESH: [u32; 2] = [86_400, 600];

/// What a server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The server's identifier.
    pub(crate) server: Vec<u8>,
    /// Our address; `None` if only name servers were asked for.
    pub(crate) address: Option<Ipv6Addr>,
    /// At most [`MAX_NAME_SERVERS`].
    pub(crate) name_servers: Vec<Ipv6Addr>,
    /// When to renew, to ask any server, and when it ends; each counted from the request.
    pub(crate) times: [Duration; 3],
}

impl Lease {
    /// Judges an answer; the second value has a sentence for each part that was left out.
    fn judge(answer: &Answer, wants_address: bool) -> Result<(Lease, Vec<String>), Refused> {
        let mut notes = Vec::new();
        let name_servers = name_servers(&answer.name_servers, &mut notes);
        if answer.status != 0 {
            return Err(Refused::Status(answer.status));
        }
        if !wants_address {
            let refresh = Duration::from_secs(answer.refresh.unwrap_or(REFRESH[0]).max(REFRESH[1]).into());
            return Ok((Lease { server: answer.server.clone(), address: None, name_servers, times: [refresh; 3] }, notes));
        }
        let given = answer.address.ok_or(Refused::Missing(3))?;
        plain(given.ip).map_err(|why| Refused::Address(given.ip.into(), why))?;
        let [t1, t2, preferred, end] = [given.t1, given.t2, given.preferred, given.valid].map(|time| Duration::from_secs(time.into()));
        if end < MIN_LEASE || preferred < MIN_LEASE || preferred > end {
            return Err(Refused::Time(given.valid.min(given.preferred)));
        }
        let in_order = MIN_LEASE / 2 <= t1 && t1 < t2 && t2 < end;
        // Else the shares that RFC 8415, section 21.4, recommends.
        let times = if in_order { [t1, t2, end] } else { [preferred / 2, preferred / 5 * 4, end] };
        Ok((Lease { server: answer.server.clone(), address: Some(given.ip), name_servers, times }, notes))
    }
}

/// Whether a machine elsewhere can have the address; the error names what it is instead.
pub(crate) fn plain(ip: Ipv6Addr) -> Result<(), &'static str> {
    match ip.segments()[0] {
        0x2000..=0x3fff | 0xfc00..=0xfdff => Ok(()),
        0xfe80..=0xfebf => Err("link-local"),
        0xff00.. => Err("multicast"),
        _ if ip.is_loopback() => Err("loopback"),
        _ => Err("outside of global and local unicast"),
    }
}

/// The name servers that are allowed, each once, and no more than is sane.
pub(crate) fn name_servers(given: &[Ipv6Addr], notes: &mut Vec<String>) -> Vec<Ipv6Addr> {
    let mut servers = Vec::new();
    for ip in given {
        match plain(*ip) {
            Err(why) => notes.push(format!("the name server {ip} is left out: {why}")),
            Ok(()) if servers.contains(ip) || servers.len() == MAX_NAME_SERVERS => {}
            Ok(()) => servers.push(*ip),
        }
    }
    servers
}

enum State {
    /// Looks for a server.
    Searching,
    /// Accepted an offer and waits for the lease.
    Requesting(Lease),
    /// Holds a lease that was asked for at this time.
    Bound(Lease, Instant),
}

/// What a message or the clock asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Use this; the lines tell what was left out. Comes again with each renewal.
    Leased(Lease, Vec<String>),
    /// The address must go.
    Lost,
    /// Send this packet to all servers.
    Send(Vec<u8>),
}

/// A client for one interface.
pub(crate) struct Client {
    mac: [u8; MAC_LEN],
    /// Whether an address is wanted, or name servers alone.
    wants_address: bool,
    state: State,
    xid: u32,
    /// When the present exchange began, and when something was sent last.
    began: Instant,
    asked: Instant,
    /// Messages sent in this exchange.
    sent: u32,
    wake: Instant,
}

impl Client {
    pub(crate) fn new(mac: [u8; MAC_LEN], wants_address: bool, now: Instant) -> Self {
        Client { mac, wants_address, state: State::Searching, xid: chance(), began: now, asked: now, sent: 0, wake: now }
    }

    /// When [`Client::tick`] wants to be called next.
    pub(crate) fn wake(&self) -> Instant {
        self.wake
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Change> {
        if now < self.wake {
            return None;
        }
        match &self.state {
            State::Searching => {
                self.wake = now + backoff(SEARCH_WAIT, self.sent);
                Some(self.send(now, if self.wants_address { Kind::Solicit } else { Kind::Information }))
            }
            State::Requesting(_) if self.sent >= MAX_REQUESTS => {
                self.exchange(State::Searching, now);
                None
            }
            State::Requesting(_) => {
                self.wake = now + backoff(REQUEST_WAIT, self.sent);
                Some(self.send(now, Kind::Request))
            }
            State::Bound(lease, since) => {
                let [_, t2, end] = lease.times.map(|time| *since + time);
                if now >= end {
                    self.exchange(State::Searching, now);
                    // Name servers alone stay good until there are new ones.
                    return self.wants_address.then_some(Change::Lost);
                }
                let (kind, limit) = if now < t2 { (Kind::Renew, t2) } else { (Kind::Rebind, end) };
                self.wake = limit.min(now + backoff(RENEW_WAIT, self.sent));
                Some(self.send(now, kind))
            }
        }
    }

    /// Takes a DHCPv6 message that arrived; `Ok(None)` if it asks for nothing.
    pub(crate) fn receive(&mut self, packet: &[u8], now: Instant) -> Result<Option<Change>, Refused> {
        let Some(answer) = Answer::read(packet, self.xid, self.mac)? else { return Ok(None) };
        match (&self.state, answer.kind) {
            (State::Searching, Kind::Advertise) if self.wants_address => {
                let (offer, _) = Lease::judge(&answer, true)?;
                self.exchange(State::Requesting(offer), now);
                Ok(None)
            }
            (State::Searching, Kind::Reply) if !self.wants_address => self.bind(&answer),
            (State::Requesting(offer), Kind::Reply) if answer.server == offer.server => {
                let bound = self.bind(&answer);
                if bound.is_err() {
                    self.exchange(State::Searching, now + backoff(SEARCH_WAIT, self.sent));
                }
                bound
            }
            (State::Bound(lease, since), Kind::Reply) if self.asked > *since => {
                // Before T2 only our own server was asked; after it any may answer.
                if answer.server != lease.server && self.asked < *since + lease.times[1] {
                    return Ok(None);
                }
                match answer.address {
                    // No such lease any more, or it ends now (RFC 8415, section 18.2.10.1).
                    _ if answer.status != 0 => self.lose(now),
                    Some(given) if given.valid == 0 => self.lose(now),
                    Some(given) if Some(given.ip) != lease.address => Err(Refused::Moved(given.ip.into())),
                    _ => self.bind(&answer),
                }
            }
            _ => Ok(None),
        }
    }

    fn bind(&mut self, answer: &Answer) -> Result<Option<Change>, Refused> {
        let (lease, notes) = Lease::judge(answer, self.wants_address)?;
        let (since, renew) = (self.asked, self.asked + lease.times[0]);
        self.exchange(State::Bound(lease.clone(), since), renew);
        Ok(Some(Change::Leased(lease, notes)))
    }

    fn lose(&mut self, now: Instant) -> Result<Option<Change>, Refused> {
        self.exchange(State::Searching, now + backoff(SEARCH_WAIT, self.sent));
        Ok(Some(Change::Lost))
    }

    /// Begins a new exchange of messages at this time.
    fn exchange(&mut self, state: State, at: Instant) {
        (self.state, self.xid, self.began, self.sent, self.wake) = (state, chance(), at, 0, at);
    }

    fn send(&mut self, now: Instant, kind: Kind) -> Change {
        self.asked = now;
        self.sent += 1;
        let elapsed = (now.saturating_duration_since(self.began).as_millis() / 10).try_into().unwrap_or(u16::MAX);
        let (lease, server) = match &self.state {
            State::Searching => (None, &[][..]),
            State::Requesting(lease) => (Some(lease), &lease.server[..]),
            State::Bound(lease, _) if kind == Kind::Rebind => (Some(lease), &[][..]),
            State::Bound(lease, _) => (Some(lease), &lease.server[..]),
        };
        let address = lease.and_then(|lease| lease.address);
        Change::Send(Ask { kind, xid: self.xid, mac: self.mac, elapsed, server, address }.write())
    }
}

/// The wait after a message: the first one doubled each time, and up to a tenth more (RFC 8415, section 15).
fn backoff([first, longest]: [u64; 2], sent: u32) -> Duration {
    let wait = Duration::from_secs((first << sent.min(16)).min(longest));
    wait + wait * (chance() % 256) / 2560
}

//! The DHCPv4 client as a state machine without sockets or clock (RFC 2131, section 4.4): the caller brings packets and
//! the time, so that tests run a day of renewals in no time.
//!
//! Left out on purpose: remembering a lease over a reboot (nothing here survives one), DECLINE and RELEASE.

use super::lease::Lease;
use super::message::{Answer, Ask, Kind, MAC_LEN};
use crate::node::init::net::chance;
use crate::node::init::net::refused::Refused;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Wait after the first question; doubles up to [`MAX_WAIT`]. RFC 2131 says 4 s, but a cloud answers in milliseconds.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between two questions (RFC 2131, section 4.1).
const MAX_WAIT: Duration = Duration::from_secs(64);
/// How often an offer is accepted before we look for another server.
const MAX_REQUESTS: u32 = 4;
/// Least wait before a renewal is repeated (RFC 2131, section 4.4.5).
const RENEW_WAIT: Duration = Duration::from_secs(60);

enum State {
    /// Looks for a server.
    Selecting,
    /// Accepted an offer and waits for the lease; counts how often it said so.
    Requesting(Lease, u32),
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
    /// Send this packet to this address: the broadcast address or the server's.
    Send(Ipv4Addr, Vec<u8>),
}

/// A client for one interface.
pub(crate) struct Client {
    mac: [u8; MAC_LEN],
    state: State,
    xid: u32,
    /// When this search for a server began.
    began: Instant,
    /// When something was sent last.
    asked: Instant,
    /// Searches since the last lease; decides how long to wait for an offer.
    searches: u32,
    wake: Instant,
}

impl Client {
    pub(crate) fn new(mac: [u8; MAC_LEN], now: Instant) -> Self {
        Client { mac, state: State::Selecting, xid: chance(), began: now, asked: now, searches: 0, wake: now }
    }

    /// When [`Client::tick`] wants to be called next.
    pub(crate) fn wake(&self) -> Instant {
        self.wake
    }

    /// The lease held, if any. With one an ordinary socket hears the answers.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        if let State::Bound(lease, _) = &self.state { Some(lease) } else { None }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Change> {
        if now < self.wake {
            return None;
        }
        match &mut self.state {
            State::Selecting => {
                self.wake = now + backoff(self.searches);
                self.searches += 1;
                Some(self.send(now, Kind::Discover, None))
            }
            State::Requesting(_, MAX_REQUESTS..) => {
                self.search(now);
                None
            }
            State::Requesting(offer, sent) => {
                self.wake = now + backoff(*sent);
                *sent += 1;
                let accepted = (offer.address, offer.server);
                Some(self.send(now, Kind::Request, Some(accepted)))
            }
            State::Bound(lease, since) => {
                let [_, t2, end] = lease.times.map(|time| *since + time);
                if now >= end {
                    self.search(now);
                    return Some(Change::Lost);
                }
                let limit = if now < t2 { t2 } else { end };
                self.wake = limit.min(now + RENEW_WAIT.max((limit - now) / 2));
                self.xid = chance();
                Some(self.send(now, Kind::Request, None))
            }
        }
    }

    /// Takes a DHCP message that arrived; `Ok(None)` if it asks for nothing.
    pub(crate) fn receive(&mut self, packet: &[u8], now: Instant) -> Result<Option<Change>, Refused> {
        let Some(answer) = Answer::read(packet, self.xid, self.mac)? else { return Ok(None) };
        match (&self.state, answer.kind) {
            (State::Selecting, Kind::Offer) => {
                let (offer, _) = Lease::judge(&answer)?;
                self.state = State::Requesting(offer, 0);
                self.wake = now;
                Ok(None)
            }
            (State::Requesting(offer, _), Kind::Ack) if answer.server == offer.server => self.bind(&answer, now),
            (State::Requesting(offer, _), Kind::Nak) if answer.server == offer.server => {
                self.search(now + backoff(self.searches));
                Ok(None)
            }
            (State::Bound(lease, since), kind) if self.asked > *since => {
                // Before T2 only our own server was asked; after it any may answer.
                if answer.server != lease.server && self.asked < *since + lease.times[1] {
                    return Ok(None);
                }
                match kind {
                    Kind::Ack if answer.address != lease.address => Err(Refused::Moved(answer.address.into())),
                    Kind::Ack => self.bind(&answer, now),
                    Kind::Nak => {
                        self.search(now + backoff(self.searches));
                        Ok(Some(Change::Lost))
                    }
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// The lease counts from the question, not from the answer (RFC 2131, section 4.4.1).
    fn bind(&mut self, answer: &Answer, now: Instant) -> Result<Option<Change>, Refused> {
        let (lease, notes) = Lease::judge(answer)?;
        self.wake = now.max(self.asked + lease.times[0]);
        self.searches = 0;
        self.state = State::Bound(lease.clone(), self.asked);
        Ok(Some(Change::Leased(lease, notes)))
    }

    /// Looks for a server, from the beginning.
    fn search(&mut self, at: Instant) {
        self.state = State::Selecting;
        self.xid = chance();
        self.began = at;
        self.wake = at;
    }

    fn send(&mut self, now: Instant, kind: Kind, accepted: Option<(Ipv4Addr, Ipv4Addr)>) -> Change {
        self.asked = now;
        let secs = now.saturating_duration_since(self.began).as_secs().try_into().unwrap_or(u16::MAX);
        let (to, held) = match &self.state {
            State::Bound(lease, since) if now < *since + lease.times[1] => (lease.server, lease.address),
            State::Bound(lease, _) => (Ipv4Addr::BROADCAST, lease.address),
            _ => (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED),
        };
        Change::Send(to, Ask { kind, xid: self.xid, mac: self.mac, secs, held, accepted }.write())
    }
}

/// One, two, four … seconds, and up to a quarter more so that machines that boot together do not ask together.
fn backoff(tries: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << tries.min(16)).min(MAX_WAIT);
    wait + wait * (chance() % 256) / 1024
}

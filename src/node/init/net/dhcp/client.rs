//! A DHCP client as a state machine without sockets or clock: the caller brings packets and the time, so that tests run a
//! day of renewals in no time. DHCPv4 (RFC 2131, section 4.4) and DHCPv6 (RFC 8415, section 18.2) differ in their bytes,
//! but search, accept, renew and lose a lease alike, so there is one machine for both.
//!
//! Left out on purpose: remembering a lease over a reboot (nothing here survives one), DECLINE and RELEASE.

use super::super::refused::Refused;
use super::lease::Lease;
use super::{v4, v6};
use std::time::{Duration, Instant};

/// Length of an Ethernet address.
pub(crate) const MAC_LEN: usize = 6;
/// Wait after the first question; doubles up to [`MAX_WAIT`]. RFC 2131 says 4 s, but a cloud answers in milliseconds.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between two questions (RFC 2131, section 4.1; RFC 8415 would wait an hour, which is too long at boot).
const MAX_WAIT: Duration = Duration::from_secs(64);
/// How often an offer is accepted before we look for another server.
const MAX_REQUESTS: u32 = 4;
/// Least wait before a renewal is repeated (RFC 8415; RFC 2131 says 60 s, but one lost packet must not end a short lease).
const RENEW_WAIT: Duration = Duration::from_secs(10);

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// DHCPv4, always for an address.
    V4,
    /// DHCPv6, for an address or for name servers alone.
    V6 { wants_address: bool },
}

impl Dialect {
    fn write(self, ask: &Ask<'_>) -> Vec<u8> {
        match self {
            Dialect::V4 => v4::write(ask),
            Dialect::V6 { wants_address } => v6::write(ask, wants_address),
        }
    }

    fn read(self, packet: &[u8], xid: u32, mac: [u8; MAC_LEN]) -> Result<Option<Answer>, Refused> {
        match self {
            Dialect::V4 => v4::read(packet, xid, mac),
            Dialect::V6 { wants_address } => v6::read(packet, xid, mac, wants_address),
        }
    }
}

/// What is asked, and so to whom: only a renewal goes to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Search,
    Accept,
    Renew,
    Rebind,
}

/// A message to write.
pub(crate) struct Ask<'a> {
    pub(crate) question: Question,
    pub(crate) xid: u32,
    pub(crate) mac: [u8; MAC_LEN],
    /// Since the exchange began.
    pub(crate) elapsed: Duration,
    /// The offer accepted or the lease held.
    pub(crate) lease: Option<&'a Lease>,
}

/// A server's message, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Offer(Lease),
    Grant(Lease),
    /// This server will not give, or takes back.
    No(Vec<u8>),
}

impl Answer {
    fn server(&self) -> &[u8] {
        let (Answer::Offer(Lease { server, .. }) | Answer::Grant(Lease { server, .. }) | Answer::No(server)) = self;
        server
    }
}

/// What a message or the clock asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Use this. Comes again with each renewal.
    Leased(Lease),
    /// The lease must go.
    Lost,
    /// Send this packet: to the server with this identity, or to all.
    Send(Option<Vec<u8>>, Vec<u8>),
}

enum State {
    /// Looks for a server.
    Searching,
    /// Accepted an offer and waits for the lease; counts how often it said so.
    Requesting(Lease, u32),
    /// Holds a lease that was asked for at this time.
    Bound(Lease, Instant),
}

/// A client for one interface.
pub(crate) struct Client {
    dialect: Dialect,
    mac: [u8; MAC_LEN],
    state: State,
    xid: u32,
    /// When the present exchange began, and when something was sent last.
    began: Instant,
    asked: Instant,
    /// Searches since the last lease; decides how long to wait for an offer.
    searches: u32,
    wake: Instant,
}

impl Client {
    pub(crate) fn new(dialect: Dialect, mac: [u8; MAC_LEN], now: Instant) -> Self {
        Client { dialect, mac, state: State::Searching, xid: chance(), began: now, asked: now, searches: 0, wake: now }
    }

    /// When [`Client::tick`] wants to be called next.
    pub(crate) fn wake(&self) -> Instant {
        self.wake
    }

    /// Whether answers come to no address of ours, so that only a packet socket hears them.
    pub(crate) fn needs_frames(&self) -> bool {
        self.dialect == Dialect::V4 && !matches!(self.state, State::Bound(..))
    }

    /// Whether an answer may come: between renewals no port need be open.
    pub(crate) fn listens(&self) -> bool {
        !matches!(self.state, State::Bound(_, since) if self.asked <= since)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Change> {
        if now < self.wake {
            return None;
        }
        match &mut self.state {
            State::Searching => {
                self.wake = now + backoff(self.searches);
                self.searches += 1;
                Some(self.send(Question::Search, now))
            }
            State::Requesting(_, MAX_REQUESTS..) => {
                self.exchange(State::Searching, now);
                None
            }
            State::Requesting(_, sent) => {
                self.wake = now + backoff(*sent);
                *sent += 1;
                Some(self.send(Question::Accept, now))
            }
            State::Bound(lease, since) => {
                let [_, t2, end] = lease.times.map(|time| *since + time);
                if now >= end {
                    let held_address = lease.address.is_some();
                    self.exchange(State::Searching, now);
                    // Name servers alone stay good until there are new ones.
                    return held_address.then_some(Change::Lost);
                }
                let (question, limit) = if now < t2 { (Question::Renew, t2) } else { (Question::Rebind, end) };
                self.wake = limit.min(now + RENEW_WAIT.max((limit - now) / 2));
                Some(self.send(question, now))
            }
        }
    }

    /// Takes a message that arrived; `Ok(None)` if it asks for nothing.
    pub(crate) fn receive(&mut self, packet: &[u8], now: Instant) -> Result<Option<Change>, Refused> {
        let Some(answer) = self.dialect.read(packet, self.xid, self.mac)? else { return Ok(None) };
        match (&self.state, answer) {
            (State::Searching, Answer::Offer(offer)) => {
                self.state = State::Requesting(offer, 0);
                self.wake = now;
                Ok(None)
            }
            (State::Searching, Answer::Grant(lease)) if lease.address.is_none() => Ok(Some(self.bind(lease))),
            (State::Requesting(offer, _), answer) if answer.server() == offer.server => match answer {
                Answer::Grant(lease) => Ok(Some(self.bind(lease))),
                Answer::No(_) => {
                    self.exchange(State::Searching, now + backoff(self.searches));
                    Ok(None)
                }
                Answer::Offer(_) => Ok(None),
            },
            (State::Bound(held, since), answer) if self.may_renew(held, *since, &answer) => match answer {
                Answer::Grant(lease) if lease.address != held.address => Err(Refused::Moved),
                Answer::Grant(lease) => Ok(Some(self.bind(lease))),
                Answer::No(_) => {
                    self.exchange(State::Searching, now + backoff(self.searches));
                    Ok(Some(Change::Lost))
                }
                Answer::Offer(_) => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Whether we asked this server: before T2 only the one that gave the lease was asked, after it all were.
    fn may_renew(&self, held: &Lease, since: Instant, answer: &Answer) -> bool {
        answer.server() == held.server || self.asked >= since + held.times[1]
    }

    /// The lease counts from the question, not from the answer (RFC 2131, section 4.4.1).
    fn bind(&mut self, lease: Lease) -> Change {
        let (since, renewal) = (self.asked, self.asked + lease.times[0]);
        self.exchange(State::Bound(lease.clone(), since), renewal);
        self.searches = 0;
        Change::Leased(lease)
    }

    /// Begins a new exchange of messages at this time. Nobody can answer before we ask: the number is new.
    fn exchange(&mut self, state: State, at: Instant) {
        (self.state, self.xid, self.began, self.wake) = (state, chance(), at, at);
    }

    fn send(&mut self, question: Question, now: Instant) -> Change {
        self.asked = now;
        let lease = match &self.state {
            State::Searching => None,
            State::Requesting(lease, _) | State::Bound(lease, _) => Some(lease),
        };
        let to = lease.filter(|_| question == Question::Renew).map(|lease| lease.server.clone());
        let ask = Ask { question, xid: self.xid, mac: self.mac, elapsed: now.saturating_duration_since(self.began), lease };
        Change::Send(to, self.dialect.write(&ask))
    }
}

/// One, two, four … seconds, and up to a quarter more so that machines that boot together do not ask together.
fn backoff(tries: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << tries.min(16)).min(MAX_WAIT);
    wait + wait * (chance() % 256) / 1024
}

/// A number that a stranger cannot guess: of an exchange, or to spread waits. Even at boot the kernel waits until it has one.
fn chance() -> u32 {
    getrandom::u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::v4::tests::{MAC, message as message4};
    use super::v6::tests::{address, message as message6, status};
    use super::*;
    use dhcproto::v4::{DhcpOption, MessageType};
    use dhcproto::v6::{MessageType as Type6, Status};
    use std::net::IpAddr;

    const V6: Dialect = Dialect::V6 { wants_address: true };
    const ME: [u8; 4] = [10, 0, 0, 5];
    const SERVER: [u8; 4] = [10, 0, 0, 1];
    const OTHER: [u8; 4] = [10, 0, 0, 2];

    /// A client with a clock that only moves when told.
    struct Story {
        client: Client,
        start: Instant,
        now: Instant,
        xid: u32,
    }

    impl Story {
        fn new(dialect: Dialect) -> Self {
            let now = Instant::now();
            Story { client: Client::new(dialect, MAC, now), start: now, now, xid: 0 }
        }

        /// Moves the clock to the next thing to do and does it.
        fn next(&mut self) -> Option<Change> {
            self.now = self.now.max(self.client.wake());
            let change = self.client.tick(self.now);
            if let Some(Change::Send(_, packet)) = &change {
                let (at, mask) = if self.client.dialect == Dialect::V4 { (4, u32::MAX) } else { (0, 0xff_ffff) };
                self.xid = u32::from_be_bytes(packet[at..at + 4].try_into().unwrap()) & mask;
            }
            change
        }

        /// The same, for a question: seconds since the start, its kind, and whether it is for one server only.
        fn asks(&mut self) -> (u64, u8, bool) {
            match self.next() {
                Some(Change::Send(to, packet)) => {
                    let kind = if self.client.dialect == Dialect::V4 { packet[242] } else { packet[0] };
                    ((self.now - self.start).as_secs(), kind, to.is_some())
                }
                other => panic!("{other:?}"),
            }
        }

        fn hear4(&mut self, kind: MessageType, server: [u8; 4], address: [u8; 4], lease: u32) -> Result<Option<Change>, Refused> {
            let packet = message4(kind, self.xid, server, address, &[DhcpOption::AddressLeaseTime(lease)]);
            self.client.receive(&packet, self.now)
        }

        fn hear6(&mut self, kind: Type6, server: &[u8], options: Vec<dhcproto::v6::DhcpOption>) -> Result<Option<Change>, Refused> {
            self.client.receive(&message6(kind, self.xid, server, options), self.now)
        }

        /// Up to a lease of this many seconds, at second 0.
        fn leased4(lease: u32) -> Self {
            let mut story = Story::new(Dialect::V4);
            assert_eq!(story.asks(), (0, 1, false));
            assert_eq!(story.hear4(MessageType::Offer, SERVER, ME, lease), Ok(None));
            assert_eq!(story.asks(), (0, 3, false));
            assert!(is_lease(&story.hear4(MessageType::Ack, SERVER, ME, lease)));
            assert!(!story.client.needs_frames() && !story.client.listens());
            story
        }

        fn leased6() -> Self {
            let mut story = Story::new(V6);
            assert_eq!(story.asks(), (0, 1, false));
            assert_eq!(story.hear6(Type6::Advertise, b"s", vec![address("2001:db8::5", 800, 1000)]), Ok(None));
            assert_eq!(story.asks(), (0, 3, false));
            assert!(is_lease(&story.hear6(Type6::Reply, b"s", vec![address("2001:db8::5", 800, 1000)])));
            story
        }
    }

    fn is_lease(change: &Result<Option<Change>, Refused>) -> bool {
        matches!(change, Ok(Some(Change::Leased(_))))
    }

    #[test]
    fn a_lease_is_renewed_for_a_day() {
        let mut story = Story::leased4(3600);
        for half in 1..=48 {
            assert_eq!(story.asks(), (half * 1800, 3, true));
            assert!(is_lease(&story.hear4(MessageType::Ack, SERVER, ME, 3600)));
        }
    }

    #[test]
    fn a_silent_server_is_asked_then_everybody_then_the_lease_ends() {
        let mut story = Story::leased4(800);
        // T1 is at 400, T2 at 700: half of what remains to the next turn, at least 10 s.
        let times: Vec<_> = (0..11).map(|_| story.asks()).collect();
        assert!(story.client.listens());
        assert_eq!(times[..6], [400, 550, 625, 662, 681, 691].map(|at| (at, 3, true)));
        assert_eq!(times[6..], [700, 750, 775, 787, 797].map(|at| (at, 3, false)));
        assert_eq!(story.next(), Some(Change::Lost));
        assert!(story.client.needs_frames());
        assert_eq!([story.asks(), story.asks()], [(800, 1, false), (801, 1, false)]);
    }

    #[test]
    fn waits_grow_to_a_minute() {
        for dialect in [Dialect::V4, V6] {
            let mut story = Story::new(dialect);
            let times: Vec<_> = (0..12).map(|_| story.asks()).collect();
            for (n, pair) in times.windows(2).enumerate() {
                let (wait, least) = (pair[1].0 - pair[0].0, 1 << n.min(6));
                assert!((least..=least + least / 4 + 1).contains(&wait), "wait {n} is {wait} s");
            }
        }
    }

    #[test]
    fn bad_offers_are_passed_over_for_a_good_one() {
        let mut story = Story::new(Dialect::V4);
        story.asks();
        let refused = story.hear4(MessageType::Offer, SERVER, [127, 0, 0, 5], 60);
        assert_eq!(refused, Err(Refused::Address(IpAddr::from([127, 0, 0, 5]), "loopback")));
        assert_eq!(story.hear4(MessageType::Offer, SERVER, ME, 9), Err(Refused::Time(9)));
        assert_eq!(story.hear4(MessageType::Ack, SERVER, ME, 60), Ok(None), "nothing was accepted yet");
        assert_eq!(story.hear4(MessageType::Offer, OTHER, ME, 60), Ok(None));
        assert_eq!(story.asks().1, 3);
        assert_eq!(story.hear4(MessageType::Ack, SERVER, ME, 60), Ok(None), "not the server that was accepted");
        assert!(is_lease(&story.hear4(MessageType::Ack, OTHER, ME, 60)));
    }

    #[test]
    fn a_server_that_offers_and_never_gives_is_left() {
        let mut story = Story::new(Dialect::V4);
        story.asks();
        assert_eq!(story.hear4(MessageType::Offer, SERVER, ME, 60), Ok(None));
        let kinds: Vec<u8> = (0..MAX_REQUESTS).map(|_| story.asks().1).collect();
        assert_eq!(kinds, [3; MAX_REQUESTS as usize]);
        let xid = story.xid;
        assert_eq!(story.next(), None);
        assert_eq!(story.asks().1, 1);
        assert_ne!(story.xid, xid);
    }

    #[test]
    fn a_server_that_offers_and_refuses_is_not_asked_without_pause() {
        let mut story = Story::new(Dialect::V4);
        let mut times = Vec::new();
        for _ in 0..8 {
            times.push(story.asks().0);
            assert_eq!(story.hear4(MessageType::Offer, SERVER, ME, 60), Ok(None));
            assert_eq!(story.asks().1, 3);
            assert_eq!(story.hear4(MessageType::Nak, SERVER, [0; 4], 0), Ok(None));
        }
        assert!(times.windows(2).enumerate().all(|(n, pair)| pair[1] - pair[0] >= 2 << n.min(5)), "{times:?}");
    }

    #[test]
    fn a_refused_renewal_ends_the_lease_at_once() {
        let mut story = Story::leased4(60);
        assert_eq!(story.hear4(MessageType::Nak, SERVER, [0; 4], 0), Ok(None), "it was not asked");
        story.asks();
        assert_eq!(story.hear4(MessageType::Nak, SERVER, [0; 4], 0), Ok(Some(Change::Lost)));
        assert!(story.client.needs_frames());
        assert_eq!(story.asks().1, 1);
    }

    #[test]
    fn other_servers_may_answer_only_after_t2() {
        let mut story = Story::leased4(80);
        assert_eq!(story.asks(), (40, 3, true));
        assert_eq!(story.hear4(MessageType::Ack, OTHER, ME, 80), Ok(None));
        assert_eq!(story.hear4(MessageType::Nak, OTHER, [0; 4], 0), Ok(None));
        while !matches!(story.asks(), (_, 3, false)) {}
        assert_eq!(story.hear4(MessageType::Ack, OTHER, [10, 0, 0, 6], 80), Err(Refused::Moved));
        assert!(is_lease(&story.hear4(MessageType::Ack, OTHER, ME, 80)));
    }

    #[test]
    fn a_lease_counts_from_the_question() {
        let mut story = Story::leased4(80);
        story.asks();
        story.now += Duration::from_secs(20);
        assert!(is_lease(&story.hear4(MessageType::Ack, SERVER, ME, 80)));
        assert_eq!(story.asks(), (80, 3, true), "40 s after the question at 40 s");
    }

    #[test]
    fn an_answer_heard_twice_changes_nothing() {
        let mut story = Story::leased4(60);
        assert_eq!(story.hear4(MessageType::Ack, SERVER, ME, 60), Ok(None));
        assert_eq!(story.client.receive(b"", story.now), Err(Refused::Short(0)));
    }

    #[test]
    fn dhcp6_renews_rebinds_and_ends() {
        let mut story = Story::leased6();
        assert_eq!(story.asks(), (400, 5, true));
        assert!(is_lease(&story.hear6(Type6::Reply, b"s", vec![address("2001:db8::5", 800, 1000)])));
        assert_eq!(story.asks(), (800, 5, true));
        while !matches!(story.asks(), (1100.., 6, false)) {}
        assert_eq!(story.hear6(Type6::Reply, b"t", vec![address("2001:db8::6", 800, 1000)]), Err(Refused::Moved));
        while story.next() != Some(Change::Lost) {}
        assert_eq!(story.now - story.start, Duration::from_secs(1400));
        assert_eq!(story.asks().1, 1);
    }

    #[test]
    fn dhcp6_servers_may_take_back() {
        for options in [vec![status(Status::NoBinding)], vec![address("2001:db8::5", 0, 0)]] {
            let mut story = Story::leased6();
            story.asks();
            assert_eq!(story.hear6(Type6::Reply, b"s", options), Ok(Some(Change::Lost)));
            assert_eq!(story.asks().1, 1);
        }
    }

    #[test]
    fn name_servers_alone_are_asked_for_again_and_never_lost() {
        let mut story = Story::new(Dialect::V6 { wants_address: false });
        assert_eq!(story.asks(), (0, 11, false));
        assert!(is_lease(&story.hear6(Type6::Reply, b"s", vec![])));
        assert_eq!(story.next(), None);
        assert_eq!(story.asks(), (86_400, 11, false));
    }
}

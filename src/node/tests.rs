//! Whole nodes in this process, met over real sockets by owners, friends and strangers.

use super::*;
use crate::config::time::now_s;
use crate::error::Code;
use crate::keyring::{self, Purpose, Seed, x25519_public};
use crate::resolve::Sources;
use crate::session::messages::*;
use crate::session::{ConnectError, CoverKey, Hello, Pipe, Session, bootstrap, connect};
use crate::token::{Grant, Limits, Mode, Revocation, Role, Rotation, Scope, SignedRotation, Target};
use crate::trust::Refusal;
use ed25519_dalek::SigningKey;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const COVER: [u8; 32] = [0xc0; 32];
/// The friend's key, and that of the owner's own visits.
const FRIEND: [u8; 32] = [0x11; 32];
const VISITOR: [u8; 32] = [0x22; 32];

struct Place {
    dir: tempfile::TempDir,
    node: Option<Node>,
}

#[path = "rules_tests.rs"]
mod rules;
#[path = "switches_tests.rs"]
mod switches;

fn owner() -> SigningKey {
    Seed::from_bytes(&[7; 32]).signing_key(Purpose::IdentitySign)
}

fn owner_public() -> [u8; 32] {
    owner().verifying_key().to_bytes()
}

impl Place {
    /// A node with these changes to its configuration.
    fn new(change: impl FnOnce(&mut Config)) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("state"), "home".parse().unwrap());
        config.owner = Some(crate::encoding::base64(&owner_public()));
        write_cover_file(&dir.path().join("cover"), &COVER).unwrap();
        config.bootstrap_cover_file = Some(dir.path().join("cover"));
        config.limits.threads = 2;
        change(&mut config);
        std::fs::write(dir.path().join("node.toml"), config.to_toml().unwrap()).unwrap();
        std::fs::write(dir.path().join("hosts"), "127.0.0.1 web.example\n169.254.169.254 metadata.example\n10.9.9.9 inside.example\n")
            .unwrap();
        let mut place = Place { dir, node: None };
        place.start();
        place
    }

    /// One that is claimed already.
    async fn claimed(change: impl FnOnce(&mut Config)) -> Place {
        let place = Place::new(change);
        assert_eq!(place.claim(&owner()).await, ClaimReply::Claimed);
        place
    }

    fn start(&mut self) {
        self.node = None;
        self.node = Some(self.begin().unwrap());
    }

    fn begin(&self) -> crate::error::Result<Node> {
        let config = Config::read(&self.dir.path().join("node.toml")).unwrap();
        let sources = Sources { hosts: self.dir.path().join("hosts"), resolv_conf: self.dir.path().join("none"), fallback: Vec::new() };
        Node::start_with(config, Log::in_memory(), &sources, Witness::none())
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    fn log(&self) -> String {
        self.node().log().after(0, 1000).1.join("\n")
    }

    async fn pipe(&self) -> Result<Pipe, ConnectError> {
        let tcp = TcpStream::connect(self.node().address()).await.unwrap();
        bootstrap(tcp, &CoverKey::from_bytes(COVER), &[0x33; 32]).await
    }

    async fn claim(&self, key: &SigningKey) -> ClaimReply {
        self.claim_with(key, None).await
    }

    /// The same, by an owner that took the place of another one.
    async fn claim_after(&self, key: &SigningKey, rotations: &[SignedRotation]) -> ClaimReply {
        self.claim_by(key, None, rotations.iter().map(SignedRotation::encode).collect()).await
    }

    /// The same, with a seed that is handed over.
    async fn claim_with(&self, key: &SigningKey, seed: Option<[u8; 32]>) -> ClaimReply {
        self.claim_by(key, seed, Vec::new()).await
    }

    async fn claim_by(&self, key: &SigningKey, seed: Option<[u8; 32]>, rotations: Vec<Vec<u8>>) -> ClaimReply {
        let mut pipe = self.pipe().await.unwrap();
        pipe.send(&Challenge { nonce: [1; 32] }.encode()).await.unwrap();
        let offer = Offer::decode(&pipe.recv(Offer::LIMIT).await.unwrap()).unwrap();
        let source = Config::read(&self.dir.path().join("node.toml")).unwrap().seed_source().as_str();
        assert_eq!((offer.label.as_str(), offer.seed_source.as_str(), offer.evidence), ("home", source, None));
        assert_ne!(offer.app_digest, [0; 32]);
        assert_eq!(pipe.remote, self.node().key());
        let signature = keyring::sign(key, CLAIM_TYPE, &claim_payload(&pipe.hash, &pipe.remote));
        let claim = Claim { owner: key.verifying_key().to_bytes(), signature, seed, rotations };
        pipe.send(&claim.encode()).await.unwrap();
        ClaimReply::decode(&pipe.recv(ClaimReply::LIMIT).await.unwrap()).unwrap()
    }

    async fn connect(&self, secret: &[u8; 32], grant: Grant, bind: Option<[u8; 32]>) -> Result<Session, ConnectError> {
        let tcp = TcpStream::connect(self.node().address()).await.unwrap();
        let hello = Hello { grant: grant.sign(&owner()).encode(), bind, version: "test".into() };
        connect(tcp, secret, &self.node().key(), hello, now_s()).await.map(|(session, _)| session)
    }

    async fn friend(&self, limits: Limits) -> Session {
        self.connect(&FRIEND, Grant { limits, ..grant(1) }, None).await.unwrap()
    }

    async fn visit(&self) -> Session {
        self.visit_of(&owner()).await
    }

    async fn visit_of(&self, owner: &SigningKey) -> Session {
        let visit = Grant { subject: x25519_public(&VISITOR), role: Role::Control, ..grant(200) };
        let hello = Hello { grant: visit.sign(owner).encode(), bind: None, version: "test".into() };
        let tcp = TcpStream::connect(self.node().address()).await.unwrap();
        connect(tcp, &VISITOR, &self.node().key(), hello, now_s()).await.unwrap().0
    }
}

fn grant(id: u8) -> Grant {
    let now = now_s();
    Grant {
        id: [id; 8],
        issuer: [0; 32],
        node: None,
        subject: x25519_public(&FRIEND),
        not_before: now - 10,
        expires: now + 1000,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 0,
        revision: 0,
        evidence: None,
        mode: Mode::Try,
        role: Role::Exit,
        reserved: Default::default(),
    }
}

fn refusal(result: Result<Session, ConnectError>) -> Refusal {
    match result {
        Err(ConnectError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

/// Greets each connection, then sends back what comes.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

async fn open(session: &Session, host: &str, port: u16) -> (ExitReply, crate::session::Stream) {
    let mut stream = session.open(&ExitRequest { host: host.into(), port }.first_bytes()).await.unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(30), stream.read_u8()).await.unwrap().unwrap();
    (ExitReply::from_byte(reply), stream)
}

async fn ask<T: Message>(session: &Session, request: ControlRequest) -> Reply<T> {
    let mut stream = session.open(&request.first_bytes()).await.unwrap();
    Reply::decode(&read_reply(&mut stream).await.unwrap()).unwrap()
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}

#[tokio::test]
async fn only_the_owner_claims_and_a_second_claim_is_told() {
    let mut place = Place::new(|_| {});
    let stranger = Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign);
    assert_eq!(place.claim(&stranger).await, ClaimReply::Refused(ClaimRefusal::NotOwner));
    assert_eq!(refusal(place.connect(&FRIEND, grant(1), None).await), Refusal::NotClaimed);
    assert_eq!(place.claim(&owner()).await, ClaimReply::Claimed);
    assert_eq!(place.claim(&owner()).await, ClaimReply::Reconnected);
    assert_eq!(place.claim(&stranger).await, ClaimReply::Refused(ClaimRefusal::AlreadyClaimed));
    let key = place.node().key();
    place.start();
    assert_eq!(place.node().key(), key);
    assert_eq!(place.claim(&stranger).await, ClaimReply::Refused(ClaimRefusal::AlreadyClaimed));
    assert_eq!(place.claim(&owner()).await, ClaimReply::Reconnected);
    assert!(place.log().contains("already-claimed"));
    assert!(ready::ask(&place.dir.path().join("state")).unwrap().claimed);
}

#[tokio::test]
async fn a_rotated_owner_takes_over_and_the_former_one_is_out() {
    let mut place = Place::new(|_| {});
    let seed = |n: u8| Seed::from_bytes(&[n; 32]).signing_key(Purpose::IdentitySign);
    let (middle, new, thief) = (seed(21), seed(22), seed(23));
    assert_eq!(place.claim(&owner()).await, ClaimReply::Claimed);
    let (first, second) = (Rotation::sign(&owner(), &middle, 1), Rotation::sign(&middle, &new, 2));
    let refused = ClaimReply::Refused(ClaimRefusal::AlreadyClaimed);
    assert_eq!(place.claim(&new).await, refused, "without a word of the owner it is anybody");
    assert_eq!(place.claim_after(&new, std::slice::from_ref(&second)).await, refused, "a link is missing");
    assert_eq!(place.claim_after(&thief, &[first.clone(), second.clone()]).await, refused, "they lead to another");
    assert_eq!(place.claim_after(&thief, &[Rotation::sign(&thief, &thief, 1)]).await, refused);
    let mut damaged = vec![first.encode(), second.encode()];
    damaged[0][100] ^= 1;
    assert_eq!(place.claim_by(&new, None, damaged).await, refused);
    assert!(!place.node().starts_over());

    let (visit, friend, lucky) =
        (place.visit().await, place.friend(Limits::default()).await, place.connect(&FRIEND, grant(2), None).await.unwrap());
    assert_eq!(place.claim_after(&new, &[first.clone(), second.clone()]).await, ClaimReply::Reconnected);
    // What the new key signs again goes on without a break.
    let again = Grant { revision: 1, ..grant(2) }.sign(&new);
    let now_owner = place.visit_of(&new).await;
    let told = ask::<Renewed>(&now_owner, ControlRequest::Renew(vec![again.encode()])).await;
    assert_eq!(told, Reply::Done(Renewed { news: 1, closed: 0 }));
    // What it does not ends, the former owner's own visit first of all.
    within(Duration::from_secs(20), "the end of the former owner's visit", visit.closed()).await;
    within(Duration::from_secs(20), "the end of what only he granted", friend.closed()).await;
    assert!(lucky.open(&EvidenceRequest::Show.first_bytes()).await.is_ok());
    assert!(!now_owner.is_closed());
    let shown = place.connect(&FRIEND, grant(2), None).await;
    assert!(shown.is_ok(), "the old line still leads to what the new key signed: {shown:?}");
    place.start();
    assert_eq!(place.claim(&owner()).await, refused);
    assert_eq!(place.claim_after(&new, &[first, second]).await, ClaimReply::Reconnected);
    assert!(!place.node().starts_over(), "the same again changes nothing");
    assert_eq!(refusal(place.connect(&FRIEND, grant(1), None).await), Refusal::UnknownKey, "what the former owner granted is over");
}

#[tokio::test]
async fn a_node_that_waits_for_its_seed_begins_anew_with_it() {
    let mut place = Place::new(|config| config.seed_from_owner = true);
    let temporary = place.node().key();
    let stranger = Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign);
    assert_eq!(place.claim(&owner()).await, ClaimReply::Refused(ClaimRefusal::SeedMissing));
    assert_eq!(place.claim_with(&stranger, Some([5; 32])).await, ClaimReply::Refused(ClaimRefusal::NotOwner));
    assert!(!place.node().starts_over());
    assert_eq!(place.claim_with(&owner(), Some([5; 32])).await, ClaimReply::Claimed);
    within(Duration::from_secs(5), "the end of the first node", place.node().ended()).await;
    assert!(place.node().starts_over());
    place.start();
    let own = x25519_public(&Seed::from_bytes(&[5; 32]).derive(Purpose::NodeNoise));
    assert_eq!(place.node().key(), own);
    assert_ne!(own, temporary);
    // Handed over again it changes nothing, not even if it were another one.
    assert_eq!(place.claim_with(&owner(), Some([6; 32])).await, ClaimReply::Reconnected);
    assert!(!place.node().starts_over());
    assert_eq!(place.node().key(), own);
}

#[tokio::test]
async fn a_node_with_a_seed_of_its_own_takes_none() {
    let place = Place::new(|_| {});
    let key = place.node().key();
    assert_eq!(place.claim_with(&owner(), Some([5; 32])).await, ClaimReply::Claimed);
    assert!(!place.node().starts_over());
    assert_eq!(place.node().key(), key);
}

#[tokio::test]
async fn a_node_for_anyone_belongs_to_the_first() {
    let place = Place::new(|config| {
        config.owner = None;
        config.claim_by_anyone = true;
    });
    let second = Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign);
    assert_eq!(place.claim(&owner()).await, ClaimReply::Claimed);
    assert_eq!(place.claim(&second).await, ClaimReply::Refused(ClaimRefusal::AlreadyClaimed));
    let nobody = Place::new(|config| config.owner = None);
    assert_eq!(nobody.claim(&owner()).await, ClaimReply::Refused(ClaimRefusal::NotOwner));
}

#[tokio::test]
async fn a_claim_from_another_handshake_is_worth_nothing() {
    let place = Place::new(|_| {});
    let first = place.pipe().await.unwrap();
    let recorded = keyring::sign(&owner(), CLAIM_TYPE, &claim_payload(&first.hash, &first.remote));
    let mut second = place.pipe().await.unwrap();
    second.send(&Challenge { nonce: [1; 32] }.encode()).await.unwrap();
    second.recv(Offer::LIMIT).await.unwrap();
    second.send(&Claim { owner: owner_public(), signature: recorded, seed: None, rotations: Vec::new() }.encode()).await.unwrap();
    let reply = ClaimReply::decode(&second.recv(ClaimReply::LIMIT).await.unwrap()).unwrap();
    assert_eq!(reply, ClaimReply::Refused(ClaimRefusal::BadSignature));
}

#[tokio::test]
async fn a_friend_reaches_what_is_allowed_and_nothing_else() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "web.example"] {
        let (reply, mut stream) = open(&friend, host, server.port()).await;
        assert_eq!(reply, ExitReply::Open, "{host}");
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
    }
    let own = place.node().address().port();
    let refused = [
        ("169.254.169.254", 80, "metadata"),
        ("metadata.example", 80, "metadata"),
        ("inside.example", 80, "private"),
        ("::ffff:127.0.0.1", 22, "loopback"),
        ("localhost", 22, "loopback"),
        ("127.0.0.1", own, "own-port"),
        ("0.0.0.0", own, "own-port"),
        ("1.1.1.1", 25, "mail-port"),
    ];
    for (host, port, reason) in refused {
        assert_eq!(open(&friend, host, port).await.0, ExitReply::NotAllowed, "{host}:{port}");
        let (_, lines) = place.node().log().after(0, 1);
        assert!(lines[0].contains(reason) && !lines[0].contains(host), "{}", lines[0]);
    }
    assert_eq!(open(&friend, "unknown.example", 80).await.0, ExitReply::HostUnreachable);
}

#[tokio::test]
async fn failures_to_connect_are_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let place = Place::claimed(|config| config.allow = vec!["127.0.0.0/8".into()]).await;
    let friend = place.friend(Limits::default()).await;
    assert_eq!(open(&friend, "127.0.0.1", closed.port()).await.0, ExitReply::ConnectionRefused);
}

#[tokio::test]
async fn echo_and_evidence_are_for_every_guest_and_control_is_not() {
    let place = Place::claimed(|_| {}).await;
    let friend = place.friend(Limits::default()).await;
    let mut stream = friend.open(&first_bytes_empty(Kind::Echo)).await.unwrap();
    stream.write_all(&vec![7; MAX_ECHO]).await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back.len(), MAX_ECHO);
    let mut stream = friend.open(&first_bytes_empty(Kind::Evidence)).await.unwrap();
    let reply = Reply::<EvidenceReply>::decode(&read_reply(&mut stream).await.unwrap()).unwrap();
    assert!(matches!(reply, Reply::Done(EvidenceReply { evidence: None, .. })));
    for request in [ControlRequest::Status, ControlRequest::Stop] {
        assert!(matches!(ask::<Nothing>(&friend, request).await, Reply::Failed { code, .. } if code == "refused"));
    }
    let owner = place.visit().await;
    assert_eq!(open(&owner, "1.1.1.1", 443).await.0, ExitReply::NotAllowed);
}

#[tokio::test]
async fn a_revocation_ends_open_streams_within_a_second_and_for_ever() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    let (_, mut stream) = open(&friend, "127.0.0.1", server.port()).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let visit = place.visit().await;
    let sign = |key: &SigningKey| {
        Revocation { issuer: [0; 32], target: Target::Grant([1; 8]), at: now_s(), reason: String::new() }.sign(key).encode()
    };
    let stranger = Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign);
    let forged = ask::<Revoked>(&visit, ControlRequest::Revoke(vec![sign(&stranger)])).await;
    assert!(matches!(forged, Reply::Failed { code, .. } if code == "grant-signature"));
    assert!(!friend.is_closed());
    let started = Instant::now();
    assert_eq!(ask(&visit, ControlRequest::Revoke(vec![sign(&owner())])).await, Reply::Done(Revoked { accepted: 1, closed: 1 }));
    assert!(within(Duration::from_secs(1), "ending the stream", stream.read_u8()).await.is_err());
    within(Duration::from_secs(1), "ending the session", friend.closed()).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    for _ in 0..2 {
        assert_eq!(refusal(place.connect(&FRIEND, grant(1), None).await), Refusal::GrantRevoked);
        place.start();
    }
}

#[tokio::test]
async fn a_grant_that_expires_in_mid_session_ends_it() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let short = Grant { expires: now_s() + 2, ..grant(1) };
    let friend = place.connect(&FRIEND, short.clone(), None).await.unwrap();
    let (_, mut stream) = open(&friend, "127.0.0.1", server.port()).await;
    assert!(within(Duration::from_secs(4), "expiry", stream.read_u8()).await.is_err());
    assert!(now_s() >= short.expires);
    assert!(place.log().contains("grant-expired"));
    assert_eq!(refusal(place.connect(&FRIEND, short, None).await), Refusal::GrantExpired);
}

#[tokio::test]
async fn limits_of_bytes_and_streams_hold_over_sessions_and_restarts() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let limits = Limits { bytes: Some(100_000), streams: Some(1), ..Limits::default() };
    let friend = place.friend(limits).await;
    let (reply, mut stream) = open(&friend, "127.0.0.1", server.port()).await;
    assert_eq!(reply, ExitReply::Open);
    assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::LimitReached);
    let second = place.friend(limits).await;
    assert_eq!(open(&second, "127.0.0.1", server.port()).await.0, ExitReply::LimitReached);
    let _ = stream.write_all(&vec![1; 200_000]).await;
    let mut got = Vec::new();
    assert!(within(Duration::from_secs(5), "the limit", stream.read_to_end(&mut got)).await.is_err());
    drop(stream);
    assert_eq!(refusal(place.connect(&FRIEND, Grant { limits, ..grant(1) }, None).await), Refusal::LimitReached);
    place.start();
    assert_eq!(refusal(place.connect(&FRIEND, Grant { limits, ..grant(1) }, None).await), Refusal::LimitReached);
    assert!(place.log().contains("limit-reached"));
}

#[tokio::test]
async fn a_rate_limit_is_kept() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    // 8 Mbit/s: 1.25 MB take 1.25 s, less a burst of a quarter of a second and the last chunk.
    let friend = place.friend(Limits { bits_per_second: Some(8_000_000), ..Limits::default() }).await;
    let (_, mut stream) = open(&friend, "127.0.0.1", server.port()).await;
    let started = Instant::now();
    let mut got = vec![0; 1_250_000];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let (sent, received) = tokio::join!(write.write_all(&[9; 1_250_000]), read.read_exact(&mut got));
    sent.unwrap();
    received.unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!((0.8..3.0).contains(&took), "{took}");
}

#[tokio::test]
async fn many_short_streams_are_no_way_around_a_rate() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    // 1.6 Mbit/s: 20 streams of 20 kB each way take two seconds, less a burst of a quarter of a second and the last chunk.
    let friend = place.friend(Limits { bits_per_second: Some(1_600_000), ..Limits::default() }).await;
    let started = Instant::now();
    for _ in 0..20 {
        let (_, mut stream) = open(&friend, "127.0.0.1", server.port()).await;
        stream.write_all(&[9; 20_000]).await.unwrap();
        stream.read_exact(&mut [0; 20_000]).await.unwrap();
    }
    let took = started.elapsed().as_secs_f64();
    assert!((1.5..5.0).contains(&took), "{took}");
}

#[tokio::test]
async fn a_guest_who_has_gone_is_not_connected_for() {
    // A server that is full: the kernel drops what knocks, so each attempt would go on for ten seconds.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let port = full.local_addr().unwrap().port();
    let short = Duration::from_millis(200);
    let mut guests = Vec::new();
    while let Ok(tcp) = std::net::TcpStream::connect_timeout(&full.local_addr().unwrap(), short) {
        guests.push(tcp);
    }
    let place = Place::claimed(|config| config.allow = vec!["127.0.0.0/8".into()]).await;
    let friend = place.friend(Limits::default()).await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let request = ExitRequest { host: "127.0.0.1".into(), port };
        waiting.push(friend.open(&request.first_bytes()).await.unwrap());
    }
    let begun = async {
        while ask_streams(&place).await < 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(Duration::from_secs(3), "streams to begin", begun).await;
    drop(waiting);
    let gone = async {
        while ask_streams(&place).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(Duration::from_secs(3), "streams of nobody to end", gone).await;
}

async fn ask_streams(place: &Place) -> u64 {
    let Reply::Done(status) = ask::<Status>(&place.visit().await, ControlRequest::Status).await else { panic!() };
    status.streams
}

#[tokio::test]
async fn an_accepted_invite_is_dead_for_the_rest_of_the_world_and_the_owner_is_told() {
    let place = Place::claimed(|_| {}).await;
    let once = Grant { mode: Mode::Once, ..grant(1) };
    let device = [0x44; 32];
    let trying = place.connect(&FRIEND, once.clone(), None).await.unwrap();
    let accepted = place.connect(&FRIEND, once.clone(), Some(x25519_public(&device))).await.unwrap();
    within(Duration::from_secs(1), "ending the one who only tried", trying.closed()).await;
    assert!(!accepted.is_closed());
    for bind in [None, Some([5; 32])] {
        assert_eq!(refusal(place.connect(&FRIEND, once.clone(), bind).await), Refusal::GrantBoundElsewhere);
    }
    let mine = place.connect(&device, once, None).await.unwrap();
    let Reply::Done(status) = ask::<Status>(&place.visit().await, ControlRequest::Status).await else { panic!() };
    let seen = &status.grants[0];
    assert_eq!((seen.reuse, seen.bound.as_slice(), seen.sessions), (2, &[x25519_public(&device)][..], 2));
    assert_eq!((status.label.as_str(), status.owner, status.draining), ("home", Some(owner_public()), false));
    drop(mine);
}

#[tokio::test]
async fn the_allow_list_changes_at_run_time_and_stays_changed() {
    let server = echo_server().await;
    let mut place = Place::claimed(|_| {}).await;
    for round in 0..2 {
        let friend = place.friend(Limits::default()).await;
        let visit = place.visit().await;
        if round == 0 {
            assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::NotAllowed);
            let wrong = ask::<PolicyReply>(&visit, ControlRequest::Policy(Some(vec!["example.org".into()]))).await;
            assert!(matches!(wrong, Reply::Failed { text, .. } if text.contains("example.org")));
            let rules = vec![server.to_string()];
            assert_eq!(ask(&visit, ControlRequest::Policy(Some(rules.clone()))).await, Reply::Done(PolicyReply { allow: rules }));
        }
        assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::Open);
        assert_eq!(ask(&visit, ControlRequest::Policy(None)).await, Reply::Done(PolicyReply { allow: vec![server.to_string()] }));
        place.start();
    }
}

#[tokio::test]
async fn the_owner_follows_the_log() {
    let place = Place::claimed(|_| {}).await;
    let visit = place.visit().await;
    let request = |after, wait| ControlRequest::Logs(LogsRequest { after, lines: 1000, wait });
    let Reply::Done(first) = ask::<LogsReply>(&visit, request(0, 0)).await else { panic!() };
    assert!(first.lines.iter().any(|line| line.contains("\"claim\"")));
    let (waited, ()) = tokio::join!(ask::<LogsReply>(&visit, request(first.last, 20)), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(place.friend(Limits::default()).await);
    });
    let Reply::Done(next) = waited else { panic!() };
    assert!(next.lines[0].contains("session.open") && next.last > first.last);
    let Reply::Done(nothing) = ask::<LogsReply>(&visit, ControlRequest::Logs(LogsRequest { after: u64::MAX, lines: 5, wait: 0 })).await
    else {
        panic!()
    };
    assert!(nothing.lines.is_empty());
}

#[tokio::test]
async fn the_owner_is_told_what_was_counted_on_each_day_and_not_where_anybody_went() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    let (_, mut stream) = open(&friend, "web.example", server.port()).await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(open(&friend, "inside.example", 80).await.0, ExitReply::NotAllowed);
    assert_eq!(refusal(place.connect(&FRIEND, Grant { expires: now_s() - 5, ..grant(2) }, None).await), Refusal::GrantExpired);
    let asked = |place: Place| async move {
        let Reply::Done(HistoryReply { days }) = ask(&place.visit().await, ControlRequest::History).await else { panic!() };
        // A test at midnight has two days.
        let sum = |of: &dyn Fn(&HistoryDay) -> u64| days.iter().map(of).sum::<u64>();
        assert_eq!((sum(&|day| day.handshakes), sum(&|day| day.refusals.len() as u64)), (2, 2));
        let used: Vec<_> = days.iter().flat_map(|day| &day.grants).collect();
        assert!(used.iter().all(|grant| grant.id == [1; 8]), "{used:?}");
        let mut all = Used::default();
        used.iter().for_each(|grant| all.add(grant.used));
        assert_eq!(all, Used { up: 5, down: 5, sessions: 1 });
        let reasons: Vec<_> = days.iter().flat_map(|day| &day.refusals).map(|(reason, _)| reason.as_str()).collect();
        assert!(reasons.contains(&"private") && reasons.contains(&"grant-expired"), "{reasons:?}");
        place
    };
    place = asked(place).await;
    friend.close();
    place.start();
    place = asked(place).await;
    let folder = std::fs::read_dir(place.dir.path().join("state")).unwrap().flatten();
    let kept: Vec<u8> = folder.filter_map(|file| std::fs::read(file.path()).ok()).flatten().collect();
    for name in ["web.example", "inside.example", "127.0.0.1", "10.9.9.9"] {
        assert!(!kept.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{name} was written down");
    }
    assert!(matches!(ask::<Nothing>(&place.friend(Limits::default()).await, ControlRequest::History).await, Reply::Failed { .. }));
}

#[tokio::test]
async fn stopping_and_draining() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    let (_, mut stream) = open(&friend, "127.0.0.1", server.port()).await;
    let visit = place.visit().await;
    assert_eq!(ask(&visit, ControlRequest::Drain).await, Reply::Done(Nothing));
    assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::Busy);
    assert_eq!(refusal(place.connect(&FRIEND, grant(1), None).await), Refusal::Busy);
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x', "what is open stays open");
    drop(stream);
    within(Duration::from_secs(3), "draining", place.node().ended()).await;

    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    let (_, _held) = open(&friend, "127.0.0.1", server.port()).await;
    assert_eq!(ask(&place.visit().await, ControlRequest::Stop).await, Reply::Done(Nothing));
    within(Duration::from_secs(2), "stopping", place.node().ended()).await;
    assert!(!place.dir.path().join("state").join(ready::SOCKET).exists());
    let address = place.node().address();
    drop(place);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_silent_crowd_and_garbage_do_not_keep_a_friend_out() {
    let place = Place::claimed(|config| {
        config.limits.handshakes = 50;
        config.limits.handshakes_per_source = 40;
        config.limits.lingering_per_source = 10;
    })
    .await;
    let address = place.node().address();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut garbage = Vec::new();
    for n in 0..60u8 {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let mut noise = vec![n; 4096];
        getrandom::fill(&mut noise).unwrap();
        tcp.write_all(&noise).await.unwrap();
        garbage.push(tcp);
    }
    let friend = within(Duration::from_secs(2), "a friend among a crowd", place.friend(Limits::default())).await;
    let mut stream = friend.open(&first_bytes_empty(Kind::Echo)).await.unwrap();
    stream.write_all(b"hi").await.unwrap();
    let mut back = [0; 2];
    stream.read_exact(&mut back).await.unwrap();
    // Nobody was answered a single byte.
    for tcp in silent.iter_mut().chain(&mut garbage) {
        let mut byte = [0; 1];
        if let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(1), tcp.read(&mut byte)).await {
            assert_eq!(n, 0);
        }
    }
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_start_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(taken.local_addr().unwrap(), dir.path().join("state"), "home".parse().unwrap());
    let start = move || Node::start(config, Log::in_memory()).map(drop).unwrap_err();
    let error = tokio::task::spawn_blocking(start).await.unwrap();
    assert_eq!(error.code(), Code::Precondition);
    assert!(error.message().contains(&taken.local_addr().unwrap().to_string()));
    let place = Place::new(|_| {});
    let again = Config::read(&place.dir.path().join("node.toml")).unwrap();
    let error = tokio::task::spawn_blocking(|| Node::start(again, Log::in_memory()).map(drop).unwrap_err()).await.unwrap();
    assert_eq!(error.code(), Code::Exists);
}

#[path = "guests_tests.rs"]
mod guests;

//! The two handshakes under the cover: Noise XX for a bootstrap, and the hybrid Noise IK for a session.
//!
//! A session takes one round trip. Message 1 carries the client's grant and an ephemeral ML-KEM-768 key, message 2 the
//! node's welcome or its refusal. The keys of the frames that follow are made from both sides' random values (which only
//! X25519 protects), the ML-KEM secret and the handshake hash: a recorded session stays closed if either one holds.

use super::cover::{self, Cover, CoverKey, Kind};
use super::frame::FrameKeys;
use super::replay::ReplayGuard;
use super::{BoxedIo, Hello, Io, Pipe, Session, Welcome, timed};
use crate::encoding::cbor::{CborError, Map};
use crate::token::Limits;
use crate::trust::Refusal;
use ml_kem::kem::Decapsulate;
use ml_kem::{B32, EncapsulateDeterministic, Encoded, EncodedSizeUser, KemCore, MlKem768};
use snow::{Builder, HandshakeState};
use std::io;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

const BOOTSTRAP_PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";
const BOOTSTRAP_PROLOGUE: &[u8] = b"portdistrict bootstrap v1";
const SESSION_PATTERN: &str = "Noise_IK_25519_AESGCM_SHA256";
const SESSION_PROLOGUE: &[u8] = b"portdistrict session v1";

/// Time for one step of a handshake; a peer that says nothing for so long is cut off.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest text of a refusal or version.
const MAX_TEXT: usize = 300;
/// Longest signed grant in message 1.
const MAX_GRANT: usize = 2048;
/// ML-KEM-768 sizes (FIPS 203, table 3).
const KEM_KEY_LEN: usize = 1184;
const KEM_CIPHERTEXT_LEN: usize = 1088;

type KemSecret = <MlKem768 as KemCore>::DecapsulationKey;
type KemPublic = <MlKem768 as KemCore>::EncapsulationKey;

/// Why no session came about, from the client's side.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The other side took the connection but did not answer: no node, another node, or a clock that is far off.
    #[error("the other side does not answer")]
    Silent,
    /// The node refused and said why.
    #[error("refused by the node: {text}")]
    Refused {
        /// The reason as a code.
        code: Refusal,
        /// The node's own words.
        text: String,
    },
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
}

/// Why a node does not answer a connection. The peer learns nothing of it; the log may.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The connection ended or nothing came in time.
    #[error("nothing came")]
    Io(#[from] io::Error),
    /// The first flight does not open with this node's cover.
    #[error("not for this node, or garbage")]
    Garbage,
    /// It opened once before.
    #[error("a replayed opening")]
    Replay,
    /// The Noise message or its content is wrong.
    #[error("a malformed handshake")]
    Malformed,
    /// The sender's clock is off by more than two hours (or this is an old recording).
    #[error("the sender's clock is off by more than two hours")]
    Clock,
}

/// All randomness of one side of a handshake, so that transcripts can be reproduced from fixed values.
pub(crate) struct Entropy {
    /// The cover's opening value.
    pub(crate) opening: [u8; 32],
    /// Fixed ephemeral key, only in tests.
    pub(crate) ephemeral: Option<[u8; 32]>,
    /// Goes into the frame keys.
    pub(crate) random: Zeroizing<[u8; 32]>,
    /// Seeds of the ML-KEM key pair (d, z), or of the encapsulation (m).
    pub(crate) kem: Zeroizing<[u8; 64]>,
    /// Bytes of padding in the message.
    pub(crate) padding: usize,
}

impl Entropy {
    pub(crate) fn fresh() -> io::Result<Self> {
        let mut entropy = Entropy {
            opening: [0; 32],
            ephemeral: None,
            random: Zeroizing::new([0; 32]),
            kem: Zeroizing::new([0; 64]),
            padding: cover::random_padding(),
        };
        entropy.opening = opening()?;
        getrandom::fill(&mut *entropy.random).map_err(io::Error::other)?;
        getrandom::fill(&mut *entropy.kem).map_err(io::Error::other)?;
        Ok(entropy)
    }

    fn kem_part(&self, i: usize) -> B32 {
        let mut part = B32::default();
        part.copy_from_slice(&self.kem[i * 32..(i + 1) * 32]);
        part
    }
}

/// A random opening whose first byte no classifier takes for a protocol's first byte: nDPI follows a flow as RTMP or RDP
/// after 0x03 or 0x06, as Z39.50 after any byte that ends in 20–31, and takes a `*` answered by a `+` for Redis; with a
/// thousand flows chance does the rest.
fn opening() -> io::Result<[u8; 32]> {
    let mut opening = [0; 32];
    loop {
        getrandom::fill(&mut opening).map_err(io::Error::other)?;
        if opening[0] >= 0x10 && opening[0] & 0x1f < 20 && opening[0] != b'*' {
            return Ok(opening);
        }
    }
}

fn noise(
    pattern: &str,
    prologue: &[u8],
    secret: &[u8; 32],
    remote: Option<&[u8; 32]>,
    entropy: &Entropy,
    initiator: bool,
) -> Result<HandshakeState, snow::Error> {
    let mut builder =
        Builder::with_resolver(pattern.parse()?, super::resolver::resolver()).prologue(prologue)?.local_private_key(secret)?;
    if let Some(remote) = remote {
        builder = builder.remote_public_key(remote)?;
    }
    if let Some(key) = &entropy.ephemeral {
        builder = builder.fixed_ephemeral_key_for_testing_only(key);
    }
    if initiator { builder.build_initiator() } else { builder.build_responder() }
}

fn write_noise(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, snow::Error> {
    let mut out = vec![0; payload.len() + 200];
    let n = state.write_message(payload, &mut out)?;
    out.truncate(n);
    Ok(out)
}

fn read_noise(state: &mut HandshakeState, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, snow::Error> {
    let mut out = Zeroizing::new(vec![0; message.len()]);
    let n = state.read_message(message, &mut out)?;
    out.truncate(n);
    Ok(out)
}

/// The frame keys: BLAKE3 in derive-key mode over both random values, the ML-KEM secret and the handshake hash.
fn frame_keys(client: &[u8; 32], node: &[u8; 32], kem: &[u8], hash: &[u8]) -> FrameKeys {
    let mut hasher = blake3::Hasher::new_derive_key("portdistrict v1 session-frames");
    hasher.update(client).update(node).update(kem).update(hash);
    let mut out = Zeroizing::new([0u8; 64]);
    hasher.finalize_xof().fill(&mut *out);
    let mut keys = FrameKeys { to_node: Zeroizing::new([0; 32]), to_client: Zeroizing::new([0; 32]) };
    keys.to_node.copy_from_slice(&out[..32]);
    keys.to_client.copy_from_slice(&out[32..]);
    keys
}

fn remote_static(state: &HandshakeState) -> Option<[u8; 32]> {
    state.get_remote_static()?.try_into().ok()
}

/// A node that does not know us reads on in silence: an end of file or a time-out is all that shows.
fn silent(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::TimedOut | io::ErrorKind::ConnectionReset => ConnectError::Silent,
        _ => ConnectError::Io(error),
    }
}

/// Opens a session with a node over any stream, as the holder of `secret`. `now` is in unix seconds.
pub async fn connect(
    stream: impl Io,
    secret: &[u8; 32],
    node: &[u8; 32],
    hello: Hello,
    now: u64,
) -> Result<(Session, Welcome), ConnectError> {
    connect_with(Box::new(stream), secret, node, hello, now, Entropy::fresh()?).await
}

pub(crate) async fn connect_with(
    mut io: BoxedIo,
    secret: &[u8; 32],
    node: &[u8; 32],
    hello: Hello,
    now: u64,
    entropy: Entropy,
) -> Result<(Session, Welcome), ConnectError> {
    let internal = |_| ConnectError::Protocol("the handshake could not be built");
    let mut state = noise(SESSION_PATTERN, SESSION_PROLOGUE, secret, Some(node), &entropy, true).map_err(internal)?;
    let (kem_secret, kem_public) = MlKem768::generate_deterministic(&entropy.kem_part(0), &entropy.kem_part(1));
    let first = write_noise(&mut state, &hello.encode(&entropy.random, &kem_public.as_bytes(), now)).map_err(internal)?;
    let (flight, mut cover) = cover::open_flight(&CoverKey::for_node(node), Kind::Session, &first, entropy.opening, entropy.padding);
    let sent = Instant::now();
    timed(async {
        io.write_all(&flight).await?;
        io.flush().await
    })
    .await?;
    let second = timed(cover::read_message(&mut io, &mut cover.to_client)).await.map_err(silent)?;
    let rtt = sent.elapsed();
    let payload = read_noise(&mut state, &second).map_err(|_| ConnectError::Protocol("its answer does not authenticate"))?;
    let (welcome, keys) = client_keys(&payload, &entropy, &kem_secret, state.get_handshake_hash())?;
    Ok((Session::start(io, cover, &keys, true, Some(rtt)), welcome))
}

fn client_keys(payload: &[u8], entropy: &Entropy, kem_secret: &KemSecret, hash: &[u8]) -> Result<(Welcome, FrameKeys), ConnectError> {
    let bad = |_| ConnectError::Protocol("its answer cannot be read");
    match Answer::decode(payload).map_err(bad)? {
        Answer::Refused(code, text) => Err(ConnectError::Refused { code, text }),
        Answer::Welcome { welcome, random, ciphertext } => {
            let ciphertext = ml_kem::Ciphertext::<MlKem768>::try_from(&ciphertext[..])
                .map_err(|_| ConnectError::Protocol("its ML-KEM ciphertext has the wrong size"))?;
            let shared = kem_secret.decapsulate(&ciphertext).map_err(|()| ConnectError::Protocol("its ML-KEM ciphertext is wrong"))?;
            Ok((welcome, frame_keys(&entropy.random, &random, &shared, hash)))
        }
    }
}

impl Hello {
    fn encode(&self, random: &[u8; 32], kem_public: &[u8], now: u64) -> Zeroizing<Vec<u8>> {
        let map = Map::new()
            .with(0, self.version.as_str())
            .with(1, self.grant.as_slice())
            .with_some(2, self.bind)
            .with(3, *random)
            .with(4, kem_public)
            .with(5, now);
        Zeroizing::new(map.encode())
    }
}

/// Message 1 as the node reads it.
struct FirstMessage {
    hello: Hello,
    random: Zeroizing<[u8; 32]>,
    kem_public: [u8; KEM_KEY_LEN],
    sent_at: u64,
}

impl FirstMessage {
    /// Unknown fields are left unread: a newer client may say more, and the grant itself is strict.
    fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let mut map = Map::decode(payload, cover::MAX_BODY)?;
        Ok(FirstMessage {
            hello: Hello { version: map.text(0, MAX_TEXT)?, grant: map.bytes(1, MAX_GRANT)?, bind: map.opt_array(2)? },
            random: Zeroizing::new(map.array(3)?),
            kem_public: map.array(4)?,
            sent_at: map.uint(5)?,
        })
    }
}

/// Reads bytes as message 1 and as message 2; for the fuzz target of that name.
pub(crate) fn read_handshake_payloads(payload: &[u8]) {
    let _ = FirstMessage::decode(payload);
    if let Ok(answer) = Answer::decode(payload) {
        // Unknown fields are passed over, so that only what was understood comes back.
        let again = Answer::decode(&answer.encode());
        assert!(again.is_ok_and(|again| *again.encode() == *answer.encode()));
    }
}

/// Message 2.
enum Answer {
    Welcome { welcome: Welcome, random: Zeroizing<[u8; 32]>, ciphertext: Box<[u8; KEM_CIPHERTEXT_LEN]> },
    Refused(Refusal, String),
}

impl Answer {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let map = match self {
            Answer::Welcome { welcome, random, ciphertext } => Map::new()
                .with(0, welcome.session_id)
                .with(1, welcome.expires)
                .with_some(2, welcome.limits.bytes)
                .with_some(3, welcome.limits.bits_per_second)
                .with_some(4, welcome.limits.streams.map(u64::from))
                .with(5, **random)
                .with(6, **ciphertext),
            Answer::Refused(code, text) => Map::new().with(8, code.as_str()).with(9, text.as_str()),
        };
        Zeroizing::new(map.encode())
    }

    fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let mut map = Map::decode(payload, cover::MAX_BODY)?;
        if let Some(code) = map.opt_text(8, MAX_TEXT)? {
            // A refusal this version has no name for was made by a newer node.
            let code = code.parse().unwrap_or(Refusal::UpgradeRequired);
            return Ok(Answer::Refused(code, map.text(9, MAX_TEXT)?));
        }
        let limits = Limits {
            bytes: map.opt_uint(2)?,
            bytes_per_day: None,
            bits_per_second: map.opt_uint(3)?,
            streams: map.opt_uint(4)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        };
        let welcome = Welcome { session_id: map.array(0)?, expires: map.uint(1)?, limits };
        Ok(Answer::Welcome { welcome, random: Zeroizing::new(map.array(5)?), ciphertext: Box::new(map.array(6)?) })
    }
}

/// The operator's side of a bootstrap over any stream: Noise XX, after which both ends hold a [`Pipe`].
pub async fn bootstrap(stream: impl Io, cover_key: &CoverKey, secret: &[u8; 32]) -> Result<Pipe, ConnectError> {
    let mut io: BoxedIo = Box::new(stream);
    let internal = |_| ConnectError::Protocol("the handshake could not be built");
    let entropy = Entropy::fresh()?;
    let mut state = noise(BOOTSTRAP_PATTERN, BOOTSTRAP_PROLOGUE, secret, None, &entropy, true).map_err(internal)?;
    let first = write_noise(&mut state, &[]).map_err(internal)?;
    let (flight, mut cover) = cover::open_flight(cover_key, Kind::Bootstrap, &first, entropy.opening, entropy.padding);
    timed(async {
        io.write_all(&flight).await?;
        io.flush().await
    })
    .await?;
    let second = timed(cover::read_message(&mut io, &mut cover.to_client)).await.map_err(silent)?;
    read_noise(&mut state, &second).map_err(|_| ConnectError::Protocol("its answer does not authenticate"))?;
    let third = write_noise(&mut state, &[]).map_err(internal)?;
    timed(cover::write_message(&mut io, &mut cover.to_node, &third, cover::random_padding())).await?;
    Pipe::new(io, cover, state, true).ok_or(ConnectError::Protocol("the handshake did not finish"))
}

/// The node's side: its key, the covers it opens to, and what it has answered before.
#[derive(Clone)]
pub struct Acceptor {
    secret: Zeroizing<[u8; 32]>,
    covers: Vec<CoverKey>,
    replay: ReplayGuard,
}

/// An opening that the node may answer.
pub enum Incoming {
    /// Somebody who knows the deployer's cover key; the pipe is encrypted, the owner still has to prove itself.
    Bootstrap(Box<Pipe>),
    /// Somebody who knows this node's key and holds `Request::client`.
    Session(Box<Request>),
}

/// An authenticated request for a session, not answered yet.
pub struct Request {
    /// The client's static X25519 key.
    pub client: [u8; 32],
    /// What the client sent along.
    pub hello: Hello,
    io: BoxedIo,
    cover: Cover,
    state: HandshakeState,
    random: Zeroizing<[u8; 32]>,
    kem_public: [u8; KEM_KEY_LEN],
    entropy: Entropy,
}

impl Acceptor {
    /// A node with this Noise secret; `bootstrap` is the deployer's cover key, if it may still be claimed or reconnected.
    pub fn new(secret: &[u8; 32], bootstrap: Option<CoverKey>, replay: ReplayGuard) -> Self {
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret));
        let covers = std::iter::once(CoverKey::for_node(public.as_bytes())).chain(bootstrap).collect();
        Acceptor { secret: Zeroizing::new(*secret), covers, replay }
    }

    /// Reads an opening. On an error the stream comes back, to be lingered over: the node must not answer.
    pub async fn accept(&self, stream: impl Io, now: u64) -> Result<Incoming, (AcceptError, BoxedIo)> {
        self.accept_with(Box::new(stream), now, Entropy::fresh).await
    }

    pub(crate) async fn accept_with(
        &self,
        mut io: BoxedIo,
        now: u64,
        entropy: impl FnOnce() -> io::Result<Entropy>,
    ) -> Result<Incoming, (AcceptError, BoxedIo)> {
        let opened = match timed(cover::read_flight(&mut io, &self.covers)).await {
            Ok(Some(opened)) => opened,
            Ok(None) => return Err((AcceptError::Garbage, io)),
            Err(error) => return Err((error.into(), io)),
        };
        if self.replay.seen(&opened.random) {
            return Err((AcceptError::Replay, io));
        }
        let entropy = match entropy() {
            Ok(entropy) => entropy,
            Err(error) => return Err((error.into(), io)),
        };
        match opened.kind {
            Kind::Session => self.session_request(io, opened, entropy, now).map(|request| Incoming::Session(Box::new(request))),
            Kind::Bootstrap => self.bootstrap_pipe(io, opened, &entropy, now).await.map(|pipe| Incoming::Bootstrap(Box::new(pipe))),
        }
    }

    fn session_request(&self, io: BoxedIo, opened: cover::Opened, entropy: Entropy, now: u64) -> Result<Request, (AcceptError, BoxedIo)> {
        let parse = || {
            let mut state = noise(SESSION_PATTERN, SESSION_PROLOGUE, &self.secret, None, &entropy, false).ok()?;
            let payload = read_noise(&mut state, &opened.noise).ok()?;
            let client = remote_static(&state)?;
            Some((FirstMessage::decode(&payload).ok()?, client, state))
        };
        let Some((first, client, state)) = parse() else { return Err((AcceptError::Malformed, io)) };
        if !self.replay.admit(&opened.random, first.sent_at, now) {
            let late = first.sent_at.abs_diff(now) > super::replay::WINDOW;
            return Err((if late { AcceptError::Clock } else { AcceptError::Replay }, io));
        }
        let FirstMessage { hello, random, kem_public, .. } = first;
        Ok(Request { client, hello, io, cover: opened.cover, state, random, kem_public, entropy })
    }

    async fn bootstrap_pipe(
        &self,
        mut io: BoxedIo,
        mut opened: cover::Opened,
        entropy: &Entropy,
        now: u64,
    ) -> Result<Pipe, (AcceptError, BoxedIo)> {
        let answer = || {
            let mut state = noise(BOOTSTRAP_PATTERN, BOOTSTRAP_PROLOGUE, &self.secret, None, entropy, false).ok()?;
            read_noise(&mut state, &opened.noise).ok()?;
            let second = write_noise(&mut state, &[]).ok()?;
            Some((state, second))
        };
        let Some((mut state, second)) = answer() else { return Err((AcceptError::Malformed, io)) };
        // The tag proved the cover key; a recording of it must not be answered twice.
        if !self.replay.admit(&opened.random, now, now) {
            return Err((AcceptError::Replay, io));
        }
        let exchange = async {
            cover::write_message(&mut io, &mut opened.cover.to_client, &second, entropy.padding).await?;
            cover::read_message(&mut io, &mut opened.cover.to_node).await
        };
        let third = match timed(exchange).await {
            Ok(third) => third,
            Err(error) => return Err((error.into(), io)),
        };
        if read_noise(&mut state, &third).is_err() || remote_static(&state).is_none() {
            return Err((AcceptError::Malformed, io));
        }
        Pipe::new(io, opened.cover, state, false)
            .ok_or_else(|| (io::Error::from(io::ErrorKind::InvalidData).into(), Box::new(tokio::io::empty()) as BoxedIo))
    }
}

impl Request {
    /// Admits the client: sends message 2 and starts the session.
    pub async fn welcome(mut self, welcome: Welcome) -> io::Result<Session> {
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let key = Encoded::<KemPublic>::try_from(&self.kem_public[..]).map_err(|_| bad())?;
        let (ciphertext, shared) = KemPublic::from_bytes(&key).encapsulate_deterministic(&self.entropy.kem_part(0)).map_err(|()| bad())?;
        let ciphertext: Box<[u8; KEM_CIPHERTEXT_LEN]> = Box::new(ciphertext.as_slice().try_into().map_err(|_| bad())?);
        let answer = Answer::Welcome { welcome, random: self.entropy.random.clone(), ciphertext };
        self.answer(&answer).await?;
        let keys = frame_keys(&self.random, &self.entropy.random, &shared, self.state.get_handshake_hash());
        Ok(Session::start(self.io, self.cover, &keys, false, None))
    }

    /// Refuses the client with a reason that it may show to a person.
    pub async fn refuse(mut self, code: Refusal, text: &str) -> io::Result<()> {
        self.answer(&Answer::Refused(code, text[..text.floor_char_boundary(MAX_TEXT)].to_owned())).await?;
        self.io.shutdown().await
    }

    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let message = write_noise(&mut self.state, &answer.encode()).map_err(io::Error::other)?;
        timed(cover::write_message(&mut self.io, &mut self.cover.to_client, &message, self.entropy.padding)).await
    }
}

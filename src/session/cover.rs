//! The cover: makes every byte of a direct connection look random to whoever was not invited.
//!
//! The client opens with 32 random bytes. From them and the cover key both sides derive a ChaCha20 keystream for
//! each direction and a MAC key. Handshake messages, with random padding inside, and the length of every later frame
//! run through the keystream; frame bodies are ciphertext already. The MAC over the first flight lets the node drop
//! garbage for the price of one BLAKE3, before any curve operation, and so without an answer that could be measured.
//! `docs/protocol.md`, section "Cover", is the normative text.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// Length of the client's opening random value.
pub(crate) const RANDOM_LEN: usize = 32;
/// Length of the tag over the first flight.
pub(crate) const TAG_LEN: usize = 16;
/// Longest body of a covered handshake message, padding included.
pub(crate) const MAX_BODY: usize = 4096;
/// Most bytes of padding in one handshake message.
const MAX_PADDING: usize = 511;
/// Bytes in front of the masked part: random value and tag.
const PREFIX: usize = RANDOM_LEN + TAG_LEN;

/// What a connection is for: the first byte under the cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The owner claims the node (Noise XX).
    Bootstrap = 1,
    /// Somebody with a grant opens a session (Noise IK).
    Session = 2,
}

/// The shared value that makes the cover; known to invited people, or to the deployer for a bootstrap.
#[derive(Clone)]
pub struct CoverKey(Zeroizing<[u8; 32]>);

impl CoverKey {
    /// The cover key of sessions with a node: derived from its Noise public key, which only invited people know.
    pub fn for_node(node: &[u8; 32]) -> Self {
        CoverKey(Zeroizing::new(blake3::derive_key("portdistrict v1 cover-node", node)))
    }

    /// The cover key of a bootstrap: 32 random bytes that deploy put into the machine's metadata.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        CoverKey(Zeroizing::new(bytes))
    }
}

/// Both directions of one connection's cover.
pub(crate) struct Cover {
    /// Keystream for what the client sends.
    pub(crate) to_node: ChaCha20,
    /// Keystream for what the node sends.
    pub(crate) to_client: ChaCha20,
    mac: Zeroizing<[u8; 32]>,
}

impl Cover {
    pub(super) fn derive(key: &CoverKey, random: &[u8; RANDOM_LEN]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("portdistrict v1 cover-connection");
        hasher.update(&*key.0).update(random);
        let mut out = Zeroizing::new([0u8; 96]);
        hasher.finalize_xof().fill(&mut *out);
        let part = |i: usize| <[u8; 32]>::try_from(&out[i * 32..(i + 1) * 32]).unwrap_or([0; 32]);
        let stream = |i: usize| ChaCha20::new(&Zeroizing::new(part(i)).as_slice().try_into().unwrap_or_default(), &[0u8; 12].into());
        Cover { to_node: stream(0), to_client: stream(1), mac: Zeroizing::new(part(2)) }
    }

    fn tag(&self, random: &[u8; RANDOM_LEN], masked: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.mac);
        hasher.update(random).update(masked);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
        tag
    }
}

/// What opened: the connection's cover, its random value (for the replay guard), purpose and first Noise message.
pub(crate) struct Opened {
    pub(crate) cover: Cover,
    pub(crate) random: [u8; RANDOM_LEN],
    pub(crate) kind: Kind,
    pub(crate) noise: Vec<u8>,
}

/// Makes the client's first flight and the cover that the rest of the connection uses.
pub(crate) fn open_flight(key: &CoverKey, kind: Kind, noise: &[u8], random: [u8; RANDOM_LEN], padding: usize) -> (Vec<u8>, Cover) {
    let mut cover = Cover::derive(key, &random);
    let mut flight = Vec::with_capacity(PREFIX + 5 + noise.len() + padding);
    flight.extend_from_slice(&random);
    flight.extend_from_slice(&[0; TAG_LEN]);
    flight.extend_from_slice(&((3 + noise.len() + padding) as u16).to_be_bytes());
    flight.push(kind as u8);
    push_noise(&mut flight, noise, padding);
    cover.to_node.apply_keystream(&mut flight[PREFIX..]);
    let tag = cover.tag(&random, &flight[PREFIX..]);
    flight[RANDOM_LEN..PREFIX].copy_from_slice(&tag);
    (flight, cover)
}

/// A padding length drawn at random; long enough to blur message sizes.
pub(crate) fn random_padding() -> usize {
    let mut byte = [0u8; 2];
    // Without randomness there is no handshake at all, so a failure shows up there; the padding may then be zero.
    let _ = getrandom::fill(&mut byte);
    usize::from(u16::from_be_bytes(byte)) & MAX_PADDING
}

fn push_noise(out: &mut Vec<u8>, noise: &[u8], padding: usize) {
    out.extend_from_slice(&(noise.len() as u16).to_be_bytes());
    out.extend_from_slice(noise);
    // Zeroes are enough: the keystream covers them.
    out.resize(out.len() + padding, 0);
}

/// Reads a first flight that one of `keys` opens. `Ok(None)` means that none does, and the peer must not learn why.
pub(crate) async fn read_flight<S: AsyncRead + Unpin>(stream: &mut S, keys: &[CoverKey]) -> std::io::Result<Option<Opened>> {
    let mut head = [0u8; PREFIX + 2];
    stream.read_exact(&mut head).await?;
    let random: [u8; RANDOM_LEN] = head[..RANDOM_LEN].try_into().unwrap_or([0; RANDOM_LEN]);
    // Each key yields another length; the shortest is tried first so that no right message waits for a wrong length.
    let mut candidates: Vec<(usize, Cover)> = keys
        .iter()
        .map(|key| {
            let mut cover = Cover::derive(key, &random);
            let mut length = [head[PREFIX], head[PREFIX + 1]];
            cover.to_node.apply_keystream(&mut length);
            (usize::from(u16::from_be_bytes(length)), cover)
        })
        .filter(|(length, _)| (3..=MAX_BODY).contains(length))
        .collect();
    candidates.sort_by_key(|(length, _)| *length);
    let mut body = Vec::new();
    for (length, mut cover) in candidates {
        let have = body.len();
        body.resize(length, 0);
        stream.read_exact(&mut body[have..]).await?;
        let masked = [&head[PREFIX..], &body].concat();
        if !bool::from(cover.tag(&random, &masked).ct_eq(&head[RANDOM_LEN..PREFIX])) {
            continue;
        }
        cover.to_node.apply_keystream(&mut body);
        let kind = match body[0] {
            1 => Kind::Bootstrap,
            2 => Kind::Session,
            _ => return Ok(None),
        };
        return Ok(take_noise(&body[1..]).map(|noise| Opened { cover, random, kind, noise }));
    }
    Ok(None)
}

fn take_noise(body: &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    body.get(2..2 + length).map(<[u8]>::to_vec)
}

/// Writes a later handshake message: masked length, then masked Noise message and padding.
pub(crate) async fn write_message<S: AsyncWrite + Unpin>(
    stream: &mut S,
    keystream: &mut ChaCha20,
    noise: &[u8],
    padding: usize,
) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(4 + noise.len() + padding);
    out.extend_from_slice(&((2 + noise.len() + padding) as u16).to_be_bytes());
    push_noise(&mut out, noise, padding);
    keystream.apply_keystream(&mut out);
    stream.write_all(&out).await?;
    stream.flush().await
}

/// Reads a later handshake message.
pub(crate) async fn read_message<S: AsyncRead + Unpin>(stream: &mut S, keystream: &mut ChaCha20) -> std::io::Result<Vec<u8>> {
    let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, "a handshake message of impossible length");
    let mut length = [0u8; 2];
    stream.read_exact(&mut length).await?;
    keystream.apply_keystream(&mut length);
    let length = usize::from(u16::from_be_bytes(length));
    if !(2..=MAX_BODY).contains(&length) {
        return Err(bad());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    keystream.apply_keystream(&mut body);
    take_noise(&body).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> CoverKey {
        CoverKey::from_bytes([n; 32])
    }

    #[tokio::test]
    async fn a_flight_opens_only_with_its_key() {
        let (flight, _) = open_flight(&key(1), Kind::Session, b"noise", [9; 32], 77);
        let opened = read_flight(&mut &flight[..], &[key(2), key(1)]).await.unwrap().unwrap();
        assert_eq!((opened.kind, &opened.noise[..], opened.random), (Kind::Session, &b"noise"[..], [9; 32]));
        let stranger = read_flight(&mut &[flight.clone(), vec![0; MAX_BODY]].concat()[..], &[key(2)]).await.unwrap();
        assert!(stranger.is_none());
    }

    #[tokio::test]
    async fn no_flipped_bit_opens() {
        let (flight, _) = open_flight(&key(1), Kind::Session, b"noise", [9; 32], 3);
        for bit in 0..flight.len() * 8 {
            let mut bad = flight.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad.resize(bad.len() + MAX_BODY, 0);
            assert!(read_flight(&mut &bad[..], &[key(1)]).await.unwrap().is_none(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn messages_pass_and_impossible_lengths_do_not() {
        let (_, mut ours) = open_flight(&key(1), Kind::Session, b"", [9; 32], 0);
        let (_, mut theirs) = open_flight(&key(1), Kind::Session, b"", [9; 32], 0);
        let mut wire = Vec::new();
        write_message(&mut wire, &mut ours.to_client, b"answer", 20).await.unwrap();
        assert_eq!(read_message(&mut &wire[..], &mut theirs.to_client).await.unwrap(), b"answer");
        assert!(read_message(&mut &[0u8; 70_000][..], &mut theirs.to_node).await.is_err());
    }
}

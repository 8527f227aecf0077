//! Frames: a masked u16 length and an AES-256-GCM ciphertext, encrypted and decrypted where they lie.
//!
//! These are Noise transport messages (revision 34, §5.1: nonce counts up, empty associated data) under the keys of the
//! hybrid handshake, done with ring in place because snow copies every message. An empty plaintext announces that its
//! sender goes on with the next key (Noise `REKEY`, §4.2); that happens after 2^20 frames or an hour.

use chacha20::ChaCha20;
use chacha20::cipher::StreamCipher;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::io;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Bytes of the masked length in front of a frame.
pub(crate) const LENGTH_LEN: usize = 2;
/// Bytes of the authentication tag behind it.
pub(crate) const TAG_LEN: usize = 16;
/// Longest plaintext of a frame.
pub(crate) const MAX_PLAINTEXT: usize = 65_535 - TAG_LEN;
const REKEY_FRAMES: u64 = 1 << 20;
const REKEY_AFTER: Duration = Duration::from_secs(3600);

/// The two directions' first keys.
pub(crate) struct FrameKeys {
    pub(crate) to_node: Zeroizing<[u8; 32]>,
    pub(crate) to_client: Zeroizing<[u8; 32]>,
}

/// One direction's key with its counter.
struct Cipher {
    key: LessSafeKey,
    counter: u64,
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame does not authenticate")
}

impl Cipher {
    fn new(key: &[u8; 32]) -> io::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| broken())?;
        Ok(Cipher { key: LessSafeKey::new(key), counter: 0 })
    }

    /// Noise AESGCM nonces: 32 zero bits, then the counter big-endian.
    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn next(&mut self) -> io::Result<Nonce> {
        let nonce = Self::nonce(self.counter);
        // 2^64-1 is kept for REKEY (§4.2).
        self.counter = self.counter.checked_add(1).filter(|n| *n != u64::MAX).ok_or_else(broken)?;
        Ok(nonce)
    }

    fn rekey(&mut self) -> io::Result<()> {
        let mut next = Zeroizing::new([0u8; 32]);
        // REKEY keeps the first 32 bytes of the ciphertext and drops the tag.
        let _tag = self.key.seal_in_place_separate_tag(Self::nonce(u64::MAX), Aad::empty(), &mut *next).map_err(|_| broken())?;
        *self = Cipher::new(&next)?;
        Ok(())
    }
}

/// Encrypts what is sent.
pub(crate) struct Sealer {
    cipher: Cipher,
    mask: ChaCha20,
    since: Instant,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32], mask: ChaCha20) -> io::Result<Self> {
        Ok(Sealer { cipher: Cipher::new(key)?, mask, since: Instant::now() })
    }

    /// Whether [`Sealer::announce`] is due before the next frame.
    pub(crate) fn rekey_due(&self) -> bool {
        self.cipher.counter >= REKEY_FRAMES || self.since.elapsed() >= REKEY_AFTER
    }

    /// Writes the empty frame that announces the next key, and takes that key.
    pub(crate) fn announce(&mut self, frame: &mut [u8; LENGTH_LEN + TAG_LEN]) -> io::Result<()> {
        self.seal(frame)?;
        self.since = Instant::now();
        self.cipher.rekey()
    }

    /// Encrypts `frame`, which is laid out as length, plaintext and room for the tag.
    pub(crate) fn seal(&mut self, frame: &mut [u8]) -> io::Result<()> {
        let body = frame.len() - LENGTH_LEN;
        let (head, rest) = frame.split_at_mut(LENGTH_LEN);
        let (plain, tag) = rest.split_at_mut(body - TAG_LEN);
        head.copy_from_slice(&u16::try_from(body).map_err(|_| broken())?.to_be_bytes());
        self.mask.apply_keystream(head);
        let nonce = self.cipher.next()?;
        let made = self.cipher.key.seal_in_place_separate_tag(nonce, Aad::empty(), plain).map_err(|_| broken())?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }
}

/// Decrypts what is received.
pub(crate) struct Opener {
    cipher: Cipher,
    mask: ChaCha20,
}

impl Opener {
    pub(crate) fn new(key: &[u8; 32], mask: ChaCha20) -> io::Result<Self> {
        Ok(Opener { cipher: Cipher::new(key)?, mask })
    }

    /// Unmasks the length of the next frame; call once for each frame.
    pub(crate) fn length(&mut self, masked: [u8; LENGTH_LEN]) -> io::Result<usize> {
        let mut length = masked;
        self.mask.apply_keystream(&mut length);
        let length = usize::from(u16::from_be_bytes(length));
        if length < TAG_LEN { Err(broken()) } else { Ok(length) }
    }

    /// Decrypts a frame's body in place and returns its plaintext; an empty one has changed the key.
    pub(crate) fn open<'a>(&mut self, body: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let nonce = self.cipher.next()?;
        let plain = self.cipher.key.open_in_place(nonce, Aad::empty(), body).map_err(|_| broken())?;
        if plain.is_empty() {
            self.cipher.rekey()?;
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::cipher::KeyIvInit;

    fn pair() -> (Sealer, Opener) {
        let mask = || ChaCha20::new(&[1; 32].into(), &[0; 12].into());
        (Sealer::new(&[7; 32], mask()).unwrap(), Opener::new(&[7; 32], mask()).unwrap())
    }

    fn frame(plain: &[u8]) -> Vec<u8> {
        [&[0; LENGTH_LEN], plain, &[0; TAG_LEN]].concat()
    }

    fn pass(sealer: &mut Sealer, opener: &mut Opener, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut wire = frame(plain);
        sealer.seal(&mut wire)?;
        let length = opener.length([wire[0], wire[1]])?;
        assert_eq!(length, plain.len() + TAG_LEN);
        opener.open(&mut wire[LENGTH_LEN..]).map(<[u8]>::to_vec)
    }

    #[test]
    fn frames_pass_over_many_keys() {
        let (mut sealer, mut opener) = pair();
        for round in 0..5u8 {
            assert_eq!(pass(&mut sealer, &mut opener, &[round; 100]).unwrap(), [round; 100]);
            let mut wire = [0; LENGTH_LEN + TAG_LEN];
            sealer.announce(&mut wire).unwrap();
            let length = opener.length([wire[0], wire[1]]).unwrap();
            assert_eq!(opener.open(&mut wire[LENGTH_LEN..][..length]).unwrap(), b"");
        }
    }

    #[test]
    fn a_rekey_is_due_after_2_to_the_20_frames() {
        let (mut sealer, _) = pair();
        sealer.cipher.counter = REKEY_FRAMES - 1;
        assert!(!sealer.rekey_due());
        sealer.seal(&mut frame(b"x")).unwrap();
        assert!(sealer.rekey_due());
    }

    #[test]
    fn a_flipped_bit_a_reordered_and_a_repeated_frame_are_refused() {
        let (mut sealer, mut opener) = pair();
        let mut first = frame(b"one");
        sealer.seal(&mut first).unwrap();
        let mut second = frame(b"two");
        sealer.seal(&mut second).unwrap();
        assert!(opener.open(&mut second.clone()[LENGTH_LEN..]).is_err());
        let (mut sealer, mut opener) = pair();
        let mut flipped = frame(b"one");
        sealer.seal(&mut flipped).unwrap();
        flipped[4] ^= 1;
        assert!(opener.open(&mut flipped[LENGTH_LEN..]).is_err());
        assert!(opener.open(&mut first[LENGTH_LEN..]).is_err(), "the counter has moved on");
    }
}

//! The primitives that `snow` uses: X25519 by aws-lc-rs, hash and AEAD by ring.
//!
//! A handshake is four X25519 operations on each side and hardly anything else. aws-lc-rs does one in 32 µs where
//! curve25519-dalek takes 54 µs (same machine, same run), which decides how many friends a small node can let in.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, DefaultResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

/// X25519 keys are 32 bytes (RFC 7748 §5).
const KEY_LEN: usize = 32;

/// The resolver for every handshake of this program.
pub(super) fn resolver() -> BoxedCryptoResolver {
    Box::new(Resolver)
}

struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(Curve25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

#[derive(Default)]
struct Curve25519 {
    /// Parsed once: parsing makes the public key, a scalar multiplication of its own.
    key: Option<PrivateKey>,
    secret: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
}

impl Dh for Curve25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.key = PrivateKey::from_private_key(&X25519, secret).ok();
        if let Some(public) = self.key.as_ref().and_then(|key| key.compute_public_key().ok()) {
            self.public.copy_from_slice(public.as_ref());
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        rng.try_fill_bytes(&mut *secret)?;
        self.set(&*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        let public = public.get(..KEY_LEN).ok_or(Error::Dh)?;
        // Refuses points of small order, whose result is all zero.
        agree(key, UnparsedPublicKey::new(&X25519, public), Error::Dh, |shared| {
            out[..KEY_LEN].copy_from_slice(shared);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bob's keys of RFC 7748 §6.1.
    #[test]
    fn agrees_with_the_vector_of_the_rfc() {
        let unhex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let mut alice = Curve25519::default();
        alice.set(&[7; 32]);
        let mut bob = Curve25519::default();
        bob.set(&unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        assert_eq!(bob.pubkey(), unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let (mut ours, mut theirs) = ([0; 32], [0; 32]);
        alice.dh(bob.pubkey(), &mut ours).unwrap();
        bob.dh(alice.pubkey(), &mut theirs).unwrap();
        assert_eq!(ours, theirs);
        assert!(alice.dh(&[0; 32], &mut ours).is_err(), "a point of small order");
    }
}

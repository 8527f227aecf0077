//! The rotation: an old and a new identity key, each signing that the second takes the place of the first.

use super::LATEST;
use crate::encoding::cbor::{CborError, Map};
use crate::keyring;
use ed25519_dalek::SigningKey;

const SIGNATURE_TYPE: &str = "rotation";
/// Two keys, a time, two signatures, and what holds them together.
pub(super) const LIMIT: usize = 256;

/// Which key takes the place of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The identity key until now.
    pub old: [u8; 32],
    /// The identity key from now on.
    pub new: [u8; 32],
    /// When, in Unix seconds.
    pub at: u64,
}

impl Rotation {
    /// Signs with both keys, whose public halves become `old` and `new`.
    pub fn sign(old: &SigningKey, new: &SigningKey, at: u64) -> SignedRotation {
        let rotation = Rotation { old: old.verifying_key().to_bytes(), new: new.verifying_key().to_bytes(), at };
        let payload = rotation.payload();
        let signatures = [keyring::sign(old, SIGNATURE_TYPE, &payload), keyring::sign(new, SIGNATURE_TYPE, &payload)];
        SignedRotation { rotation, signatures }
    }

    fn payload(&self) -> Vec<u8> {
        Map::new().with(0, self.old).with(1, self.new).with(2, self.at).encode()
    }

    fn from_payload(payload: &[u8]) -> Result<Rotation, CborError> {
        let mut map = Map::decode(payload, LIMIT)?;
        let rotation = Rotation { old: map.array(0)?, new: map.array(1)?, at: map.uint(2)? };
        map.finish()?;
        if rotation.at > LATEST { Err(CborError::Field(2)) } else { Ok(rotation) }
    }
}

/// A rotation with both signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRotation {
    rotation: Rotation,
    signatures: [[u8; 64]; 2],
}

impl SignedRotation {
    /// What it says. Nothing is proven before [`verify`](Self::verify).
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// The form in blobs, in spans and on the wire.
    pub fn encode(&self) -> Vec<u8> {
        Map::new().with(0, self.rotation.payload()).with(1, self.signatures[0]).with(2, self.signatures[1]).encode()
    }

    /// Reads it. The signatures are not checked.
    pub fn decode(bytes: &[u8]) -> Result<SignedRotation, CborError> {
        let mut map = Map::decode(bytes, LIMIT)?;
        let rotation = Rotation::from_payload(&map.bytes(0, LIMIT)?)?;
        let signatures = [map.array(1)?, map.array(2)?];
        map.finish()?;
        Ok(SignedRotation { rotation, signatures })
    }

    /// Whether both keys signed it, and are two.
    pub fn verify(&self) -> bool {
        let Rotation { old, new, .. } = &self.rotation;
        let payload = self.rotation.payload();
        let signed = |key, signature| keyring::verify(key, SIGNATURE_TYPE, &payload, signature);
        old != new && signed(old, &self.signatures[0]) && signed(new, &self.signatures[1])
    }
}

/// Whether signed rotations, oldest first, lead from one key to another; those before the first key do not matter.
pub fn leads(from: &[u8; 32], to: &[u8; 32], rotations: &[SignedRotation]) -> bool {
    let Some(start) = rotations.iter().position(|signed| signed.rotation.old == *from) else { return false };
    let mut at = *from;
    for signed in &rotations[start..] {
        if signed.rotation.old != at || !signed.verify() {
            return false;
        }
        at = signed.rotation.new;
    }
    at == *to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    #[test]
    fn both_keys_must_have_signed() {
        let good = Rotation::sign(&key(1), &key(2), 1_800_000_000);
        assert!(good.verify());
        assert_eq!(SignedRotation::decode(&good.encode()), Ok(good.clone()));
        assert!(good.encode().len() <= LIMIT);
        for side in 0..2 {
            let mut bad = good.clone();
            bad.signatures[side][5] ^= 1;
            assert!(!bad.verify());
        }
        let stolen = SignedRotation { signatures: [good.signatures[1], good.signatures[0]], ..good.clone() };
        assert!(!stolen.verify());
        let moved = SignedRotation { rotation: Rotation { at: 1, ..good.rotation }, ..good };
        assert!(!moved.verify());
        assert!(!Rotation::sign(&key(1), &key(1), 1).verify(), "a key does not follow itself");
    }

    #[test]
    fn a_chain_leads_only_where_every_link_holds() {
        let public = |n: u8| key(n).verifying_key().to_bytes();
        let chain = [Rotation::sign(&key(1), &key(2), 1), Rotation::sign(&key(2), &key(3), 2)];
        assert!(leads(&public(1), &public(3), &chain) && leads(&public(2), &public(3), &chain));
        assert!(!leads(&public(1), &public(2), &chain), "it leads further");
        assert!(!leads(&public(4), &public(3), &chain) && !leads(&public(3), &public(3), &chain));
        assert!(!leads(&public(1), &public(3), &[chain[1].clone(), chain[0].clone()]));
        assert!(!leads(&public(1), &public(3), &[]));
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = Rotation::sign(&key(1), &key(2), 7).encode();
        assert!(SignedRotation::decode(&[&good[..], &[0]].concat()).is_err());
        assert!(SignedRotation::decode(&good[..good.len() - 1]).is_err());
        let late = Rotation { old: [1; 32], new: [2; 32], at: LATEST + 1 }.payload();
        let late = Map::new().with(0, late).with(1, [0; 64]).with(2, [0; 64]).encode();
        assert_eq!(SignedRotation::decode(&late), Err(CborError::Field(2)));
    }
}

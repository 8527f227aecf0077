//! The revocation: the owner's signed word that a grant, or everything a key holds, is over.

use super::{LATEST, signed};
use crate::encoding::cbor::{CborError, Map};
use crate::keyring;
use ed25519_dalek::SigningKey;

const SIGNATURE_TYPE: &str = "revocation";
const LIMIT: usize = 512;
const MAX_REASON: usize = 200;

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One grant, by its id.
    Grant([u8; 8]),
    /// Every grant of one subject key, and of a device key that was bound.
    Subject([u8; 32]),
}

/// Who takes back what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The owner's identity key, which signs.
    pub issuer: [u8; 32],
    /// What is revoked.
    pub target: Target,
    /// When, in Unix seconds.
    pub at: u64,
    /// Why, for the owner's own records; may be empty.
    pub reason: String,
}

impl Revocation {
    /// Signs it; the key's owner becomes the issuer. A long reason is cut to what the format holds.
    pub fn sign(mut self, key: &SigningKey) -> SignedRevocation {
        self.issuer = key.verifying_key().to_bytes();
        self.reason.truncate(self.reason.floor_char_boundary(MAX_REASON));
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedRevocation { payload, signature, revocation: self }
    }

    fn payload(&self) -> Vec<u8> {
        let map = Map::new().with(0, self.issuer).with(3, self.at);
        let map = match self.target {
            Target::Grant(id) => map.with(1, id),
            Target::Subject(key) => map.with(2, key),
        };
        map.with_some(4, (!self.reason.is_empty()).then_some(self.reason.as_str())).encode()
    }

    fn from_payload(payload: &[u8]) -> Result<Revocation, CborError> {
        let mut map = Map::decode(payload, LIMIT)?;
        let issuer = map.array(0)?;
        let target = match (map.opt_array(1)?, map.opt_array(2)?) {
            (Some(id), None) => Target::Grant(id),
            (None, Some(key)) => Target::Subject(key),
            _ => return Err(CborError::Field(1)),
        };
        let at = map.uint(3)?;
        let reason = map.opt_text(4, MAX_REASON)?.unwrap_or_default();
        map.finish()?;
        if at > LATEST {
            return Err(CborError::Field(3));
        }
        let revocation = Revocation { issuer, target, at, reason };
        if revocation.payload() != payload { Err(CborError::NotCanonical) } else { Ok(revocation) }
    }
}

/// A revocation as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRevocation {
    payload: Vec<u8>,
    signature: [u8; 64],
    revocation: Revocation,
}

impl SignedRevocation {
    /// What it says. Nothing is proven before [`verify`](Self::verify).
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }

    /// The form on the wire and in the node's memory.
    pub fn encode(&self) -> Vec<u8> {
        signed::encode(&self.payload, &self.signature)
    }

    /// Reads it. The signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let (payload, signature) = signed::decode(bytes, LIMIT)?;
        let revocation = Revocation::from_payload(&payload)?;
        Ok(SignedRevocation { payload, signature, revocation })
    }

    /// Whether this owner issued it and signed exactly these bytes.
    pub fn verify(&self, owner: &[u8; 32]) -> bool {
        self.revocation.issuer == *owner && keyring::verify(owner, SIGNATURE_TYPE, &self.payload, &self.signature)
    }
}

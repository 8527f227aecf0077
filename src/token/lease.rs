//! The lease statement: the owner's signed word that he was there at this time, for one node.
//!
//! A node serves a grant only for the length of its lease after the newest such statement, so a revocation that never
//! reaches a node still ends what it took back.

use super::{LATEST, signed};
use crate::encoding::cbor::{CborError, Map};
use crate::keyring;
use ed25519_dalek::SigningKey;

const SIGNATURE_TYPE: &str = "lease";
const LIMIT: usize = 256;

/// The owner was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The owner's identity key, which signs.
    pub issuer: [u8; 32],
    /// The Noise key of the node that it is for.
    pub node: [u8; 32],
    /// When, in Unix seconds.
    pub at: u64,
}

impl Lease {
    /// Signs it; the key's owner becomes the issuer.
    pub fn sign(mut self, key: &SigningKey) -> SignedLease {
        self.issuer = key.verifying_key().to_bytes();
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedLease { payload, signature, lease: self }
    }

    fn payload(&self) -> Vec<u8> {
        Map::new().with(0, self.issuer).with(1, self.node).with(2, self.at).encode()
    }
}

/// A statement as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedLease {
    payload: Vec<u8>,
    signature: [u8; 64],
    lease: Lease,
}

impl SignedLease {
    /// What it says. Nothing is proven before [`verify`](Self::verify).
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        signed::encode(&self.payload, &self.signature)
    }

    /// Reads it. The signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let (payload, signature) = signed::decode(bytes, LIMIT)?;
        let mut map = Map::decode(&payload, LIMIT)?;
        let lease = Lease { issuer: map.array(0)?, node: map.array(1)?, at: map.uint(2)? };
        map.finish()?;
        if lease.at > LATEST { Err(CborError::Field(2)) } else { Ok(SignedLease { payload, signature, lease }) }
    }

    /// Whether this owner issued it for this node and signed exactly these bytes.
    pub fn verify(&self, owner: &[u8; 32], node: &[u8; 32]) -> bool {
        let named = self.lease.issuer == *owner && self.lease.node == *node;
        named && keyring::verify(owner, SIGNATURE_TYPE, &self.payload, &self.signature)
    }
}

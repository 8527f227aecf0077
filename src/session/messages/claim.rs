//! The claim: how a node says what it is and learns who owns it, inside the bootstrap handshake.

use super::control::byte_strings;
use super::{Activation, MAX_BOOTSTRAP, MAX_EVIDENCE, Message};
use crate::encoding::cbor::{CborError, Map, Value};

/// Most rotations in one claim: whoever rotated more often between two visits claims with the identities in between.
pub const MAX_ROTATIONS: usize = 8;
/// Longest signed rotation.
const MAX_ROTATION: usize = 256;

/// Type under which the owner's proof of a claim is signed; the payload is [`claim_payload`].
pub const CLAIM_TYPE: &str = "claim";

/// What the owner signs: this handshake and this node, so that a recorded claim is worth nothing elsewhere.
pub fn claim_payload(handshake_hash: &[u8; 32], node: &[u8; 32]) -> [u8; 64] {
    let mut payload = [0; 64];
    payload[..32].copy_from_slice(handshake_hash);
    payload[32..].copy_from_slice(node);
    payload
}

/// Bootstrap, operator to node: binds fresh evidence to this conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Random.
    pub nonce: [u8; 32],
}

impl Message for Challenge {
    const LIMIT: usize = 64;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.nonce)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Challenge { nonce: map.array(0)? })
    }
}

/// Bootstrap, node to operator: what the node says it is. Believed only as far as the evidence goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Hardware evidence bound to node key, application and nonce; absent on a plain machine.
    pub evidence: Option<Vec<u8>>,
    /// SHA-256 of the running program.
    pub app_digest: [u8; 32],
    /// Version of the running program.
    pub version: String,
    /// Label given at deploy.
    pub label: String,
    /// Where the node's seed comes from: `local`, `owner`, `sealed`, `measured`.
    pub seed_source: String,
    /// Whether it has an owner already.
    pub claimed: bool,
}

impl Message for Offer {
    const LIMIT: usize = MAX_BOOTSTRAP;
    fn to_map(&self) -> Map {
        Map::new()
            .with_some(0, self.evidence.clone())
            .with(1, self.app_digest)
            .with(2, self.version.as_str())
            .with(3, self.label.as_str())
            .with(4, self.seed_source.as_str())
            .with(5, self.claimed)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Offer {
            evidence: map.opt_bytes(0, MAX_EVIDENCE)?,
            app_digest: map.array(1)?,
            version: map.text(2, 64)?,
            label: map.text(3, 64)?,
            seed_source: map.text(4, 16)?,
            claimed: map.flag(5)?,
        })
    }
}

/// Bootstrap, operator to node: I am the owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// The owner's identity key.
    pub owner: [u8; 32],
    /// Signature over [`claim_payload`] as [`CLAIM_TYPE`].
    pub signature: [u8; 64],
    /// The node's seed, where its source is `owner`.
    pub seed: Option<[u8; 32]>,
    /// Signed rotations that lead from the owner that the node may know to this one, oldest first.
    pub rotations: Vec<Vec<u8>>,
}

impl Message for Claim {
    const LIMIT: usize = 256 + MAX_ROTATIONS * (MAX_ROTATION + 4);
    fn to_map(&self) -> Map {
        let rotations: Vec<Value> = self.rotations.iter().cloned().map(Value::Bytes).collect();
        let rotations = (!rotations.is_empty()).then_some(rotations);
        Map::new().with(0, self.owner).with(1, self.signature).with_some(2, self.seed).with_some(3, rotations)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Claim {
            owner: map.array(0)?,
            signature: map.array(1)?,
            seed: map.opt_array(2)?,
            rotations: byte_strings(map, 3, MAX_ROTATIONS, MAX_ROTATION)?,
        })
    }
}

/// Bootstrap, operator to node, after the offer: a challenge to its TPM where there is one, and then the claim.
pub enum Turn {
    /// Open this; the answer is an `Activated`.
    Activate(Activation),
    /// I am the owner; the answer is a [`ClaimReply`].
    Claim(Claim),
}

impl Message for Turn {
    const LIMIT: usize = if Claim::LIMIT > 1100 { Claim::LIMIT } else { 1100 };
    fn to_map(&self) -> Map {
        match self {
            Turn::Activate(activation) => activation.fields(8),
            Turn::Claim(claim) => claim.to_map(),
        }
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let first = map.keys().next();
        match first {
            Some(8) => Activation::read(map, 8).map(Turn::Activate),
            _ => Claim::from_map(map).map(Turn::Claim),
        }
    }
}

/// Why a node did not accept a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// Somebody else owns it.
    AlreadyClaimed,
    /// Another owner was fixed at deploy.
    NotOwner,
    /// The proof does not belong to this handshake and node.
    BadSignature,
    /// The node waits for its seed, and none came with the claim.
    SeedMissing,
    /// The node could not write down its owner.
    Storage,
}

impl ClaimRefusal {
    /// Every refusal.
    pub const ALL: [ClaimRefusal; 5] = [
        ClaimRefusal::AlreadyClaimed,
        ClaimRefusal::NotOwner,
        ClaimRefusal::BadSignature,
        ClaimRefusal::SeedMissing,
        ClaimRefusal::Storage,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            ClaimRefusal::AlreadyClaimed => "already-claimed",
            ClaimRefusal::NotOwner => "not-owner",
            ClaimRefusal::BadSignature => "claim-signature",
            ClaimRefusal::SeedMissing => "seed-missing",
            ClaimRefusal::Storage => "storage",
        }
    }
}

/// Bootstrap, node to operator: the outcome, sent after it was written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimReply {
    /// You own it now.
    Claimed,
    /// You owned it before; it knows you again.
    Reconnected,
    /// No.
    Refused(ClaimRefusal),
}

impl Message for ClaimReply {
    const LIMIT: usize = 64;
    fn to_map(&self) -> Map {
        match self {
            ClaimReply::Claimed => Map::new().with(0, 0u64),
            ClaimReply::Reconnected => Map::new().with(0, 1u64),
            ClaimReply::Refused(refusal) => Map::new().with(0, 2u64).with(1, refusal.as_str()),
        }
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        match map.uint(0)? {
            0 => Ok(ClaimReply::Claimed),
            1 => Ok(ClaimReply::Reconnected),
            2 => {
                let name = map.text(1, 32)?;
                ClaimRefusal::ALL.into_iter().find(|r| r.as_str() == name).map(ClaimReply::Refused).ok_or(CborError::Field(1))
            }
            _ => Err(CborError::Field(0)),
        }
    }
}

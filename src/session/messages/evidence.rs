//! What travels on an evidence stream: the evidence, and a challenge to the TPM behind it.

use super::{Kind, MAX_BOOTSTRAP, MAX_EVIDENCE, Message, first_bytes};
use crate::encoding::cbor::{CborError, Map};
use zeroize::Zeroizing;

/// Largest part of a challenge: a seed under an RSA key of 4096 bits is the longest.
const MAX_PART: usize = 520;

/// A challenge to a TPM (TPM2_ActivateCredential): only the TPM with the endorsement key can open it, and only for an
/// attestation key that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// TPM2B_ID_OBJECT.
    pub credential_blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

impl Activation {
    pub(super) fn fields(&self, first: u64) -> Map {
        Map::new().with(first, self.credential_blob.clone()).with(first + 1, self.encrypted_secret.clone())
    }

    pub(super) fn read(map: &mut Map, first: u64) -> Result<Activation, CborError> {
        Ok(Activation { credential_blob: map.bytes(first, MAX_PART)?, encrypted_secret: map.bytes(first + 1, MAX_PART)? })
    }
}

/// The request of an evidence stream; open to every guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceRequest {
    /// The cached evidence.
    Show,
    /// Open this challenge.
    Activate(Activation),
}

impl EvidenceRequest {
    /// The stream's first bytes.
    pub fn first_bytes(&self) -> Vec<u8> {
        first_bytes(Kind::Evidence, &self.encode())
    }
}

impl Message for EvidenceRequest {
    const LIMIT: usize = 2 * MAX_PART + 16;
    fn to_map(&self) -> Map {
        match self {
            EvidenceRequest::Show => Map::new(),
            EvidenceRequest::Activate(activation) => activation.fields(0),
        }
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let first = map.keys().next();
        match first {
            None => Ok(EvidenceRequest::Show),
            Some(_) => Activation::read(map, 0).map(EvidenceRequest::Activate),
        }
    }
}

/// The secret of a challenge that was opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Activated {
    /// 32 bytes, if the challenge was one of ours.
    pub secret: Zeroizing<Vec<u8>>,
}

impl Message for Activated {
    const LIMIT: usize = 80;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.secret.to_vec())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Activated { secret: Zeroizing::new(map.bytes(0, 64)?) })
    }
}

/// Result of [`EvidenceRequest::Show`], and of the owner's request for fresh evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceReply {
    /// Hardware evidence; absent on a plain machine, which is then pinned on first use.
    pub evidence: Option<Vec<u8>>,
    /// SHA-256 of the running program.
    pub app_digest: [u8; 32],
}

impl Message for EvidenceReply {
    const LIMIT: usize = MAX_BOOTSTRAP;
    fn to_map(&self) -> Map {
        Map::new().with_some(0, self.evidence.clone()).with(1, self.app_digest)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(EvidenceReply { evidence: map.opt_bytes(0, MAX_EVIDENCE)?, app_digest: map.array(1)? })
    }
}

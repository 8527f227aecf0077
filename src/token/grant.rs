//! The grant: the owner's signed word on which key may use which node, for how long and how much.

use super::blob::{self, BlobError, Type};
use super::{LATEST, signed};
use crate::encoding::cbor::{CborError, Map, Value};
use crate::keyring;
use ed25519_dalek::SigningKey;

/// The largest signed grant, as it stands in a handshake.
pub const GRANT_LIMIT: usize = 2048;

const SIGNATURE_TYPE: &str = "grant";
const MAX_EGRESS_RULES: usize = 16;
const MAX_EGRESS_RULE: usize = 128;

/// Keys of the payload that this version reads.
pub(super) mod key {
    pub(in crate::token) const ID: u64 = 0;
    pub(in crate::token) const ISSUER: u64 = 1;
    pub(in crate::token) const NODE: u64 = 2;
    pub(in crate::token) const SUBJECT: u64 = 3;
    pub(in crate::token) const NOT_BEFORE: u64 = 4;
    pub(in crate::token) const EXPIRES: u64 = 5;
    pub(in crate::token) const BYTES: u64 = 6;
    pub(in crate::token) const BITS_PER_SECOND: u64 = 7;
    pub(in crate::token) const STREAMS: u64 = 8;
    pub(in crate::token) const EGRESS: u64 = 9;
    pub(in crate::token) const EVIDENCE: u64 = 10;
    pub(in crate::token) const MODE: u64 = 11;
    pub(in crate::token) const ROLE: u64 = 12;
}

/// Keys of the payload that are promised to later versions.
///
/// They are fixed now so that blobs already in chats stay readable when their meaning arrives. A payload that has
/// one still parses; a node that cannot enforce it refuses the grant as `upgrade-required`.
pub mod reserved {
    /// How many devices may be bound under mode `many`.
    pub const DEVICES: u64 = 13;
    /// The hours of the week in which the grant holds.
    pub const WEEKLY_WINDOW: u64 = 14;
    /// The grant is suspended.
    pub const PAUSED: u64 = 15;
    /// The grant holds only while the owner renews it.
    pub const LEASE: u64 = 16;
    /// How long before the end the friend is warned. Restricts nothing.
    pub const WARN_BEFORE: u64 = 17;
    /// The grant of which this one is a narrower copy.
    pub const PARENT: u64 = 18;
    /// The state of the owner's ledger when this was signed. Restricts nothing.
    pub const CHECKPOINT: u64 = 19;
}

/// How the text of an invite may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For trying only; never bound to a device.
    Try,
    /// The first device that accepts owns it; from then on the text is dead.
    Once,
    /// Any number of devices may accept; the text stays alive.
    Many,
}

impl Mode {
    /// The word in commands, JSON and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Try => "try",
            Mode::Once => "once",
            Mode::Many => "many",
        }
    }

    fn number(self) -> u64 {
        match self {
            Mode::Try => 0,
            Mode::Once => 1,
            Mode::Many => 2,
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a grant opens on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Streams out to the internet.
    Exit,
    /// The owner's control streams.
    Control,
}

/// What a grant allows in all; `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in both directions together.
    pub bytes: Option<u64>,
    /// Bits a second, each direction.
    pub bits_per_second: Option<u64>,
    /// Streams open at once.
    pub streams: Option<u32>,
}

/// Who may use what, until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// A random name, for revoking and for counting what was used.
    pub id: [u8; 8],
    /// The owner's identity key, which signs.
    pub issuer: [u8; 32],
    /// The node's Noise key; `None` means any node of the issuer.
    pub node: Option<[u8; 32]>,
    /// The X25519 key that the client must prove to have.
    pub subject: [u8; 32],
    /// The first second of validity, in Unix time.
    pub not_before: u64,
    /// The first second after it.
    pub expires: u64,
    /// How much.
    pub limits: Limits,
    /// Where to: rules that narrow the node's own policy; empty means nothing narrower.
    pub egress: Vec<String>,
    /// The first 20 bytes of the digest that the node's evidence must show.
    pub evidence: Option<[u8; 20]>,
    /// How the invite may be used.
    pub mode: Mode,
    /// What it opens.
    pub role: Role,
    /// Fields that this version only carries: see [`mod@reserved`], and keys that are newer still.
    pub reserved: Map,
}

impl Grant {
    /// A random id for a new grant. As text it never begins with `-`, which a command line takes for an option.
    pub fn random_id() -> [u8; 8] {
        loop {
            let mut id = [0; 8];
            getrandom::fill(&mut id).expect("the system gives random bytes");
            if !crate::encoding::base64(&id).starts_with('-') {
                return id;
            }
        }
    }

    /// Whether it has a field that narrows it in a way this version cannot enforce. Unknown fields count: admitting
    /// a grant without understanding its limits would widen it.
    pub fn needs_upgrade(&self) -> bool {
        self.reserved.keys().any(|key| key != reserved::WARN_BEFORE && key != reserved::CHECKPOINT)
    }

    /// Signs it; the key's owner becomes the issuer.
    pub fn sign(mut self, key: &SigningKey) -> SignedGrant {
        self.issuer = key.verifying_key().to_bytes();
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedGrant { payload, signature, grant: self }
    }

    fn payload(&self) -> Vec<u8> {
        let mut map = self
            .reserved
            .clone()
            .with(key::ID, self.id)
            .with(key::ISSUER, self.issuer)
            .with_some(key::NODE, self.node)
            .with(key::SUBJECT, self.subject)
            .with(key::NOT_BEFORE, self.not_before)
            .with(key::EXPIRES, self.expires)
            .with_some(key::BYTES, self.limits.bytes)
            .with_some(key::BITS_PER_SECOND, self.limits.bits_per_second)
            .with_some(key::STREAMS, self.limits.streams.map(u64::from))
            .with_some(key::EVIDENCE, self.evidence)
            .with(key::MODE, self.mode.number());
        if !self.egress.is_empty() {
            map.insert(key::EGRESS, self.egress.clone());
        }
        if self.role == Role::Control {
            map.insert(key::ROLE, 1u64);
        }
        map.encode()
    }

    fn from_payload(payload: &[u8]) -> Result<Grant, CborError> {
        let mut map = Map::decode(payload, GRANT_LIMIT)?;
        let grant = Grant {
            id: map.array(key::ID)?,
            issuer: map.array(key::ISSUER)?,
            node: map.opt_array(key::NODE)?,
            subject: map.array(key::SUBJECT)?,
            not_before: time(&mut map, key::NOT_BEFORE)?,
            expires: time(&mut map, key::EXPIRES)?,
            limits: limits(&mut map)?,
            egress: egress(&mut map)?,
            evidence: map.opt_array(key::EVIDENCE)?,
            mode: mode(&mut map)?,
            role: role(&mut map)?,
            reserved: map,
        };
        // One meaning has one spelling: an empty rule list or a written-out default is refused.
        if grant.payload() != payload {
            return Err(CborError::NotCanonical);
        }
        Ok(grant)
    }
}

fn time(map: &mut Map, key: u64) -> Result<u64, CborError> {
    let at = map.uint(key)?;
    if at > LATEST { Err(CborError::Field(key)) } else { Ok(at) }
}

fn limits(map: &mut Map) -> Result<Limits, CborError> {
    let streams = map.opt_uint(key::STREAMS)?.map(u32::try_from).transpose();
    Ok(Limits {
        bytes: map.opt_uint(key::BYTES)?,
        bits_per_second: map.opt_uint(key::BITS_PER_SECOND)?,
        streams: streams.map_err(|_| CborError::Field(key::STREAMS))?,
    })
}

fn egress(map: &mut Map) -> Result<Vec<String>, CborError> {
    let rule = |value| match value {
        Value::Text(rule) if rule.len() <= MAX_EGRESS_RULE => Ok(rule),
        _ => Err(CborError::Field(key::EGRESS)),
    };
    map.list(key::EGRESS, MAX_EGRESS_RULES)?.into_iter().map(rule).collect()
}

fn mode(map: &mut Map) -> Result<Mode, CborError> {
    match map.uint(key::MODE)? {
        0 => Ok(Mode::Try),
        1 => Ok(Mode::Once),
        2 => Ok(Mode::Many),
        _ => Err(CborError::Unknown(key::MODE)),
    }
}

fn role(map: &mut Map) -> Result<Role, CborError> {
    match map.opt_uint(key::ROLE)? {
        None => Ok(Role::Exit),
        Some(1) => Ok(Role::Control),
        Some(0) => Err(CborError::NotCanonical),
        Some(_) => Err(CborError::Unknown(key::ROLE)),
    }
}

/// A grant as it was received: the signed bytes, the signature, and what the bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedGrant {
    payload: Vec<u8>,
    signature: [u8; 64],
    grant: Grant,
}

impl SignedGrant {
    /// Puts payload and signature together; refuses a payload that cannot be read or would not fit the wire.
    pub(super) fn from_parts(payload: Vec<u8>, signature: [u8; 64]) -> Result<Self, CborError> {
        let grant = Grant::from_payload(&payload)?;
        let whole = SignedGrant { payload, signature, grant };
        if whole.encode().len() > GRANT_LIMIT { Err(CborError::TooLong(GRANT_LIMIT)) } else { Ok(whole) }
    }

    /// What it says. Nothing is proven before [`verify_signature`](Self::verify_signature).
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The signed bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signature over them.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The form in a handshake.
    pub fn encode(&self) -> Vec<u8> {
        signed::encode(&self.payload, &self.signature)
    }

    /// Reads the form in a handshake. The signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let (payload, signature) = signed::decode(bytes, GRANT_LIMIT)?;
        Self::from_parts(payload, signature)
    }

    /// Whether the issuer that it names signed exactly these bytes.
    pub fn verify_signature(&self) -> bool {
        keyring::verify(&self.grant.issuer, SIGNATURE_TYPE, &self.payload, &self.signature)
    }

    /// The form in a chat.
    pub fn to_blob(&self) -> String {
        blob::encode(Type::Grant, &self.encode())
    }

    /// Reads the form in a chat and checks the signature.
    pub fn from_blob(text: &str) -> Result<Self, BlobError> {
        let signed = SignedGrant::decode(&blob::read(Type::Grant, text)?)?;
        if signed.verify_signature() { Ok(signed) } else { Err(BlobError::Signature) }
    }
}

//! The grant: the owner's signed word on which key may use which node, for how long and how much.

use super::blob::{self, BlobError, Type};
use super::scope::{self, Scope};
use super::{LATEST, signed};
use crate::encoding::cbor::{CborError, Map};
use crate::keyring;
use ed25519_dalek::SigningKey;

/// The largest signed grant, as it stands in a handshake.
pub const GRANT_LIMIT: usize = 2048;

const SIGNATURE_TYPE: &str = "grant";
/// The lease of a grant that names none, if its life is not shorter: 30 days.
const USUAL_LEASE: u64 = 30 * 24 * 3600;
/// How deep a grant may be passed on at most.
pub const MAX_DEPTH: u8 = 3;

/// Keys of the payload that this version reads, beside those of the scope.
pub(super) mod key {
    pub(in crate::token) const ID: u64 = 0;
    pub(in crate::token) const ISSUER: u64 = 1;
    pub(in crate::token) const NODE: u64 = 2;
    pub(in crate::token) const SUBJECT: u64 = 3;
    pub(in crate::token) const NOT_BEFORE: u64 = 4;
    pub(in crate::token) const EXPIRES: u64 = 5;
    pub(in crate::token) const EVIDENCE: u64 = 10;
    pub(in crate::token) const ROLE: u64 = 12;
    pub(in crate::token) const LEASE: u64 = 16;
    pub(in crate::token) const DELEGABLE: u64 = 23;
    pub(in crate::token) const REVISION: u64 = 24;
}

/// Keys of the payload that are promised to later versions.
///
/// They are fixed now so that blobs already in chats stay readable when their meaning arrives. A payload that has
/// one still parses; a node that cannot enforce it refuses the grant as `upgrade-required`.
pub mod reserved {
    /// How long before the end the friend is warned. Restricts nothing.
    pub const WARN_BEFORE: u64 = 17;
    /// A grant of which this one is a narrower copy with a signature of its own; see [`Chain`](crate::token::Chain) for copies without one.
    pub const PARENT: u64 = 18;
    /// The state of the owner's ledger when this was signed. Restricts nothing.
    pub const CHECKPOINT: u64 = 19;
}

/// How the text of an invite may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    pub(super) fn number(self) -> u64 {
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
    /// Bytes in both directions together on each day, counted in UTC.
    pub bytes_per_day: Option<u64>,
    /// Bits a second, each direction.
    pub bits_per_second: Option<u64>,
    /// Streams open at once.
    pub streams: Option<u32>,
}

impl Limits {
    /// The lesser of both in each.
    #[must_use]
    pub fn meet(&self, other: &Limits) -> Limits {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.into_iter().chain(b).min()
        }
        Limits {
            bytes: least(self.bytes, other.bytes),
            bytes_per_day: least(self.bytes_per_day, other.bytes_per_day),
            bits_per_second: least(self.bits_per_second, other.bits_per_second),
            streams: least(self.streams, other.streams),
        }
    }
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
    /// Where to, when and for how many devices.
    pub scope: Scope,
    /// For how long a node serves it after it last heard from the owner, in seconds; absent means its life, at most 30 days.
    pub lease: Option<u64>,
    /// How deep its holder may pass it on: 0 (not at all) to [`MAX_DEPTH`].
    pub delegable: u8,
    /// Grants of one id replace each other: the one with the highest revision holds, whichever is shown.
    pub revision: u64,
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

    /// The lease in force, in seconds.
    pub fn lease(&self) -> u64 {
        self.lease.unwrap_or_else(|| self.expires.saturating_sub(self.not_before).min(USUAL_LEASE))
    }

    /// Signs it; the key's owner becomes the issuer.
    pub fn sign(mut self, key: &SigningKey) -> SignedGrant {
        self.issuer = key.verifying_key().to_bytes();
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedGrant { payload, signature, grant: self }
    }

    fn payload(&self) -> Vec<u8> {
        let map = self
            .reserved
            .clone()
            .with(key::ID, self.id)
            .with(key::ISSUER, self.issuer)
            .with_some(key::NODE, self.node)
            .with(key::SUBJECT, self.subject)
            .with(key::NOT_BEFORE, self.not_before)
            .with(key::EXPIRES, self.expires)
            .with_some(key::EVIDENCE, self.evidence)
            .with_some(key::LEASE, self.lease)
            .with_some(key::DELEGABLE, (self.delegable > 0).then_some(u64::from(self.delegable)))
            .with_some(key::REVISION, (self.revision > 0).then_some(self.revision))
            .with(scope::key::MODE, self.mode.number());
        let mut map = scope::write_limits(&self.limits, self.scope.write(map));
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
            limits: scope::read_limits(&mut map)?,
            scope: Scope::read(&mut map)?,
            lease: map.opt_uint(key::LEASE)?,
            delegable: delegable(&mut map)?.unwrap_or(0),
            revision: map.opt_uint(key::REVISION)?.unwrap_or(0),
            evidence: map.opt_array(key::EVIDENCE)?,
            mode: scope::read_mode(&mut map)?.ok_or(CborError::Field(scope::key::MODE))?,
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

pub(super) fn time(map: &mut Map, key: u64) -> Result<u64, CborError> {
    let at = map.uint(key)?;
    if at > LATEST { Err(CborError::Field(key)) } else { Ok(at) }
}

pub(super) fn delegable(map: &mut Map) -> Result<Option<u8>, CborError> {
    let depth = map.opt_uint(key::DELEGABLE)?;
    let read = |depth| u8::try_from(depth).ok().filter(|depth| *depth <= MAX_DEPTH).ok_or(CborError::Field(key::DELEGABLE));
    depth.map(read).transpose()
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

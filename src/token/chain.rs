//! A grant that was passed on: the owner's grant, and what each holder in between took away before he handed it on.
//!
//! No holder signs. The holder of a grant is the device to which a node bound it; that device and the node alone can
//! compute the Diffie-Hellman secret between their keys. From it, the grant's id and a caveat follow the secret of the
//! narrower grant and the key that its receiver must prove. A node computes the same from its own key and its bindings, so
//! nobody need be asked, the text of a bound grant is of no use, and from a narrower grant no way leads back up.

use super::blob::{self, BlobError, Type};
use super::grant::{self, GRANT_LIMIT, Grant, Limits, MAX_DEPTH, Mode, SignedGrant, time};
use super::scope::{self, MAX_DEVICES, Scope, Way};
use super::secret::Secret16;
use super::window::Window;
use crate::config::Label;
use crate::encoding::cbor::{CborError, Map, Value};
use zeroize::Zeroizing;

/// The largest caveat.
pub const CAVEAT_LIMIT: usize = 512;

/// Keys of a caveat, beside those of grants.
mod key {
    pub(super) const SALT: u64 = 0;
    pub(super) const NAME: u64 = 1;
    pub(super) const HOLDER: u64 = 2;
    pub(super) const NOT_BEFORE: u64 = 4;
    pub(super) const EXPIRES: u64 = 5;
    pub(super) const DELEGABLE: u64 = 23;
}

/// What a holder takes away. Whatever it says, nothing is ever added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caveat {
    /// Makes the ids of two equal caveats differ.
    pub salt: [u8; 4],
    /// Whom it is for, as the holder calls him; the owner sees it.
    pub name: Label,
    /// The first bytes of the holder's device key, where several devices may hold the grant above.
    pub holder: Option<[u8; 4]>,
    /// Not before this time, Unix seconds.
    pub not_before: Option<u64>,
    /// Over at this time, Unix seconds.
    pub expires: Option<u64>,
    /// How much.
    pub limits: Limits,
    /// Where to, when and for how many devices.
    pub scope: Scope,
    /// How its text may be used; absent means as that of the grant above.
    pub mode: Option<Mode>,
    /// How deep it may be passed on further; absent means one less than the grant above.
    pub delegable: Option<u8>,
}

impl Caveat {
    /// Takes nothing away.
    pub fn new(name: Label) -> Caveat {
        let mut salt = [0; 4];
        getrandom::fill(&mut salt).expect("the system gives random bytes");
        Caveat {
            salt,
            name,
            holder: None,
            not_before: None,
            expires: None,
            limits: Limits::default(),
            scope: Scope::default(),
            mode: None,
            delegable: None,
        }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let map = Map::new()
            .with(key::SALT, self.salt)
            .with(key::NAME, self.name.as_str())
            .with_some(key::HOLDER, self.holder)
            .with_some(key::NOT_BEFORE, self.not_before)
            .with_some(key::EXPIRES, self.expires)
            .with_some(scope::key::MODE, self.mode.map(Mode::number))
            .with_some(key::DELEGABLE, self.delegable.map(u64::from));
        scope::write_limits(&self.limits, self.scope.write(map)).encode()
    }

    /// Reads canonical bytes. A field that is not known could narrow, so it is an error.
    pub fn decode(bytes: &[u8]) -> Result<Caveat, CborError> {
        let mut map = Map::decode(bytes, CAVEAT_LIMIT)?;
        let time = |map: &mut Map, key| if map.keys().any(|known| known == key) { time(map, key).map(Some) } else { Ok(None) };
        let caveat = Caveat {
            salt: map.array(key::SALT)?,
            name: map.text(key::NAME, 32)?.parse().map_err(|_| CborError::Field(key::NAME))?,
            holder: map.opt_array(key::HOLDER)?,
            not_before: time(&mut map, key::NOT_BEFORE)?,
            expires: time(&mut map, key::EXPIRES)?,
            limits: scope::read_limits(&mut map)?,
            scope: Scope::read(&mut map)?,
            mode: scope::read_mode(&mut map)?,
            delegable: grant::delegable(&mut map)?,
        };
        map.finish()?;
        if caveat.encode() == bytes { Ok(caveat) } else { Err(CborError::NotCanonical) }
    }

    /// The id of the grant that this caveat makes of the one with the id `parent`.
    pub fn id(&self, parent: &[u8; 8]) -> [u8; 8] {
        child_id(parent, &self.encode())
    }
}

/// The id of what a caveat, in its canonical bytes, makes of the grant `parent`.
pub fn child_id(parent: &[u8; 8], caveat: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key("portdistrict v1 delegated-id");
    hasher.update(parent).update(caveat);
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    id
}

/// The secret of what a caveat makes of the grant `parent`, for one who has a private half: `secret` is the holder's device
/// key or the node's key, `public` the other one's. `None` if that key is no point to agree on.
pub fn child_secret(secret: &[u8; 32], public: &[u8; 32], parent: &[u8; 8], caveat: &[u8]) -> Option<Secret16> {
    let shared = x25519_dalek::StaticSecret::from(*secret).diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    if !shared.was_contributory() {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key("portdistrict v1 delegation");
    hasher.update(shared.as_bytes()).update(parent);
    let key = Zeroizing::new(*hasher.finalize().as_bytes());
    let mut bytes = Zeroizing::new([0; 16]);
    blake3::Hasher::new_keyed(&key).update(caveat).finalize_xof().fill(&mut *bytes);
    Some(Secret16::from_bytes(*bytes))
}

/// What is in force: the least of a grant and of every caveat, field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The first second, Unix time.
    pub not_before: u64,
    /// The first second after it.
    pub expires: u64,
    /// The lease in seconds.
    pub lease: u64,
    /// How much; what was used of a narrower grant counts for those above, too.
    pub limits: Limits,
    /// Lists of destinations: one must be met in each. Those that narrow nothing are left out.
    pub allow: Vec<Vec<String>>,
    /// Destinations that are taken out.
    pub deny: Vec<String>,
    /// The hours.
    pub window: Option<Window>,
    /// The ways by which guests may come.
    pub ways: Vec<Way>,
    /// Devices that may be bound under mode `many`.
    pub devices: u32,
    /// Suspended.
    pub paused: bool,
    /// How the text may be used.
    pub mode: Mode,
    /// How deep it may be passed on.
    pub delegable: u8,
}

impl Terms {
    /// Those of a grant that nobody has narrowed.
    pub fn of(grant: &Grant) -> Terms {
        let scope = &grant.scope;
        Terms {
            not_before: grant.not_before,
            expires: grant.expires,
            lease: grant.lease(),
            limits: grant.limits,
            allow: scope.allow.iter().take(1).map(|_| scope.allow.clone()).collect(),
            deny: scope.deny.clone(),
            window: scope.window.clone(),
            ways: scope.way.map_or_else(|| vec![Way::Direct, Way::Tor], |way| vec![way]),
            devices: scope.devices.unwrap_or(MAX_DEVICES),
            paused: scope.paused,
            mode: grant.mode,
            delegable: grant.delegable,
        }
    }

    /// The same after a holder took something away; `None` if he may not pass it on.
    pub fn narrowed(&self, caveat: &Caveat) -> Option<Terms> {
        let left = self.delegable.checked_sub(1)?;
        // What cannot be bound has no holder who could pass it on.
        if self.mode == Mode::Try {
            return None;
        }
        let scope = &caveat.scope;
        let mut allow = self.allow.clone();
        allow.extend(scope.allow.iter().take(1).map(|_| scope.allow.clone()));
        let mut deny = self.deny.clone();
        deny.extend(scope.deny.iter().filter(|rule| !self.deny.contains(rule)).cloned());
        Some(Terms {
            not_before: self.not_before.max(caveat.not_before.unwrap_or(0)),
            expires: self.expires.min(caveat.expires.unwrap_or(u64::MAX)),
            lease: self.lease,
            limits: self.limits.meet(&caveat.limits),
            allow,
            deny,
            window: match (&self.window, &scope.window) {
                (Some(a), Some(b)) => Some(a.meet(b)),
                (a, b) => a.clone().or_else(|| b.clone()),
            },
            ways: self.ways.iter().copied().filter(|way| scope.way.is_none_or(|only| only == *way)).collect(),
            devices: self.devices.min(scope.devices.unwrap_or(MAX_DEVICES)),
            paused: self.paused || scope.paused,
            mode: self.mode.min(caveat.mode.unwrap_or(self.mode)),
            delegable: left.min(caveat.delegable.unwrap_or(MAX_DEPTH)),
        })
    }
}

/// A grant as its holder shows it: the owner's, and the caveats in the order in which they were added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    root: SignedGrant,
    caveats: Vec<(Vec<u8>, Caveat)>,
}

impl From<SignedGrant> for Chain {
    fn from(root: SignedGrant) -> Chain {
        Chain { root, caveats: Vec::new() }
    }
}

impl Chain {
    /// The owner's grant.
    pub fn root(&self) -> &SignedGrant {
        &self.root
    }

    /// What each holder took away, as bytes and as what they say.
    pub fn caveats(&self) -> &[(Vec<u8>, Caveat)] {
        &self.caveats
    }

    /// The same under another grant of the owner: a later revision.
    #[must_use]
    pub fn under(&self, root: SignedGrant) -> Chain {
        Chain { root, caveats: self.caveats.clone() }
    }

    /// The same, narrowed once more.
    #[must_use]
    pub fn with(&self, caveat: Caveat) -> Chain {
        let mut caveats = self.caveats.clone();
        caveats.push((caveat.encode(), caveat));
        Chain { root: self.root.clone(), caveats }
    }

    /// The ids from the owner's grant down; the last one is that of the chain.
    pub fn ids(&self) -> Vec<[u8; 8]> {
        let mut ids = vec![self.root.grant().id];
        for (bytes, _) in &self.caveats {
            ids.push(child_id(&ids[ids.len() - 1], bytes));
        }
        ids
    }

    /// The id under which it is bound, counted and revoked.
    pub fn id(&self) -> [u8; 8] {
        self.caveats.iter().fold(self.root.grant().id, |id, (bytes, _)| child_id(&id, bytes))
    }

    /// What is in force; `None` if it was passed on farther than it may be.
    pub fn terms(&self) -> Option<Terms> {
        self.caveats.iter().try_fold(Terms::of(self.root.grant()), |terms, (_, caveat)| terms.narrowed(caveat))
    }

    /// The amounts at each level, from the owner's grant down.
    pub fn limits(&self) -> Vec<Limits> {
        std::iter::once(self.root.grant().limits).chain(self.caveats.iter().map(|(_, caveat)| caveat.limits)).collect()
    }

    /// The form in a handshake: that of the signed grant, with the caveats under key 2 where there are any.
    pub fn encode(&self) -> Vec<u8> {
        if self.caveats.is_empty() {
            return self.root.encode();
        }
        let caveats: Vec<Value> = self.caveats.iter().map(|(bytes, _)| Value::Bytes(bytes.clone())).collect();
        Map::new().with(0, self.root.payload()).with(1, *self.root.signature()).with(2, caveats).encode()
    }

    /// Reads the form in a handshake. The owner's signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Chain, CborError> {
        let mut map = Map::decode(bytes, GRANT_LIMIT)?;
        let root = SignedGrant::from_parts(map.bytes(0, GRANT_LIMIT)?, map.array(1)?)?;
        // Present and empty would be a second spelling.
        let caveats = if map.keys().any(|key| key == 2) { read_caveats(&mut map, 2)? } else { Vec::new() };
        map.finish()?;
        Ok(Chain { root, caveats })
    }

    pub(super) fn from_parts(root: SignedGrant, caveats: Vec<(Vec<u8>, Caveat)>) -> Chain {
        Chain { root, caveats }
    }

    /// The form in a chat.
    pub fn to_blob(&self) -> String {
        blob::encode(Type::Grant, &self.encode())
    }

    /// Reads the form in a chat and checks the owner's signature.
    pub fn from_blob(text: &str) -> Result<Chain, BlobError> {
        let chain = Chain::decode(&blob::read(Type::Grant, text)?)?;
        if chain.root.verify_signature() { Ok(chain) } else { Err(BlobError::Signature) }
    }
}

/// One to [`MAX_DEPTH`] caveats.
pub(super) fn read_caveats(map: &mut Map, key: u64) -> Result<Vec<(Vec<u8>, Caveat)>, CborError> {
    let one = |value| match value {
        Value::Bytes(bytes) => Caveat::decode(&bytes).map(|caveat| (bytes, caveat)),
        _ => Err(CborError::Field(key)),
    };
    let list = map.list(key, usize::from(MAX_DEPTH))?;
    if list.is_empty() { Err(CborError::Field(key)) } else { list.into_iter().map(one).collect() }
}

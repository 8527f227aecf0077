//! The identity blob: somebody's public keys, signed by the first of them.

use super::blob::{self, BlobError, Type};
use super::rotation::{self, SignedRotation};
use super::{LATEST, signed};
use crate::encoding::cbor::{CborError, Map, Value};
use crate::keyring;
use ed25519_dalek::SigningKey;

const SIGNATURE_TYPE: &str = "identity";
const LIMIT: usize = 2048;
const MAX_NAME: usize = 64;
/// Most rotations that lead to the key: whoever missed more asks for the words again.
pub const MAX_ROTATIONS: usize = 4;

/// What somebody tells others about himself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The Ed25519 identity key, which signs; the node id is made from it.
    pub identity: [u8; 32],
    /// The X25519 key to which things for this identity are sealed.
    pub ecdh: [u8; 32],
    /// How the person is called, if told; whoever imports it chooses his own label.
    pub name: Option<String>,
    /// When the blob was made, in Unix seconds; the newer of two is the one that holds.
    pub issued: u64,
    /// The X25519 key of the device that made it, as a client of nodes.
    pub client: Option<[u8; 32]>,
    /// How the key came to take the place of earlier ones: oldest first, at most [`MAX_ROTATIONS`].
    pub rotations: Vec<SignedRotation>,
}

impl Identity {
    /// Signs it; the key's owner becomes the identity. A long name is cut to what the format holds, and of too many rotations
    /// the newest stay.
    pub fn sign(mut self, key: &SigningKey) -> SignedIdentity {
        self.identity = key.verifying_key().to_bytes();
        if let Some(name) = &mut self.name {
            name.retain(|c| !c.is_control());
            name.truncate(name.floor_char_boundary(MAX_NAME));
        }
        self.rotations.drain(..self.rotations.len().saturating_sub(MAX_ROTATIONS));
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedIdentity { payload, signature, identity: self }
    }

    fn payload(&self) -> Vec<u8> {
        let rotations: Vec<Value> = self.rotations.iter().map(|rotation| Value::Bytes(rotation.encode())).collect();
        Map::new()
            .with(0, self.identity)
            .with(1, self.ecdh)
            .with_some(2, self.name.as_deref())
            .with(3, self.issued)
            .with_some(4, self.client)
            .with_some(5, (!rotations.is_empty()).then_some(rotations))
            .encode()
    }

    fn from_payload(payload: &[u8]) -> Result<Identity, CborError> {
        let mut map = Map::decode(payload, LIMIT)?;
        let identity = Identity {
            identity: map.array(0)?,
            ecdh: map.array(1)?,
            name: map.opt_text(2, MAX_NAME)?,
            issued: map.uint(3)?,
            client: map.opt_array(4)?,
            rotations: rotations(&mut map)?,
        };
        map.finish()?;
        if identity.name.as_ref().is_some_and(|name| name.chars().any(char::is_control)) {
            return Err(CborError::Field(2));
        }
        if identity.issued > LATEST {
            return Err(CborError::Field(3));
        }
        // Only the one spelling: an empty list is left out.
        if identity.payload() == payload { Ok(identity) } else { Err(CborError::NotCanonical) }
    }

    /// Whether each rotation is signed by both keys and leads to the next, the last one to this identity.
    fn rotations_hold(&self) -> bool {
        let next = self.rotations.iter().skip(1).map(|next| next.rotation().old).chain([self.identity]);
        self.rotations.iter().zip(next).all(|(one, next)| one.rotation().new == next && one.verify())
    }
}

fn rotations(map: &mut Map) -> Result<Vec<SignedRotation>, CborError> {
    let one = |value| match value {
        Value::Bytes(bytes) if bytes.len() <= rotation::LIMIT => SignedRotation::decode(&bytes),
        _ => Err(CborError::Field(5)),
    };
    map.list(5, MAX_ROTATIONS)?.into_iter().map(one).collect()
}

/// An identity whose signature was checked, with the bytes as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIdentity {
    payload: Vec<u8>,
    signature: [u8; 64],
    identity: Identity,
}

impl SignedIdentity {
    /// What it says.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The form in a chat.
    pub fn to_blob(&self) -> String {
        blob::encode(Type::Identity, &signed::encode(&self.payload, &self.signature))
    }

    /// The form for a QR code.
    pub fn to_qr(&self) -> String {
        blob::encode_for_qr(Type::Identity, &signed::encode(&self.payload, &self.signature))
    }

    /// Reads the form in a chat and checks its signature and those of the rotations in it.
    pub fn from_blob(text: &str) -> Result<Self, BlobError> {
        let (payload, signature) = signed::decode(&blob::read(Type::Identity, text)?, LIMIT)?;
        let identity = Identity::from_payload(&payload)?;
        if !keyring::verify(&identity.identity, SIGNATURE_TYPE, &payload, &signature) || !identity.rotations_hold() {
            return Err(BlobError::Signature);
        }
        Ok(SignedIdentity { payload, signature, identity })
    }
}

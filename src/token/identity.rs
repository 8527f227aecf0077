//! The identity blob: somebody's public keys, signed by the first of them.

use super::blob::{self, BlobError, Type};
use super::{LATEST, signed};
use crate::encoding::cbor::{CborError, Map};
use crate::keyring;
use ed25519_dalek::SigningKey;

const SIGNATURE_TYPE: &str = "identity";
const LIMIT: usize = 512;
const MAX_NAME: usize = 64;

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
}

impl Identity {
    /// Signs it; the key's owner becomes the identity. A long name is cut to what the format holds.
    pub fn sign(mut self, key: &SigningKey) -> SignedIdentity {
        self.identity = key.verifying_key().to_bytes();
        if let Some(name) = &mut self.name {
            name.truncate(name.floor_char_boundary(MAX_NAME));
        }
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedIdentity { payload, signature, identity: self }
    }

    fn payload(&self) -> Vec<u8> {
        Map::new().with(0, self.identity).with(1, self.ecdh).with_some(2, self.name.as_deref()).with(3, self.issued).encode()
    }

    fn from_payload(payload: &[u8]) -> Result<Identity, CborError> {
        let mut map = Map::decode(payload, LIMIT)?;
        let (identity, ecdh, name, issued) = (map.array(0)?, map.array(1)?, map.opt_text(2, MAX_NAME)?, map.uint(3)?);
        map.finish()?;
        if issued > LATEST { Err(CborError::Field(3)) } else { Ok(Identity { identity, ecdh, name, issued }) }
    }
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

    /// Reads the form in a chat and checks the signature.
    pub fn from_blob(text: &str) -> Result<Self, BlobError> {
        let (payload, signature) = signed::decode(&blob::read(Type::Identity, text)?, LIMIT)?;
        let identity = Identity::from_payload(&payload)?;
        if !keyring::verify(&identity.identity, SIGNATURE_TYPE, &payload, &signature) {
            return Err(BlobError::Signature);
        }
        Ok(SignedIdentity { payload, signature, identity })
    }
}

//! How a device joins an identity: the code it is given, its answer, and the welcome that is sealed to it; and an identity's
//! secret as a backup.

use super::blob::{self, BlobError, Type};
use super::rotation::{self, SignedRotation};
use super::secret::Secret16;
use super::{LATEST, signed};
use crate::config::Label;
use crate::encoding::cbor::{CborError, Map, Value};
use crate::keyring::{self, Keyring, Seed};
use ed25519_dalek::SigningKey;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const SIGNATURE_TYPE: &str = "answer";
const ANSWER_LIMIT: usize = 512;
const MAX_RETIRED: usize = 32;
const MAX_ROTATIONS: usize = 4;

/// A one-time code. Whoever has it can ask to join, once, until it ends.
pub struct Code {
    /// A random name, by which its maker finds it again.
    pub id: [u8; 8],
    /// The identity that is joined.
    pub identity: [u8; 32],
    /// Proves that an answer is to this code.
    pub secret: Secret16,
    /// When it ends, in Unix seconds.
    pub expires: u64,
}

impl Code {
    /// The line that is carried to the new device.
    pub fn to_blob(&self) -> Zeroizing<String> {
        let map = Map::new().with(0, self.id).with(1, self.identity).with(2, *self.secret.as_bytes()).with(3, self.expires);
        Zeroizing::new(blob::encode(Type::Code, &Zeroizing::new(map.encode())))
    }

    /// Reads the line.
    pub fn from_blob(text: &str) -> Result<Code, BlobError> {
        let content = Zeroizing::new(blob::read(Type::Code, text)?);
        let mut map = Map::decode(&content, 128)?;
        let code = Code { id: map.array(0)?, identity: map.array(1)?, secret: Secret16::from_bytes(map.array(2)?), expires: map.uint(3)? };
        map.finish()?;
        if code.expires > LATEST { Err(CborError::Field(3).into()) } else { Ok(code) }
    }
}

/// A device's answer to a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The code.
    pub code: [u8; 8],
    /// The identity that the code named.
    pub identity: [u8; 32],
    /// The device's Ed25519 key, which signs.
    pub device: [u8; 32],
    /// The X25519 key to which the welcome is to be sealed.
    pub enrolment: [u8; 32],
    /// What the device wants to be called.
    pub name: Label,
}

impl Answer {
    /// Proves that the code's secret is known, and signs; the key's owner becomes the device.
    pub fn sign(mut self, secret: &Secret16, key: &SigningKey) -> SignedAnswer {
        self.device = key.verifying_key().to_bytes();
        let mac = mac(secret, &self.fields().encode());
        let payload = self.fields().with(5, mac).encode();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedAnswer { payload, signature, answer: self, mac }
    }

    fn fields(&self) -> Map {
        Map::new().with(0, self.code).with(1, self.identity).with(2, self.device).with(3, self.enrolment).with(4, self.name.as_str())
    }
}

fn mac(secret: &Secret16, fields: &[u8]) -> [u8; 32] {
    let key = Zeroizing::new(blake3::derive_key("portdistrict v1 device-answer", secret.as_bytes()));
    *blake3::keyed_hash(&key, fields).as_bytes()
}

/// An answer whose signature was checked, as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAnswer {
    payload: Vec<u8>,
    signature: [u8; 64],
    answer: Answer,
    mac: [u8; 32],
}

impl SignedAnswer {
    /// What it says.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Whether whoever wrote it knew the code's secret.
    pub fn is_to(&self, secret: &Secret16) -> bool {
        mac(secret, &self.answer.fields().encode()).ct_eq(&self.mac).into()
    }

    /// The line that is carried back.
    pub fn to_blob(&self) -> String {
        blob::encode(Type::Answer, &signed::encode(&self.payload, &self.signature))
    }

    /// Reads the line and checks the device's signature.
    pub fn from_blob(text: &str) -> Result<Self, BlobError> {
        let (payload, signature) = signed::decode(&blob::read(Type::Answer, text)?, ANSWER_LIMIT)?;
        let mut map = Map::decode(&payload, ANSWER_LIMIT)?;
        let answer = Answer {
            code: map.array(0)?,
            identity: map.array(1)?,
            device: map.array(2)?,
            enrolment: map.array(3)?,
            name: map.text(4, 32)?.parse().map_err(|_| CborError::Field(4))?,
        };
        let mac = map.array(5)?;
        map.finish()?;
        if !keyring::verify(&answer.device, SIGNATURE_TYPE, &payload, &signature) {
            return Err(BlobError::Signature);
        }
        Ok(SignedAnswer { payload, signature, answer, mac })
    }
}

/// What an approved device is given. It is sealed to the device before it leaves.
pub struct Welcome {
    /// The device that it is for.
    pub device: [u8; 32],
    /// The identity's master seed.
    pub identity: Seed,
    /// The identity's signature of type `device` over the device key.
    pub cert: [u8; 64],
    /// Seeds that were replaced, oldest first; the newest 32.
    pub retired: Vec<Seed>,
    /// How the identity came to take the place of earlier ones, oldest first; the newest four.
    pub rotations: Vec<SignedRotation>,
    /// What the device is called.
    pub name: Label,
}

impl Welcome {
    /// The longest form.
    pub const LIMIT: usize = 3072;

    /// The form that is sealed.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let rotations = &self.rotations[self.rotations.len().saturating_sub(MAX_ROTATIONS)..];
        let rotations: Vec<Value> = rotations.iter().map(|rotation| Value::Bytes(rotation.encode())).collect();
        let map = Map::new()
            .with(0, self.device)
            .with(1, *self.identity.expose())
            .with(2, self.cert)
            .with_some(3, seeds(&self.retired))
            .with_some(4, (!rotations.is_empty()).then_some(rotations))
            .with(5, self.name.as_str());
        Zeroizing::new(map.encode())
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Welcome, CborError> {
        let mut map = Map::decode(bytes, Welcome::LIMIT)?;
        let rotation = |value| match value {
            Value::Bytes(bytes) if bytes.len() <= rotation::LIMIT => SignedRotation::decode(&bytes),
            _ => Err(CborError::Field(4)),
        };
        let welcome = Welcome {
            device: map.array(0)?,
            identity: Seed::from_bytes(&Zeroizing::new(map.array(1)?)),
            cert: map.array(2)?,
            retired: retired(&mut map, 3)?,
            rotations: map.list(4, MAX_ROTATIONS)?.into_iter().map(rotation).collect::<Result<_, _>>()?,
            name: map.text(5, 32)?.parse().map_err(|_| CborError::Field(5))?,
        };
        map.finish()?;
        // Only the one spelling: an empty list is left out.
        if *welcome.encode() == bytes { Ok(welcome) } else { Err(CborError::NotCanonical) }
    }
}

/// An identity's secret. Whoever has the line *is* the identity.
pub struct SecretIdentity {
    /// The master seed.
    pub identity: Seed,
    /// Seeds that were replaced, oldest first; the newest 32.
    pub retired: Vec<Seed>,
}

impl SecretIdentity {
    /// That of a keyring.
    pub fn of(keyring: &Keyring) -> SecretIdentity {
        let copy = |seed: &Seed| Seed::from_bytes(seed.expose());
        SecretIdentity { identity: copy(&keyring.identity), retired: keyring.retired.iter().map(copy).collect() }
    }

    /// The line for a safe.
    pub fn to_blob(&self) -> Zeroizing<String> {
        let map = Map::new().with(0, *self.identity.expose()).with_some(1, seeds(&self.retired));
        Zeroizing::new(blob::encode(Type::Secret, &Zeroizing::new(map.encode())))
    }

    /// Reads the line.
    pub fn from_blob(text: &str) -> Result<SecretIdentity, BlobError> {
        let content = Zeroizing::new(blob::read(Type::Secret, text)?);
        let mut map = Map::decode(&content, blob::MAX_CONTENT)?;
        let empty = map.keys().any(|key| key == 1);
        let secret = SecretIdentity { identity: Seed::from_bytes(&Zeroizing::new(map.array(0)?)), retired: retired(&mut map, 1)? };
        map.finish()?;
        if empty && secret.retired.is_empty() { Err(CborError::NotCanonical.into()) } else { Ok(secret) }
    }
}

fn seeds(all: &[Seed]) -> Option<Vec<Value>> {
    let newest = &all[all.len().saturating_sub(MAX_RETIRED)..];
    (!newest.is_empty()).then(|| newest.iter().map(|seed| Value::from(*seed.expose())).collect())
}

fn retired(map: &mut Map, key: u64) -> Result<Vec<Seed>, CborError> {
    let one = |value| match value {
        Value::Bytes(bytes) => {
            let bytes = Zeroizing::new(bytes);
            bytes.as_slice().try_into().map(Seed::from_bytes).map_err(|_| CborError::Field(key))
        }
        _ => Err(CborError::Field(key)),
    };
    map.list(key, MAX_RETIRED)?.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Rotation;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn answer() -> Answer {
        Answer { code: [1; 8], identity: [2; 32], device: [0; 32], enrolment: [4; 32], name: "phone".parse().unwrap() }
    }

    #[test]
    fn an_answer_proves_the_code_and_the_device() {
        let secret = Secret16::from_bytes([9; 16]);
        let signed = answer().sign(&secret, &key(3));
        let read = SignedAnswer::from_blob(&signed.to_blob()).unwrap();
        assert_eq!(read, signed);
        assert!(read.is_to(&secret) && !read.is_to(&Secret16::from_bytes([8; 16])));
        assert_eq!(read.answer().device, key(3).verifying_key().to_bytes());
        // Another device cannot put itself into an answer that it saw: the proof is over all of it.
        let stolen = Answer { enrolment: [5; 32], ..answer() };
        let payload = stolen.fields().with(2, key(7).verifying_key().to_bytes()).with(5, signed.mac).encode();
        let wire = signed::encode(&payload, &keyring::sign(&key(7), SIGNATURE_TYPE, &payload));
        let forged = SignedAnswer::from_blob(&blob::encode(Type::Answer, &wire)).unwrap();
        assert!(!forged.is_to(&secret));
        let wrong = signed::encode(&signed.payload, &keyring::sign(&key(7), SIGNATURE_TYPE, &signed.payload));
        assert_eq!(SignedAnswer::from_blob(&blob::encode(Type::Answer, &wrong)), Err(BlobError::Signature));
    }

    #[test]
    fn codes_welcomes_and_secrets_read_back() {
        let code = Code { id: [1; 8], identity: [2; 32], secret: Secret16::of_code(&[3; 32], &[1; 8]), expires: 7 };
        let read = Code::from_blob(&code.to_blob()).unwrap();
        assert!(read.id == code.id && read.identity == code.identity && read.secret == code.secret && read.expires == 7);
        assert!(Secret16::of_code(&[3; 32], &[2; 8]) != code.secret);

        let seed = |n| Seed::from_bytes(&[n; 32]);
        let rotations = vec![Rotation::sign(&key(1), &key(2), 5); 6];
        let retired = (0..40).map(seed).collect();
        let welcome = Welcome { device: [1; 32], identity: seed(2), cert: [3; 64], retired, rotations, name: "phone".parse().unwrap() };
        let bytes = welcome.encode();
        assert!(bytes.len() <= Welcome::LIMIT, "{}", bytes.len());
        let read = Welcome::decode(&bytes).unwrap();
        assert_eq!((read.retired.len(), read.retired[31].expose(), read.rotations.len()), (32, &[39; 32], 4));
        assert!(Welcome::decode(&[&bytes[..], &[0]].concat()).is_err());

        let secret = SecretIdentity { identity: seed(1), retired: vec![seed(2)] };
        let read = SecretIdentity::from_blob(&secret.to_blob()).unwrap();
        assert_eq!((read.identity.expose(), read.retired[0].expose()), (&[1; 32], &[2; 32]));
        let error = SecretIdentity::from_blob(&code.to_blob()).err().unwrap();
        assert!(error.to_string().starts_with("this is a code for a new device"), "{error}");
        assert!(error.remedy().contains("portdistrict device init --code"));
    }
}

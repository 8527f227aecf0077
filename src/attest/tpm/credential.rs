//! Makes credentials: secrets that only the TPM with a certain endorsement key opens, and only for a certain other key in it.
//!
//! This is the verifier's half of credential activation (Part 1, 24). The node's half is in [`super::device`].

use super::hash::Hash;
use super::public::{Attributes, Curve, Key, Public};
use super::wire::{WireError, Writer};
use crate::attest::{Fault, Reason};
use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepPublicEncryptingKey, PublicEncryptingKey};
use zeroize::Zeroizing;

/// The label of seeds that protect credentials, with the zero that belongs to it (Part 1, 24.4 and B.4).
const IDENTITY: &[u8] = b"IDENTITY\0";
/// How often a random scalar may be outside the curve's order: for an honest source, once is less likely than 2^-32.
const SCALAR_ATTEMPTS: usize = 8;

/// What goes to the node. Both parts are without the two bytes of size in front that a `TPM2B` has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The content of `TPM2B_ID_OBJECT` (Part 2, 12.4.3): the HMAC and the encrypted secret.
    pub credential_blob: Vec<u8>,
    /// The content of `TPM2B_ENCRYPTED_SECRET` (Part 2, 11.4.3): the seed for the endorsement key.
    pub encrypted_secret: Vec<u8>,
}

/// Whether this can be an endorsement key at all: a restricted decryption key with AES-CFB, fixedTPM, fixedParent,
/// sensitiveDataOrigin, and not sign (TCG EK Credential Profile 2.5, B.3). Else [`Reason::EndorsementMissing`].
pub fn check_endorsement_key(ek: &Public) -> Result<(), Fault> {
    endorsed_aes_bits(ek).map(|_| ())
}

fn endorsed_aes_bits(ek: &Public) -> Result<u16, Fault> {
    let wanted =
        [Attributes::FIXED_TPM, Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED, Attributes::DECRYPT];
    if let Some(objection) = ek.attributes().objection(&wanted, &[Attributes::SIGN]) {
        return Err(Fault::new(Reason::EndorsementMissing, format!("the endorsement key's {objection}")));
    }
    let sentence = "the endorsement key has no symmetric part, AES-128 or AES-256 in CFB mode is wanted";
    ek.aes_bits().ok_or_else(|| Fault::new(Reason::EndorsementMissing, sentence))
}

/// Whether the SubjectPublicKeyInfo (in DER) of an endorsement certificate holds this endorsement key.
pub fn ek_matches_certificate(ek: &Public, spki_der: &[u8]) -> Result<(), Fault> {
    check_endorsement_key(ek)?;
    ek.matches_spki(spki_der)
}

/// Wraps `secret` so that only the TPM with the endorsement key `ek` gives it out, and only if the key named `ak_name` is loaded
/// in the same TPM (`TPM2_MakeCredential`, Part 1, 24).
///
/// `random` must fill its buffer from a cryptographic source. The secret must be compared in constant time when it comes back,
/// and be used once.
pub fn make_credential(ek: &Public, ak_name: &[u8], secret: &[u8; 32], random: &mut dyn FnMut(&mut [u8])) -> Result<Challenge, Fault> {
    let aes_bits = endorsed_aes_bits(ek)?;
    check_name(ak_name)?;
    let (seed, encrypted_secret) = match ek.key() {
        Key::Rsa { .. } => rsa_seed(ek, random)?,
        Key::Ecc { curve, point } => ecc_seed(ek.name_hash(), *curve, point, random)?,
    };
    let credential_blob = wrap(ek.name_hash(), aes_bits, ak_name, secret, &seed)?;
    Ok(Challenge { credential_blob, encrypted_secret })
}

/// A name is a hash function and a digest (Part 1, 16).
fn check_name(name: &[u8]) -> Result<(), Fault> {
    let hash = name.first_chunk().and_then(|id| Hash::from_id(u16::from_be_bytes(*id)));
    if hash.is_some_and(|hash| name.len() == 2 + hash.size()) {
        return Ok(());
    }
    let sentence =
        format!("the attestation key's name has {} bytes, 34 (SHA-256) or 50 (SHA-384) with its hash in front are wanted", name.len());
    Err(Fault::new(Reason::Malformed, sentence))
}

fn failed(step: &str) -> Fault {
    Fault::new(Reason::EndorsementMissing, format!("{step} failed with the endorsement key found, a key that is valid is wanted"))
}

type Seed = (Zeroizing<Vec<u8>>, Vec<u8>);

/// A random seed, encrypted with RSA-OAEP (Part 1, B.10.3). Its size is that of the digest.
fn rsa_seed(ek: &Public, random: &mut dyn FnMut(&mut [u8])) -> Result<Seed, Fault> {
    let mut seed = Zeroizing::new(vec![0; ek.name_hash().size()]);
    random(&mut seed);
    let algorithm = match ek.name_hash() {
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        Hash::Sha384 => &OAEP_SHA384_MGF1SHA384,
    };
    let key = PublicEncryptingKey::from_der(&ek.spki())
        .map_err(|_| failed("reading"))
        .and_then(|key| OaepPublicEncryptingKey::new(key).map_err(|_| failed("reading")))?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    let size = key.encrypt(algorithm, &seed, &mut encrypted, Some(IDENTITY)).map_err(|_| failed("RSA-OAEP"))?.len();
    encrypted.truncate(size);
    Ok((seed, encrypted))
}

/// A seed agreed upon with a fresh key, whose point is sent along (Part 1, C.6.1 and C.6.4).
fn ecc_seed(hash: Hash, curve: Curve, point: &[u8], random: &mut dyn FnMut(&mut [u8])) -> Result<Seed, Fault> {
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let mut scalar = Zeroizing::new(vec![0; curve.size()]);
    let fresh = (0..SCALAR_ATTEMPTS)
        .find_map(|_| {
            random(&mut scalar);
            PrivateKey::from_private_key(algorithm, &scalar).ok()
        })
        .ok_or_else(|| Fault::new(Reason::VerifierUnavailable, "the random numbers found make no key, random numbers are wanted"))?;
    let fresh_point = fresh.compute_public_key().map_err(|_| failed("computing a point"))?;
    let (own_x, own_y) = coordinates(fresh_point.as_ref(), curve).ok_or_else(|| failed("computing a point"))?;
    let (ek_x, _) = coordinates(point, curve).ok_or_else(|| failed("reading"))?;
    let peer = agreement::UnparsedPublicKey::new(algorithm, point);
    let seed = agreement::agree(&fresh, peer, failed("ECDH"), |z| Ok(kdfe(hash, z, own_x, ek_x)))?;
    let encrypted = Writer::new().sized(own_x).sized(own_y).finish()?.to_vec();
    Ok((seed, encrypted))
}

/// Both coordinates of an uncompressed point.
fn coordinates(point: &[u8], curve: Curve) -> Option<(&[u8], &[u8])> {
    point.split_first().filter(|(form, _)| **form == 4).and_then(|(_, both)| both.split_at_checked(curve.size()))
}

/// KDFe (Part 1, 11.4.10.3) for one digest's worth of bytes, so that its counter stays at 1.
fn kdfe(hash: Hash, z: &[u8], own_x: &[u8], ek_x: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(hash.digest(&[&1u32.to_be_bytes(), z, IDENTITY, own_x, ek_x]).as_ref().to_vec())
}

fn hmac_of(hash: Hash, key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let algorithm = match hash {
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// KDFa (Part 1, 11.4.10.2) for at most one digest's worth of bits, so that its counter stays at 1.
fn kdfa(hash: Hash, seed: &[u8], label: &[u8], context: &[u8], bits: u16) -> Zeroizing<Vec<u8>> {
    let tag = hmac_of(hash, seed, &[&1u32.to_be_bytes(), label, context, &u32::from(bits).to_be_bytes()]);
    Zeroizing::new(tag.as_ref().iter().copied().take(usize::from(bits / 8)).collect())
}

/// Encrypts and authenticates the secret (Part 1, 24.3 to 24.5).
fn wrap(hash: Hash, aes_bits: u16, ak_name: &[u8], secret: &[u8; 32], seed: &[u8]) -> Result<Vec<u8>, Fault> {
    let aes_key = kdfa(hash, seed, b"STORAGE\0", ak_name, aes_bits);
    let mut identity = Writer::new().sized(secret).finish()?;
    aes_cfb(&aes_key, &mut identity).ok_or_else(|| failed("AES-CFB"))?;
    let hmac_key = kdfa(hash, seed, b"INTEGRITY\0", &[], hash.bits());
    let tag = hmac_of(hash, &hmac_key, &[&identity, ak_name]);
    Writer::new().sized(tag.as_ref()).bytes(&identity).finish().map(|blob| blob.to_vec()).map_err(WireError::into)
}

/// Encrypts in place with AES in CFB mode. The start value is zero, as the key is used once (Part 1, 24.4).
fn aes_cfb(key: &[u8], data: &mut [u8]) -> Option<()> {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(algorithm, key).ok()?).ok()?;
    key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from([0; 16]))).ok().map(|_| ())
}

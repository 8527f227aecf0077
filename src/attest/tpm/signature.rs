//! Checks signatures in the form in which TPMs make them.

use super::der;
use super::hash::Hash;
use super::public::{Curve, Key, Public};
use super::wire::{Reader, WireError};
use crate::attest::{Fault, Reason};
use aws_lc_rs::signature::{self as lc, RsaParameters, RsaPssSaltLength, UnparsedPublicKey, VerificationAlgorithm};

const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
/// The most bytes of an RSA signature: 3072 bits.
const MAX_RSA: usize = 384;
/// The most bytes of half an ECDSA signature: P-384.
const MAX_ECDSA: usize = 48;

/// A way to sign that is accepted, with its hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signing {
    /// `TPM_ALG_RSASSA`: PKCS #1 1.5.
    RsaSsa(Hash),
    /// `TPM_ALG_RSAPSS`.
    RsaPss(Hash),
    /// `TPM_ALG_ECDSA`.
    Ecdsa(Hash),
}

impl Signing {
    /// The way that belongs to two `TPM_ALG_ID`s, if it is one that is accepted.
    pub(super) fn from_ids(algorithm: u16, hash: u16) -> Option<Signing> {
        let hash = Hash::from_id(hash)?;
        match algorithm {
            ALG_RSASSA => Some(Signing::RsaSsa(hash)),
            ALG_RSAPSS => Some(Signing::RsaPss(hash)),
            ALG_ECDSA => Some(Signing::Ecdsa(hash)),
            _ => None,
        }
    }

    /// Its hash function.
    pub(super) fn hash(self) -> Hash {
        match self {
            Signing::RsaSsa(hash) | Signing::RsaPss(hash) | Signing::Ecdsa(hash) => hash,
        }
    }
}

/// A `TPMT_SIGNATURE` (Part 2, 11.3.4), the signature itself as a verifier wants it.
struct Signature {
    signing: Signing,
    bytes: Vec<u8>,
}

impl Signature {
    fn parse(bytes: &[u8]) -> Result<Signature, WireError> {
        let mut reader = Reader::new(bytes);
        let algorithm = reader.u16("TPMT_SIGNATURE.sigAlg")?;
        let hash = reader.u16("TPMT_SIGNATURE.hash")?;
        let signing = Signing::from_ids(algorithm, hash).ok_or_else(|| {
            let wanted = "RSASSA, RSAPSS or ECDSA (0x0014, 0x0016, 0x0018) with SHA-256 or SHA-384 (0x000b, 0x000c) is wanted";
            WireError::new(format!("the signature is of scheme 0x{algorithm:04x} with hash 0x{hash:04x}, {wanted}"))
        })?;
        let bytes = match signing {
            Signing::RsaSsa(_) | Signing::RsaPss(_) => reader.sized(MAX_RSA, "TPMT_SIGNATURE.sig")?.to_vec(),
            Signing::Ecdsa(_) => {
                let r = reader.sized(MAX_ECDSA, "TPMT_SIGNATURE.signatureR")?;
                der::two_numbers(r, reader.sized(MAX_ECDSA, "TPMT_SIGNATURE.signatureS")?)
            }
        };
        reader.finish("TPMT_SIGNATURE")?;
        Ok(Signature { signing, bytes })
    }
}

/// The salt of RSAPSS is as long as the digest or as long as the key allows: TPMs do either (Part 1, B.7).
fn rsa_parameters(signing: Signing) -> &'static [&'static RsaParameters] {
    const MAX: RsaPssSaltLength = RsaPssSaltLength::Max;
    const PSS_256: RsaParameters = lc::RSA_PSS_2048_8192_SHA256;
    const PSS_384: RsaParameters = lc::RSA_PSS_2048_8192_SHA384;
    match signing {
        Signing::RsaSsa(Hash::Sha256) => &[&lc::RSA_PKCS1_2048_8192_SHA256],
        Signing::RsaSsa(Hash::Sha384) => &[&lc::RSA_PKCS1_2048_8192_SHA384],
        Signing::RsaPss(Hash::Sha256) => const { &[&PSS_256, &PSS_256.with_pss_salt_length(MAX)] },
        Signing::RsaPss(Hash::Sha384) => const { &[&PSS_384, &PSS_384.with_pss_salt_length(MAX)] },
        Signing::Ecdsa(_) => &[],
    }
}

fn algorithms(key: &Key, signing: Signing) -> Vec<&'static dyn VerificationAlgorithm> {
    match (key, signing) {
        (Key::Rsa { .. }, _) => rsa_parameters(signing).iter().map(|&one| one as &dyn VerificationAlgorithm).collect(),
        (Key::Ecc { curve: Curve::P256, .. }, Signing::Ecdsa(Hash::Sha256)) => vec![&lc::ECDSA_P256_SHA256_ASN1],
        (Key::Ecc { curve: Curve::P256, .. }, Signing::Ecdsa(Hash::Sha384)) => vec![&lc::ECDSA_P256_SHA384_ASN1],
        (Key::Ecc { curve: Curve::P384, .. }, Signing::Ecdsa(Hash::Sha256)) => vec![&lc::ECDSA_P384_SHA256_ASN1],
        (Key::Ecc { curve: Curve::P384, .. }, Signing::Ecdsa(Hash::Sha384)) => vec![&lc::ECDSA_P384_SHA384_ASN1],
        (Key::Ecc { .. }, Signing::RsaSsa(_) | Signing::RsaPss(_)) => Vec::new(),
    }
}

/// Checks that `signature` (a `TPMT_SIGNATURE`) is that of `key` over `message`, made in the way that is fixed for the key.
pub(super) fn verify(key: &Public, fixed: Signing, message: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let signature = Signature::parse(signature)?;
    if signature.signing != fixed {
        let sentence = format!("the signature was made with {:?}, the key is fixed to {fixed:?}", signature.signing);
        return Err(Fault::new(Reason::SignatureInvalid, sentence));
    }
    let raw = key.raw();
    let fits = algorithms(key.key(), fixed)
        .into_iter()
        .any(|algorithm| UnparsedPublicKey::new(algorithm, &raw).verify(message, &signature.bytes).is_ok());
    if fits {
        return Ok(());
    }
    Err(Fault::new(Reason::SignatureInvalid, "the signature found is not one of the attestation key over this quote"))
}

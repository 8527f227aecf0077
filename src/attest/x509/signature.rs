//! Verifies one signature of X.509: which algorithm is named, with which parameters, and whether the key made it.

use crate::attest::{Fault, Reason};
use aws_lc_rs::signature::{self as lc, UnparsedPublicKey, VerificationAlgorithm};
use std::ops::Range;
use x509_cert::der::asn1::{Any, AnyRef, BitString, ContextSpecific, ObjectIdentifier};
use x509_cert::der::oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ID_EC_PUBLIC_KEY, ID_MGF_1, ID_RSASSA_PSS, ID_SHA_256, ID_SHA_384, ID_SHA_512, RSA_ENCRYPTION,
    SECP_256_R_1, SECP_384_R_1, SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};
use x509_cert::der::{self, Decode, Encode, Header, Reader, SliceReader, Tag, TagNumber};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// Uncompressed points begin with this byte (SEC 1 section 2.3.3); others are refused, so that a key has one encoding.
const UNCOMPRESSED: u8 = 4;

/// What a certificate and a revocation list have in common: a body, an algorithm and a signature (RFC 5280 section 4.1.1).
#[derive(Clone)]
pub(super) struct Envelope {
    /// Where the body lies in the original bytes. It is never encoded anew: what was signed is what was sent.
    body: Range<usize>,
    pub(super) algorithm: AlgorithmIdentifierOwned,
    signature: Vec<u8>,
}

impl Envelope {
    /// Finds the three parts; nothing may follow them.
    pub(super) fn split(bytes: &[u8]) -> der::Result<Envelope> {
        let mut reader = SliceReader::new(bytes)?;
        let header = Header::decode(&mut reader)?;
        header.tag.assert_eq(Tag::Sequence)?;
        let start = usize::try_from(header.encoded_len()?)?;
        let envelope = reader.read_nested(header.length, |parts| {
            let body = parts.tlv_bytes()?.len();
            let algorithm = AlgorithmIdentifierOwned::decode(parts)?;
            let signature = BitString::decode(parts)?;
            let signature = signature.as_bytes().ok_or_else(|| Tag::BitString.value_error())?.to_vec();
            Ok(Envelope { body: start..start + body, algorithm, signature })
        })?;
        reader.finish(envelope)
    }

    /// The signed bytes, out of those that were split.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.body.clone()).unwrap_or_default()
    }

    /// Checks the signature over the original bytes with the issuer's key.
    pub(super) fn verify(&self, bytes: &[u8], issuer_key: &SubjectPublicKeyInfoOwned) -> Result<(), Fault> {
        let scheme = Scheme::read(&self.algorithm)?;
        let (algorithm, key) = scheme.with_key(issuer_key)?;
        UnparsedPublicKey::new(algorithm, key)
            .verify(self.body(bytes), &self.signature)
            .map_err(|_| Fault::new(Reason::SignatureInvalid, "the signature does not fit the bytes and the key"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Clone, Copy)]
enum Scheme {
    RsaPss(Hash),
    RsaPkcs1(Hash),
    Ecdsa(Hash),
}

impl Scheme {
    fn read(algorithm: &AlgorithmIdentifierOwned) -> Result<Scheme, Fault> {
        let parameters = algorithm.parameters.as_ref();
        let scheme = match algorithm.oid {
            ID_RSASSA_PSS => return pss(parameters).map(Scheme::RsaPss),
            SHA_256_WITH_RSA_ENCRYPTION => Scheme::RsaPkcs1(Hash::Sha256),
            SHA_384_WITH_RSA_ENCRYPTION => Scheme::RsaPkcs1(Hash::Sha384),
            SHA_512_WITH_RSA_ENCRYPTION => Scheme::RsaPkcs1(Hash::Sha512),
            ECDSA_WITH_SHA_256 => Scheme::Ecdsa(Hash::Sha256),
            ECDSA_WITH_SHA_384 => Scheme::Ecdsa(Hash::Sha384),
            other => return Err(unsupported(format!("the signature algorithm is {other}, wanted RSA or ECDSA with SHA-2"))),
        };
        // RFC 4055 section 5: with RSA the parameters are NULL, and readers take absent ones. RFC 5758: with ECDSA they are absent.
        let fits = match scheme {
            Scheme::Ecdsa(_) => parameters.is_none(),
            Scheme::RsaPss(_) | Scheme::RsaPkcs1(_) => null_or_absent(parameters),
        };
        if fits { Ok(scheme) } else { Err(unsupported("the signature algorithm has parameters, wanted none")) }
    }

    /// The verifying algorithm, and the key in the encoding which that takes.
    fn with_key(self, info: &SubjectPublicKeyInfoOwned) -> Result<(&'static dyn VerificationAlgorithm, &[u8]), Fault> {
        match self {
            Scheme::RsaPss(hash) => Ok((rsa_pss(hash), rsa_key(info)?)),
            Scheme::RsaPkcs1(hash) => Ok((rsa_pkcs1(hash), rsa_key(info)?)),
            Scheme::Ecdsa(hash) => {
                let (curve, point) = ec_point(info)?;
                Ok((ecdsa(curve, hash)?, point))
            }
        }
    }
}

fn rsa_pss(hash: Hash) -> &'static dyn VerificationAlgorithm {
    match hash {
        Hash::Sha256 => &lc::RSA_PSS_2048_8192_SHA256,
        Hash::Sha384 => &lc::RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &lc::RSA_PSS_2048_8192_SHA512,
    }
}

fn rsa_pkcs1(hash: Hash) -> &'static dyn VerificationAlgorithm {
    match hash {
        Hash::Sha256 => &lc::RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &lc::RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &lc::RSA_PKCS1_2048_8192_SHA512,
    }
}

fn ecdsa(curve: Curve, hash: Hash) -> Result<&'static dyn VerificationAlgorithm, Fault> {
    match (curve, hash) {
        (Curve::P256, Hash::Sha256) => Ok(&lc::ECDSA_P256_SHA256_ASN1),
        (Curve::P256, Hash::Sha384) => Ok(&lc::ECDSA_P256_SHA384_ASN1),
        (Curve::P384, Hash::Sha256) => Ok(&lc::ECDSA_P384_SHA256_ASN1),
        (Curve::P384, Hash::Sha384) => Ok(&lc::ECDSA_P384_SHA384_ASN1),
        (_, Hash::Sha512) => Err(unsupported("the signature algorithm is ECDSA with SHA-512, wanted SHA-256 or SHA-384")),
    }
}

/// Reads the parameters of RSA-PSS (RFC 4055 section 3.1): one hash for message and mask, a salt as long as the hash.
///
/// AMD's ARK and ASK of Milan and Genoa encode the trailer's default value, which DER forbids: it is taken as what it says.
fn pss(parameters: Option<&Any>) -> Result<Hash, Fault> {
    let wanted = "the RSA-PSS parameters are not those wanted: one SHA-2 hash for message and mask, a salt of its length, trailer 1";
    let parameters = parameters.and_then(|parameters| PssParameters::read(parameters).ok());
    let hash = parameters.and_then(|parameters| parameters.hash());
    hash.ok_or_else(|| unsupported(wanted))
}

struct PssParameters {
    hash: AlgorithmIdentifierOwned,
    mask: AlgorithmIdentifierOwned,
    salt: u8,
    trailer: u8,
}

impl PssParameters {
    /// The defaults of hash, mask and salt all mean SHA-1, which is not supported: so these three must be there.
    fn read(parameters: &Any) -> der::Result<PssParameters> {
        AnyRef::from(parameters).sequence(|reader| {
            let missing = || Tag::Sequence.value_error();
            let hash = ContextSpecific::decode_explicit(reader, TagNumber::N0)?.ok_or_else(missing)?.value;
            let mask = ContextSpecific::decode_explicit(reader, TagNumber::N1)?.ok_or_else(missing)?.value;
            let salt = ContextSpecific::decode_explicit(reader, TagNumber::N2)?.ok_or_else(missing)?.value;
            let trailer = ContextSpecific::decode_explicit(reader, TagNumber::N3)?.map_or(1, |field| field.value);
            Ok(PssParameters { hash, mask, salt, trailer })
        })
    }

    fn hash(&self) -> Option<Hash> {
        let (hash, length) = plain_hash(&self.hash)?;
        let inner = self.mask.parameters.as_ref()?.decode_as::<AlgorithmIdentifierOwned>().ok()?;
        let (mask_hash, _) = plain_hash(&inner)?;
        let fits = self.mask.oid == ID_MGF_1 && mask_hash == hash && self.salt == length && self.trailer == 1;
        fits.then_some(hash)
    }
}

fn plain_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<(Hash, u8)> {
    let hash = match algorithm.oid {
        ID_SHA_256 => (Hash::Sha256, 32),
        ID_SHA_384 => (Hash::Sha384, 48),
        ID_SHA_512 => (Hash::Sha512, 64),
        _ => return None,
    };
    null_or_absent(algorithm.parameters.as_ref()).then_some(hash)
}

fn null_or_absent(parameters: Option<&Any>) -> bool {
    parameters.is_none_or(Any::is_null)
}

fn rsa_key(info: &SubjectPublicKeyInfoOwned) -> Result<&[u8], Fault> {
    if info.algorithm.oid != RSA_ENCRYPTION || !null_or_absent(info.algorithm.parameters.as_ref()) {
        return Err(unsupported(format!("the issuer's key is of the kind {}, wanted RSA", info.algorithm.oid)));
    }
    info.subject_public_key.as_bytes().ok_or_else(|| unsupported("the issuer's RSA key does not end at a byte"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

fn ec_point(info: &SubjectPublicKeyInfoOwned) -> Result<(Curve, &[u8]), Fault> {
    let parameters = info.algorithm.parameters.as_ref();
    let named = parameters.and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
    let (curve, length) = match (info.algorithm.oid, named) {
        (ID_EC_PUBLIC_KEY, Some(SECP_256_R_1)) => (Curve::P256, 65),
        (ID_EC_PUBLIC_KEY, Some(SECP_384_R_1)) => (Curve::P384, 97),
        (kind, _) => return Err(unsupported(format!("the key is of the kind {kind}, wanted one on the curve P-256 or P-384"))),
    };
    let point = info.subject_public_key.as_bytes().filter(|point| point.len() == length && point.first() == Some(&UNCOMPRESSED));
    let point = point.ok_or_else(|| unsupported(format!("the key's point is not an uncompressed one of {length} bytes")))?;
    Ok((curve, point))
}

/// The point of a certificate's key, which must lie on P-384: 97 bytes, uncompressed.
pub(crate) fn p384_point(certificate: &super::Certificate) -> Result<&[u8], Fault> {
    match ec_point(&certificate.tbs.subject_public_key_info)? {
        (Curve::P384, point) => Ok(point),
        (Curve::P256, _) => Err(unsupported("the key lies on the curve P-256, wanted P-384")),
    }
}

fn unsupported(sentence: impl Into<String>) -> Fault {
    Fault::new(Reason::ChainInvalid, sentence)
}

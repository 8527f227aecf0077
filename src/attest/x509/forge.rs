//! Makes certificates and revocation lists for tests, right and wrong ones, with TEST keys that live as long as the process.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self as lc, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RsaEncoding};
use std::str::FromStr;
use std::time::Duration;
use x509_cert::TbsCertificate;
use x509_cert::certificate::Version;
use x509_cert::crl::{RevokedCert, TbsCertList};
use x509_cert::der::asn1::{Any, BitString, ContextSpecific, Ia5String, Null, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::flagset::FlagSet;
use x509_cert::der::oid::{AssociatedOid, db::rfc5912 as oids};
use x509_cert::der::{Encode, Tag, TagMode, TagNumber};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

/// 2024-01-01; certificates made here are valid from a year before to a year after.
pub(crate) const NOW: u64 = 1_704_067_200;
pub(crate) const YEAR: u64 = 365 * 24 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sha {
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Pss(Sha),
    Pkcs1(Sha),
    EcdsaP256,
    EcdsaP384,
}

pub(crate) enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, How),
}

impl Key {
    pub(crate) fn rsa() -> Key {
        Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn p256() -> Key {
        Key::Ec(EcdsaKeyPair::generate(&lc::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(), How::EcdsaP256)
    }

    pub(crate) fn p384() -> Key {
        Key::Ec(EcdsaKeyPair::generate(&lc::ECDSA_P384_SHA384_ASN1_SIGNING).unwrap(), How::EcdsaP384)
    }

    pub(crate) fn info(&self) -> SubjectPublicKeyInfoOwned {
        let (kind, parameters, key) = match self {
            Key::Rsa(pair) => (oids::RSA_ENCRYPTION, Any::from(Null), pair.public_key().as_ref().to_vec()),
            Key::Ec(pair, How::EcdsaP256) => (oids::ID_EC_PUBLIC_KEY, Any::from(oids::SECP_256_R_1), pair.public_key().as_ref().to_vec()),
            Key::Ec(pair, _) => (oids::ID_EC_PUBLIC_KEY, Any::from(oids::SECP_384_R_1), pair.public_key().as_ref().to_vec()),
        };
        let algorithm = AlgorithmIdentifierOwned { oid: kind, parameters: Some(parameters) };
        SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&key).unwrap() }
    }

    fn sign(&self, how: How, message: &[u8]) -> Vec<u8> {
        match self {
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(how), &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Key::Ec(pair, _) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        }
    }
}

/// R and S of 48 bytes each, big-endian: a signature as AMD's firmware makes it.
pub(crate) fn sign_fixed(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

/// A key pair on P-384 that signs as AMD's firmware does.
pub(crate) fn fixed_pair() -> EcdsaKeyPair {
    static ALGORITHM: &EcdsaSigningAlgorithm = &lc::ECDSA_P384_SHA384_FIXED_SIGNING;
    EcdsaKeyPair::generate(ALGORITHM).unwrap()
}

pub(crate) fn p384_info(pair: &EcdsaKeyPair) -> SubjectPublicKeyInfoOwned {
    let algorithm = AlgorithmIdentifierOwned { oid: oids::ID_EC_PUBLIC_KEY, parameters: Some(Any::from(oids::SECP_384_R_1)) };
    SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(pair.public_key().as_ref()).unwrap() }
}

fn rsa_encoding(how: How) -> &'static dyn RsaEncoding {
    match how {
        How::Pss(Sha::Sha256) => &lc::RSA_PSS_SHA256,
        How::Pss(Sha::Sha384) => &lc::RSA_PSS_SHA384,
        How::Pss(Sha::Sha512) => &lc::RSA_PSS_SHA512,
        How::Pkcs1(Sha::Sha256) => &lc::RSA_PKCS1_SHA256,
        How::Pkcs1(Sha::Sha384) => &lc::RSA_PKCS1_SHA384,
        How::Pkcs1(Sha::Sha512) => &lc::RSA_PKCS1_SHA512,
        How::EcdsaP256 | How::EcdsaP384 => panic!("an RSA key cannot do {how:?}"),
    }
}

pub(crate) fn algorithm(how: How) -> AlgorithmIdentifierOwned {
    let null = Some(Any::from(Null));
    let (oid, parameters) = match how {
        How::Pss(sha) => (oids::ID_RSASSA_PSS, Some(pss_parameters(sha, sha, sha.length(), None))),
        How::Pkcs1(Sha::Sha256) => (oids::SHA_256_WITH_RSA_ENCRYPTION, null),
        How::Pkcs1(Sha::Sha384) => (oids::SHA_384_WITH_RSA_ENCRYPTION, null),
        How::Pkcs1(Sha::Sha512) => (oids::SHA_512_WITH_RSA_ENCRYPTION, null),
        How::EcdsaP256 => (oids::ECDSA_WITH_SHA_256, None),
        How::EcdsaP384 => (oids::ECDSA_WITH_SHA_384, None),
    };
    AlgorithmIdentifierOwned { oid, parameters }
}

impl Sha {
    fn length(self) -> u8 {
        match self {
            Sha::Sha256 => 32,
            Sha::Sha384 => 48,
            Sha::Sha512 => 64,
        }
    }

    fn algorithm(self) -> AlgorithmIdentifierOwned {
        let oid = match self {
            Sha::Sha256 => oids::ID_SHA_256,
            Sha::Sha384 => oids::ID_SHA_384,
            Sha::Sha512 => oids::ID_SHA_512,
        };
        AlgorithmIdentifierOwned { oid, parameters: Some(Any::from(Null)) }
    }
}

pub(crate) fn pss_parameters(hash: Sha, mask: Sha, salt: u8, trailer: Option<u8>) -> Any {
    let mask = AlgorithmIdentifierOwned { oid: oids::ID_MGF_1, parameters: Some(Any::encode_from(&mask.algorithm()).unwrap()) };
    let mut content = explicit(TagNumber::N0, hash.algorithm());
    content.extend(explicit(TagNumber::N1, mask));
    content.extend(explicit(TagNumber::N2, salt));
    content.extend(trailer.map(|trailer| explicit(TagNumber::N3, trailer)).unwrap_or_default());
    Any::new(Tag::Sequence, content).unwrap()
}

fn explicit<T: Encode + x509_cert::der::EncodeValue + x509_cert::der::Tagged>(tag_number: TagNumber, value: T) -> Vec<u8> {
    ContextSpecific { tag_number, tag_mode: TagMode::Explicit, value }.to_der().unwrap()
}

pub(crate) fn extension(oid: ObjectIdentifier, critical: bool, value: &[u8]) -> Extension {
    Extension { extn_id: oid, critical, extn_value: OctetString::new(value).unwrap() }
}

pub(crate) fn ia5(text: &str) -> Vec<u8> {
    Ia5String::new(text).unwrap().to_der().unwrap()
}

pub(crate) fn basic_constraints(ca: bool, path_len: Option<u8>) -> Extension {
    let value = BasicConstraints { ca, path_len_constraint: path_len };
    extension(BasicConstraints::OID, true, &value.to_der().unwrap())
}

pub(crate) fn key_usage(usages: impl Into<FlagSet<KeyUsages>>) -> Extension {
    extension(KeyUsage::OID, true, &KeyUsage(usages.into()).to_der().unwrap())
}

pub(crate) fn authority(path_len: Option<u8>) -> Vec<Extension> {
    vec![basic_constraints(true, path_len), key_usage(KeyUsages::KeyCertSign | KeyUsages::CRLSign)]
}

/// What a certificate is to say; whatever a test wants to be wrong is changed before it is signed.
#[derive(Clone, Debug)]
pub(crate) struct Blank {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) serial: Vec<u8>,
    pub(crate) validity: (u64, u64),
    pub(crate) info: SubjectPublicKeyInfoOwned,
    pub(crate) extensions: Vec<Extension>,
}

impl Blank {
    pub(crate) fn new(subject: &str, issuer: &str, info: SubjectPublicKeyInfoOwned) -> Blank {
        let validity = (NOW - YEAR, NOW + YEAR);
        Blank { subject: subject.into(), issuer: issuer.into(), serial: vec![7], validity, info, extensions: Vec::new() }
    }

    pub(crate) fn with(mut self, extensions: Vec<Extension>) -> Blank {
        self.extensions = extensions;
        self
    }

    pub(crate) fn sign(&self, key: &Key, how: How) -> Vec<u8> {
        self.sign_as(key, how, &algorithm(how))
    }

    /// Names an algorithm that may be another than the one that is used.
    pub(crate) fn sign_as(&self, key: &Key, how: How, named: &AlgorithmIdentifierOwned) -> Vec<u8> {
        let tbs = self.body(named.clone());
        envelope(&tbs, named, &key.sign(how, &tbs))
    }

    pub(crate) fn body(&self, named: AlgorithmIdentifierOwned) -> Vec<u8> {
        let tbs = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&self.serial).unwrap(),
            signature: named,
            issuer: name(&self.issuer),
            validity: Validity { not_before: time(self.validity.0), not_after: time(self.validity.1) },
            subject: name(&self.subject),
            subject_public_key_info: self.info.clone(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(self.extensions.clone()),
        };
        tbs.to_der().unwrap()
    }
}

/// Puts body, algorithm and signature together.
pub(crate) fn envelope(body: &[u8], algorithm: &AlgorithmIdentifierOwned, signature: &[u8]) -> Vec<u8> {
    let mut content = body.to_vec();
    content.extend(algorithm.to_der().unwrap());
    content.extend(BitString::from_bytes(signature).unwrap().to_der().unwrap());
    Any::new(Tag::Sequence, content).unwrap().to_der().unwrap()
}

/// What a revocation list is to say.
#[derive(Clone)]
pub(crate) struct BlankCrl {
    pub(crate) issuer: String,
    pub(crate) this_update: u64,
    pub(crate) next_update: Option<u64>,
    pub(crate) serials: Vec<Vec<u8>>,
    pub(crate) extensions: Option<Vec<Extension>>,
}

impl BlankCrl {
    pub(crate) fn new(issuer: &str, serials: Vec<Vec<u8>>) -> BlankCrl {
        BlankCrl { issuer: issuer.into(), this_update: NOW - 1000, next_update: Some(NOW + 1000), serials, extensions: None }
    }

    pub(crate) fn sign(&self, key: &Key, how: How) -> Vec<u8> {
        let revoked = self.serials.iter().map(|serial| RevokedCert {
            serial_number: SerialNumber::new(serial).unwrap(),
            revocation_date: time(self.this_update),
            crl_entry_extensions: None,
        });
        let list = TbsCertList {
            version: Version::V2,
            signature: algorithm(how),
            issuer: Name::from_str(&self.issuer).unwrap(),
            this_update: time(self.this_update),
            next_update: self.next_update.map(time),
            revoked_certificates: (!self.serials.is_empty()).then(|| revoked.collect()),
            crl_extensions: self.extensions.clone(),
        };
        let body = list.to_der().unwrap();
        envelope(&body, &algorithm(how), &key.sign(how, &body))
    }
}

/// Certificates of TPMs have no subject, which RFC 4514 has no text for.
fn name(text: &str) -> Name {
    if text.is_empty() { Name::default() } else { Name::from_str(text).unwrap() }
}

fn time(unix_seconds: u64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(unix_seconds)).unwrap())
}

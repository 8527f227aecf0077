//! Public areas of TPM keys: what they are, what they may do, and how they are called.

use super::der::{self, KeyInfo};
use super::hash::Hash;
use super::wire::{Reader, WireError};
use crate::attest::{Fault, Reason};

/// `TPM_ALG_NULL` (Part 2, 6.3).
const ALG_NULL: u16 = 0x0010;
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
const ALG_RSA: u16 = 0x0001;
const ALG_ECC: u16 = 0x0023;
const ALG_RSAES: u16 = 0x0015;
const ALG_ECDAA: u16 = 0x001a;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;
/// 65537, the only RSA exponent accepted. A TPM writes it as zero, too (Part 2, 12.2.3.5).
const EXPONENT: [u8; 3] = [1, 0, 1];

/// What a key may do: `TPMA_OBJECT` (Part 2, 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(u32);

impl Attributes {
    /// The key cannot leave its TPM.
    pub const FIXED_TPM: Attributes = Attributes(1 << 1);
    /// The key cannot move to another parent.
    pub const FIXED_PARENT: Attributes = Attributes(1 << 4);
    /// The TPM itself made the secret part.
    pub const SENSITIVE_DATA_ORIGIN: Attributes = Attributes(1 << 5);
    /// The password (often empty) is enough to use the key.
    pub const USER_WITH_AUTH: Attributes = Attributes(1 << 6);
    /// The key works only on data that the TPM made (if it signs) or on structures of the TPM (if it decrypts).
    pub const RESTRICTED: Attributes = Attributes(1 << 16);
    /// The key decrypts.
    pub const DECRYPT: Attributes = Attributes(1 << 17);
    /// The key signs.
    pub const SIGN: Attributes = Attributes(1 << 18);
    /// The key signs X.509 certificates, of which the caller writes a part.
    pub const X509_SIGN: Attributes = Attributes(1 << 19);

    const NAMES: [(Attributes, &str); 8] = [
        (Attributes::FIXED_TPM, "fixedTPM"),
        (Attributes::FIXED_PARENT, "fixedParent"),
        (Attributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (Attributes::USER_WITH_AUTH, "userWithAuth"),
        (Attributes::RESTRICTED, "restricted"),
        (Attributes::DECRYPT, "decrypt"),
        (Attributes::SIGN, "sign"),
        (Attributes::X509_SIGN, "x509sign"),
    ];

    /// The four bytes as a number.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `wanted` are set.
    pub fn has(self, wanted: Attributes) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// A sentence about the first attribute that is missing from `wanted` or set though `forbidden`.
    pub(super) fn objection(self, wanted: &[Attributes], forbidden: &[Attributes]) -> Option<String> {
        let name = |one: Attributes| Attributes::NAMES.iter().find(|(known, _)| *known == one).map_or("?", |(_, name)| name);
        let missing = wanted.iter().find(|&&one| !self.has(one)).map(|&one| (one, "clear", "set"));
        let surplus = forbidden.iter().find(|&&one| self.has(one)).map(|&one| (one, "set", "clear"));
        let (one, found, wanted) = missing.or(surplus)?;
        Some(format!("attribute {} is {found} (attributes 0x{:08x}), it must be {wanted}", name(one), self.0))
    }
}

/// The elliptic curves that are accepted (`TPM_ECC_CURVE`, Part 2, 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// `TPM_ECC_NIST_P256`, coordinates of 32 bytes.
    P256,
    /// `TPM_ECC_NIST_P384`, coordinates of 48 bytes.
    P384,
}

impl Curve {
    /// The size of a coordinate in bytes.
    pub fn size(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
        }
    }

    fn oid(self) -> &'static [u8] {
        match self {
            Curve::P256 => &der::OID_P256,
            Curve::P384 => &der::OID_P384,
        }
    }
}

/// The key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// RSA with the exponent 65537.
    Rsa {
        /// 256 or 384 bytes, big-endian, the highest bit set.
        modulus: Vec<u8>,
    },
    /// A point on a curve. Whether it truly is on the curve shows when it is used.
    Ecc {
        /// The curve.
        curve: Curve,
        /// Uncompressed: 4, then both coordinates in full size.
        point: Vec<u8>,
    },
}

/// The scheme of a key: `TPMT_RSA_SCHEME` or `TPMT_ECC_SCHEME` (Part 2, 11.2.4.2 and 11.2.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    /// `TPM_ALG_ID` of the scheme.
    pub(super) algorithm: u16,
    /// `TPM_ALG_ID` of its hash function; zero if the scheme has none.
    pub(super) hash: u16,
}

/// The public area of an asymmetric key: `TPMT_PUBLIC` (Part 2, 12.2.4).
///
/// RSA of 2048 or 3072 bits and ECC on P-256 or P-384 are known, named by SHA-256 or SHA-384.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    bytes: Vec<u8>,
    name_hash: Hash,
    attributes: Attributes,
    auth_policy: Vec<u8>,
    aes_bits: Option<u16>,
    scheme: Option<Scheme>,
    key: Key,
}

impl Public {
    /// Reads a `TPMT_PUBLIC`, that is, a `TPM2B_PUBLIC` without its first two bytes. Nothing may follow it.
    pub fn parse(bytes: &[u8]) -> Result<Public, Fault> {
        Ok(Public::read(bytes)?)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Public, WireError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u16("TPMT_PUBLIC.type")?;
        let name_hash = read_hash(&mut reader, "TPMT_PUBLIC.nameAlg")?;
        let attributes = Attributes(reader.u32("TPMT_PUBLIC.objectAttributes")?);
        let auth_policy = read_policy(&mut reader, name_hash)?;
        let aes_bits = read_symmetric(&mut reader)?;
        let scheme = read_scheme(&mut reader, kind)?;
        let key = match kind {
            ALG_RSA => read_rsa(&mut reader)?,
            ALG_ECC => read_ecc(&mut reader)?,
            other => return Err(WireError::new(format!("the key is of type 0x{other:04x}, 0x0001 (RSA) or 0x0023 (ECC) is wanted"))),
        };
        reader.finish("TPMT_PUBLIC")?;
        Ok(Public { bytes: bytes.to_vec(), name_hash, attributes, auth_policy, aes_bits, scheme, key })
    }

    /// The bytes that were read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name: the number of the hash function (2 bytes) and the digest of the public area (Part 1, 16).
    pub fn name(&self) -> Vec<u8> {
        self.named(&[&self.bytes])
    }

    /// The qualified name (Part 1, 16): the name, bound to that of the parent. For a primary key the parent is its hierarchy,
    /// whose qualified name is its handle in 4 bytes.
    pub fn qualified_name(&self, parent_qualified_name: &[u8]) -> Vec<u8> {
        self.named(&[parent_qualified_name, &self.name()])
    }

    fn named(&self, parts: &[&[u8]]) -> Vec<u8> {
        [&self.name_hash.id().to_be_bytes(), self.name_hash.digest(parts).as_ref()].concat()
    }

    /// The hash function of the name.
    pub fn name_hash(&self) -> Hash {
        self.name_hash
    }

    /// What the key may do.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The digest of the policy that allows the use of the key; empty if there is none.
    pub fn auth_policy(&self) -> &[u8] {
        &self.auth_policy
    }

    /// The bits of the AES-CFB key that protects what is under this key; `None` unless it is a restricted decryption key.
    pub fn aes_bits(&self) -> Option<u16> {
        self.aes_bits
    }

    /// The key itself.
    pub fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// The key as SubjectPublicKeyInfo (RFC 5280) in DER.
    pub fn spki(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa { modulus } => der::rsa_key_info(&der::two_numbers(modulus, &EXPONENT)),
            Key::Ecc { curve, point } => der::ec_key_info(curve.oid(), point),
        }
    }

    /// The key as a verifier of signatures wants it: `RSAPublicKey` (RFC 8017), or the uncompressed point.
    pub(super) fn raw(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa { modulus } => der::two_numbers(modulus, &EXPONENT),
            Key::Ecc { point, .. } => point.clone(),
        }
    }

    /// Whether the SubjectPublicKeyInfo of a certificate (in DER) holds this very key.
    ///
    /// RSA keys may stand under rsaEncryption or under id-RSAES-OAEP, as makers of TPMs use both.
    pub fn matches_spki(&self, spki_der: &[u8]) -> Result<(), Fault> {
        let info = KeyInfo::parse(spki_der)
            .ok_or_else(|| Fault::new(Reason::Malformed, "the certificate's key is not a SubjectPublicKeyInfo in DER"))?;
        let algorithm_fits = match &self.key {
            Key::Rsa { .. } => info.algorithm == der::OID_RSA || info.algorithm == der::OID_RSAES_OAEP,
            Key::Ecc { curve, .. } => info.algorithm == der::OID_EC && info.has_curve(curve.oid()),
        };
        if algorithm_fits && info.key == self.raw() {
            return Ok(());
        }
        let found = Hash::Sha256.digest(&[spki_der]);
        let wanted = Hash::Sha256.digest(&[&self.spki()]);
        let sentence = format!("the certificate is for the key {}, the TPM's key is {}", short(found.as_ref()), short(wanted.as_ref()));
        Err(Fault::new(Reason::CertificateMismatch, sentence))
    }
}

/// The first eight bytes of a digest, for people.
pub(super) fn short(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn read_hash(reader: &mut Reader<'_>, field: &str) -> Result<Hash, WireError> {
    let id = reader.u16(field)?;
    Hash::from_id(id).ok_or_else(|| WireError::new(format!("{field} is 0x{id:04x}, 0x000b (SHA-256) or 0x000c (SHA-384) is wanted")))
}

fn read_policy(reader: &mut Reader<'_>, hash: Hash) -> Result<Vec<u8>, WireError> {
    let policy = reader.sized(hash.size(), "TPMT_PUBLIC.authPolicy")?;
    if policy.is_empty() || policy.len() == hash.size() {
        return Ok(policy.to_vec());
    }
    Err(WireError::new(format!("TPMT_PUBLIC.authPolicy has {} bytes, 0 or {} are wanted", policy.len(), hash.size())))
}

/// `TPMT_SYM_DEF_OBJECT` (Part 2, 11.1.7): none, or AES-CFB with 128 or 256 bits.
fn read_symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, WireError> {
    match reader.u16("symmetric.algorithm")? {
        ALG_NULL => Ok(None),
        ALG_AES => {
            let bits = reader.u16("symmetric.keyBits")?;
            let mode = reader.u16("symmetric.mode")?;
            if matches!(bits, 128 | 256) && mode == ALG_CFB {
                return Ok(Some(bits));
            }
            Err(WireError::new(format!(
                "the symmetric part is AES-{bits} in mode 0x{mode:04x}, AES-128 or AES-256 in 0x0043 (CFB) is wanted"
            )))
        }
        other => Err(WireError::new(format!("the symmetric part is 0x{other:04x}, 0x0006 (AES) or 0x0010 (none) is wanted"))),
    }
}

fn read_scheme(reader: &mut Reader<'_>, kind: u16) -> Result<Option<Scheme>, WireError> {
    let algorithm = reader.u16("scheme")?;
    match (kind, algorithm) {
        (_, ALG_NULL) => Ok(None),
        (ALG_RSA, ALG_RSAES) => Ok(Some(Scheme { algorithm, hash: 0 })),
        (ALG_RSA, 0x0014 | 0x0016 | 0x0017) | (ALG_ECC, 0x0018..=0x001d) => {
            let hash = reader.u16("scheme.hashAlg")?;
            if algorithm == ALG_ECDAA {
                reader.u16("scheme.count")?;
            }
            Ok(Some(Scheme { algorithm, hash }))
        }
        _ => Err(WireError::new(format!("the scheme is 0x{algorithm:04x}, which no key of type 0x{kind:04x} has"))),
    }
}

/// `TPMS_RSA_PARMS` after its scheme, and the modulus (Part 2, 12.2.3.5 and 11.2.4.5).
fn read_rsa(reader: &mut Reader<'_>) -> Result<Key, WireError> {
    let bits = reader.u16("keyBits")?;
    if !matches!(bits, 2048 | 3072) {
        return Err(WireError::new(format!("the RSA key has {bits} bits, 2048 or 3072 are wanted")));
    }
    let exponent = reader.u32("exponent")?;
    if !matches!(exponent, 0 | 65537) {
        return Err(WireError::new(format!("the RSA exponent is {exponent}, 65537 is wanted")));
    }
    let size = usize::from(bits / 8);
    let modulus = reader.sized(size, "unique.rsa")?;
    let full = modulus.len() == size && modulus.first().is_some_and(|byte| byte >= &0x80);
    if !full {
        return Err(WireError::new(format!("the RSA modulus does not fill its {bits} bits ({} bytes found)", modulus.len())));
    }
    Ok(Key::Rsa { modulus: modulus.to_vec() })
}

/// `TPMS_ECC_PARMS` after its scheme, and the point (Part 2, 12.2.3.6 and 11.2.5.2).
fn read_ecc(reader: &mut Reader<'_>) -> Result<Key, WireError> {
    let curve = match reader.u16("curveID")? {
        CURVE_P256 => Curve::P256,
        CURVE_P384 => Curve::P384,
        other => return Err(WireError::new(format!("the curve is 0x{other:04x}, 0x0003 (P-256) or 0x0004 (P-384) is wanted"))),
    };
    if reader.u16("kdf.scheme")? != ALG_NULL {
        reader.u16("kdf.hashAlg")?;
    }
    let mut point = vec![4];
    for field in ["unique.ecc.x", "unique.ecc.y"] {
        point.extend(padded(reader.sized(curve.size(), field)?, curve.size()));
    }
    Ok(Key::Ecc { curve, point })
}

/// A number in full size: some TPMs leave out zeros in front.
pub(super) fn padded(number: &[u8], size: usize) -> impl Iterator<Item = u8> + '_ {
    std::iter::repeat_n(0, size.saturating_sub(number.len())).chain(number.iter().copied())
}

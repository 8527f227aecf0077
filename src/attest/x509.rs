//! Reads one X.509 certificate strictly, and answers what chains of AMD processors and of TPMs need to know.
//!
//! Nothing here trusts a certificate: [`Certificate::from_der`] only reads, [`Certificate::signed_by`] checks one signature,
//! and [`chain`] walks from a leaf to a root that the caller trusts.

mod crl;
#[cfg(test)]
pub(crate) mod forge;
mod path;
mod signature;
#[cfg(test)]
mod tests;

pub use crl::{Crl, MAX_CRL_BYTES};
pub use path::{MAX_DEPTH, MAX_INTERMEDIATES, chain};
pub use x509_cert::der::asn1::ObjectIdentifier;

pub(crate) use path::{check_end, check_link};
pub(crate) use signature::p384_point;

use crate::attest::{Fault, Reason};
use aws_lc_rs::digest::{SHA256, digest};
use signature::Envelope;
use std::fmt;
use x509_cert::TbsCertificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode, Encode, pem};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;

/// The largest certificate that is read, in bytes. AMD's have 1.3 to 1.7 KiB, those of TPMs up to 3 KiB.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// The largest number of certificates in one PEM file.
pub const MAX_PEM_CERTIFICATES: usize = 16;

/// Base64 takes four characters for three bytes, and every line has its end: twice the bytes are always enough.
const MAX_PEM_BYTES: usize = 2 * MAX_CERTIFICATE_BYTES * MAX_PEM_CERTIFICATES;

const PEM_BEGIN: &[u8] = b"-----BEGIN ";
const PEM_END: &[u8] = b"-----END CERTIFICATE-----";

/// One certificate: the bytes as they came, and what they say. Two are equal if their bytes are.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    envelope: Envelope,
    tbs: TbsCertificate,
    basic_constraints: Option<BasicConstraints>,
    key_usage: Option<KeyUsage>,
}

impl Certificate {
    /// Reads one certificate in DER: at most [`MAX_CERTIFICATE_BYTES`], nothing after it, no extension twice.
    pub fn from_der(der: &[u8]) -> Result<Certificate, Fault> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(malformed(format!("the certificate has {} bytes, wanted at most {MAX_CERTIFICATE_BYTES}", der.len())));
        }
        let envelope = Envelope::split(der).map_err(unreadable)?;
        let tbs = TbsCertificate::from_der(envelope.body(der)).map_err(unreadable)?;
        if tbs.signature != envelope.algorithm {
            return Err(malformed("the certificate names one signature algorithm inside what is signed, and another outside"));
        }
        check_extensions(&tbs)?;
        let basic_constraints = tbs.get::<BasicConstraints>().map_err(unreadable)?.map(|(_, value)| value);
        let key_usage = tbs.get::<KeyUsage>().map_err(unreadable)?.map(|(_, value)| value);
        Ok(Certificate { der: der.to_vec(), envelope, tbs, basic_constraints, key_usage })
    }

    /// Reads every certificate of a PEM file: at least one, at most [`MAX_PEM_CERTIFICATES`], nothing between them but white space.
    pub fn many_from_pem(text: &[u8]) -> Result<Vec<Certificate>, Fault> {
        if text.len() > MAX_PEM_BYTES {
            return Err(malformed(format!("the PEM file has {} bytes, wanted at most {MAX_PEM_BYTES}", text.len())));
        }
        let mut certificates = Vec::new();
        let mut rest = text.trim_ascii();
        while !rest.is_empty() {
            if certificates.len() == MAX_PEM_CERTIFICATES {
                return Err(malformed(format!("the PEM file has more certificates than {MAX_PEM_CERTIFICATES}")));
            }
            let (block, tail) = split_pem(rest)?;
            certificates.push(Certificate::from_pem_block(block)?);
            rest = tail.trim_ascii_start();
        }
        if certificates.is_empty() {
            return Err(malformed("the PEM file has no certificate, wanted at least one"));
        }
        Ok(certificates)
    }

    /// Reads one certificate in DER or several in PEM, told apart by how they begin.
    pub fn many_from_bytes(bytes: &[u8]) -> Result<Vec<Certificate>, Fault> {
        if bytes.trim_ascii_start().starts_with(PEM_BEGIN) {
            Certificate::many_from_pem(bytes)
        } else {
            Ok(vec![Certificate::from_der(bytes)?])
        }
    }

    fn from_pem_block(block: &[u8]) -> Result<Certificate, Fault> {
        let (label, der) = pem::decode_vec(block).map_err(|error| malformed(format!("the PEM file cannot be read: {error}")))?;
        if label != "CERTIFICATE" {
            return Err(malformed(format!("the PEM file holds a {label:?}, wanted a \"CERTIFICATE\"")));
        }
        Certificate::from_der(&der)
    }

    /// The bytes as they came.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of [`der`](Certificate::der).
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, &self.der).as_ref());
        fingerprint
    }

    /// The subject's name, for people (RFC 4514).
    pub fn subject(&self) -> String {
        self.tbs.subject.to_string()
    }

    /// The issuer's name, for people (RFC 4514).
    pub fn issuer(&self) -> String {
        self.tbs.issuer.to_string()
    }

    /// The subject's common name, where it has exactly one that is text.
    pub fn common_name(&self) -> Option<String> {
        common_name(&self.tbs.subject)
    }

    /// The serial number, big-endian as in the certificate.
    pub fn serial(&self) -> &[u8] {
        self.tbs.serial_number.as_bytes()
    }

    /// The subject's public key as SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7).
    pub fn public_key_info(&self) -> Result<Vec<u8>, Fault> {
        self.tbs.subject_public_key_info.to_der().map_err(unreadable)
    }

    /// First and last second of validity, since 1970.
    pub fn validity(&self) -> (u64, u64) {
        let validity = &self.tbs.validity;
        (validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs())
    }

    /// Whether it is valid at this second since 1970; both ends belong to its time (RFC 5280 section 4.1.2.5).
    pub fn is_valid_at(&self, unix_seconds: u64) -> bool {
        let (first, last) = self.validity();
        (first..=last).contains(&unix_seconds)
    }

    /// Whether its basic constraints call it a certificate authority.
    pub fn is_ca(&self) -> bool {
        self.basic_constraints.as_ref().is_some_and(|constraints| constraints.ca)
    }

    /// The bytes inside the extension with this identifier.
    pub fn extension(&self, identifier: ObjectIdentifier) -> Option<&[u8]> {
        self.extensions().iter().find(|extension| extension.extn_id == identifier).map(|extension| extension.extn_value.as_bytes())
    }

    /// Checks that the issuer's key signed this certificate, over the bytes as they came, and that the names agree.
    ///
    /// It says nothing about whether the issuer may sign certificates, or about time: see [`chain`].
    pub fn signed_by(&self, issuer: &Certificate) -> Result<(), Fault> {
        if self.tbs.issuer != issuer.tbs.subject {
            let sentence = format!("{} was issued by {:?}, not by {:?}", self.label(), self.issuer(), issuer.subject());
            return Err(Fault::new(Reason::ChainInvalid, sentence));
        }
        self.envelope.verify(&self.der, &issuer.tbs.subject_public_key_info).map_err(|fault| {
            let sentence = format!("{} is not signed by {}: {}", self.label(), issuer.label(), fault.sentence);
            Fault::new(fault.reason, sentence)
        })
    }

    /// How it is called in sentences.
    pub(crate) fn label(&self) -> String {
        let name = self.common_name().unwrap_or_else(|| self.subject());
        format!("the certificate of {name:?}")
    }

    pub(crate) fn is_issued_by_name_of(&self, issuer: &Certificate) -> bool {
        self.tbs.issuer == issuer.tbs.subject
    }

    fn extensions(&self) -> &[Extension] {
        self.tbs.extensions.as_deref().unwrap_or_default()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("subject", &self.subject()).field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}

/// Extensions belong to version 3, and each comes once: a reader that takes the first and one that takes the last must agree.
fn check_extensions(tbs: &TbsCertificate) -> Result<(), Fault> {
    let extensions = tbs.extensions.as_deref().unwrap_or_default();
    if !extensions.is_empty() && tbs.version != Version::V3 {
        return Err(malformed(format!("the certificate has extensions and is of version {:?}, wanted V3", tbs.version)));
    }
    for (index, extension) in extensions.iter().enumerate() {
        if extensions.iter().take(index).any(|earlier| earlier.extn_id == extension.extn_id) {
            return Err(malformed(format!("the certificate has the extension {} twice, wanted it once", extension.extn_id)));
        }
    }
    Ok(())
}

fn common_name(name: &Name) -> Option<String> {
    let mut names = name.0.iter().flat_map(|part| part.0.iter()).filter(|attribute| attribute.oid == COMMON_NAME);
    let value = &names.next()?.value;
    if names.next().is_some() {
        return None;
    }
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    let ia5 = || value.decode_as::<Ia5StringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| ia5()).ok()
}

/// The first PEM block, and what follows it.
fn split_pem(text: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let end = text.windows(PEM_END.len()).position(|window| window == PEM_END);
    end.and_then(|end| text.split_at_checked(end + PEM_END.len()))
        .ok_or_else(|| malformed("the PEM file has no \"-----END CERTIFICATE-----\" where one is wanted"))
}

fn malformed(sentence: impl Into<String>) -> Fault {
    Fault::new(Reason::Malformed, sentence)
}

fn unreadable(error: x509_cert::der::Error) -> Fault {
    malformed(format!("the certificate cannot be read as DER: {error}"))
}

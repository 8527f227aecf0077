//! Walks from a leaf certificate to a root that the caller trusts, and checks every step.

use super::{Certificate, ObjectIdentifier};
use crate::attest::{Fault, Reason};
use x509_cert::der::Decode;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5280::{
    ANY_EXTENDED_KEY_USAGE, ID_CE_BASIC_CONSTRAINTS, ID_CE_CERTIFICATE_POLICIES, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE,
    ID_CE_SUBJECT_ALT_NAME,
};
use x509_cert::ext::pkix::ExtendedKeyUsage;

/// The longest chain, with its leaf and its root. Chains of TPM makers have three or four certificates.
pub const MAX_DEPTH: usize = 5;

/// The largest number of intermediate certificates that are considered.
pub const MAX_INTERMEDIATES: usize = 16;

/// Certificates that all bear one name could be put into many orders: so many signatures are tried and no more.
const MAX_SIGNATURES: usize = 64;

/// "tcg-kp-EKCertificate" (TCG EK Credential Profile for TPM 2.0): the key is the endorsement key of a TPM.
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

/// "tcg-kp-AIKCertificate" (TCG Infrastructure Working Group, SKAE): the key is an attestation key, as clouds certify them.
const AK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");

/// The critical extensions that are allowed; RFC 5280 section 4.2 demands that others are refused.
const KNOWN_CRITICAL: [ObjectIdentifier; 5] = [
    // Enforced below, for every issuer. AMD's ARK, ASK and ASVK have them too, and no other critical one.
    ID_CE_BASIC_CONSTRAINTS,
    ID_CE_KEY_USAGE,
    // Enforced below: in the certificate of a TPM it must name the endorsement key.
    ID_CE_EXT_KEY_USAGE,
    // The certificate of a TPM has an empty subject, and must then name maker, model and version here, critically.
    // Nothing is concluded from this name.
    ID_CE_SUBJECT_ALT_NAME,
    // Older profiles of the TCG make it critical. It tells where a statement of practice is, and forbids no use.
    ID_CE_CERTIFICATE_POLICIES,
];

/// Finds the chain from a leaf to one of the roots: the leaf first, the root last, at most [`MAX_DEPTH`] long.
///
/// Every signature, name, time (where `now` is given, in seconds since 1970), basic constraint, key usage, path length and
/// critical extension is checked. The roots are trusted as they are, their own signatures are not looked at; but they must
/// be certificate authorities, valid at `now`. A leaf is no authority, and is never trusted for being among the roots.
pub fn chain(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    now: Option<u64>,
) -> Result<Vec<Certificate>, Fault> {
    if intermediates.len() > MAX_INTERMEDIATES {
        let sentence = format!("there are {} intermediate certificates, wanted at most {MAX_INTERMEDIATES}", intermediates.len());
        return Err(Fault::new(Reason::ChainInvalid, sentence));
    }
    check_end(leaf, now)?;
    let mut search = Search { intermediates, roots, now, signatures: 0, fault: None };
    let mut path = vec![leaf];
    if search.extend(&mut path) {
        return Ok(path.into_iter().cloned().collect());
    }
    Err(search.fault.unwrap_or_else(|| {
        let sentence = format!("{} was issued by {:?}, which is not among the certificates given", leaf.label(), leaf.issuer());
        Fault::new(Reason::ChainInvalid, sentence)
    }))
}

struct Search<'a> {
    intermediates: &'a [Certificate],
    roots: &'a [Certificate],
    now: Option<u64>,
    signatures: usize,
    /// Why the first step failed that looked right by its name.
    fault: Option<Fault>,
}

impl<'a> Search<'a> {
    /// Lengthens the path until it ends in a root. Recursion is as deep as the path, at most [`MAX_DEPTH`].
    fn extend(&mut self, path: &mut Vec<&'a Certificate>) -> bool {
        let Some(&last) = path.last() else { return false };
        let (roots, intermediates) = (self.roots, self.intermediates);
        for root in roots {
            if self.step(last, root, path.len()) {
                path.push(root);
                return true;
            }
        }
        if path.len() + 1 >= MAX_DEPTH {
            return false;
        }
        for next in intermediates {
            if !path.contains(&next) && self.step(last, next, path.len()) {
                path.push(next);
                if self.extend(path) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }

    fn step(&mut self, subject: &Certificate, issuer: &Certificate, length: usize) -> bool {
        if !subject.is_issued_by_name_of(issuer) || self.signatures == MAX_SIGNATURES {
            return false;
        }
        self.signatures += 1;
        match check_link(subject, issuer, length - 1, self.now) {
            Ok(()) => true,
            Err(fault) => {
                self.fault.get_or_insert(fault);
                false
            }
        }
    }
}

/// Checks one step of a chain: the issuer may issue, `below` intermediates lie between it and the leaf, and it signed the subject.
///
/// RFC 5280 does not count self-issued intermediates for the path length. Here they count, which is stricter.
pub(crate) fn check_link(subject: &Certificate, issuer: &Certificate, below: usize, now: Option<u64>) -> Result<(), Fault> {
    check_common(issuer, now)?;
    let refuse = |why: String| Err(Fault::new(Reason::ChainInvalid, format!("{} {why}", issuer.label())));
    let Some(constraints) = issuer.basic_constraints.as_ref().filter(|constraints| constraints.ca) else {
        return refuse("is not one of a certificate authority, but issued another".into());
    };
    if !issuer.key_usage.is_some_and(|usage| usage.key_cert_sign()) {
        return refuse("may not sign certificates: its key usage lacks keyCertSign".into());
    }
    if let Some(limit) = constraints.path_len_constraint.filter(|&limit| usize::from(limit) < below) {
        return refuse(format!("allows {limit} intermediate certificates below it, found {below}"));
    }
    subject.signed_by(issuer)
}

/// Checks the leaf itself: its time, its critical extensions, that it is no authority and, where it says so, what its key is for.
pub(crate) fn check_end(leaf: &Certificate, now: Option<u64>) -> Result<(), Fault> {
    check_common(leaf, now)?;
    let refuse = |why: &str| Err(Fault::new(Reason::ChainInvalid, format!("{} {why}", leaf.label())));
    if leaf.is_ca() {
        return refuse("is one of a certificate authority, wanted that of a key");
    }
    let Some(value) = leaf.extension(ExtendedKeyUsage::OID) else { return Ok(()) };
    match ExtendedKeyUsage::from_der(value) {
        Ok(usage) if usage.0.iter().any(|purpose| [EK_CERTIFICATE, AK_CERTIFICATE, ANY_EXTENDED_KEY_USAGE].contains(purpose)) => Ok(()),
        Ok(_) => refuse("has a key for other purposes than the endorsement of a TPM"),
        Err(_) => refuse("has an extended key usage that cannot be read"),
    }
}

fn check_common(certificate: &Certificate, now: Option<u64>) -> Result<(), Fault> {
    if let Some(now) = now.filter(|&now| !certificate.is_valid_at(now)) {
        let (first, last) = certificate.validity();
        let sentence = format!("{} is valid from {first} to {last}, and it is {now} (seconds since 1970)", certificate.label());
        return Err(Fault::new(Reason::CertificateExpired, sentence));
    }
    let unknown = |critical: &&x509_cert::ext::Extension| critical.critical && !KNOWN_CRITICAL.contains(&critical.extn_id);
    match certificate.extensions().iter().find(unknown) {
        Some(extension) => {
            let sentence = format!("{} has the critical extension {}, which is not known", certificate.label(), extension.extn_id);
            Err(Fault::new(Reason::ChainInvalid, sentence))
        }
        None => Ok(()),
    }
}

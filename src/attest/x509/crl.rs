//! Reads and checks one list of revoked certificates (RFC 5280 section 5).

use super::{Certificate, signature::Envelope};
use crate::attest::{Fault, Reason};
use std::fmt;
use x509_cert::crl::TbsCertList;
use x509_cert::der::Decode;

/// The largest list that is read, in bytes. AMD's have below 2 KiB; those of TPM makers may have thousands of entries.
pub const MAX_CRL_BYTES: usize = 256 * 1024;

/// A list of revoked certificates, read and not yet believed: see [`Crl::check`].
#[derive(Clone)]
pub struct Crl {
    der: Vec<u8>,
    envelope: Envelope,
    list: TbsCertList,
}

impl Crl {
    /// Reads one list in DER: at most [`MAX_CRL_BYTES`], nothing after it, no critical extension.
    ///
    /// A critical extension says that the list is partial, a difference or made for another issuer (RFC 5280 section 5.2):
    /// taking such a list for a whole one would overlook what it leaves out.
    pub fn from_der(der: &[u8]) -> Result<Crl, Fault> {
        if der.len() > MAX_CRL_BYTES {
            return Err(unusable(format!("the revocation list has {} bytes, wanted at most {MAX_CRL_BYTES}", der.len())));
        }
        let unreadable = |error| unusable(format!("the revocation list cannot be read as DER: {error}"));
        let envelope = Envelope::split(der).map_err(unreadable)?;
        let list = TbsCertList::from_der(envelope.body(der)).map_err(unreadable)?;
        if list.signature != envelope.algorithm {
            return Err(unusable("the revocation list names one signature algorithm inside what is signed, and another outside"));
        }
        let crl = Crl { der: der.to_vec(), envelope, list };
        crl.refuse_critical_extensions()?;
        Ok(crl)
    }

    /// The issuer's name, for people.
    pub fn issuer(&self) -> String {
        self.list.issuer.to_string()
    }

    /// When it was made, in seconds since 1970.
    pub fn this_update(&self) -> u64 {
        self.list.this_update.to_unix_duration().as_secs()
    }

    /// When the next one is due, in seconds since 1970.
    pub fn next_update(&self) -> Option<u64> {
        self.list.next_update.map(|time| time.to_unix_duration().as_secs())
    }

    /// Whether it speaks for certificates of this issuer, by its name.
    pub fn is_of(&self, issuer: &Certificate) -> bool {
        self.list.issuer == issuer.tbs.subject
    }

    /// Checks that the issuer made this list and may make lists and, where a time is given, that it is the current one.
    pub fn check(&self, issuer: &Certificate, now: Option<u64>) -> Result<(), Fault> {
        if !self.is_of(issuer) {
            return Err(unusable(format!("the revocation list is of {:?}, wanted one of {:?}", self.issuer(), issuer.subject())));
        }
        if !issuer.key_usage.is_some_and(|usage| usage.crl_sign()) {
            return Err(unusable(format!("{} may not sign revocation lists: its key usage lacks cRLSign", issuer.label())));
        }
        self.envelope.verify(&self.der, &issuer.tbs.subject_public_key_info).map_err(|fault| {
            let sentence = format!("the revocation list is not signed by {}: {}", issuer.label(), fault.sentence);
            unusable(sentence)
        })?;
        now.map_or(Ok(()), |now| self.check_time(now))
    }

    /// Whether it lists this serial number (big-endian, as in the certificate).
    pub fn lists(&self, serial: &[u8]) -> bool {
        self.list.revoked_certificates.iter().flatten().any(|entry| entry.serial_number.as_bytes() == serial)
    }

    /// A list without a next one would be taken for current for ever: it is refused.
    fn check_time(&self, now: u64) -> Result<(), Fault> {
        let (this, next) = (self.this_update(), self.next_update());
        let Some(next) = next else {
            return Err(unusable("the revocation list does not say when the next one is due"));
        };
        if (this..=next).contains(&now) {
            return Ok(());
        }
        Err(unusable(format!("the revocation list is for the time from {this} to {next}, and it is {now} (seconds since 1970)")))
    }

    fn refuse_critical_extensions(&self) -> Result<(), Fault> {
        let entries = self.list.revoked_certificates.iter().flatten();
        let of_entries = entries.filter_map(|entry| entry.crl_entry_extensions.as_ref());
        let mut all = self.list.crl_extensions.iter().chain(of_entries).flatten();
        match all.find(|extension| extension.critical) {
            Some(extension) => Err(unusable(format!("the revocation list has the critical extension {}, wanted none", extension.extn_id))),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl").field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}

fn unusable(sentence: impl Into<String>) -> Fault {
    Fault::new(Reason::RevocationListInvalid, sentence)
}

//! Judges quotes: which registers a TPM signed, for which question, with which kind of key.

use super::hash::Hash;
use super::public::{Attributes, Public, short};
use super::selection::{SelectionError, read_selection};
use super::signature::{self, Signing};
use super::wire::Reader;
use crate::attest::{Fault, Reason};
use std::collections::BTreeMap;

/// `TPM_GENERATED_VALUE` (Part 2, 6.2): a restricted key signs nothing from outside that starts with it.
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE` (Part 2, 6.9).
const ATTEST_QUOTE: u16 = 0x8018;
/// The most bytes of a name: hash function and SHA-512 digest.
const MAX_NAME: usize = 66;
/// The most bytes of `TPM2B_DATA` (Part 2, 10.4.3).
const MAX_EXTRA_DATA: usize = 66;
/// The most bytes of `TPM2B_DIGEST`: SHA-512.
const MAX_DIGEST: usize = 64;
/// The handles of the owner, endorsement and platform hierarchies (`TPM_RH`, Part 2, 7.4), which are their qualified names, too.
const HIERARCHIES: [u32; 3] = [0x4000_0001, 0x4000_000b, 0x4000_000c];

/// A key that signs only what its TPM made: the one kind of key whose quotes mean something.
#[derive(Clone, Copy, Debug)]
pub struct AttestationKey<'a> {
    public: &'a Public,
    signing: Signing,
}

impl<'a> AttestationKey<'a> {
    /// Accepts a key that is fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign, neither decrypt nor x509sign,
    /// and fixed to RSASSA, RSAPSS or ECDSA with SHA-256 or SHA-384. Any other fails with [`Reason::KeyNotRestricted`].
    pub fn check(public: &'a Public) -> Result<AttestationKey<'a>, Fault> {
        let wanted =
            [Attributes::FIXED_TPM, Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED, Attributes::SIGN];
        let forbidden = [Attributes::DECRYPT, Attributes::X509_SIGN];
        if let Some(objection) = public.attributes().objection(&wanted, &forbidden) {
            return Err(Fault::new(Reason::KeyNotRestricted, format!("the attestation key's {objection}")));
        }
        let scheme = public.scheme();
        let Some(signing) = scheme.and_then(|scheme| Signing::from_ids(scheme.algorithm, scheme.hash)) else {
            let found = scheme.map_or_else(|| "none".into(), |one| format!("0x{:04x} with hash 0x{:04x}", one.algorithm, one.hash));
            let sentence =
                format!("the attestation key's fixed scheme is {found}, RSASSA, RSAPSS or ECDSA with SHA-256 or SHA-384 is wanted");
            return Err(Fault::new(Reason::KeyNotRestricted, sentence));
        };
        Ok(AttestationKey { public, signing })
    }
}

/// Time and starts of a TPM: `TPMS_CLOCK_INFO` (Part 2, 10.11.1).
///
/// For a key under the owner hierarchy, the TPM adds a constant secret number to both counts (Part 3, 18.1): they can be compared
/// with each other, but say nothing by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds during which the TPM had power, since it was last cleared.
    pub clock: u64,
    /// How often the TPM was reset since it was last cleared.
    pub reset_count: u32,
    /// How often it was restarted or resumed since the last reset.
    pub restart_count: u32,
    /// Whether `clock` is sure to never have been this high before.
    pub safe: bool,
}

/// A quote that can be read: `TPMS_ATTEST` of type quote (Part 2, 10.12.12). What it says stays hidden until [`verify`] believes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    qualified_signer: Vec<u8>,
    extra_data: Vec<u8>,
    clock_info: ClockInfo,
    firmware_version: u64,
    pcrs: Vec<u8>,
    pcr_digest: Vec<u8>,
}

impl Quote {
    /// Reads a `TPMS_ATTEST`, that is, a `TPM2B_ATTEST` without its first two bytes. Nothing may follow it.
    ///
    /// One selection of at least one register of the SHA-256 bank is accepted; others fail with [`Reason::RegistersMissing`].
    pub fn parse(attest: &[u8]) -> Result<Quote, Fault> {
        let mut reader = Reader::new(attest);
        wanted("TPMS_ATTEST.magic", reader.u32("TPMS_ATTEST.magic")?, GENERATED)?;
        wanted("TPMS_ATTEST.type", reader.u16("TPMS_ATTEST.type")?.into(), ATTEST_QUOTE.into())?;
        let qualified_signer = reader.sized(MAX_NAME, "TPMS_ATTEST.qualifiedSigner")?.to_vec();
        let extra_data = reader.sized(MAX_EXTRA_DATA, "TPMS_ATTEST.extraData")?.to_vec();
        let clock_info = read_clock_info(&mut reader)?;
        let firmware_version = reader.u64("TPMS_ATTEST.firmwareVersion")?;
        let pcrs = read_selection(&mut reader).map_err(selection_fault)?;
        let pcr_digest = reader.sized(MAX_DIGEST, "TPMS_ATTEST.pcrDigest")?.to_vec();
        reader.finish("TPMS_ATTEST")?;
        if pcrs.is_empty() {
            return Err(Fault::new(Reason::RegistersMissing, "the TPM signed no register, at least one is wanted"));
        }
        Ok(Quote { qualified_signer, extra_data, clock_info, firmware_version, pcrs, pcr_digest })
    }
}

fn wanted(field: &str, found: u32, wanted: u32) -> Result<(), Fault> {
    if found == wanted {
        return Ok(());
    }
    Err(Fault::new(Reason::Malformed, format!("{field} is 0x{found:x}, 0x{wanted:x} is wanted")))
}

fn read_clock_info(reader: &mut Reader<'_>) -> Result<ClockInfo, Fault> {
    let clock = reader.u64("clockInfo.clock")?;
    let reset_count = reader.u32("clockInfo.resetCount")?;
    let restart_count = reader.u32("clockInfo.restartCount")?;
    let safe = match reader.u8("clockInfo.safe")? {
        0 => false,
        1 => true,
        other => return Err(Fault::new(Reason::Malformed, format!("clockInfo.safe is {other}, 0 or 1 is wanted"))),
    };
    Ok(ClockInfo { clock, reset_count, restart_count, safe })
}

fn selection_fault(error: SelectionError) -> Fault {
    match error {
        SelectionError::Wire(error) => error.into(),
        SelectionError::Other(sentence) => Fault::new(Reason::RegistersMissing, sentence),
    }
}

/// Where a key hangs, which a quote states as its qualified signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent<'a> {
    /// It is a primary key of the owner, endorsement or platform hierarchy.
    Hierarchy,
    /// It is a child of the key with this qualified name.
    Named(&'a [u8]),
    /// Nobody knows. The key's attributes must then be vouched for by activating a credential for its name, or by a certificate.
    Unknown,
}

/// Checks a quote by a primary key: [`verify_child`] with [`Parent::Hierarchy`].
pub fn verify(attest: &[u8], signature: &[u8], ak: &Public) -> Result<Quoted, Fault> {
    verify_child(attest, signature, ak, Parent::Hierarchy)
}

/// Checks that `attest` (`TPMS_ATTEST`) is a quote signed (`signature`: `TPMT_SIGNATURE`) by the attestation key `ak`, which hangs
/// where `parent` says.
///
/// This does not say whose key it is: that takes a certificate or a credential for [`Public::name`]. Nor does it say that the
/// quote is fresh: compare [`Quoted::extra_data`] with the question that was asked.
pub fn verify_child(attest: &[u8], signature: &[u8], ak: &Public, parent: Parent<'_>) -> Result<Quoted, Fault> {
    let key = AttestationKey::check(ak)?;
    signature::verify(key.public, key.signing, attest, signature)?;
    let quote = Quote::parse(attest)?;
    check_signer(&quote.qualified_signer, ak, parent)?;
    let hash = key.signing.hash();
    if quote.pcr_digest.len() != hash.size() {
        let sentence = format!("TPMS_ATTEST.pcrDigest has {} bytes, {} are wanted", quote.pcr_digest.len(), hash.size());
        return Err(Fault::new(Reason::Malformed, sentence));
    }
    Ok(Quoted { quote, hash })
}

/// The qualified signer holds a digest of the whole public area, so that not only the key but all its properties are signed.
fn check_signer(found: &[u8], ak: &Public, parent: Parent<'_>) -> Result<(), Fault> {
    let fits = match parent {
        Parent::Hierarchy => HIERARCHIES.iter().any(|handle| found == ak.qualified_name(&handle.to_be_bytes())),
        Parent::Named(name) => found == ak.qualified_name(name),
        Parent::Unknown => true,
    };
    if fits {
        return Ok(());
    }
    let digest = found.get(2..).unwrap_or_default();
    let sentence = format!("the quote names the signer {}, which is not the key given under the parent wanted", short(digest));
    Err(Fault::new(Reason::BindingMismatch, sentence))
}

/// What a TPM signed. Only [`verify`] and [`verify_child`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    quote: Quote,
    hash: Hash,
}

impl Quoted {
    /// The question that was asked: at most 66 bytes.
    pub fn extra_data(&self) -> &[u8] {
        &self.quote.extra_data
    }

    /// The numbers of the registers that were signed, sorted, at least one.
    pub fn pcrs(&self) -> &[u8] {
        &self.quote.pcrs
    }

    /// The digest over the registers, by the hash function of the key's scheme: 32 or 48 bytes.
    pub fn pcr_digest(&self) -> &[u8] {
        &self.quote.pcr_digest
    }

    /// Time and starts of the TPM.
    pub fn clock_info(&self) -> ClockInfo {
        self.quote.clock_info
    }

    /// The version of the TPM's firmware, as its maker counts. Hidden like the counts in [`ClockInfo`].
    pub fn firmware_version(&self) -> u64 {
        self.quote.firmware_version
    }

    /// The qualified name of the key that signed (Part 1, 16).
    pub fn qualified_signer(&self) -> &[u8] {
        &self.quote.qualified_signer
    }

    /// Whether these are the registers and the values that were signed: neither fewer, nor other, nor more, as a value that was not
    /// signed must not be believed.
    pub fn covers(&self, values: &BTreeMap<u8, [u8; 32]>) -> Result<(), Fault> {
        if !values.keys().eq(&self.quote.pcrs) {
            let given: Vec<_> = values.keys().collect();
            let sentence = format!("the TPM signed the registers {:?}, values of {given:?} are given", self.quote.pcrs);
            return Err(Fault::new(Reason::RegistersMissing, sentence));
        }
        let parts: Vec<&[u8]> = values.values().map(<[u8; 32]>::as_slice).collect();
        let found = self.hash.digest(&parts);
        if found.as_ref() == self.quote.pcr_digest {
            return Ok(());
        }
        let sentence =
            format!("the values given have the digest {}, the TPM signed {}", short(found.as_ref()), short(&self.quote.pcr_digest));
        Err(Fault::new(Reason::EventLogMismatch, sentence))
    }
}

//! The hardware that can sign for this machine: an AMD SEV-SNP processor, a TPM, or both.

pub mod seed;
pub(in crate::node) mod sev_guest;
mod tsm;

use super::evidence::{Collected, Hardware};
use crate::attest::evidence::{MAX_EVENT_LOG, Subject};
use crate::attest::tpm::device::{self, Device, EkKind, Hierarchy};
use crate::attest::tpm::public::Key;
use crate::attest::{SnpEvidence, TpmEvidence};
use crate::config::fs;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring::Seed;
use crate::session::messages::Activation;
use crate::session::seed::Source;
use seed::Holder;
use sev_guest::{Kernel, SevGuest};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tsm::Tsm;
use zeroize::Zeroizing;

/// The kernel's own manager of the TPM's slots stands behind this one.
const TPM: &str = "/dev/tpmrm0";
/// What the firmware measured, in order.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Who made the machine (SMBIOS type 1).
pub(super) const VENDOR: &str = "/sys/class/dmi/id/sys_vendor";
/// The registers that a quote covers: boot program, Secure Boot, what kernel and stub loaded, and what was added to them.
pub const PCRS: [u8; 6] = [4, 7, 9, 11, 12, 13];

/// The way to an SEV-SNP processor.
enum Snp {
    /// The kernel's common interface.
    Tsm(Tsm),
    /// That of the processor's own driver, where there is no other.
    Device(PathBuf),
}

impl Snp {
    fn find() -> Option<Snp> {
        let device = || Path::new(sev_guest::DEVICE).exists().then(|| Snp::Device(sev_guest::DEVICE.into()));
        Tsm::find(Path::new(tsm::REPORTS)).map(Snp::Tsm).or_else(device)
    }

    fn report(&self, data: &[u8; 64]) -> Result<SnpEvidence> {
        match self {
            Snp::Tsm(tsm) => tsm.report(data),
            Snp::Device(path) => SevGuest(Kernel::open(path)?).report(data),
        }
    }
}

/// The hardware of this machine.
pub(super) struct Machine {
    snp: Option<Snp>,
    tpm: Option<PathBuf>,
    event_log: PathBuf,
}

impl Machine {
    /// What there is; none if nothing can sign.
    pub(super) fn find() -> Option<Machine> {
        let tpm = Path::new(TPM).exists().then(|| PathBuf::from(TPM));
        let machine = Machine { snp: Snp::find(), tpm, event_log: EVENT_LOG.into() };
        (machine.snp.is_some() || machine.tpm.is_some()).then_some(machine)
    }

    /// What its evidence will rest on, as verdicts name it.
    pub(super) fn kind(&self) -> &'static str {
        match (&self.snp, &self.tpm) {
            (Some(_), Some(_)) => "snp+tpm",
            (Some(_), None) => "snp",
            (None, Some(_)) => "tpm",
            (None, None) => "none",
        }
    }

    fn open(&self) -> Result<Device<File>> {
        let none = || Error::new(Code::Precondition, "this machine has no TPM").hint("deploy it with --tpm");
        let path = self.tpm.as_ref().ok_or_else(none)?;
        let file = File::options().read(true).write(true).open(path).doing("open", path.display())?;
        Ok(Device::new(file))
    }

    fn snp(&self, subject: &Subject) -> Result<Option<SnpEvidence>> {
        self.snp.as_ref().map(|snp| snp.report(&subject.report_data())).transpose()
    }
}

/// A quote about a subject, with what it takes to judge it.
pub fn quote<T: Read + Write>(device: &Device<T>, subject: &Subject, event_log: Vec<u8>) -> Result<TpmEvidence, device::Error> {
    let ek = device.create_ek()?;
    let kind = if matches!(ek.public().key(), Key::Rsa { .. }) { EkKind::Rsa2048 } else { EkKind::EccP256 };
    let ek_certificate = device.read_ek_certificate(kind)?;
    let (ak, ak_certificate) = match device.read_gce_ak()? {
        Some(google) => (google.key, Some(google.certificate)),
        None => (device.create_ak(Hierarchy::Endorsement)?, None),
    };
    let pcrs = device.pcr_read(&PCRS)?;
    let quote = device.quote(&ak, &subject.qualifying_data(), &PCRS)?;
    Ok(TpmEvidence {
        attest: quote.attest,
        signature: quote.signature,
        ak_public: ak.public().as_bytes().to_vec(),
        ek_public: ek.public().as_bytes().to_vec(),
        ek_certificate,
        ak_certificate,
        event_log,
        pcrs,
    })
}

/// The secret in a challenge to the TPM, for the key that [`quote`] signs with.
pub fn activate<T: Read + Write>(device: &Device<T>, activation: &Activation) -> Result<Zeroizing<Vec<u8>>, device::Error> {
    let ek = device.create_ek()?;
    let ak = device.create_ak(Hierarchy::Endorsement)?;
    device.activate_credential(&ak, &ek, &activation.credential_blob, &activation.encrypted_secret)
}

impl Machine {
    /// The seed that this machine's hardware keeps or makes for its holder; none if the owner brings it.
    pub(super) fn seed(&self, source: Source, holder: &Holder<'_>, covering: &[[u8; 48]]) -> Result<Option<Seed>> {
        let secret = match source {
            Source::Local | Source::Owner => return Ok(None),
            Source::Sealed => seed::sealed(&self.open()?)?,
            Source::Measured => {
                let vendor = std::fs::read_to_string(VENDOR).unwrap_or_default();
                seed::may_be_measured(vendor.trim(), covering)?;
                seed::measured(&mut SevGuest(Kernel::open(Path::new(sev_guest::DEVICE)).map_err(|error| no_processor(&error))?), covering)?
            }
        };
        Ok(Some(holder.seed(source, &secret)))
    }
}

impl Hardware for Machine {
    fn collect(&mut self, subject: &Subject) -> Result<Collected> {
        let snp = self.snp(subject)?;
        let tpm = self.tpm.as_ref().map(|_| quote(&self.open()?, subject, fs::read(&self.event_log, MAX_EVENT_LOG)?).map_err(failed));
        match (snp, tpm) {
            // What one of them says counts without the other; it proves less.
            (Some(snp), Some(Err(_))) => Ok(Collected { snp: Some(snp), tpm: None }),
            (snp, tpm) => Ok(Collected { snp, tpm: tpm.transpose()? }),
        }
    }

    fn activate(&mut self, activation: &Activation) -> Result<Zeroizing<Vec<u8>>> {
        activate(&self.open()?, activation).map_err(failed)
    }
}

/// What the processor's firmware answers, for fuzzing.
pub(crate) fn read_firmware_answers(bytes: &[u8]) {
    sev_guest::messages::read_any(bytes);
}

/// A derived key comes by that device alone.
fn no_processor(error: &Error) -> Error {
    Error::new(Code::Precondition, "this machine has no SEV-SNP processor that derives keys")
        .because(error.message())
        .hint("deploy it with --seed owner or --seed sealed")
}

fn failed(error: device::Error) -> Error {
    Error::new(Code::Failed, "the TPM did not do what it was asked").cause(error).hint("restart the machine")
}

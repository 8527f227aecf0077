//! The launch digest (MEASUREMENT) of an AMD SEV-SNP guest, worked out from its firmware before there is a guest.
//!
//! The processor hashes what the hypervisor loads: the firmware, the pages that the firmware's metadata asks for, and one page
//! of registers for each virtual CPU. The same is done here with bytes alone: no files, no clock, no processor.
//!
//! The hypervisors differ in details ([`Vmm`]). PyPI's `sev-snp-measure` 0.0.13 is the reference for all three, and
//! `compare.py` beside the tests compares with it. What else speaks for the details:
//!
//! * QEMU: its target/i386/sev.c and KVM's `snp_launch_update_vmsa`.
//! * EC2: no source of Amazon's own. The values came to `sev-snp-measure` from people at Amazon; RDX is 0x600 since 2026, and
//!   0 before, as the `sev` crate 8.0.0 still has it. CPUID pages come after all other sections.
//! * GCE: google/gce-tcb-verifier, Google's own tool, whose tests hold the first virtual CPU's page and a digest for four of
//!   them; the tests here repeat both. Sections of memory are loaded as unmeasured pages.
//!
//! Under EC2 and GCE the digest covers the provider's firmware and nothing that the guest boots.

mod cpu;
mod error;
mod gctx;
mod hashes;
mod ovmf;
mod vmsa;

#[cfg(test)]
pub(crate) mod tests;

pub use cpu::Cpu;
pub use error::Error;
pub use gctx::Digest;
pub use hashes::Kernel;
pub use ovmf::Firmware;

use gctx::{Gctx, PageType, sha384};
use ovmf::{Kind, Section};
use std::fmt;
use std::iter;
use std::str::FromStr;

/// The most virtual CPUs of a guest; GCE signs digests for up to 240 (gce-tcb-verifier).
pub const MAX_VCPUS: u32 = 512;

/// The guest features (SEV_FEATURES, AMD64 APM volume 2, table B-4) of a plain SNP guest: SNPActive alone.
pub const SNP_ACTIVE: u64 = 1;

/// The address under which register pages are measured: KVM's `INITIAL_VMSA_GPA`, the last page of 48 bits.
///
/// gce-tcb-verifier has the same for Milan but 52 bits for Genoa; sev-snp-measure knows this address alone, and so does this.
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;

/// The hypervisor, as far as it shows in the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU with KVM, on a machine of one's own.
    Qemu,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
}

impl Vmm {
    /// Every hypervisor, for help and completions.
    pub const ALL: [Vmm; 3] = [Vmm::Qemu, Vmm::Ec2, Vmm::Gce];

    /// The name on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Vmm::Qemu => "qemu",
            Vmm::Ec2 => "ec2",
            Vmm::Gce => "gce",
        }
    }
}

impl FromStr for Vmm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|vmm| vmm.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| Error::UnknownVmm(text.to_owned()))
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What besides the firmware decides the registers of a new guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The hypervisor.
    pub vmm: Vmm,
    /// The guest's CPU model. QEMU's guests must have one; elsewhere it does not show in the digest.
    pub cpu: Option<Cpu>,
    /// The guest features: [`SNP_ACTIVE`], or more where the host switches more on, such as DebugSwap (0x21 in all).
    pub guest_features: u64,
}

/// A launch worked out up to its virtual CPUs, so that digests for many numbers of them cost little.
#[derive(Clone, Debug)]
pub struct Launch {
    /// After the firmware and its sections.
    loaded: Digest,
    /// Of the first virtual CPU's page.
    first: Digest,
    /// Of every further one's, if the firmware can start more than one.
    further: Option<Digest>,
}

impl Launch {
    /// Works out a launch from the firmware's own digest, which is [`Firmware::digest`] or one worked out before, perhaps of
    /// another build whose table and metadata are the same. `kernel` is for QEMU with `kernel-hashes=on`.
    pub fn new(firmware: &Firmware<'_>, digest: Digest, shape: &Shape, kernel: Option<&Kernel>) -> Result<Self, Error> {
        let page = |start| vmsa::page(shape, start).map(|page| sha384(&page));
        Ok(Launch {
            loaded: load_sections(firmware, digest, shape.vmm, kernel)?,
            first: page(vmsa::RESET)?,
            further: firmware.reset_vector.map(page).transpose()?,
        })
    }

    /// The digests for 1, 2, 3 and more virtual CPUs, up to [`MAX_VCPUS`] or to what the firmware can start.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let further = self.further.into_iter().flat_map(|page| iter::repeat_n(page, MAX_VCPUS as usize - 1));
        iter::once(self.first).chain(further).scan(Gctx(self.loaded), |gctx, page| {
            gctx.add(PageType::Vmsa, VMSA_ADDRESS, &page);
            Some(gctx.0)
        })
    }

    /// The digest for a number of virtual CPUs.
    pub fn digest(&self, vcpus: u32) -> Result<Digest, Error> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(Error::Vcpus(vcpus));
        }
        self.digests().nth(vcpus as usize - 1).ok_or(Error::NoResetVector)
    }
}

/// Adds the pages that the firmware's metadata asks for, in its order.
fn load_sections(firmware: &Firmware<'_>, digest: Digest, vmm: Vmm, kernel: Option<&Kernel>) -> Result<Digest, Error> {
    let hashes = kernel.map(|kernel| firmware.hashes_offset().map(|offset| sha384(&kernel.page(offset)))).transpose()?;
    let is_late = |section: &&Section| vmm == Vmm::Ec2 && section.kind == Kind::Cpuid;
    let (late, early): (Vec<_>, Vec<_>) = firmware.sections.iter().partition(is_late);
    let mut gctx = Gctx(digest);
    for section in early.into_iter().chain(late) {
        match (section.kind, &hashes) {
            (Kind::KernelHashes, Some(hashes)) => gctx.add(PageType::Normal, section.address, hashes),
            (kind, _) => gctx.add_blank(page_type(kind, vmm), section.address, section.pages),
        }
    }
    Ok(gctx.0)
}

fn page_type(kind: Kind, vmm: Vmm) -> PageType {
    match kind {
        Kind::Memory if vmm == Vmm::Gce => PageType::Unmeasured,
        Kind::Memory | Kind::SvsmCaa | Kind::KernelHashes => PageType::Zero,
        Kind::Secrets => PageType::Secrets,
        Kind::Cpuid => PageType::Cpuid,
    }
}

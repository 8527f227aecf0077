//! Why there is no launch digest, in words for the person who chose the firmware.

use super::ovmf::{MAX_FIRMWARE, MAX_PAGES};
use super::{MAX_VCPUS, Vmm};

/// Why a launch digest cannot be worked out, with the value in question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No hypervisor of that name.
    #[error("`{0}` is no hypervisor that this program knows: {all}", all = Vmm::ALL.map(Vmm::as_str).join(", "))]
    UnknownVmm(String),
    /// No CPU of that name, and not of the form for other CPUs either.
    #[error("`{0}` is no CPU that this program knows: give a QEMU model such as EPYC-Milan, or family/model/stepping such as 25/1/1")]
    UnknownCpu(String),
    /// A QEMU guest without its CPU model.
    #[error("a digest under QEMU depends on the CPU model, and none is given")]
    NoCpu,
    /// A number of virtual CPUs out of bounds.
    #[error("{0} virtual CPUs are not possible: 1 to {MAX_VCPUS}")]
    Vcpus(u32),
    /// A firmware of that many bytes, more than any real one.
    #[error("the firmware has {0} bytes, more than the {max} MiB that this program reads", max = MAX_FIRMWARE >> 20)]
    TooLarge(usize),
    /// A firmware of that many bytes, which are no whole pages.
    #[error("the firmware has {0} bytes, and a firmware is one or more whole pages of 4096: is it complete?")]
    NotPages(usize),
    /// No table where OVMF has one.
    #[error("there is no OVMF table at the end of the firmware: it is another file, cut short, or a store of variables (OVMF_VARS)")]
    NoTable,
    /// An entry of the table that claims an impossible number of bytes.
    #[error("the OVMF table at the end of the firmware is damaged: an entry claims {0} bytes")]
    BadTable(u16),
    /// Built without SEV-SNP.
    #[error("the firmware has no SEV-SNP metadata: this build cannot start an SEV-SNP guest")]
    NoMetadata,
    /// A field of the metadata that cannot be right.
    #[error("the firmware's SEV-SNP metadata is damaged: {field} is {value:#x}")]
    BadMetadata {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// Metadata of that version.
    #[error("the firmware's SEV-SNP metadata has version {0}, and this program knows version 1 only")]
    UnknownVersion(u32),
    /// A section of that type, in metadata of a known version.
    #[error("the firmware's SEV-SNP metadata asks for a section of type {0}, which this program does not know")]
    UnknownSection(u32),
    /// A section that is no whole pages, or several pages where there can be only one.
    #[error("the firmware's SEV-SNP metadata has a section of {size:#x} bytes at {address:#x}, which cannot be measured in pages")]
    BadSection {
        /// Guest physical address.
        address: u32,
        /// In bytes.
        size: u32,
    },
    /// Sections that together would take too long to measure.
    #[error("the firmware's SEV-SNP metadata asks for more than {MAX_PAGES} pages")]
    TooManyPages,
    /// A kernel given, but a firmware that cannot check one.
    #[error("the firmware has no page for kernel hashes: it would start this kernel, or any other, unmeasured")]
    NoKernelHashes,
    /// Room for kernel hashes that they do not fit in.
    #[error("the firmware's table of kernel hashes, {size:#x} bytes at {address:#x}, does not fit in its page")]
    BadKernelHashes {
        /// Guest physical address.
        address: u32,
        /// In bytes.
        size: u32,
    },
    /// A firmware that cannot start a second virtual CPU.
    #[error("the firmware has no reset vector for further virtual CPUs, so there can be only 1")]
    NoResetVector,
}

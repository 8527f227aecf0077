//! Verifies attestation reports of AMD SEV-SNP: from the bytes of a report and of certificates to what AMD's key vouches for.
//!
//! The order of use: [`Certificates`] reads what came with a report, [`Chain::verify`] leads it to a root (expensive, and
//! worth keeping), [`Chain::check`] judges one report and yields [`Genuine`]. Nothing here judges what a genuine report
//! says, such as debugging or old firmware: that is for a policy.
//!
//! Sources: AMD 56860 "SEV Secure Nested Paging Firmware ABI Specification" (revision 1.58) for reports, AMD 57230
//! "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" for certificates, AMD 56421
//! "SEV-ES Guest-Hypervisor Communication Block Standardization" for the certificate table.

mod leaf;
mod product;
mod report;
mod roots;
#[cfg(test)]
pub(crate) mod synthetic;
mod tables;
mod tcb;
#[cfg(test)]
mod tests;
mod verify;

pub use product::{Endorsement, Product};
pub use report::{Cpuid, FirmwareVersion, KeyInfo, PlatformInfo, Policy, REPORT_BYTES, Report, SIGNED_BYTES, SigningKey};
pub use roots::{Root, Roots};
pub use tables::{Certificates, MAX_CERTIFICATES_BYTES};
pub use tcb::{TcbParts, TcbVersion};
pub use verify::{Chain, Genuine};

use crate::attest::{Fault, Reason};
use crate::encoding::hex;

fn malformed(sentence: impl Into<String>) -> Fault {
    Fault::new(Reason::Malformed, sentence)
}

fn mismatch(sentence: impl Into<String>) -> Fault {
    Fault::new(Reason::CertificateMismatch, sentence)
}

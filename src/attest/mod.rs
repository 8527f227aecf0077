//! Evidence of what a machine runs: predicted before it starts, judged when it is shown.
//!
//! Pure: bytes in, verdict out. No clock, no network, no files.

pub mod eventlog;
pub mod evidence;
mod fault;
pub mod judge;
pub mod launch;
pub mod policy;
pub mod snp;
pub mod tpm;
mod verdict;
pub mod x509;
#[cfg(test)]
mod zoo;

pub use evidence::{Evidence, SnpEvidence, TpmEvidence};
pub use fault::{Fault, Reason};
pub use policy::Policy;
pub use verdict::{Finding, Outcome, Rung, Verdict};

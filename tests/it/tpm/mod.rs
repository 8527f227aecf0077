//! The TPM's half and the verifier's half against a real software TPM.

pub(crate) mod certificates;
pub(crate) mod common;
mod parsers;
mod swtpm;

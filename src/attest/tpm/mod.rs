//! TPM 2.0: what a TPM signs, what a verifier believes, and how a node asks its TPM.
//!
//! "Part 1", "Part 2" and "Part 3" in this module are those of the TPM 2.0 Library specification of the TCG, version 1.59.

pub mod credential;
mod der;
pub mod device;
pub mod hash;
pub mod public;
pub mod quote;
mod selection;
mod signature;
pub mod wire;

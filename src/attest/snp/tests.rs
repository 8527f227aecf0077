//! What the verification of SEV-SNP reports promises.

mod fields;
mod forgotten;
mod random;
mod revocation;
mod sample;
mod table;
mod timing;

use super::{Certificates, Chain, Genuine, Roots};
use crate::attest::{Fault, Reason};

/// From the bytes of files to a verdict, without a time.
fn verify(files: &[&[u8]], roots: &Roots, report: &[u8]) -> Result<Genuine, Fault> {
    let certificates = Certificates::from_files(files.iter().copied())?;
    Chain::verify(&certificates, roots, None, None)?.check(report)
}

#[track_caller]
fn assert_fault<T: std::fmt::Debug>(result: Result<T, Fault>, reason: Reason, words: &str) {
    let fault = result.expect_err("a fault was wanted");
    assert_eq!(fault.reason, reason, "{fault}");
    assert!(fault.sentence.contains(words), "{:?} lacks {words:?}", fault.sentence);
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

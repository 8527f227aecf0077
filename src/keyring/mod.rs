//! The operator's secrets: two seeds, the keys derived from them, and signatures made and checked with a type.
//!
//! Every key comes from a seed and a named purpose, so that what must be backed up is small and no key serves two jobs.

mod seed;
mod signature;

pub use seed::{Purpose, Seed, x25519_public};
pub use signature::{sign, verify};

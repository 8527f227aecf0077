//! portdistrict: exit nodes that can prove what they run, lent to friends with one line of text.
//!
//! The library is where the work is; the binary parses, calls and prints. `docs/architecture.md` draws the floors.

pub mod attest;
pub mod cli;
pub mod config;
pub mod context;
pub mod encoding;
pub mod error;
pub mod exit;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod image;
pub mod keyring;
pub mod ledger;
pub mod machine;
pub mod node;
pub mod owner;
pub mod policy;
pub mod progress;
pub mod proof;
pub mod resolve;
pub mod session;
pub mod token;
pub mod tor;
pub mod trust;

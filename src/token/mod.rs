//! The signed things that travel between people: identity, invite, grant, revocation, and the text they travel as.
//!
//! A signature is checked over the bytes that were received, which every signed type keeps beside what it read
//! from them. `docs/protocol.md`, "Tokens and blobs", says all of it for another implementation.

pub mod base45;
pub mod blob;
mod chain;
mod device;
mod grant;
mod identity;
mod invite;
mod lease;
mod revocation;
mod rotation;
mod rules;
mod scope;
mod secret;
mod signed;
#[cfg(test)]
mod tests;
mod window;

pub use chain::{CAVEAT_LIMIT, Caveat, Chain, Terms, child_id, child_secret};
pub use device::{Answer, Code, SecretIdentity, SignedAnswer, Welcome};
pub use grant::{GRANT_LIMIT, Grant, Limits, MAX_DEPTH, Mode, Role, SignedGrant, reserved};
pub use identity::{Identity, MAX_ROTATIONS, SignedIdentity};
pub use invite::{DELEGATED_BLOB_LIMIT, DIRECT_BLOB_LIMIT, Invite, Onion, TOR_BLOB_LIMIT, Transport};
pub use lease::{Lease, SignedLease};
pub use revocation::{Revocation, SignedRevocation, Target};
pub use rotation::{Rotation, SignedRotation, leads};
pub use rules::{RULES_LIMIT, Rule, Rules, SignedRules};
pub use scope::{MAX_DEVICES, MAX_RULE, MAX_RULES, Scope, Way};
pub use secret::Secret16;
pub use window::Window;

/// The last second of the year 9999: nothing later can be shown as a date, so nothing later is accepted.
pub(crate) const LATEST: u64 = 253_402_300_799;

//! The owner's policy: one document that says what may be deployed, claimed, lent and reached, and who may change it.
//!
//! Pure: a policy and an act in, a decision out that names the rule which made it. Enforcing is for those who act.

mod decide;
mod diff;
mod document;
#[cfg(test)]
mod reference;

pub use decide::{Act, Decision, Lend, decide};
pub use diff::{Change, diff};
pub use document::{Claim, Deploy, Invite, MAX_POLICY, Policy, Reach};

//! The owner's policy: one document that says what may be deployed, claimed, lent and reached, and who may change it.
//!
//! Deciding is pure: a policy and an act in, a decision out that names the rule which made it. `record` is what stands between that
//! and the ledger: which policy holds, and a refusal that is written down.

mod decide;
mod diff;
mod document;
mod explain;
mod record;
#[cfg(test)]
mod reference;
mod rules;
mod why;

pub use decide::{Act, Decision, Lend, decide};
pub use diff::{Change, diff};
pub use document::{CAPABILITIES, Claim, Deploy, Enable, Invite, MAX_POLICY, Policy, Reach};
pub use explain::explain;
pub use record::{Asked, Current, current, guard, set, today};
pub use rules::{is_about, rules_for, unheard};
pub use why::Answer;

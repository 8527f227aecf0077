//! Who may do what, decided from a request and known facts alone, without a clock, a disk or a network.

mod authorize;
mod reach;
mod refusal;
mod rule;
#[cfg(test)]
mod tests;

pub use authorize::{Admission, Decision, Facts, Level, Request, authorize, lease_end, standing};
pub use reach::{ByName, Reach};
pub use refusal::{Refusal, UnknownRefusal};
pub use rule::{MAX_RULES, Rule};

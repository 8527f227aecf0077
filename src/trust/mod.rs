//! Who may do what, decided from a request and known facts alone, without a clock, a disk or a network.

mod authorize;
mod refusal;
#[cfg(test)]
mod tests;

pub use authorize::{Admission, Decision, Facts, Request, authorize};
pub use refusal::{Refusal, UnknownRefusal};

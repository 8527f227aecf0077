//! Who may do what, decided from a request and known facts alone, without a clock, a disk or a network.

mod authorize;
mod destination;
mod refusal;
#[cfg(test)]
mod tests;

pub use authorize::{Admission, Decision, Facts, Request, authorize};
pub use destination::{Destination, Pattern, Ports, check_glob, glob};
pub use refusal::{Refusal, UnknownRefusal};

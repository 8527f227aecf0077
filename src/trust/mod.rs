//! Who may do what, decided from a request and known facts alone, without a clock, a disk or a network.

mod refusal;

pub use refusal::{Refusal, UnknownRefusal};

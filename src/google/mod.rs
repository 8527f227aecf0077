//! Google's clouds: credentials, requests, refusals in words of what to do. Who asks decides what for.

mod answers;
mod api;
pub mod auth;
pub mod compute;
pub mod crc32c;
pub mod images;
pub mod operations;
pub mod refusal;
pub mod storage;
pub mod upload;

use api::UNAUTHORIZED;
pub use api::{Api, Failure, compute_base};

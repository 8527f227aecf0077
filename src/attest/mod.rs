//! Evidence of what a machine runs: what it will be, computed before it starts.
//!
//! Pure: bytes in, verdict out. No clock, no network, no files.

pub mod launch;

//! Google's clouds: credentials, requests, refusals in words of what to do. Who asks decides what for.

pub mod auth;

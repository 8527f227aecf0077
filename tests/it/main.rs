//! Command tests: one binary, so that everything is linked once. Each test has a home of its own and an empty environment.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod attest;
mod ci;
mod cli;
mod devices;
mod examples;
mod gce;
mod generated;
mod grants;
mod guard;
mod hetzner;
mod home;
mod identity;
mod ledger;
mod luck;
mod machine;
mod ndpi;
mod net;
mod peers;
mod policy;
mod publish;
mod readme;
mod record;
mod ssh;
mod story;
mod switches;
mod tor;
mod tornet;
mod tpm;
mod vm;
mod watch;
mod web;

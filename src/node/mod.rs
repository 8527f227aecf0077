//! What runs on an exit machine: one port, the owner's claim, the guests' grants, and where they may go.
//!
//! A node never prompts, never reads the operator's home and needs nothing from the machine but a state folder.

pub mod config;
pub mod egress;
pub mod gate;
pub mod log;
pub mod meter;
pub mod ready;
pub mod state;

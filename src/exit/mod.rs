//! The friend's side of an exit, and the making of invites.
//!
//! `way` knows how to reach a node, `tunnel` keeps a session to it, `proxy` offers it to local programs; `invite`,
//! `accept`, `try_`, `connect`, `grants` and `pass_on` are the acts that people know.

pub mod accept;
mod browser;
pub mod connect;
pub mod grants;
pub mod guard;
pub mod health;
pub mod invite;
mod known;
pub mod pass_on;
pub mod proxy;
pub mod try_;
pub mod tunnel;
pub mod way;

#[cfg(test)]
mod testing;

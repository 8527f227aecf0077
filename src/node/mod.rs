//! What runs on an exit machine: one port, the owner's claim, the guests' grants, and where they may go.
//!
//! A node never prompts, never reads the operator's home and needs nothing from the machine but a state folder.

#[cfg(test)]
mod chip_tests;
mod claim;
mod clock;
pub mod config;
mod control;
mod core;
pub mod egress;
pub mod evidence;
pub mod gate;
mod guest;
pub mod hardware;
pub mod history;
pub mod init;
pub mod log;
pub mod meter;
mod onion;
#[cfg(test)]
mod process_tests;
mod rules;
mod serve;
mod slots;
pub mod state;
#[cfg(test)]
mod tests;

pub use config::{Bounds, Config, write_cover_file};
pub use evidence::Witness;
pub use log::Log;
pub use serve::Node;

use crate::error::{Doing, Result};
use crate::owner::ready::{self, Ready};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a node until it is told to end by a signal or by its owner; `on_ready` is called once friends can come
/// by every way that it offers, and again if it has begun anew, or if a machine with a seed of its own has its owner.
pub fn run(config: &Path, on_ready: impl FnMut(&Ready)) -> Result<()> {
    let config = Config::read(config)?;
    let log = Log::to(std::io::stderr(), config.log_destinations);
    run_with(&config, &log, &Witness::none(), on_ready)
}

/// The same, configured already.
fn run_with(config: &Config, log: &Log, witness: &Arc<Witness>, mut on_ready: impl FnMut(&Ready)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start", "the node's runtime")?;
    let _context = runtime.enter();
    // Before the port opens: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate()).doing("watch", "SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).doing("watch", "SIGINT")?;
    let _survive_the_terminal = signal(SignalKind::hangup()).doing("watch", "SIGHUP")?;
    let manager = std::env::var_os("NOTIFY_SOCKET");
    let tell = |state| {
        if let Err(error) = ready::notify(manager.as_deref(), state) {
            log.event("notify.failed").with("error", error.to_string()).write();
        }
    };
    loop {
        let node = Node::start_on(config.clone(), log.clone(), witness.clone())?;
        let announce = async {
            node.reachable().await;
            let ready = node.ready();
            let line = log.event("ready").with("listen", ready.listen.to_string()).with("node", ready.node.as_str());
            line.with("claimed", ready.claimed).write();
            on_ready(&ready);
            tell("READY=1");
            if config.seed_of.is_some() && !ready.claimed {
                // It has its key already, so it does not begin anew with its owner.
                node.claimed().await;
                on_ready(&node.ready());
            }
            std::future::pending::<()>().await;
        };
        let by_itself = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => false,
                _ = interrupt.recv() => false,
                () = node.ended() => true,
                () = announce => false,
            }
        });
        if !(by_itself && node.starts_over()) {
            tell("STOPPING=1");
            node.stop();
            return Ok(());
        }
        node.stop();
    }
}

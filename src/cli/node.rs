//! `node run`: what machines run. Never prompts and never looks at the operator's home.

use super::Call;
use crate::error::{Code, Error, Result};
use crate::node;
use clap::{Subcommand, ValueHint};
use std::io::Read;
use std::path::PathBuf;

/// What exit machines run
#[derive(Subcommand)]
pub(super) enum NodeCommand {
    Run(RunArgs),
}

/// Run a node until SIGTERM
///
/// Prints PORTDISTRICT_READY=ADDRESS on stdout once friends can come by every way that it offers, and its log as JSON lines on
/// stderr. As an onion service it is ready when a connection through the network has reached it.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  As `machine deploy` and systemd units do:\n    portdistrict node run --config node.toml")]
pub(super) struct RunArgs {
    /// Configuration of the node
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: PathBuf,
    /// Leave the terminal's session, then wait for a byte on standard input; its end instead ends the node
    #[arg(long, hide = true)]
    detach: bool,
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &NodeCommand) -> Result<()> {
    let NodeCommand::Run(args) = command;
    if args.detach {
        rustix::process::setsid()
            .map_err(|e| Error::new(Code::Failed, "cannot leave the terminal's session").cause(e).hint("start it without --detach"))?;
        // Whoever starts it writes down which process it is first. If that is cut short, nobody would ever find this one.
        if std::io::stdin().read_exact(&mut [0]).is_err() {
            return Ok(());
        }
    }
    node::run(&args.config, |ready| {
        // Nobody may be listening any more; the node serves all the same.
        let _ = call.out.raw(ready.lines().as_bytes());
    })
}

//! `node run` and `node status`: what machines run. Never prompts and never looks at the operator's home.

use super::Call;
use super::output::{Look, View, fields};
use crate::error::{Code, Error, Result};
use crate::node;
use crate::owner::ready::{self, Ready};
use clap::{Subcommand, ValueHint};
use std::io::Read;
use std::path::PathBuf;

/// What exit machines run
#[derive(Subcommand)]
pub(super) enum NodeCommand {
    Run(RunArgs),
    Status(StatusArgs),
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

/// Ask a node on this computer how it is
///
/// It answers on a socket in its state folder, to whoever may enter that.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Of a local machine:\n    portdistrict node status --state-dir home/state/machines/home/node")]
pub(super) struct StatusArgs {
    /// The node's state folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    state_dir: PathBuf,
}

impl View for Ready {
    fn text(&self, look: &Look) -> String {
        let onion = self.onion.as_ref().map(|onion| format!("{} ({})", onion.address, onion.stage()));
        let mut rows = vec![
            ("node", look.bold(&self.label)),
            ("listens", self.listen.to_string()),
            ("key", self.node.clone()),
            ("version", self.version.clone()),
            ("claimed", if self.claimed { "yes" } else { "no" }.to_owned()),
            ("sessions", self.sessions.to_string()),
        ];
        rows.extend(onion.map(|onion| ("onion", onion)));
        fields(&rows)
    }
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &NodeCommand) -> Result<()> {
    let args = match command {
        NodeCommand::Run(args) => args,
        NodeCommand::Status(args) => return call.out.show(&ready::ask(&args.state_dir)?),
    };
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

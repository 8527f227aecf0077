//! `machine upgrade`: another program for a machine on a server.

use super::Call;
use super::complete;
use super::machine::Steps;
use super::output::{Look, View, fields};
use crate::config::Label;
use crate::config::time::parse_duration;
use crate::error::Result;
use crate::machine::server;
use clap::ValueHint;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Give a machine on a server this version of the program
///
/// It keeps its key, its owner and its guests' grants; sessions end and come back by themselves. If its node does not get ready, it
/// runs the old program again, with its memory as it was.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See first what would be done:\n    portdistrict machine upgrade berlin --dry-run\n  \
                             This very program:\n    portdistrict machine upgrade berlin\n  \
                             Another build, with little time to get ready:\n    \
                             portdistrict machine upgrade berlin --program ./portdistrict --within 20s")]
pub(super) struct UpgradeArgs {
    /// Machine to upgrade
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
    /// Another build of this program, for another processor
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    program: Option<PathBuf>,
    /// How long it may take until its node is ready; a minute unless given, and more with Tor
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, value_hint = ValueHint::Other)]
    within: Option<Duration>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs it.
pub(super) fn run(call: &Call, args: &UpgradeArgs) -> Result<()> {
    let cx = call.context()?;
    let (label, program) = (&args.label, args.program.as_deref());
    if args.dry_run {
        return call.out.show(&Steps { would: server::describe_upgrade(&cx, label, program)? });
    }
    let progress = call.out.progress();
    let done = call.block_on(server::upgrade(&cx, label, program, args.within, &*progress))?;
    call.out.show(&Upgraded { label: label.clone(), before: done.before, now: done.now })
}

/// A machine with another program.
#[derive(Serialize)]
struct Upgraded {
    label: Label,
    /// The first digits of the programs' SHA-256.
    before: String,
    now: String,
}

impl View for Upgraded {
    fn text(&self, look: &Look) -> String {
        fields(&[("machine", look.bold(&self.label)), ("program", self.now.clone()), ("before", self.before.clone())])
    }
}

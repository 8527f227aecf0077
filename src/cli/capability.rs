//! `machine enable` and `machine disable`: what a machine can do, off and on again.

use super::Call;
use super::complete;
use super::machine::Steps;
use super::output::{Look, View};
use crate::config::Label;
use crate::error::{Code, Error, Result};
use crate::machine::capability::{self, Capability};
use clap::builder::PossibleValuesParser;
use serde::Serialize;

fn capabilities() -> PossibleValuesParser {
    PossibleValuesParser::new(Capability::ALL.map(Capability::as_str))
}

/// Switch on again what was switched off on a machine
///
/// A machine that cannot be reached now hears of it at your next visit, for example with `machine reconnect`.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Let friends in again:\n    portdistrict machine enable home exit")]
pub(super) struct EnableArgs {
    #[command(flatten)]
    what: What,
}

/// Switch off what a machine can do, until you switch it on again
///
/// `exit`: it takes no guests, and those who are inside are out at once; their invites stay good. `tor`: it is no onion service. You still
/// reach it, and it stays off over restarts. A machine that cannot be reached now hears of it at your next visit.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See first what it would do:\n    portdistrict machine disable home exit --dry-run\n  \
                             Send everybody away for now:\n    portdistrict machine disable home exit\n  \
                             Be reached directly only:\n    portdistrict machine disable tower tor")]
pub(super) struct DisableArgs {
    #[command(flatten)]
    what: What,
}

#[derive(clap::Args)]
struct What {
    /// Machine to switch
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
    /// What to switch
    #[arg(value_name = "CAPABILITY", value_parser = capabilities())]
    capability: String,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What became of it.
#[derive(Serialize)]
struct Switched {
    label: Label,
    capability: &'static str,
    enabled: bool,
    /// It was so before.
    already: bool,
    /// Whether the node knows.
    heard: bool,
    /// Sessions that the node ended; absent if it has not heard.
    ended: Option<u64>,
    /// Why it has not heard.
    problem: Option<String>,
}

impl View for Switched {
    fn text(&self, _: &Look) -> String {
        let state = match (self.enabled, self.already) {
            (true, false) => "on",
            (true, true) => "on, as before",
            (false, false) => "off",
            (false, true) => "off, as before",
        };
        let ended = match self.ended {
            None | Some(0) => String::new(),
            Some(1) => "; one session was ended".to_owned(),
            Some(n) => format!("; {n} sessions were ended"),
        };
        format!("`{}` of {} is {state}{ended}.\n", self.capability, self.label)
    }
}

/// Runs `machine enable`.
pub(super) fn enable(call: &Call, args: &EnableArgs) -> Result<()> {
    switch(call, &args.what, true)
}

/// Runs `machine disable`.
pub(super) fn disable(call: &Call, args: &DisableArgs) -> Result<()> {
    switch(call, &args.what, false)
}

fn switch(call: &Call, what: &What, on: bool) -> Result<()> {
    let cx = call.context()?;
    let capability: Capability = what.capability.parse()?;
    if what.dry_run {
        return call.out.show(&Steps { would: capability::describe(&cx, &what.label, capability, on)? });
    }
    let outcome = call.block_on(capability::switch(&cx, &what.label, capability, on))?;
    if let Err(error) = &outcome.heard {
        let hint = error.hint_text().unwrap_or("portdistrict status");
        call.out.warn(match error.code() {
            Code::Exists => format!("{}: {hint}", error.message()),
            _ => format!("{}; it is recorded, and the machine is told at your next visit: {hint}", error.message()),
        });
    }
    call.out.show(&Switched {
        label: outcome.machine.label,
        capability: capability.as_str(),
        enabled: on,
        already: outcome.already,
        heard: outcome.heard.is_ok(),
        ended: outcome.heard.as_ref().ok().copied(),
        problem: outcome.heard.as_ref().err().map(|error: &Error| error.message().to_owned()),
    })
}

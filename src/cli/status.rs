//! `status`: one screen that tells a person what there is and what needs attention, with the command to run.

use super::Call;
use super::identity::Who;
use super::output::{Look, View, count, table, when};
use super::sight::Sight;
use super::{page, watch};
use crate::config::{Label, time};
use crate::context::Context;
use crate::encoding::short;
use crate::error::Result;
use crate::ledger::{Exit, GrantRow};
use crate::machine;
use clap::ValueHint;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Grants and exits that end sooner than this are worth a word.
const SOON: u64 = 2 * 60 * 60;

/// Show what you have, who uses it, and what needs attention
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Everything on one screen:\n    portdistrict status\n  For a program:\n    portdistrict status --json\n  \
                       Live, until q or Ctrl-C:\n    portdistrict status --watch\n  Live, for a program, every five seconds:\n    \
                       portdistrict status --watch --every 5s --json\n  The last 30 days, to look at in a browser:\n    \
                       portdistrict status --html status.html --yes"
)]
pub(super) struct StatusArgs {
    /// Show it live until q or Ctrl-C; without a terminal, one JSON document a line
    #[arg(long, conflicts_with = "html")]
    watch: bool,
    /// How often machines are asked, from 1s to 1h; 2s if it is not given
    #[arg(long, value_name = "DURATION", requires = "watch", value_parser = watch::parse_every, value_hint = ValueHint::Other)]
    every: Option<Duration>,
    /// Write the last 30 days as one page for a browser; - for stdout
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
}

/// Everything on one screen.
#[derive(Serialize)]
struct Status {
    identity: Who,
    machines: Vec<Sight>,
    #[serde(flatten)]
    survey: Survey,
    #[serde(skip)]
    now: u64,
}

/// What was lent and borrowed, and what to do.
#[derive(Serialize)]
pub(super) struct Survey {
    /// Invites that hold: neither revoked nor expired.
    grants: Vec<Lent>,
    /// Exits of others that can be used from here.
    exits: Vec<Borrowed>,
    pub(super) attention: Vec<Attention>,
}

/// An invite that holds.
#[derive(Serialize)]
struct Lent {
    name: Label,
    id: String,
    node: Option<Label>,
    mode: String,
    expires: u64,
    /// Attempts from elsewhere after it was accepted.
    reuse: u64,
}

/// An exit that was accepted here.
#[derive(Serialize)]
struct Borrowed {
    name: Label,
    addresses: Vec<String>,
    expires: u64,
    expired: bool,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Attention {
    pub(super) what: String,
    pub(super) command: String,
}

impl Attention {
    fn new(what: impl Into<String>, command: impl Into<String>) -> Attention {
        Attention { what: what.into(), command: command.into() }
    }
}

pub(super) fn run(call: &Call, args: &StatusArgs) -> Result<()> {
    if args.watch {
        return watch::run(call, args.every.unwrap_or(watch::EVERY));
    }
    if let Some(file) = &args.html {
        return page::run(call, file);
    }
    let cx = call.context()?;
    let identity = Who::of(cx.keyring()?, cx.paths(), false)?;
    let seen = call.block_on(machine::look_at_all(&cx))?;
    super::sight::hear(&cx, &seen);
    let machines = seen.into_iter().map(|seen| Sight::of(&cx, seen)).collect::<Result<Vec<_>>>()?;
    call.out.show(&Status { identity, survey: survey(&cx, &machines)?, machines, now: cx.now() })
}

/// What there is beside the machines, seen together with them.
pub(super) fn survey(cx: &Context, machines: &[Sight]) -> Result<Survey> {
    let now = cx.now();
    let ledger = cx.ledger()?;
    // What was lent on a machine that is gone cannot be used any more.
    let usable = |grant: &&GrantRow| grant.node.as_ref().is_none_or(|node| machines.iter().any(|machine| machine.label == *node));
    let grants: Vec<Lent> = ledger.live_grants(now)?.iter().filter(usable).map(|grant| Lent::of(grant, machines)).collect();
    let exits: Vec<Borrowed> = ledger.exits()?.into_iter().map(|exit| Borrowed::of(exit, now)).collect();
    let mut attention = attention(machines, &grants, &exits, now);
    for label in machine::leftovers(cx)? {
        let what = format!("files of a machine {label} were left by a deploy that was cut off");
        attention.insert(0, Attention::new(what, format!("portdistrict machine destroy {label} --yes")));
    }
    Ok(Survey { grants, exits, attention })
}

impl Lent {
    fn of(grant: &GrantRow, machines: &[Sight]) -> Lent {
        let id = grant.id.to_string();
        // What the nodes say now may be newer than what the ledger knows.
        let live = machines.iter().filter_map(|m| m.live.as_ref()).flat_map(|live| &live.grants).filter(|used| used.id == id);
        let live: u64 = live.map(|used| used.reuse).sum();
        Lent {
            name: grant.name.clone(),
            node: grant.node.clone(),
            mode: grant.mode.clone(),
            expires: grant.expires,
            reuse: live.max(grant.reused.map_or(0, |reuse| reuse.count)),
            id,
        }
    }
}

impl Borrowed {
    fn of(exit: Exit, now: u64) -> Borrowed {
        let addresses = exit.addresses.into_iter().chain(exit.onion).collect();
        Borrowed { name: exit.name, addresses, expires: exit.expires, expired: exit.expires <= now }
    }
}

/// What a person should look at, most urgent first.
fn attention(machines: &[Sight], grants: &[Lent], exits: &[Borrowed], now: u64) -> Vec<Attention> {
    let mut found = Vec::new();
    for grant in grants.iter().filter(|grant| grant.reuse > 0) {
        let what = format!("{}'s link was tried again from elsewhere, {}", grant.name, super::sight::times(grant.reuse));
        found.push(Attention::new(what, format!("portdistrict grant show {}", grant.id)));
    }
    for machine in machines {
        let label = &machine.label;
        match machine.state {
            "unclaimed" => {
                found.push(Attention::new(format!("machine {label} waits for its owner"), format!("portdistrict machine claim {label}")))
            }
            "running" | "asking" => {}
            "switched-off" => {
                found.push(Attention::new(format!("machine {label} is switched off"), format!("portdistrict machine enable {label} exit")));
            }
            "degraded" => {
                let onion = machine.live.as_ref().and_then(|live| live.onion.as_ref());
                let why = onion.and_then(|onion| onion.reason.clone()).map(|reason| format!(": {reason}")).unwrap_or_default();
                let state = onion.map_or("degraded", |onion| onion.state.as_str());
                let what = format!("the onion service of machine {label} is {state}{why}");
                found.push(Attention::new(what, format!("portdistrict machine show {label}")));
            }
            state => {
                let hint = machine.problem.as_ref().and_then(|problem| problem.hint.clone());
                found.push(Attention::new(
                    format!("machine {label} is {state}"),
                    hint.unwrap_or_else(|| format!("portdistrict machine doctor {label}")),
                ));
            }
        }
    }
    for exit in exits {
        if exit.expired {
            let what = format!("exit {} expired {}", exit.name, time::relative(exit.expires, now));
            found.push(Attention::new(what, format!("portdistrict exit forget {}", exit.name)));
        } else if exit.expires < now + SOON {
            let what = format!("exit {} ends {}; ask its owner for a new invite", exit.name, time::relative(exit.expires, now));
            found.push(Attention::new(what, format!("portdistrict exit show {}", exit.name)));
        }
    }
    if machines.is_empty() && exits.is_empty() {
        found.push(Attention::new("there is no machine and no exit yet", "portdistrict machine deploy --on local --label home"));
    }
    found
}

impl View for Status {
    fn text(&self, look: &Look) -> String {
        let mut text = format!("{} {}\n", look.bold("You are"), self.identity.id);
        let mut part = |title: String, head: &[&str], rows: Vec<Vec<String>>| {
            if !rows.is_empty() {
                text += &format!("\n{}\n{}", look.bold(title), table(look, head, &rows));
            }
        };
        let row = |m: &Sight| vec![m.label.to_string(), m.state.to_owned(), m.address.clone().unwrap_or_default(), m.use_in_words()];
        part(count(self.machines.len(), "machine"), &["LABEL", "STATE", "ADDRESS", "USE"], self.machines.iter().map(row).collect());
        let row = |g: &Lent| {
            let node = g.node.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string);
            vec![g.name.to_string(), node, g.mode.clone(), when(g.expires, self.now), short(&g.id)]
        };
        part(
            format!("{} lent", count(self.survey.grants.len(), "exit")),
            &["FRIEND", "MACHINE", "MODE", "ENDS", "GRANT"],
            self.survey.grants.iter().map(row).collect(),
        );
        let row = |e: &Borrowed| vec![e.name.to_string(), e.addresses.join(", "), when(e.expires, self.now)];
        part(
            format!("{} borrowed", count(self.survey.exits.len(), "exit")),
            &["NAME", "ADDRESS", "ENDS"],
            self.survey.exits.iter().map(row).collect(),
        );
        if self.survey.attention.is_empty() {
            text += &format!("\n{}\n", look.good("Nothing needs attention."));
        } else {
            text += &format!("\n{}\n", look.warn("Needs attention"));
            for item in &self.survey.attention {
                text += &format!("{}\n  {}\n", item.what, look.dim(&item.command));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_attention_comes_with_the_command() {
        let found = attention(&[], &[], &[], 1000);
        assert_eq!(found[0].command, "portdistrict machine deploy --on local --label home");
        let lent = Lent { name: "anna".parse().unwrap(), id: "x".to_owned(), node: None, mode: "once".to_owned(), expires: 9000, reuse: 3 };
        let exit = |expires| Borrowed { name: "bert".parse().unwrap(), addresses: Vec::new(), expires, expired: expires <= 1000 };
        let found = attention(&[], &[lent], &[exit(1000), exit(1001), exit(1000 + SOON)], 1000);
        let commands: Vec<_> = found.iter().map(|a| a.command.as_str()).collect();
        assert_eq!(commands, ["portdistrict grant show x", "portdistrict exit forget bert", "portdistrict exit show bert"]);
        assert_eq!(found[0].what, "anna's link was tried again from elsewhere, 3 times");
    }
}

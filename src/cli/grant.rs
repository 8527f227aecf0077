//! `grant …`: who may use your exits, and taking that back.

use super::Call;
use super::complete;
use super::output::{Look, View, count, fields, table, when};
use super::sight::{Use, hear};
use crate::config::{Label, bytes, rate};
use crate::encoding::short;
use crate::error::Result;
use crate::exit::grants;
use crate::ledger::{GrantRow, MachineState};
use crate::machine;
use clap::{Subcommand, ValueHint};
use serde::Serialize;

/// See who may use your exits, and take it back
#[derive(Subcommand)]
pub(super) enum GrantCommand {
    List(ListArgs),
    Show(ShowArgs),
    Revoke(RevokeArgs),
}

/// List the grants you issued
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Who may use what, until when:\n    portdistrict grant list\n  Also those that are over:\n    \
                             portdistrict grant list --all")]
pub(super) struct ListArgs {
    /// Show revoked and expired ones too
    #[arg(long)]
    all: bool,
}

/// Show one grant: its limits, how it was used, and whether its link was tried from elsewhere
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  What did anna use?\n    portdistrict grant show anna")]
pub(super) struct ShowArgs {
    /// Friend, or id of the grant
    #[arg(value_name = "NAME|ID", allow_hyphen_values = true, add = complete::grants())]
    grant: String,
}

/// Take a grant back; open streams end within a second
///
/// This cannot be undone, but a new invite can be made. A machine that is not reached now is told when it is.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See first what it would do:\n    portdistrict grant revoke anna --dry-run\n  \
                             Without being asked:\n    portdistrict grant revoke anna --yes")]
pub(super) struct RevokeArgs {
    /// Friend, or id of the grant
    #[arg(value_name = "NAME|ID", allow_hyphen_values = true, add = complete::grants())]
    grant: String,
    /// Why, for your own record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_hint = ValueHint::Other)]
    reason: String,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &GrantCommand) -> Result<()> {
    match command {
        GrantCommand::List(args) => list(call, args.all),
        GrantCommand::Show(args) => show(call, &args.grant),
        GrantCommand::Revoke(args) => revoke(call, args),
    }
}

/// A grant as it is recorded.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: GrantRow,
    /// `valid`, `revoked` or `expired`.
    state: &'static str,
    /// How it was used, on each machine that could be asked.
    used: Vec<Use>,
    #[serde(skip)]
    now: u64,
}

impl Shown {
    fn of(row: GrantRow, used: Vec<Use>, now: u64) -> Shown {
        let state = match (&row.revoked, row.expires <= now) {
            (Some(_), _) => "revoked",
            (None, true) => "expired",
            (None, false) => "valid",
        };
        Shown { row, state, used, now }
    }

    fn limits(&self) -> String {
        let limits = &self.row.limits;
        let bytes = limits.bytes.map(bytes);
        let rate = limits.bits_per_second.map(rate);
        let streams = limits.streams.map(|n| count(n as usize, "stream"));
        let all: Vec<String> = bytes.into_iter().chain(rate).chain(streams).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

impl View for Shown {
    fn text(&self, look: &Look) -> String {
        let state = match self.state {
            "valid" => look.good(self.state),
            other => look.bad(other),
        };
        let revoked = self.row.revoked.as_ref().map(|revoked| {
            let reason = if revoked.reason.is_empty() { String::new() } else { format!(": {}", revoked.reason) };
            format!("{}{reason}", when(revoked.at, self.now))
        });
        let mut text = fields(&[
            ("friend", look.bold(&self.row.name)),
            ("state", state),
            ("machine", self.row.node.as_ref().map_or_else(|| "any of yours".to_owned(), ToString::to_string)),
            ("mode", self.row.mode.clone()),
            ("limits", self.limits()),
            ("issued", when(self.row.issued_ms / 1000, self.now)),
            ("ends", when(self.row.expires, self.now)),
            ("revoked", revoked.unwrap_or_default()),
            ("id", self.row.id.to_string()),
        ]);
        for used in &self.used {
            text += &fields(&[("used", used.in_words(self.now))]);
        }
        if let Some(reuse) = self.row.reused {
            let times = super::sight::times(reuse.count);
            text +=
                &format!("{} the link was tried again from elsewhere, {times}, last {}\n", look.bad("alarm:"), when(reuse.last, self.now));
        }
        text
    }
}

/// All grants.
#[derive(Serialize)]
struct Grants {
    grants: Vec<Shown>,
}

impl View for Grants {
    fn text(&self, look: &Look) -> String {
        if self.grants.is_empty() {
            return String::new();
        }
        let row = |grant: &Shown| {
            vec![
                grant.row.name.to_string(),
                grant.state.to_owned(),
                grant.row.node.as_ref().map_or_else(|| "any".to_owned(), Label::to_string),
                grant.row.mode.clone(),
                when(grant.row.expires, grant.now),
                short(&grant.row.id.to_string()),
            ]
        };
        table(look, &["FRIEND", "STATE", "MACHINE", "MODE", "ENDS", "ID"], &self.grants.iter().map(row).collect::<Vec<_>>())
    }
}

fn list(call: &Call, all: bool) -> Result<()> {
    let cx = call.context()?;
    let now = cx.now();
    let mut rows = cx.ledger_read_only()?.grants()?;
    rows.retain(|grant| all || grant.is_live(now));
    if rows.is_empty() {
        call.out.say("Nobody may use your exits. Invite a friend: portdistrict exit invite --node LABEL --for NAME");
    }
    let machines = cx.ledger_read_only()?.machines()?;
    let shown = rows.into_iter().map(|row| {
        let gone = row.node.as_ref().is_some_and(|node| machines.iter().all(|machine| machine.label != *node));
        let mut shown = Shown::of(row, Vec::new(), now);
        if gone && shown.state == "valid" {
            shown.state = "machine gone";
        }
        shown
    });
    call.out.show(&Grants { grants: shown.collect() })
}

fn show(call: &Call, name: &str) -> Result<()> {
    let cx = call.context()?;
    let row = cx.ledger()?.grant(name)?;
    let mut seen = call.block_on(machine::look_at_all(&cx))?;
    seen.retain(|seen| seen.machine.state == MachineState::Claimed);
    hear(&cx, &seen);
    let all = cx.ledger()?.grants()?;
    let statuses = seen.iter().filter_map(|seen| seen.live.as_ref().ok());
    let used = statuses.flat_map(|status| &status.grants).filter(|used| used.id == row.id.0);
    let used = used.map(|used| Use::of(used, &all)).collect();
    call.out.show(&Shown::of(cx.ledger()?.grant(&row.id.to_string())?, used, cx.now()))
}

/// What revoking did.
#[derive(Serialize)]
struct Revoked {
    grants: Vec<Over>,
    /// They had been revoked before.
    already: bool,
    machines: Vec<Told>,
}

/// A grant that is over.
#[derive(Serialize)]
struct Over {
    name: Label,
    id: String,
}

/// A machine that was told, or not.
#[derive(Serialize)]
struct Told {
    machine: Label,
    /// Sessions that ended by it.
    ended: Option<u64>,
    problem: Option<String>,
}

impl View for Revoked {
    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        for grant in &self.grants {
            let what = if self.already { "had been revoked already" } else { "is revoked" };
            text += &format!("The grant for {} {what}: {}\n", look.bold(&grant.name), grant.id);
        }
        for told in &self.machines {
            text += &match (&told.ended, &told.problem) {
                (Some(ended), _) => {
                    format!("{} knows; {} ended\n", told.machine, count(usize::try_from(*ended).unwrap_or(usize::MAX), "session"))
                }
                (None, problem) => {
                    format!("{} {} was not reached: {}\n", look.warn("attention:"), told.machine, problem.as_deref().unwrap_or("unknown"))
                }
            };
        }
        text
    }
}

fn revoke(call: &Call, args: &RevokeArgs) -> Result<()> {
    let cx = call.context()?;
    let row = cx.ledger()?.grant(&args.grant)?;
    if args.dry_run {
        let node = row.node.as_ref().map_or_else(|| "every machine of yours".to_owned(), ToString::to_string);
        let would =
            vec![format!("record that the grant for {} is revoked", row.name), format!("tell {node}, which ends open streams at once")];
        return call.out.show(&super::machine::Steps { would });
    }
    call.out.confirm(&format!("Revoke what {} was granted?", row.name))?;
    let outcome = call.block_on(grants::revoke(&cx, &args.grant, &args.reason))?;
    let told = outcome.told.iter().map(|told| Told {
        machine: told.machine.clone(),
        ended: told.heard.as_ref().ok().map(|revoked| revoked.closed),
        problem: told.heard.as_ref().err().map(|error| error.message().to_owned()),
    });
    if let Some(error) = outcome.told.iter().find_map(|told| told.heard.as_ref().err()) {
        call.out.warn(format!(
            "{}; it refuses the friend as soon as it is told: {}",
            error.message(),
            error.hint_text().unwrap_or("portdistrict status")
        ));
    }
    call.out.show(&Revoked {
        grants: outcome.grants.iter().map(|grant| Over { name: grant.name.clone(), id: grant.id.to_string() }).collect(),
        already: outcome.already,
        machines: told.collect(),
    })
}

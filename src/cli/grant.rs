//! `grant …`: who may use your exits, and taking that back.

use super::output::{Look, View, count, fields, table, when};
use super::sight::{Use, hear};
use super::{Call, complete, issue, pass_on, scope};
use crate::config::{Label, bytes, rate, time};
use crate::encoding::short;
use crate::error::{Code, Error, Result};
use crate::exit::accept::Net;
use crate::exit::grants::{self, Outcome, Renewal};
use crate::exit::pass_on as holder;
use crate::ledger::{GrantRow, MachineState, PassedOn};
use crate::machine;
use crate::token::Scope;
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use std::time::Duration;

/// See who may use your exits, and take it back
#[derive(Subcommand)]
pub(super) enum GrantCommand {
    Create(Box<issue::CreateArgs>),
    List(ListArgs),
    Show(ShowArgs),
    Renew(RenewArgs),
    Export(ExportArgs),
    Narrow(Box<pass_on::NarrowArgs>),
    Revoke(RevokeArgs),
}

/// List the grants you issued, and those you passed on
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Who may use what, until when:\n    portdistrict grant list\n  Also those that are over:\n    \
                             portdistrict grant list --all")]
pub(super) struct ListArgs {
    /// Show revoked and expired ones too
    #[arg(long)]
    all: bool,
}

/// Show one grant: what it allows, how it was used, what was made of it, and how long it could outlive a revocation
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  What did anna use?\n    portdistrict grant show anna")]
pub(super) struct ShowArgs {
    /// Friend, or id of the grant
    #[arg(value_name = "NAME|ID", allow_hyphen_values = true, add = complete::grants())]
    grant: String,
}

/// Sign a grant again: it lasts longer, is suspended, or holds again
///
/// The friend need not do anything: machines take the newest revision, whichever the friend shows.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Another month:\n    portdistrict grant renew anna --lifetime 30d\n  \
                             Not now, and then again:\n    portdistrict grant renew anna --suspend\n    portdistrict grant renew anna --resume")]
pub(super) struct RenewArgs {
    /// Friend, or id of the grant
    #[arg(value_name = "NAME|ID", allow_hyphen_values = true, add = complete::grants())]
    grant: String,
    /// How long it lasts from now on; as long as at first unless given
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration, value_hint = ValueHint::Other)]
    lifetime: Option<Duration>,
    /// Suspend it
    #[arg(long, conflicts_with = "resume")]
    suspend: bool,
    /// Let it hold again
    #[arg(long)]
    resume: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Print the newest revision of a grant, for a friend whose machine you cannot reach
///
/// It is no invite: only the device that accepted it can use it, with `exit accept`.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  As a line to paste:\n    portdistrict grant export anna")]
pub(super) struct ExportArgs {
    /// Friend, or id of the grant
    #[arg(value_name = "NAME|ID", allow_hyphen_values = true, add = complete::grants())]
    grant: String,
}

/// Take a grant back, with all that was made of it; open streams end within a second
///
/// This cannot be undone, but a new invite can be made. A machine that is not reached now is told at your next command that
/// reaches it. What you passed on, and what friends passed on, is taken back in the same way.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See first what it would do:\n    portdistrict grant revoke anna --dry-run\n  \
                             Without being asked:\n    portdistrict grant revoke anna --yes\n  \
                             Tell the machines that were away:\n    portdistrict grant revoke --retry")]
pub(super) struct RevokeArgs {
    /// Friend, or id of the grant
    #[arg(value_name = "NAME|ID", allow_hyphen_values = true, required_unless_present = "retry", add = complete::grants())]
    grant: Option<String>,
    /// Tell the machines that have not heard of earlier revocations, and revoke nothing
    #[arg(long, conflicts_with_all = ["grant", "reason", "dry_run"])]
    retry: bool,
    /// Why, for your own record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_hint = ValueHint::Other)]
    reason: String,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: GrantCommand) -> Result<()> {
    match command {
        GrantCommand::Create(args) => issue::create(call, *args),
        GrantCommand::List(args) => list(call, args.all),
        GrantCommand::Show(args) => show(call, &args.grant),
        GrantCommand::Renew(args) => renew(call, &args),
        GrantCommand::Export(args) => export(call, &args.grant),
        GrantCommand::Narrow(args) => pass_on::narrow(call, *args),
        GrantCommand::Revoke(RevokeArgs { retry: true, .. }) => retry(call),
        GrantCommand::Revoke(args) => revoke(call, &args),
    }
}

/// A grant as it is recorded.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: GrantRow,
    /// `valid`, `suspended`, `revoked`, `expired` or `machine gone`.
    state: &'static str,
    /// Destinations to which it is narrowed.
    allow: Vec<String>,
    /// Destinations that it leaves out.
    deny: Vec<String>,
    /// Hours of the week in which it holds, UTC.
    hours: Option<String>,
    /// The one way by which the friend may come: `direct` or `tor`.
    way: Option<&'static str>,
    /// Most devices.
    devices: Option<u32>,
    /// Seconds.
    lease: u64,
    /// How deep the friend may pass it on.
    delegable: u8,
    /// How it was used, on each machine that could be asked.
    used: Vec<Use>,
    /// What friends made of it.
    children: Vec<Use>,
    /// What is left of its bytes, and of those of today, as far as machines could be asked.
    left: Left,
    /// Until when a machine that never hears of a revocation would serve it.
    worst_case: Vec<Worst>,
    /// Machines that have not heard that it was taken back or signed again.
    unheard: Vec<Label>,
    #[serde(skip)]
    scope: Scope,
    #[serde(skip)]
    now: u64,
}

/// Bytes that are left.
#[derive(Serialize, Default)]
struct Left {
    bytes: Option<u64>,
    today: Option<u64>,
}

/// How long a machine goes on if it hears nothing.
#[derive(Serialize)]
struct Worst {
    machine: Label,
    /// Unix seconds, by that machine's clock.
    until: u64,
}

impl Shown {
    fn of(row: GrantRow, now: u64) -> Result<Shown> {
        let signed = grants::signed(&row)?;
        let grant = signed.grant();
        let state = match (&row.revoked, row.expires <= now) {
            (Some(_), _) => "revoked",
            (None, true) => "expired",
            (None, false) if grant.scope.paused => "suspended",
            (None, false) => "valid",
        };
        Ok(Shown {
            state,
            allow: grant.scope.allow.clone(),
            deny: grant.scope.deny.clone(),
            hours: grant.scope.window.as_ref().map(ToString::to_string),
            way: grant.scope.way.map(|way| way.as_str()),
            devices: grant.scope.devices,
            lease: grant.lease(),
            delegable: grant.delegable,
            scope: grant.scope.clone(),
            row,
            used: Vec::new(),
            children: Vec::new(),
            left: Left::default(),
            worst_case: Vec::new(),
            unheard: Vec::new(),
            now,
        })
    }

    fn limits(&self) -> String {
        let limits = &self.row.limits;
        let all = limits.bytes.map(bytes);
        let daily = limits.bytes_per_day.map(|n| format!("{} a day", bytes(n)));
        let rate = limits.bits_per_second.map(rate);
        let streams = limits.streams.map(|n| count(n as usize, "stream"));
        let all: Vec<String> = all.into_iter().chain(daily).chain(rate).chain(streams).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }

    /// Adds what machines say.
    fn hear(&mut self, uses: Vec<Use>) {
        let id = self.row.id.to_string();
        let mut family = vec![id.clone()];
        // A child is reported with its parent; three steps reach the youngest.
        for _ in 0..3 {
            let next = uses.iter().filter(|used| used.parent.as_ref().is_some_and(|parent| family.contains(parent)));
            let next: Vec<String> = next.map(|used| used.id.clone()).filter(|id| !family.contains(id)).collect();
            family.extend(next);
        }
        (self.used, self.children) = uses.into_iter().filter(|used| family.contains(&used.id)).partition(|used| used.id == id);
        let (all, today) = self.used.iter().map(Use::bytes).fold((0, 0), |sum: (u64, u64), used| (sum.0 + used.0, sum.1 + used.1));
        self.left.bytes = self.row.limits.bytes.map(|limit| limit.saturating_sub(all));
        self.left.today = self.row.limits.bytes_per_day.map(|limit| limit.saturating_sub(today));
    }

    fn left(&self) -> String {
        let today = self.left.today.map(|n| format!("{} today", bytes(n)));
        self.left.bytes.map(bytes).into_iter().chain(today).collect::<Vec<_>>().join(", ")
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
        let mut rows = vec![
            ("friend", look.bold(&self.row.name)),
            ("state", state),
            ("machine", self.row.node.as_ref().map_or_else(|| "any of yours".to_owned(), ToString::to_string)),
            ("mode", self.row.mode.clone()),
            ("limits", self.limits()),
            ("left", self.left()),
        ];
        rows.extend(scope::rows(&self.scope));
        rows.extend([
            ("passed on", if self.delegable == 0 { String::new() } else { format!("up to {} times in a row", self.delegable) }),
            ("issued", when(self.row.issued_ms / 1000, self.now)),
            ("ends", when(self.row.expires, self.now)),
            ("revoked", revoked.unwrap_or_default()),
            ("lease", time::duration(self.lease)),
        ]);
        let worst = |worst: &Worst| {
            let until = time::absolute(worst.until);
            ("worst case", format!("if it is revoked now and {} never hears of it: works until {until} at the latest", worst.machine))
        };
        rows.extend(self.worst_case.iter().filter(|_| self.state == "valid").map(worst));
        rows.push(("id", self.row.id.to_string()));
        rows.extend(self.used.iter().map(|used| ("used", used.in_words(self.now))));
        let child = |child: &Use| {
            let name = child.name.as_ref().map_or_else(|| child.id.clone(), ToString::to_string);
            ("made of it", format!("{name} ({}): {}", child.id, child.in_words(self.now)))
        };
        rows.extend(self.children.iter().map(child));
        let mut text = fields(&rows);
        if !self.unheard.is_empty() {
            let names: Vec<&str> = self.unheard.iter().map(Label::as_str).collect();
            text +=
                &format!("{} {} has not heard of it yet: portdistrict grant revoke --retry\n", look.warn("attention:"), names.join(", "));
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
    /// What was made of other grants: here, and by friends.
    passed_on: Vec<PassedOn>,
    #[serde(skip)]
    now: u64,
}

impl View for Grants {
    fn text(&self, look: &Look) -> String {
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
        let passed_on = |one: &PassedOn| {
            vec![
                one.name.to_string(),
                if one.revoked.is_some() { "revoked" } else { "passed on" }.to_owned(),
                one.exit.as_ref().map_or_else(|| "by a friend".to_owned(), Label::to_string),
                String::new(),
                one.expires.map(|at| when(at, self.now)).unwrap_or_default(),
                one.id.to_string(),
            ]
        };
        let rows: Vec<_> = self.grants.iter().map(row).chain(self.passed_on.iter().map(passed_on)).collect();
        if rows.is_empty() { String::new() } else { table(look, &["FRIEND", "STATE", "MACHINE", "MODE", "ENDS", "ID"], &rows) }
    }
}

fn list(call: &Call, all: bool) -> Result<()> {
    let cx = call.context()?;
    let now = cx.now();
    let ledger = cx.ledger_read_only()?;
    let (mut rows, mut passed_on) = (ledger.grants()?, ledger.passed_on()?);
    rows.retain(|grant| all || grant.is_live(now));
    passed_on.retain(|one| all || (one.revoked.is_none() && one.expires.is_none_or(|at| now < at)));
    if rows.is_empty() && passed_on.is_empty() {
        call.out.say("Nobody may use your exits. Invite a friend: portdistrict exit invite --node LABEL --for NAME");
    }
    let machines = ledger.machines()?;
    let shown = rows.into_iter().map(|row| {
        let gone = row.node.as_ref().is_some_and(|node| machines.iter().all(|machine| machine.label != *node));
        let mut shown = Shown::of(row, now)?;
        if gone && shown.state == "valid" {
            shown.state = "machine gone";
        }
        Ok(shown)
    });
    let grants = shown.collect::<Result<Vec<_>>>()?;
    for machine in &machines {
        let unheard = grants::unheard(&cx, machine)?;
        if !unheard.is_empty() {
            let names: Vec<&str> = unheard.iter().map(|grant| grant.name.as_str()).collect();
            call.out.warn(format!(
                "{} has not heard what changed for {}: portdistrict grant revoke --retry",
                machine.label,
                names.join(", ")
            ));
        }
    }
    call.out.show(&Grants { grants, passed_on, now })
}

fn show(call: &Call, name: &str) -> Result<()> {
    let cx = call.context()?;
    let row = match cx.ledger()?.grant(name) {
        Err(error) if error.code() == Code::NotFound => return call.out.show(&pass_on::Held::of(&cx, cx.ledger()?.one_passed_on(name)?)?),
        row => row?,
    };
    let mut seen = call.block_on(machine::look_at_all(&cx))?;
    seen.retain(|seen| seen.machine.state == MachineState::Claimed);
    hear(&cx, &seen);
    let all = cx.ledger()?.grants()?;
    let uses = seen.iter().filter_map(|seen| Some((&seen.machine.label, seen.live.as_ref().ok()?)));
    let uses = uses.flat_map(|(label, status)| status.grants.iter().map(|used| Use::of(used, &all, status.now).on(label.clone())));
    let uses = uses.collect();
    let row = cx.ledger()?.grant(&row.id.to_string())?;
    let signed = grants::signed(&row)?;
    let mut shown = Shown::of(row, cx.now())?;
    shown.hear(uses);
    for machine in seen.iter().map(|seen| &seen.machine).filter(|machine| grants::concerns(&shown.row, machine)) {
        let until = grants::worst_case(&cx, signed.grant(), machine)?;
        shown.worst_case.push(Worst { machine: machine.label.clone(), until });
        if grants::unheard(&cx, machine)?.iter().any(|grant| grant.id == shown.row.id) {
            shown.unheard.push(machine.label.clone());
        }
    }
    call.out.show(&shown)
}

fn export(call: &Call, name: &str) -> Result<()> {
    let cx = call.context()?;
    let grant = grants::export(&cx, name)?;
    call.out.say("The newest revision of this grant; it is of use to the device that accepted it: portdistrict exit accept BLOB");
    call.out.fence();
    call.out.show(&Exported { grant })?;
    call.out.fence();
    Ok(())
}

/// A grant as text.
#[derive(Serialize)]
struct Exported {
    grant: String,
}

impl View for Exported {
    fn text(&self, _: &Look) -> String {
        self.grant.clone()
    }
}

fn renew(call: &Call, args: &RenewArgs) -> Result<()> {
    let cx = call.context()?;
    let row = cx.ledger()?.grant(&args.grant)?;
    let renewal = Renewal { lifetime: args.lifetime, paused: if args.suspend { Some(true) } else { args.resume.then_some(false) } };
    if args.dry_run {
        let what = if args.suspend { "suspend" } else { "sign again" };
        let would = vec![format!("{what} the grant for {}", row.name), "tell every machine that it is for".to_owned()];
        return call.out.show(&super::machine::Steps { would });
    }
    let outcome = call.block_on(grants::renew(&cx, &args.grant, &renewal))?;
    warn_of_unreached(call, &outcome.told, "it goes by the old revision until it is told");
    let expires = outcome.grants.first().map_or(0, |grant| grant.expires);
    call.out.show(&Renewed {
        name: row.name,
        id: row.id.to_string(),
        expires,
        already: outcome.already,
        machines: outcome.told.iter().map(Told::of).collect(),
        now: cx.now(),
    })
}

/// A grant that was signed again.
#[derive(Serialize)]
struct Renewed {
    name: Label,
    id: String,
    /// Unix seconds.
    expires: u64,
    /// It was so before.
    already: bool,
    machines: Vec<Told>,
    #[serde(skip)]
    now: u64,
}

impl View for Renewed {
    fn text(&self, look: &Look) -> String {
        let what = if self.already { "is as it was" } else { "is signed again" };
        let mut text = format!("The grant for {} {what}; it ends {}: {}\n", look.bold(&self.name), when(self.expires, self.now), self.id);
        self.machines.iter().for_each(|told| text += &told.text(look));
        text
    }
}

/// What revoking did.
#[derive(Serialize)]
struct Revoked {
    grants: Vec<Over>,
    /// What was made of another grant: its friend and id.
    passed_on: Option<Over>,
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

impl Told {
    fn of(told: &grants::Told) -> Told {
        Told {
            machine: told.machine.clone(),
            ended: told.heard.as_ref().ok().map(|revoked| revoked.closed),
            problem: told.heard.as_ref().err().map(|error| error.message().to_owned()),
        }
    }

    fn text(&self, look: &Look) -> String {
        match (&self.ended, &self.problem) {
            (Some(ended), _) => {
                format!("{} knows; {} ended\n", self.machine, count(usize::try_from(*ended).unwrap_or(usize::MAX), "session"))
            }
            (None, problem) => {
                format!("{} {} was not reached: {}\n", look.warn("attention:"), self.machine, problem.as_deref().unwrap_or("unknown"))
            }
        }
    }
}

impl View for Revoked {
    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        for grant in self.grants.iter().chain(&self.passed_on) {
            let what = if self.already { "had been revoked already" } else { "is revoked" };
            text += &format!("The grant for {} {what}: {}\n", look.bold(&grant.name), grant.id);
        }
        self.machines.iter().for_each(|told| text += &told.text(look));
        text
    }
}

fn revoke(call: &Call, args: &RevokeArgs) -> Result<()> {
    let cx = call.context()?;
    let name = args.grant.as_deref().unwrap_or_default();
    let (friend, node) = match cx.ledger()?.grant(name) {
        Ok(row) => (row.name, row.node),
        Err(error) if error.code() == Code::NotFound => {
            let one = cx.ledger()?.one_passed_on(name).map_err(|_| error)?;
            (one.name, one.exit)
        }
        Err(error) => return Err(error),
    };
    if args.dry_run {
        let node = node.as_ref().map_or_else(|| "every machine that it is for".to_owned(), ToString::to_string);
        let would = vec![format!("record that the grant for {friend} is revoked"), format!("tell {node}, which ends open streams at once")];
        return call.out.show(&super::machine::Steps { would });
    }
    call.out.confirm(&format!("Revoke what {friend} was granted?"))?;
    let is_held = cx.ledger()?.grant(name).is_err() && cx.ledger()?.one_passed_on(name)?.exit.is_some();
    let outcome = if is_held { take_back(call, &cx, name, &args.reason)? } else { call.block_on(grants::revoke(&cx, name, &args.reason))? };
    warn_of_unreached(call, &outcome.told, "it refuses the friend as soon as it is told");
    call.out.show(&Revoked {
        grants: outcome.grants.iter().map(|grant| Over { name: grant.name.clone(), id: grant.id.to_string() }).collect(),
        passed_on: outcome.passed_on.map(|one| Over { name: one.name, id: one.id.to_string() }),
        already: outcome.already,
        machines: outcome.told.iter().map(Told::of).collect(),
    })
}

/// What was passed on from here is taken back at the node, as its guest.
fn take_back(call: &Call, cx: &crate::context::Context, name: &str, reason: &str) -> Result<Outcome> {
    let already = cx.ledger()?.one_passed_on(name)?.revoked.is_some();
    let (tor, progress) = (call.tor(cx)?, call.out.progress());
    let again = |wait: u64, error: &Error| call.out.say(format!("Not reached: {}; trying again in {wait} s", error.message()));
    let net = Net { tor: &tor, progress: &*progress, retry: &again };
    let (one, told) = call.block_on(holder::take_back(cx, name, reason, &net))?;
    Ok(Outcome { grants: Vec::new(), passed_on: Some(one), already, told: vec![told] })
}

fn retry(call: &Call) -> Result<()> {
    let cx = call.context()?;
    let (tor, progress) = (call.tor(&cx)?, call.out.progress());
    let again = |wait: u64, error: &Error| call.out.say(format!("Not reached: {}; trying again in {wait} s", error.message()));
    let net = Net { tor: &tor, progress: &*progress, retry: &again };
    let told = call.block_on(async {
        let mut told = grants::retry(&cx).await?;
        told.extend(holder::retry(&cx, &net).await?);
        Ok(told)
    })?;
    if told.is_empty() {
        call.out.say("Every machine has heard everything.");
    }
    warn_of_unreached(call, &told, "it refuses the friend as soon as it is told");
    call.out.show(&Revoked { grants: Vec::new(), passed_on: None, already: false, machines: told.iter().map(Told::of).collect() })
}

fn warn_of_unreached(call: &Call, told: &[grants::Told], until_then: &str) {
    if let Some(error) = told.iter().find_map(|told| told.heard.as_ref().err()) {
        let hint = error.hint_text().unwrap_or("portdistrict status");
        call.out.warn(format!("{}; {until_then}: {hint}", error.message()));
    }
}

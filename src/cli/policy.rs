//! `policy …`: what may be done from here on, and why something may or may not.

use super::Call;
use super::complete;
use super::output::{Look, View, count, table, when};
use crate::attest::Rung;
use crate::config::Destination;
use crate::config::time::parse_duration;
use crate::config::{Label, fs, parse_bytes};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Body, GrantIssued, MachineDeployed};
use crate::ledger::{B64, PolicyRow};
use crate::machine;
use crate::policy::{self, Act, Answer, CAPABILITIES, Change, Current, Decision, Lend, MAX_POLICY, Policy};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Say what may be deployed, claimed, lent and reached, and see why something is refused
#[derive(Subcommand)]
pub(super) enum PolicyCommand {
    Show(ShowArgs),
    Set(SetArgs),
    Diff(DiffArgs),
    #[command(subcommand)]
    Check(CheckCommand),
    Why(WhyArgs),
}

/// Show the policy that holds
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  What holds now?\n    portdistrict policy show\n  A file to begin with:\n    portdistrict policy show --toml > \
                             policy.toml\n  What held before, and who set it:\n    portdistrict policy show --history"
)]
pub(super) struct ShowArgs {
    /// Print the document alone, as `policy set` reads it
    #[arg(long, conflicts_with = "history")]
    toml: bool,
    /// List every policy that ever held
    #[arg(long)]
    history: bool,
}

/// Replace the policy
///
/// The whole document counts: what it leaves out restricts nothing, unless it says `strict = true`. Whoever may not change it is
/// refused. Earlier policies stay in the ledger.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Lend for a week at most, and only on this computer:\n    \
                             printf 'version = 1\\n[deploy]\\nproviders = [\"local\"]\\n[invite]\\nlongest = 604800\\n' > policy.toml\n    \
                             portdistrict policy diff policy.toml\n    portdistrict policy set policy.toml --reason 'a quiet summer'\n  Nothing is \
                             restricted any more:\n    echo 'version = 1' | portdistrict policy set -")]
pub(super) struct SetArgs {
    /// The document; - reads it from standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Why, for your own record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_hint = ValueHint::Other)]
    reason: String,
    /// Check it and show what would change
    #[arg(long)]
    dry_run: bool,
}

/// Show who would gain and who would lose by a policy
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Before it is set:\n    portdistrict policy show --toml > policy.toml\n    echo 'strict = true' >> \
                             policy.toml\n    portdistrict policy diff policy.toml"
)]
pub(super) struct DiffArgs {
    /// The document; - reads it from standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Ask whether an act would be allowed, without doing it
#[derive(Subcommand)]
pub(super) enum CheckCommand {
    Deploy(CheckDeploy),
    Claim(CheckClaim),
    Invite(CheckInvite),
    Reach(CheckReach),
    Edit(CheckEdit),
    Enable(CheckEnable),
}

/// Would this machine be deployed?
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A process on this computer:\n    portdistrict policy check deploy --on local")]
pub(super) struct CheckDeploy {
    /// The provider
    #[arg(long, value_name = "PROVIDER", value_hint = ValueHint::Other)]
    on: String,
    /// The digest of its image, as image.json has it (`uki_authenticode`)
    #[arg(long, value_name = "HEX", value_hint = ValueHint::Other)]
    image: Option<String>,
    /// Its launch measurement
    #[arg(long, value_name = "HEX", value_hint = ValueHint::Other)]
    measurement: Option<String>,
}

/// Would a machine with this proof be claimed?
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  One that proves nothing but its key:\n    portdistrict policy check claim --rung pinned-key")]
pub(super) struct CheckClaim {
    /// The rung on which it stands
    #[arg(long, value_name = "RUNG", value_parser = PossibleValuesParser::new(Rung::ALL.map(Rung::as_str)).try_map(|text| text.parse::<Rung>()))]
    rung: Rung,
    /// Its evidence was verified
    #[arg(long)]
    verified: bool,
}

/// Would this be lent?
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  For a month, to anybody who has the link:\n    portdistrict policy check invite --mode many --lifetime 30d"
)]
pub(super) struct CheckInvite {
    /// How the invite may be used
    #[arg(long, value_parser = ["try", "once", "many"], default_value = "once")]
    mode: String,
    /// How long it holds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h", value_hint = ValueHint::Other)]
    lifetime: Duration,
    /// Bytes in all, as in 5GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, value_hint = ValueHint::Other)]
    bytes: Option<u64>,
}

/// Would this be switched on again?
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  An exit that is off:\n    portdistrict policy check enable exit")]
pub(super) struct CheckEnable {
    /// What is off
    #[arg(value_name = "CAPABILITY", value_parser = PossibleValuesParser::new(CAPABILITIES))]
    capability: String,
}

/// Would a friend be let there, as far as the policy goes?
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Mail servers:\n    portdistrict policy check reach anna mail.example.org:25")]
pub(super) struct CheckReach {
    /// Friend
    #[arg(value_name = "NAME", add = complete::grants())]
    friend: Label,
    /// Destination
    #[arg(value_name = "HOST:PORT", value_parser = |text: &str| text.parse::<Destination>(), value_hint = ValueHint::Other)]
    to: Destination,
}

/// May this device change the policy?
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Before writing one:\n    portdistrict policy check edit")]
pub(super) struct CheckEdit {}

/// Say why a friend reaches a destination or does not, and which entry of the ledger makes it so
///
/// The entries that are named decide: without them the answer would be the other one.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Does anna get there, and because of what?\n    portdistrict policy why anna example.org:443")]
pub(super) struct WhyArgs {
    /// Friend
    #[arg(value_name = "NAME", add = complete::grants())]
    friend: Label,
    /// Destination
    #[arg(value_name = "HOST:PORT", value_parser = |text: &str| text.parse::<Destination>(), value_hint = ValueHint::Other)]
    to: Destination,
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &PolicyCommand) -> Result<()> {
    let cx = call.context()?;
    match command {
        PolicyCommand::Show(args) => show(call, &cx, args),
        PolicyCommand::Set(args) => set(call, &cx, args),
        PolicyCommand::Diff(args) => {
            let new = read(&args.file)?;
            call.out.show(&changes(&cx, &policy::current(&cx)?, &new)?)
        }
        PolicyCommand::Check(command) => check(call, &cx, command),
        PolicyCommand::Why(args) => why(call, &cx, args),
    }
}

/// The policy that holds.
#[derive(Serialize)]
struct Shown {
    number: u64,
    policy: Policy,
    /// How it was set; null while nobody has.
    set: Option<PolicyRow>,
    /// Claimed machines that have not heard of it.
    unheard: Vec<Label>,
    #[serde(skip)]
    now: u64,
}

impl View for Shown {
    fn text(&self, look: &Look) -> String {
        let Some(row) = &self.set else {
            return "No policy was set, so nothing is restricted.\n".to_owned();
        };
        let reason = if row.reason.is_empty() { String::new() } else { format!(": {}", row.reason) };
        let head = format!("# policy {}, set {}{reason}\n# span {}", self.number, when(row.set_ms / 1000, self.now), row.span);
        let mut text = format!("{}\n{}", look.dim(head), self.policy.to_toml());
        if !self.unheard.is_empty() {
            let names = self.unheard.iter().map(Label::as_str).collect::<Vec<_>>().join(", ");
            text += &format!("\n{}\n", look.warn(format!("# not heard by: {names}")));
        }
        text
    }
}

/// Every policy that ever held.
#[derive(Serialize)]
struct History {
    policies: Vec<PolicyRow>,
    #[serde(skip)]
    now: u64,
}

impl View for History {
    fn text(&self, look: &Look) -> String {
        if self.policies.is_empty() {
            return "No policy was set.\n".to_owned();
        }
        let row =
            |row: &PolicyRow| vec![row.number.to_string(), when(row.set_ms / 1000, self.now), row.reason.clone(), row.span.to_string()];
        table(look, &["NUMBER", "SET", "REASON", "ENTRY"], &self.policies.iter().map(row).collect::<Vec<_>>())
    }
}

fn show(call: &Call, cx: &Context, args: &ShowArgs) -> Result<()> {
    if args.history {
        return call.out.show(&History { policies: cx.ledger()?.policies()?, now: cx.now() });
    }
    let current = policy::current(cx)?;
    if args.toml {
        call.out.raw(current.policy.to_toml().as_bytes())?;
        return Ok(());
    }
    let unheard = policy::unheard(cx)?.into_iter().map(|machine| machine.label).collect();
    call.out.show(&Shown { number: current.number(), policy: current.policy, set: current.row, unheard, now: cx.now() })
}

/// The document in a file or on standard input; no more is read than one may have.
fn read(file: &Path) -> Result<Policy> {
    let name = file.display().to_string();
    let bytes = if name == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(MAX_POLICY as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::new(Code::Io, "cannot read standard input").cause(error).hint("name a file"))?;
        bytes
    } else {
        fs::read(file, MAX_POLICY)?
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::new(Code::Usage, format!("{name} is not a text file")).hint("portdistrict policy show --toml > policy.toml"))?;
    Policy::parse(&name, &text)
}

/// What a new policy changes.
#[derive(Serialize)]
struct Changes {
    changes: Vec<Change>,
}

impl View for Changes {
    fn text(&self, look: &Look) -> String {
        if self.changes.is_empty() {
            return "Nothing changes.\n".to_owned();
        }
        let row = |change: &Change| {
            let effect = match change.effect {
                "gains" => look.good(change.effect),
                "loses" => look.bad(change.effect),
                other => other.to_owned(),
            };
            vec![change.who.clone(), effect, change.what.clone(), change.before.clone(), change.after.clone()]
        };
        table(look, &["WHO", "EFFECT", "WHAT", "BEFORE", "AFTER"], &self.changes.iter().map(row).collect::<Vec<_>>())
    }
}

fn changes(cx: &Context, current: &Current, new: &Policy) -> Result<Changes> {
    let now = cx.now();
    let mut friends: Vec<String> =
        cx.ledger()?.grants()?.iter().filter(|grant| grant.is_live(now)).map(|grant| grant.name.to_string()).collect();
    friends.sort_unstable();
    friends.dedup();
    Ok(Changes { changes: policy::diff(&current.policy, new, &friends) })
}

fn set(call: &Call, cx: &Context, args: &SetArgs) -> Result<()> {
    let (current, new) = (policy::current(cx)?, read(&args.file)?);
    let changes = changes(cx, &current, &new)?;
    if args.dry_run {
        return call.out.show(&changes);
    }
    if current.row.is_some() && current.policy == new {
        call.out.say("This policy holds already.");
    } else {
        policy::set(cx, &current, &new, &args.reason)?;
        call.out.say(format!("Policy {} holds; it changes {}.", current.number() + 1, count(changes.changes.len(), "thing")));
    }
    let away = call.block_on(machine::tell_policy(cx))?;
    if !away.is_empty() {
        let names = away.iter().map(Label::as_str).collect::<Vec<_>>().join(", ");
        call.out.warn(format!("Not heard by {names}: what it says of destinations holds there from the next visit on."));
    }
    call.out.show(&changes)
}

/// What would be decided.
#[derive(Serialize)]
struct Judged {
    #[serde(flatten)]
    decision: Decision,
    /// Number of the policy; 0 while there is none.
    number: u64,
    /// The entry that set it.
    span: Option<String>,
}

impl View for Judged {
    fn text(&self, look: &Look) -> String {
        let verdict = if self.decision.allowed { look.good("allowed") } else { look.bad("refused") };
        let rule = match (&self.span, self.decision.rule.as_str()) {
            (None, _) => "there is no policy".to_owned(),
            (Some(span), "default") => format!("no rule of policy {}, entry {span}", self.number),
            (Some(span), rule) => format!("rule {rule} of policy {}, entry {span}", self.number),
        };
        format!("{verdict}: {}\n{}\n", self.decision.why, look.dim(rule))
    }
}

fn check(call: &Call, cx: &Context, command: &CheckCommand) -> Result<()> {
    let current = policy::current(cx)?;
    let device;
    let act = match command {
        CheckCommand::Deploy(args) => Act::Deploy {
            provider: &args.on,
            image: args.image.as_deref(),
            measurement: args.measurement.as_deref(),
            today: policy::today(cx, MachineDeployed::KIND)?,
        },
        CheckCommand::Claim(args) => Act::Claim { rung: args.rung, verified: args.verified },
        CheckCommand::Invite(args) => Act::Lend(Lend {
            mode: &args.mode,
            life: args.lifetime.as_secs(),
            bytes: args.bytes,
            today: policy::today(cx, GrantIssued::KIND)?,
        }),
        CheckCommand::Reach(args) => Act::Reach { who: args.friend.as_str(), to: &args.to },
        CheckCommand::Enable(enable) => Act::Enable { capability: &enable.capability },
        CheckCommand::Edit(_) => {
            device = B64(cx.keyring()?.device_public()).to_string();
            Act::Edit { device: &device }
        }
    };
    let decision = policy::decide(&current.policy, &act);
    let refused = (!decision.allowed)
        .then(|| Error::new(Code::Refused, format!("the policy refuses it: {}", decision.why)).hint("portdistrict policy show"));
    let span = current.row.as_ref().map(|row| row.span.to_string());
    call.out.show(&Judged { decision, number: current.number(), span })?;
    refused.map_or(Ok(()), Err)
}

/// Why.
#[derive(Serialize)]
struct Explained {
    friend: Label,
    to: String,
    #[serde(flatten)]
    answer: Answer,
}

impl View for Explained {
    fn text(&self, look: &Look) -> String {
        let (verdict, other) =
            if self.answer.allowed { (look.good("reaches"), "would not") } else { (look.bad("does not reach"), "would") };
        let mut text = format!("{} {verdict} {}: {}\n", self.friend, self.to, self.answer.why);
        if let Some(rule) = &self.answer.rule {
            text += &format!("rule   {rule}\n");
        }
        for span in &self.answer.spans {
            text += &format!("entry  {span}\n");
        }
        if !self.answer.spans.is_empty() {
            let these = if self.answer.spans.len() == 1 { "this entry" } else { "these entries" };
            text += &format!("{}\n", look.dim(format!("Without {these} they {other}. See one whole with: portdistrict ledger show ENTRY")));
        }
        text
    }
}

fn why(call: &Call, cx: &Context, args: &WhyArgs) -> Result<()> {
    let (current, answer) = policy::explain(cx, &args.friend, &args.to)?;
    if args.to.name.is_some() && current.policy.reach.iter().flat_map(|rule| &rule.to).any(|to| to.needs_address()) {
        call.out.say("Some rules are about addresses; what this name resolves to can still be refused by them.");
    }
    call.out.show(&Explained { friend: args.friend.clone(), to: args.to.to_string(), answer })
}

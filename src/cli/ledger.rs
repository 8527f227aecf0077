//! `ledger …`: the signed record of everything that was decided here.

use super::Call;
use super::carry;
use super::complete;
use super::output::{Look, View, count, fields, table, when};
use crate::config::{Label, time};
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{GroupSet, NoteWritten};
use crate::ledger::{Audience, Compacted, Draft, Entry, Filter, Inspection, Ledger, Report, Rival, Visibility, verify_file};
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// How often a followed ledger is looked at; looking costs a few microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How much of an id a line of the log shows.
const ID_SHOWN: usize = 12;
/// Fields of bodies that are not printed although they are recorded: whoever has them can do something.
const SECRET_FIELDS: [&str; 1] = ["cover"];

/// Read and check the record of everything you decided
#[derive(Subcommand)]
pub(super) enum LedgerCommand {
    Log(LogArgs),
    Show(ShowArgs),
    Inspect(InspectArgs),
    Note(NoteArgs),
    Group(GroupArgs),
    Export(carry::ExportArgs),
    Import(carry::ImportArgs),
    Verify(VerifyArgs),
    Rebuild(RebuildArgs),
    Compact(CompactArgs),
}

/// Print what happened, oldest first
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Everything:\n    portdistrict ledger log\n  What became of grants in the last week:\n    \
                             portdistrict ledger log --kind 'grant.*' --since 7d\n  All about one machine, or about somebody:\n    \
                             portdistrict ledger log --key machine/home\n    portdistrict ledger log --grep anna\n  Watch it until Ctrl-C, one JSON document a line:\n    \
                             portdistrict ledger log --follow --json")]
pub(super) struct LogArgs {
    /// Only this kind; * and ? stand for anything, as in 'grant.*'
    #[arg(long, value_name = "KIND", add = complete::kinds())]
    kind: Option<String>,
    /// Only what is not older: 2h, 7d, 2026-05-03 or 2026-05-03T14:00:00Z
    #[arg(long, value_name = "TIME", value_hint = ValueHint::Other)]
    since: Option<String>,
    /// Only what is older
    #[arg(long, value_name = "TIME", value_hint = ValueHint::Other)]
    until: Option<String>,
    /// Only by this device: its key, or the beginning of it
    #[arg(long, value_name = "KEY", value_hint = ValueHint::Other, allow_hyphen_values = true)]
    author: Option<String>,
    /// Only about this: machine/LABEL, grant/ID, exit/NAME, evidence/NODE-KEY, node/ADDRESS
    #[arg(long, value_name = "NOUN/NAME", add = complete::keys())]
    key: Option<String>,
    /// Only with these words somewhere in the body
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other)]
    grep: Option<String>,
    /// Only what this audience may see: device, devices or peer:ID
    #[arg(long = "for", value_name = "AUDIENCE", value_hint = ValueHint::Other)]
    audience: Option<Audience>,
    /// Only the newest so many
    #[arg(long, short = 'n', value_name = "COUNT", value_hint = ValueHint::Other)]
    limit: Option<usize>,
    /// Wait for more and print it as it comes
    #[arg(long, short)]
    follow: bool,
}

/// Show one entry whole
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  The newest entry, by its id:\n    \
                             portdistrict ledger show \"$(portdistrict ledger log --limit 1 | awk '{print $4}')\"")]
pub(super) struct ShowArgs {
    /// Id of the entry, or the beginning of it
    #[arg(value_name = "ID", allow_hyphen_values = true, add = complete::spans())]
    id: String,
}

/// Show what was said about one thing, by which devices, and what counts
///
/// Where two devices wrote about it without knowing of each other, the later word counts, on every device alike.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  What is known of a machine:\n    portdistrict ledger inspect machine/home")]
pub(super) struct InspectArgs {
    /// machine/LABEL, grant/ID, exit/NAME, evidence/NODE-KEY, node/ADDRESS, …
    #[arg(value_name = "NOUN/NAME", add = complete::keys())]
    key: String,
}

/// Write a line into the record
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  For all your devices:\n    portdistrict ledger note 'moved the machine to the attic'\n  \
                             For this one alone:\n    portdistrict ledger note 'ask the provider about the bill' --for device")]
pub(super) struct NoteArgs {
    /// What to write
    #[arg(value_name = "TEXT", value_hint = ValueHint::Other)]
    text: String,
    /// Who may see it: device, devices, or several of peer:ID and group:NAME
    #[arg(long = "for", value_name = "AUDIENCE", value_delimiter = ',', value_hint = ValueHint::Other)]
    seen_by: Vec<String>,
}

/// Say who is in a group that entries can be shared with
///
/// Replaces who was in it. Without members the group is dissolved.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A group of one, and what only it sees:\n    \
                             portdistrict ledger group family AT244KA2IF466VBOXBHQMRMHN7RVISC2\n    \
                             portdistrict ledger note 'the attic is for you' --for group:family")]
pub(super) struct GroupArgs {
    /// The group
    #[arg(value_name = "NAME", value_hint = ValueHint::Other)]
    name: Label,
    /// Ids of peers
    #[arg(value_name = "ID", value_hint = ValueHint::Other)]
    members: Vec<String>,
}

/// Check every signature, every link and every table of the ledger
///
/// Names the first entry that does not hold, and ends with status 1 then. What held once is remembered by a digest: the next time
/// these entries are compared with it, and their signatures are not checked again.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Is everything as it was signed?\n    portdistrict ledger verify\n  \
                             Without relying on what the file says about earlier checks:\n    portdistrict ledger verify --full")]
pub(super) struct VerifyArgs {
    /// Check every signature, also of what was checked before
    #[arg(long)]
    full: bool,
}

/// Make the tables that answer questions anew from the entries
///
/// The entries themselves are never changed, so this is always safe.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  After `ledger verify` found a table that does not agree:\n    portdistrict ledger rebuild")]
pub(super) struct RebuildArgs {}

/// Make the tables anew and give back the room in the file that nothing uses
///
/// No entry is ever removed.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  After a long time:\n    portdistrict ledger compact")]
pub(super) struct CompactArgs {}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Log(args) => log(call, args),
        LedgerCommand::Show(args) => {
            let ledger = open(call)?;
            let entry = ledger.show(&args.id)?;
            call.out.show(&Whole {
                entry: Line::of(&entry, &ledger, &Audience::ThisDevice),
                signature: entry.signature.to_string(),
                bytes: entry.bytes.len(),
                now: time::now_s(),
            })
        }
        LedgerCommand::Inspect(args) => {
            let ledger = open(call)?;
            call.out.show(&Inspected::of(&ledger.inspect(&args.key)?, &ledger))
        }
        LedgerCommand::Note(args) => {
            let draft = Draft::of(&NoteWritten { text: args.text.clone() })?.seen_by(&Visibility::parse(&args.seen_by)?);
            record(call, draft)
        }
        LedgerCommand::Group(args) => record(call, group(args)?),
        LedgerCommand::Export(args) => carry::export(call, &open(call)?, args),
        LedgerCommand::Import(args) => carry::import(call, args),
        LedgerCommand::Verify(args) => verify(call, args.full),
        LedgerCommand::Rebuild(_) => {
            let cx = call.context()?;
            let spans = cx.ledger()?.rebuild()?;
            call.out.show(&Rebuilt { entries: spans })
        }
        LedgerCommand::Compact(_) => {
            let cx = call.context()?;
            let done = cx.ledger()?.compact()?;
            call.out.show(&done)
        }
    }
}

fn group(args: &GroupArgs) -> Result<Draft> {
    let mut members = args.members.clone();
    members.sort();
    members.dedup();
    for member in &members {
        format!("peer:{member}").parse::<Audience>()?;
    }
    Draft::of(&GroupSet { name: args.name.clone(), members })
}

/// Records one entry by this device and shows its id.
fn record(call: &Call, draft: Draft) -> Result<()> {
    let cx = call.context()?;
    let ids = cx.ledger()?.record_batch(&cx.keyring()?.device_key(), vec![draft])?;
    call.out.show(&Recorded { id: ids.iter().map(ToString::to_string).collect() })
}

/// What was recorded.
#[derive(Serialize)]
struct Recorded {
    id: String,
}

impl View for Recorded {
    fn text(&self, _: &Look) -> String {
        self.id.clone()
    }
}

impl View for Compacted {
    fn text(&self, _: &Look) -> String {
        let spans = count(usize::try_from(self.spans).unwrap_or(usize::MAX), "entry");
        let kib = |bytes: u64| bytes.div_ceil(1024);
        format!("{spans}, all kept; the file has {} KiB, {} KiB before.", kib(self.after), kib(self.before))
    }
}

/// Reading needs no key, so the keyring stays closed. A file of an older version is brought forward where it can be written.
fn open(call: &Call) -> Result<Ledger> {
    let paths = call.paths()?;
    if paths.ledger_file().exists()
        && let Ok(ledger) = Ledger::open(&paths.ledger_file())
    {
        return Ok(ledger);
    }
    Ledger::open_read_only(&paths.ledger_file()).map_err(|error| match error.code() {
        Code::NotFound => {
            Error::new(Code::Precondition, format!("there is no ledger yet in {}", paths.home_in_use())).hint("portdistrict init")
        }
        _ => error,
    })
}

/// One entry, as a line of the log.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) pos: u64,
    id: String,
    /// Unix milliseconds by the author's clock.
    pub(super) ms: u64,
    pub(super) kind: String,
    author: String,
    seq: u64,
    body: Map<String, Value>,
    /// What it is about, as in `machine/home`.
    key: Option<String>,
    /// Other devices' words about the same, written without knowing of this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<Conflict>,
    /// Whom a grant is for, where the entry does not say it itself.
    #[serde(skip)]
    friend: Option<Label>,
}

/// Another device's word about the same.
#[derive(Serialize)]
struct Conflict {
    id: String,
    kind: String,
    author: String,
    body: Map<String, Value>,
    /// Whether the other one counts, and not this.
    wins: bool,
}

impl Conflict {
    fn of(rival: Rival) -> Conflict {
        let Rival { entry, wins } = rival;
        let (id, author) = (entry.id.to_string(), entry.span.author.to_string());
        Conflict { id, author, kind: entry.span.kind, body: without_secrets(entry.span.body), wins }
    }

    fn text(&self) -> String {
        let (id, what) = (short_id(&self.id), words(&self.body, &[]).join(", "));
        let end = if self.wins { "which counts" } else { "which does not count" };
        format!("conflict with {id} {} {what} by device {}, {end}", self.kind, short_id(&self.author))
    }
}

/// The beginning of an id is enough for `ledger show`, and can be copied.
fn short_id(id: &str) -> &str {
    id.get(..ID_SHOWN).unwrap_or(id)
}

fn without_secrets(mut body: Map<String, Value>) -> Map<String, Value> {
    for name in SECRET_FIELDS {
        if let Some(value) = body.get_mut(name) {
            *value = "(not shown)".into();
        }
    }
    body
}

/// What a body is about, in a few words.
fn words<'a>(body: &'a Map<String, Value>, first: &[&'a str]) -> Vec<&'a str> {
    let names = ["label", "name", "node", "address", "reason", "text"];
    let said = names.iter().filter_map(|name| body.get(*name)?.as_str()).filter(|word| !word.is_empty());
    let mut words: Vec<&str> = first.iter().copied().chain(said).collect();
    words.dedup();
    words
}

impl Line {
    pub(super) fn of(entry: &Entry, ledger: &Ledger, audience: &Audience) -> Line {
        // A later word about a grant carries its id only; a person knows it by the friend's name.
        let id = entry.span.body.get("id").and_then(|id| id.as_str()).filter(|_| entry.span.kind.starts_with("grant."));
        let friend = id.and_then(|id| ledger.grant(id).ok()).map(|grant| grant.name);
        // Of a damaged table a line still shows what its entry says.
        let rivals = ledger.rivals(entry, audience).unwrap_or_default();
        Line {
            pos: entry.pos,
            id: entry.id.to_string(),
            ms: entry.span.hlc.ms,
            kind: entry.span.kind.clone(),
            author: entry.span.author.to_string(),
            seq: entry.span.seq,
            body: without_secrets(entry.span.body.clone()),
            key: entry.key(),
            conflicts: rivals.into_iter().map(Conflict::of).collect(),
            friend,
        }
    }

    /// What it is about, in a few words.
    pub(super) fn subject(&self) -> String {
        let friend: Vec<&str> = self.friend.iter().map(Label::as_str).collect();
        words(&self.body, &friend).join(", ")
    }
}

impl View for Line {
    fn text(&self, look: &Look) -> String {
        let line = format!("{}  {}  {:20} {}", look.dim(time::absolute(self.ms / 1000)), short_id(&self.id), self.kind, self.subject());
        let conflicts: String = self.conflicts.iter().map(|conflict| format!("\n    {}", look.warn(conflict.text()))).collect();
        line.trim_end().to_owned() + &conflicts
    }
}

/// One key whole.
#[derive(Serialize)]
struct Inspected {
    key: String,
    /// What counts.
    winner: Option<String>,
    /// The last words about it, the one that counts last; more than one is a conflict.
    heads: Vec<Line>,
    ancestor: Option<Line>,
    /// For each head the ids from the common ancestor to it.
    paths: Vec<Vec<String>>,
}

impl Inspected {
    fn of(found: &Inspection, ledger: &Ledger) -> Inspected {
        let line = |entry: &Entry| Line::of(entry, ledger, &Audience::ThisDevice);
        Inspected {
            key: found.key.clone(),
            winner: found.winner().map(|entry| entry.id.to_string()),
            heads: found.heads.iter().map(line).collect(),
            ancestor: found.ancestor.as_ref().map(line),
            paths: found.paths.iter().map(|path| path.iter().map(ToString::to_string).collect()).collect(),
        }
    }
}

impl View for Inspected {
    fn text(&self, look: &Look) -> String {
        let mut text = match self.heads.len() {
            1 => format!("{}: one last word\n", look.bold(&self.key)),
            n => format!("{}: {} by {n} devices that did not know of each other\n", look.bold(&self.key), look.warn("conflict")),
        };
        for (head, path) in self.heads.iter().zip(&self.paths) {
            let counts = self.winner.as_deref() == Some(&head.id);
            text += &format!("\n{}\n{}\n", head.text(look), if counts { look.good("  counts") } else { look.dim("  does not count") });
            let way: Vec<&str> = path.iter().map(|id| short_id(id)).collect();
            text += &format!("  path      {}\n", way.join(" → "));
        }
        if let Some(ancestor) = &self.ancestor {
            text += &format!("\ncommon ancestor\n{}\n", ancestor.text(look));
        }
        text
    }
}

/// The whole log.
#[derive(Serialize)]
struct Lines {
    entries: Vec<Line>,
}

impl View for Lines {
    fn text(&self, look: &Look) -> String {
        self.entries.iter().map(|line| line.text(look) + "\n").collect()
    }
}

fn log(call: &Call, args: &LogArgs) -> Result<()> {
    let since = args.since.as_deref().map(|text| time::parse_since(text, time::now_s())).transpose()?;
    let filter = Filter {
        kind: args.kind.clone(),
        since,
        until: args.until.as_deref().map(|text| time::parse_since(text, time::now_s())).transpose()?,
        author: args.author.clone(),
        key: args.key.clone(),
        grep: args.grep.clone(),
        audience: args.audience.clone(),
        limit: args.limit,
    };
    let audience = args.audience.clone().unwrap_or(Audience::ThisDevice);
    let ledger = open(call)?;
    if !args.follow {
        return call.out.show(&Lines { entries: ledger.log(&filter)?.iter().map(|entry| Line::of(entry, &ledger, &audience)).collect() });
    }
    // Following begins before the past is read, so that nothing falls between the two.
    let mut follower = ledger.follow(filter.clone())?;
    let mut shown = 0;
    call.block_on_while_read(async {
        let mut news = ledger.log(&filter)?;
        loop {
            for entry in news.iter().filter(|entry| entry.pos > shown) {
                if !call.out.item(&Line::of(entry, &ledger, &audience))? {
                    return Ok(());
                }
            }
            shown = news.last().map_or(shown, |entry| shown.max(entry.pos));
            tokio::time::sleep(LOOK_EVERY).await;
            news = follower.poll()?;
        }
    })
}

/// One entry whole.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    entry: Line,
    signature: String,
    /// Length of the signed bytes.
    bytes: usize,
    #[serde(skip)]
    now: u64,
}

impl View for Whole {
    fn text(&self, look: &Look) -> String {
        let mut text = fields(&[
            ("id", look.bold(&self.entry.id)),
            ("kind", self.entry.kind.clone()),
            ("about", self.entry.key.clone().unwrap_or_default()),
            ("when", when(self.entry.ms / 1000, self.now)),
            ("author", self.entry.author.clone()),
            ("number", format!("{} of this author, {} here", self.entry.seq, self.entry.pos)),
            ("signature", self.signature.clone()),
        ]);
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows: Vec<_> = self.entry.body.iter().map(|(name, value)| vec![format!("  {name}"), plain(value)]).collect();
        text += &table(look, &["body", ""], &rows);
        for conflict in &self.entry.conflicts {
            text += &format!("{}\n", look.warn(conflict.text()));
        }
        text
    }
}

/// What verifying found.
#[derive(Serialize)]
struct Verified {
    ok: bool,
    #[serde(flatten)]
    report: Report,
}

impl View for Verified {
    fn text(&self, look: &Look) -> String {
        let spans = usize::try_from(self.report.spans).unwrap_or(usize::MAX);
        match &self.report.broken {
            None if self.ok => {
                let known = self.report.remembered;
                let before = if known == 0 { String::new() } else { format!("; the signatures of {known} had been checked before") };
                format!("{} {} and every table hold{before}.", look.good("ok:"), count(spans, "entry"))
            }
            None => format!("{} {}; not all tables do.", count(spans, "entry"), if spans == 1 { "holds" } else { "hold" }),
            Some(_) => format!("{} before the damage.", count(spans, "good entry")),
        }
    }
}

fn verify(call: &Call, full: bool) -> Result<()> {
    let paths = call.paths()?;
    let path = paths.ledger_file();
    if !path.exists() {
        return Err(Error::new(Code::Precondition, format!("there is no ledger yet in {}", paths.home_in_use())).hint("portdistrict init"));
    }
    // Brings an older file forward; whatever keeps it from being opened is told below.
    drop(Ledger::open(&path));
    let report = verify_file(&path, full)?;
    let found = Verified { ok: report.is_ok(), report };
    call.out.show(&found)?;
    let report = found.report;
    if let Some(broken) = &report.broken {
        return Err(Error::new(Code::Ledger, format!("the ledger is damaged at {broken}"))
            .because(format!("file {}", path.display()))
            .hint("restore the file from a backup; the entries before the damage can still be read: portdistrict ledger log"));
    }
    if let Some(first) = report.schema.first() {
        return Err(
            Error::new(Code::Ledger, format!("the ledger's protection was tampered with: {first}")).hint("restore the file from a backup")
        );
    }
    match report.projections.first() {
        Some(first) => {
            Err(Error::new(Code::Ledger, format!("a table disagrees with the entries: {first}")).hint("portdistrict ledger rebuild"))
        }
        None => Ok(()),
    }
}

/// What rebuilding did.
#[derive(Serialize)]
struct Rebuilt {
    entries: u64,
}

impl View for Rebuilt {
    fn text(&self, _: &Look) -> String {
        format!("Read {} and made every table anew.", count(usize::try_from(self.entries).unwrap_or(usize::MAX), "entry"))
    }
}

//! `ledger …`: the signed record of everything that was decided here.

use super::Call;
use super::complete;
use super::output::{Look, View, count, fields, table, when};
use crate::config::{Label, time};
use crate::error::{Code, Error, Result};
use crate::ledger::{Entry, Filter, Ledger, Report, verify_file};
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
    Verify(VerifyArgs),
    Rebuild(RebuildArgs),
}

/// Print what happened, oldest first
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Everything:\n    portdistrict ledger log\n  What became of grants in the last week:\n    \
                             portdistrict ledger log --kind 'grant.*' --since 7d\n  Watch it until Ctrl-C, one JSON document a line:\n    \
                             portdistrict ledger log --follow --json")]
pub(super) struct LogArgs {
    /// Only this kind; * and ? stand for anything, as in 'grant.*'
    #[arg(long, value_name = "KIND", add = complete::kinds())]
    kind: Option<String>,
    /// Only what is not older: 2h, 7d, 2026-05-03 or 2026-05-03T14:00:00Z
    #[arg(long, value_name = "TIME", value_hint = ValueHint::Other)]
    since: Option<String>,
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

/// Check every signature, every link and every table of the ledger
///
/// Names the first entry that does not hold, and ends with status 1 then.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Is everything as it was signed?\n    portdistrict ledger verify")]
pub(super) struct VerifyArgs {}

/// Make the tables that answer questions anew from the entries
///
/// The entries themselves are never changed, so this is always safe.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  After `ledger verify` found a table that does not agree:\n    portdistrict ledger rebuild")]
pub(super) struct RebuildArgs {}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Log(args) => log(call, args),
        LedgerCommand::Show(args) => {
            let ledger = open(call)?;
            let entry = ledger.show(&args.id)?;
            call.out.show(&Whole {
                entry: Line::of(&entry, &ledger),
                signature: entry.signature.to_string(),
                bytes: entry.bytes.len(),
                now: time::now_s(),
            })
        }
        LedgerCommand::Verify(_) => verify(call),
        LedgerCommand::Rebuild(_) => {
            let cx = call.context()?;
            let spans = cx.ledger()?.rebuild()?;
            call.out.show(&Rebuilt { entries: spans })
        }
    }
}

/// Reading needs no key, so the keyring stays closed.
fn open(call: &Call) -> Result<Ledger> {
    let paths = call.paths()?;
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
    /// Whom a grant is for, where the entry does not say it itself.
    #[serde(skip)]
    friend: Option<Label>,
}

impl Line {
    pub(super) fn of(entry: &Entry, ledger: &Ledger) -> Line {
        // A later word about a grant carries its id only; a person knows it by the friend's name.
        let id = entry.span.body.get("id").and_then(|id| id.as_str()).filter(|_| entry.span.kind.starts_with("grant."));
        let friend = id.and_then(|id| ledger.grant(id).ok()).map(|grant| grant.name);
        let mut body = entry.span.body.clone();
        for name in SECRET_FIELDS {
            if let Some(value) = body.get_mut(name) {
                *value = "(not shown)".into();
            }
        }
        Line {
            pos: entry.pos,
            id: entry.id.to_string(),
            ms: entry.span.hlc.ms,
            kind: entry.span.kind.clone(),
            author: entry.span.author.to_string(),
            seq: entry.span.seq,
            body,
            friend,
        }
    }

    /// What it is about, in a few words.
    pub(super) fn subject(&self) -> String {
        let names = ["label", "name", "node", "address", "reason"];
        let said = names.iter().filter_map(|name| self.body.get(*name)?.as_str()).filter(|word| !word.is_empty());
        let mut words: Vec<&str> = self.friend.iter().map(Label::as_str).chain(said).collect();
        words.dedup();
        words.join(", ")
    }
}

impl View for Line {
    fn text(&self, look: &Look) -> String {
        // The beginning of an id is enough for `ledger show`, and can be copied.
        let id = self.id.get(..ID_SHOWN).unwrap_or(&self.id);
        let line = format!("{}  {id}  {:20} {}", look.dim(time::absolute(self.ms / 1000)), self.kind, self.subject());
        line.trim_end().to_owned()
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
    let filter = Filter { kind: args.kind.clone(), since, limit: args.limit };
    let ledger = open(call)?;
    if !args.follow {
        return call.out.show(&Lines { entries: ledger.log(&filter)?.iter().map(|entry| Line::of(entry, &ledger)).collect() });
    }
    // Following begins before the past is read, so that nothing falls between the two.
    let mut follower = ledger.follow(filter.clone())?;
    let mut shown = 0;
    call.block_on_while_read(async {
        let mut news = ledger.log(&filter)?;
        loop {
            for entry in news.iter().filter(|entry| entry.pos > shown) {
                if !call.out.item(&Line::of(entry, &ledger))? {
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
            ("when", when(self.entry.ms / 1000, self.now)),
            ("author", self.entry.author.clone()),
            ("number", format!("{} of this author, {} here", self.entry.seq, self.entry.pos)),
            ("signature", self.signature.clone()),
        ]);
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows: Vec<_> = self.entry.body.iter().map(|(name, value)| vec![format!("  {name}"), plain(value)]).collect();
        text += &table(look, &["body", ""], &rows);
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
            None if self.ok => format!("{} {} and every table hold.", look.good("ok:"), count(spans, "entry")),
            None => format!("{} {}; not all tables do.", count(spans, "entry"), if spans == 1 { "holds" } else { "hold" }),
            Some(_) => format!("{} before the damage.", count(spans, "good entry")),
        }
    }
}

fn verify(call: &Call) -> Result<()> {
    let paths = call.paths()?;
    let path = paths.ledger_file();
    if !path.exists() {
        return Err(Error::new(Code::Precondition, format!("there is no ledger yet in {}", paths.home_in_use())).hint("portdistrict init"));
    }
    let report = verify_file(&path)?;
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

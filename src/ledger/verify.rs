//! Checking the whole ledger, whatever state its file is in, and naming the first span that does not hold.
//!
//! What was checked before is remembered: up to which span, and a digest of all ids and signatures up to there. The next time
//! their bytes are hashed and compared with the digest, and their signatures are not checked again. Whoever can write the file
//! can write that memory, too; only a full check does without it.

use super::admit::certified;
use super::hlc::Hlc;
use super::kinds::{self, Body};
use super::project::{self, Projector, Ready};
use super::signatures;
use super::span::{self, B64, Span, SpanId};
use super::{parallel, parse_id, places, store, unsigned};
use crate::config::time;
use crate::error::{Code, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many spans hold.
    pub spans: u64,
    /// Of these, how many had their signatures checked by an earlier call and are unchanged since.
    pub remembered: u64,
    /// Links of chains whose spans this home may not see.
    pub withheld: u64,
    /// The first span that does not hold, or what keeps it from being read.
    pub broken: Option<Broken>,
    /// Tables and triggers of the ledger that are missing or changed.
    pub schema: Vec<String>,
    /// Projections that say something else than the spans; `ledger rebuild` mends them.
    pub projections: Vec<String>,
}

/// The first thing that does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// Its position, from 1; none if the damage lies outside of any one span.
    pub pos: Option<u64>,
    /// Its id, as far as it can be read.
    pub id: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Report {
    /// Whether everything holds.
    pub fn is_ok(&self) -> bool {
        self.broken.is_none() && self.schema.is_empty() && self.projections.is_empty()
    }

    fn breaks(mut self, pos: Option<u64>, id: Option<String>, what: impl Into<String>) -> Report {
        self.broken = Some(Broken { pos, id, what: what.into() });
        self
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pos, &self.id) {
            (Some(pos), Some(id)) => write!(f, "span {pos} ({id}): {}", self.what),
            (Some(pos), None) => write!(f, "span {pos}: {}", self.what),
            _ => f.write_str(&self.what),
        }
    }
}

/// What an earlier check remembered.
#[derive(Clone, Copy, Debug)]
struct Checked {
    pos: i64,
    digest: [u8; 32],
    at_ms: i64,
}

/// Verifies a ledger file that may be too damaged to be opened for use, and remembers what holds where it can. `full` checks
/// every signature, whatever is remembered. Fails only if there is no such file.
pub fn verify_file(path: &Path, full: bool) -> Result<Report> {
    match store::open_to_examine(path) {
        Ok(conn) => {
            // Spans are read once, in their order, and memory is for the workers. Where this fails, the walk tells why.
            let _ = conn.pragma_update(None, "cache_size", -4096);
            let (report, checked) = examine(&conn, full);
            drop(conn);
            if let Some(checked) = checked.filter(|_| report.is_ok()) {
                remember(path, checked);
            }
            Ok(report)
        }
        Err(error) if error.code() == Code::Ledger => {
            let cause = error.causes().first().cloned().unwrap_or_default();
            Ok(Report::default().breaks(None, None, format!("the file cannot be read as a database: {cause}")))
        }
        Err(error) => Err(error),
    }
}

/// On a disk that cannot be written the next check simply takes as long again.
fn remember(path: &Path, checked: Checked) {
    let Ok(conn) = store::open(path) else { return };
    let write = || -> rusqlite::Result<()> {
        let tx = conn.unchecked_transaction()?;
        tx.execute("DELETE FROM checked", [])?;
        let row = rusqlite::params![checked.pos, checked.digest, checked.at_ms];
        tx.execute("INSERT INTO checked (pos, digest, at_ms) VALUES (?1, ?2, ?3)", row)?;
        tx.commit()
    };
    if let Err(error) = write() {
        tracing::info!("what was verified is not remembered: {error}");
    }
}

fn remembered(conn: &Connection) -> Option<Checked> {
    let row = |row: &Row<'_>| Ok(Checked { pos: row.get(0)?, digest: row.get(1)?, at_ms: row.get(2)? });
    conn.query_row("SELECT pos, digest, at_ms FROM checked", [], row).optional().ok().flatten()
}

/// [`verify_file`] without its memory.
pub(super) fn in_full(conn: &Connection) -> Report {
    examine(conn, true).0
}

fn examine(conn: &Connection, full: bool) -> (Report, Option<Checked>) {
    match walk(conn, full) {
        // What was checked is not what is there now: nothing of it counts any more.
        Ok((_, _, true)) if !full => examine(conn, true),
        Ok((report, checked, _)) => (report, Some(checked)),
        Err(error) => (Report::default().breaks(None, None, format!("the file cannot be read as a database: {error}")), None),
    }
}

/// One walk over everything: what was found, what to remember, and whether what was remembered has changed.
fn walk(conn: &Connection, full: bool) -> rusqlite::Result<(Report, Checked, bool)> {
    // One read transaction, so that a process that appends meanwhile does not look like a contradiction.
    let tx = conn.unchecked_transaction()?;
    // Made anew beside the file, on disk if they are large.
    let fresh = Connection::open("")?;
    fresh.set_prepared_statement_cache_capacity(store::STATEMENTS);
    fresh.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")?;
    project::create(&fresh)?;
    let path = PathBuf::from(tx.path().unwrap_or_default());
    std::thread::scope(|scope| {
        // Beside the walk, through a connection of its own: what was appended meanwhile is as sound.
        let pages = scope.spawn(move || damaged_pages(&path));
        let pages = || pages.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Walk::new(&tx, &fresh, remembered(&tx), full)?.over(pages))
    })
}

/// One row of `spans` as it was read.
struct Raw {
    values: [Value; 9],
    /// Whether its signature was checked by an earlier call.
    known: bool,
}

/// One span whose bytes, id, signature and columns hold.
struct Held {
    ready: Ready,
    id: SpanId,
    signature: [u8; 64],
}

/// What the spans so far have established.
struct Walk<'c> {
    conn: &'c Connection,
    fresh: &'c Connection,
    tables: Projector<'c>,
    /// Whether the file has tables of the places of spans, without which the others cannot be made anew.
    placed: bool,
    /// Last span of each author.
    tips: HashMap<B64<32>, (u64, SpanId, Hlc)>,
    /// The identity that the first certificate names.
    identity: Option<B64<32>>,
    /// Chains that are certified by other identities: position, id and identity. Rotations must link each of them to the first.
    others: Vec<(i64, SpanId, B64<32>)>,
    /// Which identity took the place of which, as both keys signed.
    rotations: Vec<(B64<32>, B64<32>)>,
    /// What an earlier check remembered, and whether it is to be believed.
    known: Option<Checked>,
    full: bool,
    /// Over ids and signatures so far.
    digest: blake3::Hasher,
    /// Whether what was remembered is something else than what is there.
    changed: bool,
    last: i64,
}

impl<'c> Walk<'c> {
    fn new(conn: &'c Connection, fresh: &'c Connection, known: Option<Checked>, full: bool) -> rusqlite::Result<Walk<'c>> {
        let tables = Projector::for_comparison(fresh, conn);
        let digest = blake3::Hasher::new();
        Ok(Walk {
            conn,
            fresh,
            tables,
            placed: places::are_there(conn)?,
            tips: HashMap::new(),
            identity: None,
            others: Vec::new(),
            rotations: Vec::new(),
            known,
            full,
            digest,
            changed: false,
            last: 0,
        })
    }

    /// Walks over everything: what was found, what to remember, and whether what was remembered has changed.
    /// `pages` tells what is damaged outside of the spans.
    fn over(mut self, pages: impl FnOnce() -> Option<String>) -> (Report, Checked, bool) {
        let mut report = Report { schema: schema_changes(self.conn), ..Report::default() };
        if let Err(broken) = self.everything(&mut report, pages) {
            report.broken = Some(broken);
        }
        report.spans = unsigned(self.last);
        let known = self.known.filter(|_| !self.full && !self.changed);
        report.remembered = known.map_or(0, |known| unsigned(known.pos).min(report.spans));
        // A ledger that ends before what was checked has lost something.
        let changed = self.changed || self.known.is_some_and(|known| known.pos > self.last && report.broken.is_none());
        let digest = *self.digest.finalize().as_bytes();
        let at_ms = i64::try_from(time::now_ms()).unwrap_or(i64::MAX);
        (report, Checked { pos: self.last, digest, at_ms }, changed)
    }

    fn everything(&mut self, report: &mut Report, pages: impl FnOnce() -> Option<String>) -> Result<(), Broken> {
        self.spans()?;
        self.withheld(report)?;
        let outside = |what: String| Broken { pos: None, id: None, what };
        if let Some(what) = pages() {
            return Err(outside(what));
        }
        if let Some(known) = self.known.filter(|_| self.changed && self.full) {
            let when = time::absolute(unsigned(known.at_ms) / 1000);
            return Err(outside(format!("spans up to {} are signed, but they are not those that were checked on {when}", known.pos)));
        }
        match project::cursor(self.conn) {
            Ok(Some(cursor)) if cursor > self.last => {
                let what = format!("the projections know of span {cursor}, but the ledger ends at span {}", self.last);
                return Err(Broken { pos: u64::try_from(self.last + 1).ok(), id: None, what });
            }
            Ok(Some(cursor)) if cursor == self.last => {}
            _ => report.projections.push("projection".to_owned()),
        }
        if !self.placed {
            report.projections.extend(places::TABLES.map(str::to_owned));
            return Ok(());
        }
        self.tables.settle().map_err(|error| outside(format!("the tables cannot be made anew: {error}")))?;
        report.projections.extend(self.differences());
        Ok(())
    }

    /// Checks span after span; the first that fails ends the walk.
    fn spans(&mut self) -> Result<(), Broken> {
        let known = self.known.filter(|_| !self.full).map_or(0, |known| known.pos);
        let conn = self.conn;
        let read = |after: i64, error: rusqlite::Error| {
            let place = if after == 0 { "at the beginning".to_owned() } else { format!("after span {after}") };
            let what = format!("a page of the database is damaged: {error} (reading {place})");
            Broken { pos: u64::try_from(after + 1).ok(), id: None, what }
        };
        let sql = "SELECT pos, id, author, seq, kind, ms, n, bytes, signature FROM spans ORDER BY pos";
        let mut statement = conn.prepare(sql).map_err(|error| read(0, error))?;
        let mut rows = statement.query([]).map_err(|error| read(0, error))?;
        // Spans before a damaged page are checked before the page is named.
        let mut damage = None;
        parallel::pieces(
            || {
                let row = rows.next().and_then(|row| row.map(|row| raw(row, known)).transpose());
                Ok(row.unwrap_or_else(|error| {
                    damage = Some(error);
                    None
                }))
            },
            check_piece,
            |piece| {
                piece
                    .into_iter()
                    .try_for_each(|(pos, id, held)| self.take(&pos, held).map_err(|what| Broken { pos: number(&pos), id, what }))
            },
        )?;
        damage.map_or(Ok(()), |error| Err(read(self.last, error)))?;
        self.stranger().map_or(Ok(()), Err)
    }

    /// Takes the next span into account.
    fn take(&mut self, pos: &Value, held: Result<Held, String>) -> Result<(), String> {
        let next = self.last + 1;
        if *pos != Value::Integer(next) {
            return Err(format!("span {next} is missing before it"));
        }
        let Held { ready, id, signature } = held?;
        self.place(&ready.span, id, next)?;
        self.certificate(&ready.span, id, next)?;
        self.rotation(&ready.span)?;
        self.last = next;
        self.digest.update(&id.0).update(&signature);
        if let Some(known) = self.known.filter(|known| known.pos == next) {
            self.changed = *self.digest.finalize().as_bytes() != known.digest;
        }
        if !self.placed {
            return Ok(());
        }
        self.tables.apply(next, &ready).map_err(|error| format!("it cannot be projected: {error}"))
    }

    /// Its place in its author's chain, among the others, and in time.
    fn place(&mut self, span: &Span, id: SpanId, pos: i64) -> Result<(), String> {
        let tip = self.tips.get(&span.author).copied();
        match tip {
            Some((seq, before, hlc)) if span.seq == seq + 1 => {
                if span.prev != Some(before) {
                    return Err("it does not follow its author's previous span".to_owned());
                }
                in_time(before, hlc, span)?;
                self.deps(span, pos)?;
            }
            None if span.seq == 0 => self.deps(span, pos)?,
            _ => {
                self.beside_withheld(span, id, pos, tip.map_or(0, |(seq, ..)| seq + 1))?;
                self.deps(span, pos)?;
            }
        }
        if tip.is_none_or(|(seq, ..)| seq < span.seq) {
            self.tips.insert(span.author, (span.seq, id, span.hlc));
        }
        Ok(())
    }

    /// A span may follow one that is withheld, and one that was withheld may come later.
    fn beside_withheld(&self, span: &Span, id: SpanId, pos: i64, expected: u64) -> Result<(), String> {
        let author = span.author.to_string();
        let misplaced = || format!("it is number {} of its author, expected number {expected}", span.seq);
        if span.seq < expected && self.withheld_at(&author, span.seq)? != Some(id) {
            return Err(misplaced());
        }
        let Some(prev) = span.prev else { return Ok(()) };
        let before = self.withheld_at(&author, span.seq - 1)?;
        match self.hlc_of(&prev, pos)? {
            Some(hlc) => in_time(prev, hlc, span),
            None if before == Some(prev) => Ok(()),
            None => Err(misplaced()),
        }
    }

    fn deps(&self, span: &Span, pos: i64) -> Result<(), String> {
        for dep in &span.deps {
            match self.hlc_of(dep, pos)? {
                Some(hlc) => in_time(*dep, hlc, span)?,
                None if self.is_withheld(dep) => {}
                None => return Err(format!("it builds on span {dep}, which is not there")),
            }
        }
        Ok(())
    }

    /// The clock of a span that stands before a position, and so was checked already.
    fn hlc_of(&self, id: &SpanId, pos: i64) -> Result<Option<Hlc>, String> {
        let hlc = |row: &Row<'_>| Ok((row.get::<_, i64>(2)?, Hlc { ms: unsigned(row.get(0)?), n: unsigned(row.get(1)?) }));
        let before = |found: Option<(i64, Hlc)>| found.filter(|(at, _)| *at < pos).map(|(_, hlc)| hlc);
        if let Ok(Some(found)) = places::by_id(self.conn, id, "s.ms, s.n, s.pos", hlc).map(before) {
            return Ok(Some(found));
        }
        // The index may be what is damaged.
        let sql = "SELECT ms, n, pos FROM spans WHERE id = ?1 AND pos < ?2";
        let ask = || self.conn.prepare_cached(sql)?.query_row((id.to_string(), pos), hlc).optional();
        ask().map(before).map_err(|error| error.to_string())
    }

    fn is_withheld(&self, id: &SpanId) -> bool {
        let ask = || self.conn.prepare_cached("SELECT 1 FROM withheld WHERE id = ?1")?.exists([id.to_string()]);
        ask().unwrap_or(false)
    }

    fn withheld_at(&self, author: &str, seq: u64) -> Result<Option<SpanId>, String> {
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        let ask = || {
            let mut statement = self.conn.prepare_cached("SELECT id FROM withheld WHERE author = ?1 AND seq = ?2")?;
            statement.query_row((author, seq), |row| parse_id(row.get_ref(0)?.as_str()?)).optional()
        };
        ask().map_err(|error| error.to_string())
    }

    /// A chain begins with the device's certificate by an identity.
    fn certificate(&mut self, span: &Span, id: SpanId, pos: i64) -> Result<(), String> {
        if span.seq > 0 {
            return Ok(());
        }
        let body = match kinds::parse::<kinds::IdentityCreated>(&span.body) {
            Ok(body) if span.kind == kinds::IdentityCreated::KIND => body,
            _ => return Err("its author's chain does not begin with a device certificate".to_owned()),
        };
        if body.device != span.author || !certified(&body) {
            return Err("its author's device certificate does not hold".to_owned());
        }
        if *self.identity.get_or_insert(body.identity) != body.identity {
            self.others.push((pos, id, body.identity));
        }
        Ok(())
    }

    /// An identity is followed by another only if both keys signed that.
    fn rotation(&mut self, span: &Span) -> Result<(), String> {
        self.rotations.extend(super::devices::rotation_of(span)?);
        Ok(())
    }

    /// Links are signed by an author with a certificate, and each chain is whole: every number is there as a span or as a link.
    fn withheld(&self, report: &mut Report) -> Result<(), Broken> {
        let fail =
            |error: rusqlite::Error| Broken { pos: None, id: None, what: format!("the links of withheld spans cannot be read: {error}") };
        let sql = "SELECT id, author, seq, signature, EXISTS (SELECT 1 FROM spans s WHERE s.author = w.author AND s.seq = w.seq - 1)
                   OR EXISTS (SELECT 1 FROM withheld x WHERE x.author = w.author AND x.seq = w.seq - 1) FROM withheld w";
        let mut statement = match self.conn.prepare(sql) {
            Ok(statement) => statement,
            // The table is missing, which the schema check tells.
            Err(_) if report.schema.iter().any(|name| name == "withheld") => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        let mut rows = statement.query([]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let (id, author): (String, String) = (row.get(0).map_err(fail)?, row.get(1).map_err(fail)?);
            let signature: [u8; 64] = row.get(3).map_err(fail)?;
            let broken =
                |what: &str| Err(Broken { pos: None, id: Some(id.clone()), what: format!("the link of withheld span {id} {what}") });
            let (Ok(span), Ok(author)) = (id.parse::<SpanId>(), author.parse::<B64<32>>()) else { return broken("cannot be read") };
            if !self.tips.contains_key(&author) {
                return broken("is of an author whose chain does not begin here");
            }
            if !row.get::<_, bool>(4).map_err(fail)? {
                return broken("follows nothing that is here");
            }
            if !span::signed(&author, &span, &signature) {
                return broken("is not signed by its author");
            }
            report.withheld += 1;
        }
        Ok(())
    }

    /// The first chain of an identity that no rotation links to the one of this ledger.
    fn stranger(&self) -> Option<Broken> {
        let linked = super::devices::linked(self.identity?, &self.rotations);
        let (pos, id, _) = self.others.iter().find(|(_, _, identity)| !linked.contains(identity))?;
        let what = "its author is a device of another identity".to_owned();
        Some(Broken { pos: u64::try_from(*pos).ok(), id: Some(id.to_string()), what })
    }

    /// Projections that differ from those made anew.
    fn differences(&self) -> Vec<String> {
        let same = |table: &&project::Table| same_rows(self.conn, self.fresh, table.dump).unwrap_or(false);
        let tables = project::TABLES.iter().filter(|table| !same(table)).map(|table| table.name.to_owned());
        let places = self.tables.sums().map(|sums| sums.differences(self.conn)).unwrap_or_default();
        tables.chain(places).collect()
    }
}

fn in_time(before: SpanId, hlc: Hlc, span: &Span) -> Result<(), String> {
    if hlc >= span.hlc {
        return Err(format!("its time is not after that of span {before}, on which it builds"));
    }
    Ok(())
}

fn raw(row: &Row<'_>, known: i64) -> rusqlite::Result<(Raw, usize)> {
    let mut values = [const { Value::Null }; 9];
    for (index, value) in values.iter_mut().enumerate() {
        *value = row.get(index)?;
    }
    let size = if let Value::Blob(bytes) = &values[7] { bytes.len() } else { 0 };
    let known = matches!(values[0], Value::Integer(pos) if pos <= known);
    Ok((Raw { values, known }, size))
}

fn number(pos: &Value) -> Option<u64> {
    if let Value::Integer(pos) = pos { u64::try_from(*pos).ok() } else { None }
}

/// What can be said of each span by itself: position, id as it is written, and the span if it holds.
fn check_piece(piece: Vec<Raw>) -> Vec<(Value, Option<String>, Result<Held, String>)> {
    let known: Vec<bool> = piece.iter().map(|raw| raw.known).collect();
    let mut checked: Vec<_> = piece.into_iter().map(check_alone).collect();
    let asked = checked.iter().zip(&known).filter(|(_, known)| !**known);
    let asked: Vec<_> =
        asked.filter_map(|((_, _, held), _)| held.as_ref().ok()).map(|held| (held.ready.span.author, held.id, held.signature)).collect();
    if !signatures::all_hold(&asked) {
        for ((_, _, held), _) in checked.iter_mut().zip(&known).filter(|(_, known)| !**known) {
            if matches!(held, Ok(held) if !span::signed(&held.ready.span.author, &held.id, &held.signature)) {
                *held = Err("its signature does not hold".to_owned());
            }
        }
    }
    checked
}

fn check_alone(raw: Raw) -> (Value, Option<String>, Result<Held, String>) {
    let shown = if let Value::Text(text) = &raw.values[1] { Some(text.chars().take(64).collect()) } else { None };
    let held = hold(&raw.values);
    let [pos, ..] = raw.values;
    (pos, shown, held)
}

fn hold(values: &[Value; 9]) -> Result<Held, String> {
    let Value::Blob(bytes) = &values[7] else { return Err(unreadable(7)) };
    let id = span::id_of(bytes);
    let Value::Text(written) = &values[1] else { return Err(unreadable(1)) };
    let text = id.to_string();
    if *written != text {
        return Err(format!("its bytes do not have its id; they hash to {id}"));
    }
    let span = Span::decode(bytes).map_err(|error| error.to_string())?;
    let Value::Blob(signature) = &values[8] else { return Err(unreadable(8)) };
    let signature = signature.as_slice().try_into().map_err(|_| "its signature is not 64 bytes long".to_owned())?;
    columns_agree(values, &span)?;
    Ok(Held { ready: Ready::new(span, text), id, signature })
}

fn unreadable(column: usize) -> String {
    const NAMES: [&str; 9] = ["pos", "id", "author", "seq", "kind", "ms", "n", "bytes", "signature"];
    format!("its column {} cannot be read", NAMES[column])
}

/// The columns repeat the bytes for the sake of indexes; they must not say anything else.
fn columns_agree(values: &[Value; 9], span: &Span) -> Result<(), String> {
    let text = |column: usize, said: &str| matches!(&values[column], Value::Text(text) if text == said);
    let count = |column: usize, said: u64| matches!(&values[column], Value::Integer(n) if u64::try_from(*n) == Ok(said));
    let agree = [
        ("author", text(2, &span.author.to_string())),
        ("seq", count(3, span.seq)),
        ("kind", text(4, &span.kind)),
        ("ms", count(5, span.hlc.ms)),
        ("n", count(6, span.hlc.n)),
    ];
    match agree.iter().find(|(_, same)| !same) {
        Some((name, _)) => Err(format!("its column {name} says something else than its signed bytes")),
        None => Ok(()),
    }
}

/// Parts of the schema that protect the spans and are not what this program made.
fn schema_changes(conn: &Connection) -> Vec<String> {
    let found = |name: &str| conn.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| row.get::<_, String>(0)).ok();
    store::SCHEMA.iter().filter(|(name, sql)| found(name).as_deref() != Some(*sql)).map(|(name, _)| (*name).to_owned()).collect()
}

/// What SQLite itself finds wrong with indexes, free pages and the like.
fn damaged_pages(path: &Path) -> Option<String> {
    let ask = |conn: Connection| conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    match store::open_beside(path).and_then(ask) {
        Ok(answer) if answer == "ok" => None,
        Ok(answer) => Some(format!("the database is damaged outside of the spans: {answer}")),
        Err(error) => Some(format!("the database is damaged outside of the spans: {error}")),
    }
}

/// Whether a query finds the same in both; row by row, so that large tables need no memory.
fn same_rows(one: &Connection, other: &Connection, sql: &str) -> rusqlite::Result<bool> {
    let (mut one, mut other) = (one.prepare(sql)?, other.prepare(sql)?);
    let columns = one.column_count();
    let (mut one, mut other) = (one.query([])?, other.query([])?);
    loop {
        match (one.next()?, other.next()?) {
            (None, None) => return Ok(true),
            (Some(one), Some(other)) => {
                for column in 0..columns {
                    if one.get_ref(column)? != other.get_ref(column)? {
                        return Ok(false);
                    }
                }
            }
            _ => return Ok(false),
        }
    }
}

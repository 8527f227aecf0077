//! Checking the whole ledger, whatever state its file is in, and naming the first span that does not hold.

use super::admit::certified;
use super::hlc::Hlc;
use super::kinds::{self, Body};
use super::span::{self, B64, Span, SpanId};
use super::{project, store};
use crate::error::{Code, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many spans hold.
    pub spans: u64,
    /// The first that does not, or what keeps it from being read.
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

/// Verifies a ledger file that may be too damaged to be opened for use. Fails only if there is no such file.
pub fn verify_file(path: &Path) -> Result<Report> {
    match store::open_to_examine(path) {
        Ok(conn) => Ok(examine(&conn)),
        Err(error) if error.code() == Code::Ledger => {
            let cause = error.causes().first().cloned().unwrap_or_default();
            Ok(Report::default().breaks(None, None, format!("the file cannot be read as a database: {cause}")))
        }
        Err(error) => Err(error),
    }
}

pub(super) fn examine(conn: &Connection) -> Report {
    // One read transaction, so that a process that appends meanwhile does not look like a contradiction.
    match conn.unchecked_transaction() {
        Ok(tx) => Walk::new().over(&tx),
        Err(error) => Report::default().breaks(None, None, format!("the file cannot be read as a database: {error}")),
    }
}

/// What the spans so far have established.
struct Walk {
    /// Clock of each known span.
    known: HashMap<SpanId, Hlc>,
    /// Last span of each author.
    tips: HashMap<B64<32>, (u64, SpanId)>,
    /// The identity that the first certificate names; all others must name the same.
    identity: Option<B64<32>>,
    /// Chains that are certified by other identities: position, id and identity. Rotations must link each of them to the first.
    others: Vec<(u64, String, B64<32>)>,
    /// Which identity took the place of which, as both keys signed.
    rotations: Vec<(B64<32>, B64<32>)>,
    /// The tables made anew, for comparison.
    fresh: Option<Connection>,
    last: u64,
}

impl Walk {
    fn new() -> Walk {
        let fresh = Connection::open_in_memory().ok().filter(|conn| project::create(conn).is_ok());
        Walk { known: HashMap::new(), tips: HashMap::new(), identity: None, others: Vec::new(), rotations: Vec::new(), fresh, last: 0 }
    }

    fn over(mut self, conn: &Connection) -> Report {
        let mut report = Report { schema: schema_changes(conn), ..Report::default() };
        match self.spans(conn, &mut report) {
            Err(error) => {
                let after = if self.last == 0 { "at the beginning".to_owned() } else { format!("after span {}", self.last) };
                let what = format!("a page of the database is damaged: {error} (reading {after})");
                let pos = self.last + 1;
                return report.breaks(Some(pos), None, what);
            }
            Ok(Some(broken)) => {
                report.broken = Some(broken);
                return report;
            }
            Ok(None) => {}
        }
        if let Some(what) = damaged_pages(conn) {
            return report.breaks(None, None, what);
        }
        match project::cursor(conn) {
            Ok(Some(cursor)) if cursor > self.last as i64 => {
                let what = format!("the projections know of span {cursor}, but the ledger ends at span {}", self.last);
                return report.breaks(Some(self.last + 1), None, what);
            }
            Ok(Some(cursor)) if cursor == self.last as i64 => {}
            _ => report.projections.push("projection".to_owned()),
        }
        report.projections.extend(self.differences(conn));
        report
    }

    /// Checks span after span; the first that fails ends the walk.
    fn spans(&mut self, conn: &Connection, report: &mut Report) -> rusqlite::Result<Option<Broken>> {
        let mut statement = conn.prepare("SELECT pos, id, author, seq, kind, ms, n, bytes, signature FROM spans ORDER BY pos")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let pos = row.get::<_, i64>(0)?;
            let number = u64::try_from(pos).ok();
            let id = match row.get_ref(1)? {
                ValueRef::Text(text) => Some(String::from_utf8_lossy(text).chars().take(64).collect::<String>()),
                _ => None,
            };
            if let Err(what) = self.span(row, pos) {
                return Ok(Some(Broken { pos: number, id, what }));
            }
            report.spans += 1;
        }
        Ok(self.stranger())
    }

    fn span(&mut self, row: &Row<'_>, pos: i64) -> Result<(), String> {
        if pos != self.last as i64 + 1 {
            return Err(format!("span {} is missing before it", self.last + 1));
        }
        let bytes = column(row, 7, ValueRef::as_blob)?;
        let id = span::id_of(bytes);
        if column(row, 1, ValueRef::as_str)? != id.to_string() {
            return Err(format!("its bytes do not have its id; they hash to {id}"));
        }
        let span = Span::decode(bytes).map_err(|error| error.to_string())?;
        let signature = column(row, 8, ValueRef::as_blob)?.try_into().map_err(|_| "its signature is not 64 bytes long".to_owned())?;
        if !span::signed(&span.author, &id, signature) {
            return Err("its signature does not hold".to_owned());
        }
        columns_agree(row, &span)?;
        self.place(&span, id)?;
        self.certificate(&span, id)?;
        self.rotation(&span)?;
        self.last += 1;
        if let Some(fresh) = &self.fresh {
            project::apply(fresh, pos, &id.to_string(), &span).map_err(|error| format!("it cannot be projected: {error}"))?;
        }
        Ok(())
    }

    /// Its place in its author's chain, among the others, and in time.
    fn place(&mut self, span: &Span, id: SpanId) -> Result<(), String> {
        let tip = self.tips.get(&span.author);
        let (seq, prev) = (tip.map_or(0, |(seq, _)| seq + 1), tip.map(|(_, id)| *id));
        if span.seq != seq {
            return Err(format!("it is number {} of its author, expected number {seq}", span.seq));
        }
        if span.prev != prev {
            return Err("it does not follow its author's previous span".to_owned());
        }
        for before in span.deps.iter().chain(&span.prev) {
            let Some(hlc) = self.known.get(before) else { return Err(format!("it builds on span {before}, which is not there")) };
            if *hlc >= span.hlc {
                return Err(format!("its time is not after that of span {before}, on which it builds"));
            }
        }
        self.known.insert(id, span.hlc);
        self.tips.insert(span.author, (span.seq, id));
        Ok(())
    }

    /// A chain begins with the device's certificate by the one identity.
    fn certificate(&mut self, span: &Span, id: SpanId) -> Result<(), String> {
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
            self.others.push((self.last + 1, id.to_string(), body.identity));
        }
        Ok(())
    }

    /// An identity is followed by another only if both keys signed that.
    fn rotation(&mut self, span: &Span) -> Result<(), String> {
        if span.kind != kinds::IdentityRotated::KIND {
            return Ok(());
        }
        match kinds::parse::<kinds::IdentityRotated>(&span.body) {
            Ok(body) if super::devices::rotation_holds(&body) => self.rotations.push((body.old, body.new)),
            _ => return Err("the rotation of the identity in it does not hold".to_owned()),
        }
        Ok(())
    }

    /// The first chain of an identity that no rotation links to the one of this ledger.
    fn stranger(&self) -> Option<Broken> {
        let mut linked: Vec<B64<32>> = self.identity.into_iter().collect();
        loop {
            let next = self.rotations.iter().find_map(|(old, new)| match (linked.contains(old), linked.contains(new)) {
                (true, false) => Some(*new),
                (false, true) => Some(*old),
                _ => None,
            });
            match next {
                Some(next) => linked.push(next),
                None => break,
            }
        }
        let (pos, id, _) = self.others.iter().find(|(_, _, identity)| !linked.contains(identity))?;
        Some(Broken { pos: Some(*pos), id: Some(id.clone()), what: "its author is a device of another identity".to_owned() })
    }

    /// Projections that differ from those made anew.
    fn differences(&self, conn: &Connection) -> Vec<String> {
        let Some(fresh) = &self.fresh else { return Vec::new() };
        let same = |table: &&str| matches!((dump(conn, table), dump(fresh, table)), (Ok(found), Ok(expected)) if found == expected);
        project::TABLES.iter().filter(|table| !same(table)).map(|table| (*table).to_owned()).collect()
    }
}

fn column<'a, T>(row: &'a Row<'_>, index: usize, read: impl Fn(&ValueRef<'a>) -> rusqlite::types::FromSqlResult<T>) -> Result<T, String> {
    const NAMES: [&str; 9] = ["pos", "id", "author", "seq", "kind", "ms", "n", "bytes", "signature"];
    let unreadable = || format!("its column {} cannot be read", NAMES[index]);
    read(&row.get_ref(index).map_err(|_| unreadable())?).map_err(|_| unreadable())
}

/// The columns repeat the bytes for the sake of indexes; they must not say anything else.
fn columns_agree(row: &Row<'_>, span: &Span) -> Result<(), String> {
    let number = |index| column(row, index, ValueRef::as_i64).map(|n| u64::try_from(n).ok());
    let agree = [
        ("author", column(row, 2, ValueRef::as_str)? == span.author.to_string()),
        ("seq", number(3)? == Some(span.seq)),
        ("kind", column(row, 4, ValueRef::as_str)? == span.kind),
        ("ms", number(5)? == Some(span.hlc.ms)),
        ("n", number(6)? == Some(span.hlc.n)),
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
fn damaged_pages(conn: &Connection) -> Option<String> {
    match conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(answer) if answer == "ok" => None,
        Ok(answer) => Some(format!("the database is damaged outside of the spans: {answer}")),
        Err(error) => Some(format!("the database is damaged outside of the spans: {error}")),
    }
}

fn dump(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Vec<rusqlite::types::Value>>> {
    let mut statement = conn.prepare(&format!("SELECT * FROM {table} ORDER BY 1"))?;
    let columns = statement.column_count();
    statement.query_map([], |row| (0..columns).map(|i| row.get(i)).collect())?.collect()
}

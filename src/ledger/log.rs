//! Reading spans back for an audience: the log, one span by its id, and waiting for new ones. No span is read any other way.

use super::audience::{Audience, Eyes};
use super::keys;
use super::span::{B64, Span, SpanId};
use super::{Ledger, places, store};
use crate::error::{Code, Error, Result};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use serde::Serialize;
use serde_json::Value;

/// A span as it is stored.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Where this device accepted it, from 1.
    pub pos: u64,
    /// Its id.
    pub id: SpanId,
    /// What it says.
    pub span: Span,
    /// Its author's signature over the id.
    pub signature: B64<64>,
    /// The canonical bytes that were signed.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl Entry {
    /// What it is about, as in `machine/home`.
    pub fn key(&self) -> Option<String> {
        keys::of(&self.span)
    }

    /// Its place in the order that every device agrees on: its clock, then its author as text.
    pub(super) fn order(&self) -> (super::Hlc, String) {
        (self.span.hlc, self.span.author.to_string())
    }
}

/// Which spans to read.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A kind, with `*` and `?` as in a shell: `grant.*`.
    pub kind: Option<String>,
    /// Not older than this, Unix seconds.
    pub since: Option<u64>,
    /// Older than this, Unix seconds.
    pub until: Option<u64>,
    /// An author's key, or the beginning of it.
    pub author: Option<String>,
    /// What they are about, as in `machine/home`.
    pub key: Option<String>,
    /// Words that stand in the body, in small letters or capitals.
    pub grep: Option<String>,
    /// For whom; without it for the operator at this device.
    pub audience: Option<Audience>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

const COLUMNS: &str = "pos, id, bytes, signature";

impl Ledger {
    /// The spans that a filter lets through, oldest first.
    pub fn log(&self, filter: &Filter) -> Result<Vec<Entry>> {
        select(&self.conn(), filter, 0).map_err(|error| store::failed(self.path(), "read", error))
    }

    /// One span by its id or the beginning of it, as the operator at this device sees it.
    pub fn show(&self, id: &str) -> Result<Entry> {
        self.show_to(id, &Audience::ThisDevice)
    }

    /// One span by its id or the beginning of it. For who may not see it, it is not there.
    pub fn show_to(&self, id: &str, audience: &Audience) -> Result<Entry> {
        let id = id.trim();
        if id.is_empty() || !is_base64(id) {
            return Err(Error::new(Code::Usage, format!("{:?} is no id of a span", id.chars().take(60).collect::<String>()))
                .hint("copy one from: portdistrict ledger log"));
        }
        let sql = format!("SELECT {COLUMNS} FROM spans WHERE id >= ?1 AND id < ?1 || '~' AND pos IN ({})", places::BEGINNING);
        let conn = self.conn();
        let found = || {
            let eyes = Eyes::of(audience, &conn)?;
            read_visible(&conn, &eyes, &sql, vec![Sql::Text(id.to_owned())], 2, |_| true)
        };
        let mut found = found().map_err(|error| store::failed(self.path(), "read", error))?;
        match (found.len(), found.pop()) {
            (1, Some(entry)) => Ok(entry),
            (0, _) => Err(Error::new(Code::NotFound, format!("there is no span {id}")).hint("portdistrict ledger log")),
            _ => Err(Error::new(Code::Usage, format!("more than one span begins with {id}")).hint("give more of its id")),
        }
    }

    /// Waits for what comes after the newest span of now; see [`Follower::poll`].
    pub fn follow(&self, filter: Filter) -> Result<Follower> {
        let conn = store::open_read_only(self.path())?;
        let after = super::project::last_pos(&conn).map_err(|error| store::failed(self.path(), "read", error))?;
        Ok(Follower { conn, filter: Filter { limit: None, ..filter }, after, version: None, path: self.path().to_owned() })
    }
}

fn is_base64(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Sees what other connections and processes append.
#[derive(Debug)]
pub struct Follower {
    conn: Connection,
    filter: Filter,
    after: i64,
    version: Option<i64>,
    path: std::path::PathBuf,
}

impl Follower {
    /// What was appended since the last call. Cheap when nothing was: SQLite then only looks at a counter in shared memory.
    pub fn poll(&mut self) -> Result<Vec<Entry>> {
        let read = |error| store::failed(&self.path, "read", error);
        let version = self.conn.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)).map_err(read)?;
        if self.version == Some(version) {
            return Ok(Vec::new());
        }
        // A span that comes between the two queries is seen here and found again, empty, at the next call.
        let found = select(&self.conn, &self.filter, self.after).map_err(read)?;
        self.version = Some(version);
        if let Some(last) = found.last() {
            self.after = i64::try_from(last.pos).unwrap_or(i64::MAX);
        }
        Ok(found)
    }
}

fn select(conn: &Connection, filter: &Filter, after: i64) -> rusqlite::Result<Vec<Entry>> {
    let mut sql = format!("SELECT {COLUMNS} FROM spans WHERE pos > ?");
    let mut values = vec![Sql::Integer(after)];
    let mut and = |condition: &str, value: Option<Sql>| {
        if let Some(value) = value {
            sql += " AND ";
            sql += condition;
            values.push(value);
        }
    };
    let ms = |seconds: u64| Sql::Integer(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX));
    and("kind GLOB ?", filter.kind.clone().map(Sql::Text));
    and("ms >= ?", filter.since.map(ms));
    and("ms < ?", filter.until.map(ms));
    // No letter of base64url means anything to GLOB; what is not base64url begins no author's name.
    and("author GLOB ?", filter.author.as_ref().map(|begin| Sql::Text(if is_base64(begin) { format!("{begin}*") } else { String::new() })));
    and(&format!("pos IN ({})", places::OF_KEY), filter.key.as_ref().map(|key| Sql::Blob(keys::digest(key).to_vec())));
    sql += " ORDER BY pos DESC";
    let eyes = Eyes::of(filter.audience.as_ref().unwrap_or(&Audience::ThisDevice), conn)?;
    let words = filter.grep.as_ref().map(|words| words.to_lowercase());
    let wanted = |entry: &Entry| words.as_ref().is_none_or(|words| entry.span.body.values().any(|value| says(value, words)));
    let mut found = read_visible(conn, &eyes, &sql, values, filter.limit.unwrap_or(usize::MAX), wanted)?;
    found.reverse();
    Ok(found)
}

/// Whether words stand anywhere in a value.
fn says(value: &Value, words: &str) -> bool {
    match value {
        Value::String(text) => text.to_lowercase().contains(words),
        Value::Number(number) => number.to_string().contains(words),
        Value::Array(values) => values.iter().any(|value| says(value, words)),
        Value::Object(map) => map.values().any(|value| says(value, words)),
        Value::Null | Value::Bool(_) => false,
    }
}

/// At most so many entries that a query finds, the audience may see and the caller wants.
fn read_visible(
    conn: &Connection,
    eyes: &Eyes,
    sql: &str,
    values: Vec<Sql>,
    limit: usize,
    wanted: impl Fn(&Entry) -> bool,
) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        let entry = entry(row)?;
        if eyes.see(&entry.span) && wanted(&entry) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// The span at a position, if the audience may see it.
pub(super) fn at(conn: &Connection, eyes: &Eyes, pos: i64) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {COLUMNS} FROM spans WHERE pos = ?1");
    let found = conn.prepare_cached(&sql)?.query_row([pos], entry).optional()?;
    Ok(found.filter(|entry| eyes.see(&entry.span)))
}

/// A row of [`COLUMNS`].
fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let bytes: Vec<u8> = row.get(2)?;
    let broken = |column, kind, error| rusqlite::Error::FromSqlConversionFailure(column, kind, error);
    let span = Span::decode(&bytes).map_err(|error| broken(2, rusqlite::types::Type::Blob, Box::new(error)))?;
    let id = super::parse_id(row.get_ref(1)?.as_str()?)?;
    Ok(Entry { pos: super::unsigned(row.get(0)?), id, span, signature: B64(row.get(3)?), bytes })
}

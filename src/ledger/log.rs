//! Reading spans back: the log, one span by its id, and waiting for new ones.

use super::span::{B64, Span, SpanId};
use super::{Ledger, store};
use crate::error::{Code, Error, Result};
use rusqlite::{Connection, Row, params};
use serde::Serialize;

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

/// Which spans to read.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A kind, with `*` and `?` as in a shell: `grant.*`.
    pub kind: Option<String>,
    /// Not older than this, Unix seconds.
    pub since: Option<u64>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

const COLUMNS: &str = "pos, id, bytes, signature";

impl Ledger {
    /// The spans that a filter lets through, oldest first.
    pub fn log(&self, filter: &Filter) -> Result<Vec<Entry>> {
        select(&self.conn(), filter, 0).map_err(|error| store::failed(self.path(), "read", error))
    }

    /// One span by its id or the beginning of it.
    pub fn show(&self, id: &str) -> Result<Entry> {
        let id = id.trim();
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(Error::new(Code::Usage, format!("{:?} is no id of a span", id.chars().take(60).collect::<String>()))
                .hint("copy one from: portdistrict ledger log"));
        }
        let sql = format!("SELECT {COLUMNS} FROM spans WHERE id >= ?1 AND id < ?1 || '~' ORDER BY id LIMIT 2");
        let conn = self.conn();
        let found = || conn.prepare_cached(&sql)?.query_map([id], entry)?.collect::<rusqlite::Result<Vec<_>>>();
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
    let sql = format!(
        "SELECT {COLUMNS} FROM spans WHERE pos > ?1 AND (?2 IS NULL OR kind GLOB ?2) AND (?3 IS NULL OR ms >= ?3) ORDER BY pos DESC LIMIT ?4"
    );
    let since = filter.since.map(|s| i64::try_from(s.saturating_mul(1000)).unwrap_or(i64::MAX));
    let limit = filter.limit.map_or(-1, |n| i64::try_from(n).unwrap_or(-1));
    let mut found =
        conn.prepare_cached(&sql)?.query_map(params![after, filter.kind, since, limit], entry)?.collect::<rusqlite::Result<Vec<_>>>()?;
    found.reverse();
    Ok(found)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let bytes: Vec<u8> = row.get(2)?;
    let broken = |column, kind, error| rusqlite::Error::FromSqlConversionFailure(column, kind, error);
    let span = Span::decode(&bytes).map_err(|error| broken(2, rusqlite::types::Type::Blob, Box::new(error)))?;
    let id = super::parse_id(row.get_ref(1)?.as_str()?)?;
    Ok(Entry { pos: super::unsigned(row.get(0)?), id, span, signature: B64(row.get(3)?), bytes })
}

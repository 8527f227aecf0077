//! The append-only record of everything the operator decided: signed spans in SQLite, and tables read from them.
//!
//! Spans are only ever added, in one transaction with the projections they change, so a table never knows more or less
//! than the spans. Several processes may append at once: who is next in the chain is read inside the transaction.

mod admit;
mod devices;
mod grants;
mod hlc;
pub mod kinds;
mod log;
mod peers;
mod project;
mod query;
mod span;
mod store;
mod verify;

pub use devices::{Device, DeviceCode};
pub use grants::{Delivery, PassedOn};
pub use hlc::{Hlc, MAX_AHEAD_MS};
pub use log::{Entry, Filter, Follower};
pub use peers::{Peer, PeerEvent, PeerState, Peers};
pub use query::{Exit, GrantRow, Machine, MachineState, PolicyRow, Proof, Reuse, Revoked};
pub use span::{B64, MAX_SPAN, Span, SpanError, SpanId, id_of};
pub use verify::{Broken, Report, verify_file};

use crate::config::time;
use crate::error::{Code, Error, Result};
use ed25519_dalek::SigningKey;
use kinds::Body;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    conn: Mutex<Connection>,
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger for reading and appending; makes it if there is none. The folder must exist.
    pub fn open(path: &Path) -> Result<Ledger> {
        Ok(Ledger { conn: Mutex::new(store::open(path)?), path: path.to_owned() })
    }

    /// Opens an existing ledger without being able to change it; works on a read-only disk.
    pub fn open_read_only(path: &Path) -> Result<Ledger> {
        Ok(Ledger { conn: Mutex::new(store::open_read_only(path)?), path: path.to_owned() })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a span with a typed body. When this returns, the span survives a power cut.
    pub fn record<T: Body>(&self, author: &SigningKey, body: &T) -> Result<SpanId> {
        self.append_at(author, T::KIND, kinds::to_body(body)?, time::now_ms())
    }

    /// Appends a span of any kind; a known kind must have its fields.
    pub fn append(&self, author: &SigningKey, kind: &str, body: Value) -> Result<SpanId> {
        match body {
            Value::Object(body) => self.append_at(author, kind, body, time::now_ms()),
            _ => {
                Err(Error::new(Code::Failed, format!("the body of {kind} is no object")).hint("give an object, as in {\"label\":\"home\"}"))
            }
        }
    }

    /// [`Ledger::append`] at a given time.
    pub(crate) fn append_at(&self, author: &SigningKey, kind: &str, body: Map<String, Value>, now_ms: u64) -> Result<SpanId> {
        kinds::check(kind, &body)?;
        let fail = |error| store::failed(&self.path, "append to", error);
        let conn = self.conn();
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate).map_err(fail)?;
        let (pos, last) = read_tip(&tx).map_err(fail)?.ok_or_else(|| lost_spans(&self.path))?;
        let public = B64(author.verifying_key().to_bytes());
        let previous = previous_of(&tx, &public).map_err(fail)?;
        admit::check(&tx, &public, previous.is_none(), kind, &body).map_err(fail)??;
        let span = Span {
            v: span::VERSION,
            author: public,
            seq: previous.map_or(0, |(_, seq)| seq + 1),
            prev: previous.map(|(id, _)| id),
            deps: other_heads(&tx, previous.map(|(id, _)| id)).map_err(fail)?,
            hlc: Hlc::after(last, now_ms)?,
            kind: kind.to_owned(),
            body,
        };
        let bytes = span.encode()?;
        let id = id_of(&bytes);
        insert(&tx, pos, &id, &span, &bytes, &span::sign(author, &id)).map_err(fail)?;
        project::advance(&tx).map_err(fail)?;
        tx.commit().map_err(fail)?;
        Ok(id)
    }

    /// Drops every projection and makes it again from the spans. Returns how many spans were read.
    pub fn rebuild(&self) -> Result<u64> {
        let fail = |error| store::failed(&self.path, "rebuild", error);
        let conn = self.conn();
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate).map_err(fail)?;
        let count = project::rebuild(&tx).map_err(fail)?;
        tx.commit().map_err(fail)?;
        Ok(count)
    }

    /// Checks every span, every chain and every projection.
    pub fn verify(&self) -> Result<Report> {
        Ok(verify::examine(&self.conn()))
    }

    /// A panic while the lock was held left no half made transaction: dropping one rolls it back.
    fn conn(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next position and the newest clock; `None` if the projections know of spans that are not there any more.
fn read_tip(conn: &Connection) -> rusqlite::Result<Option<(i64, Option<Hlc>)>> {
    let pos = project::last_pos(conn)?;
    if project::cursor(conn)? != Some(pos) {
        return Ok(None);
    }
    let newest = conn
        .prepare_cached("SELECT ms, n FROM spans ORDER BY ms DESC, n DESC LIMIT 1")?
        .query_row([], |row| Ok(Hlc { ms: unsigned(row.get(0)?), n: unsigned(row.get(1)?) }))
        .optional()?;
    Ok(Some((pos + 1, newest)))
}

fn previous_of(conn: &Connection, author: &B64<32>) -> rusqlite::Result<Option<(SpanId, u64)>> {
    conn.prepare_cached("SELECT id, seq FROM spans WHERE author = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([author.to_string()], |row| Ok((parse_id(row.get_ref(0)?.as_str()?)?, unsigned(row.get(1)?))))
        .optional()
}

/// The heads besides the author's own last span, ascending by bytes as the format wants them.
fn other_heads(conn: &Connection, prev: Option<SpanId>) -> rusqlite::Result<Vec<SpanId>> {
    let mut heads = conn
        .prepare_cached("SELECT id FROM heads LIMIT ?1")?
        .query_map([span::MAX_DEPS as i64], |row| parse_id(row.get_ref(0)?.as_str()?))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    heads.retain(|head| Some(*head) != prev);
    heads.sort_unstable();
    Ok(heads)
}

fn insert(conn: &Connection, pos: i64, id: &SpanId, span: &Span, bytes: &[u8], signature: &[u8; 64]) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO spans (pos, id, author, seq, kind, ms, n, bytes, signature) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        pos,
        id.to_string(),
        span.author.to_string(),
        span.seq as i64,
        span.kind,
        span.hlc.ms as i64,
        span.hlc.n as i64,
        bytes,
        signature
    ])
    .map(|_| ())
}

fn parse_id(text: &str) -> rusqlite::Result<SpanId> {
    text.parse().map_err(|error: Error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn lost_spans(path: &Path) -> Error {
    Error::new(Code::Ledger, format!("the ledger {} has lost spans that its tables still know of; nothing was appended", path.display()))
        .hint("see what is broken with `portdistrict ledger verify`, then restore the file from a backup")
}

#[cfg(test)]
mod tests;

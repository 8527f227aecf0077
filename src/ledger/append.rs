//! Appending: one span or many in one transaction, so that all of them survive a power cut or none.

use super::audience::{MEMBER, Visibility};
use super::kinds::{self, Body};
use super::project::{self, Marks, Projector, Ready};
use super::span::{self, B64, Span, SpanId, id_of};
use super::{Hlc, Ledger, admit, dag, parse_id, places, store, unsigned};
use crate::config::time;
use crate::error::{Code, Error, Result};
use ed25519_dalek::SigningKey;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::mpsc;

/// From so many spans on, signatures are made on a second processor while the first writes.
const WORTH_A_THREAD: usize = 8;

/// What is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    kind: String,
    body: Map<String, Value>,
    /// Made of a typed body, which needs no check of its fields.
    typed: bool,
}

impl Draft {
    /// A span with a typed body.
    pub fn of<T: Body>(body: &T) -> Result<Draft> {
        Ok(Draft { kind: T::KIND.to_owned(), body: kinds::to_body(body)?, typed: true })
    }

    /// A span of any kind; a known kind must have its fields.
    pub fn new(kind: &str, body: Value) -> Result<Draft> {
        match body {
            Value::Object(body) => Ok(Draft { kind: kind.to_owned(), body, typed: false }),
            _ => {
                Err(Error::new(Code::Failed, format!("the body of {kind} is no object")).hint("give an object, as in {\"label\":\"home\"}"))
            }
        }
    }

    /// Says who may see it.
    #[must_use]
    pub fn seen_by(mut self, visibility: &Visibility) -> Draft {
        match visibility.member() {
            Some(member) => self.body.insert(MEMBER.to_owned(), member),
            None => self.body.remove(MEMBER),
        };
        self
    }
}

/// A span that waits for its signature.
struct Made {
    pos: i64,
    id: SpanId,
    ready: Ready,
    bytes: Vec<u8>,
}

impl Ledger {
    /// Appends a span with a typed body. When this returns, the span survives a power cut.
    pub fn record<T: Body>(&self, author: &SigningKey, body: &T) -> Result<SpanId> {
        self.record_one(author, Draft::of(body)?, time::now_ms())
    }

    /// Appends a span of any kind; a known kind must have its fields.
    pub fn append(&self, author: &SigningKey, kind: &str, body: Value) -> Result<SpanId> {
        self.record_one(author, Draft::new(kind, body)?, time::now_ms())
    }

    /// Appends all of these, in this order, or none of them. When this returns, they survive a power cut.
    pub fn record_batch(&self, author: &SigningKey, drafts: Vec<Draft>) -> Result<Vec<SpanId>> {
        self.record_at(author, drafts, time::now_ms())
    }

    /// [`Ledger::append`] at a given time.
    #[cfg(test)]
    pub(crate) fn append_at(&self, author: &SigningKey, kind: &str, body: Map<String, Value>, now_ms: u64) -> Result<SpanId> {
        self.record_one(author, Draft { kind: kind.to_owned(), body, typed: false }, now_ms)
    }

    fn record_one(&self, author: &SigningKey, draft: Draft, now_ms: u64) -> Result<SpanId> {
        let ids = self.record_at(author, vec![draft], now_ms)?;
        ids.first().copied().ok_or_else(|| Error::new(Code::Failed, "nothing was recorded").hint("portdistrict ledger verify"))
    }

    fn record_at(&self, author: &SigningKey, drafts: Vec<Draft>, now_ms: u64) -> Result<Vec<SpanId>> {
        for draft in drafts.iter().filter(|draft| !draft.typed) {
            kinds::check(&draft.kind, &draft.body)?;
        }
        let fail = |error| store::failed(self.path(), "append to", error);
        let conn = self.conn();
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate).map_err(fail)?;
        let ids = write(&tx, self.path(), author, drafts, now_ms)?;
        tx.commit().map_err(fail)?;
        Ok(ids)
    }
}

fn write(tx: &Connection, path: &Path, author: &SigningKey, drafts: Vec<Draft>, now_ms: u64) -> Result<Vec<SpanId>> {
    let fail = |error| store::failed(path, "append to", error);
    if drafts.len() < WORTH_A_THREAD {
        let made = make(tx, path, author, drafts, now_ms, |_| {})?;
        return insert_all(tx, made, |id| Some(span::sign(author, id))).map_err(fail);
    }
    std::thread::scope(|scope| {
        let (ask, asked) = mpsc::channel::<SpanId>();
        let (signed, signatures) = mpsc::channel();
        scope.spawn(move || asked.iter().all(|id| signed.send(span::sign(author, &id)).is_ok()));
        let made = make(tx, path, author, drafts, now_ms, |id| _ = ask.send(id))?;
        drop(ask);
        insert_all(tx, made, |_| signatures.recv().ok()).map_err(fail)
    })
}

/// Makes the spans, each on the one before, and changes the tables. `ask` is told each id as soon as it can be signed.
fn make(tx: &Connection, path: &Path, author: &SigningKey, drafts: Vec<Draft>, now_ms: u64, ask: impl Fn(SpanId)) -> Result<Vec<Made>> {
    let fail = |error| store::failed(path, "append to", error);
    let (mut pos, mut last) = read_tip(tx).map_err(fail)?.ok_or_else(|| lost_spans(path))?;
    let public = B64(author.verifying_key().to_bytes());
    let mut previous = previous_of(tx, &public).map_err(fail)?;
    let mut deps = other_heads(tx, &public).map_err(fail)?;
    let mut projector = Projector::new(tx, tx, Marks::Tail);
    let mut made = Vec::with_capacity(drafts.len());
    let mut admitted = false;
    for Draft { kind, body, .. } in drafts {
        admit::check(tx, &public, previous.is_none(), admitted, &kind, &body).map_err(fail)??;
        // Within the batch only what is said of devices can change that.
        admitted = !kind.starts_with("device.");
        let hlc = Hlc::after(last, now_ms)?;
        let (seq, prev) = (previous.map_or(0, |(_, seq)| seq + 1), previous.map(|(id, _)| id));
        let span = Span { v: span::VERSION, author: public, seq, prev, deps: std::mem::take(&mut deps), hlc, kind, body };
        let bytes = span.encode()?;
        let id = id_of(&bytes);
        ask(id);
        let ready = Ready::new(span, id.to_string());
        projector.apply(pos, &ready).map_err(fail)?;
        (previous, last) = (Some((id, seq)), Some(hlc));
        made.push(Made { pos, id, ready, bytes });
        pos += 1;
    }
    Ok(made)
}

fn insert_all(tx: &Connection, made: Vec<Made>, mut signature: impl FnMut(&SpanId) -> Option<[u8; 64]>) -> rusqlite::Result<Vec<SpanId>> {
    let mut ids = Vec::with_capacity(made.len());
    for Made { pos, id, ready, bytes } in made {
        let signature = signature(&id).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        insert(tx, pos, &ready.id, &ready.span, &bytes, &signature)?;
        ids.push(id);
    }
    places::merge_if_long(tx)?;
    Ok(ids)
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

/// The author's last span, also one that came back from elsewhere without its content: a chain never forks.
fn previous_of(conn: &Connection, author: &B64<32>) -> rusqlite::Result<Option<(SpanId, u64)>> {
    let author = author.to_string();
    let mut last: Option<(SpanId, u64)> = None;
    for table in ["spans", "withheld"] {
        let sql = format!("SELECT id, seq FROM {table} WHERE author = ?1 ORDER BY seq DESC LIMIT 1");
        let read = |row: &Row<'_>| Ok((parse_id(row.get_ref(0)?.as_str()?)?, unsigned(row.get(1)?)));
        let found = conn.prepare_cached(&sql)?.query_row([&author], read).optional()?;
        last = if last.map(|(_, seq)| seq) >= found.map(|(_, seq)| seq) { last } else { found };
    }
    Ok(last)
}

/// The heads of others, ascending by bytes as the format wants them.
fn other_heads(conn: &Connection, author: &B64<32>) -> rusqlite::Result<Vec<SpanId>> {
    let author = author.to_string();
    let mut heads: Vec<SpanId> = dag::heads(conn)?.into_iter().filter(|(name, _)| *name != author).map(|(_, id)| id).collect();
    heads.truncate(span::MAX_DEPS);
    heads.sort_unstable();
    Ok(heads)
}

pub(super) fn insert(conn: &Connection, pos: i64, id: &str, span: &Span, bytes: &[u8], signature: &[u8; 64]) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO spans (pos, id, author, seq, kind, ms, n, bytes, signature) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![pos, id, span.author.to_string(), span.seq as i64, span.kind, span.hlc.ms as i64, span.hlc.n as i64, bytes, signature])
    .map(|_| ())
}

fn lost_spans(path: &Path) -> Error {
    Error::new(Code::Ledger, format!("the ledger {} has lost spans that its tables still know of; nothing was appended", path.display()))
        .hint("see what is broken with `portdistrict ledger verify`, then restore the file from a backup")
}

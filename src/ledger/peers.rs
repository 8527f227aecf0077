//! Peers: what their spans come to, in whatever order they arrive, and answers about them.
//!
//! Every span of a peer is kept as an event, also after the peer was forgotten; the row of a peer is made anew from all its
//! events, in the order of their clocks. A span that says nothing sensible is kept as a fault and reported.

use super::Ledger;
use super::admit::{missing, taken};
use super::kinds::{self, Body, PeerAdded, PeerDemoted, PeerTrusted, PeerVerified};
use super::query::{not_found, parsed, parsed_some, uint};
use super::span::{B64, Span, SpanId};
use crate::config::Label;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

pub(super) const SCHEMA: &str = "
CREATE TABLE peers (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, sealing TEXT, client TEXT, name TEXT NOT NULL, state TEXT NOT NULL, provenance TEXT NOT NULL,
  endpoint TEXT, issued INTEGER, verified TEXT, added_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, span TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX peers_by_name ON peers (name);
CREATE TABLE peer_events (
  span TEXT NOT NULL, peer TEXT NOT NULL, ms INTEGER NOT NULL, n INTEGER NOT NULL, author TEXT NOT NULL, event TEXT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (span, peer)
) STRICT, WITHOUT ROWID;
CREATE INDEX peer_events_by_peer ON peer_events (peer, ms, n, author);
CREATE TABLE peer_faults (span TEXT PRIMARY KEY, what TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// The event of a key that another one took the place of.
const SUCCEEDED: &str = "succeeded";

/// How far a peer is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Its key is known, and nobody checked whose it is.
    Seen,
    /// The same words were read on both sides.
    Verified,
    /// The owner trusts it.
    Trusted,
    /// Its key is not to be believed any more.
    Revoked,
}

impl PeerState {
    /// Every state.
    pub const ALL: [PeerState; 4] = [PeerState::Seen, PeerState::Verified, PeerState::Trusted, PeerState::Revoked];

    /// The word in spans, JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Seen => "seen",
            PeerState::Verified => "verified",
            PeerState::Trusted => "trusted",
            PeerState::Revoked => "revoked",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for PeerState {
    type Err = Error;
    fn from_str(text: &str) -> Result<PeerState> {
        PeerState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            Error::new(Code::Usage, format!("{text:?} is no state of a peer")).hint("one of seen, verified, trusted, revoked")
        })
    }
}

/// A peer that was added and not forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// The node id of its key.
    pub id: String,
    /// Its Ed25519 identity key.
    pub key: B64<32>,
    /// The X25519 key to seal to; absent if only its key was handed over.
    pub sealing: Option<B64<32>>,
    /// The X25519 key of its device as a client of nodes.
    pub client: Option<B64<32>>,
    /// What it is called here.
    pub name: Label,
    /// How far it is believed.
    pub state: PeerState,
    /// How its key came here: `blob`, `adopted` or `rotated`.
    pub provenance: String,
    /// `host:port` where it was seen.
    pub endpoint: Option<String>,
    /// When its blob was made, Unix seconds.
    pub issued: Option<u64>,
    /// How it was verified: `words` or `qr`.
    pub verified: Option<String>,
    /// Unix milliseconds.
    pub added_ms: u64,
    /// Unix milliseconds.
    pub changed_ms: u64,
    /// The span that changed it last.
    pub span: SpanId,
}

/// One thing that happened to a peer.
#[derive(Clone, Debug, Serialize)]
pub struct PeerEvent {
    /// Unix milliseconds.
    pub ms: u64,
    /// `added`, `verified`, `trusted`, `demoted`, `revoked`, `forgotten`, `refused` or `succeeded`.
    pub event: String,
    /// What the span says.
    pub body: Map<String, Value>,
    /// Which span.
    pub span: SpanId,
}

/// Every peer, and what cannot be read.
#[derive(Clone, Debug)]
pub struct Peers {
    /// By name.
    pub peers: Vec<Peer>,
    /// Rows and spans that say nothing sensible, one sentence each.
    pub faults: Vec<String>,
}

const COLUMNS: &str =
    "SELECT id, key, sealing, client, name, state, provenance, endpoint, issued, verified, added_ms, changed_ms, span FROM peers";

impl Ledger {
    /// Every peer, by name; in one state only if that is asked for. What cannot be read is named beside them.
    pub fn peers(&self, state: Option<PeerState>) -> Result<Peers> {
        let sql = format!("{COLUMNS} WHERE ?1 IS NULL OR state = ?1 ORDER BY name, id");
        let found = self.rows(&sql, [state.map(PeerState::as_str)], |row| Ok(peer(row).map_err(|error| broken(row, &error))))?;
        let mut all = Peers { peers: Vec::with_capacity(found.len()), faults: Vec::new() };
        for row in found {
            match row {
                Ok(peer) => all.peers.push(peer),
                Err(what) => all.faults.push(what),
            }
        }
        let faults = self.rows("SELECT span, what FROM peer_faults ORDER BY span", [], |row| {
            Ok(format!("span {}: {}", row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        all.faults.extend(faults);
        Ok(all)
    }

    /// One peer by its name or id.
    pub fn peer(&self, name_or_id: &str) -> Result<Peer> {
        let sql = format!("{COLUMNS} WHERE name = ?1 OR id = ?1 ORDER BY id = ?1 DESC LIMIT 3");
        let mut found = self.rows(&sql, [name_or_id], |row| Ok(peer(row).map_err(|error| broken(row, &error))))?;
        if found.len() > 1 && found.iter().flatten().all(|peer| peer.id != name_or_id) {
            let ids = found.iter().flatten().map(|peer| peer.id.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::new(Code::Usage, format!("more than one peer is called `{name_or_id}`: {ids}"))
                .hint("give its id; two devices added them at the same time"));
        }
        if found.is_empty() {
            return Err(not_found("peer", name_or_id, "portdistrict peer list"));
        }
        found.swap_remove(0).map_err(|what| Error::new(Code::Ledger, what).hint("portdistrict ledger rebuild"))
    }

    /// One peer by its id, if it is known.
    pub fn peer_by_id(&self, id: &str) -> Result<Option<Peer>> {
        match self.peer(id) {
            Ok(peer) => Ok(Some(peer).filter(|peer| peer.id == id)),
            Err(error) if error.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of peers that begin with these letters, and what to say of each; for completion.
    pub fn peer_names(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let sql = "SELECT name, state FROM peers WHERE name >= ?1 AND name < ?1 || '~' ORDER BY name";
        self.rows(sql, [prefix], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Everything that ever happened to a peer, oldest first, also what came before it was forgotten.
    pub fn peer_history(&self, id: &str) -> Result<Vec<PeerEvent>> {
        let sql = "SELECT ms, event, body, span FROM peer_events WHERE peer = ?1 ORDER BY ms, n, author, span";
        self.rows(sql, [id], |row| {
            let body = serde_json::from_str(row.get_ref(2)?.as_str()?).unwrap_or_default();
            Ok(PeerEvent { ms: uint(row, 0)?, event: row.get(1)?, body, span: parsed(row, 3)? })
        })
    }

    /// The id of the key that took the place of this one.
    pub fn peer_successor(&self, id: &str) -> Result<Option<String>> {
        let found = self.peer_history(id)?.into_iter().rev().find(|event| event.event == SUCCEEDED);
        Ok(found.and_then(|event| event.body.get("id")?.as_str().map(str::to_owned)))
    }
}

fn peer(row: &Row<'_>) -> rusqlite::Result<Peer> {
    let peer = Peer {
        id: row.get(0)?,
        key: parsed(row, 1)?,
        sealing: parsed_some(row, 2)?,
        client: parsed_some(row, 3)?,
        name: parsed(row, 4)?,
        state: parsed(row, 5)?,
        provenance: row.get(6)?,
        endpoint: row.get(7)?,
        issued: row.get::<_, Option<i64>>(8)?.and_then(|n| u64::try_from(n).ok()),
        verified: row.get(9)?,
        added_ms: uint(row, 10)?,
        changed_ms: uint(row, 11)?,
        span: parsed(row, 12)?,
    };
    if node_id(&peer.key.0) == peer.id {
        return Ok(peer);
    }
    let mixed = Error::new(Code::Ledger, "its key is not that of its id");
    Err(rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(mixed)))
}

fn broken(row: &Row<'_>, error: &rusqlite::Error) -> String {
    let id = row.get::<_, String>(0).unwrap_or_default();
    format!("the row of peer {:?} is damaged: {error}", id.chars().take(40).collect::<String>())
}

/// Whether spans of this kind may be applied in any order, and more than once.
pub(super) fn takes_any_order(kind: &str) -> bool {
    kind.starts_with("peer.")
}

/// Keeps one span of a peer and makes the rows anew that it concerns.
pub(super) fn apply(conn: &Connection, id: &str, span: &Span) -> rusqlite::Result<()> {
    let events = match events(span) {
        Ok(events) => events,
        Err(what) => {
            return conn.prepare_cached("INSERT OR REPLACE INTO peer_faults (span, what) VALUES (?1, ?2)")?.execute([id, &what]).map(drop);
        }
    };
    for (peer, event, body) in events {
        let (ms, n) = (i64::try_from(span.hlc.ms).unwrap_or(i64::MAX), i64::try_from(span.hlc.n).unwrap_or(i64::MAX));
        conn.prepare_cached(
            "INSERT OR REPLACE INTO peer_events (span, peer, ms, n, author, event, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![id, peer, ms, n, span.author.to_string(), event, Value::Object(body).to_string()])?;
        fold(conn, &peer)?;
    }
    Ok(())
}

/// A peer's id, what happened to it, and what the span says.
type Event<'a> = (String, &'a str, Map<String, Value>);

/// To which peers a span says what. A kind of a later version says nothing.
fn events(span: &Span) -> Result<Vec<Event<'_>>, String> {
    let unreadable = |error: Error| format!("{}: {}", error.message(), error.causes().join("; "));
    let Some(event) = span.kind.strip_prefix("peer.").filter(|_| kinds::KNOWN.contains(&span.kind.as_str())) else { return Ok(Vec::new()) };
    kinds::check(&span.kind, &span.body).map_err(unreadable)?;
    let id = span.body.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut all = Vec::new();
    if span.kind == PeerAdded::KIND {
        let body: PeerAdded = kinds::parse(&span.body).map_err(unreadable)?;
        if node_id(&body.key.0) != id {
            return Err(format!("the key in this peer.added is not that of {id}"));
        }
        if let Some(old) = body.succeeds {
            all.push((old.id, SUCCEEDED, span.body.clone()));
        }
    }
    all.push((id, event, span.body.clone()));
    Ok(all)
}

/// What is known of a peer so far.
struct Folded {
    body: PeerAdded,
    state: PeerState,
    verified: Option<String>,
    added_ms: i64,
    changed_ms: i64,
    span: String,
}

/// Makes the row of a peer from its events.
fn fold(conn: &Connection, id: &str) -> rusqlite::Result<()> {
    let mut statement =
        conn.prepare_cached("SELECT ms, event, body, span FROM peer_events WHERE peer = ?1 ORDER BY ms, n, author, span")?;
    let mut rows = statement.query([id])?;
    let mut now: Option<Folded> = None;
    while let Some(row) = rows.next()? {
        let body: Map<String, Value> = serde_json::from_str(row.get_ref(2)?.as_str()?).unwrap_or_default();
        let (ms, span) = (row.get(0)?, row.get::<_, String>(3)?);
        let event = row.get_ref(1)?.as_str()?;
        step(&mut now, event, &body, ms);
        // A key that was refused says something about whoever sent it, and changes nothing here.
        if let Some(now) = now.as_mut().filter(|_| event != "refused") {
            (now.changed_ms, now.span) = (ms, span);
        }
    }
    conn.prepare_cached("DELETE FROM peers WHERE id = ?1")?.execute([id])?;
    match now {
        Some(now) => store_row(conn, &now),
        None => Ok(()),
    }
}

/// One event more. A revoked peer stays revoked until it is forgotten.
fn step(now: &mut Option<Folded>, event: &str, body: &Map<String, Value>, ms: i64) {
    if event == "added" {
        if let Ok(body) = kinds::parse::<PeerAdded>(body) {
            added(now, body, ms);
        }
        return;
    }
    if matches!(event, "forgotten" | SUCCEEDED) {
        *now = None;
        return;
    }
    let Some(now) = now.as_mut().filter(|now| now.state != PeerState::Revoked) else { return };
    match event {
        "verified" => {
            now.verified = kinds::parse::<PeerVerified>(body).ok().map(|body| body.how);
            now.state = now.state.max(PeerState::Verified);
        }
        "trusted" if kinds::parse::<PeerTrusted>(body).is_ok() => now.state = PeerState::Trusted,
        "demoted" => {
            let to = kinds::parse::<PeerDemoted>(body).ok().and_then(|body| body.to.parse().ok());
            now.state = now.state.min(to.unwrap_or(PeerState::Seen));
            if now.state == PeerState::Seen {
                now.verified = None;
            }
        }
        "revoked" => now.state = PeerState::Revoked,
        _ => {}
    }
}

fn added(now: &mut Option<Folded>, body: PeerAdded, ms: i64) {
    match now {
        // A newer blob of the same key changes nothing about how far it is believed, nor how it came first.
        Some(known) => known.body = PeerAdded { provenance: known.body.provenance.clone(), ..body },
        None => {
            let state = body.succeeds.as_ref().and_then(|old| old.state.parse().ok()).unwrap_or(PeerState::Seen);
            let verified = body.succeeds.as_ref().and_then(|old| old.verified.clone());
            *now = Some(Folded { body, state, verified, added_ms: ms, changed_ms: ms, span: String::new() });
        }
    }
}

fn store_row(conn: &Connection, now: &Folded) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO peers (id, key, sealing, client, name, state, provenance, endpoint, issued, verified, added_ms, changed_ms, span)
         VALUES (:id, :key, :sealing, :client, :name, :state, :provenance, :endpoint, :issued, :verified, :added, :changed, :span)",
    )?
    .execute(named_params! {
        ":id": now.body.id, ":key": now.body.key.to_string(), ":sealing": now.body.sealing.map(|key| key.to_string()),
        ":client": now.body.client.map(|key| key.to_string()), ":name": now.body.name.as_str(), ":state": now.state.as_str(),
        ":provenance": now.body.provenance, ":endpoint": now.body.endpoint,
        ":issued": now.body.issued.and_then(|n| i64::try_from(n).ok()), ":verified": now.verified, ":added": now.added_ms,
        ":changed": now.changed_ms, ":span": now.span,
    })
    .map(drop)
}

/// A new peer has the id of its key and a name of its own, and is not one that was revoked or replaced.
pub(super) fn admit_added(conn: &Connection, body: &Map<String, Value>) -> rusqlite::Result<Result<()>> {
    let body: PeerAdded = match kinds::parse(body) {
        Ok(body) => body,
        Err(error) => return Ok(Err(error)),
    };
    if node_id(&body.key.0) != body.id {
        return Ok(Err(Error::new(Code::Failed, format!("the key of peer {} is not that of its id", body.id))
            .hint("run the command again with the blob as it was sent")));
    }
    if state_of(conn, &body.id)?.as_deref() == Some(PeerState::Revoked.as_str()) {
        return Ok(Err(revoked(&body.id)));
    }
    if let Some(old) = &body.succeeds {
        let before = state_of(conn, &old.id)?;
        if before.as_deref() != Some(old.state.as_str()) {
            return Ok(Err(Error::new(Code::Exists, format!("peer {} has changed in this moment", old.id)).hint("run the command again")));
        }
    }
    let before = body.succeeds.as_ref().map_or("", |old| &old.id);
    let other = conn.prepare_cached("SELECT 1 FROM peers WHERE name = ?1 AND id <> ?2 AND id <> ?3")?.exists([
        body.name.as_str(),
        &body.id,
        before,
    ])?;
    Ok(taken(other, "a peer", body.name.as_str(), "portdistrict peer show"))
}

/// Everything else needs a peer that is known; what raises it, one that is not revoked.
pub(super) fn admit(conn: &Connection, kind: &str, id: &str) -> rusqlite::Result<Result<()>> {
    let state = state_of(conn, id)?;
    if matches!(kind, PeerVerified::KIND | PeerTrusted::KIND | PeerDemoted::KIND) && state.as_deref() == Some(PeerState::Revoked.as_str()) {
        return Ok(Err(revoked(id)));
    }
    Ok(missing(state.is_some(), "peer", id, "portdistrict peer list"))
}

fn state_of(conn: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT state FROM peers WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

fn revoked(id: &str) -> Error {
    Error::new(Code::Refused, format!("peer {id} was revoked; its key is not believed any more"))
        .hint(format!("if that was a mistake: portdistrict peer forget {id}, then add it again"))
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;

//! The one path from spans to tables that answer questions (LT2). A cursor says how far it has come; the tables may be
//! dropped at any time and are made again from the spans.
//!
//! What the spans of one key say is read in the order of their clocks, then authors, which is the same on every device. One that
//! arrives after a later one makes its key be read anew, so the tables do not depend on the order of arrival. Therefore a span
//! changes nothing but rows of its own key, and without a key it changes nothing. (Peers put their events in order themselves.)

use super::devices;
use super::kinds::{self, Body};
use super::span::{B64, Span};
use super::{dag, keys, parallel, peers, resources};
use crate::config::Label;
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, named_params, params};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

/// Raised whenever a table or the way it is filled changes; an older file is then rebuilt when it is opened.
const VERSION: i64 = 11;

/// A table that spans fill.
pub(super) struct Table {
    /// Its name.
    pub(super) name: &'static str,
    /// The noun of the keys it is about, and the column with their names; none for what is about the history itself.
    key: Option<(&'static str, &'static str)>,
    /// All that it says, in one order, with authors by name: their numbers depend on who arrived first.
    pub(super) dump: &'static str,
}

const fn about(name: &'static str, noun: &'static str, column: &'static str, dump: &'static str) -> Table {
    Table { name, key: Some((noun, column)), dump }
}

/// The tables, in the order they are made.
pub(super) const TABLES: [Table; 27] = [
    Table { name: "chains", key: None, dump: "SELECT author FROM chains ORDER BY 1" },
    Table { name: "heads", key: None, dump: "SELECT * FROM heads ORDER BY 1" },
    Table {
        name: "known",
        key: None,
        dump: "SELECT a.author, b.author, seq, upto FROM known JOIN chains a ON a.n = known.chain JOIN chains b ON b.n = known.other ORDER BY 1, 2, 3",
    },
    Table { name: "keys", key: None, dump: "SELECT pos, key, author, seq FROM keys JOIN chains ON chains.n = keys.chain ORDER BY 1" },
    about("machines", "machine", "label", "SELECT * FROM machines ORDER BY 1"),
    about("grants", "grant", "id", "SELECT * FROM grants ORDER BY 1"),
    about("reuses", "grant", "id", "SELECT * FROM reuses ORDER BY 1, 2"),
    about("exits", "exit", "name", "SELECT * FROM exits ORDER BY 1"),
    about("pins", "node", "address", "SELECT * FROM pins ORDER BY 1"),
    about("proofs", "evidence", "node_key", "SELECT * FROM proofs ORDER BY 1"),
    about("proved", "evidence", "node_key", "SELECT * FROM proved ORDER BY 1"),
    about("points", "evidence", "node_key", "SELECT * FROM points ORDER BY 1, 2"),
    about("groups", "group", "name", "SELECT * FROM groups ORDER BY 1, 2"),
    // One key for all, so no column names it.
    about("policies", "policy", "'owner'", "SELECT * FROM policies ORDER BY 1"),
    about("rules_heard", "rules", "node_key", "SELECT * FROM rules_heard ORDER BY 1"),
    about("passed_on", "grant", "id", "SELECT * FROM passed_on ORDER BY 1"),
    about("deliveries", "grant", "id", "SELECT * FROM deliveries ORDER BY 1, 2"),
    about("leases", "lease", "node_key", "SELECT * FROM leases ORDER BY 1"),
    about("rotations", "identity", "old", "SELECT * FROM rotations ORDER BY 1, 2"),
    about("certificates", "identity", "old", "SELECT * FROM certificates ORDER BY 1, 2, 3"),
    about("described", "chain", "key", "SELECT * FROM described ORDER BY 1"),
    about("devices", "device", "key", "SELECT * FROM devices ORDER BY 1"),
    about("device_codes", "code", "id", "SELECT * FROM device_codes ORDER BY 1"),
    about("resources", "resource", "id", "SELECT * FROM resources ORDER BY 1"),
    // Made of events that are put in order there, and one span may be an event of two peers: nothing to clear.
    Table { name: "peers", key: None, dump: "SELECT * FROM peers ORDER BY 1" },
    Table { name: "peer_events", key: None, dump: "SELECT * FROM peer_events ORDER BY 1, 2" },
    Table { name: "peer_faults", key: None, dump: "SELECT * FROM peer_faults ORDER BY 1" },
];

const SCHEMA: &str = "
CREATE TABLE projection (version INTEGER NOT NULL, cursor INTEGER NOT NULL) STRICT;
CREATE TABLE chains (n INTEGER PRIMARY KEY, author TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE heads (author TEXT PRIMARY KEY, id TEXT NOT NULL, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE known (
  chain INTEGER NOT NULL, other INTEGER NOT NULL, seq INTEGER NOT NULL, upto INTEGER NOT NULL, PRIMARY KEY (chain, other, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (pos INTEGER PRIMARY KEY, key BLOB NOT NULL, chain INTEGER NOT NULL, seq INTEGER NOT NULL) STRICT;
CREATE TABLE machines (
  label TEXT PRIMARY KEY, provider TEXT NOT NULL, address TEXT, node_key TEXT, state TEXT NOT NULL, owner TEXT NOT NULL,
  cover TEXT, dir TEXT, detail TEXT NOT NULL, seed_source TEXT, evidence TEXT,
  created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, span TEXT NOT NULL, exit_off INTEGER NOT NULL DEFAULT 0,
  exit_ms INTEGER NOT NULL DEFAULT 0, exit_n INTEGER NOT NULL DEFAULT 0, tor_off INTEGER NOT NULL DEFAULT 0,
  tor_ms INTEGER NOT NULL DEFAULT 0, tor_n INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE grants (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, node TEXT, node_key TEXT, subject TEXT NOT NULL, mode TEXT NOT NULL,
  not_before INTEGER NOT NULL, expires INTEGER NOT NULL, limits TEXT NOT NULL, signed BLOB NOT NULL,
  issued_ms INTEGER NOT NULL, issued_n INTEGER NOT NULL, revoked_at INTEGER, reason TEXT, revocation BLOB, span TEXT NOT NULL,
  revision INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE reuses (
  id TEXT NOT NULL, node TEXT NOT NULL, count INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (id, node)
) STRICT, WITHOUT ROWID;
CREATE TABLE exits (
  name TEXT PRIMARY KEY, transport TEXT NOT NULL, addresses TEXT NOT NULL, node_key TEXT NOT NULL, signed BLOB NOT NULL,
  bound INTEGER NOT NULL, expires INTEGER NOT NULL, accepted_ms INTEGER NOT NULL, span TEXT NOT NULL, onion TEXT, discovery TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE proofs (
  node_key TEXT PRIMARY KEY, name TEXT NOT NULL, outcome TEXT NOT NULL, rung TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT,
  evidence TEXT NOT NULL, image TEXT, measurement TEXT, endorsement TEXT, discovered INTEGER NOT NULL, judged_ms INTEGER NOT NULL,
  span TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE proved (
  node_key TEXT PRIMARY KEY, name TEXT NOT NULL, outcome TEXT NOT NULL, rung TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT,
  evidence TEXT NOT NULL, image TEXT, measurement TEXT, endorsement TEXT, discovered INTEGER NOT NULL, judged_ms INTEGER NOT NULL,
  span TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE points (
  node_key TEXT NOT NULL, event TEXT NOT NULL, ms INTEGER NOT NULL, span TEXT NOT NULL, PRIMARY KEY (node_key, event)
) STRICT, WITHOUT ROWID;
CREATE TABLE groups (name TEXT NOT NULL, member TEXT NOT NULL, PRIMARY KEY (name, member)) STRICT, WITHOUT ROWID;
CREATE INDEX groups_by_member ON groups (member);
CREATE INDEX grants_live ON grants (expires) WHERE revoked_at IS NULL;
CREATE TABLE policies (
  number INTEGER PRIMARY KEY, policy TEXT NOT NULL, reason TEXT NOT NULL, author TEXT NOT NULL, set_ms INTEGER NOT NULL, span TEXT NOT NULL
) STRICT;
CREATE TABLE rules_heard (node_key TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE passed_on (
  id TEXT PRIMARY KEY, parent TEXT NOT NULL, name TEXT NOT NULL, node_key TEXT NOT NULL, exit TEXT, caveat BLOB, expires INTEGER,
  made_ms INTEGER NOT NULL, revoked_at INTEGER, reason TEXT, revocation BLOB, made_n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
  id TEXT NOT NULL, node_key TEXT NOT NULL, revision INTEGER NOT NULL, revoked INTEGER NOT NULL, PRIMARY KEY (id, node_key)
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (node_key TEXT PRIMARY KEY, at INTEGER NOT NULL, statement BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE pins (address TEXT PRIMARY KEY, node_key TEXT NOT NULL, pinned_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";
/// Made last where all is made anew: sorting once costs less than finding a place for each.
const INDEX: &str = "CREATE INDEX keys_by_key ON keys (key, chain, seq)";

/// Whether the tables were made by this version of the code.
pub(super) fn is_current(conn: &Connection) -> rusqlite::Result<bool> {
    if !conn.table_exists(None, "projection")? {
        return Ok(false);
    }
    let found = conn.query_row("SELECT version FROM projection", [], |row| row.get::<_, i64>(0)).optional()?;
    Ok(found == Some(VERSION))
}

/// How far the tables have come, `None` if there are none.
pub(super) fn cursor(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    if !conn.table_exists(None, "projection")? {
        return Ok(None);
    }
    conn.query_row("SELECT cursor FROM projection", [], |row| row.get(0)).optional()
}

/// Drops the tables and makes them again. Returns how many spans were read.
pub(super) fn rebuild(conn: &Connection) -> rusqlite::Result<u64> {
    // Of earlier versions, too.
    for table in TABLES.iter().map(|table| table.name).chain(["projection"]) {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    make(conn)?;
    // In the order of their clocks no span is late, and a span still comes after what it builds on.
    let seen = Projector::new(conn, conn).read("SELECT pos, id, bytes FROM spans ORDER BY ms, n, author", 0)?;
    conn.execute_batch(INDEX)?;
    conn.execute("UPDATE projection SET cursor = ?1", [last_pos(conn)?])?;
    Ok(seen)
}

/// Makes empty tables.
pub(super) fn create(conn: &Connection) -> rusqlite::Result<()> {
    make(conn)?;
    conn.execute_batch(INDEX)
}

fn make(conn: &Connection) -> rusqlite::Result<()> {
    for schema in [SCHEMA, peers::SCHEMA, devices::SCHEMA, resources::SCHEMA] {
        conn.execute_batch(schema)?;
    }
    conn.execute("INSERT INTO projection (version, cursor) VALUES (?1, 0)", [VERSION]).map(drop)
}

/// Reads the spans after the cursor into the tables.
pub(super) fn advance(conn: &Connection) -> rusqlite::Result<u64> {
    let after = cursor(conn)?.unwrap_or(0);
    let mut projector = Projector::new(conn, conn).expecting_late(after)?;
    let seen = projector.read("SELECT pos, id, bytes FROM spans WHERE pos > ?1 ORDER BY pos", after)?;
    projector.settle()?;
    conn.execute("UPDATE projection SET cursor = ?1", [last_pos(conn)?])?;
    Ok(seen)
}

/// The position of the newest span, 0 if there is none.
pub(super) fn last_pos(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT coalesce(max(pos), 0) FROM spans", [], |row| row.get(0))
}

/// What a span's place in the order is: its clock, then its author's name.
pub(super) type Stamp = (i64, i64, String);

fn stamp(span: &Span) -> Stamp {
    (int(span.hlc.ms), int(span.hlc.n), span.author.to_string())
}

/// Carries spans into tables.
pub(super) struct Projector<'c> {
    /// Where the tables are.
    tables: &'c Connection,
    /// Where the spans are; not the same when the tables are made again for comparison.
    spans: &'c Connection,
    /// Numbers of authors.
    chains: HashMap<B64<32>, i64>,
    /// The newest of all so far; none where spans come in order anyway.
    newest: Option<Stamp>,
    /// Keys of which a span came late.
    late: BTreeSet<String>,
}

impl<'c> Projector<'c> {
    /// For spans that come in the order of their clocks.
    pub(super) fn new(tables: &'c Connection, spans: &'c Connection) -> Projector<'c> {
        Projector { tables, spans, chains: HashMap::new(), newest: None, late: BTreeSet::new() }
    }

    /// For spans that come in any order in which each stands after what it builds on; [`Projector::settle`] is called at the end.
    pub(super) fn expecting_late(mut self, after: i64) -> rusqlite::Result<Projector<'c>> {
        let sql = "SELECT ms, n, author FROM spans WHERE pos <= ?1 ORDER BY ms DESC, n DESC, author DESC LIMIT 1";
        let newest = self.spans.query_row(sql, [after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        self.newest = Some(newest.unwrap_or((-1, 0, String::new())));
        Ok(self)
    }

    /// Applies what a query finds; decoding is done on all processors.
    fn read(&mut self, sql: &str, after: i64) -> rusqlite::Result<u64> {
        let mut statement = self.spans.prepare(sql)?;
        let mut rows = if statement.parameter_count() == 1 { statement.query([after])? } else { statement.query([])? };
        let mut seen = 0;
        let next = || {
            let Some(row) = rows.next()? else { return Ok(None) };
            let bytes: Vec<u8> = row.get(2)?;
            let size = bytes.len();
            Ok(Some(((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, bytes), size)))
        };
        parallel::in_order(
            next,
            |(pos, id, bytes)| (pos, id, Span::decode(&bytes)),
            |(pos, id, span)| {
                seen += 1;
                // A span that cannot be read is for `verify` to report; the others still count.
                span.map_or(Ok(()), |span| self.apply(pos, &id, &span))
            },
        )?;
        Ok(seen)
    }

    /// What one span changes. A body that its kind does not allow, from another version perhaps, changes nothing.
    pub(super) fn apply(&mut self, pos: i64, id: &str, span: &Span) -> rusqlite::Result<()> {
        let chain = self.chain(&span.author)?;
        dag::learn(self.tables, self.spans, chain, id, span)?;
        let Some(key) = keys::of(span) else { return Ok(()) };
        run(
            self.tables,
            "INSERT INTO keys (pos, key, chain, seq) VALUES (?1, ?2, ?3, ?4)",
            params![pos, keys::digest(&key), chain, int(span.seq)],
        )?;
        if self.is_late(&key, pos, span)? && !peers::takes_any_order(&span.kind) {
            self.late.insert(key);
            return Ok(());
        }
        change(self.tables, id, span)
    }

    fn chain(&mut self, author: &B64<32>) -> rusqlite::Result<i64> {
        if let Some(known) = self.chains.get(author) {
            return Ok(*known);
        }
        let n = dag::chain_of(self.tables, &author.to_string())?;
        self.chains.insert(*author, n);
        Ok(n)
    }

    fn is_late(&mut self, key: &str, pos: i64, span: &Span) -> rusqlite::Result<bool> {
        let Some(newest) = &mut self.newest else { return Ok(false) };
        let stamp = stamp(span);
        if stamp > *newest {
            *newest = stamp;
            return Ok(self.late.contains(key));
        }
        if self.late.contains(key) {
            return Ok(true);
        }
        let rivals = dag::newest_of_each(self.tables, &keys::digest(key))?;
        for rival in rivals.iter().filter(|rival| rival.pos != pos) {
            let sql = "SELECT ms, n, author FROM spans WHERE pos = ?1";
            let found: Option<Stamp> =
                self.spans.prepare_cached(sql)?.query_row([rival.pos], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            if found.is_some_and(|found| found > stamp) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the keys anew of which a span came late.
    pub(super) fn settle(&mut self) -> rusqlite::Result<()> {
        for key in std::mem::take(&mut self.late) {
            clear(self.tables, &key)?;
            for pos in self.in_time(&keys::digest(&key))? {
                let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?));
                let (id, bytes) = self.spans.prepare_cached("SELECT id, bytes FROM spans WHERE pos = ?1")?.query_row([pos], row)?;
                if let Ok(span) = Span::decode(&bytes) {
                    change(self.tables, &id, &span)?;
                }
            }
        }
        Ok(())
    }

    /// Positions of the spans of a key, in the order in which they are read.
    fn in_time(&self, key: &[u8; 16]) -> rusqlite::Result<Vec<i64>> {
        let mut found: Vec<(Stamp, i64)> = Vec::new();
        let mut stamps = self.spans.prepare_cached("SELECT ms, n, author FROM spans WHERE pos = ?1")?;
        for pos in self.tables.prepare_cached("SELECT pos FROM keys WHERE key = ?1")?.query_map([key], |row| row.get::<_, i64>(0))? {
            let pos = pos?;
            found.push((stamps.query_row([pos], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?, pos));
        }
        found.sort();
        Ok(found.into_iter().map(|(_, pos)| pos).collect())
    }
}

/// Removes all that the tables say of a key.
fn clear(conn: &Connection, key: &str) -> rusqlite::Result<()> {
    let Some((noun, name)) = key.split_once('/') else { return Ok(()) };
    for table in &TABLES {
        if let Some((_, column)) = table.key.filter(|(about, _)| *about == noun) {
            run(conn, &format!("DELETE FROM {} WHERE {column} = ?1", table.name), [name])?;
        }
    }
    Ok(())
}

/// What the body of a span does to the rows of its key.
fn change(conn: &Connection, id: &str, span: &Span) -> rusqlite::Result<()> {
    let at = At { conn, id, ms: int(span.hlc.ms), n: int(span.hlc.n) };
    match span.kind.as_str() {
        kinds::MachineDeployed::KIND => at.with(&span.body, At::deployed),
        kinds::MachineClaimed::KIND => at.with(&span.body, At::claimed),
        kinds::MachineReconnected::KIND => at.with(&span.body, At::reconnected),
        kinds::MachineDestroyed::KIND => at.with(&span.body, At::destroyed),
        kinds::MachineEnabled::KIND => {
            at.with(&span.body, |at, body: &kinds::MachineEnabled| at.switched(&body.label, &body.capability, false))
        }
        kinds::MachineDisabled::KIND => {
            at.with(&span.body, |at, body: &kinds::MachineDisabled| at.switched(&body.label, &body.capability, true))
        }
        kinds::GrantIssued::KIND => at.with(&span.body, At::issued),
        kinds::GrantRevoked::KIND => at.with(&span.body, At::revoked),
        kinds::GrantReused::KIND => at.with(&span.body, At::reused),
        kinds::ExitAccepted::KIND => at.with(&span.body, At::accepted),
        kinds::ExitForgotten::KIND => at.with(&span.body, At::forgotten),
        kinds::EvidenceJudged::KIND => at.with(&span.body, At::judged),
        kinds::NodePinned::KIND => at.with(&span.body, At::pinned),
        kinds::GroupSet::KIND => at.with(&span.body, At::grouped),
        kinds::RulesDelivered::KIND => at.with(&span.body, At::rules_delivered),
        kinds::PolicySet::KIND => at.with(&span.body, |at, body: &kinds::PolicySet| at.policy_set(&span.author.to_string(), body)),
        kinds::GrantRenewed::KIND => at.with(&span.body, At::renewed),
        kinds::GrantPassedOn::KIND => at.with(&span.body, At::passed_on),
        kinds::RevocationDelivered::KIND => {
            at.with(&span.body, |at, body: &kinds::RevocationDelivered| at.delivered(body.id, body.node_key, 0, true))
        }
        kinds::RenewalDelivered::KIND => {
            at.with(&span.body, |at, body: &kinds::RenewalDelivered| at.delivered(body.id, body.node_key, body.revision, false))
        }
        kinds::LeaseStated::KIND => at.with(&span.body, At::stated),
        kind if kind.starts_with("peer.") => peers::apply(conn, id, span),
        kind if kind.starts_with("device.") || kind.starts_with("identity.") => devices::apply(conn, span),
        kind if kind.starts_with("resource.") => resources::apply(conn, span),
        _ => Ok(()),
    }
}

fn run(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute(params).map(|_| ())
}

/// Spans hold no number of 2^53 or more, so this loses nothing.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The span being read.
struct At<'a> {
    conn: &'a Connection,
    id: &'a str,
    ms: i64,
    n: i64,
}

impl At<'_> {
    fn with<T: Body>(&self, body: &Map<String, Value>, apply: impl Fn(&Self, &T) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let parsed: Result<T> = kinds::parse(body);
        parsed.map_or(Ok(()), |body| apply(self, &body))
    }

    fn deployed(&self, body: &kinds::MachineDeployed) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR REPLACE INTO machines (label, provider, address, node_key, state, owner, cover, dir, detail, created_ms, changed_ms, span)
             VALUES (:label, :provider, :address, :node_key, 'deployed', :owner, :cover, :dir, :detail, :ms, :ms, :span)",
            named_params! {
                ":label": body.label.as_str(), ":provider": body.provider, ":address": body.address,
                ":node_key": body.node_key.map(|k| k.to_string()), ":owner": body.owner.to_string(),
                ":cover": body.cover.map(|k| k.to_string()), ":dir": body.dir, ":detail": json(&body.detail), ":ms": self.ms, ":span": self.id,
            },
        )
    }

    fn claimed(&self, body: &kinds::MachineClaimed) -> rusqlite::Result<()> {
        run(
            self.conn,
            "UPDATE machines SET state = 'claimed', node_key = :node_key, address = coalesce(:address, address), seed_source = :seed_source,
             evidence = :evidence, changed_ms = :ms WHERE label = :label",
            named_params! {
                ":label": body.label.as_str(), ":node_key": body.node_key.to_string(), ":address": body.address,
                ":seed_source": body.seed_source, ":evidence": body.evidence, ":ms": self.ms,
            },
        )
    }

    fn reconnected(&self, body: &kinds::MachineReconnected) -> rusqlite::Result<()> {
        run(
            self.conn,
            "UPDATE machines SET node_key = coalesce(:node_key, node_key), address = coalesce(:address, address), changed_ms = :ms
             WHERE label = :label",
            named_params! {
                ":label": body.label.as_str(), ":node_key": body.node_key.map(|k| k.to_string()), ":address": body.address, ":ms": self.ms,
            },
        )
    }

    /// A capability that this version does not know changes nothing.
    fn switched(&self, label: &Label, capability: &str, off: bool) -> rusqlite::Result<()> {
        let sql = match capability {
            "exit" => "UPDATE machines SET exit_off = ?1, exit_ms = ?2, exit_n = ?3, changed_ms = ?2 WHERE label = ?4",
            "tor" => "UPDATE machines SET tor_off = ?1, tor_ms = ?2, tor_n = ?3, changed_ms = ?2 WHERE label = ?4",
            _ => return Ok(()),
        };
        run(self.conn, sql, params![off, self.ms, self.n, label.as_str()])
    }

    fn destroyed(&self, body: &kinds::MachineDestroyed) -> rusqlite::Result<()> {
        run(self.conn, "DELETE FROM machines WHERE label = ?1", params![body.label.as_str()])
    }

    fn issued(&self, body: &kinds::GrantIssued) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR IGNORE INTO grants (id, name, node, node_key, subject, mode, not_before, expires, limits, signed, issued_ms, issued_n, span)
             VALUES (:id, :name, :node, :node_key, :subject, :mode, :not_before, :expires, :limits, :signed, :ms, :n, :span)",
            named_params! {
                ":id": body.id.to_string(), ":name": body.name.as_str(), ":node": body.node.as_ref().map(|n| n.as_str()),
                ":node_key": body.node_key.map(|k| k.to_string()), ":subject": body.subject.to_string(), ":mode": body.mode,
                ":not_before": int(body.not_before), ":expires": int(body.expires), ":limits": json(&body.limits),
                ":signed": body.grant.0, ":ms": self.ms, ":n": self.n, ":span": self.id,
            },
        )
    }

    fn revoked(&self, body: &kinds::GrantRevoked) -> rusqlite::Result<()> {
        // The first revocation counts; a later one cannot move its time.
        run(
            self.conn,
            "UPDATE grants SET revoked_at = ?2, reason = ?3, revocation = ?4 WHERE id = ?1 AND revoked_at IS NULL",
            params![body.id.to_string(), int(body.at), body.reason, body.revocation.as_ref().map(|b| &b.0)],
        )?;
        run(
            self.conn,
            "UPDATE passed_on SET revoked_at = ?2, reason = ?3, revocation = ?4 WHERE id = ?1 AND revoked_at IS NULL",
            params![body.id.to_string(), int(body.at), body.reason, body.revocation.as_ref().map(|b| &b.0)],
        )
    }

    fn renewed(&self, body: &kinds::GrantRenewed) -> rusqlite::Result<()> {
        run(
            self.conn,
            "UPDATE grants SET revision = ?2, expires = ?3, signed = ?4 WHERE id = ?1 AND revision < ?2",
            params![body.id.to_string(), int(body.revision), int(body.expires), body.grant.0],
        )
    }

    fn passed_on(&self, body: &kinds::GrantPassedOn) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR IGNORE INTO passed_on (id, parent, name, node_key, exit, caveat, expires, made_ms, made_n)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                body.id.to_string(),
                body.parent.to_string(),
                body.name.as_str(),
                body.node_key.to_string(),
                body.exit.as_ref().map(|exit| exit.as_str()),
                body.caveat.as_ref().map(|caveat| &caveat.0),
                body.expires.map(int),
                self.ms,
                self.n,
            ],
        )
    }

    fn delivered(&self, id: B64<8>, node_key: B64<32>, revision: u64, revoked: bool) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT INTO deliveries (id, node_key, revision, revoked) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id, node_key) DO UPDATE SET revision = max(revision, excluded.revision), revoked = max(revoked, excluded.revoked)",
            params![id.to_string(), node_key.to_string(), int(revision), revoked],
        )
    }

    fn stated(&self, body: &kinds::LeaseStated) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT INTO leases (node_key, at, statement) VALUES (?1, ?2, ?3)
             ON CONFLICT (node_key) DO UPDATE SET at = excluded.at, statement = excluded.statement WHERE excluded.at > at",
            params![body.node_key.to_string(), int(body.at), body.statement.0],
        )
    }

    fn reused(&self, body: &kinds::GrantReused) -> rusqlite::Result<()> {
        let node = body.node.as_ref().map_or("", |n| n.as_str());
        run(
            self.conn,
            "INSERT INTO reuses (id, node, count, last) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id, node) DO UPDATE SET count = max(count, excluded.count), last = max(last, excluded.last)",
            params![body.id.to_string(), node, int(body.count), int(body.last)],
        )
    }

    fn accepted(&self, body: &kinds::ExitAccepted) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR REPLACE INTO exits (name, transport, addresses, node_key, signed, bound, expires, accepted_ms, span, onion, discovery)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                body.name.as_str(),
                body.transport,
                json(&body.addresses),
                body.node_key.to_string(),
                body.grant.0,
                body.bound,
                int(body.expires),
                self.ms,
                self.id,
                body.onion,
                body.discovery.as_ref().map(ToString::to_string),
            ],
        )
    }

    fn forgotten(&self, body: &kinds::ExitForgotten) -> rusqlite::Result<()> {
        run(self.conn, "DELETE FROM exits WHERE name = ?1", params![body.name.as_str()])
    }

    fn judged(&self, body: &kinds::EvidenceJudged) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR REPLACE INTO proofs
             (node_key, name, outcome, rung, kind, reason, evidence, image, measurement, endorsement, discovered, judged_ms, span)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                body.node_key.to_string(),
                body.name.as_str(),
                body.outcome,
                body.rung,
                body.evidence_kind,
                body.reason,
                body.evidence,
                body.image,
                body.measurement,
                body.endorsement,
                body.discovered,
                self.ms,
                self.id,
            ],
        )?;
        if body.outcome != "verified" {
            return Ok(());
        }
        // A refusal, one's own mistake perhaps, takes nothing from what was proved.
        run(self.conn, "INSERT OR REPLACE INTO proved SELECT * FROM proofs WHERE node_key = ?1", params![body.node_key.to_string()])?;
        // A point for what is proved for the first time: the same again earns nothing, however often it is looked at (TG7).
        run(
            self.conn,
            "INSERT OR IGNORE INTO points (node_key, event, ms, span) VALUES (?1, ?2, ?3, ?4)",
            params![body.node_key.to_string(), body.rung, self.ms, self.id],
        )
    }

    fn pinned(&self, body: &kinds::NodePinned) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR REPLACE INTO pins (address, node_key, pinned_ms) VALUES (?1, ?2, ?3)",
            params![body.address, body.node_key.to_string(), self.ms],
        )
    }

    fn grouped(&self, body: &kinds::GroupSet) -> rusqlite::Result<()> {
        run(self.conn, "DELETE FROM groups WHERE name = ?1", params![body.name.as_str()])?;
        let add =
            |member| run(self.conn, "INSERT OR IGNORE INTO groups (name, member) VALUES (?1, ?2)", params![body.name.as_str(), member]);
        body.members.iter().try_for_each(add)
    }

    fn rules_delivered(&self, body: &kinds::RulesDelivered) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT INTO rules_heard (node_key, number) VALUES (?1, ?2)
             ON CONFLICT (node_key) DO UPDATE SET number = max(number, excluded.number)",
            params![body.node_key.to_string(), int(body.number)],
        )
    }

    /// A policy counts if the one before it is there and let its author change it; of two with one number the earlier one stays.
    fn policy_set(&self, author: &str, body: &kinds::PolicySet) -> rusqlite::Result<()> {
        let before: Option<String> = self
            .conn
            .prepare_cached("SELECT policy FROM policies WHERE number = ?1")?
            .query_row([int(body.number) - 1], |row| row.get(0))
            .optional()?;
        if body.number == 0 || (body.number > 1 && before.is_none()) {
            return Ok(());
        }
        let editors =
            before.and_then(|text| serde_json::from_str::<Value>(&text).ok()).and_then(|mut policy| match policy["editors"].take() {
                Value::Array(editors) => Some(editors),
                _ => None,
            });
        if editors.is_some_and(|editors| !editors.iter().any(|editor| editor == author)) {
            return Ok(());
        }
        run(
            self.conn,
            "INSERT OR IGNORE INTO policies (number, policy, reason, author, set_ms, span) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![int(body.number), json(&body.policy), body.reason, author, self.ms, self.id],
        )
    }
}

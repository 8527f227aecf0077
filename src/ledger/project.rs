//! The one path from spans to tables that answer questions (LT2). A cursor says how far it has come; the tables may be
//! dropped at any time and are made again from the spans.

use super::devices;
use super::kinds::{self, Body};
use super::peers;
use super::span::{B64, Span};
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, named_params, params};
use serde_json::{Map, Value};

/// Raised whenever a table or the way it is filled changes; an older file is then rebuilt when it is opened.
const VERSION: i64 = 8;

/// The tables, in the order they are made.
pub(super) const TABLES: [&str; 20] = [
    "heads",
    "machines",
    "grants",
    "reuses",
    "exits",
    "pins",
    "proofs",
    "proved",
    "points",
    "policies",
    "rules_heard",
    "peers",
    "peer_events",
    "peer_faults",
    "passed_on",
    "deliveries",
    "leases",
    "rotations",
    "devices",
    "device_codes",
];

const SCHEMA: &str = "
CREATE TABLE projection (version INTEGER NOT NULL, cursor INTEGER NOT NULL) STRICT;
CREATE TABLE heads (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE machines (
  label TEXT PRIMARY KEY, provider TEXT NOT NULL, address TEXT, node_key TEXT, state TEXT NOT NULL, owner TEXT NOT NULL,
  cover TEXT, dir TEXT, detail TEXT NOT NULL, seed_source TEXT, evidence TEXT,
  created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, span TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE grants (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, node TEXT, node_key TEXT, subject TEXT NOT NULL, mode TEXT NOT NULL,
  not_before INTEGER NOT NULL, expires INTEGER NOT NULL, limits TEXT NOT NULL, signed BLOB NOT NULL,
  issued_ms INTEGER NOT NULL, revoked_at INTEGER, reason TEXT, revocation BLOB, pos INTEGER NOT NULL, span TEXT NOT NULL,
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
CREATE TABLE policies (
  number INTEGER PRIMARY KEY, policy TEXT NOT NULL, reason TEXT NOT NULL, author TEXT NOT NULL, set_ms INTEGER NOT NULL, span TEXT NOT NULL
) STRICT;
CREATE TABLE rules_heard (node_key TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE passed_on (
  id TEXT PRIMARY KEY, parent TEXT NOT NULL, name TEXT NOT NULL, node_key TEXT NOT NULL, exit TEXT, caveat BLOB, expires INTEGER,
  made_ms INTEGER NOT NULL, revoked_at INTEGER, reason TEXT, revocation BLOB, pos INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
  id TEXT NOT NULL, node_key TEXT NOT NULL, revision INTEGER NOT NULL, revoked INTEGER NOT NULL, PRIMARY KEY (id, node_key)
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (node_key TEXT PRIMARY KEY, at INTEGER NOT NULL, statement BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE pins (address TEXT PRIMARY KEY, node_key TEXT NOT NULL, pinned_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

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
    for table in TABLES.iter().chain(&["projection"]) {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    create(conn)?;
    advance(conn)
}

/// Makes empty tables.
pub(super) fn create(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(SCHEMA)?;
    conn.execute_batch(peers::SCHEMA)?;
    conn.execute_batch(devices::SCHEMA)?;
    conn.execute("INSERT INTO projection (version, cursor) VALUES (?1, 0)", [VERSION]).map(|_| ())
}

/// Reads the spans after the cursor into the tables.
pub(super) fn advance(conn: &Connection) -> rusqlite::Result<u64> {
    let mut seen = 0;
    let mut spans = conn.prepare_cached("SELECT pos, id, bytes FROM spans WHERE pos > (SELECT cursor FROM projection) ORDER BY pos")?;
    let mut rows = spans.query([])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let (pos, id): (i64, String) = (row.get(0)?, row.get(1)?);
        // A span that cannot be read is for `verify` to report; the others still count.
        if let Ok(span) = Span::decode(row.get_ref(2)?.as_blob()?) {
            apply(conn, pos, &id, &span)?;
        }
        last = Some(pos);
        seen += 1;
    }
    if let Some(last) = last {
        conn.prepare_cached("UPDATE projection SET cursor = ?1")?.execute([last])?;
    }
    Ok(seen)
}

/// The position of the newest span, 0 if there is none.
pub(super) fn last_pos(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT coalesce(max(pos), 0) FROM spans", [], |row| row.get(0))
}

/// What one span changes. A body that its kind does not allow, from another version perhaps, changes nothing.
pub(super) fn apply(conn: &Connection, pos: i64, id: &str, span: &Span) -> rusqlite::Result<()> {
    for known in span.deps.iter().chain(&span.prev) {
        run(conn, "DELETE FROM heads WHERE id = ?1", params![known.to_string()])?;
    }
    run(conn, "INSERT INTO heads (id) VALUES (?1)", params![id])?;
    let at = At { conn, pos, id, ms: int(span.hlc.ms) };
    match span.kind.as_str() {
        kinds::MachineDeployed::KIND => at.with(&span.body, At::deployed),
        kinds::MachineClaimed::KIND => at.with(&span.body, At::claimed),
        kinds::MachineReconnected::KIND => at.with(&span.body, At::reconnected),
        kinds::MachineDestroyed::KIND => at.with(&span.body, At::destroyed),
        kinds::GrantIssued::KIND => at.with(&span.body, At::issued),
        kinds::GrantRevoked::KIND => at.with(&span.body, At::revoked),
        kinds::GrantReused::KIND => at.with(&span.body, At::reused),
        kinds::ExitAccepted::KIND => at.with(&span.body, At::accepted),
        kinds::ExitForgotten::KIND => at.with(&span.body, At::forgotten),
        kinds::EvidenceJudged::KIND => at.with(&span.body, At::judged),
        kinds::NodePinned::KIND => at.with(&span.body, At::pinned),
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
    pos: i64,
    id: &'a str,
    ms: i64,
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

    fn destroyed(&self, body: &kinds::MachineDestroyed) -> rusqlite::Result<()> {
        run(self.conn, "DELETE FROM machines WHERE label = ?1", params![body.label.as_str()])
    }

    fn issued(&self, body: &kinds::GrantIssued) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT OR IGNORE INTO grants (id, name, node, node_key, subject, mode, not_before, expires, limits, signed, issued_ms, pos, span)
             VALUES (:id, :name, :node, :node_key, :subject, :mode, :not_before, :expires, :limits, :signed, :ms, :pos, :span)",
            named_params! {
                ":id": body.id.to_string(), ":name": body.name.as_str(), ":node": body.node.as_ref().map(|n| n.as_str()),
                ":node_key": body.node_key.map(|k| k.to_string()), ":subject": body.subject.to_string(), ":mode": body.mode,
                ":not_before": int(body.not_before), ":expires": int(body.expires), ":limits": json(&body.limits),
                ":signed": body.grant.0, ":ms": self.ms, ":pos": self.pos, ":span": self.id,
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
            "INSERT OR IGNORE INTO passed_on (id, parent, name, node_key, exit, caveat, expires, made_ms, pos)
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
                self.pos,
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

    fn rules_delivered(&self, body: &kinds::RulesDelivered) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT INTO rules_heard (node_key, number) VALUES (?1, ?2)
             ON CONFLICT (node_key) DO UPDATE SET number = max(number, excluded.number)",
            params![body.node_key.to_string(), int(body.number)],
        )
    }

    /// A policy counts if the one before it let its author change it; of two with one number the first one here stays.
    fn policy_set(&self, author: &str, body: &kinds::PolicySet) -> rusqlite::Result<()> {
        let before: Option<String> = self
            .conn
            .prepare_cached("SELECT policy FROM policies WHERE number = ?1")?
            .query_row([int(body.number) - 1], |row| row.get(0))
            .optional()?;
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

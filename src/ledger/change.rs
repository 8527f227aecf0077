//! What each kind of span does to the tables of its key.

use super::kinds::{self, Body};
use super::span::{B64, Span};
use super::{devices, peers, resources};
use crate::config::Label;
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, named_params, params};
use serde_json::{Map, Value};

/// What the body of a span does to the rows of its key.
pub(super) fn change(conn: &Connection, id: &str, span: &Span) -> rusqlite::Result<()> {
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

pub(super) fn run(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute(params).map(|_| ())
}

/// Spans hold no number of 2^53 or more, so this loses nothing.
pub(super) fn int(n: u64) -> i64 {
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
        let node_key = body.node_key.to_string();
        if body.outcome != "verified" {
            // A refusal, one's own mistake perhaps, takes nothing from what was proved.
            let keep = "INSERT OR REPLACE INTO proved SELECT * FROM proofs WHERE node_key = ?1 AND outcome = 'verified'";
            run(self.conn, keep, [&node_key])?;
        }
        run(
            self.conn,
            "INSERT INTO proofs
             (node_key, name, outcome, rung, kind, reason, evidence, image, measurement, endorsement, discovered, judged_ms, span)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT DO UPDATE SET name = ?2, outcome = ?3, rung = ?4, kind = ?5, reason = ?6, evidence = ?7, image = ?8,
             measurement = ?9, endorsement = ?10, discovered = ?11, judged_ms = ?12, span = ?13",
            params![
                node_key,
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
        // A point for what is proved for the first time: the same again earns nothing, however often it is looked at (TG7).
        run(
            self.conn,
            "INSERT OR IGNORE INTO points (node_key, event, ms, span) VALUES (?1, ?2, ?3, ?4)",
            params![node_key, body.rung, self.ms, self.id],
        )
    }

    fn pinned(&self, body: &kinds::NodePinned) -> rusqlite::Result<()> {
        run(
            self.conn,
            "INSERT INTO pins (address, node_key, pinned_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET node_key = excluded.node_key, pinned_ms = excluded.pinned_ms",
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

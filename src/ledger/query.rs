//! Answers from the projections, as typed rows.

use super::kinds::{self, GrantLimits};
use super::span::{B64, Span, SpanId};
use super::{Ledger, store};
use crate::config::Label;
use crate::error::{Code, Error, Result};
use rusqlite::{Row, params};
use serde::Serialize;
use serde_json::{Map, Value};
use std::str::FromStr;

/// How far a machine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// Started, and waiting for its owner.
    Deployed,
    /// Its owner holds it.
    Claimed,
}

/// A machine that was deployed and not destroyed.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Its name.
    pub label: Label,
    /// Who runs it.
    pub provider: String,
    /// `host:port`.
    pub address: Option<String>,
    /// Its Noise key, once known.
    pub node_key: Option<B64<32>>,
    /// How far it has come.
    pub state: MachineState,
    /// The identity that can claim it.
    pub owner: B64<32>,
    /// The cover key of its bootstrap; nobody else's business.
    #[serde(skip)]
    pub cover: Option<B64<32>>,
    /// Its folder here.
    pub dir: Option<String>,
    /// What its provider remembers.
    pub detail: Map<String, Value>,
    /// Where its seed comes from, once claimed.
    pub seed_source: Option<String>,
    /// What its evidence was worth, once claimed.
    pub evidence: Option<String>,
    /// When it was deployed, Unix milliseconds.
    pub created_ms: u64,
    /// When it last changed, Unix milliseconds.
    pub changed_ms: u64,
    /// The span that deployed it.
    pub span: SpanId,
    /// Whether it takes guests.
    pub exit: Switch,
    /// Whether it is an onion service, where it was deployed as one.
    pub tor: Switch,
}

/// What the owner can switch on a machine.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Switch {
    /// Whether it is off.
    pub off: bool,
    /// The clock of the last word about it, Unix milliseconds and a counter; zeroes while there was none.
    pub said: (u64, u64),
}

/// What the last verification of a node's evidence came to.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// `verified`, `refused` or `unverified`.
    pub outcome: String,
    /// The rung of the ladder of proof.
    pub rung: String,
    /// On what it rests: `none`, `snp`, `tpm`, `snp+tpm`.
    pub kind: String,
    /// Why it was not verified.
    pub reason: Option<String>,
    /// SHA-256 of the evidence, hex.
    pub evidence: String,
    /// The image that was proved, hex.
    pub image: Option<String>,
    /// The launch measurement, hex.
    pub measurement: Option<String>,
    /// The name of the TPM's endorsement key, hex.
    pub endorsement: Option<String>,
    /// Whether it was accepted as found, on first use.
    pub discovered: bool,
    /// When, Unix milliseconds.
    pub judged_ms: u64,
    /// Rungs that this node has ever proved: its reputation.
    pub points: u64,
}

/// When and why a grant was taken back.
#[derive(Clone, Debug, Serialize)]
pub struct Revoked {
    /// Unix seconds.
    pub at: u64,
    /// In words; may be empty.
    pub reason: String,
    /// The signed revocation as nodes get it.
    #[serde(skip)]
    pub revocation: Option<Vec<u8>>,
}

/// How often a bound grant was tried from elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reuse {
    /// Attempts that nodes reported.
    pub count: u64,
    /// The last one, Unix seconds.
    pub last: u64,
}

/// A policy as it was set.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyRow {
    /// Counts from 1.
    pub number: u64,
    /// The document.
    pub policy: Map<String, Value>,
    /// Why, in words; may be empty.
    pub reason: String,
    /// The device that set it.
    pub author: B64<32>,
    /// Unix milliseconds.
    pub set_ms: u64,
    /// The span that set it.
    pub span: SpanId,
}

/// A grant that was issued, revoked or not.
#[derive(Clone, Debug, Serialize)]
pub struct GrantRow {
    /// Its id.
    pub id: B64<8>,
    /// Whom it is for.
    pub name: Label,
    /// The machine it is for; none for every one.
    pub node: Option<Label>,
    /// That machine's Noise key.
    pub node_key: Option<B64<32>>,
    /// The key that is admitted.
    pub subject: B64<32>,
    /// `try`, `once` or `many`.
    pub mode: String,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub expires: u64,
    /// Its bounds.
    pub limits: GrantLimits,
    /// The newest revision of the signed grant as it travels.
    #[serde(skip)]
    pub signed: Vec<u8>,
    /// Its revision: how often it was signed again.
    pub revision: u64,
    /// Unix milliseconds.
    pub issued_ms: u64,
    /// Set once it was taken back.
    pub revoked: Option<Revoked>,
    /// Set once a node reported attempts from elsewhere.
    pub reused: Option<Reuse>,
    /// The span that issued it.
    pub span: SpanId,
}

impl GrantRow {
    /// Neither revoked nor expired at `now` (Unix seconds).
    pub fn is_live(&self, now: u64) -> bool {
        self.revoked.is_none() && now < self.expires
    }
}

/// An exit of a friend (or of one's own) that was accepted here.
#[derive(Clone, Debug, Serialize)]
pub struct Exit {
    /// What it is called here.
    pub name: Label,
    /// `direct`, `tor` or `direct,tor`.
    pub transport: String,
    /// `host:port`, in the order to try.
    pub addresses: Vec<String>,
    /// Its Noise key.
    pub node_key: B64<32>,
    /// The signed grant as it travels.
    #[serde(skip)]
    pub signed: Vec<u8>,
    /// Whether it is bound to this device.
    pub bound: bool,
    /// Unix seconds.
    pub expires: u64,
    /// Unix milliseconds.
    pub accepted_ms: u64,
    /// The span that accepted it.
    pub span: SpanId,
    /// Its onion address, if it can be reached over Tor.
    pub onion: Option<String>,
    /// The key that finds a restricted onion service, sealed by this device's keyring.
    #[serde(skip)]
    pub discovery: Option<B64<32>>,
}

const MACHINES: &str =
    "SELECT label, provider, address, node_key, state, owner, cover, dir, detail, seed_source, evidence, created_ms, changed_ms, span,
    exit_off, exit_ms, exit_n, tor_off, tor_ms, tor_n FROM machines";
const GRANTS: &str =
    "SELECT id, name, node, node_key, subject, mode, not_before, expires, limits, signed, issued_ms, revoked_at, reason, revocation,
    span, (SELECT sum(count) FROM reuses WHERE reuses.id = grants.id), (SELECT max(last) FROM reuses WHERE reuses.id = grants.id),
    revision FROM grants";
const EXITS: &str = "SELECT name, transport, addresses, node_key, signed, bound, expires, accepted_ms, span, onion, discovery FROM exits";

impl Ledger {
    /// Every machine, by label.
    pub fn machines(&self) -> Result<Vec<Machine>> {
        self.rows(&format!("{MACHINES} ORDER BY label"), [], machine)
    }

    /// One machine.
    pub fn machine(&self, label: &Label) -> Result<Machine> {
        let found = self.rows(&format!("{MACHINES} WHERE label = ?1"), [label.as_str()], machine)?;
        found.into_iter().next().ok_or_else(|| not_found("machine", label.as_str(), "portdistrict machine list"))
    }

    /// Every grant, newest first.
    pub fn grants(&self) -> Result<Vec<GrantRow>> {
        self.rows(&format!("{GRANTS} ORDER BY issued_ms DESC, issued_n DESC"), [], grant)
    }

    /// The grants that hold at `now` (Unix seconds): neither revoked nor expired, newest first.
    pub fn live_grants(&self, now: u64) -> Result<Vec<GrantRow>> {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.rows(&format!("{GRANTS} WHERE revoked_at IS NULL AND expires > ?1 ORDER BY issued_ms DESC, issued_n DESC"), [now], grant)
    }

    /// One grant by its id or by whom it is for; of several for one person, the newest that was not revoked.
    pub fn grant(&self, name_or_id: &str) -> Result<GrantRow> {
        let sql = format!(
            "{GRANTS} WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC, revoked_at IS NULL DESC, issued_ms DESC, issued_n DESC LIMIT 1"
        );
        let found = self.rows(&sql, [name_or_id], grant)?;
        found.into_iter().next().ok_or_else(|| not_found("grant", name_or_id, "portdistrict grant list"))
    }

    /// Every grant for one person, newest first.
    pub fn grants_for(&self, name: &Label) -> Result<Vec<GrantRow>> {
        self.rows(&format!("{GRANTS} WHERE name = ?1 ORDER BY issued_ms DESC, issued_n DESC"), [name.as_str()], grant)
    }

    /// Every accepted exit, by name.
    pub fn exits(&self) -> Result<Vec<Exit>> {
        self.rows(&format!("{EXITS} ORDER BY name"), [], exit)
    }

    /// One accepted exit.
    pub fn exit(&self, name: &Label) -> Result<Exit> {
        let found = self.rows(&format!("{EXITS} WHERE name = ?1"), [name.as_str()], exit)?;
        found.into_iter().next().ok_or_else(|| not_found("exit", name.as_str(), "portdistrict exit list"))
    }

    /// What the last verification of a node came to.
    pub fn proof(&self, node: &[u8; 32]) -> Result<Option<Proof>> {
        self.proof_in("proofs", node)
    }

    /// What a node proved last; a refusal since then does not take it away.
    pub fn proved(&self, node: &[u8; 32]) -> Result<Option<Proof>> {
        match self.proof(node)? {
            Some(last) if last.outcome != "verified" => self.proof_in("proved", node),
            last => Ok(last),
        }
    }

    fn proof_in(&self, table: &str, node: &[u8; 32]) -> Result<Option<Proof>> {
        let sql = format!(
            "SELECT outcome, rung, kind, reason, evidence, image, measurement, endorsement, discovered, judged_ms,
             (SELECT count(*) FROM points WHERE node_key = ?1) FROM {table} WHERE node_key = ?1"
        );
        let found = self.rows(&sql, [B64(*node).to_string()], proof)?;
        Ok(found.into_iter().next())
    }

    /// The node key that was pinned at an address.
    pub fn pinned(&self, address: &str) -> Result<Option<B64<32>>> {
        let found = self.rows("SELECT node_key FROM pins WHERE address = ?1", [address], |row| parsed(row, 0))?;
        Ok(found.into_iter().next())
    }

    /// Every policy that ever held, newest first.
    pub fn policies(&self) -> Result<Vec<PolicyRow>> {
        self.rows("SELECT number, policy, reason, author, set_ms, span FROM policies ORDER BY number DESC", [], policy)
    }

    /// The number of the newest policy whose rules each node holds.
    pub fn rules_heard(&self) -> Result<Vec<(B64<32>, u64)>> {
        self.rows("SELECT node_key, number FROM rules_heard", [], |row| Ok((parsed(row, 0)?, uint(row, 1)?)))
    }

    /// How many spans of a kind there are since a time, Unix milliseconds.
    pub fn count_since(&self, kind: &str, since_ms: u64) -> Result<u64> {
        let since = i64::try_from(since_ms).unwrap_or(i64::MAX);
        let found = self.rows("SELECT count(*) FROM spans WHERE kind = ?1 AND ms >= ?2", params![kind, since], |row| uint(row, 0))?;
        Ok(found.into_iter().next().unwrap_or(0))
    }

    /// The identity this ledger belongs to, as its first span says; none while it is empty.
    pub fn identity(&self) -> Result<Option<B64<32>>> {
        let found = self.rows("SELECT bytes FROM spans ORDER BY pos LIMIT 1", [], |row| row.get::<_, Vec<u8>>(0))?;
        let Some(bytes) = found.first() else { return Ok(None) };
        let damaged = |what: String| {
            Error::new(Code::Ledger, format!("the first span of {} is damaged: {what}", self.path().display()))
                .hint("portdistrict ledger verify")
        };
        let span = Span::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        kinds::parse::<kinds::IdentityCreated>(&span.body).map(|body| Some(body.identity)).map_err(|error| damaged(error.to_string()))
    }

    /// Whether a device has begun its chain here.
    pub fn has_author(&self, device: &[u8; 32]) -> Result<bool> {
        let author = B64(*device).to_string();
        let found = self.rows("SELECT 1 FROM spans WHERE author = ?1 LIMIT 1", params![author], |_| Ok(()))?;
        Ok(!found.is_empty())
    }

    pub(super) fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let conn = self.conn();
        let answer = || conn.prepare_cached(sql)?.query_map(params, read)?.collect::<rusqlite::Result<Vec<T>>>();
        answer().map_err(|error| store::failed(self.path(), "read", error))
    }
}

fn policy(row: &Row<'_>) -> rusqlite::Result<PolicyRow> {
    Ok(PolicyRow {
        number: uint(row, 0)?,
        policy: from_json(row, 1)?,
        reason: row.get(2)?,
        author: parsed(row, 3)?,
        set_ms: uint(row, 4)?,
        span: parsed(row, 5)?,
    })
}

fn proof(row: &Row<'_>) -> rusqlite::Result<Proof> {
    Ok(Proof {
        outcome: row.get(0)?,
        rung: row.get(1)?,
        kind: row.get(2)?,
        reason: row.get(3)?,
        evidence: row.get(4)?,
        image: row.get(5)?,
        measurement: row.get(6)?,
        endorsement: row.get(7)?,
        discovered: row.get(8)?,
        judged_ms: uint(row, 9)?,
        points: uint(row, 10)?,
    })
}

pub(super) fn not_found(noun: &str, name: &str, list: &str) -> Error {
    let shown: String = name.chars().take(64).collect();
    Error::new(Code::NotFound, format!("there is no {noun} {shown:?}")).hint(list)
}

/// A text column as its type; a projection that cannot be read is as good as damaged.
pub(super) fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?.parse().map_err(|error| unreadable(column, error))
}

pub(super) fn parsed_some<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|error| unreadable(column, error))).transpose()
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

pub(super) fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0))
}

fn machine(row: &Row<'_>) -> rusqlite::Result<Machine> {
    Ok(Machine {
        label: parsed(row, 0)?,
        provider: row.get(1)?,
        address: row.get(2)?,
        node_key: parsed_some(row, 3)?,
        state: if row.get::<_, String>(4)? == "claimed" { MachineState::Claimed } else { MachineState::Deployed },
        owner: parsed(row, 5)?,
        cover: parsed_some(row, 6)?,
        dir: row.get(7)?,
        detail: from_json(row, 8)?,
        seed_source: row.get(9)?,
        evidence: row.get(10)?,
        created_ms: uint(row, 11)?,
        changed_ms: uint(row, 12)?,
        span: parsed(row, 13)?,
        exit: switch(row, 14)?,
        tor: switch(row, 17)?,
    })
}

fn switch(row: &Row<'_>, at: usize) -> rusqlite::Result<Switch> {
    Ok(Switch { off: row.get(at)?, said: (uint(row, at + 1)?, uint(row, at + 2)?) })
}

fn grant(row: &Row<'_>) -> rusqlite::Result<GrantRow> {
    let revoked = match row.get::<_, Option<i64>>(11)? {
        Some(at) => Some(Revoked {
            at: u64::try_from(at).unwrap_or(0),
            reason: row.get::<_, Option<String>>(12)?.unwrap_or_default(),
            revocation: row.get(13)?,
        }),
        None => None,
    };
    let reused = match row.get::<_, Option<i64>>(15)? {
        Some(count) => Some(Reuse { count: u64::try_from(count).unwrap_or(0), last: uint(row, 16)? }),
        None => None,
    };
    Ok(GrantRow {
        id: parsed(row, 0)?,
        name: parsed(row, 1)?,
        node: parsed_some(row, 2)?,
        node_key: parsed_some(row, 3)?,
        subject: parsed(row, 4)?,
        mode: row.get(5)?,
        not_before: uint(row, 6)?,
        expires: uint(row, 7)?,
        limits: from_json(row, 8)?,
        signed: row.get(9)?,
        revision: uint(row, 17)?,
        issued_ms: uint(row, 10)?,
        revoked,
        reused,
        span: parsed(row, 14)?,
    })
}

fn exit(row: &Row<'_>) -> rusqlite::Result<Exit> {
    Ok(Exit {
        name: parsed(row, 0)?,
        transport: row.get(1)?,
        addresses: from_json(row, 2)?,
        node_key: parsed(row, 3)?,
        signed: row.get(4)?,
        bound: row.get(5)?,
        expires: uint(row, 6)?,
        accepted_ms: uint(row, 7)?,
        span: parsed(row, 8)?,
        onion: row.get(9)?,
        discovery: parsed_some(row, 10)?,
    })
}

//! Answers about grants beyond the grants themselves: what became of them on nodes, and who passed which on.

use super::Ledger;
use super::kinds::Blob;
use super::query::{Revoked, not_found, parsed, parsed_some, uint};
use super::span::B64;
use crate::config::Label;
use crate::error::Result;
use rusqlite::{Row, params};
use serde::Serialize;

/// A grant that a holder made of another one.
#[derive(Clone, Debug, Serialize)]
pub struct PassedOn {
    /// Its id.
    pub id: B64<8>,
    /// The grant that it was made of.
    pub parent: B64<8>,
    /// Whom it is for, as the holder calls him.
    pub name: Label,
    /// The node's Noise key.
    pub node_key: B64<32>,
    /// The exit here that was passed on; none where a friend did it on a machine of ours.
    pub exit: Option<Label>,
    /// What was taken away, where it was done here.
    #[serde(skip)]
    pub caveat: Option<Vec<u8>>,
    /// Unix seconds, where it was done here.
    pub expires: Option<u64>,
    /// When it was made or first heard of, Unix milliseconds.
    pub made_ms: u64,
    /// Set once it was taken back.
    pub revoked: Option<Revoked>,
}

/// What a node is known to have heard of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which grant.
    pub id: B64<8>,
    /// The highest revision that it was told.
    pub revision: u64,
    /// Whether it was told that it is taken back.
    pub revoked: bool,
}

const PASSED_ON: &str = "SELECT id, parent, name, node_key, exit, caveat, expires, made_ms, revoked_at, reason, revocation FROM passed_on";

impl Ledger {
    /// Every grant that a holder made of another one, the newest first.
    pub fn passed_on(&self) -> Result<Vec<PassedOn>> {
        self.rows(&format!("{PASSED_ON} ORDER BY made_ms DESC, made_n DESC"), [], passed_on)
    }

    /// One of them, by its id or by whom it is for; of several, the newest that was not taken back.
    pub fn one_passed_on(&self, name_or_id: &str) -> Result<PassedOn> {
        let sql = format!(
            "{PASSED_ON} WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC, revoked_at IS NULL DESC, made_ms DESC, made_n DESC LIMIT 1"
        );
        let found = self.rows(&sql, [name_or_id], passed_on)?;
        found.into_iter().next().ok_or_else(|| not_found("grant", name_or_id, "portdistrict grant list"))
    }

    /// What a node has heard.
    pub fn deliveries(&self, node: &[u8; 32]) -> Result<Vec<Delivery>> {
        let sql = "SELECT id, revision, revoked FROM deliveries WHERE node_key = ?1";
        self.rows(sql, params![B64(*node).to_string()], |row| {
            Ok(Delivery { id: parsed(row, 0)?, revision: uint(row, 1)?, revoked: row.get(2)? })
        })
    }

    /// The newest lease statement that was signed for a node: when, Unix seconds, and as it travels.
    pub fn lease(&self, node: &[u8; 32]) -> Result<Option<(u64, Blob)>> {
        let sql = "SELECT at, statement FROM leases WHERE node_key = ?1";
        let found = self.rows(sql, params![B64(*node).to_string()], |row| Ok((uint(row, 0)?, Blob(row.get(1)?))))?;
        Ok(found.into_iter().next())
    }
}

fn passed_on(row: &Row<'_>) -> rusqlite::Result<PassedOn> {
    let revoked = |at: i64| -> rusqlite::Result<Revoked> {
        let reason = row.get::<_, Option<String>>(9)?.unwrap_or_default();
        Ok(Revoked { at: u64::try_from(at).unwrap_or(0), reason, revocation: row.get(10)? })
    };
    Ok(PassedOn {
        id: parsed(row, 0)?,
        parent: parsed(row, 1)?,
        name: parsed(row, 2)?,
        node_key: parsed(row, 3)?,
        exit: parsed_some(row, 4)?,
        caveat: row.get(5)?,
        expires: row.get::<_, Option<i64>>(6)?.map(|at| u64::try_from(at).unwrap_or(0)),
        made_ms: uint(row, 7)?,
        revoked: row.get::<_, Option<i64>>(8)?.map(revoked).transpose()?,
    })
}

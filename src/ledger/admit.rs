//! What must hold at the moment a span is written, asked inside its transaction, so that of two processes one loses.

use super::kinds::{self, Body};
use super::span::B64;
use crate::error::{Code, Error, Result};
use rusqlite::Connection;
use serde_json::{Map, Value};

/// Refuses a span that contradicts what the ledger says already. `first`: it would begin its author's chain; `admitted`: the author was
/// asked for already. The outer error is SQLite's, the inner one ours.
pub(super) fn check(
    conn: &Connection,
    author: &B64<32>,
    first: bool,
    admitted: bool,
    kind: &str,
    body: &Map<String, Value>,
) -> rusqlite::Result<Result<()>> {
    let begins = kind == kinds::IdentityCreated::KIND;
    if first && !begins {
        return Ok(Err(Error::new(Code::Precondition, format!("device {author} has not begun its chain")).hint("portdistrict init")));
    }
    if !admitted && let Err(error) = super::devices::admit_author(conn, author)? {
        return Ok(Err(error));
    }
    if begins {
        return Ok(first_span(author, first, body));
    }
    let there = |sql: &str, field: &str| -> rusqlite::Result<bool> {
        conn.prepare_cached(sql)?.exists([body.get(field).and_then(Value::as_str).unwrap_or_default()])
    };
    let name = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(match kind {
        kinds::MachineDeployed::KIND => taken(there(MACHINE, "label")?, "a machine", &name("label"), "portdistrict machine show"),
        kinds::MachineClaimed::KIND
        | kinds::MachineReconnected::KIND
        | kinds::MachineEnabled::KIND
        | kinds::MachineDisabled::KIND
        | kinds::MachineDestroyed::KIND => missing(there(MACHINE, "label")?, "machine", &name("label"), "portdistrict machine list"),
        kinds::GrantIssued::KIND => taken(there(GRANT, "id")?, "a grant", &name("id"), "portdistrict grant show"),
        kinds::GrantReused::KIND => missing(there(GRANT, "id")?, "grant", &name("id"), "portdistrict grant list"),
        kinds::GrantRevoked::KIND => {
            missing(there(GRANT, "id")? || there(PASSED_ON, "id")?, "grant", &name("id"), "portdistrict grant list")
        }
        kinds::GrantRenewed::KIND => later_revision(conn, &name("id"), body)?,
        kinds::GrantPassedOn::KIND => taken(there(PASSED_ON, "id")?, "a grant", &name("id"), "portdistrict grant show"),
        kinds::ExitAccepted::KIND => other_exit(conn, &name("name"), &name("node_key"))?,
        kinds::PolicySet::KIND => next_policy(conn, body)?,
        kind if kind.starts_with("device.") || kind == kinds::IdentityRotated::KIND => super::devices::admit(conn, author, kind, body)?,
        kinds::PeerAdded::KIND => super::peers::admit_added(conn, body)?,
        kind if kind.starts_with("peer.") && kinds::KNOWN.contains(&kind) => super::peers::admit(conn, kind, &name("id"))?,
        kinds::ExitForgotten::KIND => missing(there(EXIT, "name")?, "exit", &name("name"), "portdistrict exit list"),
        _ => Ok(()),
    })
}

const MACHINE: &str = "SELECT 1 FROM machines WHERE label = ?1";
const GRANT: &str = "SELECT 1 FROM grants WHERE id = ?1";
const PASSED_ON: &str = "SELECT 1 FROM passed_on WHERE id = ?1";
const EXIT: &str = "SELECT 1 FROM exits WHERE name = ?1";

/// A chain begins with the certificate of its own device, once.
fn first_span(author: &B64<32>, first: bool, body: &Map<String, Value>) -> Result<()> {
    let body: kinds::IdentityCreated = kinds::parse(body)?;
    if !first {
        return Err(Error::new(Code::Exists, format!("device {author} has begun its chain already")).hint("portdistrict identity show"));
    }
    if body.device != *author || !certified(&body) {
        return Err(Error::new(Code::Failed, format!("the certificate of device {author} does not hold")).hint("portdistrict doctor"));
    }
    Ok(())
}

/// Whether the identity signed the device.
pub(super) fn certified(body: &kinds::IdentityCreated) -> bool {
    crate::keyring::verify(&body.identity.0, crate::keyring::DEVICE, &body.device.0, &body.cert.0)
}

/// Of two processes that sign one grant again at the same time, one loses.
fn later_revision(conn: &Connection, id: &str, body: &Map<String, Value>) -> rusqlite::Result<Result<()>> {
    let revision = body.get("revision").and_then(Value::as_i64).unwrap_or_default();
    let is_later = conn.prepare_cached("SELECT 1 FROM grants WHERE id = ?1 AND revision < ?2")?.exists(rusqlite::params![id, revision])?;
    if is_later {
        return Ok(Ok(()));
    }
    Ok(Err(Error::new(Code::Exists, format!("the grant `{id}` was signed again meanwhile")).hint(format!("portdistrict grant show {id}"))))
}

/// The same exit may be accepted again (a new grant, a new address); another one needs another name.
fn other_exit(conn: &Connection, name: &str, node_key: &str) -> rusqlite::Result<Result<()>> {
    let other = conn.prepare_cached("SELECT 1 FROM exits WHERE name = ?1 AND node_key <> ?2")?.exists([name, node_key])?;
    Ok(taken(other, "an exit", name, "portdistrict exit show"))
}

/// Each policy follows the one that its author saw.
fn next_policy(conn: &Connection, body: &Map<String, Value>) -> rusqlite::Result<Result<()>> {
    let last: u64 =
        conn.prepare_cached("SELECT coalesce(max(number), 0) FROM policies")?.query_row([], |row| Ok(super::unsigned(row.get(0)?)))?;
    let number = body.get("number").and_then(Value::as_u64);
    Ok(if number == Some(last + 1) {
        Ok(())
    } else {
        Err(Error::new(Code::Exists, format!("the policy was changed meanwhile: number {last} holds")).hint("portdistrict policy show"))
    })
}

pub(super) fn taken(there: bool, noun: &str, name: &str, show: &str) -> Result<()> {
    if there {
        return Err(Error::new(Code::Exists, format!("there is {noun} `{name}` already")).hint(format!("{show} {name}")));
    }
    Ok(())
}

pub(super) fn missing(there: bool, noun: &str, name: &str, list: &str) -> Result<()> {
    if !there {
        return Err(Error::new(Code::NotFound, format!("there is no {noun} `{name}`")).hint(list));
    }
    Ok(())
}

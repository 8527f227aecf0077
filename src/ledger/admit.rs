//! What must hold at the moment a span is written, asked inside its transaction, so that of two processes one loses.

use super::keys;
use super::kinds::{self, Body};
use super::span::{B64, Span};
use crate::error::{Code, Error, Result};
use rusqlite::Connection;
use serde_json::{Map, Value};

/// Refuses a span that contradicts what the ledger says already. The outer error is SQLite's, the inner one ours.
pub(super) fn check(
    conn: &Connection,
    author: &B64<32>,
    first: bool,
    kind: &str,
    body: &Map<String, Value>,
) -> rusqlite::Result<Result<()>> {
    let begins = kind == kinds::IdentityCreated::KIND;
    if first && !begins {
        return Ok(Err(Error::new(Code::Precondition, format!("device {author} has not begun its chain")).hint("portdistrict init")));
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
        kinds::MachineClaimed::KIND | kinds::MachineReconnected::KIND | kinds::MachineDestroyed::KIND => {
            missing(there(MACHINE, "label")?, "machine", &name("label"), "portdistrict machine list")
        }
        kinds::GrantIssued::KIND => taken(there(GRANT, "id")?, "a grant", &name("id"), "portdistrict grant show"),
        kinds::GrantRevoked::KIND | kinds::GrantReused::KIND => {
            missing(there(GRANT, "id")?, "grant", &name("id"), "portdistrict grant list")
        }
        kinds::ExitAccepted::KIND => other_exit(conn, &name("name"), &name("node_key"))?,
        kinds::ExitForgotten::KIND => missing(there(EXIT, "name")?, "exit", &name("name"), "portdistrict exit list"),
        _ => Ok(()),
    })
}

const MACHINE: &str = "SELECT 1 FROM machines WHERE label = ?1";
const GRANT: &str = "SELECT 1 FROM grants WHERE id = ?1";
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

/// The device that a span revokes, and the number of its last span that counts.
pub(super) fn revokes(span: &Span) -> Option<(B64<32>, u64)> {
    if span.kind != "device.revoked" {
        return None;
    }
    Some((span.body.get("device")?.as_str()?.parse().ok()?, span.body.get("last")?.as_u64()?))
}

/// The number of the last span of a device that counts, if it was revoked; the first revocation counts.
pub(super) fn revoked(conn: &Connection, device: &B64<32>) -> rusqlite::Result<Option<u64>> {
    let key = keys::digest(&format!("device/{device}"));
    let sql = "SELECT bytes FROM keys JOIN spans USING (pos) WHERE key = ?1 AND kind = 'device.revoked'";
    let found = conn.prepare_cached(sql)?.query_map([key], |row| row.get::<_, Vec<u8>>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let lasts = found.iter().filter_map(|bytes| revokes(&Span::decode(bytes).ok()?)).map(|(_, last)| last);
    Ok(lasts.min())
}

/// The same exit may be accepted again (a new grant, a new address); another one needs another name.
fn other_exit(conn: &Connection, name: &str, node_key: &str) -> rusqlite::Result<Result<()>> {
    let other = conn.prepare_cached("SELECT 1 FROM exits WHERE name = ?1 AND node_key <> ?2")?.exists([name, node_key])?;
    Ok(taken(other, "an exit", name, "portdistrict exit show"))
}

fn taken(there: bool, noun: &str, name: &str, show: &str) -> Result<()> {
    if there {
        return Err(Error::new(Code::Exists, format!("there is {noun} `{name}` already")).hint(format!("{show} {name}")));
    }
    Ok(())
}

fn missing(there: bool, noun: &str, name: &str, list: &str) -> Result<()> {
    if !there {
        return Err(Error::new(Code::NotFound, format!("there is no {noun} `{name}`")).hint(list));
    }
    Ok(())
}

//! The owner's devices and the identities they had: what spans come to, what may be written, and answers.

use super::Ledger;
use super::admit::{missing, taken};
use super::kinds::{self, Body, DeviceApproved, DeviceDescribed, DeviceInvited, DeviceRevoked, IdentityCreated, IdentityRotated};
use super::query::{not_found, parsed, parsed_some, uint};
use super::span::{B64, Span};
use crate::config::Label;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::keyring;
use crate::token::SignedRotation;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::Serialize;
use serde_json::{Map, Value};

pub(super) const SCHEMA: &str = "
CREATE TABLE rotations (
  old TEXT NOT NULL, new TEXT NOT NULL, statement BLOB NOT NULL, ms INTEGER NOT NULL, PRIMARY KEY (old, new)
) STRICT, WITHOUT ROWID;
CREATE TABLE certificates (
  old TEXT NOT NULL, new TEXT NOT NULL, device TEXT NOT NULL, cert TEXT NOT NULL, PRIMARY KEY (old, new, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE described (key TEXT PRIMARY KEY, name TEXT, version TEXT, cert TEXT, since_ms INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE devices (
  key TEXT PRIMARY KEY, name TEXT, enrolment TEXT, cert TEXT, code TEXT, since_ms INTEGER, revoked_at INTEGER, last INTEGER, reason TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE device_codes (id TEXT PRIMARY KEY, hash TEXT NOT NULL, expires INTEGER NOT NULL, name TEXT) STRICT, WITHOUT ROWID;
";

/// A device of the owner.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Its public key, the author of its spans.
    pub key: B64<32>,
    /// What it is called; none for one that never said.
    pub name: Option<Label>,
    /// The program on it, when it last said.
    pub version: Option<String>,
    /// The X25519 key to which what is meant for it alone is sealed; none for the first device.
    pub enrolment: Option<B64<32>>,
    /// The newest certificate of its key by the identity.
    #[serde(skip)]
    pub cert: Option<B64<64>>,
    /// The code that it answered.
    #[serde(skip)]
    pub code: Option<B64<8>>,
    /// Since when it belongs to the identity, Unix milliseconds.
    pub since_ms: u64,
    /// The time of its newest span here, Unix milliseconds; none if it wrote none, or none has come here.
    pub seen_ms: Option<u64>,
    /// The number of its newest span here.
    pub seq: Option<u64>,
    /// When it was revoked, Unix seconds.
    pub revoked_at: Option<u64>,
    /// Why.
    pub reason: Option<String>,
}

/// A one-time code that was made.
#[derive(Clone, Debug)]
pub struct DeviceCode {
    /// BLAKE3 of its secret.
    pub hash: B64<32>,
    /// Unix seconds.
    pub expires: u64,
    /// What the device is to be called.
    pub name: Option<Label>,
    /// The device that answered it and was approved.
    pub used_by: Option<B64<32>>,
}

/// What devices say of themselves (`described`) and what is said of them (`devices`), as one row each. Of several certificates the
/// one by the newest identity.
const DEVICES: &str = "SELECT key, name, version, enrolment, cert, code, coalesce(since_ms, 0), seen_ms, seq, revoked_at, reason FROM (
  SELECT every.key, coalesce(d.name, a.name) AS name, d.version, a.enrolment, a.code, a.revoked_at, a.reason,
    coalesce((SELECT c.cert FROM certificates c JOIN rotations r USING (old, new) WHERE c.device = every.key
      AND r.new = (SELECT min(new) FROM rotations WHERE old = r.old) ORDER BY r.ms DESC LIMIT 1), d.cert, a.cert) AS cert,
    coalesce(min(d.since_ms, a.since_ms), d.since_ms, a.since_ms) AS since_ms,
    (SELECT ms FROM spans WHERE author = every.key ORDER BY seq DESC LIMIT 1) AS seen_ms,
    (SELECT max(seq) FROM spans WHERE author = every.key) AS seq
  FROM (SELECT key FROM described UNION SELECT key FROM devices) AS every
    LEFT JOIN described d USING (key) LEFT JOIN devices a USING (key))";
/// What took the place of an identity: of two rotations, made on two devices at once, the lesser new key holds on both.
const NEXT: &str = "FROM rotations WHERE old = ?1 ORDER BY new LIMIT 1";

impl Ledger {
    /// The identity that this ledger belongs to now: the first one, or what took its place.
    pub fn current_identity(&self) -> Result<Option<B64<32>>> {
        Ok(self.identities()?.pop())
    }

    /// Every identity that this ledger ever belonged to, oldest first.
    pub fn identities(&self) -> Result<Vec<B64<32>>> {
        let mut all: Vec<B64<32>> = self.identity()?.into_iter().collect();
        // The first chain here may be of a device that joined after a rotation.
        while let Some(first) = all.first() {
            let before = self.rows("SELECT min(old) FROM rotations WHERE new = ?1", [first.to_string()], |row| parsed_some(row, 0))?;
            match before.first() {
                Some(Some(before)) if !all.contains(before) => all.insert(0, *before),
                _ => break,
            }
        }
        while let Some(last) = all.last() {
            let next = self.rows(&format!("SELECT new {NEXT}"), [last.to_string()], |row| parsed(row, 0))?;
            match next.first() {
                Some(next) if !all.contains(next) => all.push(*next),
                _ => break,
            }
        }
        Ok(all)
    }

    /// The signed rotations that lead to the identity of now, oldest first.
    pub fn rotations(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for old in self.identities()? {
            all.extend(self.rows(&format!("SELECT statement {NEXT}"), [old.to_string()], |row| row.get(0))?);
        }
        Ok(all)
    }

    /// Every device, revoked ones too, the oldest first.
    pub fn devices(&self) -> Result<Vec<Device>> {
        self.rows(&format!("{DEVICES} ORDER BY since_ms, key"), [], device)
    }

    /// One device by its name or key; of several with one name, the one that was not revoked.
    pub fn device(&self, name_or_key: &str) -> Result<Device> {
        let sql = format!("{DEVICES} WHERE key = ?1 OR name = ?1 ORDER BY key = ?1 DESC, revoked_at IS NULL DESC, since_ms DESC LIMIT 1");
        let found = self.rows(&sql, [name_or_key], device)?;
        found.into_iter().next().ok_or_else(|| not_found("device", name_or_key, "portdistrict device list"))
    }

    /// A code by its name.
    pub fn device_code(&self, id: &[u8; 8]) -> Result<Option<DeviceCode>> {
        let sql = "SELECT hash, expires, name, (SELECT min(key) FROM devices WHERE code = id) FROM device_codes WHERE id = ?1";
        let found = self.rows(sql, [B64(*id).to_string()], |row| {
            Ok(DeviceCode { hash: parsed(row, 0)?, expires: uint(row, 1)?, name: parsed_some(row, 2)?, used_by: parsed_some(row, 3)? })
        })?;
        Ok(found.into_iter().next())
    }
}

fn device(row: &Row<'_>) -> rusqlite::Result<Device> {
    let some = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.and_then(|n| u64::try_from(n).ok()));
    Ok(Device {
        key: parsed(row, 0)?,
        name: parsed_some(row, 1)?,
        version: row.get(2)?,
        enrolment: parsed_some(row, 3)?,
        cert: parsed_some(row, 4)?,
        code: parsed_some(row, 5)?,
        since_ms: uint(row, 6)?,
        seen_ms: some(7)?,
        seq: some(8)?,
        revoked_at: some(9)?,
        reason: row.get(10)?,
    })
}

/// Whether both keys signed the rotation that a span tells of.
pub(super) fn rotation_holds(body: &IdentityRotated) -> bool {
    SignedRotation::decode(&body.statement.0)
        .is_ok_and(|signed| signed.verify() && signed.rotation().old == body.old.0 && signed.rotation().new == body.new.0)
}

/// The identity key that a span takes out of use and the one that it puts in its place; none if it is of another kind.
pub(super) fn rotation_of(span: &Span) -> Result<Option<(B64<32>, B64<32>)>, String> {
    if span.kind != IdentityRotated::KIND {
        return Ok(None);
    }
    match kinds::parse::<IdentityRotated>(&span.body) {
        Ok(body) if rotation_holds(&body) => Ok(Some((body.old, body.new))),
        _ => Err("the rotation of the identity in it does not hold".to_owned()),
    }
}

/// Every identity that rotations link to this one, in either direction.
pub(super) fn linked(identity: B64<32>, rotations: &[(B64<32>, B64<32>)]) -> Vec<B64<32>> {
    let mut linked = vec![identity];
    loop {
        let next = rotations.iter().find_map(|(old, new)| match (linked.contains(old), linked.contains(new)) {
            (true, false) => Some(*new),
            (false, true) => Some(*old),
            _ => None,
        });
        match next {
            Some(next) => linked.push(next),
            None => return linked,
        }
    }
}

/// Every rotation that is here.
pub(super) fn all_rotations(conn: &Connection) -> rusqlite::Result<Vec<(B64<32>, B64<32>)>> {
    conn.prepare_cached("SELECT old, new FROM rotations")?.query_map([], |row| Ok((parsed(row, 0)?, parsed(row, 1)?)))?.collect()
}

/// The device that a span revokes, and the number of its last span that counts; none if none does.
pub(super) fn revokes(span: &Span) -> Option<(B64<32>, Option<u64>)> {
    let body: DeviceRevoked = kinds::parse(&span.body).ok().filter(|_| span.kind == DeviceRevoked::KIND)?;
    Some((body.device, body.last))
}

/// Whether a device was revoked, and the number of its last span that counts; an inner none if none does.
pub(super) fn revocation(conn: &Connection, device: &B64<32>) -> rusqlite::Result<Option<Option<u64>>> {
    let last = |row: &Row<'_>| Ok(row.get::<_, Option<i64>>(0)?.and_then(|last| u64::try_from(last).ok()));
    let sql = "SELECT last FROM devices WHERE key = ?1 AND revoked_at IS NOT NULL";
    conn.prepare_cached(sql)?.query_row([device.to_string()], last).optional()
}

/// What one span changes. A body that its kind does not allow changes nothing.
pub(super) fn apply(conn: &Connection, span: &Span) -> rusqlite::Result<()> {
    let ms = i64::try_from(span.hlc.ms).unwrap_or(i64::MAX);
    match span.kind.as_str() {
        IdentityCreated::KIND => with(span, |body: IdentityCreated| {
            if body.device != span.author {
                return Ok(0);
            }
            conn.prepare_cached("INSERT OR IGNORE INTO described (key, cert, since_ms) VALUES (?1, ?2, ?3)")?.execute(params![
                body.device.to_string(),
                body.cert.to_string(),
                ms
            ])
        }),
        IdentityRotated::KIND => {
            with(span, |body: IdentityRotated| {
                if !rotation_holds(&body) {
                    return Ok(0);
                }
                let (old, new) = (body.old.to_string(), body.new.to_string());
                for one in &body.devices {
                    conn.prepare_cached("INSERT OR IGNORE INTO certificates (old, new, device, cert) VALUES (?1, ?2, ?3, ?4)")?
                        .execute([&old, &new, &one.device.to_string(), &one.cert.to_string()])?;
                }
                conn.prepare_cached("INSERT OR IGNORE INTO rotations (old, new, statement, ms) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                    old,
                    new,
                    body.statement.0,
                    ms
                ])
            })
        }
        DeviceDescribed::KIND => with(span, |body: DeviceDescribed| {
            let sql = "INSERT INTO described (key, name, version) VALUES (?1, ?2, ?3)
                       ON CONFLICT (key) DO UPDATE SET name = excluded.name, version = excluded.version";
            conn.prepare_cached(sql)?.execute([span.author.to_string(), body.name.to_string(), body.version])
        }),
        DeviceInvited::KIND => with(span, |body: DeviceInvited| {
            conn.prepare_cached("INSERT OR IGNORE INTO device_codes (id, hash, expires, name) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                body.id.to_string(),
                body.hash.to_string(),
                i64::try_from(body.expires).unwrap_or(i64::MAX),
                body.name.map(|name| name.to_string())
            ])
        }),
        DeviceApproved::KIND => with(span, |body: DeviceApproved| approved(conn, &body, ms)),
        DeviceRevoked::KIND => with(span, |body: DeviceRevoked| {
            row(conn, &body.device)?;
            let last = revocation(conn, &body.device)?.map_or(body.last, |known| known.min(body.last));
            // The first revocation counts; a later one cannot move its time. Of their last spans the least: what any of them
            // refuses does not count.
            conn.prepare_cached(
                "UPDATE devices SET reason = iif(revoked_at IS NULL, ?4, reason), revoked_at = coalesce(revoked_at, ?2), last = ?3
                 WHERE key = ?1",
            )?
            .execute(params![
                body.device.to_string(),
                i64::try_from(body.at).unwrap_or(i64::MAX),
                last.and_then(|last| i64::try_from(last).ok()),
                body.reason
            ])
        }),
        _ => Ok(()),
    }
}

fn with<T: Body>(span: &Span, change: impl FnOnce(T) -> rusqlite::Result<usize>) -> rusqlite::Result<()> {
    kinds::parse(&span.body).map_or(Ok(()), |body| change(body).map(drop))
}

/// A device is known as soon as another one says anything of it.
fn row(conn: &Connection, key: &B64<32>) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO devices (key) VALUES (?1)")?.execute([key.to_string()]).map(drop)
}

fn approved(conn: &Connection, body: &DeviceApproved, ms: i64) -> rusqlite::Result<usize> {
    row(conn, &body.device)?;
    conn.prepare_cached(
        "UPDATE devices SET name = coalesce(name, :name), enrolment = :enrolment, cert = coalesce(cert, :cert), code = :code,
         since_ms = min(coalesce(since_ms, :ms), :ms) WHERE key = :key",
    )?
    .execute(named_params! {
        ":key": body.device.to_string(), ":name": body.name.as_str(), ":enrolment": body.enrolment.to_string(),
        ":cert": body.cert.to_string(), ":code": body.code.to_string(), ":ms": ms,
    })
}

/// A device that was revoked writes nothing more.
pub(super) fn admit_author(conn: &Connection, author: &B64<32>) -> rusqlite::Result<Result<()>> {
    Ok(revocation(conn, author)?.map_or(Ok(()), |_| Err(revoked(author))))
}

/// What the ledger says about the identity and its devices must allow the next step.
pub(super) fn admit(conn: &Connection, author: &B64<32>, kind: &str, body: &Map<String, Value>) -> rusqlite::Result<Result<()>> {
    Ok(match kind {
        IdentityRotated::KIND => admit_rotation(conn, author, body)?,
        DeviceInvited::KIND => parse_then(body, |body: DeviceInvited| {
            let there = conn.prepare_cached("SELECT 1 FROM device_codes WHERE id = ?1")?.exists([body.id.to_string()])?;
            Ok(taken(there, "a code", &body.id.to_string(), "portdistrict device list"))
        })?,
        DeviceApproved::KIND => parse_then(body, |body: DeviceApproved| admit_approval(conn, &body))?,
        DeviceRevoked::KIND => parse_then(body, |body: DeviceRevoked| {
            let sql = "SELECT 1 FROM described WHERE key = ?1 UNION ALL SELECT 1 FROM devices WHERE key = ?1";
            let there = conn.prepare_cached(sql)?.exists([body.device.to_string()])?;
            Ok(missing(there, "device", &body.device.to_string(), "portdistrict device list"))
        })?,
        _ => Ok(()),
    })
}

fn parse_then<T: Body>(body: &Map<String, Value>, check: impl FnOnce(T) -> rusqlite::Result<Result<()>>) -> rusqlite::Result<Result<()>> {
    match kinds::parse(body) {
        Ok(body) => check(body),
        Err(error) => Ok(Err(error)),
    }
}

/// Only the newest identity can be rotated, and the device that writes it must go on.
fn admit_rotation(conn: &Connection, author: &B64<32>, body: &Map<String, Value>) -> rusqlite::Result<Result<()>> {
    parse_then(body, |body: IdentityRotated| {
        let done = conn.prepare_cached("SELECT 1 FROM rotations WHERE old = ?1")?.exists([body.old.to_string()])?;
        if done {
            return Ok(Err(Error::new(Code::Exists, format!("the identity {} was rotated already", node_id(&body.old.0)))
                .hint("portdistrict identity show")));
        }
        let holds = |one: &kinds::Certified| keyring::verify(&body.new.0, keyring::DEVICE, &one.device.0, &one.cert.0);
        if rotation_holds(&body) && body.devices.iter().all(holds) && body.devices.iter().any(|one| one.device == *author) {
            return Ok(Ok(()));
        }
        Ok(Err(Error::new(Code::Failed, "the rotation or a certificate in it does not hold").hint("portdistrict identity verify")))
    })
}

/// A code is good for one device, once.
fn admit_approval(conn: &Connection, body: &DeviceApproved) -> rusqlite::Result<Result<()>> {
    if let Err(error) = admit_author(conn, &body.device)? {
        return Ok(Err(error));
    }
    let code = body.code.to_string();
    if !conn.prepare_cached("SELECT 1 FROM device_codes WHERE id = ?1")?.exists([&code])? {
        return Ok(Err(Error::new(Code::Refused, "this answer is to no code that was made here").hint("portdistrict device add")));
    }
    let used: Option<String> = conn
        .prepare_cached("SELECT key FROM devices WHERE code = ?1 AND key <> ?2")?
        .query_row(params![code, body.device.to_string()], |row| row.get(0))
        .optional()?;
    Ok(match used {
        Some(other) => {
            Err(Error::new(Code::Refused, format!("this code was used already, by device {other}")).hint("portdistrict device add"))
        }
        None => Ok(()),
    })
}

fn revoked(key: &B64<32>) -> Error {
    Error::new(Code::Refused, format!("device {key} was revoked; nothing it writes counts any more"))
        .hint("use a device that was not, or make it a new one in an empty home: portdistrict device init")
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;

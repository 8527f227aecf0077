//! What a node must not forget, in one SQLite file: its seed, its owner, who holds which grant, and what was taken back.
//!
//! Everything that is answered for (a claim, a binding, a revocation) is committed with `synchronous=FULL` before the
//! answer leaves; after a crash at any moment the answer that somebody saw still holds. Usage is counted in memory and
//! written now and then: losing seconds of it costs nobody anything.

use super::meter::{PAST_DAYS, Usage};
use crate::config::fs;
use crate::error::{Code, Error, Result};
use crate::keyring::Seed;
use crate::session::messages::{Switch, Switches};
use crate::token::Way;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Steps from one schema to the next; a step is never changed once released.
const SCHEMA: [&str; 6] = [
    "
    CREATE TABLE node (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seed BLOB NOT NULL CHECK (length(seed) = 32),
        owner BLOB CHECK (length(owner) = 32),
        claimed_at INTEGER,
        allow TEXT
    ) STRICT;
    CREATE TABLE bindings (
        grant_id BLOB NOT NULL CHECK (length(grant_id) = 8),
        device BLOB NOT NULL CHECK (length(device) = 32),
        once INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (grant_id, device)
    ) STRICT, WITHOUT ROWID;
    -- The database itself knows that a grant of mode `once` has one device.
    CREATE UNIQUE INDEX one_device ON bindings (grant_id) WHERE once = 1;
    CREATE TABLE revocations (
        target BLOB PRIMARY KEY,
        at INTEGER NOT NULL,
        signed BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage (
        grant_id BLOB PRIMARY KEY CHECK (length(grant_id) = 8),
        up INTEGER NOT NULL,
        down INTEGER NOT NULL,
        last_used INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reuse (
        grant_id BLOB PRIMARY KEY CHECK (length(grant_id) = 8),
        count INTEGER NOT NULL,
        last_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Who may discover the restricted onion service, and because of which grant.
    CREATE TABLE discovery (
        key BLOB PRIMARY KEY CHECK (length(key) = 32),
        grant_id BLOB NOT NULL CHECK (length(grant_id) = 8),
        expires INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    -- The newest lease statement of the owner, when by this clock it came, and the highest time that the clock has shown.
    ALTER TABLE node ADD COLUMN stated INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN heard INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN clock INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN way INTEGER;
    CREATE TABLE days (
        grant_id BLOB NOT NULL CHECK (length(grant_id) = 8),
        day INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (grant_id, day)
    ) STRICT, WITHOUT ROWID;
    -- The newest revision of a grant that was signed more than once.
    CREATE TABLE renewed (
        grant_id BLOB PRIMARY KEY CHECK (length(grant_id) = 8),
        revision INTEGER NOT NULL,
        signed BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Of which grant another one was made by its holder, and for whom.
    CREATE TABLE kin (
        grant_id BLOB PRIMARY KEY CHECK (length(grant_id) = 8),
        parent BLOB NOT NULL CHECK (length(parent) = 8),
        name TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    -- The owner's rules about destinations, as he signed them.
    ALTER TABLE node ADD COLUMN rules BLOB;
",
    super::history::SCHEMA,
    "
    -- What the owner has switched off, and the clocks of the words that said so.
    ALTER TABLE node ADD COLUMN exit_off INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN exit_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN exit_n INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN tor_off INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN tor_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE node ADD COLUMN tor_n INTEGER NOT NULL DEFAULT 0;
",
];

/// A grant's id.
pub type GrantId = [u8; 8];

/// Outcome of binding a grant to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It belongs to this device from now on.
    Now,
    /// It did already.
    Before,
    /// It belongs to another device, or to as many as it may.
    Elsewhere,
}

/// Outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The node has this owner from now on.
    Now,
    /// It had this owner before.
    Before,
    /// It has another owner.
    ByAnother,
}

/// What is remembered of one grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Devices it is bound to, the first one first.
    pub bound: Vec<[u8; 32]>,
    /// How it was used.
    pub usage: Usage,
    /// Uses by others after it was bound.
    pub reuse: u64,
    /// Unix seconds of the last of these.
    pub last_reuse: Option<u64>,
    /// Whose holder passed it on, and for whom, if it does not come from the owner.
    pub kin: Option<Kin>,
    /// The newest revision as it was signed, if there was more than one.
    pub newest: Option<Vec<u8>>,
}

/// Where a grant comes from that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The grant above it.
    pub parent: GrantId,
    /// Whom it is for, as the holder of that one calls him.
    pub name: String,
}

/// What the node knows of time and of its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The time in the newest lease statement of the owner, Unix seconds.
    pub stated: u64,
    /// When the owner was heard of, at most the node's own clock at that moment, Unix seconds.
    pub heard: u64,
    /// The highest time that the node's clock has shown, as of the last writing, Unix seconds.
    pub clock: u64,
}

/// Everything that deciding needs, read once at start.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The owner's identity key.
    pub owner: Option<[u8; 32]>,
    /// What it knows of time.
    pub times: Times,
    /// The allow-list, where the owner has replaced that of the configuration.
    pub allow: Option<Vec<String>>,
    /// The owner's rules about destinations, signed.
    pub rules: Option<Vec<u8>>,
    /// What the owner has switched off.
    pub switches: Switches,
    /// Grants that were ever used here.
    pub grants: HashMap<GrantId, Record>,
    /// Grant ids (8 bytes) and subject keys (32 bytes) that were taken back.
    pub revoked: Vec<Vec<u8>>,
}

/// The node's memory. One process holds it at a time.
pub struct State {
    db: Mutex<Connection>,
    path: PathBuf,
    _lock: fs::Lock,
}

impl State {
    /// Opens or makes `node.db` in a folder that is made with mode 0700 if missing.
    pub fn open(dir: &Path) -> Result<State> {
        Self::open_with(dir, None)
    }

    /// The same; a new one begins with `first_seed` instead of a random seed.
    pub fn open_with(dir: &Path, first_seed: Option<&Seed>) -> Result<State> {
        fs::ensure_private_dir(dir)?;
        let lock = fs::try_lock(&dir.join("node.lock"))?.ok_or_else(|| {
            Error::new(Code::Exists, format!("another node runs in {}", dir.display()))
                .hint("give this one a `state_dir` of its own, or stop the other one first")
        })?;
        let path = dir.join("node.db");
        // Born private, in a folder that is checked above; SQLite gives its other files the same mode.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(|error| {
            Error::new(Code::Io, format!("cannot open {}", path.display()))
                .cause(error)
                .hint("a node needs a folder that it can write to, with some space")
        })?;
        let db = Connection::open(&path).map_err(|error| failed(&path, error))?;
        let mut state = State { db: Mutex::new(db), path, _lock: lock };
        state.prepare(first_seed)?;
        Ok(state)
    }

    fn prepare(&mut self, first_seed: Option<&Seed>) -> Result<()> {
        let path = self.path.clone();
        let db = self.db.get_mut().unwrap_or_else(PoisonError::into_inner);
        let wrap = |error| failed(&path, error);
        db.busy_timeout(Duration::from_secs(5)).map_err(wrap)?;
        db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(wrap)?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
        let version: u32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrap)?;
        let version = version as usize;
        if version > SCHEMA.len() {
            return Err(
                Error::new(Code::Precondition, format!("{} was written by a newer version", path.display())).hint("portdistrict update")
            );
        }
        for step in &SCHEMA[version..] {
            tx.execute_batch(step).map_err(wrap)?;
        }
        tx.pragma_update(None, "user_version", SCHEMA.len() as u32).map_err(wrap)?;
        let known: bool = tx.query_row("SELECT EXISTS (SELECT 1 FROM node)", [], |row| row.get(0)).map_err(wrap)?;
        if !known {
            let random = Seed::random()?;
            let seed = first_seed.unwrap_or(&random);
            tx.execute("INSERT INTO node (one, seed) VALUES (1, ?1)", params![seed.expose()]).map_err(wrap)?;
        }
        tx.commit().map_err(wrap)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the disk look full, or not any more.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.lock().query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("a number of pages");
    }

    /// One durable transaction; nothing of it remains if `work` fails.
    pub(super) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut db = self.lock();
        let run = || {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let out = work(&tx)?;
            tx.commit()?;
            Ok(out)
        };
        run().map_err(|error| failed(&self.path, error))
    }

    /// The node's own seed: given or random, and fixed at the first start.
    pub fn seed(&self) -> Result<Seed> {
        let bytes: [u8; 32] =
            self.lock().query_row("SELECT seed FROM node", [], |row| row.get(0)).map_err(|error| failed(&self.path, error))?;
        Ok(Seed::from_bytes(&bytes))
    }

    /// All that deciding needs.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let db = self.lock();
        read_snapshot(&db).map_err(|error| failed(&self.path, error))
    }

    /// Takes an owner if there is none; a seed that comes with the owner replaces the one that was only good until then.
    pub fn claim(&self, owner: &[u8; 32], seed: Option<&Seed>, at: u64) -> Result<Claimed> {
        self.write(|tx| {
            let known: Option<[u8; 32]> = tx.query_row("SELECT owner FROM node", [], |row| row.get(0))?;
            if let Some(known) = known {
                return Ok(if known == *owner { Claimed::Before } else { Claimed::ByAnother });
            }
            tx.execute(
                "UPDATE node SET owner = ?1, claimed_at = ?2, seed = coalesce(?3, seed)",
                params![owner, clamp(at), seed.map(Seed::expose)],
            )?;
            Ok(Claimed::Now)
        })
    }

    /// Replaces the owner, if it is still `former`.
    pub fn succeed(&self, former: &[u8; 32], owner: &[u8; 32]) -> Result<bool> {
        // Rules of the former key hold in memory until the new one signs them again, which the owner does at once.
        self.write(|tx| Ok(tx.execute("UPDATE node SET owner = ?2, rules = NULL WHERE owner = ?1", [former, owner])? == 1))
    }

    /// Binds a grant to a device, at most `devices` of them; one, and no other ever, where the grant's mode is `once`.
    pub fn bind(&self, grant: &GrantId, device: &[u8; 32], once: bool, devices: usize, at: u64) -> Result<Bound> {
        self.write(|tx| {
            let mut held = tx.prepare_cached("SELECT device FROM bindings WHERE grant_id = ?1")?;
            let held: Vec<[u8; 32]> = held.query_map([grant], |row| row.get(0))?.collect::<Result<_, _>>()?;
            if held.contains(device) {
                return Ok(Bound::Before);
            }
            if held.len() >= if once { 1 } else { devices } {
                return Ok(Bound::Elsewhere);
            }
            tx.execute(
                "INSERT INTO bindings (grant_id, device, once, at) VALUES (?1, ?2, ?3, ?4)",
                params![grant, device, once, clamp(at)],
            )?;
            Ok(Bound::Now)
        })
    }

    /// Remembers what is known of time.
    pub fn set_times(&self, times: Times) -> Result<()> {
        let Times { stated, heard, clock } = times;
        self.write(|tx| {
            tx.execute("UPDATE node SET stated = ?1, heard = ?2, clock = ?3", params![clamp(stated), clamp(heard), clamp(clock)]).map(drop)
        })
    }

    /// Remembers later revisions of grants: id, revision, signed bytes. One that is not later than what is known changes nothing.
    pub fn renew(&self, list: &[(GrantId, u64, Vec<u8>)]) -> Result<()> {
        self.write(|tx| {
            let mut upsert = tx.prepare_cached(
                "INSERT INTO renewed (grant_id, revision, signed) VALUES (?1, ?2, ?3)
                 ON CONFLICT (grant_id) DO UPDATE SET revision = excluded.revision, signed = excluded.signed
                 WHERE excluded.revision > revision",
            )?;
            list.iter().try_for_each(|(id, revision, signed)| upsert.execute(params![id, clamp(*revision), signed]).map(drop))
        })
    }

    /// Remembers revocations for ever: target (grant id or subject key), time, signed bytes (none if a holder took back what
    /// he had passed on).
    pub fn revoke(&self, list: &[(Vec<u8>, u64, Vec<u8>)]) -> Result<()> {
        self.write(|tx| {
            let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO revocations (target, at, signed) VALUES (?1, ?2, ?3)")?;
            list.iter().try_for_each(|(target, at, signed)| insert.execute(params![target, clamp(*at), signed]).map(drop))
        })
    }

    /// Counts a use by somebody else than the one to whom the grant is bound.
    pub fn note_reuse(&self, grant: &GrantId, at: u64) -> Result<()> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO reuse (grant_id, count, last_at) VALUES (?1, 1, ?2)
                 ON CONFLICT (grant_id) DO UPDATE SET count = count + 1, last_at = max(last_at, excluded.last_at)",
                params![grant, clamp(at)],
            )
            .map(drop)
        })
    }

    /// Writes how much was used, how often it was tried from elsewhere, as totals, and whose holder passed it on.
    pub fn save_usage(&self, list: &[(GrantId, Record)]) -> Result<()> {
        self.write(|tx| list.iter().try_for_each(|(id, record)| save_record(tx, id, record)))
    }

    /// Lets a key discover the restricted onion service until its grant expires.
    pub fn add_discovery(&self, grant: &GrantId, key: &[u8; 32], expires: u64) -> Result<()> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO discovery (key, grant_id, expires) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET grant_id = excluded.grant_id, expires = excluded.expires",
                params![key, grant, clamp(expires)],
            )
            .map(drop)
        })
    }

    /// The keys that may discover the restricted onion service now; those whose grant is over or taken back are forgotten.
    pub fn discovery(&self, now: u64) -> Result<Vec<[u8; 32]>> {
        self.write(|tx| {
            tx.execute("DELETE FROM discovery WHERE expires <= ?1 OR grant_id IN (SELECT target FROM revocations)", params![clamp(now)])?;
            let mut rows = tx.prepare_cached("SELECT key FROM discovery ORDER BY expires DESC")?;
            rows.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Replaces the allow-list of the configuration, over restarts too.
    pub fn set_allow(&self, rules: &[String]) -> Result<()> {
        let text = serde_json::to_string(rules).map_err(|error| Error::new(Code::Failed, "cannot write the allow-list").cause(error))?;
        self.write(|tx| tx.execute("UPDATE node SET allow = ?1", [text]).map(drop))
    }

    /// Remembers what the owner has switched off.
    pub fn set_switches(&self, switches: &Switches) -> Result<()> {
        let (exit, tor) = (switches.exit, switches.tor);
        self.write(|tx| {
            tx.execute(
                "UPDATE node SET exit_off = ?1, exit_ms = ?2, exit_n = ?3, tor_off = ?4, tor_ms = ?5, tor_n = ?6",
                params![exit.off, clamp(exit.edition.0), clamp(exit.edition.1), tor.off, clamp(tor.edition.0), clamp(tor.edition.1)],
            )
            .map(drop)
        })
    }

    /// Replaces the owner's rules about destinations.
    pub fn set_rules(&self, signed: &[u8]) -> Result<()> {
        self.write(|tx| tx.execute("UPDATE node SET rules = ?1", [signed]).map(drop))
    }
}

/// SQLite's integers are signed.
pub(super) fn clamp(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// And never negative here.
pub(super) fn unsigned(n: i64) -> u64 {
    n.try_into().unwrap_or(0)
}

fn save_record(tx: &Transaction<'_>, id: &GrantId, record: &Record) -> rusqlite::Result<()> {
    let mut usage = tx.prepare_cached(
        "INSERT INTO usage (grant_id, up, down, last_used, way) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (grant_id) DO UPDATE SET up = excluded.up, down = excluded.down, last_used = excluded.last_used, way = excluded.way",
    )?;
    let used = &record.usage;
    usage.execute(params![
        id,
        clamp(used.up),
        clamp(used.down),
        used.last_used.map(clamp),
        used.last_way.map(|way| clamp(way.number()))
    ])?;
    let mut day = tx.prepare_cached("INSERT OR REPLACE INTO days (grant_id, day, bytes) VALUES (?1, ?2, ?3)")?;
    for (n, bytes) in &used.days {
        day.execute(params![id, clamp(*n), clamp(*bytes)])?;
    }
    if let Some((last, _)) = used.days.last() {
        let mut forget = tx.prepare_cached("DELETE FROM days WHERE grant_id = ?1 AND day < ?2")?;
        forget.execute(params![id, clamp(last.saturating_sub(PAST_DAYS as u64))])?;
    }
    if record.reuse > 0 {
        let mut reuse = tx.prepare_cached(
            "INSERT INTO reuse (grant_id, count, last_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (grant_id) DO UPDATE SET count = max(count, excluded.count), last_at = max(last_at, excluded.last_at)",
        )?;
        reuse.execute(params![id, clamp(record.reuse), clamp(record.last_reuse.unwrap_or(0))])?;
    }
    if let Some(kin) = &record.kin {
        let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO kin (grant_id, parent, name) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![id, kin.parent, kin.name])?;
    }
    Ok(())
}

fn read_snapshot(db: &Connection) -> rusqlite::Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    let allow: Option<String>;
    (snapshot.owner, allow, snapshot.times) = db.query_row("SELECT owner, allow, stated, heard, clock FROM node", [], |row| {
        let time = |column| row.get(column).map(unsigned);
        Ok((row.get(0)?, row.get(1)?, Times { stated: time(2)?, heard: time(3)?, clock: time(4)? }))
    })?;
    snapshot.rules = db.query_row("SELECT rules FROM node", [], |row| row.get(0))?;
    snapshot.switches = db.query_row("SELECT exit_off, exit_ms, exit_n, tor_off, tor_ms, tor_n FROM node", [], |row| {
        let switch = |at: usize| -> rusqlite::Result<Switch> {
            Ok(Switch { off: row.get(at)?, edition: (row.get(at + 1).map(unsigned)?, row.get(at + 2).map(unsigned)?) })
        };
        Ok(Switches { exit: switch(0)?, tor: switch(3)? })
    })?;
    snapshot.allow = allow.and_then(|text| serde_json::from_str(&text).ok());
    let mut rows = db.prepare("SELECT grant_id, device FROM bindings ORDER BY at, device")?;
    for row in rows.query_map([], |row| Ok((row.get::<_, GrantId>(0)?, row.get(1)?)))? {
        let (id, device) = row?;
        snapshot.grants.entry(id).or_default().bound.push(device);
    }
    read_usage(db, &mut snapshot)?;
    let mut rows = db.prepare("SELECT grant_id, count, last_at FROM reuse")?;
    for row in rows.query_map([], |row| Ok((row.get::<_, GrantId>(0)?, row.get(1)?, row.get(2)?)))? {
        let (id, count, at) = row?;
        let record = snapshot.grants.entry(id).or_default();
        (record.reuse, record.last_reuse) = (unsigned(count), Some(unsigned(at)));
    }
    let mut rows = db.prepare("SELECT grant_id, parent, name FROM kin")?;
    for row in rows.query_map([], |row| Ok((row.get::<_, GrantId>(0)?, Kin { parent: row.get(1)?, name: row.get(2)? })))? {
        let (id, kin) = row?;
        snapshot.grants.entry(id).or_default().kin = Some(kin);
    }
    let mut rows = db.prepare("SELECT grant_id, signed FROM renewed")?;
    for row in rows.query_map([], |row| Ok((row.get::<_, GrantId>(0)?, row.get(1)?)))? {
        let (id, signed) = row?;
        snapshot.grants.entry(id).or_default().newest = Some(signed);
    }
    let mut rows = db.prepare("SELECT target FROM revocations")?;
    snapshot.revoked = rows.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(snapshot)
}

fn read_usage(db: &Connection, snapshot: &mut Snapshot) -> rusqlite::Result<()> {
    let mut rows = db.prepare("SELECT grant_id, up, down, last_used, way FROM usage")?;
    let rows = rows.query_map([], |row| {
        let usage = Usage {
            up: row.get(1).map(unsigned)?,
            down: row.get(2).map(unsigned)?,
            last_used: row.get::<_, Option<i64>>(3)?.map(unsigned),
            last_way: row.get::<_, Option<i64>>(4)?.and_then(|way| Way::from_number(unsigned(way))),
            days: Vec::new(),
        };
        Ok((row.get::<_, GrantId>(0)?, usage))
    })?;
    for row in rows {
        let (id, usage) = row?;
        snapshot.grants.entry(id).or_default().usage = usage;
    }
    let mut rows = db.prepare("SELECT grant_id, day, bytes FROM days ORDER BY day")?;
    for row in rows.query_map([], |row| Ok((row.get::<_, GrantId>(0)?, row.get(1).map(unsigned)?, row.get(2).map(unsigned)?)))? {
        let (id, day, bytes) = row?;
        snapshot.grants.entry(id).or_default().usage.days.push((day, bytes));
    }
    Ok(())
}

fn failed(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "free some space on the node's disk",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "a node needs a folder that it can write to; check its owner and mode"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "the file is damaged: restore it from a backup, or move it away and deploy the machine again"
        }
        _ => "restart the node; if it stays, move the file away and deploy the machine again",
    };
    Error::new(Code::Io, format!("cannot use the node's memory {}", path.display())).cause(error).hint(hint)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

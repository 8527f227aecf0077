//! The database file: opening it, its schema, and what its failures mean.
//!
//! `spans` is the ledger. Triggers abort every UPDATE and DELETE, and any INSERT that would replace a row, because
//! `INSERT OR REPLACE` deletes without asking a DELETE trigger. No index keeps ids apart: an id is the hash of bytes that hold author
//! and number, so it is unique where these are (`places.rs` finds spans by it). `withheld` holds the links of spans that this home may not
//! see, and is protected alike. `checked` is what `verify` remembers. All other tables are projections.

use super::project;
use crate::config::fs;
use crate::error::{Code, Doing, Error, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// `PDlg` in ASCII, so that `file` and we can tell the database from others.
const APPLICATION_ID: i32 = 0x5044_6c67;
/// Version of what is no projection. An older file is brought forward, with a copy kept beside it; a newer one is refused.
const SCHEMA_VERSION: i32 = 3;
/// The parts of [`SCHEMA`] that are about `spans`; version 3 made them anew. The rest came with version 2.
const SPANS: usize = 5;
/// How long one process waits for another's transaction; each takes milliseconds.
const BUSY: Duration = Duration::from_secs(10);

/// Prepared statements that a connection keeps.
pub(super) const STATEMENTS: usize = 128;

/// Table and triggers that make the ledger; `ledger verify` compares them with what the file has.
pub(super) const SCHEMA: [(&str, &str); 10] = [
    (
        "spans",
        "CREATE TABLE spans (
  pos INTEGER PRIMARY KEY,
  id TEXT NOT NULL,
  author TEXT NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  ms INTEGER NOT NULL,
  n INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  signature BLOB NOT NULL,
  UNIQUE (author, seq)
) STRICT",
    ),
    ("spans_by_time", "CREATE INDEX spans_by_time ON spans (ms, n)"),
    ("spans_no_update", "CREATE TRIGGER spans_no_update BEFORE UPDATE ON spans BEGIN SELECT RAISE(ABORT, 'spans are append-only'); END"),
    ("spans_no_delete", "CREATE TRIGGER spans_no_delete BEFORE DELETE ON spans BEGIN SELECT RAISE(ABORT, 'spans are append-only'); END"),
    (
        "spans_no_replace",
        "CREATE TRIGGER spans_no_replace BEFORE INSERT ON spans
WHEN NEW.pos IS NOT (SELECT coalesce(max(pos), 0) + 1 FROM spans)
  OR EXISTS (SELECT 1 FROM spans WHERE author = NEW.author AND seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'spans are append-only'); END",
    ),
    (
        "withheld",
        "CREATE TABLE withheld (
  id TEXT NOT NULL UNIQUE,
  author TEXT NOT NULL,
  seq INTEGER NOT NULL,
  signature BLOB NOT NULL,
  UNIQUE (author, seq)
) STRICT",
    ),
    (
        "withheld_no_update",
        "CREATE TRIGGER withheld_no_update BEFORE UPDATE ON withheld BEGIN SELECT RAISE(ABORT, 'spans are append-only'); END",
    ),
    (
        "withheld_no_delete",
        "CREATE TRIGGER withheld_no_delete BEFORE DELETE ON withheld BEGIN SELECT RAISE(ABORT, 'spans are append-only'); END",
    ),
    (
        "withheld_no_replace",
        "CREATE TRIGGER withheld_no_replace BEFORE INSERT ON withheld
WHEN EXISTS (SELECT 1 FROM withheld WHERE id = NEW.id OR (author = NEW.author AND seq = NEW.seq))
BEGIN SELECT RAISE(ABORT, 'spans are append-only'); END",
    ),
    ("checked", "CREATE TABLE checked (pos INTEGER NOT NULL, digest BLOB NOT NULL, at_ms INTEGER NOT NULL) STRICT"),
];

/// Opens the ledger for reading and writing; makes it if the file is missing or empty.
pub(super) fn open(path: &Path) -> Result<Connection> {
    // Born 0600; SQLite gives its -wal and -shm files the same mode. A file that exists is not even opened here: closing
    // it again would drop the POSIX locks that SQLite holds on it elsewhere in this process.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).doing("make the ledger", path.display()),
        _ => {}
    }
    check_permissions(path)?;
    let fail = |error| failed(path, "open", error);
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(fail)?;
    settle(&conn).map_err(fail)?;
    use_wal(&conn).map_err(fail)?;
    prepare(&conn, path)?;
    Ok(conn)
}

/// Opens an existing ledger without being able to change it; works on a read-only disk.
pub(super) fn open_read_only(path: &Path) -> Result<Connection> {
    let conn = open_to_examine(path)?;
    if read_versions(&conn, path)? == (0, 0) {
        return Err(not_a_ledger(path));
    }
    Ok(conn)
}

/// A connection that only goes through the file once, beside another one: with a small cache.
pub(super) fn open_beside(path: &Path) -> rusqlite::Result<Connection> {
    let conn = open_to_examine(path).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    conn.pragma_update(None, "cache_size", -2048)?;
    Ok(conn)
}

/// Opens whatever is there, for `verify`, which judges it itself.
pub(super) fn open_to_examine(path: &Path) -> Result<Connection> {
    check_permissions(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(path, flags).map_err(|error| failed(path, "open", error))?;
    let readable = settle(&conn).and_then(|()| conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)));
    match readable.as_ref().map_err(rusqlite::Error::sqlite_error_code) {
        // Without a writable folder SQLite cannot make the shared memory that WAL wants. If no WAL is left over either,
        // the file alone is complete, and nobody can be writing to it.
        Err(Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)) if !has_wal(path) => {
            let uri = format!("file:{}?immutable=1", percent_encoded(path));
            let conn = Connection::open_with_flags(uri, flags).map_err(|error| failed(path, "open", error))?;
            settle(&conn).map_err(|error| failed(path, "open", error))?;
            Ok(conn)
        }
        _ => Ok(conn),
    }
}

fn has_wal(path: &Path) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).is_ok_and(|found| found.len() > 0)
}

fn percent_encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    path.as_os_str().as_bytes().iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

fn check_permissions(path: &Path) -> Result<()> {
    fs::check_private(path).map_err(|error| match error.code() {
        Code::NotFound => Error::new(Code::Precondition, format!("there is no ledger {}", path.display())).hint("portdistrict init"),
        _ => error,
    })
}

/// Per-connection settings.
fn settle(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    // More than there are: an append uses about twenty.
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // FULL: an acknowledged span survives power loss. Cell checks: a damaged page is an error, not a wrong answer.
    // A cache and a log of 16 MiB: ids are random, so appending to a large ledger touches pages everywhere.
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF;
         PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4096;",
    )
}

/// Two processes that switch a new file to WAL at once get BUSY without the busy timeout being asked, hence the loop.
fn use_wal(conn: &Connection) -> rusqlite::Result<()> {
    let start = Instant::now();
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && start.elapsed() < BUSY => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Makes the tables if the file is new, brings an older one forward, refuses one from the future, and rebuilds projections
/// that another version made.
fn prepare(conn: &Connection, path: &Path) -> Result<()> {
    let fail = |error| failed(path, "set up", error);
    let (_, version) = read_versions(conn, path)?;
    if version == SCHEMA_VERSION && project::is_current(conn).map_err(fail)? {
        return Ok(());
    }
    // One process at a time: the next one finds the file brought forward already.
    let older = |version: i32| (1..SCHEMA_VERSION).contains(&version);
    let _lock = if older(version) { Some(fs::lock(&path.with_extension("lock"))?) } else { None };
    if older(read_versions(conn, path)?.1) {
        back_up(conn, path, version)?;
    }
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(fail)?;
    let found = read_versions(&tx, path)?.1;
    let parts = match found {
        0 => 0..SCHEMA.len(),
        1 => SPANS..SCHEMA.len(),
        _ => 0..0,
    };
    SCHEMA[parts].iter().try_for_each(|(_, sql)| tx.execute_batch(sql)).map_err(fail)?;
    if older(found) {
        without_unique_ids(&tx).map_err(fail)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(fail)?;
    project::rebuild(&tx, None).map_err(fail)?;
    tx.commit().map_err(fail)
}

/// Copies the spans of version 1 or 2 into a table of version 3.
fn without_unique_ids(tx: &Connection) -> rusqlite::Result<()> {
    let (parts, columns) = (&SCHEMA[..SPANS], "pos, id, author, seq, kind, ms, n, bytes, signature");
    for (name, sql) in parts.iter().skip(1) {
        let what = if sql.starts_with("CREATE INDEX") { "INDEX" } else { "TRIGGER" };
        tx.execute_batch(&format!("DROP {what} IF EXISTS {name}"))?;
    }
    tx.execute_batch("ALTER TABLE spans RENAME TO spans_before")?;
    tx.execute_batch(parts[0].1)?;
    tx.execute_batch(&format!("INSERT INTO spans ({columns}) SELECT {columns} FROM spans_before ORDER BY pos; DROP TABLE spans_before"))?;
    parts.iter().skip(1).try_for_each(|(_, sql)| tx.execute_batch(sql))
}

/// Keeps the file as it was before it is brought forward, as `ledger.db.v1` beside it. What an earlier attempt left is made anew.
fn back_up(conn: &Connection, path: &Path, version: i32) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".v{version}"));
    let (copy, part) = (Path::new(&name), path.with_extension("backup"));
    let _ = std::fs::remove_file(&part);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map(drop).doing("make the backup", part.display())?;
    conn.execute("VACUUM INTO ?1", [part.to_string_lossy()]).map_err(|error| failed(path, "back up", error))?;
    std::fs::rename(&part, copy).doing("keep the backup", copy.display())?;
    path.parent().map_or(Ok(()), fs::sync_dir)
}

/// Application id and schema version, (0, 0) for an empty file; anything we cannot use is an error.
fn read_versions(conn: &Connection, path: &Path) -> Result<(i32, i32)> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(|error| failed(path, "read", error));
    let versions = (pragma("application_id")?, pragma("user_version")?);
    match versions {
        (APPLICATION_ID, 1..=SCHEMA_VERSION) => Ok(versions),
        (APPLICATION_ID, newer) => Err(Error::new(
            Code::Ledger,
            format!("the ledger {} has version {newer}; this program knows versions up to {SCHEMA_VERSION}", path.display()),
        )
        .hint("upgrade portdistrict")),
        (0, 0) => {
            let tables = conn
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
                .map_err(|error| failed(path, "read", error))?;
            if tables == 0 { Ok(versions) } else { Err(not_a_ledger(path)) }
        }
        _ => Err(not_a_ledger(path)),
    }
}

fn not_a_ledger(path: &Path) -> Error {
    Error::new(Code::Ledger, format!("{} is no ledger of portdistrict", path.display()))
        .hint("move it away, or choose another home with --home DIR")
}

/// What a failure of SQLite means to a person. `what` is a verb: open, append to, read.
pub(super) fn failed(path: &Path, what: &str, error: rusqlite::Error) -> Error {
    let (code, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            (Code::Io, "free some space on this disk and run the command again; nothing was half written".to_owned())
        }
        Some(ErrorCode::ReadOnly) => (Code::Io, "make the disk and the file writable, or choose another home with --home DIR".to_owned()),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            (Code::Io, "check who owns its folder and whether the disk is writable, or choose another home with --home DIR".to_owned())
        }
        Some(ErrorCode::SystemIoFailure) => {
            (Code::Io, "check the disk (is it full?) and run the command again; nothing was half written".to_owned())
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            Code::TimedOut,
            format!("another process has been writing for 10 seconds; see which one with: fuser {}", fs::shell_quote(path)),
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            (Code::Ledger, "see what is broken with `portdistrict ledger verify`, then restore the file from a backup".to_owned())
        }
        _ => (Code::Ledger, "portdistrict ledger verify".to_owned()),
    };
    Error::new(code, format!("cannot {what} the ledger {}", path.display())).cause(error).hint(hint)
}

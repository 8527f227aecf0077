//! The append-only record of everything the operator decided: signed spans in SQLite, and tables read from them.
//!
//! Spans are only ever added, in one transaction with the projections they change, so a table never knows more or less
//! than the spans. Several processes may append at once: who is next in the chain is read inside the transaction.

mod admit;
mod append;
mod audience;
mod change;
mod conflict;
mod dag;
mod devices;
mod export;
mod grants;
mod hlc;
mod import;
mod keys;
pub mod kinds;
mod lines;
mod log;
mod parallel;
mod peers;
mod places;
mod project;
mod query;
mod resources;
mod sealed;
mod signatures;
mod span;
mod store;
mod verify;

pub use append::Draft;
pub use audience::{Audience, Visibility};
pub use conflict::{Inspection, Rival};
pub use devices::{Device, DeviceCode};
pub use export::Exported;
pub use grants::{Delivery, PassedOn};
pub use hlc::{Hlc, MAX_AHEAD_MS};
pub use import::Imported;
pub use lines::MAX_LINE;
pub(crate) use lines::check_line;
pub use log::{Entry, Filter, Follower};
pub use peers::{Peer, PeerEvent, PeerState, Peers};
pub use query::{Exit, GrantRow, Machine, MachineState, PolicyRow, Proof, Reuse, Revoked, Switch};
pub use resources::Resource;
pub use sealed::{Opener, Seal};
pub use span::{B64, MAX_SPAN, Span, SpanError, SpanId, id_of};
pub use verify::{Broken, Report, verify_file};

use crate::error::{Error, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    conn: Mutex<Connection>,
    /// What the indexes lack, for who reads; locked after `conn`.
    tail: Mutex<places::Tail>,
    path: PathBuf,
}

/// What compacting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// Spans that were read; none is ever removed.
    pub spans: u64,
    /// Bytes on disk before.
    pub before: u64,
    /// Bytes on disk after.
    pub after: u64,
}

impl Ledger {
    /// Opens the ledger for reading and appending; makes it if there is none. The folder must exist.
    pub fn open(path: &Path) -> Result<Ledger> {
        Ok(Ledger { conn: Mutex::new(store::open(path)?), tail: Mutex::default(), path: path.to_owned() })
    }

    /// Opens an existing ledger without being able to change it; works on a read-only disk.
    pub fn open_read_only(path: &Path) -> Result<Ledger> {
        Ok(Ledger { conn: Mutex::new(store::open_read_only(path)?), tail: Mutex::default(), path: path.to_owned() })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drops every projection and makes it again from the spans. Returns how many spans were read.
    pub fn rebuild(&self) -> Result<u64> {
        let fail = |error| store::failed(&self.path, "rebuild", error);
        let conn = self.conn();
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate).map_err(fail)?;
        // Nobody else writes now, and all spans are committed.
        let count = project::rebuild(&tx, Some(&|| store::open_beside(&self.path))).map_err(fail)?;
        tx.commit().map_err(fail)?;
        Ok(count)
    }

    /// Makes every projection anew and gives back the room in the file that nothing uses. Spans stay as they are.
    pub fn compact(&self) -> Result<Compacted> {
        let fail = |error| store::failed(&self.path, "compact", error);
        let before = self.size();
        let spans = self.rebuild()?;
        let conn = self.conn();
        conn.execute_batch("VACUUM").map_err(fail)?;
        // Without the log that VACUUM filled; another process that reads keeps it, and then it goes with the next one.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(fail)?;
        Ok(Compacted { spans, before, after: self.size() })
    }

    /// Bytes of the file and of its log.
    fn size(&self) -> u64 {
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        [self.path.as_os_str(), &log].iter().filter_map(|file| std::fs::metadata(file).ok()).map(|found| found.len()).sum()
    }

    /// Checks every span, every chain and every projection.
    pub fn verify(&self) -> Result<Report> {
        Ok(verify::in_full(&self.conn()))
    }

    /// A panic while the lock was held left no half made transaction: dropping one rolls it back.
    fn conn(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, places::Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_id(text: &str) -> rusqlite::Result<SpanId> {
    text.parse().map_err(|error: Error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod carry_tests;
#[cfg(test)]
mod dag_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;

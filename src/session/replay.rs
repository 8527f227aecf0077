//! Remembers the openings of recent handshakes, so that a recorded one is met with silence.
//!
//! Only handshakes that authenticated are remembered, hence strangers cannot fill the memory. A handshake carries the
//! sender's time; outside [`WINDOW`] it is not answered, so an opening need not be remembered for longer. With a file,
//! the memory outlives a restart of the node: an entry is 24 bytes, appended before the node answers.

use crate::error::{Doing, Result};
use std::collections::{HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How far a friend's clock may be off, in seconds: two hours either way.
pub(crate) const WINDOW: u64 = 2 * 3600;
/// Most openings remembered; beyond it the oldest is forgotten. 2^18 is 36 handshakes a second over the whole window.
const CAPACITY: usize = 1 << 18;
/// Bytes of an opening that are kept, and of an entry in the file.
const KEY_LEN: usize = 16;
const ENTRY_LEN: usize = KEY_LEN + 8;

#[derive(Default)]
struct Memory {
    seen: HashSet<[u8; KEY_LEN]>,
    order: VecDeque<([u8; KEY_LEN], u64)>,
    file: Option<File>,
}

/// A shared memory of openings; cloning shares it.
#[derive(Clone, Default)]
pub struct ReplayGuard(Arc<Mutex<Memory>>);

impl ReplayGuard {
    /// A guard that forgets when the process ends.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A guard that remembers in `path` over restarts. Entries older than the window are dropped now.
    pub fn open(path: &Path, now: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        let limit = (CAPACITY * ENTRY_LEN * 4) as u64;
        if let Ok(file) = File::open(path) {
            file.take(limit).read_to_end(&mut bytes).doing("read", path.display())?;
        }
        let mut memory = Memory::default();
        // A torn last entry (power cut in mid-write) is shorter than an entry and is left out.
        for entry in bytes.chunks_exact(ENTRY_LEN) {
            let (key, at) = entry.split_at(KEY_LEN);
            let at = u64::from_be_bytes(at.try_into().unwrap_or_default());
            if at.saturating_add(2 * WINDOW) > now {
                memory.insert(key.try_into().unwrap_or_default(), at);
            }
        }
        let fresh = path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh).doing("write", fresh.display())?;
        let kept: Vec<u8> = memory.order.iter().flat_map(|(key, at)| [&key[..], &at.to_be_bytes()].concat()).collect();
        file.write_all(&kept).doing("write", fresh.display())?;
        std::fs::rename(&fresh, path).doing("replace", path.display())?;
        memory.file = Some(file);
        Ok(ReplayGuard(Arc::new(Mutex::new(memory))))
    }

    /// Whether this opening was answered before. Cheap; asked before any curve operation.
    pub(crate) fn seen(&self, random: &[u8; 32]) -> bool {
        self.lock().seen.contains(&short(random))
    }

    /// Remembers an authenticated opening; `false` if it was seen or its time is out of the window.
    pub(crate) fn admit(&self, random: &[u8; 32], sent_at: u64, now: u64) -> bool {
        if sent_at.abs_diff(now) > WINDOW {
            return false;
        }
        let mut memory = self.lock();
        let key = short(random);
        if !memory.insert(key, now) {
            return false;
        }
        match &mut memory.file {
            // Refusing service because the disk is full would be worse than a replay that only learns "somebody is here".
            Some(file) => {
                let _ = file.write_all(&[&key[..], &now.to_be_bytes()].concat());
                true
            }
            None => true,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn insert(&mut self, key: [u8; KEY_LEN], at: u64) -> bool {
        if !self.seen.insert(key) {
            return false;
        }
        self.order.push_back((key, at));
        while self.order.len() > CAPACITY || self.order.front().is_some_and(|(_, old)| old.saturating_add(2 * WINDOW) < at) {
            if let Some((old, _)) = self.order.pop_front() {
                self.seen.remove(&old);
            }
        }
        true
    }
}

fn short(random: &[u8; 32]) -> [u8; KEY_LEN] {
    random[..KEY_LEN].try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_admitted_once_and_only_within_the_window() {
        let guard = ReplayGuard::in_memory();
        assert!(guard.admit(&[1; 32], 10_000, 10_000));
        assert!(guard.seen(&[1; 32]) && !guard.admit(&[1; 32], 10_000, 10_001));
        assert!(guard.admit(&[2; 32], 10_000, 10_000 + WINDOW));
        assert!(!guard.admit(&[3; 32], 10_000, 10_001 + WINDOW));
        assert!(!guard.admit(&[4; 32], 10_001 + WINDOW, 10_000));
    }

    #[test]
    fn a_file_remembers_over_a_restart_and_survives_a_torn_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replay");
        assert!(ReplayGuard::open(&path, 100).unwrap().admit(&[1; 32], 100, 100));
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[7; 5]).unwrap();
        assert!(ReplayGuard::open(&path, 200).unwrap().seen(&[1; 32]));
        assert!(!ReplayGuard::open(&path, 200 + 2 * WINDOW).unwrap().seen(&[1; 32]));
    }
}

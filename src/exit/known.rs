//! Destinations that were reached a moment ago, so that the next connection to one of them need not wait for the same answer.
//!
//! Whoever opens a destination for the first time hears what the node says. A browser then opens five more connections to
//! it; each of these saves a round trip. Should one fail after all, it is reset, as by a server that went away.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is relied on.
const FRESH: Duration = Duration::from_secs(30);
/// Most destinations that are remembered.
const MAX: usize = 1024;

/// A session's id: another session may have other rules.
type SessionId = [u8; 16];

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<String, (SessionId, Instant)>>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (SessionId, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this destination was reached over this session just now.
    pub(super) fn has(&self, session: &SessionId, host: &str, port: u16) -> bool {
        self.lock().get(&key(host, port)).is_some_and(|(over, at)| over == session && at.elapsed() < FRESH)
    }

    /// It was reached.
    pub(super) fn add(&self, session: &SessionId, host: &str, port: u16) {
        let mut all = self.lock();
        if all.len() >= MAX {
            all.retain(|_, (_, at)| at.elapsed() < FRESH);
        }
        if all.len() < MAX {
            all.insert(key(host, port), (*session, Instant::now()));
        }
    }

    /// It was not reached.
    pub(super) fn remove(&self, host: &str, port: u16) {
        self.lock().remove(&key(host, port));
    }
}

fn key(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_known_for_this_session_until_it_fails() {
        let known = Known::default();
        known.add(&[1; 16], "a.invalid", 80);
        assert!(known.has(&[1; 16], "a.invalid", 80));
        assert!(!known.has(&[2; 16], "a.invalid", 80) && !known.has(&[1; 16], "a.invalid", 81));
        known.remove("a.invalid", 80);
        assert!(!known.has(&[1; 16], "a.invalid", 80));
    }

    #[test]
    fn memory_is_bounded() {
        let known = Known::default();
        for n in 0..MAX + 10 {
            known.add(&[1; 16], &n.to_string(), 80);
        }
        assert_eq!(known.lock().len(), MAX);
    }
}

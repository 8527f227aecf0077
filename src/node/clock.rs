//! The clock by which a node judges what its owner limits in time: it never shows less than it has shown before.
//!
//! A clock that is set back, or a restart, thus gives nobody more time. A clock that was once far ahead, by mistake, would
//! keep everybody out for ever; a new word of the owner puts that right.

use super::state::Times;
use crate::token::Lease;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The time is written at most this often, in seconds.
const WRITE_EVERY: u64 = 60;
/// How far the owner's clock may be ahead, in seconds; as in a handshake.
const AHEAD: u64 = 2 * 3600;
/// A clock that is further ahead than this, in seconds, of the owner's and of the system's is wrong.
const ASTRAY: u64 = 24 * 3600;

/// What it has shown, and what it has heard.
pub(super) struct Clock(Mutex<Shown>);

struct Shown {
    times: Times,
    written: u64,
}

/// Why a lease statement changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// It is not newer than the newest one.
    Old,
    /// It comes from the future.
    Future,
}

impl Clock {
    pub(super) fn new(times: Times) -> Self {
        Clock(Mutex::new(Shown { times, written: times.clock }))
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, where the system's clock shows `system`; both in Unix seconds.
    pub(super) fn now(&self, system: u64) -> u64 {
        let mut shown = self.lock();
        shown.times.clock = shown.times.clock.max(system);
        shown.times.clock
    }

    /// When the owner was last heard of.
    pub(super) fn heard(&self) -> u64 {
        self.lock().times.heard
    }

    /// What must be written, if it is time to.
    pub(super) fn due(&self) -> Option<Times> {
        let shown = self.lock();
        (shown.times.clock >= shown.written.saturating_add(WRITE_EVERY)).then_some(shown.times)
    }

    /// What the times will be after a statement that was verified. They hold once they are written: see [`Clock::set`].
    pub(super) fn after(&self, lease: &Lease, system: u64) -> Result<Times, Unheard> {
        let times = self.lock().times;
        if lease.at <= times.stated {
            return Err(Unheard::Old);
        }
        if lease.at > system.saturating_add(AHEAD) {
            return Err(Unheard::Future);
        }
        let truth = system.max(lease.at);
        let clock = if times.clock > truth.saturating_add(ASTRAY) { truth } else { times.clock.max(system) };
        // By the node's own clock, so that one that is behind adds nothing.
        Ok(Times { stated: lease.at, heard: times.heard.max(lease.at.min(clock)).min(clock), clock })
    }

    /// The times were written.
    pub(super) fn set(&self, times: Times) {
        let mut shown = self.lock();
        shown.written = times.clock;
        // Meanwhile it may have gone on.
        let astray = shown.times.clock > times.clock.saturating_add(ASTRAY);
        let clock = if astray { times.clock } else { shown.times.clock.max(times.clock) };
        shown.times = Times { clock, ..times };
    }
}

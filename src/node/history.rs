//! What was used on each of the last days: a meter, not a diary. It knows grants, sums and reasons, and nothing of where anybody went.
//!
//! Counted in memory, written together with the usage now and then and at the end. A day is one of UTC by the node's clock. Days
//! that are over for a month are dropped; those ahead, after a clock was wrong, are kept until their time has come, but not shown.

use super::state::{GrantId, State, clamp, unsigned};
use crate::error::Result;
use crate::session::messages::{GrantDay, HISTORY_DAYS, HistoryDay, HistoryReply, MAX_DAY_GRANTS, MAX_DAY_REASONS, Used};
use rusqlite::{Transaction, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

const DAY: u64 = 24 * 60 * 60;
const DAYS: u64 = HISTORY_DAYS as u64;
/// With as many days ahead as behind, a clock that jumps about cannot fill the memory.
const MAX_DAYS: usize = 2 * HISTORY_DAYS;
/// Under this name the handshakes are kept beside the reasons.
const HANDSHAKES: &str = "";

/// The tables, a step of the state's schema.
pub(super) const SCHEMA: &str = "
    -- Sums of each day (days since 1970, UTC). No reason: handshakes; an empty id: grants too many to be counted apart.
    CREATE TABLE day_counts (
        day INTEGER NOT NULL,
        reason TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (day, reason)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE day_usage (
        day INTEGER NOT NULL,
        grant_id BLOB NOT NULL CHECK (length(grant_id) IN (0, 8)),
        up INTEGER NOT NULL,
        down INTEGER NOT NULL,
        sessions INTEGER NOT NULL,
        PRIMARY KEY (day, grant_id)
    ) STRICT, WITHOUT ROWID;
";

/// The counters of all days. Shared by all serving threads.
pub struct History(Mutex<BTreeMap<u64, Counters>>);

/// The counters of one day.
#[derive(Clone, Default)]
struct Counters {
    handshakes: u64,
    refusals: BTreeMap<String, u64>,
    grants: BTreeMap<GrantId, Used>,
    others: Used,
    /// What changed since the last writing.
    fresh: Fresh,
}

#[derive(Clone, Default)]
struct Fresh {
    counts: bool,
    others: bool,
    grants: BTreeSet<GrantId>,
}

impl Counters {
    fn add(&mut self, grant: &GrantId, used: Used) {
        if self.grants.contains_key(grant) || self.grants.len() < MAX_DAY_GRANTS {
            self.grants.entry(*grant).or_default().add(used);
            self.fresh.grants.insert(*grant);
        } else {
            self.others.add(used);
            self.fresh.others = true;
        }
    }

    fn refuse(&mut self, reason: &str) {
        if self.refusals.contains_key(reason) || self.refusals.len() < MAX_DAY_REASONS {
            *self.refusals.entry(reason.to_owned()).or_default() += 1;
            self.fresh.counts = true;
        }
    }

    fn shown(&self, day: u64) -> HistoryDay {
        HistoryDay {
            day,
            handshakes: self.handshakes,
            refusals: self.refusals.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
            grants: self.grants.iter().map(|(id, used)| GrantDay { id: *id, used: *used }).collect(),
            others: self.others,
        }
    }

    fn write(&self, tx: &Transaction<'_>, day: u64) -> rusqlite::Result<()> {
        let day = clamp(day);
        if self.fresh.counts {
            let mut count = tx.prepare_cached("INSERT OR REPLACE INTO day_counts (day, reason, count) VALUES (?1, ?2, ?3)")?;
            count.execute(params![day, HANDSHAKES, clamp(self.handshakes)])?;
            for (reason, n) in &self.refusals {
                count.execute(params![day, reason, clamp(*n)])?;
            }
        }
        let mut usage =
            tx.prepare_cached("INSERT OR REPLACE INTO day_usage (day, grant_id, up, down, sessions) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let mut write =
            |id: &[u8], used: Used| usage.execute(params![day, id, clamp(used.up), clamp(used.down), clamp(used.sessions)]).map(drop);
        for id in &self.fresh.grants {
            write(id, self.grants.get(id).copied().unwrap_or_default())?;
        }
        if self.fresh.others { write(&[], self.others) } else { Ok(()) }
    }
}

impl History {
    /// Reads what was written before.
    pub fn open(state: &State) -> Result<History> {
        state.write(read).map(|days| History(Mutex::new(days)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Counters>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counters of the day in which `now` (Unix seconds) is; what is too old goes when a day begins.
    fn count(&self, now: u64, change: impl FnOnce(&mut Counters)) {
        let (mut days, today) = (self.lock(), now / DAY);
        if !days.contains_key(&today) {
            days.retain(|day, _| *day + DAYS > today);
        }
        change(days.entry(today).or_default());
        while days.len() > MAX_DAYS {
            days.pop_last();
        }
    }

    /// A guest was let in.
    pub fn began(&self, grant: &GrantId, now: u64) {
        self.count(now, |today| {
            today.handshakes += 1;
            today.fresh.counts = true;
            today.add(grant, Used { sessions: 1, ..Used::default() });
        });
    }

    /// A guest was not let in, for this reason.
    pub fn turned_away(&self, reason: &'static str, now: u64) {
        self.count(now, |today| {
            today.handshakes += 1;
            today.refuse(reason);
        });
    }

    /// A stream of a guest was refused for this reason.
    pub fn refused(&self, reason: &'static str, now: u64) {
        self.count(now, |today| today.refuse(reason));
    }

    /// Bytes went up and down since they were asked for last.
    pub fn moved(&self, grant: &GrantId, (up, down): (u64, u64), now: u64) {
        if up > 0 || down > 0 {
            self.count(now, |today| today.add(grant, Used { up, down, sessions: 0 }));
        }
    }

    /// Writes what changed since the last time; kept for the next time if that fails.
    pub fn save(&self, state: &State) -> Result<()> {
        let (changed, kept) = {
            let mut days = self.lock();
            let is_fresh = |fresh: &Fresh| fresh.counts || fresh.others || !fresh.grants.is_empty();
            let mut changed = BTreeMap::new();
            for (day, counters) in days.iter_mut().filter(|(_, counters)| is_fresh(&counters.fresh)) {
                changed.insert(*day, counters.clone());
                counters.fresh = Fresh::default();
            }
            (changed, days.keys().next().copied().zip(days.keys().last().copied()))
        };
        let Some((first, last)) = kept.filter(|_| !changed.is_empty()) else { return Ok(()) };
        let written = state.write(|tx| {
            changed.iter().try_for_each(|(day, counters)| counters.write(tx, *day))?;
            for table in ["day_counts", "day_usage"] {
                tx.execute(&format!("DELETE FROM {table} WHERE day NOT BETWEEN ?1 AND ?2"), params![clamp(first), clamp(last)])?;
            }
            Ok(())
        });
        if written.is_err() {
            self.mark(changed);
        }
        written
    }

    /// What was not written is to be written yet.
    fn mark(&self, changed: BTreeMap<u64, Counters>) {
        let mut days = self.lock();
        for (day, Counters { fresh, .. }) in changed {
            if let Some(counters) = days.get_mut(&day) {
                counters.fresh.counts |= fresh.counts;
                counters.fresh.others |= fresh.others;
                counters.fresh.grants.extend(fresh.grants);
            }
        }
    }

    /// The days up to `now` that the owner is shown.
    pub fn reply(&self, now: u64) -> HistoryReply {
        let today = now / DAY;
        let days = self.lock();
        let shown = days.range((today + 1).saturating_sub(DAYS)..=today);
        HistoryReply { days: shown.map(|(day, counters)| counters.shown(*day)).collect() }
    }
}

fn read(tx: &Transaction<'_>) -> rusqlite::Result<BTreeMap<u64, Counters>> {
    let mut days: BTreeMap<u64, Counters> = BTreeMap::new();
    let mut rows = tx.prepare("SELECT day, reason, count FROM day_counts")?;
    for row in rows.query_map([], |row| Ok((unsigned(row.get(0)?), row.get::<_, String>(1)?, unsigned(row.get(2)?))))? {
        let (day, reason, count) = row?;
        let counters = days.entry(day).or_default();
        if reason == HANDSHAKES {
            counters.handshakes = count;
        } else {
            counters.refusals.insert(reason, count);
        }
    }
    let mut rows = tx.prepare("SELECT day, grant_id, up, down, sessions FROM day_usage")?;
    let used = |up, down, sessions| Used { up: unsigned(up), down: unsigned(down), sessions: unsigned(sessions) };
    for row in
        rows.query_map([], |row| Ok((unsigned(row.get(0)?), row.get::<_, Vec<u8>>(1)?, used(row.get(2)?, row.get(3)?, row.get(4)?))))?
    {
        let (day, id, used) = row?;
        let counters = days.entry(day).or_default();
        match GrantId::try_from(id) {
            Ok(id) => drop(counters.grants.insert(id, used)),
            Err(_) => counters.others = used,
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Refusal;

    const NOON: u64 = 20_000 * DAY + DAY / 2;

    fn state(dir: &tempfile::TempDir) -> State {
        State::open(&dir.path().join("state")).unwrap()
    }

    #[test]
    fn days_are_counted_apart_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let history = History::open(&state).unwrap();
        history.began(&[1; 8], NOON);
        history.moved(&[1; 8], (10, 300), NOON);
        history.turned_away(Refusal::GrantExpired.as_str(), NOON);
        history.refused("private", NOON + DAY);
        history.moved(&[1; 8], (0, 0), NOON + DAY);
        history.save(&state).unwrap();
        history.moved(&[2; 8], (1, 2), NOON + DAY);
        history.save(&state).unwrap();
        let used = Used { up: 10, down: 300, sessions: 1 };
        let reply = history.reply(NOON + DAY);
        assert_eq!(reply.days[0].grants, [GrantDay { id: [1; 8], used }]);
        assert_eq!((reply.days[0].day, reply.days[0].handshakes), (20_000, 2));
        assert_eq!(reply.days[0].refusals, [("grant-expired".to_owned(), 1)]);
        assert_eq!((reply.days[1].handshakes, &reply.days[1].refusals), (0, &vec![("private".to_owned(), 1)]));
        assert_eq!(reply.days[1].grants.len(), 1, "nothing moved is nothing to count");
        assert_eq!(History::open(&state).unwrap().reply(NOON + DAY), reply);
        // Yesterday nobody knows of today.
        assert_eq!(history.reply(NOON).days.len(), 1);
    }

    #[test]
    fn a_month_is_kept_and_not_a_day_more() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let history = History::open(&state).unwrap();
        for n in 0..100 {
            history.began(&[1; 8], NOON + n * DAY);
            history.save(&state).unwrap();
        }
        for history in [&history, &History::open(&state).unwrap()] {
            let reply = history.reply(NOON + 99 * DAY);
            assert_eq!((reply.days.len(), reply.days[0].day), (HISTORY_DAYS, 20_069));
            assert_eq!(history.lock().len(), HISTORY_DAYS);
        }
        // A clock that stands in 1970 for a moment loses nothing of it, and one that jumps about fills nothing.
        history.began(&[1; 8], 5);
        assert_eq!(history.reply(5).days.len(), 1);
        for n in 0..1000 {
            history.began(&[1; 8], n * DAY);
        }
        assert!(history.lock().len() <= MAX_DAYS);
    }

    #[test]
    fn a_clock_that_was_behind_for_a_moment_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&state(&dir)).unwrap();
        (0..31).for_each(|n| history.began(&[1; 8], NOON + n * DAY));
        history.began(&[1; 8], 5);
        history.began(&[1; 8], NOON + 30 * DAY);
        assert_eq!(history.reply(NOON + 30 * DAY).days.len(), HISTORY_DAYS);
    }

    #[test]
    fn too_many_grants_are_counted_together() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let history = History::open(&state).unwrap();
        for n in 0..MAX_DAY_GRANTS as u64 + 5 {
            history.moved(&n.to_be_bytes(), (1, 2), NOON);
        }
        history.moved(&0u64.to_be_bytes(), (1, 2), NOON);
        history.save(&state).unwrap();
        for history in [&history, &History::open(&state).unwrap()] {
            let day = &history.reply(NOON).days[0];
            assert_eq!((day.grants.len(), day.others), (MAX_DAY_GRANTS, Used { up: 5, down: 10, sessions: 0 }));
            assert_eq!(day.grants[0].used.up, 2);
        }
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let history = History::open(&state).unwrap();
        state.limit_pages(1);
        for n in 0..1000u64 {
            history.moved(&n.to_be_bytes(), (1, 1), NOON);
        }
        history.turned_away("busy", NOON);
        assert!(history.save(&state).is_err());
        state.limit_pages(1_000_000);
        history.save(&state).unwrap();
        assert_eq!(History::open(&state).unwrap().reply(NOON), history.reply(NOON));
    }
}

//! What the owner says, or a holder of what he passed on, while the node runs: taken back, renewed, still there.

use super::super::clock::Unheard;
use super::super::state::{GrantId, Record, Times};
use super::books::{set_limits, timeless};
use super::{Admitted, Gate};
use crate::error::Result;
use crate::session::messages::Switches;
use crate::token::{SignedGrant, SignedLease, SignedRevocation, Target, child_id};
use crate::trust::Refusal;

/// A session ends so that the friend comes back under other terms.
const RENEWED: &str = "grant-renewed";

impl Gate {
    /// Puts revocations in force that were verified: on disk, in memory, and for the sessions that are open. Returns how
    /// many of these were closed.
    pub fn revoke(&self, list: &[SignedRevocation]) -> Result<usize> {
        let target = |signed: &SignedRevocation| (target_bytes(&signed.revocation().target), signed.revocation().at, signed.encode());
        self.take_back(&list.iter().map(target).collect::<Vec<_>>())
    }

    /// Takes back what the holder of a session made of his grant, by the caveat with which he made it.
    pub fn revoke_passed_on(&self, admitted: &Admitted, caveat: &[u8], system: u64) -> Result<(GrantId, usize)> {
        // Whatever the bytes are, the id is one of those that come from this grant.
        let id = child_id(&admitted.grant, caveat);
        let now = self.clock.now(system);
        self.take_back(&[(id.to_vec(), now, Vec::new())]).map(|closed| (id, closed))
    }

    fn take_back(&self, targets: &[(Vec<u8>, u64, Vec<u8>)]) -> Result<usize> {
        let _writing = self.write();
        self.state.revoke(targets)?;
        let mut closed = 0;
        let mut books = self.lock();
        books.generation += 1;
        for (target, ..) in targets {
            // Whoever is inside by something that was made of the grant stands in its list, too.
            for (id, entry) in &books.grants {
                let concerned = entry.live.iter().filter(|live| target == id || live.concerns(target));
                closed += concerned.filter(|live| live.end(Refusal::GrantRevoked.as_str())).count();
            }
            books.revoked.insert(target.clone());
        }
        Ok(closed)
    }

    /// Keeps later revisions of grants, whose signature was verified, and ends the sessions that are under narrower terms
    /// now. Returns how many revisions were new, and how many sessions were closed.
    pub fn renew(&self, list: &[SignedGrant]) -> Result<(usize, usize)> {
        let _writing = self.write();
        self.keep_revisions(list)
    }

    /// The same for one who writes already.
    pub(super) fn keep_revisions(&self, list: &[SignedGrant]) -> Result<(usize, usize)> {
        let is_news = |signed: &&SignedGrant| {
            let known = self.lock().grants.get(&signed.grant().id).and_then(|entry| entry.newest.as_ref().map(|n| n.grant().revision));
            signed.grant().revision > known.unwrap_or(0)
        };
        let news: Vec<&SignedGrant> = list.iter().filter(is_news).collect();
        if news.is_empty() {
            return Ok((0, 0));
        }
        let row = |signed: &&SignedGrant| (signed.grant().id, signed.grant().revision, signed.encode());
        self.state.renew(&news.iter().map(row).collect::<Vec<_>>())?;
        let mut closed = 0;
        let mut books = self.lock();
        books.generation += 1;
        for signed in &news {
            let entry = books.entry(&signed.grant().id);
            entry.newest = Some((*signed).clone());
            set_limits(std::slice::from_ref(&entry.meter), &[signed.grant().limits]);
            // What only lasts longer disturbs nobody.
            let terms = timeless(signed.grant());
            closed += entry.live.iter().filter(|live| live.terms != terms && live.end(RENEWED)).count();
        }
        Ok((news.len(), closed))
    }

    /// Switches off, or on again, durably, and ends the sessions to which it is off now. A word that is no later than the one that
    /// is known changes nothing. Returns what holds, and how many sessions were closed.
    pub fn switch(&self, switches: Switches) -> Result<(Switches, usize)> {
        let _writing = self.write();
        let held = self.switches();
        let now = held.or_later(switches);
        if now == held {
            return Ok((held, 0));
        }
        self.state.set_switches(&now)?;
        let mut books = self.lock();
        books.generation += 1;
        books.switches = now;
        Ok((now, books.end_switched_off()))
    }

    /// What the owner has switched off.
    pub fn switches(&self) -> Switches {
        self.lock().switches
    }

    /// Hears the owner, durably, if the statement was verified; says whether it was news.
    pub fn hear(&self, signed: &SignedLease, system: u64) -> Result<bool, Refusal> {
        let _writing = self.write();
        match self.clock.after(signed.lease(), system) {
            Ok(times) => self.set_times(times).map(|()| true).map_err(|error| self.storage(&error)),
            Err(Unheard::Old) => Ok(false),
            Err(Unheard::Future) => Err(Refusal::GrantNotYetValid),
        }
    }

    fn set_times(&self, times: Times) -> Result<()> {
        self.state.set_times(times)?;
        self.clock.set(times);
        Ok(())
    }

    /// When the owner was last heard of, Unix seconds.
    pub fn heard(&self) -> u64 {
        self.clock.heard()
    }

    /// Writes what was used since the last time, and the time.
    pub fn flush(&self, system: u64) -> Result<()> {
        let _writing = self.write();
        let now = self.clock.now(system);
        if let Some(times) = self.clock.due() {
            self.set_times(times)?;
        }
        let mut dirty = Vec::new();
        let mut meters = Vec::new();
        for (id, entry) in &self.lock().grants {
            entry.meter.roll(now);
            if entry.meter.take_dirty() {
                // What was made of a grant counts under it already.
                if entry.kin.is_none() {
                    self.history.moved(id, entry.meter.take_moved(), now);
                }
                let (reuse, last_reuse, kin) = (entry.reuse, entry.last_reuse, entry.kin.clone());
                dirty.push((*id, Record { usage: entry.meter.usage(), reuse, last_reuse, kin, ..Record::default() }));
                meters.push(entry.meter.clone());
            }
        }
        if !dirty.is_empty() {
            self.state.save_usage(&dirty).inspect_err(|_| meters.iter().for_each(|meter| meter.mark_dirty()))?;
        }
        self.history.save(&self.state)
    }
}

fn target_bytes(target: &Target) -> Vec<u8> {
    match target {
        Target::Grant(id) => id.to_vec(),
        Target::Subject(key) => key.to_vec(),
    }
}

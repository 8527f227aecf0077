//! What the gate knows at every moment, in memory: who is inside, who holds what, what was taken back.

use super::super::meter::{GrantMeter, Meters};
use super::super::state::{GrantId, Kin, Record, Snapshot};
use crate::session::Session;
use crate::session::messages::{GrantStatus, MAX_GRANTS, Switches};
use crate::token::{Chain, Grant, Limits, SignedGrant, Terms, Way};
use crate::trust::Refusal;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

#[derive(Default)]
pub(super) struct Books {
    pub(super) owner: Option<[u8; 32]>,
    pub(super) grants: HashMap<GrantId, Entry>,
    /// Sessions of the owner.
    pub(super) visits: Vec<Arc<Live>>,
    pub(super) revoked: HashSet<Vec<u8>>,
    /// What the owner has switched off.
    pub(super) switches: Switches,
    /// Grows with everything that could change a decision.
    pub(super) generation: u64,
}

pub(super) struct Entry {
    pub(super) bound: Vec<[u8; 32]>,
    pub(super) reuse: u64,
    pub(super) last_reuse: Option<u64>,
    pub(super) meter: Arc<GrantMeter>,
    /// Sessions under this grant and under those that were made of it.
    pub(super) live: Vec<Arc<Live>>,
    pub(super) kin: Option<Kin>,
    /// How many were made of it and used.
    pub(super) children: usize,
    /// The newest revision, if there was more than one.
    pub(super) newest: Option<SignedGrant>,
}

impl Entry {
    pub(super) fn new(record: Record) -> Self {
        Entry {
            bound: record.bound,
            reuse: record.reuse,
            last_reuse: record.last_reuse,
            meter: Arc::new(GrantMeter::new(record.usage)),
            live: Vec::new(),
            kin: record.kin,
            children: 0,
            // Only what was verified is written.
            newest: record.newest.and_then(|signed| SignedGrant::decode(&signed).ok()),
        }
    }

    fn status(&self, id: GrantId, revoked: bool) -> GrantStatus {
        let usage = self.meter.usage();
        GrantStatus {
            id,
            bound: self.bound.clone(),
            up: usage.up,
            down: usage.down,
            last_used: usage.last_used,
            reuse: self.reuse,
            last_reuse: self.last_reuse,
            revoked,
            sessions: u64::from(self.meter.sessions()),
            last_way: usage.last_way,
            days: usage.days,
            parent: self.kin.as_ref().map(|kin| kin.parent),
            name: self.kin.as_ref().map(|kin| kin.name.clone()),
        }
    }
}

impl Books {
    pub(super) fn read(snapshot: Snapshot) -> Books {
        let mut grants: HashMap<_, _> = snapshot.grants.into_iter().map(|(id, record)| (id, Entry::new(record))).collect();
        let parents: Vec<GrantId> = grants.values().filter_map(|entry: &Entry| entry.kin.as_ref().map(|kin| kin.parent)).collect();
        for parent in parents {
            if let Some(entry) = grants.get_mut(&parent) {
                entry.children += 1;
            }
        }
        Books {
            owner: snapshot.owner,
            grants,
            visits: Vec::new(),
            revoked: snapshot.revoked.into_iter().collect(),
            switches: snapshot.switches,
            generation: 0,
        }
    }

    pub(super) fn entry(&mut self, id: &GrantId) -> &mut Entry {
        self.grants.entry(*id).or_insert_with(|| Entry::new(Record::default()))
    }

    /// Puts a session on the books at each level of its grant, and hands back what counts it.
    pub(super) fn enter(&mut self, chain: &Chain, ids: &[GrantId], live: &Arc<Live>) -> Meters {
        let mut meters = Vec::with_capacity(ids.len());
        for (n, id) in ids.iter().enumerate() {
            let kin = n.checked_sub(1).map(|above| Kin { parent: ids[above], name: chain.caveats()[above].1.name.to_string() });
            let entry = self.entry(id);
            entry.live.push(live.clone());
            meters.push(entry.meter.clone());
            if entry.kin.is_none()
                && let Some(kin) = kin
            {
                let parent = kin.parent;
                entry.kin = Some(kin);
                self.entry(&parent).children += 1;
            }
        }
        set_limits(&meters, &chain.limits());
        Meters(meters.into())
    }

    /// Takes it off again.
    pub(super) fn leave(&mut self, ids: &[GrantId], live: &Live) {
        self.visits.retain(|other| other.id != live.id);
        for id in ids {
            if let Some(entry) = self.grants.get_mut(id) {
                entry.live.retain(|other| other.id != live.id);
            }
        }
    }

    /// The newest revision of a grant, if it is newer than the one that is shown and for the same key. Who issued the one that is shown
    /// does not matter: an owner who rotated signs what he granted again, and the friend still shows the old one.
    pub(super) fn newer(&self, shown: &SignedGrant) -> Option<SignedGrant> {
        let (old, newest) = (shown.grant(), self.grants.get(&shown.grant().id)?.newest.as_ref()?);
        let new = newest.grant();
        (new.subject == old.subject && new.revision > old.revision).then(|| newest.clone())
    }

    /// Ends what an owner granted who is not the owner any more, and the one who is has not signed again.
    pub(super) fn end_foreign(&self) -> usize {
        let Some(owner) = self.owner else { return 0 };
        let is_foreign = |entry: &&Entry| entry.newest.as_ref().is_none_or(|newest| newest.grant().issuer != owner);
        let foreign = self.grants.values().filter(is_foreign).flat_map(|entry| &entry.live);
        foreign.filter(|live| live.issuer != owner && live.end(super::FORMER)).count()
    }

    /// Whether guests who come this way find the node switched off.
    pub(super) fn is_off(&self, way: Way) -> bool {
        self.switches.exit.off || (self.switches.tor.off && way == Way::Tor)
    }

    /// Ends the sessions of guests to whom the node is switched off. Returns how many.
    pub(super) fn end_switched_off(&self) -> usize {
        let guests = self.grants.values().flat_map(|entry| &entry.live);
        guests.filter(|live| self.is_off(live.way) && live.end(Refusal::SwitchedOff.as_str())).count()
    }

    /// What the owner sees of each grant, used last first.
    pub(super) fn statuses(&self) -> Vec<GrantStatus> {
        let mut list: Vec<GrantStatus> = self.grants.iter().map(|(id, entry)| entry.status(*id, self.revoked.contains(&id[..]))).collect();
        list.sort_by_key(|grant| std::cmp::Reverse(grant.last_used.max(grant.last_reuse)));
        list.truncate(MAX_GRANTS);
        list
    }
}

/// Sets the limits of each level.
pub(super) fn set_limits(meters: &[Arc<GrantMeter>], limits: &[Limits]) {
    meters.iter().zip(limits).for_each(|(meter, limits)| meter.set_limits(limits));
}

/// The owner's terms without the times: what is the same after a grant was only made to last longer.
pub(super) fn timeless(grant: &Grant) -> Terms {
    Terms { not_before: 0, expires: 0, lease: 0, ..Terms::of(grant) }
}

/// A session that was admitted, as the gate knows it. It can be ended before it has really begun.
pub struct Live {
    pub(super) id: u64,
    /// Every key in whose name it is there: its own, and those of all who hold the grants above it.
    pub(super) keys: Vec<[u8; 32]>,
    /// What the owner allows it, without the times.
    pub(super) terms: Terms,
    /// Who signed the grant that it came with.
    pub(super) issuer: [u8; 32],
    /// By which way it came.
    pub(super) way: Way,
    session: OnceLock<Session>,
    ended: OnceLock<&'static str>,
}

impl Live {
    pub(super) fn new(id: u64, keys: Vec<[u8; 32]>, grant: &Grant, way: Way) -> Arc<Live> {
        let (session, ended) = (OnceLock::new(), OnceLock::new());
        Arc::new(Live { id, keys, terms: timeless(grant), issuer: grant.issuer, way, session, ended })
    }

    /// Hands over the session once it runs; closes it at once if it was ended in the meantime.
    pub fn attach(&self, session: Session) {
        let session = self.session.get_or_init(|| session);
        if self.ended.get().is_some() {
            session.close();
        }
    }

    /// Ends it; the first reason is kept. Says whether this was the first.
    pub fn end(&self, reason: &'static str) -> bool {
        let first = self.ended.set(reason).is_ok();
        if let Some(session) = self.session.get() {
            session.close();
        }
        first
    }

    /// Why it was ended by the node, if it was.
    pub fn ended(&self) -> Option<&'static str> {
        self.ended.get().copied()
    }

    pub(super) fn concerns(&self, target: &[u8]) -> bool {
        self.keys.iter().any(|key| target == key)
    }
}

//! The door: who is let in, remembered before it is said, and who must leave.
//!
//! Deciding is `trust::authorize`, a pure function; this module looks up its facts and keeps three promises around it.
//! A binding is on disk before the welcome leaves. Whoever is inside is registered in the same step that admits, so a
//! revocation or a binding that comes a moment later finds and closes the session. Every refusal is in the log under the
//! code that the guest sees.

use super::egress::Rule;
use super::history::History;
use super::log::Log;
use super::meter::{GrantMeter, Guard};
use super::state::{Bound, Claimed, GrantId, Record, State};
use crate::config::time::now_s;
use crate::error::Result;
use crate::keyring::Seed;
use crate::session::messages::{GrantStatus, MAX_GRANTS};
use crate::session::{Hello, Session};
use crate::token::{Limits, Mode, Role, SignedGrant, SignedRevocation, Target};
use crate::trust::{Decision, Facts, Refusal, Request, authorize};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Devices that one grant of mode `many` may be bound to.
const MAX_DEVICES: usize = 64;

/// The node's door. Shared by all serving threads.
pub struct Gate {
    state: State,
    history: History,
    node: [u8; 32],
    max_sessions: usize,
    sessions: AtomicUsize,
    draining: AtomicBool,
    next_live: AtomicU64,
    /// One writer of bindings at a time, so that memory and disk change in the same order.
    writing: Mutex<()>,
    inner: Mutex<Inner>,
    log: Log,
}

#[derive(Default)]
struct Inner {
    owner: Option<[u8; 32]>,
    grants: HashMap<GrantId, Entry>,
    revoked: HashSet<Vec<u8>>,
    /// Grows with everything that could change a decision.
    generation: u64,
}

struct Entry {
    bound: Vec<[u8; 32]>,
    reuse: u64,
    last_reuse: Option<u64>,
    meter: Arc<GrantMeter>,
    live: Vec<Arc<Live>>,
}

impl Entry {
    fn new(record: Record) -> Self {
        let meter = Arc::new(GrantMeter::new(record.up, record.down, record.last_used));
        Entry { bound: record.bound, reuse: record.reuse, last_reuse: record.last_reuse, meter, live: Vec::new() }
    }
}

/// A session that was admitted, as the gate knows it. It can be ended before it has really begun.
pub struct Live {
    id: u64,
    client: [u8; 32],
    subject: [u8; 32],
    device: Option<[u8; 32]>,
    session: OnceLock<Session>,
    ended: OnceLock<&'static str>,
}

impl Live {
    /// Hands over the session once it runs; closes it at once if it was ended in the meantime.
    pub fn attach(&self, session: Session) {
        let session = self.session.get_or_init(|| session);
        if self.ended.get().is_some() {
            session.close();
        }
    }

    /// Ends it; the first reason is kept.
    pub fn end(&self, reason: &'static str) {
        let _ = self.ended.set(reason);
        if let Some(session) = self.session.get() {
            session.close();
        }
    }

    /// Why it was ended by the node, if it was.
    pub fn ended(&self) -> Option<&'static str> {
        self.ended.get().copied()
    }

    fn concerns(&self, target: &[u8]) -> bool {
        target == self.client || target == self.subject || self.device.is_some_and(|device| target == device)
    }
}

/// What an admitted client has. Dropping it takes the session off the gate's books.
pub struct Admitted {
    gate: Arc<Gate>,
    /// The grant that let it in.
    pub grant: GrantId,
    /// What is open to it.
    pub role: Role,
    /// What it is told: the bytes are those that are left.
    pub limits: Limits,
    /// When it must end, unix seconds.
    pub expires: u64,
    /// Counts what it uses.
    pub meter: Arc<GrantMeter>,
    /// The grant's own rules for destinations.
    pub rules: Arc<[Rule]>,
    /// Its handle on the books.
    pub live: Arc<Live>,
    _session: Guard,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.gate.sessions.fetch_sub(1, Ordering::Relaxed);
        let mut inner = self.gate.lock();
        if let Some(entry) = inner.grants.get_mut(&self.grant) {
            entry.live.retain(|live| live.id != self.live.id);
        }
    }
}

/// A request at the door, read but not yet judged.
struct Asking {
    client: [u8; 32],
    bind: Option<[u8; 32]>,
    signed: SignedGrant,
    rules: Arc<[Rule]>,
    now: u64,
}

/// What memory alone can say.
enum Judged {
    In(Admitted),
    /// The grant must be bound to this device first.
    Bind([u8; 32]),
    Out(Refusal),
}

impl Gate {
    /// Reads the node's memory.
    pub fn new(state: State, node: [u8; 32], max_sessions: usize, log: Log) -> Result<Self> {
        let snapshot = state.snapshot()?;
        let inner = Inner {
            owner: snapshot.owner,
            grants: snapshot.grants.into_iter().map(|(id, record)| (id, Entry::new(record))).collect(),
            revoked: snapshot.revoked.into_iter().collect(),
            generation: 0,
        };
        Ok(Gate {
            history: History::open(&state)?,
            state,
            node,
            max_sessions,
            sessions: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            next_live: AtomicU64::new(0),
            writing: Mutex::new(()),
            inner: Mutex::new(inner),
            log,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's memory, for what does not concern the door.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was used on each of the last days.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The owner's identity key.
    pub fn owner(&self) -> Option<[u8; 32]> {
        self.lock().owner
    }

    /// Sessions open now.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Takes no more guests; the owner still gets in.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether guests are still taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Lets a client in or says why not. Touches the disk only to bind a grant or to note its reuse, and then on a thread
    /// made for waiting.
    pub async fn admit(self: &Arc<Self>, client: [u8; 32], hello: &Hello, now: u64) -> Result<Admitted, Refusal> {
        let signed = match SignedGrant::decode(&hello.grant) {
            Ok(signed) => signed,
            Err(error) => return Err(self.refused(None, Refusal::of_unreadable_grant(&error))),
        };
        let id = signed.grant().id;
        let Ok(rules) = Rule::parse_list(&signed.grant().egress) else { return Err(self.refused(Some(&id), Refusal::UpgradeRequired)) };
        let asking = Asking { client, bind: hello.bind, signed, rules: rules.into(), now };
        let refusal = match self.judge(&asking) {
            Judged::In(admitted) => return Ok(admitted),
            Judged::Out(refusal) if refusal != Refusal::GrantBoundElsewhere || self.note_another_reuse(&id, now) => refusal,
            Judged::Out(_) | Judged::Bind(_) => {
                let gate = self.clone();
                match tokio::task::spawn_blocking(move || gate.admit_with_disk(&asking)).await {
                    Ok(Ok(admitted)) => return Ok(admitted),
                    Ok(Err(refusal)) => refusal,
                    Err(_) => Refusal::Busy,
                }
            }
        };
        Err(self.refused(Some(&id), refusal))
    }

    fn refused(&self, grant: Option<&GrantId>, refusal: Refusal) -> Refusal {
        let line = self.log.event("session.refused").with("reason", refusal.as_str());
        match grant {
            Some(grant) => line.grant(grant).write(),
            None => line.write(),
        }
        refusal
    }

    /// Binds, or notes a reuse. Racers queue here; whoever comes second is judged by what the first one left.
    fn admit_with_disk(self: &Arc<Self>, asking: &Asking) -> Result<Admitted, Refusal> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.judge(asking) {
            Judged::In(admitted) => Ok(admitted),
            Judged::Bind(device) => self.bind(asking, device),
            Judged::Out(refusal) => {
                if refusal == Refusal::GrantBoundElsewhere {
                    self.note_reuse(asking);
                }
                Err(refusal)
            }
        }
    }

    fn bind(self: &Arc<Self>, asking: &Asking, device: [u8; 32]) -> Result<Admitted, Refusal> {
        let grant = asking.signed.grant();
        let once = grant.mode == Mode::Once;
        let bound = match self.state.bind(&grant.id, &device, once, MAX_DEVICES, asking.now) {
            Ok(bound @ (Bound::Now | Bound::Before)) => bound,
            Ok(Bound::Elsewhere) => return Err(Refusal::LimitReached),
            Err(error) => return Err(self.storage(&error)),
        };
        // On disk: from here on it is so, whether or not the answer reaches anybody.
        {
            let mut inner = self.lock();
            inner.generation += 1;
            let entry = inner.grants.entry(grant.id).or_insert_with(|| Entry::new(Record::default()));
            if !entry.bound.contains(&device) {
                entry.bound.push(device);
            }
            if once && bound == Bound::Now {
                entry.live.iter().for_each(|live| live.end(Refusal::GrantBoundElsewhere.as_str()));
            }
        }
        self.log.event("grant.bound").grant(&grant.id).with("device", crate::encoding::base64(&device)).write();
        match self.judge(asking) {
            Judged::In(admitted) => Ok(admitted),
            Judged::Out(refusal) => Err(refusal),
            Judged::Bind(_) => Err(Refusal::Busy),
        }
    }

    /// Counts a reuse in memory if the first one is on disk already; the rest follows with the usage, so that somebody who
    /// holds a dead invite cannot keep the disk busy. False if it is the first.
    fn note_another_reuse(&self, id: &GrantId, now: u64) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.grants.get_mut(id).filter(|entry| entry.reuse > 0) else { return false };
        entry.reuse += 1;
        entry.last_reuse = entry.last_reuse.max(Some(now));
        entry.meter.mark_dirty();
        true
    }

    fn note_reuse(&self, asking: &Asking) {
        let id = asking.signed.grant().id;
        if let Err(error) = self.state.note_reuse(&id, asking.now) {
            self.storage(&error);
        }
        if let Some(entry) = self.lock().grants.get_mut(&id) {
            entry.reuse += 1;
            entry.last_reuse = entry.last_reuse.max(Some(asking.now));
        }
    }

    fn storage(&self, error: &crate::error::Error) -> Refusal {
        self.log.event("storage.failed").with("error", error.message()).with("causes", error.causes().join("; ")).write();
        Refusal::Busy
    }

    /// Judges by memory and, if the answer is yes, registers the session in the same step.
    fn judge(self: &Arc<Self>, asking: &Asking) -> Judged {
        loop {
            let (facts, generation) = self.facts(asking);
            let request =
                Request { client: asking.client, grant: &asking.signed, bind: asking.bind, now: asking.now, this_node: self.node };
            // A signature is verified in here, hence not under the lock.
            let admission = match authorize(&request, &facts) {
                Decision::Admit(admission) => admission,
                Decision::Refuse(refusal) => return Judged::Out(refusal),
            };
            if admission.role == Role::Exit && (self.is_draining() || self.sessions() >= self.max_sessions) {
                return Judged::Out(Refusal::Busy);
            }
            if let Some(device) = admission.bind_now {
                return Judged::Bind(device);
            }
            let limits = Limits { bytes: admission.remaining_bytes, ..admission.limits };
            if let Some(live_and_meter) = self.register(asking, admission.role, generation) {
                let (live, meter) = live_and_meter;
                meter.set_limits(&admission.limits);
                meter.touch(asking.now);
                self.sessions.fetch_add(1, Ordering::Relaxed);
                return Judged::In(Admitted {
                    gate: self.clone(),
                    grant: asking.signed.grant().id,
                    role: admission.role,
                    limits,
                    expires: admission.expires,
                    _session: meter.session(),
                    meter,
                    rules: asking.rules.clone(),
                    live,
                });
            }
        }
    }

    fn facts(&self, asking: &Asking) -> (Facts, u64) {
        let inner = self.lock();
        let grant = asking.signed.grant();
        let entry = inner.grants.get(&grant.id);
        let bound_to = entry.and_then(|entry| match grant.mode {
            Mode::Once | Mode::Try => entry.bound.first().copied(),
            Mode::Many => {
                let named = asking.bind.unwrap_or(asking.client);
                entry.bound.iter().find(|device| **device == named).copied()
            }
        });
        let revoked = [&grant.id[..], &grant.subject, &asking.client].iter().any(|target| inner.revoked.contains(*target))
            || asking.bind.is_some_and(|device| inner.revoked.contains(&device[..]));
        let facts = Facts { owner: inner.owner, bound_to, revoked, used_bytes: entry.map_or(0, |entry| entry.meter.used()) };
        (facts, inner.generation)
    }

    /// Puts the session on the books; `None` if something changed since the decision, which then must be made again.
    fn register(&self, asking: &Asking, role: Role, generation: u64) -> Option<(Arc<Live>, Arc<GrantMeter>)> {
        let grant = asking.signed.grant();
        let live = Arc::new(Live {
            id: self.next_live.fetch_add(1, Ordering::Relaxed),
            client: asking.client,
            subject: grant.subject,
            device: asking.bind,
            session: OnceLock::new(),
            ended: OnceLock::new(),
        });
        let mut inner = self.lock();
        if inner.generation != generation {
            return None;
        }
        if role == Role::Control {
            // The owner makes a new grant for each visit; they need no books.
            return Some((live, Arc::new(GrantMeter::new(0, 0, None))));
        }
        let entry = inner.grants.entry(grant.id).or_insert_with(|| Entry::new(Record::default()));
        entry.live.push(live.clone());
        Some((live, entry.meter.clone()))
    }

    /// Takes an owner, durably.
    pub fn claim(&self, owner: &[u8; 32], seed: Option<&Seed>, now: u64) -> Result<Claimed> {
        let claimed = self.state.claim(owner, seed, now)?;
        if claimed == Claimed::Now {
            let mut inner = self.lock();
            inner.owner = Some(*owner);
            inner.generation += 1;
        }
        Ok(claimed)
    }

    /// Puts revocations in force that were verified: on disk, in memory, and for the sessions that are open. Returns how
    /// many of these were closed.
    pub fn revoke(&self, list: &[SignedRevocation]) -> Result<usize> {
        let targets: Vec<(Vec<u8>, u64, Vec<u8>)> =
            list.iter().map(|signed| (target_bytes(&signed.revocation().target), signed.revocation().at, signed.encode())).collect();
        self.state.revoke(&targets)?;
        let mut closed = 0;
        let mut inner = self.lock();
        inner.generation += 1;
        for (target, ..) in targets {
            for (id, entry) in &inner.grants {
                for live in entry.live.iter().filter(|live| target == id || live.concerns(&target)) {
                    live.end(Refusal::GrantRevoked.as_str());
                    closed += 1;
                }
            }
            inner.revoked.insert(target);
        }
        Ok(closed)
    }

    /// Ends every session.
    pub fn close_all(&self, reason: &'static str) {
        self.lock().grants.values().flat_map(|entry| &entry.live).for_each(|live| live.end(reason));
    }

    /// Writes what was used since the last time.
    pub fn flush(&self) -> Result<()> {
        let mut dirty = Vec::new();
        let mut meters = Vec::new();
        for (id, entry) in &self.lock().grants {
            if entry.meter.take_dirty() {
                self.history.moved(id, entry.meter.take_moved(), now_s());
                let (up, down, last_used) = entry.meter.totals();
                dirty.push((*id, Record { up, down, last_used, reuse: entry.reuse, last_reuse: entry.last_reuse, ..Record::default() }));
                meters.push(entry.meter.clone());
            }
        }
        if !dirty.is_empty() {
            self.state.save_usage(&dirty).inspect_err(|_| meters.iter().for_each(|meter| meter.mark_dirty()))?;
        }
        self.history.save(&self.state)
    }

    /// What the owner sees of each grant, used last first.
    pub fn grants(&self) -> Vec<GrantStatus> {
        let inner = self.lock();
        let mut list: Vec<GrantStatus> = inner
            .grants
            .iter()
            .map(|(id, entry)| {
                let (up, down, last_used) = entry.meter.totals();
                GrantStatus {
                    id: *id,
                    bound: entry.bound.clone(),
                    up,
                    down,
                    last_used,
                    reuse: entry.reuse,
                    last_reuse: entry.last_reuse,
                    revoked: inner.revoked.contains(&id[..]),
                    sessions: u64::from(entry.meter.sessions()),
                }
            })
            .collect();
        list.sort_by_key(|grant| std::cmp::Reverse(grant.last_used.max(grant.last_reuse)));
        list.truncate(MAX_GRANTS);
        list
    }
}

fn target_bytes(target: &Target) -> Vec<u8> {
    match target {
        Target::Grant(id) => id.to_vec(),
        Target::Subject(key) => key.to_vec(),
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;

//! The door: who is let in, remembered before it is said, and who must leave.
//!
//! Deciding is `trust::authorize`, a pure function; this module looks up its facts and keeps three promises around it.
//! A binding is on disk before the welcome leaves. Whoever is inside is registered in the same step that admits, so a
//! revocation or a binding that comes a moment later finds and closes the session. Every refusal is in the log under the
//! code that the guest sees.

mod books;
mod word;

pub use books::Live;

use super::clock::Clock;
use super::history::History;
use super::log::Log;
use super::meter::{Guard, Meters, Usage};
use super::state::{Bound, Claimed, GrantId, State};
use crate::error::Result;
use crate::keyring::{Purpose, Seed};
use crate::session::Hello;
use crate::session::messages::GrantStatus;
use crate::token::{Chain, Limits, Mode, Role, Terms, Way, child_secret};
use crate::trust::{Admission, Decision, Facts, Level, Reach, Refusal, Request, authorize, standing};
use books::Books;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Grants that may be made of one and used; more are refused, so that a holder cannot fill the node's memory.
const MAX_CHILDREN: usize = 256;

/// Why a session ends whose grant only a former owner signed.
const FORMER: &str = "owner-rotated";

/// The node's door. Shared by all serving threads.
pub struct Gate {
    state: State,
    history: History,
    node: [u8; 32],
    /// The private half of the node's key, for grants that were passed on.
    secret: Zeroizing<[u8; 32]>,
    max_sessions: usize,
    sessions: AtomicUsize,
    draining: AtomicBool,
    next_live: AtomicU64,
    /// One writer at a time, so that memory and disk change in the same order.
    writing: Mutex<()>,
    books: Mutex<Books>,
    clock: Clock,
    log: Log,
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
    /// When it must end, unix seconds, as far as is known now.
    pub expires: u64,
    /// Counts what it uses.
    pub meters: Meters,
    /// Where the grant lets it go.
    pub reach: Arc<Reach>,
    /// Its handle on the books.
    pub live: Arc<Live>,
    chain: Chain,
    ids: Vec<GrantId>,
    way: Way,
    _session: Vec<Guard>,
}

impl Admitted {
    /// The ids of the grant and of those that it was made of, the first one first.
    pub fn ids(&self) -> &[GrantId] {
        &self.ids
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.gate.sessions.fetch_sub(1, Ordering::Relaxed);
        self.gate.lock().leave(&self.ids, &self.live);
    }
}

/// A request at the door, read but not yet judged.
struct Asking {
    client: [u8; 32],
    bind: Option<[u8; 32]>,
    chain: Chain,
    ids: Vec<GrantId>,
    /// The keys of each level that must be proven before it is bound.
    subjects: Vec<Option<[u8; 32]>>,
    /// Every key in whose name the request is made.
    keys: Vec<[u8; 32]>,
    /// A revision of the grant that this node did not know.
    is_news: bool,
    reach: Arc<Reach>,
    way: Way,
    now: u64,
}

impl Asking {
    fn id(&self) -> GrantId {
        self.chain.id()
    }
}

/// What memory alone can say.
enum Judged {
    In(Box<Admitted>),
    /// The grant must be bound to this device first.
    Bind([u8; 32], Admission),
    Out(Refusal),
}

impl Gate {
    /// Reads the node's memory; `node` is the public half of the key that follows from its seed.
    pub fn new(state: State, node: [u8; 32], max_sessions: usize, log: Log) -> Result<Self> {
        let snapshot = state.snapshot()?;
        let secret = state.seed()?.derive(Purpose::NodeNoise);
        Ok(Gate {
            history: History::open(&state)?,
            state,
            node,
            secret,
            max_sessions,
            sessions: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            next_live: AtomicU64::new(0),
            writing: Mutex::new(()),
            clock: Clock::new(snapshot.times),
            books: Mutex::new(Books::read(snapshot)),
            log,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Lets a client in or says why not; `system` is the time by the system's clock. Touches the disk only to bind a grant, to
    /// keep a new revision of one, or to note its reuse, and then on a thread made for waiting.
    pub async fn admit(self: &Arc<Self>, client: [u8; 32], hello: &Hello, way: Way, system: u64) -> Result<Admitted, Refusal> {
        let shown = Chain::decode(&hello.grant).map_err(|error| self.refused(None, Refusal::of_unreadable_grant(&error)))?;
        let id = shown.id();
        let asking = self.asking(client, hello.bind, &shown, way, system).map_err(|refusal| self.refused(Some(&id), refusal))?;
        let judged = (!asking.is_news).then(|| self.judge(&asking));
        let refusal = match judged {
            Some(Judged::In(admitted)) => return Ok(*admitted),
            Some(Judged::Out(refusal)) if refusal != Refusal::GrantBoundElsewhere || self.note_another_reuse(&id, asking.now) => refusal,
            Some(Judged::Out(_) | Judged::Bind(..)) | None => {
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

    /// Looks up what follows from the grant alone. Whatever revision is shown, the newest one counts.
    fn asking(&self, client: [u8; 32], bind: Option<[u8; 32]>, shown: &Chain, way: Way, system: u64) -> Result<Asking, Refusal> {
        let now = self.clock.now(system);
        let ids = shown.ids();
        let (chain, is_news, holders) = {
            let books = self.lock();
            let newest = books.grants.get(&ids[0]).and_then(|entry| entry.newest.as_ref()).map_or(0, |newest| newest.grant().revision);
            let is_news = shown.root().grant().revision > newest;
            let holders: Vec<_> = (0..shown.caveats().len()).map(|n| holder(&books, shown, &ids, n)).collect();
            (books.newer(shown.root()).map_or_else(|| shown.clone(), |newer| shown.under(newer)), is_news, holders)
        };
        // Who may not pass it on is told no more than a stranger.
        let terms = chain.terms().ok_or(Refusal::UnknownKey)?;
        let reach = Reach::parse(&terms.allow, &terms.deny).map_err(|_| Refusal::UpgradeRequired)?;
        let mut subjects = vec![Some(chain.root().grant().subject)];
        for ((holder, (caveat, _)), parent) in holders.iter().zip(chain.caveats()).zip(&ids) {
            let secret = holder.and_then(|device| child_secret(&self.secret, &device, parent, caveat));
            subjects.push(secret.map(|secret| secret.subject()));
        }
        let keys = subjects.iter().copied().chain(holders).chain([Some(client), bind]).flatten().collect();
        Ok(Asking { client, bind, chain, ids, subjects, keys, is_news, reach: reach.into(), way, now })
    }

    fn refused(&self, grant: Option<&GrantId>, refusal: Refusal) -> Refusal {
        let line = self.log.event("session.refused").with("reason", refusal.as_str());
        match grant {
            Some(grant) => line.grant(grant).write(),
            None => line.write(),
        }
        refusal
    }

    /// Binds, learns, or notes a reuse. Racers queue here; whoever comes second is judged by what the first one left.
    fn admit_with_disk(self: &Arc<Self>, asking: &Asking) -> Result<Admitted, Refusal> {
        let _writing = self.write();
        if asking.is_news {
            self.learn(asking)?;
        }
        match self.judge(asking) {
            Judged::In(admitted) => Ok(*admitted),
            Judged::Bind(device, admission) => self.bind(asking, device, &admission),
            Judged::Out(refusal) => {
                if refusal == Refusal::GrantBoundElsewhere {
                    self.note_reuse(asking);
                }
                Err(refusal)
            }
        }
    }

    /// Keeps a later revision of a grant that its holder brought, if its owner signed it.
    fn learn(&self, asking: &Asking) -> Result<(), Refusal> {
        let signed = asking.chain.root();
        if self.owner() != Some(signed.grant().issuer) || !signed.verify_signature() {
            // The judgement will say so.
            return Ok(());
        }
        self.keep_revisions(std::slice::from_ref(signed)).map(drop).map_err(|error| self.storage(&error))
    }

    fn bind(self: &Arc<Self>, asking: &Asking, device: [u8; 32], admission: &Admission) -> Result<Admitted, Refusal> {
        let (id, once) = (asking.id(), admission.mode == Mode::Once);
        let bound = match self.state.bind(&id, &device, once, admission.devices as usize, asking.now) {
            Ok(bound @ (Bound::Now | Bound::Before)) => bound,
            Ok(Bound::Elsewhere) => return Err(Refusal::LimitReached),
            Err(error) => return Err(self.storage(&error)),
        };
        // On disk: from here on it is so, whether or not the answer reaches anybody.
        {
            let mut books = self.lock();
            books.generation += 1;
            let entry = books.entry(&id);
            if !entry.bound.contains(&device) {
                entry.bound.push(device);
            }
            if once && bound == Bound::Now {
                entry.live.iter().for_each(|live| {
                    live.end(Refusal::GrantBoundElsewhere.as_str());
                });
            }
        }
        self.log.event("grant.bound").grant(&id).with("device", crate::encoding::base64(&device)).write();
        match self.judge(asking) {
            Judged::In(admitted) => Ok(*admitted),
            Judged::Out(refusal) => Err(refusal),
            Judged::Bind(..) => Err(Refusal::Busy),
        }
    }

    /// Counts a reuse in memory if the first one is on disk already; the rest follows with the usage, so that somebody who
    /// holds a dead invite cannot keep the disk busy. False if it is the first.
    fn note_another_reuse(&self, id: &GrantId, now: u64) -> bool {
        let mut books = self.lock();
        let Some(entry) = books.grants.get_mut(id).filter(|entry| entry.reuse > 0) else { return false };
        entry.reuse += 1;
        entry.last_reuse = entry.last_reuse.max(Some(now));
        entry.meter.mark_dirty();
        true
    }

    fn note_reuse(&self, asking: &Asking) {
        let id = asking.id();
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
            let Asking { client, bind, way, now, .. } = *asking;
            let request = Request { client, grant: &asking.chain, bind, way, now, this_node: self.node };
            // A signature is verified in here, hence not under the lock.
            let admission = match authorize(&request, &facts) {
                Decision::Admit(admission) => admission,
                Decision::Refuse(refusal) => return Judged::Out(refusal),
            };
            // Before anything is bound: the invite stays as it is.
            if admission.role == Role::Exit && self.lock().is_off(asking.way) {
                return Judged::Out(Refusal::SwitchedOff);
            }
            if admission.role == Role::Exit && (self.is_draining() || self.sessions() >= self.max_sessions) {
                return Judged::Out(Refusal::Busy);
            }
            if self.is_crowded(&asking.ids) {
                return Judged::Out(Refusal::LimitReached);
            }
            if let Some(device) = admission.bind_now {
                return Judged::Bind(device, admission);
            }
            if let Some((live, meters)) = self.register(asking, admission.role, generation) {
                meters.0.iter().for_each(|meter| meter.touch(asking.now, asking.way));
                self.sessions.fetch_add(1, Ordering::Relaxed);
                let admitted = Admitted {
                    gate: self.clone(),
                    grant: asking.id(),
                    role: admission.role,
                    limits: admission.limits,
                    expires: admission.until,
                    _session: meters.session(),
                    meters,
                    reach: asking.reach.clone(),
                    live,
                    chain: asking.chain.clone(),
                    ids: asking.ids.clone(),
                    way: asking.way,
                };
                return Judged::In(Box::new(admitted));
            }
        }
    }

    fn facts(&self, asking: &Asking) -> (Facts, u64) {
        let books = self.lock();
        let many = asking.chain.terms().is_some_and(|terms| terms.mode == Mode::Many);
        let level = |(id, subject): (&GrantId, &Option<[u8; 32]>)| {
            let entry = books.grants.get(id);
            let bound_to = entry.and_then(|entry| {
                let named = asking.bind.unwrap_or(asking.client);
                if many { entry.bound.iter().find(|device| **device == named).copied() } else { entry.bound.first().copied() }
            });
            if let Some(entry) = entry {
                entry.meter.roll(asking.now);
            }
            Level {
                subject: *subject,
                bound_to,
                devices: entry.map_or(0, |entry| u32::try_from(entry.bound.len()).unwrap_or(u32::MAX)),
                revoked: books.revoked.contains(&id[..]),
                used_bytes: entry.map_or(0, |entry| entry.meter.used()),
                used_today: entry.map_or(0, |entry| entry.meter.used_today()),
            }
        };
        let facts = Facts {
            owner: books.owner,
            heard: self.clock.heard(),
            levels: asking.ids.iter().zip(&asking.subjects).map(level).collect(),
            key_revoked: asking.keys.iter().any(|key| books.revoked.contains(&key[..])),
        };
        (facts, books.generation)
    }

    /// Whether a grant above has been made into as many others as may be, and this would be one more.
    fn is_crowded(&self, ids: &[GrantId]) -> bool {
        let books = self.lock();
        let is_new = |id| books.grants.get(id).is_none_or(|entry| entry.kin.is_none());
        let is_full = |id| books.grants.get(id).is_some_and(|entry| entry.children >= MAX_CHILDREN);
        ids.windows(2).any(|pair| is_new(&pair[1]) && is_full(&pair[0]))
    }

    /// Puts the session on the books; `None` if something changed since the decision, which then must be made again.
    fn register(&self, asking: &Asking, role: Role, generation: u64) -> Option<(Arc<Live>, Meters)> {
        let number = self.next_live.fetch_add(1, Ordering::Relaxed);
        let live = Live::new(number, asking.keys.clone(), asking.chain.root().grant(), asking.way);
        let mut books = self.lock();
        if books.generation != generation {
            return None;
        }
        if role == Role::Control {
            // The owner makes a new grant for each visit; they need no account.
            books.visits.push(live.clone());
            let meter = super::meter::GrantMeter::new(Usage::default());
            return Some((live, Meters([Arc::new(meter)].into())));
        }
        let meters = books.enter(&asking.chain, &asking.ids, &live);
        Some((live, meters))
    }

    /// Whether a session may go on, and until when, Unix seconds by the gate's clock; the time by that clock stands beside it.
    pub fn standing(&self, admitted: &Admitted, system: u64) -> Result<(u64, u64), Refusal> {
        let now = self.clock.now(system);
        admitted.meters.0.iter().for_each(|meter| meter.roll(now));
        let terms = self.terms(admitted).ok_or(Refusal::UnknownKey)?;
        standing(&terms, admitted.role, admitted.way, self.clock.heard(), now).map(|until| (until, now))
    }

    fn terms(&self, admitted: &Admitted) -> Option<Terms> {
        let newer = self.lock().newer(admitted.chain.root());
        newer.map_or_else(|| admitted.chain.terms(), |newer| admitted.chain.under(newer).terms())
    }

    /// Takes an owner, durably.
    pub fn claim(&self, owner: &[u8; 32], seed: Option<&Seed>, now: u64) -> Result<Claimed> {
        let claimed = self.state.claim(owner, seed, now)?;
        if claimed == Claimed::Now {
            let mut books = self.lock();
            books.owner = Some(*owner);
            books.generation += 1;
        }
        Ok(claimed)
    }

    /// Puts another owner in the place of `former`, durably; no if the owner is somebody else by now.
    pub fn succeed(&self, former: &[u8; 32], owner: &[u8; 32]) -> Result<bool> {
        let _writing = self.write();
        let done = self.state.succeed(former, owner)?;
        if done {
            let mut books = self.lock();
            books.owner = Some(*owner);
            books.generation += 1;
            books.visits.iter().filter(|live| live.issuer != *owner).for_each(|live| {
                live.end(FORMER);
            });
        }
        Ok(done)
    }

    /// Ends sessions of those to whom only a former owner granted something. Returns how many.
    pub fn end_foreign(&self) -> usize {
        self.lock().end_foreign()
    }

    /// Ends every session.
    pub fn close_all(&self, reason: &'static str) {
        self.lock().grants.values().flat_map(|entry| &entry.live).for_each(|live| {
            live.end(reason);
        });
    }

    /// What the owner sees of each grant, used last first.
    pub fn grants(&self) -> Vec<GrantStatus> {
        self.lock().statuses()
    }
}

/// The device that made the caveat number `n`: the one to which the grant above is bound.
fn holder(books: &Books, chain: &Chain, ids: &[GrantId], n: usize) -> Option<[u8; 32]> {
    let bound = &books.grants.get(&ids[n])?.bound;
    match chain.caveats()[n].1.holder {
        None => bound.first().copied(),
        Some(begin) => bound.iter().find(|device| device.starts_with(&begin)).copied(),
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "gate_word_tests.rs"]
mod word_tests;

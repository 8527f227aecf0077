//! The decision at a node's door: given a proven key, a grant and what the node remembers, admit or refuse.
//!
//! It reads no clock and no disk, so that every case can be tested; the node looks the facts up, asks here, and
//! stores a binding before it lets anybody in.

use super::Refusal;
use crate::token::{Chain, Limits, Mode, Role, SignedGrant, Terms, Way};
use subtle::ConstantTimeEq;

/// What a client asks, after the handshake has proven its static key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The X25519 key that the client proved to have.
    pub client: [u8; 32],
    /// The grant that it showed, and how it was narrowed on the way.
    pub grant: &'a Chain,
    /// The device key to which it wants the grant bound.
    pub bind: Option<[u8; 32]>,
    /// By which way it came.
    pub way: Way,
    /// The node's clock, in Unix seconds.
    pub now: u64,
    /// The node's Noise key.
    pub this_node: [u8; 32],
}

/// What the node remembers about it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The identity key of the node's owner.
    pub owner: Option<[u8; 32]>,
    /// When the node last heard from its owner, Unix seconds.
    pub heard: u64,
    /// The grant at each level, from the owner's down to the one that is shown.
    pub levels: Vec<Level>,
    /// One of the keys involved was revoked.
    pub key_revoked: bool,
}

/// What the node remembers about one level of a grant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Level {
    /// The key that must be proven before the grant is bound. That of a grant that was passed on follows from the binding
    /// of the one above; without such a binding there is none.
    pub subject: Option<[u8; 32]>,
    /// The device the grant is bound to. Under mode `many`, where there can be several: the one among them that the request
    /// names, as `bind` or else as `client`.
    pub bound_to: Option<[u8; 32]>,
    /// To how many devices it is bound.
    pub devices: u32,
    /// It was taken back.
    pub revoked: bool,
    /// What was used under it so far, both directions together.
    pub used_bytes: u64,
    /// The same today, in UTC.
    pub used_today: u64,
}

/// What a client that is let in may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What is open to it.
    pub role: Role,
    /// The device key to which the node must bind the grant, durably, before it answers.
    pub bind_now: Option<[u8; 32]>,
    /// How the grant may be used.
    pub mode: Mode,
    /// To how many devices it may be bound.
    pub devices: u32,
    /// How much; the bytes are those that are left, at every level and today.
    pub limits: Limits,
    /// When the session must end, in Unix seconds, unless its owner is heard of before.
    pub until: u64,
}

/// Yes or no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let it in.
    Admit(Admission),
    /// Do not, and say why.
    Refuse(Refusal),
}

/// Decides. What it refuses first is what it says: whose grant, for which node, when, which key, how much.
pub fn authorize(request: &Request<'_>, facts: &Facts) -> Decision {
    match decide(request, facts) {
        Ok(admission) => Decision::Admit(admission),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn decide(request: &Request<'_>, facts: &Facts) -> Result<Admission, Refusal> {
    let grant = request.grant.root().grant();
    check_issuer(request.grant.root(), facts)?;
    if grant.node.is_some_and(|node| !same(&node, &request.this_node)) {
        return Err(Refusal::WrongNode);
    }
    if grant.needs_upgrade() {
        return Err(Refusal::UpgradeRequired);
    }
    // What may not be passed on was not passed on by its holder.
    let terms = request.grant.terms().ok_or(Refusal::UnknownKey)?;
    if facts.key_revoked || facts.levels.iter().any(|level| level.revoked) {
        return Err(Refusal::GrantRevoked);
    }
    let until = standing(&terms, grant.role, request.way, facts.heard, request.now)?;
    let level = facts.levels.last().ok_or(Refusal::UnknownKey)?;
    let bind_now = match grant.role {
        Role::Exit => check_key(request, terms.mode, level)?,
        Role::Control => check_control_key(request, level)?,
    };
    if bind_now.is_some() && terms.mode == Mode::Many && level.devices >= terms.devices {
        return Err(Refusal::LimitReached);
    }
    let limits = Limits { bytes: remaining(request.grant, facts), ..terms.limits };
    if limits.bytes == Some(0) {
        return Err(Refusal::LimitReached);
    }
    Ok(Admission { role: grant.role, bind_now, mode: terms.mode, devices: terms.devices, limits, until })
}

/// Until when a grant holds for a session that is there, by this way, as the node's clock stands; or why it does not.
pub fn standing(terms: &Terms, role: Role, way: Way, heard: u64, now: u64) -> Result<u64, Refusal> {
    if now >= terms.expires {
        return Err(Refusal::GrantExpired);
    }
    if now < terms.not_before {
        return Err(Refusal::GrantNotYetValid);
    }
    if role == Role::Control {
        return Ok(terms.expires);
    }
    let lease = lease_end(terms, heard);
    if now >= lease {
        return Err(Refusal::LeaseExpired);
    }
    if !terms.ways.contains(&way) {
        return Err(Refusal::WrongTransport);
    }
    let open = match &terms.window {
        _ if terms.paused => None,
        Some(window) => window.open_until(now),
        None => Some(u64::MAX),
    };
    Ok(terms.expires.min(lease).min(open.ok_or(Refusal::OutsideHours)?))
}

/// The first second in which a node that heard from its owner at `heard`, and never again, no longer serves the grant for
/// want of a word from him.
pub fn lease_end(terms: &Terms, heard: u64) -> u64 {
    heard.max(terms.not_before).saturating_add(terms.lease)
}

/// What is left of the bytes at the level, and on the day, where the least is left.
fn remaining(grant: &Chain, facts: &Facts) -> Option<u64> {
    let left = |limits: Limits, level: &Level| {
        let all = limits.bytes.map(|limit| limit.saturating_sub(level.used_bytes));
        all.into_iter().chain(limits.bytes_per_day.map(|limit| limit.saturating_sub(level.used_today))).min()
    };
    grant.limits().into_iter().zip(&facts.levels).filter_map(|(limits, level)| left(limits, level)).min()
}

fn check_issuer(signed: &SignedGrant, facts: &Facts) -> Result<(), Refusal> {
    let owner = facts.owner.ok_or(Refusal::NotClaimed)?;
    if !same(&owner, &signed.grant().issuer) {
        return Err(Refusal::UnknownKey);
    }
    if signed.verify_signature() { Ok(()) } else { Err(Refusal::GrantSignature) }
}

/// Whether this key may use the grant, and the device that must be bound first.
fn check_key(request: &Request<'_>, mode: Mode, level: &Level) -> Result<Option<[u8; 32]>, Refusal> {
    let subject = level.subject.ok_or(Refusal::UnknownKey)?;
    let is_subject = same(&request.client, &subject);
    let is_bound = |key: &[u8; 32]| level.bound_to.is_some_and(|device| same(&device, key));
    // Bound to the subject itself, the pasted text would stay alive for everybody.
    if request.bind.is_some_and(|device| same(&device, &subject)) {
        return Err(Refusal::UnknownKey);
    }
    if mode == Mode::Once && level.bound_to.is_some() {
        // The answer to a first binding may have been lost: the same device may ask again.
        let again = is_subject && request.bind.is_some_and(|device| is_bound(&device));
        let device = is_bound(&request.client) && request.bind.is_none_or(|device| is_bound(&device));
        return if again || device { Ok(None) } else { Err(Refusal::GrantBoundElsewhere) };
    }
    match (mode, request.bind) {
        (Mode::Try, Some(_)) => Err(Refusal::UnknownKey),
        (_, None) if is_subject => Ok(None),
        (Mode::Once | Mode::Many, Some(device)) if is_subject => Ok((!is_bound(&device)).then_some(device)),
        (Mode::Many, bind) if is_bound(&request.client) && bind.is_none_or(|d| same(&d, &request.client)) => Ok(None),
        _ => Err(Refusal::UnknownKey),
    }
}

fn check_control_key(request: &Request<'_>, level: &Level) -> Result<Option<[u8; 32]>, Refusal> {
    let is_subject = level.subject.is_some_and(|subject| same(&request.client, &subject));
    if request.bind.is_none() && is_subject { Ok(None) } else { Err(Refusal::UnknownKey) }
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

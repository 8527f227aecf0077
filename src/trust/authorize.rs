//! The decision at a node's door: given a proven key, a grant and what the node remembers, admit or refuse.
//!
//! It reads no clock and no disk, so that every case can be tested; the node looks the facts up, asks here, and
//! stores a binding before it lets anybody in.

use super::Refusal;
use crate::token::{Grant, Limits, Mode, Role, SignedGrant};
use subtle::ConstantTimeEq;

/// What a client asks, after the handshake has proven its static key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The X25519 key that the client proved to have.
    pub client: [u8; 32],
    /// The grant that it showed.
    pub grant: &'a SignedGrant,
    /// The device key to which it wants the grant bound.
    pub bind: Option<[u8; 32]>,
    /// The node's clock, in Unix seconds.
    pub now: u64,
    /// The node's Noise key.
    pub this_node: [u8; 32],
}

/// What the node remembers about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// The identity key of the node's owner.
    pub owner: Option<[u8; 32]>,
    /// The device the grant is bound to. Under mode `many`, where there can be several: the one among them that the request
    /// names, as `bind` or else as `client`.
    pub bound_to: Option<[u8; 32]>,
    /// The grant, its subject or the client's key was revoked.
    pub revoked: bool,
    /// What was used under this grant so far, both directions together.
    pub used_bytes: u64,
}

/// What a client that is let in may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What is open to it.
    pub role: Role,
    /// The device key to which the node must bind the grant, durably, before it answers.
    pub bind_now: Option<[u8; 32]>,
    /// How much; `bytes` is the whole allowance.
    pub limits: Limits,
    /// What is left of the allowance.
    pub remaining_bytes: Option<u64>,
    /// When the session must end, in Unix seconds.
    pub expires: u64,
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
    let grant = request.grant.grant();
    check_issuer(request.grant, facts)?;
    if grant.node.is_some_and(|node| !same(&node, &request.this_node)) {
        return Err(Refusal::WrongNode);
    }
    if grant.needs_upgrade() {
        return Err(Refusal::UpgradeRequired);
    }
    if facts.revoked {
        return Err(Refusal::GrantRevoked);
    }
    check_time(grant, request.now)?;
    let bind_now = match grant.role {
        Role::Exit => check_key(request, grant, facts)?,
        Role::Control => check_control_key(request, grant)?,
    };
    let remaining_bytes = grant.limits.bytes.map(|limit| limit.saturating_sub(facts.used_bytes));
    if remaining_bytes == Some(0) {
        return Err(Refusal::LimitReached);
    }
    Ok(Admission { role: grant.role, bind_now, limits: grant.limits, remaining_bytes, expires: grant.expires })
}

fn check_issuer(signed: &SignedGrant, facts: &Facts) -> Result<(), Refusal> {
    let owner = facts.owner.ok_or(Refusal::NotClaimed)?;
    if !same(&owner, &signed.grant().issuer) {
        return Err(Refusal::UnknownKey);
    }
    if signed.verify_signature() { Ok(()) } else { Err(Refusal::GrantSignature) }
}

fn check_time(grant: &Grant, now: u64) -> Result<(), Refusal> {
    if now >= grant.expires {
        Err(Refusal::GrantExpired)
    } else if now < grant.not_before {
        Err(Refusal::GrantNotYetValid)
    } else {
        Ok(())
    }
}

/// Whether this key may use the grant, and the device that must be bound first.
fn check_key(request: &Request<'_>, grant: &Grant, facts: &Facts) -> Result<Option<[u8; 32]>, Refusal> {
    let is_subject = same(&request.client, &grant.subject);
    let is_bound = |key: &[u8; 32]| facts.bound_to.is_some_and(|device| same(&device, key));
    // Bound to the subject itself, the pasted text would stay alive for everybody.
    if request.bind.is_some_and(|device| same(&device, &grant.subject)) {
        return Err(Refusal::UnknownKey);
    }
    if grant.mode == Mode::Once && facts.bound_to.is_some() {
        // The answer to a first binding may have been lost: the same device may ask again.
        let again = is_subject && request.bind.is_some_and(|device| is_bound(&device));
        let device = is_bound(&request.client) && request.bind.is_none_or(|device| is_bound(&device));
        return if again || device { Ok(None) } else { Err(Refusal::GrantBoundElsewhere) };
    }
    match (grant.mode, request.bind) {
        (Mode::Try, Some(_)) => Err(Refusal::UnknownKey),
        (_, None) if is_subject => Ok(None),
        (Mode::Once | Mode::Many, Some(device)) if is_subject => Ok((!is_bound(&device)).then_some(device)),
        (Mode::Many, bind) if is_bound(&request.client) && bind.is_none_or(|d| same(&d, &request.client)) => Ok(None),
        _ => Err(Refusal::UnknownKey),
    }
}

fn check_control_key(request: &Request<'_>, grant: &Grant) -> Result<Option<[u8; 32]>, Refusal> {
    if request.bind.is_none() && same(&request.client, &grant.subject) { Ok(None) } else { Err(Refusal::UnknownKey) }
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

//! Taking grants back, and telling the nodes: a span first, then a signed revocation to every node that could admit the friend.
//!
//! A node that is not reached is told when it is found again; see [`push`].

use crate::config::Label;
use crate::context::Context;
use crate::error::Result;
use crate::ledger::kinds::{Blob, GrantReused, GrantRevoked};
use crate::ledger::{B64, GrantRow, Machine, MachineState};
use crate::owner::revocations::push;
use crate::session::messages::{GrantStatus, Revoked, Status};
use crate::token::{Revocation, Target};

/// What became of a revocation.
#[derive(Debug)]
pub struct Outcome {
    /// The grants that are over, as they are recorded now.
    pub grants: Vec<GrantRow>,
    /// Whether they were over before.
    pub already: bool,
    /// Each node that could have admitted the friend, and whether it heard.
    pub told: Vec<Told>,
}

/// One node that was told, or not.
#[derive(Debug)]
pub struct Told {
    /// Which machine.
    pub machine: Label,
    /// What it answered: how many sessions ended; or why it was not reached.
    pub heard: Result<Revoked>,
}

/// Takes back one grant by its id, or everything that was granted to one person.
pub async fn revoke(cx: &Context, name_or_id: &str, reason: &str) -> Result<Outcome> {
    let found = matching(cx, name_or_id)?;
    let live: Vec<&GrantRow> = found.iter().filter(|grant| grant.revoked.is_none()).collect();
    for grant in &live {
        record(cx, grant, reason)?;
    }
    let grants = found.iter().map(|grant| cx.ledger()?.grant(&grant.id.to_string())).collect::<Result<Vec<_>>>()?;
    let mut told = Vec::new();
    for machine in concerned(cx, &grants)? {
        told.push(Told { machine: machine.label.clone(), heard: push(cx, &machine).await });
    }
    Ok(Outcome { grants, already: live.is_empty(), told })
}

/// Everything by that name that is not over yet; if all of it is, the newest.
fn matching(cx: &Context, name_or_id: &str) -> Result<Vec<GrantRow>> {
    let newest = cx.ledger()?.grant(name_or_id)?;
    if newest.id.to_string() == name_or_id {
        return Ok(vec![newest]);
    }
    let mut all = cx.ledger()?.grants_for(&newest.name)?;
    all.retain(|grant| grant.is_live(cx.now()));
    Ok(if all.is_empty() { vec![newest] } else { all })
}

fn record(cx: &Context, grant: &GrantRow, reason: &str) -> Result<()> {
    let revocation = Revocation { issuer: [0; 32], target: Target::Grant(grant.id.0), at: cx.now(), reason: reason.to_owned() };
    let signed = revocation.sign(&cx.keyring()?.identity_key());
    cx.record(&GrantRevoked {
        id: grant.id,
        at: signed.revocation().at,
        reason: signed.revocation().reason.clone(),
        revocation: Some(Blob(signed.encode())),
    })
    .map(drop)
}

/// The machines that could admit the holder of one of these grants.
fn concerned(cx: &Context, grants: &[GrantRow]) -> Result<Vec<Machine>> {
    let mut machines = cx.ledger()?.machines()?;
    machines.retain(|machine| {
        machine.state == MachineState::Claimed && grants.iter().any(|grant| grant.node_key.is_none() || grant.node_key == machine.node_key)
    });
    Ok(machines)
}

/// Records what a node says about links that were tried from elsewhere, so that it is known even when the node is gone.
/// Returns the grants of which something new was heard.
pub fn note_reuse(cx: &Context, machine: &Machine, status: &Status) -> Result<Vec<GrantRow>> {
    let mut news = Vec::new();
    for seen in status.grants.iter().filter(|grant| grant.reuse > 0) {
        // The node's word alone does not make a grant ours.
        let Ok(known) = cx.ledger()?.grant(&B64(seen.id).to_string()) else { continue };
        if seen.reuse > known.reused.map_or(0, |reuse| reuse.count) {
            cx.record(&reused(machine, seen))?;
            news.push(cx.ledger()?.grant(&B64(seen.id).to_string())?);
        }
    }
    Ok(news)
}

fn reused(machine: &Machine, seen: &GrantStatus) -> GrantReused {
    GrantReused { id: B64(seen.id), node: Some(machine.label.clone()), count: seen.reuse, last: seen.last_reuse.unwrap_or(0) }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;

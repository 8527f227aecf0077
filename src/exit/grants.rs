//! Taking grants back, signing them again, and telling the nodes: a span first, then word to every node that could admit the
//! friend.
//!
//! A node that is not reached is told at the next visit; see [`push`].

use crate::config::Label;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Blob, GrantPassedOn, GrantRenewed, GrantReused, GrantRevoked};
use crate::ledger::{B64, GrantRow, Machine, MachineState, PassedOn};
use crate::owner::revocations::push;
use crate::policy::{self, Act, Asked, Lend};
use crate::session::messages::{GrantStatus, Revoked, Status};
use crate::token::{Chain, Grant, Revocation, SignedGrant, Target, Terms};
use crate::trust::lease_end;
use futures::future::join_all;
use std::time::Duration;

/// What became of a revocation or a renewal.
#[derive(Debug)]
pub struct Outcome {
    /// The grants that it was about, as they are recorded now.
    pub grants: Vec<GrantRow>,
    /// One that a friend made of a grant of ours, where it was about that.
    pub passed_on: Option<PassedOn>,
    /// Whether it was so before.
    pub already: bool,
    /// Each node that could admit the friend, and whether it heard.
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

/// How a grant is signed again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Renewal {
    /// From now on; absent means as long as it was given at first, or, where it is only suspended or resumed, no longer.
    pub lifetime: Option<Duration>,
    /// Suspend it, or let it hold again; absent leaves that as it is.
    pub paused: Option<bool>,
}

/// Takes back one grant by its id, or everything that was granted to one person; or what a friend passed on to somebody.
pub async fn revoke(cx: &Context, name_or_id: &str, reason: &str) -> Result<Outcome> {
    let found = match matching(cx, name_or_id) {
        Err(error) if error.code() == Code::NotFound => return revoke_passed_on(cx, name_or_id, reason).await,
        found => found?,
    };
    let live: Vec<&GrantRow> = found.iter().filter(|grant| grant.revoked.is_none()).collect();
    for grant in &live {
        record(cx, grant.id, reason)?;
    }
    let grants = again(cx, &found)?;
    let told = tell(cx, concerned(cx, &grants)?).await;
    Ok(Outcome { grants, passed_on: None, already: live.is_empty(), told })
}

/// The same for a grant that a friend made of ours and a node reported.
async fn revoke_passed_on(cx: &Context, name_or_id: &str, reason: &str) -> Result<Outcome> {
    let found = cx.ledger()?.one_passed_on(name_or_id)?;
    let already = found.revoked.is_some();
    if !already {
        record(cx, found.id, reason)?;
    }
    let mut machines = claimed(cx)?;
    machines.retain(|machine| machine.node_key == Some(found.node_key));
    let told = tell(cx, machines).await;
    Ok(Outcome { grants: Vec::new(), passed_on: Some(cx.ledger()?.one_passed_on(&found.id.to_string())?), already, told })
}

/// Tells every machine again what it has not heard, as at any visit.
pub async fn retry(cx: &Context) -> Result<Vec<Told>> {
    let mut behind = Vec::new();
    for machine in claimed(cx)? {
        if !unheard(cx, &machine)?.is_empty() {
            behind.push(machine);
        }
    }
    Ok(tell(cx, behind).await)
}

/// Signs one person's grant again: it lasts longer, is suspended, or holds again. The friend need not do anything.
pub async fn renew(cx: &Context, name_or_id: &str, renewal: &Renewal) -> Result<Outcome> {
    let row = cx.ledger()?.grant(name_or_id)?;
    if row.revoked.is_some() {
        return Err(Error::new(Code::Refused, format!("the grant for {} was taken back, and that is for good", row.name))
            .hint(format!("portdistrict grant create --for {}", row.name)));
    }
    let old = signed(&row)?;
    let old = old.grant();
    let now = cx.now();
    let expires = match renewal.lifetime {
        Some(lifetime) => now + lifetime.as_secs().max(1),
        None if renewal.paused.is_some() => old.expires,
        None => now + row.expires.saturating_sub(row.issued_ms / 1000),
    };
    let mut scope = old.scope.clone();
    scope.paused = renewal.paused.unwrap_or(scope.paused);
    let already = expires == old.expires && scope == old.scope;
    if expires > old.expires {
        // Not a new one, so it does not count as one of today.
        let lend = Lend { mode: old.mode.as_str(), life: expires.saturating_sub(now), bytes: old.limits.bytes, today: 0 };
        policy::guard(cx, &Act::Lend(lend), row.name.as_str(), Asked::InEarnest)?;
    }
    if !already {
        let new = Grant { expires, scope, revision: old.revision + 1, ..old.clone() }.sign(&cx.keyring()?.identity_key());
        let (revision, grant) = (new.grant().revision, Blob(new.encode()));
        cx.record(&GrantRenewed { id: row.id, revision, expires, grant })?;
    }
    let grants = again(cx, &[row])?;
    let told = tell(cx, concerned(cx, &grants)?).await;
    Ok(Outcome { grants, passed_on: None, already, told })
}

/// Signs anew what an identity granted that was rotated since, so that friends need do nothing: nodes hear of it when they hear of their
/// owner. Running it again goes on where it was interrupted. Returns how many grants go on.
pub fn carry_over(cx: &Context) -> Result<usize> {
    let (keyring, now) = (cx.keyring()?, cx.now());
    let mut carried = 0;
    for row in cx.ledger()?.grants()?.into_iter().filter(|grant| grant.is_live(now)) {
        let old = signed(&row)?;
        let old = old.grant();
        if old.issuer != keyring.identity_public() {
            let new = Grant { revision: old.revision + 1, ..old.clone() }.sign(&keyring.identity_key());
            let (revision, grant) = (new.grant().revision, Blob(new.encode()));
            cx.record(&GrantRenewed { id: row.id, revision, expires: old.expires, grant })?;
        }
        carried += 1;
    }
    Ok(carried)
}

/// The newest revision of a grant as text, for a friend whose node cannot be told: `exit accept` takes it.
pub fn export(cx: &Context, name_or_id: &str) -> Result<String> {
    let row = cx.ledger()?.grant(name_or_id)?;
    Ok(Chain::from(signed(&row)?).to_blob())
}

/// The signed grant that is recorded.
pub fn signed(row: &GrantRow) -> Result<SignedGrant> {
    SignedGrant::decode(&row.signed).map_err(|error| {
        Error::new(Code::Ledger, format!("what is recorded of the grant for {} cannot be read", row.name))
            .cause(error)
            .hint("portdistrict ledger verify")
    })
}

/// The latest time, in Unix seconds by the node's clock, at which a machine lets the friend in if the grant is taken back now
/// and the machine never hears of it.
pub fn worst_case(cx: &Context, grant: &Grant, machine: &Machine) -> Result<u64> {
    let terms = Terms::of(grant);
    let stated = match machine.node_key {
        Some(B64(key)) => cx.ledger()?.lease(&key)?.map_or(0, |(at, _)| at),
        None => 0,
    };
    Ok(lease_end(&terms, stated).min(grant.expires))
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

fn again(cx: &Context, grants: &[GrantRow]) -> Result<Vec<GrantRow>> {
    grants.iter().map(|grant| cx.ledger()?.grant(&grant.id.to_string())).collect()
}

fn record(cx: &Context, id: B64<8>, reason: &str) -> Result<()> {
    let revocation = Revocation { issuer: [0; 32], target: Target::Grant(id.0), at: cx.now(), reason: reason.to_owned() };
    let signed = revocation.sign(&cx.keyring()?.identity_key());
    cx.record(&GrantRevoked {
        id,
        at: signed.revocation().at,
        reason: signed.revocation().reason.clone(),
        revocation: Some(Blob(signed.encode())),
    })
    .map(drop)
}

fn claimed(cx: &Context) -> Result<Vec<Machine>> {
    let mut machines = cx.ledger()?.machines()?;
    machines.retain(|machine| machine.state == MachineState::Claimed);
    Ok(machines)
}

/// Whether a machine could admit the holder of a grant.
pub fn concerns(grant: &GrantRow, machine: &Machine) -> bool {
    machine.state == MachineState::Claimed && (grant.node_key.is_none() || grant.node_key == machine.node_key)
}

/// The machines that could admit the holder of one of these grants.
fn concerned(cx: &Context, grants: &[GrantRow]) -> Result<Vec<Machine>> {
    let mut machines = cx.ledger()?.machines()?;
    machines.retain(|machine| grants.iter().any(|grant| concerns(grant, machine)));
    Ok(machines)
}

/// All at the same time: one that is away must not keep the others waiting.
async fn tell(cx: &Context, machines: Vec<Machine>) -> Vec<Told> {
    join_all(machines.into_iter().map(async |machine| Told { heard: push(cx, &machine).await, machine: machine.label })).await
}

/// The grants, taken back or signed again and not over yet, of which a machine is not known to have heard.
pub fn unheard(cx: &Context, machine: &Machine) -> Result<Vec<GrantRow>> {
    let Some(B64(key)) = machine.node_key else { return Ok(Vec::new()) };
    let (now, heard) = (cx.now(), cx.ledger()?.deliveries(&key)?);
    let mut grants = cx.ledger()?.grants()?;
    grants.retain(|grant| {
        let delivery = heard.iter().find(|delivery| delivery.id == grant.id);
        let is_told = match grant.revoked {
            Some(_) => delivery.is_some_and(|delivery| delivery.revoked),
            None => grant.revision == 0 || delivery.is_some_and(|delivery| delivery.revision >= grant.revision),
        };
        now < grant.expires && concerns(grant, machine) && !is_told
    });
    Ok(grants)
}

/// Records what a node says that its owner could not know: links that were tried from elsewhere, and grants that friends made
/// of theirs. So it is known even when the node is gone. Returns the grants of which something new was heard.
pub fn note_news(cx: &Context, machine: &Machine, status: &Status) -> Result<Vec<GrantRow>> {
    let mut news = Vec::new();
    for seen in status.grants.iter().filter(|grant| grant.reuse > 0) {
        // The node's word alone does not make a grant ours.
        let Ok(known) = cx.ledger()?.grant(&B64(seen.id).to_string()) else { continue };
        if seen.reuse > known.reused.map_or(0, |reuse| reuse.count) {
            cx.record(&reused(machine, seen))?;
            news.push(cx.ledger()?.grant(&B64(seen.id).to_string())?);
        }
    }
    note_passed_on(cx, machine, status)?;
    Ok(news)
}

fn note_passed_on(cx: &Context, machine: &Machine, status: &Status) -> Result<()> {
    let Some(node_key) = machine.node_key else { return Ok(()) };
    let known = cx.ledger()?.passed_on()?;
    for seen in status.grants.iter().filter(|seen| known.iter().all(|one| one.id.0 != seen.id)) {
        let (Some(parent), Some(Ok(name))) = (seen.parent, seen.name.as_ref().map(|name| name.parse())) else { continue };
        let (exit, caveat, expires) = (None, None, None);
        match cx.record(&GrantPassedOn { id: B64(seen.id), parent: B64(parent), name, node_key, exit, caveat, expires }) {
            // Another command has heard it in the same moment.
            Err(error) if error.code() == Code::Exists => {}
            recorded => drop(recorded?),
        }
    }
    Ok(())
}

fn reused(machine: &Machine, seen: &GrantStatus) -> GrantReused {
    GrantReused { id: B64(seen.id), node: Some(machine.label.clone()), count: seen.reuse, last: seen.last_reuse.unwrap_or(0) }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;

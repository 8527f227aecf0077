//! What a node may have missed: grants that were taken back, grants that were signed again, and that its owner is there.
//!
//! Each visit of the owner brings it, in this order: a node hears who is cut off before its leases go on. What it has heard
//! is recorded, so that the owner can see who has not.

use super::Control;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Blob, LeaseStated, RenewalDelivered, RevocationDelivered, RulesDelivered};
use crate::ledger::{self, B64, Delivery, Machine};
use crate::policy;
use crate::session::ControlClient;
use crate::session::messages::{MAX_RENEWED, MAX_REVOCATIONS, Revoked, Switch, Switched, Switches};
use crate::token::{Lease, SignedGrant, SignedLease, SignedRevocation};
use std::time::Duration;

/// How long a node may take to hear of a revocation; it is told again later.
const TELL_TIMEOUT: Duration = Duration::from_secs(8);
/// A lease statement is signed anew when the last one is older than this, in seconds; each is a line in the ledger.
const STATE_EVERY: u64 = 30 * 60;

/// Hands a machine every revocation and every later revision that still matters to it, whether or not it was told before:
/// it may have forgotten. Those it knows change nothing.
pub async fn push(cx: &Context, machine: &Machine) -> Result<Revoked> {
    let all = Word::of(cx, machine, true)?;
    if all.is_empty() {
        return Ok(Revoked { accepted: 0, closed: 0 });
    }
    let tell = async {
        let control = Control::open(cx, machine).await?;
        let rest = all.without(&control.told);
        let sum = rest.tell(cx, &control, machine).await?;
        Ok(Revoked { accepted: sum.accepted + control.heard.accepted, closed: sum.closed + control.heard.closed })
    };
    tokio::time::timeout(TELL_TIMEOUT, tell).await.unwrap_or_else(|_| {
        Err(Error::new(Code::TimedOut, format!("machine `{}` did not answer within {} seconds", machine.label, TELL_TIMEOUT.as_secs()))
            .hint(format!("portdistrict machine reconnect {}", machine.label)))
    })
}

/// Tells a node that was just reached what it has not heard yet. What fails is told at the next visit; whatever the visit is
/// for goes on.
pub(super) async fn catch_up(cx: &Context, node: &ControlClient, machine: &Machine) -> (Word, Revoked) {
    let none = Revoked { accepted: 0, closed: 0 };
    let Ok(word) = Word::of(cx, machine, false) else { return (Word::default(), none) };
    match word.tell(cx, node, machine).await {
        Ok(heard) => {
            if let Err(error) = tell_rules(cx, node, machine).await {
                tracing::debug!(%error, machine = %machine.label, "the node did not take the policy");
            }
            if let Err(error) = tell_switches(node, machine).await {
                tracing::debug!(%error, machine = %machine.label, "the node did not hear what is switched off");
            }
            if let Ok(Some(lease)) = statement(cx, machine) {
                let _ = node.lease(&lease).await;
            }
            (word, heard)
        }
        // Its leases must not go on before it knows who is cut off.
        Err(error) => {
            tracing::debug!(%error, machine = %machine.label, "the node did not hear what it must hear");
            (Word::default(), none)
        }
    }
}

/// Hands a node what the policy says of destinations, at each visit: a machine that keeps nothing has forgotten it.
pub(super) async fn tell_rules(cx: &Context, node: &ControlClient, machine: &Machine) -> Result<()> {
    let (Some(node_key), Some(rules)) = (machine.node_key, policy::rules_for(cx, machine)?) else { return Ok(()) };
    node.rules(&rules).await?;
    let number = rules.rules().number;
    if !cx.ledger()?.rules_heard()?.iter().any(|(key, heard)| *key == node_key && *heard >= number) {
        cx.record(&RulesDelivered { number, node: machine.label.clone(), node_key })?;
    }
    Ok(())
}

/// Tells a node what the owner has switched off, at each visit: a machine that keeps nothing has forgotten it. None if nothing was ever
/// switched.
pub(super) async fn tell_switches(node: &ControlClient, machine: &Machine) -> Result<Option<Switched>> {
    let word = |switch: ledger::Switch| Switch { edition: switch.said, off: switch.off };
    let switches = Switches { exit: word(machine.exit), tor: word(machine.tor) };
    if switches == Switches::default() { Ok(None) } else { node.switch(switches).await.map(Some) }
}

/// What a node is to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    /// Ids and signed revocations, newest first, so that the one just made is in the first request.
    revoked: Vec<(B64<8>, Vec<u8>)>,
    /// Ids, revisions and signed grants.
    renewed: Vec<(B64<8>, u64, Vec<u8>)>,
}

impl Word {
    /// What matters to a machine; without `all` only what it is not known to have heard. An expired grant is refused by the
    /// clock alone.
    fn of(cx: &Context, machine: &Machine, all: bool) -> Result<Word> {
        let Some(key) = machine.node_key else { return Ok(Word::default()) };
        let (now, ledger, identity) = (cx.now(), cx.ledger()?, cx.keyring()?.identity_public());
        let heard = ledger.deliveries(&key.0)?;
        let known = |id: &B64<8>, is: &dyn Fn(&Delivery) -> bool| !all && heard.iter().any(|delivery| delivery.id == *id && is(delivery));
        // A node hears nothing that an identity signed which was rotated since; what that one granted it refuses anyway.
        let revokes = |signed: &Vec<u8>| SignedRevocation::decode(signed).is_ok_and(|signed| signed.revocation().issuer == identity);
        let grants = |signed: &[u8]| SignedGrant::decode(signed).is_ok_and(|signed| signed.grant().issuer == identity);
        let mut word = Word::default();
        for grant in ledger.grants()? {
            if now >= grant.expires || grant.node_key.is_some_and(|node| node != key) {
                continue;
            }
            match grant.revoked {
                Some(revoked) if !known(&grant.id, &|delivery| delivery.revoked) => {
                    word.revoked.extend(revoked.revocation.filter(revokes).map(|signed| (grant.id, signed)));
                }
                None if grant.revision > 0
                    && grants(&grant.signed)
                    && !known(&grant.id, &|delivery| delivery.revision >= grant.revision) =>
                {
                    word.renewed.push((grant.id, grant.revision, grant.signed));
                }
                _ => {}
            }
        }
        for passed_on in ledger.passed_on()?.into_iter().filter(|one| one.exit.is_none() && one.node_key == key) {
            let revocation = passed_on.revoked.and_then(|revoked| revoked.revocation);
            if !known(&passed_on.id, &|delivery| delivery.revoked) {
                word.revoked.extend(revocation.filter(revokes).map(|signed| (passed_on.id, signed)));
            }
        }
        Ok(word)
    }

    fn is_empty(&self) -> bool {
        self.revoked.is_empty() && self.renewed.is_empty()
    }

    fn without(&self, told: &Word) -> Word {
        let revoked = self.revoked.iter().filter(|(id, _)| told.revoked.iter().all(|(other, _)| id != other));
        let renewed = self.renewed.iter().filter(|(id, ..)| told.renewed.iter().all(|(other, ..)| id != other));
        Word { revoked: revoked.cloned().collect(), renewed: renewed.cloned().collect() }
    }

    /// Tells it, and records what was heard.
    async fn tell(&self, cx: &Context, node: &ControlClient, machine: &Machine) -> Result<Revoked> {
        let Some(node_key) = machine.node_key else { return Ok(Revoked { accepted: 0, closed: 0 }) };
        let known = cx.ledger()?.deliveries(&node_key.0)?;
        let mut sum = Revoked { accepted: 0, closed: 0 };
        for some in self.revoked.chunks(MAX_REVOCATIONS) {
            let answer = node.revoke(some.iter().map(|(_, signed)| signed.clone()).collect()).await?;
            sum = Revoked { accepted: sum.accepted + answer.accepted, closed: sum.closed + answer.closed };
            for (id, _) in some.iter().filter(|(id, _)| !known.iter().any(|delivery| delivery.id == *id && delivery.revoked)) {
                cx.record(&RevocationDelivered { id: *id, node: machine.label.clone(), node_key })?;
            }
        }
        for some in self.renewed.chunks(MAX_RENEWED) {
            node.renew(some.iter().map(|(_, _, signed)| signed.clone()).collect()).await?;
            let is_news = |id: &B64<8>, revision: u64| !known.iter().any(|delivery| delivery.id == *id && delivery.revision >= revision);
            for (id, revision, _) in some.iter().filter(|(id, revision, _)| is_news(id, *revision)) {
                cx.record(&RenewalDelivered { id: *id, revision: *revision, node: machine.label.clone(), node_key })?;
            }
        }
        Ok(sum)
    }
}

/// The lease statement for a machine: the one that is recorded, or a new one, recorded before anybody hears it.
fn statement(cx: &Context, machine: &Machine) -> Result<Option<SignedLease>> {
    let Some(B64(node)) = machine.node_key else { return Ok(None) };
    let (now, identity) = (cx.now(), cx.keyring()?.identity_public());
    if let Some((at, Blob(signed))) = cx.ledger()?.lease(&node)?
        && now < at.saturating_add(STATE_EVERY)
        && let Some(signed) = SignedLease::decode(&signed).ok().filter(|signed| signed.verify(&identity, &node))
    {
        return Ok(Some(signed));
    }
    let signed = Lease { issuer: [0; 32], node, at: now }.sign(&cx.keyring()?.identity_key());
    cx.record(&LeaseStated { node: machine.label.clone(), node_key: B64(node), at: now, statement: Blob(signed.encode()) })?;
    Ok(Some(signed))
}

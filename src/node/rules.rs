//! The owner's rules about destinations, as the node keeps them: only what he signed, never an older policy than the last.

use super::core::Core;
use super::egress::Reason;
use crate::config::Destination;
use crate::error::{Code, Error, Result};
use crate::token::{Rules, SignedRules};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// The rules in force; none as long as the owner has set no policy.
#[derive(Debug, Default)]
pub(super) struct InForce(RwLock<Option<Arc<Rules>>>);

impl InForce {
    /// Those that the node remembers. What its owner did not sign counts for nothing, on its own disk either; but then it must not
    /// go on as if there had been no rules.
    pub(super) fn remembered(signed: Option<&[u8]>, owner: Option<[u8; 32]>) -> Result<InForce> {
        let (Some(bytes), Some(owner)) = (signed, owner) else { return Ok(InForce::default()) };
        let read = SignedRules::decode(bytes).ok().filter(|signed| signed.verify(&owner)).ok_or_else(|| {
            Error::new(Code::Precondition, "the rules that this node remembers are not what its owner signed")
                .hint("destroy this machine and deploy another one: something has changed its memory")
        })?;
        Ok(InForce(RwLock::new(Some(Arc::new(read.rules().clone())))))
    }

    /// The rules now.
    pub(super) fn get(&self) -> Option<Arc<Rules>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a guest may go there; `ip` is not known before the name is resolved.
    pub(super) fn check(&self, ids: &[[u8; 8]], host: &str, ip: Option<IpAddr>, port: u16) -> std::result::Result<(), Reason> {
        let Some(rules) = self.get() else { return Ok(()) };
        let asked = Destination::asked(host, port);
        let to = Destination { ip: ip.map(|ip| ip.to_canonical()).or(asked.ip), ..asked };
        // Before a name is resolved a rule about addresses cannot speak yet, so only a refusal counts.
        let may = if to.ip.is_none() { !rules.refuses(ids, &to) } else { rules.allow(ids, &to) };
        if may { Ok(()) } else { Err(Reason::Rules) }
    }
}

/// Takes new rules from the owner; older ones change nothing. Returns the edition that holds now.
pub(super) fn replace(core: &Core, bytes: &[u8]) -> Result<(u64, u64)> {
    let owner = core.gate.owner().unwrap_or_default();
    let signed = SignedRules::decode(bytes).ok().filter(|signed| signed.verify(&owner)).ok_or_else(|| {
        Error::new(Code::Refused, "these rules are not signed by the owner of this node").hint("use the home that claimed it")
    })?;
    let rules = signed.rules();
    // One writer at a time: what is on the disk and what is in force must be the same.
    let mut held = core.rules.0.write().unwrap_or_else(PoisonError::into_inner);
    let edition = held.as_ref().map_or((0, 0), |held| (held.number, held.at));
    if (rules.number, rules.at) <= edition {
        return Ok(edition);
    }
    core.gate.state().set_rules(bytes)?;
    *held = Some(Arc::new(rules.clone()));
    Ok((rules.number, rules.at))
}

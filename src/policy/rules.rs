//! The part of the policy that nodes enforce, for one machine: the names in its rules become the ids of grants.

use super::record::{Current, current};
use crate::config::time::now_ms;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::{B64, GrantRow, Machine};
use crate::token::{Rule, Rules, SignedRules};

/// The signed rules for a machine; none as long as nobody has set a policy.
pub fn rules_for(cx: &Context, machine: &Machine) -> Result<Option<SignedRules>> {
    let current = current(cx)?;
    if current.row.is_none() {
        return Ok(None);
    }
    let now = cx.now();
    let mut grants = cx.ledger()?.grants()?;
    grants.retain(|grant| grant.is_live(now) && grant.node_key.is_none_or(|key| Some(key) == machine.node_key));
    let signed = compile(&current, &grants).sign(&cx.keyring()?.identity_key()).map_err(|error| {
        Error::new(Code::Failed, format!("policy {} has more rules than a node can hold", current.number()))
            .cause(error)
            .hint("write fewer of them, with * in the names of friends or with networks")
    })?;
    Ok(Some(signed))
}

/// Whether a node must be told before a grant under this name is used, since a rule is about the name itself.
pub fn is_about(cx: &Context, name: &str) -> Result<bool> {
    Ok(current(cx)?.policy.reach.iter().any(|rule| rule.is_about(name) && !is_for_all(&rule.who)))
}

fn is_for_all(who: &[String]) -> bool {
    who.iter().any(|name| name.chars().all(|c| c == '*'))
}

fn compile(current: &Current, grants: &[GrantRow]) -> Rules {
    let rules = current.policy.reach.iter().map(|rule| {
        let mut ids: Vec<[u8; 8]> = grants.iter().filter(|grant| rule.is_about(grant.name.as_str())).map(|grant| grant.id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        Rule { grants: (!is_for_all(&rule.who)).then_some(ids), to: rule.to.clone(), allow: rule.allow }
    });
    Rules { issuer: [0; 32], number: current.number(), at: now_ms(), strict: current.policy.strict, rules: rules.collect() }
}

/// The machines that have not heard of the policy that holds.
pub fn unheard(cx: &Context) -> Result<Vec<Machine>> {
    let number = current(cx)?.number();
    let heard = cx.ledger()?.rules_heard()?;
    let knows = |key: &B64<32>| heard.iter().any(|(node, heard)| node == key && *heard >= number);
    let machines = cx.ledger()?.machines()?.into_iter();
    Ok(machines.filter(|machine| number > 0 && machine.node_key.is_some_and(|key| !knows(&key))).collect())
}

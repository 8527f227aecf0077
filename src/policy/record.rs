//! Which policy holds, changing it, and asking it before an act: what it refuses is written down and not done.

use super::decide::{Act, Decision, decide};
use super::document::Policy;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{PolicyRefused, PolicySet};
use crate::ledger::{B64, PolicyRow, SpanId};
use serde_json::Value;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Whether an act is about to be done, or only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A refusal is recorded.
    InEarnest,
    /// Nothing is written.
    DryRun,
}

impl Asked {
    /// By the flag that commands have.
    pub fn dry_run(dry_run: bool) -> Asked {
        if dry_run { Asked::DryRun } else { Asked::InEarnest }
    }
}

/// The policy that holds.
#[derive(Clone, Debug)]
pub struct Current {
    /// What it says.
    pub policy: Policy,
    /// How it was set; none while nobody has set one and nothing is restricted.
    pub row: Option<PolicyRow>,
}

impl Current {
    /// Its number; 0 while there is none.
    pub fn number(&self) -> u64 {
        self.row.as_ref().map_or(0, |row| row.number)
    }
}

/// The policy that holds now. One that cannot be read is an error: to go on as if there were none would lift every rule.
pub fn current(cx: &Context) -> Result<Current> {
    let Some(row) = cx.ledger()?.policies()?.into_iter().next() else {
        return Ok(Current { policy: Policy::default(), row: None });
    };
    let bad = |why: String| {
        Error::new(Code::Ledger, format!("policy {} cannot be read: {why}", row.number)).hint("use the version of portdistrict that set it")
    };
    let policy: Policy = serde_json::from_value(Value::Object(row.policy.clone())).map_err(|error| bad(error.to_string()))?;
    policy.check().map_err(bad)?;
    Ok(Current { policy, row: Some(row) })
}

/// Sets a policy in the place of the one that was looked at.
pub fn set(cx: &Context, instead_of: &Current, policy: &Policy, reason: &str) -> Result<SpanId> {
    policy.check().map_err(|why| Error::new(Code::Usage, format!("this is no policy: {why}")).hint("portdistrict policy show --toml"))?;
    let device = B64(cx.keyring()?.device_public()).to_string();
    let decision = decide(&instead_of.policy, &Act::Edit { device: &device });
    refuse(cx, instead_of, &decision, "edit", "policy", Asked::InEarnest)?;
    let Ok(Value::Object(document)) = serde_json::to_value(policy) else {
        return Err(Error::new(Code::Failed, "the policy cannot be written as JSON"));
    };
    cx.record(&PolicySet { number: instead_of.number() + 1, policy: document, reason: reason.to_owned() })
}

/// Asks the policy before an act; `name` is what it is done to. A refusal is recorded, and returned as an error.
pub fn guard(cx: &Context, act: &Act<'_>, name: &str, asked: Asked) -> Result<()> {
    let current = current(cx)?;
    let verb = match act {
        Act::Deploy { .. } => "deploy",
        Act::Claim { .. } => "claim",
        Act::Lend(_) => "invite",
        Act::Edit { .. } => "edit",
        Act::Enable { .. } => "enable",
        Act::Reach { .. } => "reach",
    };
    refuse(cx, &current, &decide(&current.policy, act), verb, name, asked)
}

fn refuse(cx: &Context, current: &Current, decision: &Decision, act: &str, name: &str, asked: Asked) -> Result<()> {
    let (false, Some(row)) = (decision.allowed, &current.row) else { return Ok(()) };
    if asked == Asked::InEarnest {
        cx.record(&PolicyRefused {
            act: act.to_owned(),
            name: name.to_owned(),
            rule: decision.rule.clone(),
            why: decision.why.clone(),
            policy: row.span,
        })?;
    }
    Err(Error::new(Code::Refused, format!("the policy refuses to {act} `{name}`: {}", decision.why))
        .because(format!("rule {} of policy {}, entry {}", decision.rule, row.number, row.span))
        .ruled(decision.rule.clone(), Some(row.span.to_string()))
        .hint("see it with `portdistrict policy show`; change it with `portdistrict policy set FILE`"))
}

/// How many spans of a kind this day (UTC) has seen.
pub fn today(cx: &Context, kind: &str) -> Result<u64> {
    let now = cx.now().saturating_mul(1000);
    cx.ledger()?.count_since(kind, now - now % DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Paths;
    use crate::keyring::Unlock;
    use crate::ledger::Filter;

    fn home() -> (tempfile::TempDir, Context) {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Paths::find(Some(dir.path())).unwrap(), Unlock::default());
        cx.init().unwrap();
        (dir, cx)
    }

    fn policy(text: &str) -> Policy {
        Policy::parse("test", &format!("version = 1\n{text}")).unwrap()
    }

    #[test]
    fn what_it_refuses_is_recorded_with_the_span_that_did() {
        let (_dir, cx) = home();
        let act = Act::Deploy { provider: "qemu", image: None, measurement: None, today: 0 };
        guard(&cx, &act, "home", Asked::InEarnest).unwrap();
        let span = set(&cx, &current(&cx).unwrap(), &policy("[deploy]\nproviders = ['local']"), "only here").unwrap();
        guard(&cx, &act, "home", Asked::DryRun).unwrap_err();
        let error = guard(&cx, &act, "home", Asked::InEarnest).unwrap_err();
        assert_eq!(error.code(), Code::Refused);
        assert!(error.causes()[0].contains(&span.to_string()) && error.causes()[0].contains("deploy.providers"), "{error:?}");
        let refused = cx.ledger().unwrap().log(&Filter { kind: Some("policy.refused".to_owned()), ..Filter::default() }).unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].span.body["policy"], span.to_string());
        assert!(cx.ledger().unwrap().verify().unwrap().is_ok());
    }

    #[test]
    fn of_two_changes_at_once_one_loses_and_only_editors_change_it() {
        let (_dir, cx) = home();
        let nothing = current(&cx).unwrap();
        set(&cx, &nothing, &policy("strict = true"), "").unwrap();
        assert_eq!(set(&cx, &nothing, &policy(""), "").unwrap_err().code(), Code::Exists);
        let other = crate::encoding::base64(&[7; 32]);
        set(&cx, &current(&cx).unwrap(), &policy(&format!("editors = ['{other}']")), "").unwrap();
        let held = current(&cx).unwrap();
        assert_eq!(held.number(), 2);
        let error = set(&cx, &held, &policy(""), "").unwrap_err();
        assert_eq!(error.code(), Code::Refused);
        // Nor does a span that was written without asking change what holds.
        cx.append("policy.set", serde_json::json!({"number": 3, "policy": {"version": 1}})).unwrap();
        assert_eq!(current(&cx).unwrap().number(), 2);
    }

    #[test]
    fn a_policy_that_cannot_be_read_lifts_no_rule() {
        let (_dir, cx) = home();
        cx.append("policy.set", serde_json::json!({"number": 1, "policy": {"version": 2, "later": true}})).unwrap();
        assert_eq!(current(&cx).unwrap_err().code(), Code::Ledger);
        assert!(guard(&cx, &Act::Edit { device: "x" }, "policy", Asked::DryRun).is_err());
    }
}

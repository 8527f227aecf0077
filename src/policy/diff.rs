//! What a new policy changes: which acts it allows that were refused before, and the other way round.

use super::decide::{Act, decide};
use super::document::Policy;
use crate::config::Destination;
use serde::Serialize;

/// One thing that changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Whom it concerns: the name of a grant, `everyone else`, or `you`.
    pub who: String,
    /// What, as in `reach example.org:443`, or the rule as in `deploy.providers`.
    pub what: String,
    /// `gains` or `loses`; `changes` where a limit moved that is neither.
    pub effect: &'static str,
    /// What decided before.
    pub before: String,
    /// What decides then.
    pub after: String,
}

/// A name that no rule can mean but by `*`.
const ANYONE: &str = "everyone-else";

/// Compares two policies for these friends. Each rule of either is tried with a destination that it covers, and with every other
/// rule's, so that whatever differs between the rules is seen; a network inside a network is, a name that two globs both cover only
/// as far as their examples show it.
pub fn diff(old: &Policy, new: &Policy, friends: &[String]) -> Vec<Change> {
    let mut changes = limits(old, new);
    let mut tried: Vec<Destination> = old.reach.iter().chain(&new.reach).flat_map(|rule| &rule.to).map(|to| to.example()).collect();
    tried.push(Destination { name: Some("anything.example".to_owned()), ip: None, port: 443 });
    for who in friends.iter().map(String::as_str).chain([ANYONE]) {
        for to in &tried {
            let act = Act::Reach { who, to };
            let (before, after) = (decide(old, &act), decide(new, &act));
            if before.allowed != after.allowed {
                changes.push(Change {
                    who: if who == ANYONE { "everyone else".to_owned() } else { who.to_owned() },
                    what: format!("reach {to}"),
                    effect: if after.allowed { "gains" } else { "loses" },
                    before: before.rule,
                    after: after.rule,
                });
            }
        }
    }
    changes.sort();
    changes.dedup();
    changes
}

/// What changes for the owner's own acts.
fn limits(old: &Policy, new: &Policy) -> Vec<Change> {
    let parts = |policy: &Policy| {
        let list = |list: &[String]| if list.is_empty() { "any".to_owned() } else { list.join(", ") };
        let number = |number: Option<u64>| number.map_or_else(|| "any".to_owned(), |n| n.to_string());
        [
            ("strict", policy.strict.to_string()),
            ("signatures_required", policy.signatures_required.to_string()),
            ("editors", list(&policy.editors)),
            ("deploy.providers", list(&policy.deploy.providers)),
            ("deploy.images", list(&policy.deploy.images)),
            ("deploy.measurements", list(&policy.deploy.measurements)),
            ("deploy.per_day", number(policy.deploy.per_day)),
            ("claim.rung", policy.claim.rung.to_string()),
            ("invite.modes", list(&policy.invite.modes)),
            ("invite.longest", number(policy.invite.longest)),
            ("invite.bytes", number(policy.invite.bytes)),
            ("invite.per_day", number(policy.invite.per_day)),
            ("enable.capabilities", list(&policy.enable.capabilities)),
        ]
    };
    let changed = parts(old).into_iter().zip(parts(new)).filter(|(before, after)| before != after);
    changed
        .map(|((what, before), (_, after))| Change { who: "you".to_owned(), what: what.to_owned(), effect: "changes", before, after })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse("test", &format!("version = 1\n{text}")).unwrap()
    }

    #[test]
    fn who_gains_and_who_loses() {
        let old = policy("[[reach]]\nwho = ['anna']\nto = ['*:22']\nallow = false");
        let new = policy("[deploy]\nper_day = 3\n[[reach]]\nwho = ['b*']\nto = ['10.0.0.0/8']\nallow = false");
        let found = diff(&old, &new, &["anna".to_owned(), "bert".to_owned()]);
        let short: Vec<_> = found.iter().map(|change| (change.who.as_str(), change.what.as_str(), change.effect)).collect();
        assert_eq!(
            short,
            [("anna", "reach anything.example:22", "gains"), ("bert", "reach 10.0.0.0:1", "loses"), ("you", "deploy.per_day", "changes")]
        );
        assert_eq!(diff(&old, &old, &["anna".to_owned()]), []);
        let strict = diff(&Policy::default(), &policy("strict = true"), &[]);
        assert!(strict.iter().any(|change| change.who == "everyone else" && change.effect == "loses"), "{strict:?}");
    }
}

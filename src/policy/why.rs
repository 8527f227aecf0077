//! Why a friend reaches a destination or does not: the answer, the spans that make it, and what would flip it.

use super::decide::{Act, decide};
use super::document::Policy;
use crate::config::{Destination, Pattern};
use serde::Serialize;

/// A grant, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lent {
    /// The span that issued it.
    pub(super) span: String,
    /// The span that revoked it.
    pub(super) revoked: Option<String>,
    /// Whether its time is now.
    pub(super) in_time: bool,
    /// Where it leads; empty means everywhere.
    pub(super) allow: Vec<Pattern>,
    /// Where it does not lead, whatever `allow` says.
    pub(super) deny: Vec<Pattern>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether the friend is let there.
    pub allowed: bool,
    /// What decided, in words.
    pub why: String,
    /// The rule of the policy that decided, if one did.
    pub rule: Option<String>,
    /// The spans that decided: without them the answer is the other one. Empty where nothing was ever granted.
    pub spans: Vec<String>,
}

impl Lent {
    fn leads_to(&self, to: &Destination) -> bool {
        let covers = |rules: &[Pattern]| rules.iter().any(|rule| rule.covers(to));
        !covers(&self.deny) && (self.allow.is_empty() || covers(&self.allow))
    }

    fn holds(&self) -> bool {
        self.in_time && self.revoked.is_none()
    }
}

/// Explains. `policy` comes with the span that set it; `grants` are all that were ever issued to `who`.
pub(super) fn why(policy: &Policy, set_by: Option<&str>, grants: &[Lent], who: &str, to: &Destination) -> Answer {
    let decision = decide(policy, &Act::Reach { who, to });
    if let (false, Some(span)) = (decision.allowed, set_by) {
        // Without the policy the grants alone would answer; if they say no as well, the policy does not decide.
        if grants.iter().any(|grant| grant.holds() && grant.leads_to(to)) {
            return Answer { allowed: false, why: decision.why, rule: Some(decision.rule), spans: vec![span.to_owned()] };
        }
    }
    let allowing: Vec<String> = grants.iter().filter(|grant| grant.holds() && grant.leads_to(to)).map(|grant| grant.span.clone()).collect();
    if !allowing.is_empty() {
        let many = if allowing.len() == 1 { "a grant holds and leads" } else { "several grants hold and lead" };
        return Answer { allowed: true, why: format!("{many} there"), rule: None, spans: allowing };
    }
    let revoked: Vec<String> =
        grants.iter().filter(|grant| grant.in_time && grant.leads_to(to)).filter_map(|grant| grant.revoked.clone()).collect();
    if !revoked.is_empty() && (decision.allowed || set_by.is_none()) {
        return Answer { allowed: false, why: "what led there was revoked".to_owned(), rule: None, spans: revoked };
    }
    let text = match (grants.is_empty(), grants.iter().any(Lent::holds)) {
        (true, _) => "nothing was ever granted to them",
        (false, true) => "their grants do not lead there",
        (false, false) => "no grant of theirs holds any more",
    };
    Answer { allowed: false, why: text.to_owned(), rule: None, spans: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lent(span: &str, revoked: Option<&str>, allow: &[&str], deny: &[&str]) -> Lent {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Lent { span: span.to_owned(), revoked: revoked.map(str::to_owned), in_time: true, allow: parse(allow), deny: parse(deny) }
    }

    #[test]
    fn each_answer_names_what_made_it() {
        let to = "example.org:443".parse().unwrap();
        let rules = Policy::parse("t", "version = 1\n[[reach]]\nwho = ['anna']\nto = ['*:443']\nallow = false").unwrap();
        let ask = |policy: &Policy, grants: &[Lent], who: &str| why(policy, Some("P"), grants, who, &to);
        let open = Policy::default();
        assert_eq!(ask(&open, &[lent("G", None, &[], &[])], "anna").spans, ["G"]);
        assert_eq!(ask(&rules, &[lent("G", None, &[], &[])], "anna").spans, ["P"]);
        assert_eq!(ask(&rules, &[lent("G", None, &[], &[])], "anna").rule.unwrap(), "reach[0]");
        assert_eq!(ask(&open, &[lent("G", Some("R"), &[], &[])], "anna").spans, ["R"]);
        assert_eq!(ask(&open, &[lent("G", None, &["*:80"], &[])], "anna").spans, Vec::<String>::new());
        assert_eq!(ask(&open, &[], "anna").why, "nothing was ever granted to them");
        let two = ask(&open, &[lent("G", None, &[], &[]), lent("H", None, &["*:443"], &[])], "anna");
        assert_eq!((two.allowed, two.spans), (true, vec!["G".to_owned(), "H".to_owned()]));
    }

    proptest! {
        /// Whatever it names: taken away, the answer is the other one.
        #[test]
        fn without_the_spans_it_names_the_answer_flips(
            grants in proptest::collection::vec((any::<bool>(), any::<bool>(), 0usize..3, 0usize..3), 0..4),
            rules in proptest::collection::vec((any::<bool>(), 0usize..3), 0..3),
            strict in any::<bool>(), set in any::<bool>(),
        ) {
            const PLACES: [&str; 3] = ["*:443", "*.example", "example.org"];
            let to: Destination = "example.org:443".parse().unwrap();
            let grants: Vec<Lent> = grants.iter().enumerate().map(|(at, (revoked, in_time, allow, deny))| {
                let list = |n: &usize| PLACES.get(*n).into_iter().skip(usize::from(*n == 0)).copied().collect::<Vec<_>>();
                Lent { in_time: *in_time, ..lent(&format!("G{at}"), revoked.then_some(format!("R{at}")).as_deref(), &list(allow), &list(deny)) }
            }).collect();
            let mut policy = Policy::default();
            if set {
                policy.strict = strict;
                policy.reach = rules.iter().map(|(allow, place)| super::super::Reach {
                    who: vec!["anna".to_owned()], to: vec![PLACES[*place].parse().unwrap()], allow: *allow,
                }).collect();
            }
            let set_by = set.then_some("P");
            let answer = why(&policy, set_by, &grants, "anna", &to);
            if answer.spans.is_empty() {
                prop_assert!(!answer.allowed);
                return Ok(());
            }
            let gone = |span: &str| answer.spans.iter().any(|named| named == span);
            let without: Vec<Lent> = grants.iter().filter(|grant| !gone(&grant.span)).cloned()
                .map(|grant| Lent { revoked: grant.revoked.filter(|span| !gone(span)), ..grant }).collect();
            let (policy, set_by) = if gone("P") { (Policy::default(), None) } else { (policy, set_by) };
            prop_assert_eq!(why(&policy, set_by, &without, "anna", &to).allowed, !answer.allowed, "{:?}", answer);
        }
    }
}

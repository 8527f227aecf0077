//! The decision: an act, allowed or not, with the rule that made it so.

use super::document::{Policy, Reach};
use crate::attest::Rung;
use crate::config::{Destination, glob};
use crate::config::{bytes, time};
use serde::Serialize;

/// What somebody is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// To start a machine.
    Deploy {
        /// Where.
        provider: &'a str,
        /// The digest of its image, hex; none for a process on this computer.
        image: Option<&'a str>,
        /// The launch measurement it will have, hex, where one is known.
        measurement: Option<&'a str>,
        /// Machines deployed today.
        today: u64,
    },
    /// To give a machine its owner.
    Claim {
        /// Where its evidence puts it.
        rung: Rung,
        /// Whether the evidence was verified.
        verified: bool,
    },
    /// To lend.
    Lend(Lend<'a>),
    /// To change the policy.
    Edit {
        /// The key of the device that does.
        device: &'a str,
    },
    /// To switch on again what a machine can do.
    Enable {
        /// `exit` or `tor`.
        capability: &'a str,
    },
    /// To go somewhere, as a friend.
    Reach {
        /// The name of the grant.
        who: &'a str,
        /// Where to.
        to: &'a Destination,
    },
}

/// What is about to be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lend<'a> {
    /// `try`, `once` or `many`.
    pub mode: &'a str,
    /// How long, seconds.
    pub life: u64,
    /// How many bytes in all; none for any number.
    pub bytes: Option<u64>,
    /// Grants issued today.
    pub today: u64,
}

/// What the policy says about an act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// The rule that decided: a path into the document (`deploy.providers`, `reach[2]`), or `default` where no rule speaks.
    pub rule: String,
    /// In words.
    pub why: String,
}

impl Decision {
    fn yes(rule: impl Into<String>, why: impl Into<String>) -> Decision {
        Decision { allowed: true, rule: rule.into(), why: why.into() }
    }

    fn no(rule: impl Into<String>, why: impl Into<String>) -> Decision {
        Decision { allowed: false, rule: rule.into(), why: why.into() }
    }
}

/// Decides. The first rule that refuses is the one that is named.
pub fn decide(policy: &Policy, act: &Act<'_>) -> Decision {
    let refused = match act {
        Act::Deploy { provider, image, measurement, today } => deploy(policy, provider, *image, *measurement, *today),
        Act::Claim { rung, verified } => claim(policy, *rung, *verified),
        Act::Lend(lend) => lending(policy, lend),
        Act::Edit { device } => listed("editors", &policy.editors, device, false),
        Act::Enable { capability } => listed("enable.capabilities", &policy.enable.capabilities, capability, policy.strict),
        Act::Reach { who, to } => return reach(policy, who, to),
    };
    refused.unwrap_or_else(|| Decision::yes("default", "no rule refuses it"))
}

fn deploy(policy: &Policy, provider: &str, image: Option<&str>, measurement: Option<&str>, today: u64) -> Option<Decision> {
    let rules = &policy.deploy;
    let named = image.and_then(|image| {
        if policy.signatures_required && !rules.images.iter().any(|known| known == image) {
            return Some(Decision::no("signatures_required", format!("the image {image} is not among deploy.images")));
        }
        listed("deploy.images", &rules.images, image, policy.strict)
    });
    listed("deploy.providers", &rules.providers, provider, policy.strict)
        .or(named)
        .or_else(|| measurement.and_then(|measurement| listed("deploy.measurements", &rules.measurements, measurement, policy.strict)))
        .or_else(|| per_day("deploy.per_day", rules.per_day, today, "machines were deployed"))
}

fn claim(policy: &Policy, rung: Rung, verified: bool) -> Option<Decision> {
    if policy.signatures_required && !verified {
        return Some(Decision::no("signatures_required", "its evidence was not verified"));
    }
    let lowest = policy.claim.rung;
    (rung < lowest).then(|| Decision::no("claim.rung", format!("it stands on the rung `{rung}`, below `{lowest}`")))
}

fn lending(policy: &Policy, lend: &Lend<'_>) -> Option<Decision> {
    let rules = &policy.invite;
    if let Some(refused) = listed("invite.modes", &rules.modes, lend.mode, policy.strict) {
        return Some(refused);
    }
    if let Some(longest) = rules.longest.filter(|longest| lend.life > *longest) {
        let why = format!("it would hold for {}, longer than {}", time::duration(lend.life), time::duration(longest));
        return Some(Decision::no("invite.longest", why));
    }
    if let Some(most) = rules.bytes.filter(|most| lend.bytes.is_none_or(|wanted| wanted > *most)) {
        let wanted = lend.bytes.map_or_else(|| "any number of bytes".to_owned(), bytes);
        return Some(Decision::no("invite.bytes", format!("it would allow {wanted}, more than {}", bytes(most))));
    }
    per_day("invite.per_day", rules.per_day, lend.today, "grants were issued")
}

/// A list allows what it names. Empty it allows everything, or nothing where everything must be named.
fn listed(rule: &str, list: &[String], value: &str, strict: bool) -> Option<Decision> {
    if list.iter().any(|entry| entry == value) {
        return None;
    }
    if !list.is_empty() {
        return Some(Decision::no(rule, format!("`{value}` is not among {}", list.join(", "))));
    }
    strict.then(|| Decision::no("strict", format!("{rule} does not name `{value}`")))
}

fn per_day(rule: &str, most: Option<u64>, today: u64, what: &str) -> Option<Decision> {
    most.filter(|most| today >= *most).map(|most| Decision::no(rule, format!("{today} {what} today, and {most} are allowed a day")))
}

/// A refusal wins over a permission, so that the order of the rules means nothing.
fn reach(policy: &Policy, who: &str, to: &Destination) -> Decision {
    let find = |allow: bool| policy.reach.iter().enumerate().find(|(_, rule)| rule.allow == allow && rule.speaks_of(who, to));
    if let Some((at, rule)) = find(false) {
        return Decision::no(format!("reach[{at}]"), format!("it refuses {} to {}", in_words(rule), rule.who.join(", ")));
    }
    if let Some((at, rule)) = find(true) {
        return Decision::yes(format!("reach[{at}]"), format!("it allows {} to {}", in_words(rule), rule.who.join(", ")));
    }
    if policy.strict {
        return Decision::no("strict", "no rule of `reach` names it");
    }
    Decision::yes("default", "no rule refuses it")
}

fn in_words(rule: &Reach) -> String {
    rule.to.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Reach {
    /// Whether the rule is about this friend.
    pub fn is_about(&self, who: &str) -> bool {
        self.who.iter().any(|pattern| glob(pattern, who))
    }

    /// Whether it is about this friend and this destination.
    pub fn speaks_of(&self, who: &str, to: &Destination) -> bool {
        self.is_about(who) && self.to.iter().any(|pattern| pattern.covers(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse("test", &format!("version = 1\n{text}")).unwrap()
    }

    fn rule(text: &str, act: &Act<'_>) -> (bool, String) {
        let decision = decide(&policy(text), act);
        assert!(!decision.why.is_empty());
        (decision.allowed, decision.rule)
    }

    fn yes(rule: &str) -> (bool, String) {
        (true, rule.to_owned())
    }

    fn no(rule: &str) -> (bool, String) {
        (false, rule.to_owned())
    }

    #[test]
    fn deploying() {
        let image = "a".repeat(64);
        let act = Act::Deploy { provider: "qemu", image: Some(&image), measurement: None, today: 2 };
        assert_eq!(rule("", &act), yes("default"));
        assert_eq!(rule("strict = true", &act), no("strict"));
        assert_eq!(rule("[deploy]\nproviders = ['local']", &act), no("deploy.providers"));
        assert_eq!(rule("signatures_required = true", &act), no("signatures_required"));
        assert_eq!(rule(&format!("signatures_required = true\n[deploy]\nimages = ['{image}']"), &act), yes("default"));
        assert_eq!(rule(&format!("[deploy]\nimages = ['{}']", "b".repeat(64)), &act), no("deploy.images"));
        assert_eq!(rule("[deploy]\nper_day = 2", &act), no("deploy.per_day"));
        assert_eq!(rule("[deploy]\nper_day = 3", &act), yes("default"));
        let measured = "c".repeat(96);
        let act = Act::Deploy { provider: "qemu", image: None, measurement: Some(&measured), today: 0 };
        assert_eq!(rule(&format!("[deploy]\nmeasurements = ['{}']", "d".repeat(96)), &act), no("deploy.measurements"));
        assert_eq!(rule("strict = true\n[deploy]\nproviders = ['qemu']", &act), no("strict"));
    }

    #[test]
    fn claiming_lending_editing() {
        let act = Act::Claim { rung: Rung::PinnedKey, verified: false };
        assert_eq!(rule("", &act), yes("default"));
        assert_eq!(rule("signatures_required = true", &act), no("signatures_required"));
        assert_eq!(rule("[claim]\nrung = 'image-by-tpm'", &act), no("claim.rung"));
        let lend = Lend { mode: "many", life: 86_400, bytes: None, today: 1 };
        let act = Act::Lend(lend);
        assert_eq!(rule("", &act), yes("default"));
        assert_eq!(rule("[invite]\nmodes = ['once']", &act), no("invite.modes"));
        assert_eq!(rule("[invite]\nlongest = 86399", &act), no("invite.longest"));
        assert_eq!(rule("[invite]\nbytes = 5", &act), no("invite.bytes"));
        assert_eq!(rule("[invite]\nbytes = 5", &Act::Lend(Lend { bytes: Some(5), ..lend })), yes("default"));
        assert_eq!(rule("[invite]\nper_day = 1", &act), no("invite.per_day"));
        let act = Act::Enable { capability: "tor" };
        assert_eq!(rule("", &act), yes("default"));
        assert_eq!(rule("strict = true", &act), no("strict"));
        assert_eq!(rule("[enable]\ncapabilities = ['exit']", &act), no("enable.capabilities"));
        assert_eq!(rule("strict = true\n[enable]\ncapabilities = ['tor']", &act), yes("default"));
        let mine = crate::encoding::base64(&[1; 32]);
        assert_eq!(rule(&format!("editors = ['{mine}']"), &Act::Edit { device: "other" }), no("editors"));
        assert_eq!(rule(&format!("editors = ['{mine}']"), &Act::Edit { device: &mine }), yes("default"));
        // Otherwise the first strict policy would be the last.
        assert_eq!(rule("strict = true", &Act::Edit { device: &mine }), yes("default"));
    }

    #[test]
    fn a_refusal_wins_wherever_it_stands() {
        let rules = |first: bool| {
            format!(
                "[[reach]]\nwho = ['*']\nto = ['*.example.org:443']\nallow = {first}\n[[reach]]\nwho = ['anna']\nto = ['*']\nallow = {}",
                !first
            )
        };
        let to = "www.example.org:443".parse().unwrap();
        let act = Act::Reach { who: "anna", to: &to };
        assert_eq!(rule(&rules(true), &act), no("reach[1]"));
        assert_eq!(rule(&rules(false), &act), no("reach[0]"));
        assert_eq!(rule(&rules(false), &Act::Reach { who: "bert", to: &to }), no("reach[0]"));
        assert_eq!(rule(&rules(true), &Act::Reach { who: "bert", to: &to }), yes("reach[0]"));
        let elsewhere = "192.0.2.1:80".parse().unwrap();
        assert_eq!(rule(&rules(false), &Act::Reach { who: "bert", to: &elsewhere }), yes("default"));
        assert_eq!(rule(&format!("strict = true\n{}", rules(false)), &Act::Reach { who: "bert", to: &elsewhere }), no("strict"));
    }
}

//! A second, slower reading of the document, written from its description alone; random policies must mean the same to both.

use super::document::{CAPABILITIES, Claim, Deploy, Enable, Invite, Policy, Reach};
use super::{Act, Lend, decide};
use crate::attest::Rung;
use crate::config::Destination;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// All that is asked of the reference: yes or no.
fn allowed(policy: &Policy, act: &Act<'_>) -> bool {
    let in_list = |list: &Vec<String>, value: &str| list.contains(&value.to_owned()) || (list.is_empty() && !policy.strict);
    match act {
        Act::Deploy { provider, image, measurement, today } => {
            let image_named = image.is_none_or(|image| policy.deploy.images.contains(&image.to_owned()));
            in_list(&policy.deploy.providers, provider)
                && image.is_none_or(|image| in_list(&policy.deploy.images, image))
                && (!policy.signatures_required || image_named)
                && measurement.is_none_or(|measurement| in_list(&policy.deploy.measurements, measurement))
                && policy.deploy.per_day.unwrap_or(u64::MAX) > *today
        }
        Act::Claim { rung, verified } => (*verified || !policy.signatures_required) && *rung >= policy.claim.rung,
        Act::Lend(Lend { mode, life, bytes, today }) => {
            in_list(&policy.invite.modes, mode)
                && *life <= policy.invite.longest.unwrap_or(u64::MAX)
                && policy.invite.bytes.is_none_or(|most| bytes.is_some_and(|wanted| wanted <= most))
                && policy.invite.per_day.unwrap_or(u64::MAX) > *today
        }
        Act::Edit { device } => policy.editors.is_empty() || policy.editors.contains(&(*device).to_owned()),
        Act::Enable { capability } => in_list(&policy.enable.capabilities, capability),
        Act::Reach { who, to } => {
            let mut verdicts = Vec::new();
            for rule in &policy.reach {
                for name in &rule.who {
                    for pattern in &rule.to {
                        if matches(name, who) && covers(&pattern.to_string(), to) {
                            verdicts.push(rule.allow);
                        }
                    }
                }
            }
            if verdicts.is_empty() { !policy.strict } else { verdicts.iter().all(|allow| *allow) }
        }
    }
}

/// Globs through the written form alone: the pieces between stars must follow each other.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| (0..=rest.len()).any(|at| matches(tail, &rest[at..]))),
    }
}

/// Destinations through the written form alone, for the forms that are generated below.
fn covers(pattern: &str, to: &Destination) -> bool {
    let (host, ports) = pattern.rsplit_once(':').unwrap_or((pattern, "1-65535"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = u32::from(to.port);
    if port < first.parse().unwrap() || port > last.parse().unwrap() {
        return false;
    }
    match host {
        "*" => true,
        "10.0.0.0/8" => to.ip.is_some_and(|ip| ip.to_string().starts_with("10.")),
        "10.1.0.0/16" => to.ip.is_some_and(|ip| ip.to_string().starts_with("10.1.")),
        "10.1.2.3" => to.ip.is_some_and(|ip| ip.to_string() == "10.1.2.3"),
        name => to.name.as_deref().is_some_and(|asked| matches(name, asked)),
    }
}

fn some_of(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(from, 0..=from.len()).prop_map(|list| list.into_iter().map(str::to_owned).collect())
}

const DIGESTS: &[&str] = &[
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
];
const NAMES: &[&str] = &["anna", "bert", "ann", "a*", "*", "*t", "b*t"];
const PLACES: &[&str] = &[
    "*",
    "*:443",
    "example.org",
    "*.example.org:80-443",
    "10.0.0.0/8",
    "10.1.0.0/16:443",
    "10.1.2.3:22",
    "ex*:1-79",
    "www.example.org:443",
];

fn policies() -> impl Strategy<Value = Policy> {
    let reach = (proptest::sample::subsequence(NAMES, 1..3), proptest::sample::subsequence(PLACES, 1..4), any::<bool>()).prop_map(
        |(who, to, allow)| Reach {
            who: who.into_iter().map(str::to_owned).collect(),
            to: to.into_iter().map(|to| to.parse().unwrap()).collect(),
            allow,
        },
    );
    let few = || proptest::option::of(0u64..4);
    let deploy = (some_of(&["local", "qemu"]), some_of(DIGESTS), few()).prop_map(|(providers, images, per_day)| Deploy {
        providers,
        images,
        measurements: Vec::new(),
        per_day,
    });
    let invite = (some_of(&["try", "once", "many"]), few(), few(), few()).prop_map(|(modes, longest, bytes, per_day)| Invite {
        modes,
        longest,
        bytes,
        per_day,
    });
    let rung = proptest::sample::select(Rung::ALL.to_vec());
    let enable = some_of(&CAPABILITIES).prop_map(|capabilities| Enable { capabilities });
    (any::<bool>(), any::<bool>(), some_of(&["k1", "k2"]), deploy, rung, invite, enable, proptest::collection::vec(reach, 0..5)).prop_map(
        |(strict, signatures_required, editors, deploy, rung, invite, enable, reach)| Policy {
            strict,
            signatures_required,
            editors,
            deploy,
            claim: Claim { rung },
            invite,
            enable,
            reach,
            ..Policy::default()
        },
    )
}

/// A hundred thousand policies, five acts each; a few seconds.
#[test]
fn random_policies_mean_the_same_to_a_second_reader() {
    let cases = 100_000;
    let asked = (
        policies(),
        (proptest::sample::select(vec!["local", "qemu", "gce"]), proptest::option::of(proptest::sample::select(DIGESTS.to_vec())), 0u64..4),
        (proptest::sample::select(Rung::ALL.to_vec()), any::<bool>()),
        (proptest::sample::select(vec!["try", "once", "many"]), 0u64..5, proptest::option::of(0u64..5), 0u64..4),
        (proptest::sample::select(vec!["k1", "k2", "k3"]), proptest::sample::select(CAPABILITIES.to_vec())),
        (
            proptest::sample::select(vec!["anna", "bert", "ann", "carl"]),
            proptest::sample::select(vec![
                "example.org:443",
                "www.example.org:80",
                "exit.example:22",
                "10.1.2.3:22",
                "10.9.9.9:443",
                "192.0.2.1:80",
            ]),
        ),
    );
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() });
    runner
        .run(
            &asked,
            |(policy, (provider, image, today), (rung, verified), (mode, life, bytes, issued), (device, capability), (who, to))| {
                let to: Destination = to.parse().unwrap();
                for act in [
                    Act::Deploy { provider, image, measurement: None, today },
                    Act::Claim { rung, verified },
                    Act::Lend(Lend { mode, life, bytes, today: issued }),
                    Act::Edit { device },
                    Act::Enable { capability },
                    Act::Reach { who, to: &to },
                ] {
                    let decision = decide(&policy, &act);
                    prop_assert_eq!(decision.allowed, allowed(&policy, &act), "{:?} under {}", act, policy.to_toml());
                    // What is refused names a rule of the document.
                    prop_assert!(decision.allowed || decision.rule != "default");
                }
                Ok(())
            },
        )
        .unwrap();
}

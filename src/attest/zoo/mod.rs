//! Evidence of every kind, good and bad, with the rung and the reason that each must come to.
//!
//! [`snp`], [`tpm`] and [`whole`] are tables: a name, how the piece is made, what it must come to. [`specimen`] makes the pieces, under
//! roots that live as long as the process. [`mutations`] changes bytes of all that is verified, [`corpus`] has the mistakes that other
//! verifiers made, [`defects`] those that this one made or still makes.

mod corpus;
mod defects;
mod mutations;
mod snp;
mod specimen;
mod tpm;
mod whole;

use super::judge::{Answer, Asked, Case, Wanted, judge};
use super::snp::{Certificates, Roots};
use super::x509::Certificate;
use super::{Outcome, Policy, Reason, Rung, Verdict};
use specimen::Specimen;
use std::collections::{BTreeMap, BTreeSet};

/// Reasons that the judge itself never gives, and why.
const ELSEWHERE: [(Reason, &str); 2] = [
    (Reason::UnsignedLegacy, "given for records of old versions, which are no evidence"),
    (Reason::KeyChanged, "given where a session's key is compared with the pinned one, before any evidence is asked for"),
];

/// What a verifier knows and asks, owned.
struct Setting {
    policy: Policy,
    snp_roots: Vec<Roots>,
    snp_certificates: Option<Certificates>,
    tpm_roots: Vec<Certificate>,
    tpm_keys: Vec<Vec<u8>>,
    wanted: Vec<Wanted>,
    asked: Asked,
    answer: Answer,
    now: u64,
}

impl Setting {
    fn judge(&self, shown: Option<&[u8]>) -> Verdict {
        let case = Case {
            snp_crl: None,
            policy: &self.policy,
            snp_roots: &self.snp_roots,
            snp_certificates: self.snp_certificates.as_ref(),
            tpm_roots: &self.tpm_roots,
            tpm_keys: &self.tpm_keys,
            wanted: &self.wanted,
            asked: self.asked,
            answer: &self.answer,
            now: self.now,
        };
        judge(shown, &case)
    }
}

/// What a piece must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Come(Outcome, Rung, Option<Reason>);

impl Come {
    fn of(verdict: &Verdict) -> Come {
        Come(verdict.outcome, verdict.rung, verdict.reason())
    }

    /// Nobody pinned a key, so that nothing is left if the evidence proves nothing.
    fn unbound(self) -> Come {
        Come(self.0, if self.1 == Rung::PinnedKey { Rung::Nothing } else { self.1 }, self.2)
    }
}

/// Verified, and nothing is missing.
fn yes(rung: Rung) -> Come {
    Come(Outcome::Verified, rung, None)
}

/// Verified, though a part is missing.
fn yes_but(rung: Rung, reason: Reason) -> Come {
    Come(Outcome::Verified, rung, Some(reason))
}

/// Refused; what is left is the pinned key.
fn no(reason: Reason) -> Come {
    Come(Outcome::Refused, Rung::PinnedKey, Some(reason))
}

/// Neither: a part is missing, and nothing speaks against the node.
fn gap(reason: Reason) -> Come {
    Come(Outcome::Unverified, Rung::PinnedKey, Some(reason))
}

/// Proved, and less than was demanded.
fn weak(rung: Rung, reason: Reason) -> Come {
    Come(Outcome::Refused, rung, Some(reason))
}

/// One piece of evidence.
struct Entry {
    name: String,
    shown: Option<Vec<u8>>,
    setting: Setting,
    come: Come,
}

impl Entry {
    fn judge(&self) -> Verdict {
        self.setting.judge(self.shown.as_deref())
    }
}

fn row(name: impl Into<String>, specimen: Specimen, come: Come) -> Entry {
    let (shown, setting) = specimen.build();
    Entry { name: name.into(), shown, setting, come }
}

/// The whole zoo.
fn zoo() -> Vec<Entry> {
    [snp::table(), tpm::table(), whole::table()].into_iter().flatten().collect()
}

/// The entries that do not come to what they must.
fn differing(entries: &[Entry]) -> Vec<String> {
    let differs = |entry: &Entry| {
        let verdict = entry.judge();
        let found = Come::of(&verdict);
        (found != entry.come).then(|| format!("{}: wanted {:?}, found {found:?} {:?}", entry.name, entry.come, verdict.faults))
    };
    entries.iter().filter_map(differs).collect()
}

#[test]
fn the_zoo_comes_to_what_it_must() {
    let wrong = differing(&zoo());
    assert!(wrong.is_empty(), "{} entries differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_zoo_is_large_and_every_piece_has_a_name() {
    let zoo = zoo();
    let names: BTreeSet<&str> = zoo.iter().map(|entry| entry.name.as_str()).collect();
    println!("{} entries", zoo.len());
    assert!(zoo.len() >= 150, "{}", zoo.len());
    assert_eq!(names.len(), zoo.len(), "a name is there twice");
}

#[test]
fn every_reason_is_given_by_some_piece() {
    let mut given: BTreeMap<Reason, usize> = BTreeMap::new();
    zoo().iter().filter_map(|entry| entry.come.2).for_each(|reason| *given.entry(reason).or_default() += 1);
    println!("{given:?}");
    for reason in Reason::ALL {
        let elsewhere = ELSEWHERE.iter().any(|(other, _)| *other == reason);
        assert_ne!(given.contains_key(&reason), elsewhere, "{reason}");
    }
}

#[test]
fn a_refused_piece_vouches_for_nothing_and_a_verified_one_says_on_what_it_rests() {
    for entry in zoo() {
        let verdict = entry.judge();
        match verdict.outcome {
            Outcome::Verified => assert!(verdict.rung >= Rung::GenuineChip && verdict.kind != "none", "{}", entry.name),
            Outcome::Refused if verdict.rung < Rung::GenuineChip => assert!(!verdict.faults.is_empty(), "{}", entry.name),
            Outcome::Refused | Outcome::Unverified => assert!(verdict.reason().is_some(), "{}", entry.name),
        }
        // A refusal for anything but a demand leaves no value that somebody might take for proved.
        if verdict.outcome == Outcome::Refused
            && verdict.faults.iter().any(|fault| !fault.reason.is_gap() && fault.reason != Reason::ProofTooWeak)
        {
            assert_eq!((verdict.image, verdict.measurement, verdict.endorsement.as_ref()), (None, None, None), "{}", entry.name);
        }
    }
}

//! Bytes of verified evidence are changed at random: no mutant stands higher than its original, and one that stands as high differs
//! only where no proof looks.
//!
//! Which bytes are changed is decided by a fixed seed; keys and signatures are new in each process, so the bytes themselves differ.
//! `PD_ZOO_MUTATIONS` says how many there are.

use super::{Entry, Setting, zoo};
use crate::attest::eventlog::{Event, parse};
use crate::attest::evidence::{Evidence, SnpEvidence, TpmEvidence};
use crate::attest::judge::{Answer, Asked};
use crate::attest::snp::{Certificates, Chain, Report, SigningKey};
use crate::attest::{Outcome, Verdict};
use crate::session::seed::Source;
use std::collections::BTreeMap;

const USUAL: usize = 20_000;
const SEED: u64 = 0x706f_7274_6469_7374;
/// Mutants are split among so many threads.
const THREADS: usize = 2;

/// SplitMix64: the same numbers from the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// One change of one byte: a bit, a value, one more, one less; now and then the rest is cut off.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    let at = numbers.below(bytes.len());
    match numbers.below(16) {
        _ if bytes.is_empty() => bytes.push(numbers.byte()),
        0..8 => bytes[at] ^= 1 << numbers.below(8),
        8..12 => bytes[at] = numbers.byte(),
        12..14 => bytes.insert(at, numbers.byte()),
        14 => drop(bytes.drain(at..=at)),
        _ => bytes.truncate(at),
    }
}

/// The same in a field of fixed size.
fn flip(bytes: &mut [u8], numbers: &mut Numbers) {
    bytes[numbers.below(bytes.len())] ^= 1 << numbers.below(8);
}

/// A change inside one field, so that what is around it still can be read.
fn mutate_field(evidence: &mut Evidence, numbers: &mut Numbers) {
    let mut fields: Vec<&mut Vec<u8>> = Vec::new();
    if let Some(SnpEvidence { report, certificates }) = &mut evidence.snp {
        fields.extend([report, certificates]);
    }
    if let Some(tpm) = &mut evidence.tpm {
        let TpmEvidence { attest, signature, ak_public, ek_public, ek_certificate, ak_certificate, event_log, pcrs } = tpm;
        if numbers.below(8) == 0 {
            let place = numbers.below(pcrs.len());
            return flip(pcrs.values_mut().nth(place).unwrap(), numbers);
        }
        fields.extend([attest, signature, ak_public, ek_public, event_log]);
        fields.extend(ek_certificate.as_mut());
        fields.extend(ak_certificate.as_mut());
    }
    match numbers.below(16) {
        0 => flip(&mut evidence.nonce.0, numbers),
        1 => flip(&mut evidence.app_digest, numbers),
        2 => evidence.seed = [None, Some(Source::Sealed), Some(Source::Measured)][numbers.below(3)],
        _ => {
            let place = numbers.below(fields.len());
            mutate(fields[place], numbers);
        }
    }
}

fn mutant(original: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    if numbers.below(4) == 0 {
        let mut bytes = original.to_vec();
        mutate(&mut bytes, numbers);
        return bytes;
    }
    let mut evidence = Evidence::decode(original).unwrap();
    mutate_field(&mut evidence, numbers);
    evidence.encode()
}

/// The certificates that a proof rests on: leaf, intermediate and root.
fn chain(snp: &SnpEvidence, setting: &Setting) -> Option<[Vec<u8>; 3]> {
    let certificates = Certificates::from_table(&snp.certificates).ok()?;
    let certificates = match Report::parse(&snp.report).ok()?.key_info.signing_key {
        SigningKey::Vcek => certificates.only(crate::attest::snp::Endorsement::Vcek),
        _ => certificates.only(crate::attest::snp::Endorsement::Vlek),
    };
    let mut chains = setting.snp_roots.iter().filter_map(|roots| Chain::verify(&certificates, roots, None, Some(setting.now)).ok());
    chains.next().map(|chain| chain.certificates().clone().map(|certificate| certificate.der().to_vec()))
}

/// What a log says that the TPM vouches for.
fn signed(tpm: &TpmEvidence) -> Vec<(u8, [u8; 32])> {
    let counts = |event: &Event| event.is_extended() && tpm.pcrs.contains_key(&event.pcr);
    parse(&tpm.event_log).unwrap().iter().filter(|event| counts(event)).map(|event| (event.pcr, event.sha256)).collect()
}

/// Where no proof of the mutant's verdict looks, of the places that differ; an error names one where some proof must.
///
/// | place | why no proof looks there |
/// | --- | --- |
/// | nonce and program, where nobody is pinned | a saved report speaks for no connection |
/// | a report that is told as a gap | it proves nothing |
/// | the host's table, outside leaf and ASK or ASVK | a root that comes along is not looked at, nor are unknown entries |
/// | certificates in the evidence, where they were given | the given ones count |
/// | the endorsement key, where the other key is certified or the TPM was not asked | nobody uses it |
/// | its certificate, where there are no roots too | nobody can judge it |
/// | certificates of the TPM's keys, where the provider names the key itself | the key counts |
/// | words and types in the log, digests of other algorithms, registers that were not signed | see `eventlog` |
fn free(old: &Evidence, new: &Evidence, verdict: &Verdict, setting: &Setting) -> Result<Vec<&'static str>, &'static str> {
    let mut places = Vec::new();
    let mut look = |name: &'static str, same: bool, free: bool| match (same, free) {
        (true, _) => Ok(()),
        (false, true) => {
            places.push(name);
            Ok(())
        }
        (false, false) => Err(name),
    };
    let nobody = setting.asked == Asked::Nobody;
    look("nonce", old.nonce == new.nonce, nobody)?;
    look("program", old.app_digest == new.app_digest, nobody)?;
    look("seed", old.seed == new.seed, nobody)?;
    look("kind", old.kind() == new.kind(), false)?;
    if let (Some(old), Some(new)) = (&old.snp, &new.snp) {
        let gap = verdict.measurement.is_none();
        look("report", old.report == new.report, gap)?;
        let same_chain = || chain(old, setting).is_some() && chain(old, setting) == chain(new, setting);
        let free = gap || setting.snp_certificates.is_some() || same_chain();
        look("table", old.certificates == new.certificates, free)?;
    }
    if let (Some(old), Some(new)) = (&old.tpm, &new.tpm) {
        look("quote", old.attest == new.attest, false)?;
        look("signature", old.signature == new.signature, false)?;
        look("key", old.ak_public == new.ak_public, false)?;
        look("registers", old.pcrs == new.pcrs, false)?;
        let unused = old.ak_certificate.is_some() || !matches!(setting.answer, Answer::Right(_));
        let named = !setting.tpm_keys.is_empty();
        look("ek", old.ek_public == new.ek_public, unused)?;
        look("ek certificate", old.ek_certificate == new.ek_certificate, unused || named || setting.tpm_roots.is_empty())?;
        let both = old.ak_certificate.is_some() && new.ak_certificate.is_some();
        look("ak certificate", old.ak_certificate == new.ak_certificate, named && both)?;
        look("log", old.event_log == new.event_log, signed(old) == signed(new))?;
    }
    Ok(places)
}

/// Whether the mutant proves the same, or less and says so: a byte that nobody signed yet can make a report one of the future, of which
/// nothing is known; beside a quote that is a gap, as if there were no report.
fn proves_no_more(mutant: &Verdict, original: &Verdict) -> bool {
    let same_tpm = (mutant.image, &mutant.endorsement) == (original.image, &original.endorsement);
    let same_chip = (mutant.measurement, &mutant.vouched_by) == (original.measurement, &original.vouched_by);
    same_tpm && (same_chip || (mutant.measurement.is_none() && mutant.reason().is_some()))
}

/// Judges one mutant; the places where it differs if it stands as high as its original.
fn judge_mutant(entry: &Entry, original: &Verdict, numbers: &mut Numbers) -> Vec<&'static str> {
    let shown = entry.shown.as_deref().unwrap();
    let bytes = mutant(shown, numbers);
    let verdict = entry.setting.judge(Some(&bytes));
    let name = &entry.name;
    assert!(verdict.rung <= original.rung, "{name}: {} rose to {}", original.rung, verdict.rung);
    if verdict.outcome != Outcome::Verified || verdict.rung < original.rung || bytes == shown {
        return Vec::new();
    }
    assert!(proves_no_more(&verdict, original), "{name}: found {verdict:?}, wanted {original:?}");
    let (old, new) = (Evidence::decode(shown).unwrap(), Evidence::decode(&bytes).unwrap());
    match free(&old, &new, &verdict, &entry.setting) {
        Ok(places) => places,
        Err(place) => panic!("{name}: another {place} is verified: {:?}", verdict.faults),
    }
}

fn how_many() -> usize {
    std::env::var("PD_ZOO_MUTATIONS").map_or(USUAL, |number| number.parse().unwrap())
}

#[test]
fn no_mutant_stands_higher_than_its_original() {
    let verified: Vec<(Entry, Verdict)> = zoo()
        .into_iter()
        .map(|entry| {
            let verdict = entry.judge();
            (entry, verdict)
        })
        .filter(|(_, verdict)| verdict.outcome == Outcome::Verified)
        .collect();
    let total = how_many();
    let share = |thread: usize| {
        let mut numbers = Numbers(SEED + thread as u64);
        let mut unnoticed: BTreeMap<&str, usize> = BTreeMap::new();
        for index in (thread..total).step_by(THREADS) {
            let (entry, original) = &verified[index % verified.len()];
            judge_mutant(entry, original, &mut numbers).into_iter().for_each(|place| *unnoticed.entry(place).or_default() += 1);
        }
        unnoticed
    };
    let found: Vec<BTreeMap<&str, usize>> = std::thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || share(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("{total} mutants of {} verified pieces; as high as before, by place: {found:?}", verified.len());
}

/// Finds one part.
type Part = fn(&mut Evidence) -> &mut Vec<u8>;

/// Every bit of the quote of one piece, with its keys and registers, in order: none is of no account.
#[test]
fn every_bit_of_what_hardware_signed_counts() {
    let zoo = zoo();
    let entry = zoo.iter().find(|entry| entry.name == "both: good, the firmware is named").unwrap();
    let original = Evidence::decode(entry.shown.as_deref().unwrap()).unwrap();
    let check = |evidence: Evidence, what: &str, bit: usize| {
        let verdict = entry.setting.judge(Some(&evidence.encode()));
        assert!(verdict.outcome != Outcome::Verified || verdict.rung < entry.come.1, "bit {bit} of {what}");
    };
    let parts: [(&str, Part); 5] = [
        ("the quote", |evidence| &mut evidence.tpm.as_mut().unwrap().attest),
        ("its signature", |evidence| &mut evidence.tpm.as_mut().unwrap().signature),
        ("the key", |evidence| &mut evidence.tpm.as_mut().unwrap().ak_public),
        ("the endorsement key", |evidence| &mut evidence.tpm.as_mut().unwrap().ek_public),
        ("its certificate", |evidence| evidence.tpm.as_mut().unwrap().ek_certificate.as_mut().unwrap()),
    ];
    for (what, part) in parts {
        for bit in 0..8 * part(&mut original.clone()).len() {
            let mut evidence = original.clone();
            part(&mut evidence)[bit / 8] ^= 1 << (bit % 8);
            check(evidence, what, bit);
        }
    }
    for bit in 0..6 * 256 {
        let mut evidence = original.clone();
        evidence.tpm.as_mut().unwrap().pcrs.values_mut().nth(bit / 256).unwrap()[bit % 256 / 8] ^= 1 << (bit % 8);
        check(evidence, "the registers", bit);
    }
}

/// The same of a report alone.
#[test]
fn every_bit_of_a_report_counts() {
    let zoo = zoo();
    let entry = zoo.iter().find(|entry| entry.name == "snp: Turin VCEK version 5, named as image").unwrap();
    let original = Evidence::decode(entry.shown.as_deref().unwrap()).unwrap();
    for bit in 0..8 * original.snp.as_ref().unwrap().report.len() {
        let mut evidence = original.clone();
        evidence.snp.as_mut().unwrap().report[bit / 8] ^= 1 << (bit % 8);
        let verdict = entry.setting.judge(Some(&evidence.encode()));
        assert_ne!(verdict.outcome, Outcome::Verified, "bit {bit}");
    }
}

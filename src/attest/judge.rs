//! The one path from evidence to a verdict: every check in order, none left to the caller.

use super::eventlog;
use super::eventlog::image::{Expected, compare};
use super::evidence::{Evidence, Nonce, SnpEvidence, Subject, TpmEvidence};
use super::fault::{Fault, Reason};
use super::policy::Policy;
use super::snp::{self, Certificates, Chain, Endorsement, Genuine, Report, Root, SigningKey};
use super::tpm::credential::{ek_matches_certificate, make_credential};
use super::tpm::public::Public;
use super::tpm::quote::{Quoted, verify};
use super::verdict::{Finding, Outcome, Rung, Verdict};
use super::x509::{Certificate, Crl};
use crate::encoding::hex;
use sha2::{Digest, Sha256};

/// Label of the digest that a grant demands where the owner vouches for one TPM.
const DEMAND: &[u8] = b"portdistrict demand v1";
/// The registers that say which image was started: the boot program as a whole (4) and its parts (11).
const NEEDED: [u8; 2] = [4, 11];
/// What the firmware says of Secure Boot.
const SECURE_BOOT: u8 = 7;
/// Evidence may be from so far in the future; clocks differ.
const CLOCKS_DIFFER: u64 = 300;

/// To what the evidence must be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To the key of the node that showed it, in answer to a nonce.
    Nonce([u8; 32], [u8; 32]),
    /// To the key of the node that showed it; it was made before.
    Node([u8; 32]),
    /// A report from a file: nobody knows to what it should be bound, and nobody relies on a session with its maker.
    Nobody,
}

impl Asked {
    fn node(self) -> Option<[u8; 32]> {
        match self {
            Asked::Nonce(node, _) | Asked::Node(node) => Some(node),
            Asked::Nobody => None,
        }
    }
}

/// What image or measurement is the right one.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// An image with all its parts, so that a change can be named.
    Image(Box<Expected>),
    /// A launch measurement that covers a whole image.
    ImageMeasurement([u8; 48]),
    /// A launch measurement that covers firmware alone.
    FirmwareMeasurement([u8; 48]),
    /// What a grant demands: see [`demands`].
    Demand([u8; 20]),
}

/// Whom a verifier trusts, and when and what it asks.
pub struct Case<'a> {
    /// The rules.
    pub policy: &'a Policy,
    /// AMD's roots, and others after them where some were given.
    pub snp_roots: &'a [snp::Roots],
    /// Certificates of the chip from somewhere else than the evidence.
    pub snp_certificates: Option<&'a Certificates>,
    /// A current list of the certificates that AMD took back; without one, only a list that came with the evidence is used.
    pub snp_crl: Option<&'a Crl>,
    /// Roots of TPMs, and who gave them.
    pub tpm_roots: &'a [Certificate],
    /// Keys of the machine's TPM that its provider names (SubjectPublicKeyInfo in DER), told by another way than the evidence.
    pub tpm_keys: &'a [Vec<u8>],
    /// What is right.
    pub wanted: &'a [Wanted],
    /// To what it must be bound.
    pub asked: Asked,
    /// How the TPM answered this verifier's challenge.
    pub answer: &'a Answer,
    /// Unix seconds.
    pub now: u64,
}

/// An attestation key that was shown, by a challenge that its verifier made, to live beside an endorsement key in one TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activated {
    ak: Vec<u8>,
    ek: Vec<u8>,
}

/// How a TPM answered a challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nobody challenged it.
    #[default]
    NotAsked,
    /// It could not open the challenge.
    Wrong,
    /// It could: these keys live in one TPM.
    Right(Activated),
}

impl Answer {
    /// The right answer to a challenge about this evidence, which its verifier remembers to have seen.
    pub fn remembered(shown: &[u8]) -> Option<Answer> {
        let shown = Evidence::decode(shown).ok()?.tpm?;
        let (ak, ek) = (Public::parse(&shown.ak_public).ok()?, Public::parse(&shown.ek_public).ok()?);
        Some(Answer::Right(Activated { ak: ak.name(), ek: ek.name() }))
    }
}

/// A challenge that was made and not answered yet.
pub struct Challenge {
    secret: zeroize::Zeroizing<[u8; 32]>,
    keys: Activated,
}

impl Challenge {
    /// For the TPM in this evidence; none if there is none, or if its key has a certificate of its own.
    pub fn make(
        evidence: &Evidence,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Option<(Challenge, crate::session::messages::Activation)>, Fault> {
        let Some(shown) = evidence.tpm.as_ref().filter(|tpm| tpm.ak_certificate.is_none()) else { return Ok(None) };
        let (ak, ek) = (Public::parse(&shown.ak_public)?, Public::parse(&shown.ek_public)?);
        let keys = Activated { ak: ak.name(), ek: ek.name() };
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        random(&mut *secret);
        let made = make_credential(&ek, &keys.ak, &secret, random)?;
        let activation =
            crate::session::messages::Activation { credential_blob: made.credential_blob, encrypted_secret: made.encrypted_secret };
        Ok(Some((Challenge { secret, keys }, activation)))
    }

    /// What an answer proves.
    pub fn answered(self, secret: &[u8]) -> Answer {
        use subtle::ConstantTimeEq;
        if bool::from(self.secret.ct_eq(secret)) { Answer::Right(self.keys) } else { Answer::Wrong }
    }
}

/// The digests that a grant may demand of evidence in this verdict: the image alone, where somebody known vouches for the TPM or
/// the hardware; the image and the very TPM, where the owner of the node does.
pub fn demands(image: &[u8; 32], endorsement: Option<&[u8]>) -> [u8; 20] {
    let digest: [u8; 32] = match endorsement {
        None => *image,
        Some(name) => Sha256::new_with_prefix(DEMAND).chain_update(image).chain_update(name).finalize().into(),
    };
    digest.first_chunk().copied().unwrap_or_default()
}

/// Who vouches for a TPM whose key was told by those who run the machine.
const PROVIDER: &str = "the machine's provider, which names this key";

/// What was shown, or that nothing was, judged by all rules.
pub fn judge(shown: Option<&[u8]>, case: &Case<'_>) -> Verdict {
    let pinned = case.asked.node().is_some();
    let Some(bytes) = shown else { return Verdict::none(pinned).demanding(case.policy.demand) };
    let mut work = Work { case, verdict: Verdict::none(pinned), top: Rung::Nothing, met: false };
    work.verdict.faults.clear();
    work.verdict.evidence = Sha256::digest(bytes).into();
    match Evidence::decode(bytes) {
        Err(error) => work.fault(Fault::new(Reason::Malformed, format!("the evidence cannot be read: {error}"))),
        Ok(evidence) => work.judge(&evidence),
    }
    work.finish()
}

/// A verdict that is being made.
struct Work<'a> {
    case: &'a Case<'a>,
    verdict: Verdict,
    /// The highest rung that was proved.
    top: Rung,
    /// Whether a grant's demand was met by the launch measurement.
    met: bool,
}

impl Work<'_> {
    fn fault(&mut self, fault: Fault) {
        self.verdict.faults.push(fault);
    }

    /// Notes a rule, and a fault if it does not hold.
    fn rule(&mut self, rule: &str, found: impl Into<String>, wanted: impl Into<String>, holds: bool, reason: Reason) -> bool {
        let finding = Finding { rule: rule.to_owned(), found: found.into(), wanted: wanted.into(), holds: Some(holds) };
        if !holds {
            self.fault(Fault::new(reason, format!("{rule}: found {}, wanted {}", finding.found, finding.wanted)));
        }
        self.verdict.findings.push(finding);
        holds
    }

    /// Notes the result of a check that has words of its own.
    fn check<T>(&mut self, rule: &str, wanted: &str, result: Result<T, Fault>) -> Option<T> {
        let (found, holds) = match &result {
            Ok(_) => (wanted.to_owned(), true),
            Err(fault) => (fault.sentence.clone(), false),
        };
        self.verdict.findings.push(Finding { rule: rule.to_owned(), found, wanted: wanted.to_owned(), holds: Some(holds) });
        result.map_err(|fault| self.fault(fault)).ok()
    }

    fn note(&mut self, rule: &str, found: impl Into<String>) {
        self.verdict.findings.push(Finding { rule: rule.to_owned(), found: found.into(), wanted: String::new(), holds: None });
    }

    fn judge(&mut self, evidence: &Evidence) {
        self.verdict.kind = evidence.kind();
        if evidence.snp.is_none() && evidence.tpm.is_none() {
            return self.fault(Fault::new(Reason::NoEvidence, "the node's hardware signed nothing"));
        }
        self.question(evidence);
        let subject = self.case.asked.node().map(|node| Subject {
            node,
            app_digest: evidence.app_digest,
            nonce: evidence.nonce,
            seed: evidence.seed,
        });
        if let Some(snp) = &evidence.snp {
            self.snp(snp, subject.as_ref());
        }
        if let Some(tpm) = &evidence.tpm {
            self.tpm(tpm, subject.as_ref());
        }
        if let Some(seed) = evidence.seed.filter(|_| subject.is_some() && self.top >= Rung::GenuineChip) {
            self.note("its key comes from", format!("{seed}: known to {}", seed.known_to()));
        }
    }

    /// Whether it answers what was asked, and how old it is.
    fn question(&mut self, evidence: &Evidence) {
        let (now, limit) = (self.case.now, self.case.policy.max_age);
        match (self.case.asked, evidence.nonce.time()) {
            (Asked::Nonce(_, nonce), _) => {
                let same = evidence.nonce == Nonce(nonce);
                self.rule(
                    "answers this question",
                    hex(&evidence.nonce.0[..8]) + "…",
                    hex(&nonce[..8]) + "…",
                    same,
                    Reason::BindingMismatch,
                );
            }
            (Asked::Node(_), None) => {
                self.fault(Fault::new(Reason::Stale, "the evidence answers a question that somebody else asked, nobody knows when"));
            }
            (Asked::Node(_), Some(made)) => {
                let age = now.saturating_sub(made);
                let wanted = limit.map_or("any age".to_owned(), |limit| format!("at most {limit} s"));
                let holds = limit.is_none_or(|limit| age <= limit) && made <= now.saturating_add(CLOCKS_DIFFER);
                self.rule("age", format!("{age} s"), wanted, holds, Reason::Stale);
            }
            (Asked::Nobody, _) => self.note("bound to", "not asked: a saved report speaks for no connection"),
        }
    }

    /// What was named must have been compared with something.
    fn named(&mut self) {
        let policy = self.case.policy;
        let image = policy.must.image || !policy.tpm.images.is_empty() || !policy.snp.images.is_empty();
        if image && self.top < Rung::ImageByTpm {
            self.fault(Fault::new(Reason::ProofTooWeak, "an image was named, and nothing in the evidence proves which one was started"));
        }
        let demanded = self.case.wanted.iter().any(|one| matches!(one, Wanted::Demand(_)));
        if demanded && !self.met && self.top > Rung::Nothing {
            let reason = if self.verdict.image.is_some() { Reason::ImageMismatch } else { Reason::ProofTooWeak };
            self.fault(Fault::new(reason, "nothing that the evidence proves has the digest that is demanded"));
        }
        if policy.must.measurement && self.verdict.measurement.is_none() {
            self.fault(Fault::new(Reason::MeasurementMismatch, "a launch measurement was named, and the evidence has none"));
        }
    }

    fn finish(mut self) -> Verdict {
        if self.verdict.faults.iter().all(|fault| fault.reason.is_gap()) {
            self.named();
        }
        let refused = self.verdict.faults.iter().any(|fault| !fault.reason.is_gap());
        if self.top > self.verdict.rung && !refused {
            self.verdict.rung = self.top;
        }
        if refused {
            self.verdict.outcome = Outcome::Refused;
            (self.verdict.image, self.verdict.measurement, self.verdict.endorsement) = (None, None, None);
        } else if self.top >= Rung::GenuineChip {
            // A gap beside a proof is told, and lowers nothing.
            self.verdict.outcome = Outcome::Verified;
        }
        self.verdict.demanding(self.case.policy.demand)
    }
}

/// Rules about SEV-SNP.
impl Work<'_> {
    fn snp(&mut self, shown: &SnpEvidence, subject: Option<&Subject>) {
        let Some(genuine) = self.check("signed by a genuine AMD chip", "yes", self.genuine(shown)) else { return };
        if let Some(subject) = subject {
            let bound = genuine.report().report_data == subject.report_data();
            let found = if bound { "bound to its key" } else { "made for another key, program or question" };
            if !self.rule("report data", found, "bound to its key", bound, Reason::BindingMismatch) {
                return;
            }
        }
        let before = self.verdict.faults.len();
        self.snp_rules(&genuine);
        if self.verdict.faults.len() > before {
            return;
        }
        let measurement = genuine.report().measurement;
        self.verdict.measurement = Some(measurement);
        self.verdict.vouched_by = Some(match genuine.root() {
            Root::Amd(product) => format!("AMD ({product})"),
            Root::Given => "a root that you named, which is not AMD's".to_owned(),
        });
        self.top = self.top.max(Rung::GenuineChip);
        self.measured(&measurement);
    }

    fn genuine(&self, shown: &SnpEvidence) -> Result<Genuine, Fault> {
        let report = Report::parse(&shown.report)?;
        let certificates = match self.case.snp_certificates {
            Some(certificates) => certificates.clone(),
            None if shown.certificates.is_empty() => {
                return Err(Fault::new(Reason::CertificateMissing, "the host gave no certificate of the chip's key with the report"));
            }
            None => Certificates::from_table(&shown.certificates)?,
        };
        let certificates = match report.key_info.signing_key {
            SigningKey::Vcek => certificates.only(Endorsement::Vcek),
            SigningKey::Vlek => certificates.only(Endorsement::Vlek),
            _ => certificates,
        };
        // Roots that were named beside AMD's have their turn when AMD's do not lead there; what speaks against the last is told.
        let mut chain = Err(Fault::new(Reason::VerifierUnavailable, "no root is trusted"));
        for roots in self.case.snp_roots {
            chain = chain.or_else(|_| Chain::verify(&certificates, roots, self.case.snp_crl, Some(self.case.now)));
        }
        chain?.check(&shown.report)
    }

    /// The policy's rules about a genuine report; a fault for each that does not hold.
    fn snp_rules(&mut self, genuine: &Genuine) {
        let (rules, report) = (&self.case.policy.snp, genuine.report());
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        let product = genuine.product().as_str();
        let known = rules.products.iter().any(|name| name.eq_ignore_ascii_case(product));
        self.rule("product", product, rules.products.join(", "), known, Reason::PlatformNotAllowed);
        let debug = report.policy.debug_allowed();
        self.rule("the host may read its memory", yes(debug), allowed(rules.debug), rules.debug || !debug, Reason::DebugEnabled);
        let migrates = report.policy.migration_agent_allowed();
        self.rule("it may be moved away", yes(migrates), allowed(rules.migration), rules.migration || !migrates, Reason::MigrationAllowed);
        let level = report.vmpl <= rules.vmpl;
        self.rule("privilege level", report.vmpl.to_string(), format!("at most {}", rules.vmpl), level, Reason::VmplNotAllowed);
        let smt = report.policy.smt_allowed() || report.platform_info.smt_enabled();
        self.rule("shares processor cores", yes(smt), allowed(rules.smt), rules.smt || !smt, Reason::SmtEnabled);
        if rules.single_socket {
            let single = report.policy.single_socket_required();
            self.rule("one socket", yes(single), "yes", single, Reason::PlatformNotAllowed);
        }
        if rules.alias_check {
            let checked = report.platform_info.alias_check_complete();
            self.rule("memory checked for aliases", yes(checked), "yes", checked, Reason::PlatformNotAllowed);
        }
        for (rule, found, wanted) in
            [("identity key", report.id_key_digest, &rules.id_keys), ("author key", report.author_key_digest, &rules.author_keys)]
        {
            if !wanted.is_empty() {
                let known = wanted.iter().any(|key| key.0 == found);
                let named: Vec<String> = wanted.iter().map(|key| hex(&key.0)).collect();
                self.rule(rule, hex(&found), named.join(" or "), known, Reason::LaunchKeyMismatch);
            }
        }
        self.tcb(genuine);
    }

    /// The firmware versions that the chip vouches for, part by part: the version that its key was derived from counts.
    fn tcb(&mut self, genuine: &Genuine) {
        for (when, tcb) in [("", genuine.report().reported_tcb), (" at launch", genuine.report().launch_tcb)] {
            match tcb.parts(genuine.product()) {
                Ok(parts) => self.tcb_parts(genuine, when, parts),
                Err(fault) => self.fault(fault),
            }
        }
    }

    fn tcb_parts(&mut self, genuine: &Genuine, when: &str, parts: snp::TcbParts) {
        let product = genuine.product().as_str().to_ascii_lowercase();
        let least = self.case.policy.snp.minimum_tcb.get(&product).cloned().unwrap_or_default();
        let found = [
            ("fmc", parts.fmc),
            ("bootloader", Some(parts.bootloader)),
            ("tee", Some(parts.tee)),
            ("snp", Some(parts.snp)),
            ("microcode", Some(parts.microcode)),
        ];
        for (name, version) in found {
            let rule = format!("firmware version{when} ({name})");
            match (version, least.get(name)) {
                (version, Some(least)) => {
                    let new = version.is_some_and(|version| version >= *least);
                    let found = version.map_or("none".to_owned(), |version| version.to_string());
                    self.rule(&rule, found, format!("at least {least}"), new, Reason::TcbTooOld);
                }
                (Some(version), None) => self.note(&rule, version.to_string()),
                (None, None) => {}
            }
        }
    }

    /// What the launch measurement says, if anybody knows it.
    fn measured(&mut self, found: &[u8; 48]) {
        let policy = &self.case.policy.snp;
        let mut images: Vec<[u8; 48]> = policy.images.iter().map(|image| image.0).collect();
        let mut firmware: Vec<[u8; 48]> = policy.firmware.iter().map(|firmware| firmware.0).collect();
        let mut demanded = false;
        for wanted in self.case.wanted {
            match wanted {
                Wanted::ImageMeasurement(digest) => images.push(*digest),
                Wanted::FirmwareMeasurement(digest) => firmware.push(*digest),
                Wanted::Demand(digest) => demanded |= found.starts_with(digest),
                Wanted::Image(_) => {}
            }
        }
        self.met |= demanded;
        let rung = match () {
            () if images.contains(found) => Rung::ImageByHardware,
            () if firmware.contains(found) || demanded => Rung::ProviderFirmware,
            () if images.is_empty() && firmware.is_empty() => return self.note("launch measurement", hex(found)),
            () => Rung::Nothing,
        };
        let wanted: Vec<String> = images.iter().chain(&firmware).map(|digest| hex(digest)).collect();
        if self.rule("launch measurement", hex(found), wanted.join(" or "), rung > Rung::Nothing, Reason::MeasurementMismatch) {
            self.top = self.top.max(rung);
        }
    }
}

/// Rules about TPMs.
impl Work<'_> {
    fn tpm(&mut self, shown: &TpmEvidence, subject: Option<&Subject>) {
        let Some((quoted, ak)) = self.check("signed by a key that signs only what a TPM measured", "yes", quoted(shown)) else { return };
        if let Some(subject) = subject {
            let bound = quoted.extra_data() == subject.qualifying_data();
            let found = if bound { "bound to its key" } else { "made for another key, program or question" };
            if !self.rule("quote", found, "bound to its key", bound, Reason::BindingMismatch) {
                return;
            }
        }
        let clock = quoted.clock_info();
        self.note("TPM's clock", format!("{} restarts, {} resumes, {} ms", clock.reset_count, clock.restart_count, clock.clock));
        let covered = quoted.covers(&shown.pcrs).and_then(|()| {
            let missing: Vec<String> = NEEDED.iter().filter(|index| !shown.pcrs.contains_key(index)).map(u8::to_string).collect();
            match missing.is_empty() {
                true => Ok(()),
                false => Err(Fault::new(Reason::RegistersMissing, format!("the quote lacks PCR {}", missing.join(" and ")))),
            }
        });
        if self.check("registers are the signed ones", "yes", covered).is_none() {
            return;
        }
        let endorsed = self.endorsed(shown, &ak);
        let Some(image) = self.image(shown) else { return };
        let Some(endorsed) = endorsed else { return };
        self.verdict.image = Some(image);
        if self.demanded(&image, &endorsed) {
            self.top = self.top.max(Rung::ImageByTpm);
        }
    }

    /// Who vouches for the TPM. Its key must be one of the TPM whose endorsement key is certified, or is demanded by name.
    fn endorsed(&mut self, shown: &TpmEvidence, ak: &Public) -> Option<Endorsed> {
        let endorsed = self.endorsement(shown, ak);
        let known = self.check("the key lives in a TPM that somebody vouches for", "yes", endorsed)?;
        if let Some(name) = &known.by {
            self.verdict.vouched_by = Some(name.clone());
        }
        self.verdict.endorsement.clone_from(&known.ek);
        Some(known)
    }

    fn endorsement(&self, shown: &TpmEvidence, ak: &Public) -> Result<Endorsed, Fault> {
        let roots = self.case.tpm_roots;
        let now = Some(self.case.now);
        let named = |key: &Public| self.case.tpm_keys.iter().any(|info| key.matches_spki(info).is_ok());
        if let Some(der) = &shown.ak_certificate {
            if named(ak) {
                return Ok(Endorsed { ek: None, by: Some(PROVIDER.to_owned()) });
            }
            let certificate = Certificate::from_der(der)?;
            let by = led_to(roots, &certificate, now)?;
            ak.matches_spki(&certificate.public_key_info()?)?;
            return Ok(Endorsed { ek: None, by: by.last().map(Certificate::subject) });
        }
        let ek = Public::parse(&shown.ek_public)?;
        match self.case.answer {
            Answer::Right(keys) if keys.ak == ak.name() && keys.ek == ek.name() => {}
            Answer::NotAsked => {
                return Err(Fault::new(
                    Reason::EndorsementMissing,
                    "nobody saw this TPM open a challenge to its endorsement key, so the quote may come from another one",
                ));
            }
            Answer::Right(_) | Answer::Wrong => {
                return Err(Fault::new(
                    Reason::EndorsementInvalid,
                    "the TPM with the endorsement key could not open a challenge for the key that signed: the quote is another TPM's",
                ));
            }
        }
        let name = Some(ek.name());
        if named(&ek) {
            return Ok(Endorsed { ek: name, by: Some(PROVIDER.to_owned()) });
        }
        match &shown.ek_certificate {
            Some(der) if !roots.is_empty() => {
                let certificate = Certificate::from_der(der)?;
                let by = led_to(roots, &certificate, now)?;
                ek_matches_certificate(&ek, &certificate.public_key_info()?)?;
                Ok(Endorsed { ek: name, by: by.last().map(Certificate::subject) })
            }
            // Nobody this verifier knows vouches for it; a demand that names this very TPM may.
            _ => Ok(Endorsed { ek: name, by: None }),
        }
    }

    /// The boot program that was started, as far as log and registers agree.
    fn image(&mut self, shown: &TpmEvidence) -> Option<[u8; 32]> {
        let events = self.check("the firmware's log can be read", "yes", eventlog::parse(&shown.event_log))?;
        if self.case.policy.tpm.secure_boot {
            let on = shown.pcrs.contains_key(&SECURE_BOOT).then(|| eventlog::secure_boot(&events).ok().flatten()).flatten();
            let found = if on == Some(true) { "on" } else { "off" };
            self.rule("Secure Boot", found, "on", on == Some(true), Reason::PlatformNotAllowed);
        }
        let booted = eventlog::booted(&events, &shown.pcrs);
        let whole: Vec<&Expected> =
            self.case.wanted.iter().filter_map(|wanted| if let Wanted::Image(image) = wanted { Some(&**image) } else { None }).collect();
        let same = whole.iter().find(|expected| booted.as_ref() == Ok(&expected.uki_authenticode));
        // A description of the whole image names the part that differs; without one there is only its digest.
        if let Some(expected) = same.or(whole.first()) {
            let compared = compare(&events, &shown.pcrs, expected);
            self.verdict.findings.extend(compared.findings.iter().map(|finding| Finding {
                rule: finding.component.clone(),
                found: finding.found.as_ref().map_or("nothing".to_owned(), ToString::to_string),
                wanted: finding.wanted.as_ref().map_or("nothing".to_owned(), ToString::to_string),
                holds: Some(finding.ok),
            }));
            compared.unchecked.iter().for_each(|sentence| self.note("not checked", sentence.clone()));
            if let Err(fault) = compared.result {
                self.fault(fault);
                return None;
            }
        }
        let image = self.check("one boot program was started, before anything else", "yes", booted)?;
        self.note("image", hex(&image));
        Some(image)
    }

    /// Whether this image is one that is wanted, from a TPM that somebody vouches for.
    fn demanded(&mut self, image: &[u8; 32], endorsed: &Endorsed) -> bool {
        let (vouched, ek) = (endorsed.by.is_some(), endorsed.ek.as_deref());
        let mut wanted: Vec<String> = self.case.policy.tpm.images.iter().map(|image| hex(&image.0)).collect();
        let mut right = self.case.policy.tpm.images.iter().any(|right| right.0 == *image) && vouched;
        for one in self.case.wanted {
            match one {
                Wanted::Image(expected) => {
                    wanted.push(hex(&expected.uki_authenticode));
                    right |= expected.uki_authenticode == *image && vouched;
                }
                Wanted::Demand(digest) => {
                    wanted.push(hex(digest) + "…");
                    let met = demands(image, None) == *digest && vouched;
                    (right, self.met) = (right || met, self.met || met);
                    if ek.is_some_and(|ek| demands(image, Some(ek)) == *digest) {
                        self.verdict.vouched_by = Some("the owner of the node, who knows this TPM".to_owned());
                        (right, self.met) = (true, true);
                    }
                }
                Wanted::ImageMeasurement(_) | Wanted::FirmwareMeasurement(_) => {}
            }
        }
        if wanted.is_empty() {
            self.fault(Fault::new(Reason::ImageNotNamed, format!("the TPM measured image {}; nobody said which one is right", hex(image))));
            return false;
        }
        if right || self.met {
            return right;
        }
        let named = self.case.policy.tpm.images.iter().any(|right| right.0 == *image)
            || self.case.wanted.iter().any(|one| match one {
                Wanted::Image(expected) => expected.uki_authenticode == *image,
                Wanted::Demand(digest) => demands(image, None) == *digest,
                Wanted::ImageMeasurement(_) | Wanted::FirmwareMeasurement(_) => false,
            });
        match named {
            // The right image, by a TPM that nobody vouches for.
            true => self.fault(Fault::new(Reason::ChainInvalid, "nobody who is trusted here vouches for this TPM")),
            false => {
                self.rule("image", hex(image), wanted.join(" or "), false, Reason::ImageMismatch);
            }
        }
        false
    }
}

/// A TPM that was shown to hold the key that signed.
struct Endorsed {
    /// Name of its endorsement key.
    ek: Option<Vec<u8>>,
    /// The root that certified it, if one that is trusted did.
    by: Option<String>,
}

/// The chain from a TPM's certificate to a root. A root of the same name with another key is another root.
fn led_to(roots: &[Certificate], certificate: &Certificate, now: Option<u64>) -> Result<Vec<Certificate>, Fault> {
    super::x509::chain(certificate, &[], roots, now).map_err(|fault| match fault.reason {
        Reason::SignatureInvalid => Fault { reason: Reason::ChainInvalid, ..fault },
        _ => fault,
    })
}

fn allowed(flag: bool) -> &'static str {
    if flag { "yes or no" } else { "no" }
}

fn quoted(shown: &TpmEvidence) -> Result<(Quoted, Public), Fault> {
    let ak = Public::parse(&shown.ak_public)?;
    let quoted = verify(&shown.attest, &shown.signature, &ak)?;
    Ok((quoted, ak))
}

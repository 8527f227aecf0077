//! What a machine must prove: the terms from its deploy, the ledger and the command line; live, at claim, and from files.

use super::known_place;
use super::provider::Expectation;
use crate::attest::judge::{Answer, Asked};
use crate::attest::snp::Certificates;
use crate::attest::{Evidence, Outcome, Policy, Rung, SnpEvidence, Verdict, evidence};
use crate::config::time::now_s;
use crate::config::{Label, fs};
use crate::context::Context;
use crate::encoding::{from_hex_array, hex};
use crate::error::{Code, Error, Result};
use crate::image::Manifest;
use crate::ledger::{B64, Machine, Proof};
use crate::owner::{Control, DEMAND, IMAGE, not_claimed};
use crate::progress::Progress;
use crate::proof::{self, Terms};
use crate::session::messages::MAX_EVIDENCE;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A saved verification: its files.
const SAVED_EVIDENCE: &str = "evidence.cbor";
const SAVED_CONTEXT: &str = "context.json";
const SAVED_IMAGE: &str = "image.json";
const SAVED_POLICY: &str = "policy.toml";
const SAVED_ROOTS: &str = "tpm-roots.pem";
/// Far above what the context of a verification needs.
const MAX_CONTEXT: usize = 64 * 1024;
/// Reports and tables of certificates are a few KiB.
const MAX_REPORT: usize = 64 * 1024;

/// What a person demands of a machine.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Rules in a file.
    pub policy: Option<PathBuf>,
    /// The description of the image that it must run; the one it was deployed with unless given.
    pub image: Option<PathBuf>,
    /// A launch measurement that is right.
    pub measurement: Option<[u8; 48]>,
    /// Roots of its TPM.
    pub tpm_roots: Vec<PathBuf>,
    /// Certificates of chips that were taken back.
    pub crl: Option<PathBuf>,
    /// Accept what is found for right, on first use.
    pub discover: bool,
}

impl Demand {
    /// Whether it demands anything beyond what is recorded.
    pub(super) fn says_something(&self) -> bool {
        self.policy.is_some()
            || self.image.is_some()
            || self.measurement.is_some()
            || !self.tpm_roots.is_empty()
            || self.crl.is_some()
            || self.discover
    }
}

/// A launch measurement: 96 hexadecimal digits, or a file with them.
pub fn measurement(text: &str) -> Result<[u8; 48]> {
    if let Some(digest) = from_hex_array(text) {
        return Ok(digest);
    }
    let bad =
        || Error::new(Code::Usage, format!("{text:?} is no launch measurement")).hint("give 96 hexadecimal digits, or a file with them");
    let bytes = fs::read(Path::new(text), 4096).map_err(|error| bad().because(error.to_string()))?;
    std::str::from_utf8(&bytes).ok().and_then(|text| from_hex_array(text.trim())).ok_or_else(bad)
}

fn manifest(file: &Path) -> Result<Manifest> {
    let file = if file.is_dir() { file.join(SAVED_IMAGE) } else { file.to_owned() };
    Manifest::parse(&file.display().to_string(), &fs::read(&file, Manifest::MAX)?)
}

/// The terms on which a machine is handed anything: what was said at deploy, what it proved before, and what is demanded now.
pub(super) fn terms(cx: &Context, machine: &Machine, demand: &Demand) -> Result<Terms> {
    let mut terms = Terms::load(demand.policy.as_deref())?;
    let expectation = match known_place(cx, machine) {
        Ok((provider, site)) => provider.expectation(&site)?,
        Err(_) => Expectation::default(),
    };
    for root in &expectation.tpm_roots {
        terms.trust_tpm_roots(root, "the machine's own root")?;
    }
    for file in &demand.tpm_roots {
        terms.trust_tpm_root(file)?;
    }
    if let Some(file) = &demand.crl {
        terms.use_revocations(file)?;
    }
    let before = match machine.node_key {
        Some(B64(key)) => cx.ledger()?.proved(&key)?,
        None => None,
    };
    match (&demand.image, &expectation.image) {
        (Some(file), _) => {
            terms.want_image(&manifest(file)?)?;
            terms.must_show_image();
        }
        (None, Some(image)) => {
            deployed_with(machine, image)?;
            terms.want_image(image)?;
        }
        (None, None) => before.iter().for_each(|before| want_again(&mut terms, before)),
    }
    if let Some(digest) = demand.measurement {
        terms.want_measurement(digest);
    }
    let recorded = machine.detail.get(DEMAND).and_then(Value::as_str).and_then(|rung| rung.parse().ok()).unwrap_or(Rung::Nothing);
    let proved = before.and_then(|before| before.rung.parse().ok()).unwrap_or(Rung::Nothing);
    terms.policy.demand = terms.policy.demand.max(recorded).max(proved);
    Ok(terms)
}

/// What was proved, or accepted on first use, is what must be shown again. What was only seen beside a proof is neither: it must
/// not become right by having been seen.
fn want_again(terms: &mut Terms, before: &Proof) {
    let rung = before.rung.parse().unwrap_or(Rung::Nothing);
    let stands = |least: Rung| before.discovered || rung >= least;
    let image: Option<[u8; 32]> = before.image.as_deref().filter(|_| stands(Rung::ImageByTpm)).and_then(from_hex_array);
    if let Some(image) = image {
        terms.want_demand(crate::attest::judge::demands(&image, None));
        let endorsement = before.endorsement.as_deref().and_then(|text| data_encoding::HEXLOWER.decode(text.as_bytes()).ok());
        if let Some(name) = endorsement {
            terms.want_demand(crate::attest::judge::demands(&image, Some(&name)));
        }
    }
    if let Some(digest) = before.measurement.as_deref().filter(|_| stands(Rung::ProviderFirmware)).and_then(from_hex_array) {
        terms.expect_measurement(digest);
    }
}

/// The files in a machine's folder are no authority: the record of its deploy is.
fn deployed_with(machine: &Machine, image: &Manifest) -> Result<()> {
    let recorded = machine.detail.get(IMAGE).and_then(Value::as_str);
    if recorded.is_none_or(|recorded| recorded == image.uki_authenticode) {
        return Ok(());
    }
    Err(Error::new(Code::Refused, format!("the image of machine `{}` is another one than it was deployed with", machine.label))
        .because(format!("recorded {}, found {}", recorded.unwrap_or_default(), image.uki_authenticode))
        .hint(format!("if that is meant, name it: portdistrict machine reconnect {} --image image.json", machine.label)))
}

/// Judges what a machine shows, accepting what is found on first use where that is demanded. True if it was.
pub(super) fn judge(terms: &mut Terms, discover: bool, shown: Option<&[u8]>, asked: Asked, answer: &Answer) -> (Verdict, bool) {
    if !discover || !terms.names_nothing() {
        return (terms.judge(shown, asked, answer), false);
    }
    // What is there to be found, before anything is demanded of it.
    let demand = std::mem::take(&mut terms.policy.demand);
    let verdict = terms.judge(shown, asked, answer);
    terms.policy.demand = demand;
    if verdict.outcome == Outcome::Refused || (verdict.image, verdict.measurement) == (None, None) {
        return (terms.judge(shown, asked, answer), false);
    }
    if let Some(image) = verdict.image {
        terms.want_demand(crate::attest::judge::demands(&image, verdict.endorsement.as_deref()));
        terms.want_demand(crate::attest::judge::demands(&image, None));
    }
    if let Some(digest) = verdict.measurement {
        terms.expect_measurement(digest);
    }
    (terms.judge(shown, asked, answer), true)
}

/// A verification, with what it takes to do it again.
pub struct Attested {
    /// What it came to.
    pub verdict: Verdict,
    /// What was shown.
    pub shown: Option<Vec<u8>>,
    /// To what it was bound.
    context: SavedContext,
    roots: String,
    image: Option<Manifest>,
    policy: Option<PathBuf>,
}

/// What was known when evidence was taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedContext {
    portdistrict_evidence: u32,
    /// The node's key, base64url.
    node: Option<String>,
    /// The nonce that was asked, base64url.
    nonce: Option<String>,
    /// Unix seconds.
    taken_at: u64,
    /// Whether the TPM opened this verifier's challenge then; nobody else can know.
    challenge_opened: bool,
    /// The rung that was demanded.
    demand: Rung,
    /// The launch measurement that was named, hex.
    measurement: Option<String>,
    outcome: String,
    rung: String,
}

/// Asks a claimed machine to prove itself now, and records the verdict.
pub async fn attest(cx: &Context, label: &Label, demand: &Demand, progress: &dyn Progress) -> Result<Attested> {
    let machine = cx.ledger()?.machine(label)?;
    let B64(node) = machine.node_key.ok_or_else(|| not_claimed(label))?;
    let mut terms = terms(cx, &machine, demand)?;
    let step = progress.step("ask the node for its evidence");
    let control = Control::open(cx, &machine).await?;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    let shown = control.evidence(nonce).await?.evidence;
    let lost = |error: std::io::Error| {
        Error::new(Code::Unreachable, format!("machine `{label}` did not answer the challenge to its TPM"))
            .cause(error)
            .hint(format!("portdistrict machine logs {label}"))
    };
    let answer = proof::activate(control.session(), shown.as_deref()).await.map_err(lost)?;
    step.done();
    let (verdict, discovered) = judge(&mut terms, demand.discover, shown.as_deref(), Asked::Nonce(node, nonce), &answer);
    proof::record(cx, label, node, &verdict, discovered)?;
    let expectation = known_place(cx, &machine).and_then(|(provider, site)| provider.expectation(&site)).unwrap_or_default();
    let context = SavedContext {
        portdistrict_evidence: 1,
        node: Some(crate::encoding::base64(&node)),
        nonce: Some(crate::encoding::base64(&nonce)),
        taken_at: now_s(),
        challenge_opened: matches!(answer, Answer::Right(_)),
        demand: terms.policy.demand,
        measurement: demand.measurement.map(|digest| hex(&digest)),
        outcome: verdict.outcome.as_str().to_owned(),
        rung: verdict.rung.as_str().to_owned(),
    };
    let image = match &demand.image {
        Some(file) => Some(manifest(file)?),
        None => expectation.image,
    };
    Ok(Attested { verdict, shown, context, roots: terms.tpm_roots_pem(), image, policy: demand.policy.clone() })
}

impl Attested {
    /// Writes everything that is needed to verify again, in a new folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        use crate::error::Doing;
        std::fs::create_dir(folder).doing("make", folder.display())?;
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).doing("write", folder.join(name).display());
        if let Some(shown) = &self.shown {
            write(SAVED_EVIDENCE, shown)?;
        }
        let context = serde_json::to_vec_pretty(&self.context)
            .map_err(|error| Error::new(Code::Failed, "cannot write down a verification").cause(error).hint("report this"))?;
        write(SAVED_CONTEXT, &context)?;
        if let Some(image) = &self.image {
            write(SAVED_IMAGE, &image.to_json()?)?;
        }
        if !self.roots.is_empty() {
            write(SAVED_ROOTS, self.roots.as_bytes())?;
        }
        match &self.policy {
            Some(file) => write(SAVED_POLICY, &fs::read(file, crate::attest::policy::MAX_POLICY)?),
            None => Ok(()),
        }
    }
}

/// Evidence in files.
pub enum Files {
    /// An SNP report, and certificates beside it.
    Report {
        /// ATTESTATION_REPORT, raw or in hex.
        report: PathBuf,
        /// Certificates, PEM or DER, or the table of an extended report.
        certificates: Vec<PathBuf>,
    },
    /// A folder that [`Attested::save`] made.
    Saved(PathBuf),
}

/// Verifies evidence in files: nothing is asked of anybody.
pub fn attest_files(files: &Files, demand: &Demand) -> Result<Verdict> {
    let mut terms = Terms::load(demand.policy.as_deref())?;
    if let Some(file) = &demand.image {
        terms.want_image(&manifest(file)?)?;
        terms.must_show_image();
    }
    if let Some(digest) = demand.measurement {
        terms.want_measurement(digest);
    }
    for file in &demand.tpm_roots {
        terms.trust_tpm_root(file)?;
    }
    if let Some(file) = &demand.crl {
        terms.use_revocations(file)?;
    }
    match files {
        Files::Report { report, certificates } => {
            let shown = report_evidence(report)?;
            terms.use_certificates(read_certificates(certificates)?);
            Ok(judge(&mut terms, demand.discover, Some(&shown), Asked::Nobody, &Answer::NotAsked).0)
        }
        Files::Saved(folder) => saved(&mut terms, folder, demand),
    }
}

fn report_evidence(report: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(report, MAX_REPORT)?;
    // Tools write it raw or in hex.
    if let Some(raw) = std::str::from_utf8(&bytes).ok().and_then(hex_bytes) {
        bytes = raw;
    }
    let snp = Some(SnpEvidence { report: bytes, certificates: Vec::new() });
    Ok(Evidence { nonce: evidence::Nonce([0; 32]), app_digest: [0; 32], snp, tpm: None, seed: None }.encode())
}

/// Certificates in files, or the table of an extended report.
fn read_certificates(files: &[PathBuf]) -> Result<Certificates> {
    let bytes = files.iter().map(|file| fs::read(file, MAX_REPORT)).collect::<Result<Vec<_>>>()?;
    let read = match bytes.as_slice() {
        [table] => Certificates::from_files([table.as_slice()]).or_else(|fault| Certificates::from_table(table).map_err(|_| fault)),
        several => Certificates::from_files(several.iter().map(Vec::as_slice)),
    };
    read.map_err(|fault| {
        Error::new(Code::Usage, "the certificates cannot be read")
            .because(fault.to_string())
            .hint("name files with certificates, PEM or DER")
    })
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().filter(|bytes| !bytes.is_empty())
}

fn saved(terms: &mut Terms, folder: &Path, demand: &Demand) -> Result<Verdict> {
    let bad = |why: String| {
        Error::new(Code::Usage, format!("{} is no saved verification: {why}", folder.display()))
            .hint("name a folder that `portdistrict machine attest --save` made")
    };
    let context: SavedContext =
        serde_json::from_slice(&fs::read(&folder.join(SAVED_CONTEXT), MAX_CONTEXT)?).map_err(|error| bad(error.to_string()))?;
    if context.portdistrict_evidence != 1 {
        return Err(bad(format!("it has version {}", context.portdistrict_evidence)));
    }
    if demand.policy.is_none() && folder.join(SAVED_POLICY).exists() {
        let text = fs::read(&folder.join(SAVED_POLICY), MAX_CONTEXT)?;
        let policy = Policy::parse(&String::from_utf8_lossy(&text)).map_err(|why| bad(format!("its policy: {why}")))?;
        terms.policy = policy;
    }
    terms.judge_as_of(context.taken_at);
    terms.policy.demand = terms.policy.demand.max(context.demand);
    if let (None, Some(text)) = (demand.measurement, &context.measurement) {
        terms.want_measurement(from_hex_array(text).ok_or_else(|| bad("its launch measurement is none".to_owned()))?);
    }
    if demand.image.is_none() && folder.join(SAVED_IMAGE).exists() {
        terms.want_image(&manifest(folder)?)?;
    }
    if folder.join(SAVED_ROOTS).exists() {
        terms.trust_tpm_root(&folder.join(SAVED_ROOTS))?;
    }
    let key = |text: &Option<String>| text.as_deref().and_then(crate::encoding::from_base64_array::<32>);
    let asked = match (key(&context.node), key(&context.nonce)) {
        (Some(node), Some(nonce)) => Asked::Nonce(node, nonce),
        (Some(node), None) => Asked::Node(node),
        (None, _) => Asked::Nobody,
    };
    let shown = match folder.join(SAVED_EVIDENCE).exists() {
        true => Some(fs::read(&folder.join(SAVED_EVIDENCE), MAX_EVIDENCE)?),
        false => None,
    };
    // Whoever took it saw the challenge opened; from files it is his word.
    let answer = shown.as_deref().filter(|_| context.challenge_opened).and_then(Answer::remembered).unwrap_or_default();
    Ok(judge(terms, demand.discover, shown.as_deref(), asked, &answer).0)
}

/// What to write down of something that was accepted on first use.
pub fn to_record(verdict: &Verdict) -> Vec<String> {
    let image = verdict.image.map(|digest| format!("tpm.images = [\"{}\"]", hex(&digest)));
    let measurement = verdict.measurement.map(|digest| format!("snp.firmware = [\"{}\"]", hex(&digest)));
    image.into_iter().chain(measurement).collect()
}

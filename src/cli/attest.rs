//! `machine attest`: what a machine proves, and how verdicts look wherever they are shown.

use super::Call;
use super::complete;
use super::output::{Look, View, clean, fields, table};
use crate::attest::{Finding, Outcome, Verdict};
use crate::config::Label;
use crate::encoding::hex;
use crate::error::{Code, Error, Result};
use crate::machine::attest::{self, Demand, Files};
use clap::ValueHint;
use serde::Serialize;
use std::path::PathBuf;

/// Have a machine prove what it runs, or verify evidence from files
///
/// A claimed machine is asked now, with a question it has never seen. A report or a saved verification is judged from its files
/// alone: nothing is asked of anybody. Ends with status 4 unless everything was verified.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A machine of yours, rule by rule:\n    portdistrict machine attest vm --explain\n  \
                             Keep everything that it takes to verify again:\n    portdistrict machine attest vm --save proof\n  \
                             Do so:\n    portdistrict machine attest --saved proof\n  \
                             A report from a SEV-SNP machine, against AMD's roots:\n    \
                             portdistrict machine attest --report report.bin --certs vcek.der --certs chain.pem")]
pub(super) struct AttestArgs {
    /// Machine to ask
    #[arg(value_name = "LABEL", add = complete::machines(), required_unless_present_any = ["report", "saved"])]
    label: Option<Label>,
    /// SEV-SNP report to judge, raw or in hex
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["label", "saved"])]
    report: Option<PathBuf>,
    /// Certificates of the report's chip, PEM or DER; may be given several times
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "report")]
    certs: Vec<PathBuf>,
    /// Verification to do again, as --save wrote it
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath, conflicts_with = "label")]
    saved: Option<PathBuf>,
    /// Show every rule, with what was found and what was wanted
    #[arg(long)]
    explain: bool,
    /// Write all that it takes to verify again into a new folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath, requires = "label")]
    save: Option<PathBuf>,
    #[command(flatten)]
    demand: DemandArgs,
}

/// What is demanded of a machine.
#[derive(clap::Args)]
#[command(next_help_heading = "What it must prove")]
pub(super) struct DemandArgs {
    /// Rules for its evidence
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,
    /// Description of the image it must run; the one it was deployed with unless given
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    image: Option<PathBuf>,
    /// Launch measurement it must have: 96 hexadecimal digits, or a file with them
    #[arg(long, value_name = "HEX|FILE", value_hint = ValueHint::FilePath)]
    measurement: Option<String>,
    /// Certificates that vouch for its TPM, PEM or DER; may be given several times
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tpm_root: Vec<PathBuf>,
    /// List of revoked certificates of the chip's product (CRL), DER; it must be current
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    crl: Option<PathBuf>,
    /// Take the image and measurement that are found for the right ones, on first use
    #[arg(long)]
    accept_discovered_measurement: bool,
}

impl DemandArgs {
    pub(super) fn demand(self) -> Result<Demand> {
        Ok(Demand {
            policy: self.policy,
            image: self.image,
            measurement: self.measurement.as_deref().map(attest::measurement).transpose()?,
            tpm_roots: self.tpm_root,
            crl: self.crl,
            discover: self.accept_discovered_measurement,
        })
    }
}

/// A verdict, as it is shown.
#[derive(Serialize)]
pub(super) struct Judged {
    verdict: Outcome,
    rung: &'static str,
    /// The rung in words.
    proved: &'static str,
    /// Whom one must trust who relies on it.
    trust: &'static str,
    vouched_by: Option<String>,
    kind: &'static str,
    reasons: Vec<Reason>,
    image: Option<String>,
    measurement: Option<String>,
    /// SHA-256 of the evidence.
    evidence: String,
    rules: Vec<Finding>,
    /// What to write into a policy, where something was accepted as found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    record: Vec<String>,
    #[serde(skip)]
    explain: bool,
}

/// Why something was not verified.
#[derive(Serialize)]
struct Reason {
    code: &'static str,
    sentence: String,
}

impl Judged {
    pub(super) fn of(verdict: &Verdict, explain: bool) -> Judged {
        Judged {
            verdict: verdict.outcome,
            rung: verdict.rung.as_str(),
            proved: verdict.rung.title(),
            trust: verdict.rung.trust(),
            vouched_by: verdict.vouched_by.clone(),
            kind: verdict.kind,
            reasons: verdict.faults.iter().map(|fault| Reason { code: fault.reason.as_str(), sentence: fault.sentence.clone() }).collect(),
            image: verdict.image.map(|digest| hex(&digest)),
            measurement: verdict.measurement.map(|digest| hex(&digest)),
            evidence: hex(&verdict.evidence),
            rules: verdict.findings.clone(),
            record: Vec::new(),
            explain,
        }
    }
}

impl View for Judged {
    fn text(&self, look: &Look) -> String {
        let verdict = match self.verdict {
            Outcome::Verified => look.good(self.verdict),
            Outcome::Unverified => look.warn(self.verdict),
            Outcome::Refused => look.bad(self.verdict),
        };
        let mut text = fields(&[
            ("verdict", verdict),
            ("proved", format!("{} ({})", self.proved, self.rung)),
            ("you trust", self.trust.to_owned()),
            ("vouched by", self.vouched_by.as_deref().map(clean).unwrap_or_default()),
            ("evidence", self.kind.to_owned()),
            ("image", self.image.clone().unwrap_or_default()),
            ("measurement", self.measurement.clone().unwrap_or_default()),
            ("record", self.record.join("; ")),
        ]);
        for reason in &self.reasons {
            text += &format!("{}  {}\n", look.bad(reason.code), clean(&reason.sentence));
        }
        if self.explain && !self.rules.is_empty() {
            let row = |rule: &Finding| {
                let holds = match rule.holds {
                    Some(true) => look.good("holds"),
                    Some(false) => look.bad("fails"),
                    None => look.dim("seen"),
                };
                vec![holds, clean(&rule.rule), cut(&rule.found), cut(&rule.wanted)]
            };
            text.push('\n');
            text += &table(look, &["RESULT", "RULE", "FOUND", "WANTED"], &self.rules.iter().map(row).collect::<Vec<_>>());
        }
        text
    }
}

/// A value for a table: of a digest its beginning, which is enough to compare by eye; JSON has all of it.
fn cut(text: &str) -> String {
    let is_digest = |word: &&str| word.len() >= 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<String> =
        text.split(' ').map(|word| if is_digest(&word) { format!("{}…", &word[..16]) } else { word.to_owned() }).collect();
    clean(&words.join(" "))
}

/// Runs `machine attest`.
pub(super) fn run(call: &Call, args: AttestArgs) -> Result<()> {
    let discover = args.demand.accept_discovered_measurement;
    let demand = args.demand.demand()?;
    let files = match (args.report, args.saved) {
        (Some(report), _) => Some(Files::Report { report, certificates: args.certs }),
        (None, Some(folder)) => Some(Files::Saved(folder)),
        (None, None) => None,
    };
    let verdict = match (files, &args.label) {
        (Some(files), _) => attest::attest_files(&files, &demand)?,
        (None, Some(label)) => {
            let cx = call.context()?;
            let progress = call.out.progress();
            let attested = call.block_on(attest::attest(&cx, label, &demand, &*progress))?;
            if let Some(folder) = &args.save {
                attested.save(folder)?;
                call.out.say(format!("Saved. Verify it again with: portdistrict machine attest --saved {}", folder.display()));
            }
            attested.verdict
        }
        (None, None) => return Err(Error::new(Code::Usage, "no machine and no file is named").hint("portdistrict machine attest LABEL")),
    };
    let mut judged = Judged::of(&verdict, args.explain);
    if discover && verdict.outcome == Outcome::Verified {
        judged.record = attest::to_record(&verdict);
    }
    call.out.show(&judged)?;
    match verdict.outcome {
        Outcome::Verified => Ok(()),
        outcome => Err(Error::new(Code::Refused, format!("not verified: {outcome}"))
            .because(verdict.faults.first().map_or_else(|| "nothing was proved".to_owned(), ToString::to_string))
            .hint("see each rule with --explain; docs/attestation.md says what it means")),
    }
}

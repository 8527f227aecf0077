//! From what a node shows to a verdict that is recorded: the conversation with its TPM, the rules in files, the ledger.

use crate::attest::eventlog::image::Expected;
use crate::attest::evidence::Evidence;
use crate::attest::judge::{Answer, Asked, Case, Challenge, Wanted, judge};
use crate::attest::policy::MAX_POLICY;
use crate::attest::x509::{Certificate, Crl, MAX_CRL_BYTES};
use crate::attest::{Fault, Policy, Rung, Verdict, snp};
use crate::config::time::now_s;
use crate::config::{Label, fs};
use crate::context::Context;
use crate::encoding::{from_hex_array, hex};
use crate::error::{Code, Error, Result};
use crate::image::{Covers, Manifest};
use crate::ledger::B64;
use crate::ledger::kinds::EvidenceJudged;
use crate::session::Session;
use crate::session::messages::{Activated, Activation, EvidenceReply, EvidenceRequest, Message, Reply, read_reply};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A file with certificates is a few KiB.
const MAX_CERTIFICATES: usize = 256 * 1024;
/// How long a node may take to show its evidence, or its TPM to open a challenge.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a verifier goes by: rules, roots, and what is right.
pub struct Terms {
    /// The rules.
    pub policy: Policy,
    snp_roots: Vec<snp::Roots>,
    snp_certificates: Option<snp::Certificates>,
    snp_crl: Option<Crl>,
    tpm_roots: Vec<Certificate>,
    tpm_keys: Vec<Vec<u8>>,
    wanted: Vec<Wanted>,
    at: Option<u64>,
}

impl Terms {
    /// The rules in a file; strict ones without. Roots that it names lie beside it.
    pub fn load(policy: Option<&Path>) -> Result<Terms> {
        let amd = snp::Roots::amd().map_err(|fault| Error::new(Code::Failed, fault.sentence).hint("install portdistrict again"))?;
        let mut terms = Terms {
            policy: Policy::default(),
            snp_roots: vec![amd],
            snp_certificates: None,
            snp_crl: None,
            tpm_roots: Vec::new(),
            tpm_keys: Vec::new(),
            wanted: Vec::new(),
            at: None,
        };
        let Some(file) = policy else { return Ok(terms) };
        let bytes = fs::read(file, MAX_POLICY)?;
        let bad = |why: String| {
            Error::new(Code::Usage, format!("{} is no policy: {why}", file.display()))
                .hint("docs/attestation.md lists what a policy may say")
        };
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not text".to_owned()))?;
        terms.policy = Policy::parse(&text).map_err(bad)?;
        let beside = file.parent().unwrap_or(Path::new("."));
        for name in terms.policy.tpm.roots.clone() {
            terms.trust_tpm_root(&beside.join(name))?;
        }
        let mut roots = Vec::new();
        for name in &terms.policy.snp.roots {
            roots.extend(certificates(&beside.join(name))?);
        }
        if !roots.is_empty() {
            let given = snp::Roots::given(roots).map_err(|fault| bad(format!("its roots for SEV-SNP: {}", fault.sentence)))?;
            terms.snp_roots.push(given);
        }
        Ok(terms)
    }

    /// What a grant demands, and a policy; nothing if neither does.
    pub fn demanded(evidence: Option<[u8; 20]>, policy: Option<&Path>) -> Result<Option<Arc<Terms>>> {
        if evidence.is_none() && policy.is_none() {
            return Ok(None);
        }
        let mut terms = Terms::load(policy)?;
        if let Some(digest) = evidence {
            terms.wanted.push(Wanted::Demand(digest));
            // What is named by a digest must be measured by something that is not the node itself.
            terms.policy.demand = terms.policy.demand.max(Rung::ProviderFirmware);
        }
        Ok(Some(Arc::new(terms)))
    }

    /// Trusts the TPMs that a root in this file certified.
    pub fn trust_tpm_root(&mut self, file: &Path) -> Result<()> {
        self.tpm_roots.extend(certificates(file)?);
        Ok(())
    }

    /// The same, with the certificates at hand.
    pub fn trust_tpm_roots(&mut self, bytes: &[u8], name: &str) -> Result<()> {
        self.tpm_roots.extend(parse_certificates(bytes, name)?);
        Ok(())
    }

    /// Trusts the TPM with one of these keys (SubjectPublicKeyInfo in DER): the machine's provider names them.
    pub fn trust_tpm_keys(&mut self, keys: Vec<Vec<u8>>) {
        self.tpm_keys.extend(keys);
    }

    /// Judges as of this time (Unix seconds), when the evidence was taken: certificates end, and what they proved then stays so.
    pub fn judge_as_of(&mut self, at: u64) {
        self.at = Some(at);
    }

    /// The roots of TPMs that are trusted, as one file.
    pub fn tpm_roots_pem(&self) -> String {
        self.tpm_roots.iter().map(|root| pem(root.der())).collect()
    }

    /// Refuses chips whose certificates this list names; the list must be AMD's, and current.
    pub fn use_revocations(&mut self, file: &Path) -> Result<()> {
        let bytes = fs::read(file, MAX_CRL_BYTES)?;
        let none = |fault: Fault| {
            Error::new(Code::Usage, format!("{} is no list of revoked certificates", file.display()))
                .because(fault.sentence)
                .hint("name the CRL of the chip's product, DER, as AMD publishes it")
        };
        self.snp_crl = Some(Crl::from_der(&bytes).map_err(none)?);
        Ok(())
    }

    /// Uses these certificates of a chip instead of those in the evidence.
    pub fn use_certificates(&mut self, certificates: snp::Certificates) {
        self.snp_certificates = Some(certificates);
    }

    /// This image is a right one, under every launch measurement that its description lists; some of them speak of the firmware alone.
    pub fn want_image(&mut self, image: &Manifest) -> Result<()> {
        let bad = || Error::new(Code::Usage, "the description of the image has a digest that is none").hint("build the image again");
        self.wanted.push(Wanted::Image(Box::new(expected(image).ok_or_else(bad)?)));
        for launch in &image.launch {
            let digest = from_hex_array(&launch.digest).ok_or_else(bad)?;
            self.wanted.push(match launch.covers {
                Covers::Firmware => Wanted::FirmwareMeasurement(digest),
                Covers::Image => Wanted::ImageMeasurement(digest),
            });
        }
        Ok(())
    }

    /// A person named the image: evidence that says nothing of it is not enough.
    pub fn must_show_image(&mut self) {
        self.policy.must.image = true;
    }

    /// This launch measurement is right, and evidence without one is not enough; what it covers nobody said, so it counts as firmware.
    pub fn want_measurement(&mut self, digest: [u8; 48]) {
        self.wanted.push(Wanted::FirmwareMeasurement(digest));
        self.policy.must.measurement = true;
    }

    /// This launch measurement was seen before, and is expected where there is one.
    pub fn expect_measurement(&mut self, digest: [u8; 48]) {
        self.wanted.push(Wanted::FirmwareMeasurement(digest));
    }

    /// What a grant demands.
    pub fn want_demand(&mut self, digest: [u8; 20]) {
        self.wanted.push(Wanted::Demand(digest));
    }

    /// Whether anybody has said yet what is right.
    pub fn names_nothing(&self) -> bool {
        self.wanted.is_empty()
            && self.policy.tpm.images.is_empty()
            && self.policy.snp.images.is_empty()
            && self.policy.snp.firmware.is_empty()
    }

    /// Judges evidence by these terms.
    pub fn judge(&self, shown: Option<&[u8]>, asked: Asked, answer: &Answer) -> Verdict {
        judge(
            shown,
            &Case {
                policy: &self.policy,
                snp_roots: &self.snp_roots,
                snp_certificates: self.snp_certificates.as_ref(),
                snp_crl: self.snp_crl.as_ref(),
                tpm_roots: &self.tpm_roots,
                tpm_keys: &self.tpm_keys,
                wanted: &self.wanted,
                asked,
                answer,
                now: self.at.unwrap_or_else(now_s),
            },
        )
    }
}

/// What an image is expected to measure.
fn expected(image: &Manifest) -> Option<Expected> {
    let sections = image.sections.iter().map(|section| Some((section.name.clone(), from_hex_array(&section.sha256)?, section.size)));
    let pcr = image.pcr.iter().map(|(index, value)| Some((*index, from_hex_array(value)?)));
    Some(Expected {
        uki_authenticode: from_hex_array(&image.uki_authenticode)?,
        kernel_authenticode: from_hex_array(&image.kernel_authenticode)?,
        sections: sections.collect::<Option<_>>()?,
        command_line: image.command_line.clone(),
        pcr: pcr.collect::<Option<_>>()?,
    })
}

/// A certificate as RFC 7468 writes it.
fn pem(der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Certificates in a file, PEM or DER.
fn certificates(file: &Path) -> Result<Vec<Certificate>> {
    parse_certificates(&fs::read(file, MAX_CERTIFICATES)?, &file.display().to_string())
}

fn parse_certificates(bytes: &[u8], name: &str) -> Result<Vec<Certificate>> {
    let none = |fault: Fault| {
        Error::new(Code::Usage, format!("{name} holds no certificates"))
            .because(fault.sentence)
            .hint("name a file with certificates, PEM or DER")
    };
    Certificate::many_from_bytes(bytes).map_err(none)
}

/// A challenge for the TPM in evidence that was just shown; none where none is needed, or the evidence is not worth one.
pub fn challenge(shown: Option<&[u8]>) -> Option<(Challenge, Activation)> {
    let evidence = Evidence::decode(shown?).ok()?;
    let mut failed = false;
    let mut random = |bytes: &mut [u8]| failed |= getrandom::fill(bytes).is_err();
    let made = Challenge::make(&evidence, &mut random).ok()?;
    made.filter(|_| !failed)
}

/// Asks the node at the other end of a session to prove itself, with what it made before.
pub async fn ask(session: &Session, node: [u8; 32], terms: &Terms) -> io::Result<(Verdict, Option<Vec<u8>>)> {
    let EvidenceReply { evidence, .. } = request(session, &EvidenceRequest::Show).await?;
    let answer = activate(session, evidence.as_deref()).await?;
    Ok((terms.judge(evidence.as_deref(), Asked::Node(node), &answer), evidence))
}

/// Has the TPM behind a session open a challenge, if there is one.
pub async fn activate(session: &Session, shown: Option<&[u8]>) -> io::Result<Answer> {
    let Some((challenge, activation)) = challenge(shown) else { return Ok(Answer::NotAsked) };
    match request::<Activated>(session, &EvidenceRequest::Activate(activation)).await {
        Ok(activated) => Ok(challenge.answered(&activated.secret)),
        Err(error) if error.kind() == io::ErrorKind::Other => Ok(Answer::Wrong),
        // Who is busy has not answered wrongly; it is asked again.
        Err(error) => Err(error),
    }
}

async fn request<T: Message>(session: &Session, request: &EvidenceRequest) -> io::Result<T> {
    let exchange = async {
        let mut stream = session.open(&request.first_bytes()).await?;
        stream.shutdown().await?;
        read_reply(&mut stream).await
    };
    let bytes = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match Reply::<T>::decode(&bytes) {
        Ok(Reply::Done(answer)) => Ok(answer),
        Ok(Reply::Failed { code, text }) => Err(failed(&code, &text)),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// A node that has no time says so by `refused`; anything else is what its hardware could not do.
fn failed(code: &str, text: &str) -> io::Error {
    let kind = if code == Code::Refused.as_str() { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    io::Error::new(kind, format!("{text} ({code})"))
}

/// Writes a verdict into the ledger.
pub fn record(cx: &Context, name: &Label, node: [u8; 32], verdict: &Verdict, discovered: bool) -> Result<()> {
    cx.record(&EvidenceJudged {
        node_key: B64(node),
        name: name.clone(),
        outcome: verdict.outcome.as_str().to_owned(),
        rung: verdict.rung.as_str().to_owned(),
        evidence_kind: verdict.kind.to_owned(),
        reason: verdict.reason().map(|reason| reason.as_str().to_owned()),
        evidence: hex(&verdict.evidence),
        image: verdict.image.map(|digest| hex(&digest)),
        measurement: verdict.measurement.map(|digest| hex(&digest)),
        endorsement: verdict.endorsement.as_deref().map(hex),
        discovered,
    })
    .map(drop)
}

/// The error for somebody who was to be handed something by a node that does not prove enough.
pub fn refusal(name: &str, verdict: &Verdict, hint: String) -> Error {
    let error = Error::new(Code::Refused, format!("`{name}` does not prove what is demanded of it; nothing was handed over"))
        .ruled("evidence", None);
    let error = verdict.faults.iter().fold(error, |error, fault| error.because(fault.to_string()));
    error.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_node_is_not_one_that_lied() {
        assert_eq!(failed(Code::Refused.as_str(), "too many ask").kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(failed(Code::Failed.as_str(), "the TPM did not do it").kind(), io::ErrorKind::Other);
    }

    #[test]
    fn roots_come_back_from_the_file_they_were_saved_in() {
        let der = include_bytes!("attest/snp/roots/ark-milan.der");
        let mut terms = Terms::load(None).unwrap();
        terms.trust_tpm_roots(der, "a root").unwrap();
        let pem = terms.tpm_roots_pem();
        let mut again = Terms::load(None).unwrap();
        again.trust_tpm_roots(pem.as_bytes(), "a file").unwrap();
        assert_eq!(again.tpm_roots[0].der(), der);
    }
}

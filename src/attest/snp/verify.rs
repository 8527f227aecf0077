//! Leads the key of a report to a root, and judges whether a report is genuine.

use super::leaf::{Identity, Leaf};
use super::report::ECDSA_P384_SHA384;
use super::tables::Role;
use super::{Certificates, Endorsement, Product, Report, Root, Roots, SIGNED_BYTES, SigningKey, TcbVersion, hex, malformed, mismatch};
use crate::attest::x509::{Certificate, Crl, check_end, check_link, p384_point};
use crate::attest::{Fault, Reason};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};

/// A key that signs reports, led to a root. Making one is the expensive part; it can be kept and used for many reports.
///
/// Time passes while it is kept: ask [`is_valid_at`](Chain::is_valid_at) again.
#[derive(Clone, Debug)]
pub struct Chain {
    leaf: Leaf,
    key: ParsedPublicKey,
    certificates: [Certificate; 3],
    root: Root,
    revocation_checked: bool,
}

impl Chain {
    /// Leads the one leaf among the certificates through its ASK (for a VCEK) or ASVK (for a VLEK) to a root.
    ///
    /// The ASK or ASVK that came along is used, and a known one if none came. An ARK that came along is never looked at.
    /// Without `now` (seconds since 1970) validity is not checked. Without `crl` a list that came along is used, but
    /// only to refuse: it may be old, so its dates do not count and it does not make the chain
    /// [`revocation_checked`](Chain::revocation_checked).
    pub fn verify(certificates: &Certificates, roots: &Roots, crl: Option<&Crl>, now: Option<u64>) -> Result<Chain, Fault> {
        let (endorsement, certificate) = certificates.leaf()?;
        check_end(certificate, now)?;
        let leaf = Leaf::read(certificate, endorsement)?;
        let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, p384_point(certificate)?)
            .map_err(|_| Fault::new(Reason::ChainInvalid, format!("the key of {} is not a point of P-384", certificate.label())))?;
        let issuer = issuer(&leaf, certificates, roots)?;
        let root = root(issuer, leaf.product, roots, now)?;
        check_link(certificate, issuer, 0, now)?;
        let listed = [certificate, issuer];
        match (crl, certificates.crl()) {
            (Some(crl), _) => check_revocation(crl, root, listed, now)?,
            (None, Some(crl)) => check_revocation(crl, root, listed, None)?,
            (None, None) => {}
        }
        let certificates = [certificate.clone(), issuer.clone(), root.clone()];
        Ok(Chain { root: roots.meaning(leaf.product), leaf, key, certificates, revocation_checked: crl.is_some() })
    }

    /// Judges a report: it was signed by this chain's key, and the key's certificate is for its chip, firmware and product.
    pub fn check(&self, report: &[u8]) -> Result<Genuine, Fault> {
        let parsed = Report::parse(report)?;
        self.check_signing_key(&parsed)?;
        self.check_product(&parsed)?;
        self.check_tcb(&parsed)?;
        self.check_chip(&parsed)?;
        self.check_signature(report, &parsed)?;
        let (product, endorsement, root) = (self.product(), self.endorsement(), self.root);
        Ok(Genuine { report: parsed, product, endorsement, root, csp_id: self.csp_id().map(str::to_owned) })
    }

    /// The product line of the key.
    pub fn product(&self) -> Product {
        self.leaf.product
    }

    /// The kind of the key.
    pub fn endorsement(&self) -> Endorsement {
        self.leaf.endorsement()
    }

    /// The root that it was led to.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The firmware version that the key is for.
    pub fn tcb(&self) -> TcbVersion {
        self.leaf.tcb
    }

    /// The cloud provider that a VLEK belongs to.
    pub fn csp_id(&self) -> Option<&str> {
        match &self.leaf.identity {
            Identity::Chip(_) => None,
            Identity::Provider(name) => Some(name),
        }
    }

    /// Leaf, ASK or ASVK, and root.
    pub fn certificates(&self) -> &[Certificate; 3] {
        &self.certificates
    }

    /// Whether a revocation list that was given was checked.
    pub fn revocation_checked(&self) -> bool {
        self.revocation_checked
    }

    /// Whether all three certificates are valid at this second since 1970.
    pub fn is_valid_at(&self, unix_seconds: u64) -> bool {
        self.certificates.iter().all(|certificate| certificate.is_valid_at(unix_seconds))
    }

    /// The report names the kind of key that signed it; MASK_CHIP_KEY forbids the VCEK, and never goes with it.
    fn check_signing_key(&self, report: &Report) -> Result<(), Fault> {
        let info = report.key_info;
        let signer = match info.signing_key {
            SigningKey::Vcek => Endorsement::Vcek,
            SigningKey::Vlek => Endorsement::Vlek,
            SigningKey::None => return Err(invalid("the report is not signed: its signing key is 7 (none)")),
        };
        if signer != self.endorsement() {
            return Err(mismatch(format!("the report says that a {signer} signed it, and the certificate is of a {}", self.endorsement())));
        }
        if signer == Endorsement::Vcek && info.mask_chip_key {
            return Err(mismatch("the report says that the chip's key is masked, and that it signed: wanted one of them"));
        }
        if report.signature_algo != ECDSA_P384_SHA384 {
            return Err(invalid(format!("the report's signature algorithm is {}, wanted {ECDSA_P384_SHA384}", report.signature_algo)));
        }
        Ok(())
    }

    fn check_product(&self, report: &Report) -> Result<(), Fault> {
        match report.product()? {
            Some(product) if product != self.product() => {
                Err(mismatch(format!("the report is of a {product}, and the certificate for a {}", self.product())))
            }
            _ => Ok(()),
        }
    }

    /// The key is derived from the reported version: it must be the one that is certified, no lower and no higher.
    fn check_tcb(&self, report: &Report) -> Result<(), Fault> {
        if report.reported_tcb != self.leaf.tcb {
            let (found, wanted) = (report.reported_tcb, self.leaf.tcb);
            return Err(mismatch(format!("the report is for the firmware version {found}, and the certificate for {wanted}")));
        }
        let others = [report.current_tcb, report.committed_tcb, report.launch_tcb];
        others.into_iter().try_for_each(|tcb| tcb.parts(self.product()).map(drop))
    }

    /// A VLEK is of no one chip. A masked chip identifier is zero and proves nothing about which chip's VCEK this is.
    fn check_chip(&self, report: &Report) -> Result<(), Fault> {
        let beyond = report.chip_id.get(self.product().chip_id_bytes()..).unwrap_or_default();
        if beyond.iter().any(|&byte| byte != 0) {
            return Err(malformed(format!("the report's chip identifier goes on with {}, wanted zero", hex(beyond))));
        }
        let Identity::Chip(chip_id) = &self.leaf.identity else { return Ok(()) };
        if report.chip_id == [0; 64] {
            return Err(mismatch("the report's chip identifier is masked (zero): its VCEK certificate cannot be told"));
        }
        if report.chip_id != *chip_id {
            let (found, wanted) = (hex(&report.chip_id), hex(chip_id));
            return Err(mismatch(format!("the report is of the chip {found}, and the certificate for {wanted}")));
        }
        Ok(())
    }

    /// The library refuses an R or S that is zero or not below the order of the curve.
    fn check_signature(&self, bytes: &[u8], report: &Report) -> Result<(), Fault> {
        let signed = bytes.get(..SIGNED_BYTES).unwrap_or_default();
        self.key
            .verify_sig(signed, &report.signature)
            .map_err(|_| invalid(format!("the report's signature does not fit it and the {}", self.endorsement())))
    }
}

/// What a chain's key vouches for: the only way to a report whose signature, certificates, chip, firmware and product fit.
///
/// A signature of ECDSA can be rewritten into a second one that is as good: do not tell reports apart by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genuine {
    report: Report,
    product: Product,
    endorsement: Endorsement,
    root: Root,
    csp_id: Option<String>,
}

impl Genuine {
    /// What was signed.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The product line.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The kind of key that signed.
    pub fn endorsement(&self) -> Endorsement {
        self.endorsement
    }

    /// The root that the key was led to; only [`Root::Amd`] speaks for AMD.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The cloud provider whose VLEK signed; none for a VCEK.
    pub fn csp_id(&self) -> Option<&str> {
        self.csp_id.as_deref()
    }
}

/// The ASK or ASVK. One that came along is not set aside for a known one: wrong evidence is refused, not repaired.
fn issuer<'a>(leaf: &Leaf, certificates: &'a Certificates, roots: &'a Roots) -> Result<&'a Certificate, Fault> {
    let role = leaf.issuer_role();
    certificates.with_role(role).or_else(|| roots.with_role(role).next()).ok_or_else(|| {
        let sentence = format!("the {role} is needed for the {}, and was neither sent nor is it known", leaf.endorsement());
        Fault::new(Reason::CertificateMissing, sentence)
    })
}

/// The first root of the product line that issued the intermediate certificate.
fn root<'a>(issuer: &Certificate, product: Product, roots: &'a Roots, now: Option<u64>) -> Result<&'a Certificate, Fault> {
    let sentence = format!("there is no trusted root of {product} for {}", issuer.label());
    let mut fault = Fault::new(Reason::ChainInvalid, sentence);
    for root in roots.with_role(Role::Ark(product)) {
        match check_link(issuer, root, 1, now) {
            Ok(()) => return Ok(root),
            Err(why) => fault = why,
        }
    }
    Err(fault)
}

/// Refuses what the root took back, by serial number.
///
/// The root speaks for the ASK or ASVK, which it issued. VCEKs all have the serial number zero, so that no list can tell
/// them apart; the number of another leaf is taken to mean the leaf, since AMD's key service has one list for each kind.
fn check_revocation(crl: &Crl, root: &Certificate, listed: [&Certificate; 2], now: Option<u64>) -> Result<(), Fault> {
    crl.check(root, now)?;
    let has_number = |certificate: &&&Certificate| certificate.serial().iter().any(|&byte| byte != 0);
    match listed.iter().filter(has_number).find(|certificate| crl.lists(certificate.serial())) {
        Some(revoked) => Err(Fault::new(Reason::Revoked, format!("{} is on the revocation list of its root", revoked.label()))),
        None => Ok(()),
    }
}

fn invalid(sentence: impl Into<String>) -> Fault {
    Fault::new(Reason::SignatureInvalid, sentence)
}

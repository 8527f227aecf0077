//! Makes one piece of evidence, and what its verifier knows: right in everything, but for what a table changes.

use super::Setting;
use super::tpm::Tpm;
use crate::attest::eventlog::tests::support::expected;
use crate::attest::evidence::{Evidence, Nonce, SnpEvidence, Subject, TpmEvidence};
use crate::attest::judge::{Answer, Asked, Wanted};
use crate::attest::snp::synthetic::{self, HOW, KEYS};
use crate::attest::snp::{Certificates, Endorsement, Product, REPORT_BYTES, Roots};
use crate::attest::x509::Certificate;
use crate::attest::x509::forge::{Blank, Key, NOW};
use crate::attest::{Policy, Rung};
use aws_lc_rs::signature::EcdsaKeyPair;
use std::sync::LazyLock;

pub(super) const NODE: [u8; 32] = [0x11; 32];
pub(super) const NONCE: [u8; 32] = [0x22; 32];
pub(super) const APP: [u8; 32] = [0x33; 32];
/// Another key, nonce, program or digest.
pub(super) const OTHER: [u8; 32] = [0x44; 32];
/// The launch measurement of every report here.
pub(super) const MEASURED: [u8; 48] = [0x3c; 48];

pub(super) const ARK: &str = "c0b406a4-a803-4952-9743-3fb6014cd0ae";
pub(super) const ASK: &str = "4ab7b379-bbac-4fe4-a02f-05aef327c782";
pub(super) const VCEK: &str = "63da758d-e664-4564-adc5-f4b93be8accd";
pub(super) const VLEK: &str = "a8074bc2-a25a-483e-aae6-39c045a0b8a1";
pub(super) const CRL: &str = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea";

pub(super) type Bytes = [u8; REPORT_BYTES];
pub(super) type Table = Vec<(&'static str, Vec<u8>)>;
pub(super) type Edit<T> = Box<dyn Fn(&mut T)>;

static ROOTS: LazyLock<[Roots; 3]> = LazyLock::new(|| Product::ALL.map(synthetic::roots));

/// The test root of a product.
pub(super) fn test_roots(product: Product) -> Roots {
    let place = Product::ALL.iter().position(|other| *other == product).unwrap();
    ROOTS[place].clone()
}

pub(super) fn apply<T>(edits: &[Edit<T>], to: &mut T) {
    edits.iter().for_each(|edit| edit(to));
}

/// How an SNP report and its certificates are made.
pub(super) struct Snp {
    product: Product,
    endorsement: Endorsement,
    version: u32,
    before: Vec<Edit<Bytes>>,
    signer: &'static EcdsaKeyPair,
    after: Vec<Edit<Vec<u8>>>,
    leaf: Vec<Edit<Blank>>,
    leaf_signer: Option<&'static Key>,
    issuer: Vec<Edit<Blank>>,
    issuer_signer: &'static Key,
    sent: Vec<Edit<Table>>,
    table: Vec<Edit<Vec<u8>>>,
}

impl Snp {
    fn new(product: Product, endorsement: Endorsement, version: u32) -> Snp {
        Snp {
            product,
            endorsement,
            version,
            before: Vec::new(),
            signer: &KEYS.leaf,
            after: Vec::new(),
            leaf: Vec::new(),
            leaf_signer: None,
            issuer: Vec::new(),
            issuer_signer: &KEYS.ark,
            sent: Vec::new(),
            table: Vec::new(),
        }
    }

    fn report(&self, bound: &Subject) -> Vec<u8> {
        let mut report = synthetic::blank_report(self.product, self.endorsement, self.version);
        synthetic::put(&mut report, 0x050, &bound.report_data());
        apply(&self.before, &mut report);
        synthetic::sign_report(&mut report, self.signer);
        let mut report = report.to_vec();
        apply(&self.after, &mut report);
        report
    }

    fn certificates(&self) -> Vec<u8> {
        let (mut leaf, mut issuer, guid, key) = match self.endorsement {
            Endorsement::Vcek => (synthetic::vcek(self.product), synthetic::ask(self.product), VCEK, &KEYS.ask),
            Endorsement::Vlek => (synthetic::vlek(self.product), synthetic::asvk(self.product), VLEK, &KEYS.asvk),
        };
        apply(&self.leaf, &mut leaf);
        apply(&self.issuer, &mut issuer);
        let mut entries = vec![(ASK, issuer.sign(self.issuer_signer, HOW)), (guid, leaf.sign(self.leaf_signer.unwrap_or(key), HOW))];
        apply(&self.sent, &mut entries);
        if entries.is_empty() {
            return Vec::new();
        }
        let entries: Vec<(&str, &[u8])> = entries.iter().map(|(guid, bytes)| (*guid, bytes.as_slice())).collect();
        let mut table = synthetic::table(&entries);
        apply(&self.table, &mut table);
        table
    }
}

/// How the TPM answered this verifier.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    Nothing,
    Wrong,
    Right,
    /// It opened a challenge, and that was about other keys.
    RightOfOther,
}

/// One piece: the evidence's parts, to what they are bound, and the verifier.
pub(super) struct Specimen {
    shown: bool,
    nonce: Nonce,
    app_digest: [u8; 32],
    bound: Subject,
    snp: Option<Snp>,
    tpm: Option<Tpm>,
    bytes: Vec<Edit<Vec<u8>>>,
    says: Says,
    rules: String,
    pub(super) setting: Setting,
}

impl Specimen {
    fn new(snp: Option<Snp>, tpm: Option<Tpm>) -> Specimen {
        let bound = Subject { node: NODE, app_digest: APP, nonce: Nonce(NONCE), seed: None };
        let setting = Setting {
            policy: Policy::default(),
            snp_roots: snp.iter().map(|snp| test_roots(snp.product)).collect(),
            snp_certificates: None,
            tpm_roots: tpm.iter().map(|_| super::tpm::root()).collect(),
            tpm_keys: Vec::new(),
            wanted: Vec::new(),
            asked: Asked::Nonce(NODE, NONCE),
            answer: Answer::NotAsked,
            now: NOW,
        };
        let says = if tpm.is_some() { Says::Right } else { Says::Nothing };
        let (nonce, app_digest) = (bound.nonce, bound.app_digest);
        Specimen { shown: true, nonce, app_digest, bound, snp, tpm, bytes: Vec::new(), says, rules: String::new(), setting }
    }

    /// A report of this kind.
    pub(super) fn snp(product: Product, endorsement: Endorsement, version: u32) -> Specimen {
        Specimen::new(Some(Snp::new(product, endorsement, version)), None)
    }

    /// A quote over the registers of a real start.
    pub(super) fn tpm(log: &str) -> Specimen {
        Specimen::new(None, Some(Tpm::of(log)))
    }

    /// A report and a quote of one machine.
    pub(super) fn both(log: &str) -> Specimen {
        Specimen::new(Some(Snp::new(Product::Milan, Endorsement::Vcek, 3)), Some(Tpm::of(log)))
    }

    /// Evidence in which hardware says nothing.
    pub(super) fn empty() -> Specimen {
        Specimen::new(None, None)
    }

    /// No evidence.
    pub(super) fn none() -> Specimen {
        Specimen { shown: false, ..Specimen::empty() }
    }

    fn with_snp(mut self, change: impl FnOnce(&mut Snp)) -> Specimen {
        change(self.snp.as_mut().unwrap());
        self
    }

    pub(super) fn with_tpm(mut self, change: impl FnOnce(&mut Tpm)) -> Specimen {
        change(self.tpm.as_mut().unwrap());
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Setting)) -> Specimen {
        change(&mut self.setting);
        self
    }

    /// The report says something else, and the chip signs it.
    pub(super) fn report(self, edit: impl Fn(&mut Bytes) + 'static) -> Specimen {
        self.with_snp(|snp| snp.before.push(Box::new(edit)))
    }

    /// The same with bytes at an offset.
    pub(super) fn at(self, offset: usize, bytes: &[u8]) -> Specimen {
        let bytes = bytes.to_vec();
        self.report(move |report| synthetic::put(report, offset, &bytes))
    }

    /// Guest policy as a number: 0x30000 is what is right.
    pub(super) fn guest_policy(self, bits: u64) -> Specimen {
        self.at(0x008, &bits.to_le_bytes())
    }

    /// The report was changed after the chip signed it.
    pub(super) fn after(self, edit: impl Fn(&mut Vec<u8>) + 'static) -> Specimen {
        self.with_snp(|snp| snp.after.push(Box::new(edit)))
    }

    /// Another key signed the report.
    pub(super) fn signed_by_other_leaf(self) -> Specimen {
        self.with_snp(|snp| snp.signer = &KEYS.other_leaf)
    }

    /// The leaf's certificate says something else, and its issuer signs it.
    pub(super) fn leaf(self, edit: impl Fn(&mut Blank) + 'static) -> Specimen {
        self.with_snp(|snp| snp.leaf.push(Box::new(edit)))
    }

    /// Somebody else signed the leaf.
    pub(super) fn leaf_by(self, key: &'static Key) -> Specimen {
        self.with_snp(|snp| snp.leaf_signer = Some(key))
    }

    /// The ASK or ASVK says something else, and the root signs it.
    pub(super) fn issuer(self, edit: impl Fn(&mut Blank) + 'static) -> Specimen {
        self.with_snp(|snp| snp.issuer.push(Box::new(edit)))
    }

    /// Somebody else signed the ASK or ASVK.
    pub(super) fn issuer_by(self, key: &'static Key) -> Specimen {
        self.with_snp(|snp| snp.issuer_signer = key)
    }

    /// Other certificates are sent.
    pub(super) fn sent(self, edit: impl Fn(&mut Table) + 'static) -> Specimen {
        self.with_snp(|snp| snp.sent.push(Box::new(edit)))
    }

    /// The host's table was changed as a whole.
    pub(super) fn table(self, edit: impl Fn(&mut Vec<u8>) + 'static) -> Specimen {
        self.with_snp(|snp| snp.table.push(Box::new(edit)))
    }

    /// The parts are bound to something else than the evidence says, or was asked for.
    pub(super) fn bound(mut self, edit: impl FnOnce(&mut Subject)) -> Specimen {
        edit(&mut self.bound);
        self
    }

    /// The evidence answers this, and its parts are bound to it.
    pub(super) fn nonce(mut self, nonce: Nonce) -> Specimen {
        self.nonce = nonce;
        self.bound(|bound| bound.nonce = nonce)
    }

    /// The encoded evidence was changed.
    pub(super) fn bytes(mut self, edit: impl Fn(&mut Vec<u8>) + 'static) -> Specimen {
        self.bytes.push(Box::new(edit));
        self
    }

    pub(super) fn says(mut self, says: Says) -> Specimen {
        self.says = says;
        self
    }

    pub(super) fn asked(self, asked: Asked) -> Specimen {
        self.with(|setting| setting.asked = asked)
    }

    /// A line of `policy.toml`.
    pub(super) fn policy(mut self, line: impl AsRef<str>) -> Specimen {
        self.rules.push_str(line.as_ref());
        self.rules.push('\n');
        self
    }

    pub(super) fn demand(self, rung: Rung) -> Specimen {
        self.policy(format!("demand = \"{rung}\""))
    }

    pub(super) fn want(self, wanted: Wanted) -> Specimen {
        self.with(|setting| setting.wanted.push(wanted))
    }

    /// The description of the image of `plain` is at hand.
    pub(super) fn whole(self) -> Specimen {
        self.want(Wanted::Image(Box::new(expected())))
    }

    /// The policy lists the boot program with this digest.
    pub(super) fn image(self, digest: [u8; 32]) -> Specimen {
        self.policy(format!("tpm.images = [\"{}\"]", hex::encode(digest)))
    }

    /// A person named an image: something in the evidence must speak about it.
    pub(super) fn must_show_image(self) -> Specimen {
        self.with(|setting| setting.policy.must.image = true)
    }

    /// The same of a launch measurement.
    pub(super) fn must_show_measurement(self) -> Specimen {
        self.with(|setting| setting.policy.must.measurement = true)
    }

    pub(super) fn no_tpm_roots(self) -> Specimen {
        self.with(|setting| setting.tpm_roots.clear())
    }

    /// Nobody certified the TPM, and the provider names these keys of it.
    pub(super) fn provider_names(self, keys: &[Vec<u8>]) -> Specimen {
        self.no_tpm_roots().with(|setting| setting.tpm_keys = keys.to_vec())
    }

    /// The certificates were given from elsewhere, and the host sent none.
    pub(super) fn certificates_given(self, of: &Specimen) -> Specimen {
        let table = of.snp.as_ref().unwrap().certificates();
        self.sent(Table::clear).with(|setting| setting.snp_certificates = Some(Certificates::from_table(&table).unwrap()))
    }

    /// Trusts this self-made root instead.
    pub(super) fn trusting(self, root: &[u8]) -> Specimen {
        let roots = Roots::given(vec![Certificate::from_der(root).unwrap()]).unwrap();
        self.with(|setting| setting.snp_roots = vec![roots])
    }

    fn evidence(&self) -> Evidence {
        let snp = self.snp.as_ref().map(|snp| SnpEvidence { report: snp.report(&self.bound), certificates: snp.certificates() });
        let tpm: Option<TpmEvidence> = self.tpm.as_ref().map(|tpm| tpm.evidence(&self.bound));
        Evidence { nonce: self.nonce, app_digest: self.app_digest, snp, tpm, seed: None }
    }

    /// The bytes that are shown, and the verifier.
    pub(super) fn build(self) -> (Option<Vec<u8>>, Setting) {
        let evidence = self.evidence();
        let mut bytes = evidence.encode();
        let answer = match self.says {
            Says::Nothing => Answer::NotAsked,
            Says::Wrong => Answer::Wrong,
            Says::Right => Answer::remembered(&bytes).unwrap_or(Answer::Wrong),
            Says::RightOfOther => Answer::remembered(&super::tpm::of_another_machine().encode()).unwrap(),
        };
        apply(&self.bytes, &mut bytes);
        let mut policy = Policy::parse(&format!("version = 1\n{}", self.rules)).unwrap();
        policy.must = self.setting.policy.must;
        (self.shown.then_some(bytes), Setting { policy, answer, ..self.setting })
    }
}

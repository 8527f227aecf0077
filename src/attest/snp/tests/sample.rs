//! AMD's own samples, as the crate `sev` has them: they verify, no bit of them may change, and that crate agrees.

use super::{assert_fault, flipped, verify};
use crate::attest::Reason;
use crate::attest::snp::roots::AMD;
use crate::attest::snp::{Certificates, Chain, Endorsement, Product, Root, Roots, TcbParts};
use crate::attest::x509::Certificate;
use sev::certs::snp::{Certificate as SevCertificate, Chain as SevChain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// A second at which all samples are valid: 2025-01-01.
const NOW: u64 = 1_735_689_600;

struct Sample {
    report: Vec<u8>,
    vcek: Vec<u8>,
    chain: Vec<u8>,
    vcek_turin: Vec<u8>,
    chain_turin: Vec<u8>,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let folder = sev_folder().join("tests/certs_data");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    Sample {
        report: hex::decode(read("report_milan.hex").trim_ascii()).unwrap(),
        vcek: read("vcek_milan.der"),
        chain: read("cert_chain_milan"),
        vcek_turin: read("vcek_turin.der"),
        chain_turin: read("cert_chain_turin"),
    }
});

/// Where cargo keeps the sources of `sev`: the samples are read there, and never copied.
fn sev_folder() -> PathBuf {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version=1", "--offline", "--manifest-path", manifest];
    let output = Command::new(cargo).args(arguments).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let sev = packages.iter().find(|package| package["name"] == "sev" && package["version"] == "8.0.0").unwrap();
    PathBuf::from(sev["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn milan_chain() -> Chain {
    let certificates = Certificates::from_files([SAMPLE.vcek.as_slice()]).unwrap();
    Chain::verify(&certificates, &Roots::amd().unwrap(), None, Some(NOW)).unwrap()
}

fn builtin_chain() -> SevChain {
    let ca = ca::Chain { ark: builtin::milan::ark().unwrap(), ask: builtin::milan::ask().unwrap() };
    SevChain { ca, vek: SevCertificate::from_der(&SAMPLE.vcek).unwrap() }
}

#[test]
fn the_pinned_certificates_are_those_that_amd_publishes() {
    let fingerprints = [
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    ];
    let builtin =
        [builtin::milan::ARK, builtin::milan::ASK, builtin::genoa::ARK, builtin::genoa::ASK, builtin::turin::ARK, builtin::turin::ASK];
    let readme = include_str!("../roots/README.md");
    for ((der, fingerprint), pem) in AMD.into_iter().zip(fingerprints).zip(builtin) {
        let certificate = Certificate::from_der(der).unwrap();
        assert_eq!(hex::encode(certificate.fingerprint()), fingerprint);
        assert!(readme.contains(fingerprint));
        assert_eq!(Certificate::many_from_pem(pem).unwrap(), [certificate]);
    }
}

#[test]
fn every_pinned_root_signed_itself_and_its_ask() {
    for pair in AMD.chunks(2) {
        let [ark, ask] = [pair[0], pair[1]].map(|der| Certificate::from_der(der).unwrap());
        ark.signed_by(&ark).unwrap();
        ask.signed_by(&ark).unwrap();
        assert!(ark.signed_by(&ask).is_err());
        assert!(ark.is_ca() && ask.is_ca());
    }
}

#[test]
fn the_report_of_a_milan_is_genuine() {
    let genuine = milan_chain().check(&SAMPLE.report).unwrap();
    assert_eq!(genuine.root(), Root::Amd(Product::Milan));
    assert_eq!(genuine.product(), Product::Milan);
    assert_eq!(genuine.endorsement(), Endorsement::Vcek);
    assert_eq!(genuine.csp_id(), None);
    let report = genuine.report();
    assert_eq!((report.version, report.vmpl, report.cpuid), (2, 0, None));
    assert_eq!(report.reported_tcb.parts(Product::Milan), Ok(TcbParts { fmc: None, bootloader: 3, tee: 0, snp: 8, microcode: 115 }));
    assert_eq!((report.current.major, report.current.minor, report.current.build), (1, 52, 4));
}

#[test]
fn the_certificates_of_a_turin_lead_to_amd() {
    for files in [vec![SAMPLE.vcek_turin.as_slice()], vec![&SAMPLE.vcek_turin, &SAMPLE.chain_turin]] {
        let certificates = Certificates::from_files(files).unwrap();
        let chain = Chain::verify(&certificates, &Roots::amd().unwrap(), None, Some(NOW)).unwrap();
        assert_eq!((chain.root(), chain.product()), (Root::Amd(Product::Turin), Product::Turin));
        assert_eq!(chain.tcb().parts(Product::Turin), Ok(TcbParts { fmc: Some(0), bootloader: 0, tee: 0, snp: 0, microcode: 9 }));
        assert!(chain.is_valid_at(NOW) && !chain.is_valid_at(0));
    }
}

#[test]
fn certificates_may_come_in_any_order_and_encoding() {
    let roots = Roots::amd().unwrap();
    for files in [vec![SAMPLE.chain.as_slice(), &SAMPLE.vcek], vec![SAMPLE.vcek.as_slice(), &SAMPLE.chain, &SAMPLE.vcek]] {
        assert!(verify(&files, &roots, &SAMPLE.report).is_ok());
    }
}

#[test]
fn given_roots_are_never_called_amds() {
    let ark = Certificate::from_der(AMD[0]).unwrap();
    let genuine = verify(&[&SAMPLE.vcek, AMD[1]], &Roots::given(vec![ark]).unwrap(), &SAMPLE.report).unwrap();
    assert_eq!(genuine.root(), Root::Given);
}

#[test]
fn no_bit_of_the_report_may_change() {
    let chain = milan_chain();
    for bit in 0..SAMPLE.report.len() * 8 {
        assert!(chain.check(&flipped(&SAMPLE.report, bit)).is_err(), "bit {bit}");
    }
}

#[test]
fn no_bit_of_the_vcek_may_change() {
    let roots = Roots::amd().unwrap();
    for bit in 0..SAMPLE.vcek.len() * 8 {
        assert!(verify(&[&flipped(&SAMPLE.vcek, bit)], &roots, &SAMPLE.report).is_err(), "bit {bit}");
    }
}

#[test]
fn no_bit_of_the_ask_may_change() {
    let roots = Roots::amd().unwrap();
    assert!(verify(&[&SAMPLE.vcek, AMD[1]], &roots, &SAMPLE.report).is_ok());
    for bit in 0..AMD[1].len() * 8 {
        assert!(verify(&[&SAMPLE.vcek, &flipped(AMD[1], bit)], &roots, &SAMPLE.report).is_err(), "bit {bit}");
    }
}

#[test]
fn the_report_has_exactly_its_size() {
    let chain = milan_chain();
    let longer = [SAMPLE.report.as_slice(), &[0]].concat();
    assert_fault(chain.check(&longer), Reason::Malformed, "the report has 1185 bytes, wanted 1184");
    assert_fault(chain.check(&SAMPLE.report[..1183]), Reason::Malformed, "the report has 1183 bytes, wanted 1184");
    assert_fault(chain.check(&[]), Reason::Malformed, "the report has 0 bytes, wanted 1184");
}

#[test]
fn sev_agrees_on_the_sample_and_on_what_is_changed_in_it() {
    let (ours, theirs) = (milan_chain(), builtin_chain());
    let vek = theirs.verify().unwrap();
    let accepts = |bytes: &[u8]| AttestationReport::from_bytes(bytes).is_ok_and(|report| (vek, &report).verify().is_ok());
    assert!(accepts(&SAMPLE.report) && ours.check(&SAMPLE.report).is_ok());
    let mut refused_by_sev = 0;
    for bit in (0..SAMPLE.report.len() * 8).step_by(61) {
        let changed = flipped(&SAMPLE.report, bit);
        assert!(ours.check(&changed).is_err());
        // That crate reads and writes the report before it verifies, and so loses bytes that are reserved; of R and S it
        // takes the lower 48 bytes.
        let theirs = accepts(&changed);
        refused_by_sev += usize::from(!theirs);
        assert!(!theirs || is_reserved(bit / 8), "byte {:#x}", bit / 8);
    }
    assert!(refused_by_sev > 60, "{refused_by_sev}");
}

fn is_reserved(byte: usize) -> bool {
    let reserved = [0x03a..0x03e, 0x04c..0x050, 0x182..0x186, 0x188..0x1a0, 0x1e2..0x1e6, 0x1eb..0x1ec, 0x1ef..0x1f0, 0x1f2..0x1f6];
    let policy_bit_17 = byte == 0x00a;
    policy_bit_17
        || reserved.iter().any(|range| range.contains(&byte))
        || (0x1f8..0x2a0).contains(&byte)
        || byte >= 0x2d0 && !(0x2e8..0x318).contains(&byte)
}

#[test]
fn sev_agrees_on_changed_certificates() {
    for bit in (0..SAMPLE.vcek.len() * 8).step_by(397) {
        let changed = flipped(&SAMPLE.vcek, bit);
        let theirs = SevCertificate::from_der(&changed).is_ok_and(|vek| {
            let chain = SevChain { vek, ..builtin_chain() };
            chain.verify().is_ok()
        });
        let certificates = Certificates::from_files([changed.as_slice()]);
        let ours = certificates.is_ok_and(|certificates| Chain::verify(&certificates, &Roots::amd().unwrap(), None, None).is_ok());
        // That crate takes the algorithm from inside what is signed, and does not compare the one outside with it.
        assert!(!ours && (!theirs || (771..843).contains(&(bit / 8))), "bit {bit}");
    }
}

/// For measuring.
pub(super) fn milan_vcek() -> &'static [u8] {
    &SAMPLE.vcek
}

/// For measuring.
pub(super) fn milan_report() -> &'static [u8] {
    &SAMPLE.report
}

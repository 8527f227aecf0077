//! Reports of every product and version are read as the crate `sev` reads them, and with the layout that they should have.

use super::assert_fault;
use crate::attest::Reason;
use crate::attest::snp::synthetic::{self, KEYS, put};
use crate::attest::snp::{Certificates, Chain, Cpuid, Endorsement, Product, REPORT_BYTES, Report, Root, SigningKey, TcbParts, TcbVersion};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::TcbVersion as SevTcb;
use sev::parser::ByteParser;

const VERSIONS: [u32; 3] = [2, 3, 5];

fn chain(product: Product, endorsement: Endorsement) -> Chain {
    let certificates = synthetic::certificates(product, endorsement);
    Chain::verify(&certificates, &synthetic::roots(product), None, Some(crate::attest::x509::forge::NOW)).unwrap()
}

#[test]
fn reports_of_every_product_key_and_version_are_genuine() {
    for product in Product::ALL {
        for endorsement in [Endorsement::Vcek, Endorsement::Vlek] {
            let chain = chain(product, endorsement);
            for version in VERSIONS {
                let bytes = synthetic::signed_report(product, endorsement, version);
                let genuine = chain.check(&bytes).unwrap();
                assert_eq!((genuine.product(), genuine.endorsement(), genuine.root()), (product, endorsement, Root::Given));
                assert_eq!(genuine.csp_id(), (endorsement == Endorsement::Vlek).then_some(synthetic::CSP_ID));
                assert_eq!(genuine.report(), &Report::parse(&bytes).unwrap());
            }
        }
    }
}

/// Every byte of a field gets its own value, so that a wrong offset shows.
fn varied(product: Product, version: u32) -> [u8; REPORT_BYTES] {
    let mut report = synthetic::blank_report(product, Endorsement::Vcek, version);
    let fields = [(0x004, 4), (0x010, 16), (0x020, 16), (0x030, 4), (0x050, 64), (0x090, 48), (0x0c0, 32), (0x0e0, 48), (0x110, 48)];
    let ids = [(0x140, 32), (0x160, 32), (0x1e8, 3), (0x1ec, 3)];
    for (offset, length) in fields.into_iter().chain(ids) {
        let bytes: Vec<u8> = (0..length).map(|index: usize| (index * 7 + offset / 5 + 1).to_le_bytes()[0]).collect();
        put(&mut report, offset, &bytes);
    }
    for (offset, step) in [(0x038, 1), (0x1e0, 2), (0x1f0, 3)] {
        let tcb = synthetic::tcb(product).map(|byte| if byte == 0 { 0 } else { byte + step });
        put(&mut report, offset, &tcb);
    }
    if version >= 5 {
        put(&mut report, 0x1f8, &(1..17).collect::<Vec<u8>>());
    }
    synthetic::sign_report(&mut report, &KEYS.leaf);
    report
}

#[test]
fn every_field_is_read_as_sev_reads_it() {
    for (product, version) in Product::ALL.into_iter().flat_map(|product| VERSIONS.map(|version| (product, version))) {
        let bytes = varied(product, version);
        let ours = Report::parse(&bytes).unwrap();
        let theirs = AttestationReport::from_bytes(&bytes).unwrap();
        assert_eq!((ours.version, ours.guest_svn, ours.vmpl), (theirs.version, theirs.guest_svn, theirs.vmpl));
        assert_eq!(ours.signature_algo, theirs.sig_algo);
        assert_eq!(ours.policy.bits(), u64::from(theirs.policy));
        assert_eq!(ours.platform_info.bits(), u64::from(theirs.plat_info));
        assert_eq!((ours.family_id, ours.image_id), (theirs.family_id, theirs.image_id));
        assert_eq!((ours.report_data, ours.measurement, ours.host_data), (theirs.report_data, theirs.measurement, theirs.host_data));
        assert_eq!((ours.id_key_digest, ours.author_key_digest), (theirs.id_key_digest, theirs.author_key_digest));
        assert_eq!((ours.report_id, ours.report_id_ma, ours.chip_id), (theirs.report_id, theirs.report_id_ma, theirs.chip_id));
        assert_eq!(ours.cpuid.map(|cpuid| cpuid.family), theirs.cpuid_fam_id);
        assert_eq!(ours.cpuid.map(|cpuid| cpuid.model), theirs.cpuid_mod_id);
        assert_eq!(ours.cpuid.map(|cpuid| cpuid.stepping), theirs.cpuid_step);
        assert_eq!((ours.launch_mit_vector, ours.current_mit_vector), (theirs.launch_mit_vector, theirs.current_mit_vector));
        for (ours, theirs) in [(ours.current, theirs.current), (ours.committed, theirs.committed)] {
            assert_eq!((ours.major, ours.minor, ours.build), (theirs.major, theirs.minor, theirs.build));
        }
        let ours = [ours.current_tcb, ours.reported_tcb, ours.committed_tcb, ours.launch_tcb];
        let theirs = [theirs.current_tcb, theirs.reported_tcb, theirs.committed_tcb, theirs.launch_tcb];
        assert_eq!(ours.map(|tcb| tcb.parts(product).unwrap()), theirs.map(parts));
    }
}

fn parts(tcb: SevTcb) -> TcbParts {
    TcbParts { fmc: tcb.fmc, bootloader: tcb.bootloader, tee: tcb.tee, snp: tcb.snp, microcode: tcb.microcode }
}

#[test]
fn what_a_policy_may_dislike_is_exposed_and_not_judged() {
    let chain = chain(Product::Genoa, Endorsement::Vcek);
    let mut report = synthetic::blank_report(Product::Genoa, Endorsement::Vcek, 3);
    put(&mut report, 0x008, &0x03ff_0107_u64.to_le_bytes());
    put(&mut report, 0x040, &0b1011_1111_u64.to_le_bytes());
    put(&mut report, 0x030, &3_u32.to_le_bytes());
    synthetic::sign_report(&mut report, &KEYS.leaf);
    let genuine = chain.check(&report).unwrap();
    let policy = genuine.report().policy;
    assert_eq!((policy.abi_major(), policy.abi_minor()), (1, 7));
    assert!(policy.smt_allowed() && policy.migration_agent_allowed() && policy.debug_allowed() && policy.single_socket_required());
    assert!(policy.cxl_allowed() && policy.aes_256_xts_required() && policy.rapl_off_required());
    assert!(policy.ciphertext_hiding_required() && policy.page_swap_disabled());
    let info = genuine.report().platform_info;
    assert!(info.smt_enabled() && info.tsme_enabled() && info.ecc_enabled() && info.rapl_disabled());
    assert!(info.ciphertext_hiding_enabled() && info.alias_check_complete() && info.tio_enabled());
    assert_eq!(genuine.report().vmpl, 3);
}

#[test]
fn each_bit_of_policy_and_platform_has_one_meaning() {
    let read = |policy: u64, platform: u64| {
        let mut report = synthetic::blank_report(Product::Milan, Endorsement::Vcek, 3);
        put(&mut report, 0x008, &(policy | 1 << 17).to_le_bytes());
        put(&mut report, 0x040, &platform.to_le_bytes());
        let report = Report::parse(&report).unwrap();
        (report.policy, report.platform_info)
    };
    let policy_bits = [16, 18, 19, 20, 21, 22, 23, 24, 25];
    for (index, bit) in policy_bits.into_iter().enumerate() {
        let (policy, _) = read(1 << bit, 0);
        let flags = [
            policy.smt_allowed(),
            policy.migration_agent_allowed(),
            policy.debug_allowed(),
            policy.single_socket_required(),
            policy.cxl_allowed(),
            policy.aes_256_xts_required(),
            policy.rapl_off_required(),
            policy.ciphertext_hiding_required(),
            policy.page_swap_disabled(),
        ];
        assert_eq!(flags, std::array::from_fn(|other| other == index));
    }
    for (index, bit) in [0, 1, 2, 3, 4, 5, 7].into_iter().enumerate() {
        let (_, info) = read(0, 1 << bit);
        let flags = [
            info.smt_enabled(),
            info.tsme_enabled(),
            info.ecc_enabled(),
            info.rapl_disabled(),
            info.ciphertext_hiding_enabled(),
            info.alias_check_complete(),
            info.tio_enabled(),
        ];
        assert_eq!(flags, std::array::from_fn(|other| other == index));
    }
}

#[test]
fn other_versions_of_the_report_are_refused() {
    let chain = chain(Product::Milan, Endorsement::Vcek);
    for version in [0, 1, 4, 6, 0x0100_0002] {
        let report = synthetic::signed_report(Product::Milan, Endorsement::Vcek, version);
        assert_fault(chain.check(&report), Reason::UnsupportedProduct, &format!("version {version}, wanted 2, 3 or 5"));
    }
}

#[test]
fn reserved_bytes_must_be_zero_even_if_they_are_signed() {
    let common = [0x04c, 0x04f, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x208, 0x29f];
    for version in VERSIONS {
        let chain = chain(Product::Milan, Endorsement::Vcek);
        let before_3: &[usize] = if version < 3 { &[0x188, 0x189, 0x18a] } else { &[] };
        let before_5: &[usize] = if version < 5 { &[0x1f8, 0x207] } else { &[] };
        for offset in common.iter().chain(before_3).chain(before_5) {
            let mut report = synthetic::blank_report(Product::Milan, Endorsement::Vcek, version);
            report[*offset] = 1;
            synthetic::sign_report(&mut report, &KEYS.leaf);
            assert_fault(chain.check(&report), Reason::Malformed, "wanted zero");
        }
    }
}

#[test]
fn reserved_bits_must_be_as_they_should_even_if_they_are_signed() {
    let chain = chain(Product::Milan, Endorsement::Vcek);
    let changes: [(usize, &[u8], &str); 6] = [
        (0x00a, &[0x01], "the guest policy is"),
        (0x00b, &[0x04], "the guest policy is"),
        (0x040, &[0x40], "the platform info is"),
        (0x041, &[0x01], "the platform info is"),
        (0x048, &[0x20], "the key info is"),
        (0x048, &[0x08], "the report's signing key is 2"),
    ];
    for (offset, bytes, words) in changes {
        let mut report = synthetic::blank_report(Product::Milan, Endorsement::Vcek, 3);
        put(&mut report, offset, bytes);
        synthetic::sign_report(&mut report, &KEYS.leaf);
        assert_fault(chain.check(&report), Reason::Malformed, words);
    }
}

#[test]
fn reserved_parts_of_firmware_versions_must_be_zero() {
    for (product, reserved) in [(Product::Milan, 2..6), (Product::Genoa, 2..6), (Product::Turin, 4..7)] {
        let chain = chain(product, Endorsement::Vcek);
        for (offset, byte) in [0x038, 0x1e0, 0x1f0].into_iter().flat_map(|offset| reserved.clone().map(move |byte| (offset, byte))) {
            let mut report = synthetic::blank_report(product, Endorsement::Vcek, 3);
            report[offset + byte] = 1;
            synthetic::sign_report(&mut report, &KEYS.leaf);
            assert_fault(chain.check(&report), Reason::Malformed, "reserved bytes that are not zero");
        }
    }
}

#[test]
fn firmware_versions_are_compared_part_by_part() {
    let parts = |bytes: [u8; 8], product| TcbVersion(bytes).parts(product).unwrap();
    let least = parts([3, 1, 0, 0, 0, 0, 8, 115], Product::Milan);
    assert!(least.meets(&least));
    assert!(parts([4, 1, 0, 0, 0, 0, 9, 115], Product::Milan).meets(&least));
    for older in [[2, 9, 0, 0, 0, 0, 9, 200], [9, 0, 0, 0, 0, 0, 9, 200], [9, 9, 0, 0, 0, 0, 7, 200], [9, 9, 0, 0, 0, 0, 9, 114]] {
        assert!(!parts(older, Product::Milan).meets(&least));
    }
    let turin = parts([9, 9, 9, 9, 0, 0, 0, 200], Product::Turin);
    assert!(!turin.meets(&least) && !least.meets(&turin));
    assert!(turin.meets(&parts([9, 9, 9, 9, 0, 0, 0, 0], Product::Turin)));
    assert!(!turin.meets(&parts([10, 9, 9, 9, 0, 0, 0, 0], Product::Turin)));
}

#[test]
fn products_are_told_by_processor_and_by_name() {
    let of = |family, model| Product::of_cpuid(Cpuid { family, model, stepping: 0 });
    assert_eq!([of(0x19, 0x00), of(0x19, 0x0f)], [Some(Product::Milan); 2]);
    assert_eq!([of(0x19, 0x10), of(0x19, 0x1f), of(0x19, 0xa0), of(0x19, 0xaf)], [Some(Product::Genoa); 4]);
    assert_eq!([of(0x1a, 0x00), of(0x1a, 0x02), of(0x1a, 0x11)], [Some(Product::Turin); 3]);
    assert_eq!([of(0x17, 0x31), of(0x19, 0x20), of(0x19, 0xb0), of(0x1a, 0x12), of(0x1a, 0x50), of(0, 0)], [None; 6]);
    assert_eq!([Product::of_name("Milan"), Product::of_name("Milan-B0")], [Some(Product::Milan); 2]);
    assert_eq!([Product::of_name("Genoa"), Product::of_name("Bergamo-A1"), Product::of_name("Siena")], [Some(Product::Genoa); 3]);
    assert_eq!(Product::of_name("Turin-B1"), Some(Product::Turin));
    assert_eq!([Product::of_name("Milano"), Product::of_name(""), Product::of_name("Venice"), Product::of_name("-Milan")], [None; 4]);
}

#[test]
fn a_report_can_be_asked_which_key_it_names_before_it_is_believed() {
    let mut certificates = Certificates::from_files([
        synthetic::leaf_der(Product::Milan, Endorsement::Vcek).as_slice(),
        &synthetic::leaf_der(Product::Milan, Endorsement::Vlek),
        &synthetic::issuer_der(Product::Milan, Endorsement::Vlek),
    ])
    .unwrap();
    assert_eq!(certificates.leaves().collect::<Vec<_>>(), [Endorsement::Vcek, Endorsement::Vlek]);
    let roots = synthetic::roots(Product::Milan);
    assert_fault(Chain::verify(&certificates, &roots, None, None), Reason::CertificateMismatch, "both a VCEK and a VLEK");
    let bytes = synthetic::signed_report(Product::Milan, Endorsement::Vlek, 3);
    assert_eq!(Report::parse(&bytes).unwrap().key_info.signing_key, SigningKey::Vlek);
    certificates = certificates.only(Endorsement::Vlek);
    assert!(Chain::verify(&certificates, &roots, None, None).unwrap().check(&bytes).is_ok());
}

//! Bytes at random: nothing panics, and evidence that was changed anywhere never verifies.

use super::verify;
use crate::attest::snp::synthetic::{self, HOW, KEYS, table};
use crate::attest::snp::{Certificates, Chain, Endorsement, Product, REPORT_BYTES, Report, Roots};
use crate::attest::x509::{Certificate, Crl};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::test_runner::{Config, RngSeed};
use std::sync::LazyLock;

/// Made once: keys are slow to make, and each case changes a copy.
struct Evidence {
    roots: Roots,
    chain: Chain,
    issuer: Vec<u8>,
    leaf: Vec<u8>,
    report: Vec<u8>,
}

static EVIDENCE: LazyLock<Vec<Evidence>> = LazyLock::new(|| {
    let kinds = [(Product::Milan, Endorsement::Vcek, 2), (Product::Genoa, Endorsement::Vlek, 3), (Product::Turin, Endorsement::Vcek, 5)];
    kinds.map(|(product, endorsement, version)| evidence(product, endorsement, version)).into()
});

fn evidence(product: Product, endorsement: Endorsement, version: u32) -> Evidence {
    let (issuer, leaf) = (synthetic::issuer_der(product, endorsement), synthetic::leaf_der(product, endorsement));
    let certificates = Certificates::from_files([issuer.as_slice(), &leaf]).unwrap();
    let roots = synthetic::roots(product);
    let chain = Chain::verify(&certificates, &roots, None, None).unwrap();
    Evidence { roots, chain, issuer, leaf, report: synthetic::signed_report(product, endorsement, version).to_vec() }
}

/// Texts that have the marks of PEM or lack some, and contents that are no certificate.
const LIKE_PEM: &str = "(-----BEGIN CERTIFICATE-----\n)?[A-Za-z0-9+/=\n]{0,200}(-----END CERTIFICATE-----)?[ \n]{0,3}";

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Config::default() }
}

/// Bytes to put in at places, told as parts of the whole so that they fit any length.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

fn changed(bytes: &[u8], changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (index, value) in changes {
        let place = index.index(bytes.len());
        bytes[place] = *value;
    }
    bytes
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Certificate::from_der(&bytes).is_err());
        prop_assert!(Certificate::many_from_pem(&bytes).is_err());
        prop_assert!(Crl::from_der(&bytes).is_err());
        prop_assert!(Report::parse(&bytes).is_err() || bytes.len() == REPORT_BYTES);
        prop_assert!(Certificates::from_files([bytes.as_slice()]).is_err());
        let _ = Certificates::from_table(&bytes);
    }

    #[test]
    fn no_report_of_the_right_size_makes_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), REPORT_BYTES)) {
        prop_assert!(EVIDENCE[0].chain.check(&bytes).is_err());
    }

    #[test]
    fn a_changed_report_never_verifies(which in 0..3_usize, changes in changes()) {
        let evidence = &EVIDENCE[which];
        let report = changed(&evidence.report, &changes);
        prop_assert_eq!(evidence.chain.check(&report).is_ok(), report == evidence.report);
    }

    #[test]
    fn a_changed_leaf_never_verifies(which in 0..3_usize, changes in changes()) {
        let evidence = &EVIDENCE[which];
        let leaf = changed(&evidence.leaf, &changes);
        let result = verify(&[&leaf, &evidence.issuer], &evidence.roots, &evidence.report);
        prop_assert_eq!(result.is_ok(), leaf == evidence.leaf);
    }

    #[test]
    fn a_changed_issuer_never_verifies(which in 0..3_usize, changes in changes()) {
        let evidence = &EVIDENCE[which];
        let issuer = changed(&evidence.issuer, &changes);
        let result = verify(&[&evidence.leaf, &issuer], &evidence.roots, &evidence.report);
        prop_assert_eq!(result.is_ok(), issuer == evidence.issuer);
    }

    #[test]
    fn a_changed_table_never_panics(changes in changes(), length in any::<prop::sample::Index>()) {
        let evidence = &EVIDENCE[0];
        let entries: [(&str, &[u8]); 2] =
            [("4ab7b379-bbac-4fe4-a02f-05aef327c782", &evidence.issuer), ("63da758d-e664-4564-adc5-f4b93be8accd", &evidence.leaf)];
        let table = table(&entries);
        let mut head = changed(&table[..72], &changes);
        head.extend_from_slice(&table[72..]);
        let _ = Certificates::from_table(&head);
        prop_assert!(Certificates::from_table(&table[..length.index(table.len())]).is_err());
    }

    #[test]
    fn a_changed_list_is_never_believed(changes in changes()) {
        static LIST: LazyLock<Vec<u8>> = LazyLock::new(|| synthetic::crl(Product::Milan, &[&[9]]).sign(&KEYS.ark, HOW));
        static ARK: LazyLock<Certificate> = LazyLock::new(|| Certificate::from_der(&synthetic::ark_der(Product::Milan)).unwrap());
        let list = changed(&LIST, &changes);
        let believed = Crl::from_der(&list).and_then(|crl| crl.check(&ARK, None)).is_ok();
        prop_assert_eq!(believed, list == *LIST);
    }

    #[test]
    fn no_text_makes_the_reader_of_pem_panic(text in LIKE_PEM) {
        prop_assert!(Certificate::many_from_pem(text.as_bytes()).is_err());
        prop_assert!(Certificate::many_from_bytes(text.as_bytes()).is_err());
    }
}

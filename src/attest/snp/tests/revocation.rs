//! Lists of revoked certificates: what they take back is refused, and no list but a right one counts.

use super::assert_fault;
use crate::attest::snp::synthetic::{self, ASK_SERIAL, HOW, KEYS, VLEK_SERIAL, name};
use crate::attest::snp::{Certificates, Chain, Endorsement, Product};
use crate::attest::x509::Crl;
use crate::attest::x509::ObjectIdentifier;
use crate::attest::x509::forge::{BlankCrl, Key, NOW, extension};
use crate::attest::{Fault, Reason};

const MILAN: Product = Product::Milan;

fn with_crl(endorsement: Endorsement, blank: &BlankCrl, key: &Key, now: Option<u64>) -> Result<Chain, Fault> {
    let crl = Crl::from_der(&blank.sign(key, HOW))?;
    Chain::verify(&synthetic::certificates(MILAN, endorsement), &synthetic::roots(MILAN), Some(&crl), now)
}

#[test]
fn a_list_that_names_neither_lets_both_pass() {
    for endorsement in [Endorsement::Vcek, Endorsement::Vlek] {
        for serials in [&[][..], &[&[9][..], &[1, 2, 3]]] {
            let chain = with_crl(endorsement, &synthetic::crl(MILAN, serials), &KEYS.ark, Some(NOW)).unwrap();
            assert!(chain.revocation_checked());
        }
        let certificates = synthetic::certificates(MILAN, endorsement);
        assert!(!Chain::verify(&certificates, &synthetic::roots(MILAN), None, None).unwrap().revocation_checked());
    }
}

#[test]
fn what_the_list_names_is_revoked() {
    for endorsement in [Endorsement::Vcek, Endorsement::Vlek] {
        let list = synthetic::crl(MILAN, &[&[9], &ASK_SERIAL]);
        assert_fault(with_crl(endorsement, &list, &KEYS.ark, Some(NOW)), Reason::Revoked, "is on the revocation list");
    }
    let list = synthetic::crl(MILAN, &[&VLEK_SERIAL]);
    assert_fault(with_crl(Endorsement::Vlek, &list, &KEYS.ark, Some(NOW)), Reason::Revoked, "\"SEV-VLEK\" is on the revocation list");
    // VCEKs all have the serial number zero: it names none of them.
    let list = synthetic::crl(MILAN, &[&[0]]);
    assert!(with_crl(Endorsement::Vcek, &list, &KEYS.ark, Some(NOW)).is_ok());
}

#[test]
fn a_vcek_with_a_serial_number_is_revoked_by_it() {
    let mut leaf = synthetic::vcek(MILAN);
    leaf.serial = vec![77];
    let files = [leaf.sign(&KEYS.ask, HOW), synthetic::issuer_der(MILAN, Endorsement::Vcek)];
    let certificates = Certificates::from_files(files.iter().map(Vec::as_slice)).unwrap();
    let crl = Crl::from_der(&synthetic::crl(MILAN, &[&[77]]).sign(&KEYS.ark, HOW)).unwrap();
    let result = Chain::verify(&certificates, &synthetic::roots(MILAN), Some(&crl), Some(NOW));
    assert_fault(result, Reason::Revoked, "\"SEV-VCEK\" is on the revocation list");
}

#[test]
fn a_list_of_somebody_else_is_refused() {
    let list = synthetic::crl(MILAN, &[]);
    for key in [&KEYS.forger, &KEYS.ask] {
        assert_fault(with_crl(Endorsement::Vcek, &list, key, Some(NOW)), Reason::RevocationListInvalid, "is not signed by");
    }
    let other = synthetic::crl(Product::Genoa, &[]);
    assert_fault(with_crl(Endorsement::Vcek, &other, &KEYS.ark, Some(NOW)), Reason::RevocationListInvalid, "the revocation list is of");
    let of_ask = BlankCrl { issuer: name("SEV-Milan"), ..list };
    assert_fault(with_crl(Endorsement::Vcek, &of_ask, &KEYS.ask, Some(NOW)), Reason::RevocationListInvalid, "the revocation list is of");
}

#[test]
fn a_list_counts_in_its_time_only() {
    let list = synthetic::crl(MILAN, &[]);
    for now in [list.this_update, list.next_update.unwrap()] {
        assert!(with_crl(Endorsement::Vcek, &list, &KEYS.ark, Some(now)).is_ok());
    }
    for now in [list.this_update - 1, list.next_update.unwrap() + 1] {
        assert_fault(with_crl(Endorsement::Vcek, &list, &KEYS.ark, Some(now)), Reason::RevocationListInvalid, "is for the time from");
    }
    let endless = BlankCrl { next_update: None, ..list };
    assert_fault(with_crl(Endorsement::Vcek, &endless, &KEYS.ark, Some(NOW)), Reason::RevocationListInvalid, "when the next one is due");
    assert!(with_crl(Endorsement::Vcek, &endless, &KEYS.ark, None).is_ok());
}

#[test]
fn a_partial_list_is_not_taken_for_a_whole_one() {
    let partial = extension(ObjectIdentifier::new("2.5.29.28").unwrap(), true, &[0x30, 0]);
    let list = BlankCrl { extensions: Some(vec![partial]), ..synthetic::crl(MILAN, &[]) };
    assert_fault(Crl::from_der(&list.sign(&KEYS.ark, HOW)), Reason::RevocationListInvalid, "has the critical extension 2.5.29.28");
}

#[test]
fn a_list_that_cannot_be_read_is_refused() {
    let der = synthetic::crl(MILAN, &[&[9]]).sign(&KEYS.ark, HOW);
    assert!(Crl::from_der(&der).is_ok());
    for wrong in [&der[..der.len() - 1], &[&der[..], &[0]].concat(), &[], &vec![0x30; 300_000]] {
        assert_fault(Crl::from_der(wrong), Reason::RevocationListInvalid, "the revocation list");
    }
}

#[test]
fn a_list_that_came_along_can_only_take_trust_away() {
    let (product, kind) = (MILAN, Endorsement::Vcek);
    let certificates = |list: Vec<u8>| {
        let (ask, leaf) = (synthetic::issuer_der(product, kind), synthetic::leaf_der(product, kind));
        let entries: [(&str, &[u8]); 3] = [
            ("4ab7b379-bbac-4fe4-a02f-05aef327c782", &ask),
            ("63da758d-e664-4564-adc5-f4b93be8accd", &leaf),
            ("92f81bc3-5811-4d3d-97ff-d19f88dc67ea", &list),
        ];
        Certificates::from_table(&synthetic::table(&entries)).unwrap()
    };
    let roots = synthetic::roots(product);
    let long_after = Some(NOW + 1_000_000);
    let empty = certificates(synthetic::crl(product, &[]).sign(&KEYS.ark, HOW));
    assert!(!Chain::verify(&empty, &roots, None, long_after).unwrap().revocation_checked());
    let naming = certificates(synthetic::crl(product, &[&ASK_SERIAL]).sign(&KEYS.ark, HOW));
    assert_fault(Chain::verify(&naming, &roots, None, long_after), Reason::Revoked, "is on the revocation list");
    let forged = certificates(synthetic::crl(product, &[]).sign(&KEYS.forger, HOW));
    assert_fault(Chain::verify(&forged, &roots, None, None), Reason::RevocationListInvalid, "is not signed by");
}

//! The host's table of certificates: what is well formed is read, and whatever reaches beyond its place is refused.

use super::assert_fault;
use crate::attest::Reason;
use crate::attest::snp::synthetic::{self, guid_bytes, table};
use crate::attest::snp::{Certificates, Chain, Endorsement, Product, Roots};
use crate::attest::x509::Certificate;
use sev::firmware::host::CertTableEntry;

const ARK: &str = "c0b406a4-a803-4952-9743-3fb6014cd0ae";
const ASK: &str = "4ab7b379-bbac-4fe4-a02f-05aef327c782";
const VCEK: &str = "63da758d-e664-4564-adc5-f4b93be8accd";
const VLEK: &str = "a8074bc2-a25a-483e-aae6-39c045a0b8a1";
const OTHER: &str = "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6";
const MILAN: Product = Product::Milan;

fn set(endorsement: Endorsement) -> [Vec<u8>; 3] {
    [synthetic::ark_der(MILAN), synthetic::issuer_der(MILAN, endorsement), synthetic::leaf_der(MILAN, endorsement)]
}

fn head(entries: &[(&str, u32, u32)], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (guid, offset, length) in entries {
        bytes.extend(guid_bytes(guid));
        bytes.extend(offset.to_le_bytes());
        bytes.extend(length.to_le_bytes());
    }
    bytes.resize(size, 0);
    bytes
}

#[test]
fn tables_of_both_kinds_lead_to_a_chain() {
    for (endorsement, guid) in [(Endorsement::Vcek, VCEK), (Endorsement::Vlek, VLEK)] {
        let [ark, ask, leaf] = set(endorsement);
        let mut bytes = table(&[(ARK, &ark), (OTHER, &[1, 2, 3]), (ASK, &ask), (guid, &leaf)]);
        bytes.resize(20_000, 0);
        let certificates = Certificates::from_table(&bytes).unwrap();
        assert!(certificates.crl().is_none());
        let wanted = [leaf, ask, ark].map(|der| Certificate::from_der(&der).unwrap());
        let chain = Chain::verify(&certificates, &Roots::given(vec![wanted[2].clone()]).unwrap(), None, None).unwrap();
        assert_eq!((chain.endorsement(), chain.certificates()), (endorsement, &wanted));
    }
}

#[test]
fn tables_are_laid_out_as_sev_lays_them_out() {
    let [ark, ask, leaf] = set(Endorsement::Vcek);
    let entries = [(ARK, &ark), (ASK, &ask), (VCEK, &leaf)];
    let theirs: Vec<CertTableEntry> =
        entries.iter().map(|(guid, bytes)| CertTableEntry::from_guid(&guid.parse().unwrap(), bytes.to_vec()).unwrap()).collect();
    let bytes = CertTableEntry::cert_table_to_vec_bytes(&theirs).unwrap();
    assert!(Certificates::from_table(&bytes).is_ok());
    let mut ours = table(&entries.map(|(guid, bytes)| (guid, bytes.as_slice())));
    let mut read = CertTableEntry::vec_bytes_to_cert_table(&mut ours).unwrap();
    read.sort_by_key(|entry| entry.guid_string());
    let mut wanted = theirs;
    wanted.sort_by_key(|entry| entry.guid_string());
    assert_eq!(read, wanted);
}

#[test]
fn a_table_may_hold_pem() {
    let pem = |der: &[u8]| {
        let ending = x509_cert::der::pem::LineEnding::LF;
        x509_cert::der::pem::encode_string("CERTIFICATE", ending, der).unwrap().into_bytes()
    };
    let [_, ask, leaf] = set(Endorsement::Vcek).map(|der| pem(&der));
    assert!(Certificates::from_table(&table(&[(ASK, &ask), (VCEK, &leaf)])).is_ok());
    let both = [ask.clone(), leaf.clone()].concat();
    assert_fault(Certificates::from_table(&table(&[(VCEK, &both)])), Reason::Malformed, "has 2 certificates, wanted one");
    assert!(Certificates::from_files([both.as_slice()]).is_ok());
}

#[test]
fn entries_that_reach_beyond_the_table() {
    let size = 4096;
    let far = u32::MAX;
    for (offset, length) in [(48, 4049), (4096, 1), (4000, 97), (far, 1), (48, far), (far, far), (0x8000_0000, 0x8000_0000), (48, 0)] {
        let bytes = head(&[(VCEK, offset, length)], size);
        assert_fault(Certificates::from_table(&bytes), Reason::Malformed, "wanted some within its 4096");
    }
}

#[test]
fn entries_that_overlap_each_other_or_the_head() {
    for entries in [
        vec![(OTHER, 0, 10)],
        vec![(OTHER, 47, 10)],
        vec![(OTHER, 72, 100), (VCEK, 171, 10)],
        vec![(OTHER, 171, 10), (VCEK, 72, 100)],
        vec![(OTHER, 100, 100), (VCEK, 100, 100)],
        vec![(OTHER, 100, 100), (VCEK, 120, 10)],
    ] {
        assert_fault(Certificates::from_table(&head(&entries, 4096)), Reason::Malformed, "or later");
    }
    assert!(Certificates::from_table(&head(&[(OTHER, 48, 10)], 4096)).is_ok());
}

#[test]
fn entries_that_come_twice_or_too_often() {
    let bytes = head(&[(OTHER, 100, 10), (OTHER, 200, 10)], 4096);
    assert_fault(Certificates::from_table(&bytes), Reason::Malformed, "twice, wanted it once");
    let guids: Vec<String> = (1..18).map(|index| format!("00000000-0000-0000-0000-0000000000{index:02}")).collect();
    let many: Vec<(&str, u32, u32)> = guids.iter().zip(0..).map(|(guid, index)| (guid.as_str(), 1000 + index, 1)).collect();
    assert_fault(Certificates::from_table(&head(&many, 4096)), Reason::Malformed, "more than 16 entries");
    assert!(Certificates::from_table(&head(&many[..16], 4096)).is_ok());
}

#[test]
fn tables_without_an_end_or_too_large() {
    for bytes in [vec![], vec![0; 23], head(&[(OTHER, 0, 1)], 24), head(&[(OTHER, 24, 1)], 47)] {
        assert_fault(Certificates::from_table(&bytes), Reason::Malformed, "does not end with an empty entry");
    }
    assert_fault(Certificates::from_table(&vec![0; 32 * 1024 + 1]), Reason::Malformed, "32769 bytes, wanted at most 32768");
    let empty = Certificates::from_table(&vec![0; 32 * 1024]).unwrap();
    assert_fault(Chain::verify(&empty, &synthetic::roots(MILAN), None, None), Reason::CertificateMissing, "no VCEK or VLEK");
}

#[test]
fn certificates_in_a_place_of_another_kind() {
    let [ark, ask, leaf] = set(Endorsement::Vcek);
    for (guid, der) in [(ARK, &ask), (ASK, &ark), (ARK, &leaf), (VLEK, &leaf), (VCEK, &ask), (ASK, &leaf)] {
        assert_fault(Certificates::from_table(&table(&[(guid, der)])), Reason::CertificateMismatch, "where");
    }
    assert_fault(Certificates::from_table(&table(&[(VCEK, &[1, 2, 3])])), Reason::Malformed, "cannot be read as DER");
}

#[test]
fn files_that_contradict_each_other_or_are_too_large() {
    let [_, ask, _] = set(Endorsement::Vcek);
    let other = synthetic::ask(MILAN).sign(&synthetic::KEYS.forger, synthetic::HOW);
    let result = Certificates::from_files([ask.as_slice(), &other]);
    assert_fault(result, Reason::Malformed, "two different certificates of the ASK of Milan");
    assert!(Certificates::from_files([ask.as_slice(), &ask]).is_ok());
    let repeated = vec![ask.as_slice(); 40];
    assert_fault(Certificates::from_files(repeated), Reason::Malformed, "wanted at most 32768");
}

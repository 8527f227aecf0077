//! What a verifier passes over if it forgets one check: each is right in everything else, and refused.

use super::{assert_fault, verify};
use crate::attest::Reason;
use crate::attest::snp::synthetic::{self, HOW, KEYS, amd_oid, name, number, put};
use crate::attest::snp::{Certificates, Chain, Endorsement, Product, Roots};
use crate::attest::x509::Certificate;
use crate::attest::x509::forge::{self, Blank, How, NOW, Sha, YEAR, authority, basic_constraints, extension, ia5, key_usage};
use x509_cert::der::Encode;
use x509_cert::der::asn1::OctetStringRef;
use x509_cert::ext::pkix::KeyUsages;

const MILAN: Product = Product::Milan;

/// Verifies a synthetic VCEK that was changed before it was signed, with the report that fits the right one.
fn with_vcek(product: Product, change: impl Fn(&mut Blank)) -> Result<crate::attest::snp::Genuine, crate::attest::Fault> {
    let mut blank = synthetic::vcek(product);
    change(&mut blank);
    let leaf = blank.sign(&KEYS.ask, HOW);
    let report = synthetic::signed_report(product, Endorsement::Vcek, 3);
    verify(&[&leaf, &synthetic::issuer_der(product, Endorsement::Vcek)], &synthetic::roots(product), &report)
}

/// Judges a report that was changed before it was signed by the right key.
fn with_report(endorsement: Endorsement, change: impl Fn(&mut [u8; 1184])) -> Result<crate::attest::snp::Genuine, crate::attest::Fault> {
    let mut report = synthetic::blank_report(MILAN, endorsement, 3);
    change(&mut report);
    synthetic::sign_report(&mut report, &KEYS.leaf);
    Chain::verify(&synthetic::certificates(MILAN, endorsement), &synthetic::roots(MILAN), None, None).unwrap().check(&report)
}

fn set(blank: &mut Blank, tail: &str, value: &[u8]) {
    let oid = amd_oid(tail);
    blank.extensions.retain(|extension| extension.extn_id != oid);
    blank.extensions.push(extension(oid, false, value));
}

fn remove(blank: &mut Blank, tail: &str) {
    blank.extensions.retain(|extension| extension.extn_id != amd_oid(tail));
}

#[test]
fn nothing_is_wrong_with_what_is_not_changed() {
    for product in Product::ALL {
        assert!(with_vcek(product, |_| {}).is_ok());
    }
    assert!(with_report(Endorsement::Vcek, |_| {}).is_ok());
    assert!(with_report(Endorsement::Vlek, |_| {}).is_ok());
}

#[test]
fn the_certificate_of_another_chip() {
    for product in Product::ALL {
        let mut other = synthetic::chip_id(product)[..product.chip_id_bytes()].to_vec();
        *other.last_mut().unwrap() ^= 1;
        assert_fault(with_vcek(product, |blank| set(blank, "4", &other)), Reason::CertificateMismatch, "the report is of the chip");
    }
}

#[test]
fn an_identifier_of_another_length_or_of_zeros_is_no_chip() {
    for wrong in [vec![0; 64], vec![1; 63], vec![1; 65], vec![1; 8], vec![]] {
        assert_fault(with_vcek(MILAN, |blank| set(blank, "4", &wrong)), Reason::CertificateMismatch, "an identifier of 64 bytes");
    }
    let whole = synthetic::chip_id(Product::Turin);
    assert_fault(with_vcek(Product::Turin, |blank| set(blank, "4", &whole)), Reason::CertificateMismatch, "an identifier of 8 bytes");
}

#[test]
fn an_identifier_wrapped_as_the_specification_says_is_taken() {
    for product in Product::ALL {
        let chip = synthetic::chip_id(product);
        let wrapped = OctetStringRef::new(&chip[..product.chip_id_bytes()]).unwrap().to_der().unwrap();
        assert!(with_vcek(product, |blank| set(blank, "4", &wrapped)).is_ok());
    }
}

#[test]
fn firmware_in_the_certificate_one_lower_or_higher_than_in_the_report() {
    for (product, tails) in [(MILAN, vec!["1", "2", "3", "8"]), (Product::Turin, vec!["9", "1", "2", "3", "8"])] {
        for tail in tails {
            let tail = format!("3.{tail}");
            let right = synthetic::vcek(product).extensions.into_iter().find(|extension| extension.extn_id == amd_oid(&tail)).unwrap();
            let value = *right.extn_value.as_bytes().last().unwrap();
            for wrong in [value - 1, value + 1] {
                let result = with_vcek(product, |blank| set(blank, &tail, number(&tail, wrong).extn_value.as_bytes()));
                assert_fault(result, Reason::CertificateMismatch, "the report is for the firmware version");
            }
        }
    }
}

#[test]
fn a_layout_of_firmware_of_another_product() {
    let result = with_vcek(MILAN, |blank| set(blank, "3.9", number("3.9", 0).extn_value.as_bytes()));
    assert_fault(result, Reason::CertificateMismatch, "has the extension 1.3.6.1.4.1.3704.1.3.9, wanted none");
    let result = with_vcek(Product::Turin, |blank| set(blank, "3.4", number("3.4", 0).extn_value.as_bytes()));
    assert_fault(result, Reason::CertificateMismatch, "has the extension 1.3.6.1.4.1.3704.1.3.4, wanted none");
    let result = with_vcek(MILAN, |blank| set(blank, "3.4", number("3.4", 1).extn_value.as_bytes()));
    assert_fault(result, Reason::Malformed, "reserved bytes that are not zero");
}

#[test]
fn a_certificate_that_lacks_an_extension_or_has_it_wrong() {
    for tail in ["1", "2", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "4"] {
        assert_fault(with_vcek(MILAN, |blank| remove(blank, tail)), Reason::CertificateMismatch, "lacks the extension");
    }
    for wrong in [&[][..], &[2, 1], &[2, 2, 1, 0], &[2, 1, 0xff], &[4, 1, 3], &[2, 1, 3, 0]] {
        assert_fault(with_vcek(MILAN, |blank| set(blank, "3.1", wrong)), Reason::CertificateMismatch, "is not a number from 0 to 255");
    }
    for wrong in [&[][..], &[4, 5, b'M', b'i', b'l', b'a', b'n'], b"Milan"] {
        assert_fault(with_vcek(MILAN, |blank| set(blank, "2", wrong)), Reason::CertificateMismatch, "is not a text");
    }
    let result = with_vcek(MILAN, |blank| set(blank, "1", number("1", 2).extn_value.as_bytes()));
    assert_fault(result, Reason::UnsupportedProduct, "version 2, wanted 0 or 1");
}

#[test]
fn an_extension_that_comes_twice() {
    let result = with_vcek(MILAN, |blank| blank.extensions.push(number("3.8", 209)));
    assert_fault(result, Reason::Malformed, "twice, wanted it once");
}

#[test]
fn a_report_that_names_another_product() {
    let result = with_report(Endorsement::Vcek, |report| put(report, 0x188, &synthetic::cpuid(Product::Genoa)));
    assert_fault(result, Reason::CertificateMismatch, "the report is of a Genoa, and the certificate for a Milan");
    let result = with_report(Endorsement::Vcek, |report| put(report, 0x188, &[0x1a, 0x50, 0]));
    assert_fault(result, Reason::UnsupportedProduct, "family 0x1a and model 0x50");
}

#[test]
fn a_certificate_that_names_another_product() {
    let result = with_vcek(MILAN, |blank| set(blank, "2", &ia5("Genoa-B1")));
    assert_fault(result, Reason::CertificateMissing, "the ASK of Genoa is needed");
    let result = with_vcek(MILAN, |blank| set(blank, "2", &ia5("Venice-A0")));
    assert_fault(result, Reason::UnsupportedProduct, "\"Venice-A0\"");
}

#[test]
fn a_report_of_a_vlek_with_a_vcek_and_the_other_way_round() {
    for (leaf, named, words) in [
        (Endorsement::Vcek, 4_u8, "a VLEK signed it, and the certificate is of a VCEK"),
        (Endorsement::Vlek, 0, "a VCEK signed it, and the certificate is of a VLEK"),
    ] {
        assert_fault(with_report(leaf, |report| report[0x048] = named), Reason::CertificateMismatch, words);
    }
}

#[test]
fn a_report_that_was_not_signed() {
    let result = with_report(Endorsement::Vcek, |report| report[0x048] = 7 << 2);
    assert_fault(result, Reason::SignatureInvalid, "not signed");
    let result = with_report(Endorsement::Vcek, |report| report[0x048] = 2);
    assert_fault(result, Reason::CertificateMismatch, "masked");
    let result = with_report(Endorsement::Vcek, |report| report[0x034] = 0);
    assert_fault(result, Reason::SignatureInvalid, "signature algorithm is 0, wanted 1");
    let result = with_report(Endorsement::Vcek, |report| report[0x034] = 2);
    assert_fault(result, Reason::SignatureInvalid, "signature algorithm is 2, wanted 1");
}

#[test]
fn a_masked_chip_fits_a_vlek_only() {
    let mask = |report: &mut [u8; 1184]| put(report, 0x1a0, &[0; 64]);
    assert_fault(with_report(Endorsement::Vcek, mask), Reason::CertificateMismatch, "masked (zero)");
    assert!(with_report(Endorsement::Vlek, mask).is_ok());
    let and_key = |report: &mut [u8; 1184]| {
        mask(report);
        report[0x048] |= 2;
    };
    assert!(with_report(Endorsement::Vlek, and_key).is_ok());
}

#[test]
fn a_chip_of_turin_with_more_than_eight_bytes() {
    let mut report = synthetic::blank_report(Product::Turin, Endorsement::Vcek, 3);
    report[0x1a8] = 1;
    synthetic::sign_report(&mut report, &KEYS.leaf);
    let certificates = synthetic::certificates(Product::Turin, Endorsement::Vcek);
    let chain = Chain::verify(&certificates, &synthetic::roots(Product::Turin), None, None).unwrap();
    assert_fault(chain.check(&report), Reason::Malformed, "chip identifier goes on with 01");
}

#[test]
fn a_vcek_through_an_asvk_and_a_vlek_through_an_ask() {
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    let roots = synthetic::roots(MILAN);
    let asvk = synthetic::issuer_der(MILAN, Endorsement::Vlek);
    let ask = synthetic::issuer_der(MILAN, Endorsement::Vcek);
    let mut vcek = synthetic::vcek(MILAN);
    vcek.issuer = name("SEV-VLEK-Milan");
    let vcek = vcek.sign(&KEYS.asvk, HOW);
    assert_fault(verify(&[&vcek, &asvk], &roots, &report), Reason::CertificateMissing, "the ASK of Milan is needed");
    assert_fault(verify(&[&vcek, &asvk, &ask], &roots, &report), Reason::ChainInvalid, "was issued by");
    let mut vlek = synthetic::vlek(MILAN);
    vlek.issuer = name("SEV-Milan");
    let vlek = vlek.sign(&KEYS.ask, HOW);
    assert_fault(verify(&[&vlek, &ask], &roots, &report), Reason::CertificateMissing, "the ASVK of Milan is needed");
    assert_fault(verify(&[&vlek, &asvk, &ask], &roots, &report), Reason::ChainInvalid, "was issued by");
}

#[test]
fn a_leaf_that_is_both_or_neither() {
    let result = with_vcek(MILAN, |blank| set(blank, "5", &ia5("cloud")));
    assert_fault(result, Reason::CertificateMismatch, "has the extension 1.3.6.1.4.1.3704.1.5, wanted none");
    let result = with_vcek(MILAN, |blank| blank.subject = name("SEV-VLEK"));
    assert_fault(result, Reason::CertificateMismatch, "has the extension 1.3.6.1.4.1.3704.1.4, wanted none");
    let result = with_vcek(MILAN, |blank| blank.subject = name("SEV-OTHER"));
    assert_fault(result, Reason::CertificateMismatch, "not one of an ARK, ASK, ASVK, VCEK or VLEK");
    let result = with_vcek(MILAN, |blank| blank.extensions.push(basic_constraints(true, None)));
    assert_fault(result, Reason::CertificateMismatch, "not one of an ARK, ASK, ASVK, VCEK or VLEK");
}

#[test]
fn a_chain_of_one_product_with_a_leaf_of_another() {
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    let leaf = synthetic::leaf_der(MILAN, Endorsement::Vcek);
    let genoa_ask = synthetic::issuer_der(Product::Genoa, Endorsement::Vcek);
    let result = verify(&[&leaf, &genoa_ask], &synthetic::roots(Product::Genoa), &report);
    assert_fault(result, Reason::CertificateMissing, "the ASK of Milan is needed");
    let ask = synthetic::issuer_der(MILAN, Endorsement::Vcek);
    let result = verify(&[&leaf, &ask], &synthetic::roots(Product::Genoa), &report);
    assert_fault(result, Reason::ChainInvalid, "no trusted root of Milan");
    let mut leaf = synthetic::vcek(MILAN);
    leaf.issuer = name("SEV-Genoa");
    let leaf = leaf.sign(&KEYS.ask, HOW);
    let both = Roots::given(Product::ALL.map(|product| Certificate::from_der(&synthetic::ark_der(product)).unwrap()).to_vec()).unwrap();
    assert_fault(verify(&[&leaf, &genoa_ask, &ask], &both, &report), Reason::ChainInvalid, "was issued by");
}

#[test]
fn an_ask_or_a_leaf_as_root() {
    let ask = Certificate::from_der(&synthetic::issuer_der(MILAN, Endorsement::Vcek)).unwrap();
    assert_fault(Roots::given(vec![ask]).map(drop), Reason::CertificateMismatch, "it is the ASK of Milan");
    let leaf = Certificate::from_der(&synthetic::leaf_der(MILAN, Endorsement::Vcek)).unwrap();
    assert_fault(Roots::given(vec![leaf]).map(drop), Reason::CertificateMismatch, "it is the VCEK");
    assert_fault(Roots::given(Vec::new()).map(drop), Reason::CertificateMissing, "no root certificate");
    let mut renamed = synthetic::ask(MILAN);
    renamed.subject = name("ARK-Milan");
    let renamed = Certificate::from_der(&renamed.sign(&KEYS.ark, HOW)).unwrap();
    assert_fault(Roots::given(vec![renamed]).map(drop), Reason::SignatureInvalid, "not signed by");
}

#[test]
fn a_self_made_root_with_the_right_name() {
    let forged_ark = {
        let mut ark = synthetic::ark(MILAN);
        ark.info = KEYS.forger.info();
        ark.sign(&KEYS.forger, HOW)
    };
    let ask = synthetic::ask(MILAN).sign(&KEYS.forger, HOW);
    let leaf = synthetic::leaf_der(MILAN, Endorsement::Vcek);
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    for roots in [synthetic::roots(MILAN), Roots::amd().unwrap()] {
        let result = verify(&[&leaf, &ask, &forged_ark], &roots, &report);
        let fault = result.unwrap_err();
        assert!([Reason::SignatureInvalid, Reason::ChainInvalid].contains(&fault.reason), "{fault}");
    }
    let forged = Roots::given(vec![Certificate::from_der(&forged_ark).unwrap()]).unwrap();
    let genuine = verify(&[&leaf, &ask], &forged, &report).unwrap();
    assert_eq!(genuine.root(), crate::attest::snp::Root::Given);
}

#[test]
fn a_synthetic_set_never_leads_to_amd() {
    for product in Product::ALL {
        let report = synthetic::signed_report(product, Endorsement::Vcek, 3);
        let leaf = synthetic::leaf_der(product, Endorsement::Vcek);
        let ask = synthetic::issuer_der(product, Endorsement::Vcek);
        let amd = Roots::amd().unwrap();
        assert!(verify(&[&leaf], &amd, &report).is_err());
        assert!(verify(&[&leaf, &ask, &synthetic::ark_der(product)], &amd, &report).is_err());
    }
}

#[test]
fn a_leaf_signed_by_itself_by_the_root_or_by_somebody() {
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    let ask = synthetic::issuer_der(MILAN, Endorsement::Vcek);
    let roots = synthetic::roots(MILAN);
    for key in [&KEYS.ark, &KEYS.asvk, &KEYS.forger] {
        let leaf = synthetic::vcek(MILAN).sign(key, HOW);
        assert_fault(verify(&[&leaf, &ask], &roots, &report), Reason::SignatureInvalid, "is not signed by");
    }
}

#[test]
fn an_intermediate_that_may_not_issue() {
    let leaf = synthetic::leaf_der(MILAN, Endorsement::Vcek);
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    let with_ask = |change: &dyn Fn(&mut Blank)| {
        let mut ask = synthetic::ask(MILAN);
        change(&mut ask);
        verify(&[&leaf, &ask.sign(&KEYS.ark, HOW)], &synthetic::roots(MILAN), &report)
    };
    assert!(with_ask(&|_| {}).is_ok());
    let no_authority = with_ask(&|ask| ask.extensions = vec![basic_constraints(false, None), key_usage(KeyUsages::KeyCertSign)]);
    assert_fault(no_authority, Reason::CertificateMismatch, "not one of an ARK, ASK");
    let no_signing = with_ask(&|ask| ask.extensions = vec![basic_constraints(true, None), key_usage(KeyUsages::CRLSign)]);
    assert_fault(no_signing, Reason::ChainInvalid, "lacks keyCertSign");
    let critical = with_ask(&|ask| ask.extensions.push(extension(amd_oid("99"), true, &[5, 0])));
    assert_fault(critical, Reason::ChainInvalid, "has the critical extension");
    let mut ark = synthetic::ark(MILAN);
    ark.extensions = authority(Some(0));
    let roots = Roots::given(vec![Certificate::from_der(&ark.sign(&KEYS.ark, HOW)).unwrap()]).unwrap();
    let ask = synthetic::issuer_der(MILAN, Endorsement::Vcek);
    assert_fault(verify(&[&leaf, &ask], &roots, &report), Reason::ChainInvalid, "allows 0 intermediate certificates below it, found 1");
}

#[test]
fn certificates_that_are_not_valid_at_the_time() {
    let certificates = synthetic::certificates(MILAN, Endorsement::Vcek);
    let roots = synthetic::roots(MILAN);
    for now in [NOW - YEAR, NOW, NOW + YEAR] {
        assert!(Chain::verify(&certificates, &roots, None, Some(now)).unwrap().is_valid_at(now));
    }
    for now in [0, NOW - YEAR - 1, NOW + YEAR + 1, u64::MAX] {
        assert_fault(Chain::verify(&certificates, &roots, None, Some(now)), Reason::CertificateExpired, "and it is");
    }
    assert!(Chain::verify(&certificates, &roots, None, None).is_ok());
}

#[test]
fn each_certificate_is_asked_for_its_time() {
    let expired = (NOW - 100, NOW - 1);
    let sign = |mut blank: Blank, key, which: bool| {
        blank.validity = if which { expired } else { blank.validity };
        blank.sign(key, HOW)
    };
    for which in 0..3 {
        let ark = sign(synthetic::ark(MILAN), &KEYS.ark, which == 0);
        let ask = sign(synthetic::ask(MILAN), &KEYS.ark, which == 1);
        let leaf = sign(synthetic::vcek(MILAN), &KEYS.ask, which == 2);
        let roots = Roots::given(vec![Certificate::from_der(&ark).unwrap()]).unwrap();
        let certificates = Certificates::from_files([leaf.as_slice(), &ask]).unwrap();
        assert_fault(Chain::verify(&certificates, &roots, None, Some(NOW)), Reason::CertificateExpired, "and it is");
        assert!(!Chain::verify(&certificates, &roots, None, None).unwrap().is_valid_at(NOW));
    }
}

#[test]
fn a_key_of_another_kind() {
    for info in [forge::Key::p256().info(), KEYS.forger.info()] {
        assert_fault(with_vcek(MILAN, |blank| blank.info = info.clone()), Reason::ChainInvalid, "wanted");
    }
    let off_curve = |blank: &mut Blank| {
        let mut point = blank.info.subject_public_key.raw_bytes().to_vec();
        point[96] ^= 1;
        blank.info.subject_public_key = x509_cert::der::asn1::BitString::from_bytes(&point).unwrap();
    };
    assert_fault(with_vcek(MILAN, off_curve), Reason::ChainInvalid, "not a point of P-384");
    let compressed = |blank: &mut Blank| {
        let point = blank.info.subject_public_key.raw_bytes();
        let point = [&[2 + (point[96] & 1)], &point[1..49]].concat();
        blank.info.subject_public_key = x509_cert::der::asn1::BitString::from_bytes(&point).unwrap();
    };
    assert_fault(with_vcek(MILAN, compressed), Reason::ChainInvalid, "not an uncompressed one");
    let hybrid = |blank: &mut Blank| {
        let mut point = blank.info.subject_public_key.raw_bytes().to_vec();
        point[0] = 6 + (point[96] & 1);
        blank.info.subject_public_key = x509_cert::der::asn1::BitString::from_bytes(&point).unwrap();
    };
    assert_fault(with_vcek(MILAN, hybrid), Reason::ChainInvalid, "not an uncompressed one");
}

#[test]
fn a_certificate_signed_with_a_weaker_algorithm_than_it_names() {
    let blank = synthetic::vcek(MILAN);
    let leaf = blank.sign_as(&KEYS.ask, How::Pss(Sha::Sha256), &forge::algorithm(HOW));
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    let result = verify(&[&leaf, &synthetic::issuer_der(MILAN, Endorsement::Vcek)], &synthetic::roots(MILAN), &report);
    assert_fault(result, Reason::SignatureInvalid, "is not signed by");
}

#[test]
fn a_report_signed_by_another_key() {
    let mut report = synthetic::blank_report(MILAN, Endorsement::Vcek, 3);
    synthetic::sign_report(&mut report, &KEYS.other_leaf);
    let chain = Chain::verify(&synthetic::certificates(MILAN, Endorsement::Vcek), &synthetic::roots(MILAN), None, None).unwrap();
    assert_fault(chain.check(&report), Reason::SignatureInvalid, "does not fit it and the VCEK");
}

/// The order of P-384, little-endian as in reports.
fn order() -> Vec<u8> {
    let order = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
    hex::decode(order).unwrap().into_iter().rev().collect()
}

#[test]
fn a_signature_with_numbers_out_of_range() {
    let chain = Chain::verify(&synthetic::certificates(MILAN, Endorsement::Vcek), &synthetic::roots(MILAN), None, None).unwrap();
    let report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
    assert!(chain.check(&report).is_ok());
    let order = order();
    let mut above = order.clone();
    above[0] += 1;
    for offset in [0x2a0, 0x2e8] {
        for number in [vec![0; 48], order.clone(), above.clone(), vec![0xff; 48]] {
            let mut changed = report;
            put(&mut changed, offset, &number);
            assert_fault(chain.check(&changed), Reason::SignatureInvalid, "does not fit");
        }
    }
    let mut zero = report;
    put(&mut zero, 0x2a0, &[0; 144]);
    assert_fault(chain.check(&zero), Reason::SignatureInvalid, "does not fit");
}

#[test]
fn a_signature_with_more_than_its_numbers() {
    let chain = Chain::verify(&synthetic::certificates(MILAN, Endorsement::Vcek), &synthetic::roots(MILAN), None, None).unwrap();
    for offset in [0x2d0, 0x2e7, 0x318, 0x32f, 0x330, 0x49f] {
        let mut report = synthetic::signed_report(MILAN, Endorsement::Vcek, 3);
        report[offset] = 1;
        assert_fault(chain.check(&report), Reason::Malformed, "wanted zero");
    }
}

#[test]
fn a_provider_without_a_name() {
    for wrong in [ia5(""), ia5(&"x".repeat(257)), vec![], vec![2, 1, 3]] {
        let mut blank = synthetic::vlek(MILAN);
        set(&mut blank, "5", &wrong);
        let leaf = blank.sign(&KEYS.asvk, HOW);
        let report = synthetic::signed_report(MILAN, Endorsement::Vlek, 3);
        let result = verify(&[&leaf, &synthetic::issuer_der(MILAN, Endorsement::Vlek)], &synthetic::roots(MILAN), &report);
        assert_fault(result, Reason::CertificateMismatch, "of the certificate of \"SEV-VLEK\" is not a");
    }
}

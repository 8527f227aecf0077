//! What certificates, chains of TPMs and revocation lists promise.

use super::forge::{self, Blank, BlankCrl, How, Key, NOW, Sha, YEAR, authority, basic_constraints, extension, key_usage, pss_parameters};
use super::{Certificate, Crl, MAX_CERTIFICATE_BYTES, MAX_DEPTH, ObjectIdentifier, chain};
use crate::attest::{Fault, Reason};
use std::fmt::Debug;
use std::sync::LazyLock;
use x509_cert::der::asn1::{Any, Null};
use x509_cert::der::oid::db::rfc5912::ID_RSASSA_PSS;
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::der::{Encode, Tag};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsages};
use x509_cert::spki::AlgorithmIdentifierOwned;

struct Keys {
    rsa: Key,
    other_rsa: Key,
    p256: Key,
    p384: Key,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys { rsa: Key::rsa(), other_rsa: Key::rsa(), p256: Key::p256(), p384: Key::p384() });

#[track_caller]
fn assert_fault<T: Debug>(result: Result<T, Fault>, reason: Reason, words: &str) {
    let fault = result.expect_err("a fault was wanted");
    assert_eq!(fault.reason, reason, "{fault}");
    assert!(fault.sentence.contains(words), "{:?} lacks {words:?}", fault.sentence);
}

fn read(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}

fn root(key: &Key, how: How) -> Certificate {
    read(&Blank::new("CN=Root", "CN=Root", key.info()).with(authority(None)).sign(key, how))
}

fn pem(der: &[u8]) -> String {
    encode_string("CERTIFICATE", LineEnding::LF, der).unwrap()
}

#[test]
fn a_certificate_tells_what_it_says() {
    let private = ObjectIdentifier::new("1.2.3.4").unwrap();
    let mut blank = Blank::new("CN=Leaf,O=Maker", "CN=Root", KEYS.p256.info());
    blank.extensions = vec![extension(private, false, &[5, 0])];
    let der = blank.sign(&KEYS.rsa, How::Pkcs1(Sha::Sha256));
    let leaf = read(&der);
    assert_eq!((leaf.der(), leaf.serial()), (der.as_slice(), &[7][..]));
    assert_eq!((leaf.subject(), leaf.issuer()), ("CN=Leaf,O=Maker".into(), "CN=Root".into()));
    assert_eq!(leaf.common_name(), Some("Leaf".into()));
    assert_eq!(leaf.public_key_info().unwrap(), KEYS.p256.info().to_der().unwrap());
    assert_eq!(leaf.extension(private), Some(&[5, 0][..]));
    assert_eq!(leaf.extension(ObjectIdentifier::new("1.2.3.5").unwrap()), None);
    assert_eq!(leaf.fingerprint(), aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der).as_ref());
    assert!(!leaf.is_ca() && root(&KEYS.rsa, How::Pkcs1(Sha::Sha256)).is_ca());
    let valid = [NOW - YEAR - 1, NOW - YEAR, NOW + YEAR, NOW + YEAR + 1].map(|now| leaf.is_valid_at(now));
    assert_eq!((leaf.validity(), valid), ((NOW - YEAR, NOW + YEAR), [false, true, true, false]));
}

#[test]
fn a_name_with_two_common_names_or_none_has_no_common_name() {
    for subject in ["CN=SEV-VCEK,CN=Other", "O=SEV-VCEK"] {
        let der = Blank::new(subject, "CN=Root", KEYS.p256.info()).sign(&KEYS.p256, How::EcdsaP256);
        assert_eq!(read(&der).common_name(), None);
    }
}

#[test]
fn every_supported_algorithm_verifies_with_the_right_key_only() {
    let rsa = [Sha::Sha256, Sha::Sha384, Sha::Sha512].into_iter().flat_map(|sha| [How::Pss(sha), How::Pkcs1(sha)]);
    let rsa = rsa.map(|how| (how, &KEYS.rsa, &KEYS.other_rsa));
    let ec = [(How::EcdsaP256, &KEYS.p256, &KEYS.p384), (How::EcdsaP384, &KEYS.p384, &KEYS.p256)];
    for (how, key, other) in rsa.chain(ec) {
        let root = root(key, how);
        let leaf = read(&Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).sign(key, how));
        leaf.signed_by(&root).unwrap();
        let stranger = read(&Blank::new("CN=Root", "CN=Root", other.info()).with(authority(None)).sign(key, how));
        assert!(leaf.signed_by(&stranger).is_err(), "{how:?}");
        let wrong_kind = if key.info().algorithm == KEYS.rsa.info().algorithm { &KEYS.p256 } else { &KEYS.rsa };
        let wrong_kind = read(&Blank::new("CN=Root", "CN=Root", wrong_kind.info()).with(authority(None)).sign(key, how));
        assert_fault(leaf.signed_by(&wrong_kind), Reason::ChainInvalid, "wanted");
    }
}

#[test]
fn no_bit_of_a_certificate_signed_by_ecdsa_may_change() {
    let root = root(&KEYS.p256, How::EcdsaP256);
    let der = Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).sign(&KEYS.p256, How::EcdsaP256);
    for bit in 0..der.len() * 8 {
        let mut changed = der.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Certificate::from_der(&changed).and_then(|leaf| leaf.signed_by(&root)).is_err(), "bit {bit}");
    }
}

#[test]
fn the_issuers_name_must_be_the_one_that_is_named() {
    let leaf = read(&Blank::new("CN=Leaf", "CN=Other", KEYS.p256.info()).sign(&KEYS.rsa, How::Pss(Sha::Sha384)));
    assert_fault(leaf.signed_by(&root(&KEYS.rsa, How::Pss(Sha::Sha384))), Reason::ChainInvalid, "\"CN=Other\", not by \"CN=Root\"");
}

#[test]
fn parameters_of_rsa_pss_are_checked() {
    let how = How::Pss(Sha::Sha384);
    let root = root(&KEYS.rsa, how);
    let verify = |parameters: Option<Any>| {
        let named = AlgorithmIdentifierOwned { oid: ID_RSASSA_PSS, parameters };
        read(&Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).sign_as(&KEYS.rsa, how, &named)).signed_by(&root)
    };
    for trailer in [None, Some(1)] {
        verify(Some(pss_parameters(Sha::Sha384, Sha::Sha384, 48, trailer))).unwrap();
    }
    let empty = Any::new(Tag::Sequence, Vec::new()).unwrap();
    for wrong in [
        Some(pss_parameters(Sha::Sha384, Sha::Sha256, 48, None)),
        Some(pss_parameters(Sha::Sha384, Sha::Sha384, 32, None)),
        Some(pss_parameters(Sha::Sha384, Sha::Sha384, 0, None)),
        Some(pss_parameters(Sha::Sha384, Sha::Sha384, 48, Some(2))),
        Some(empty),
        Some(Any::from(Null)),
        None,
    ] {
        assert_fault(verify(wrong), Reason::ChainInvalid, "the RSA-PSS parameters are not those wanted");
    }
    assert_fault(verify(Some(pss_parameters(Sha::Sha256, Sha::Sha256, 32, None))), Reason::SignatureInvalid, "does not fit");
}

#[test]
fn algorithms_that_are_not_supported_are_named() {
    let sha1 = AlgorithmIdentifierOwned { oid: ObjectIdentifier::new("1.2.840.113549.1.1.5").unwrap(), parameters: Some(Any::from(Null)) };
    let how = How::Pkcs1(Sha::Sha256);
    let leaf = read(&Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).sign_as(&KEYS.rsa, how, &sha1));
    assert_fault(leaf.signed_by(&root(&KEYS.rsa, how)), Reason::ChainInvalid, "1.2.840.113549.1.1.5");
    let with_null = AlgorithmIdentifierOwned { parameters: Some(Any::from(Null)), ..forge::algorithm(How::EcdsaP256) };
    let leaf = read(&Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).sign_as(&KEYS.p256, How::EcdsaP256, &with_null));
    assert_fault(leaf.signed_by(&root(&KEYS.p256, How::EcdsaP256)), Reason::ChainInvalid, "has parameters, wanted none");
}

#[test]
fn the_inner_and_the_outer_algorithm_must_be_equal() {
    let blank = Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info());
    let inner = forge::algorithm(How::Pkcs1(Sha::Sha256));
    for outer in [How::Pkcs1(Sha::Sha384), How::Pss(Sha::Sha256), How::EcdsaP256] {
        let der = forge::envelope(&blank.body(inner.clone()), &forge::algorithm(outer), &[1; 256]);
        assert_fault(Certificate::from_der(&der), Reason::Malformed, "one signature algorithm inside");
    }
}

#[test]
fn reading_is_strict() {
    let der = Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).sign(&KEYS.p256, How::EcdsaP256);
    for length in 0..der.len() {
        assert_fault(Certificate::from_der(&der[..length]), Reason::Malformed, "cannot be read as DER");
    }
    assert_fault(Certificate::from_der(&[&der[..], &[0]].concat()), Reason::Malformed, "cannot be read as DER");
    let padded = extension(ObjectIdentifier::new("1.2.3").unwrap(), false, &vec![0; MAX_CERTIFICATE_BYTES]);
    let large = Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).with(vec![padded]).sign(&KEYS.p256, How::EcdsaP256);
    assert_fault(Certificate::from_der(&large), Reason::Malformed, "wanted at most 8192");
    let twice = vec![basic_constraints(false, None), basic_constraints(true, None)];
    let twice = Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).with(twice).sign(&KEYS.p256, How::EcdsaP256);
    assert_fault(Certificate::from_der(&twice), Reason::Malformed, "twice, wanted it once");
    let wrong = vec![extension(ObjectIdentifier::new("2.5.29.19").unwrap(), true, &[0x30, 1])];
    let wrong = Blank::new("CN=Leaf", "CN=Root", KEYS.p256.info()).with(wrong).sign(&KEYS.p256, How::EcdsaP256);
    assert_fault(Certificate::from_der(&wrong), Reason::Malformed, "cannot be read as DER");
}

#[test]
fn pem_files_hold_certificates_and_nothing_else() {
    let der = root(&KEYS.p256, How::EcdsaP256).der().to_vec();
    let one = pem(&der);
    let read = |text: &str| Certificate::many_from_pem(text.as_bytes());
    assert_eq!(read(&format!("\n{one}\n\n{one}")).unwrap().len(), 2);
    assert_eq!(Certificate::many_from_bytes(one.as_bytes()).unwrap(), Certificate::many_from_bytes(&der).unwrap());
    assert_eq!(read(&one.repeat(16)).unwrap().len(), 16);
    assert_fault(read(&one.repeat(17)), Reason::Malformed, "more certificates than 16");
    assert_fault(read(" \n"), Reason::Malformed, "has no certificate");
    assert_fault(read(&format!("{one}rest")), Reason::Malformed, "has no \"-----END CERTIFICATE-----\"");
    assert!(read(&format!("words {one}")).is_err());
    assert!(read(&one.replace("BEGIN CERTIFICATE", "BEGIN PRIVATE KEY")).is_err());
    assert_fault(read(&" ".repeat(300_000)), Reason::Malformed, "wanted at most 262144");
}

/// A chain as TPM makers have it: an endorsement key with an empty subject, `intermediates` authorities and a root.
struct TpmChain {
    leaf: Blank,
    intermediates: Vec<Blank>,
    root: Blank,
}

impl TpmChain {
    fn new(intermediates: usize) -> TpmChain {
        let alternative = extension(ObjectIdentifier::new("2.5.29.17").unwrap(), true, &[0x30, 0]);
        let issuer = |level: usize| if level == intermediates { "CN=Root".to_owned() } else { format!("CN=CA {level}") };
        let leaf = Blank::new("", &issuer(0), KEYS.rsa.info()).with(vec![
            basic_constraints(false, None),
            key_usage(KeyUsages::KeyEncipherment),
            alternative,
            purposes(&["2.23.133.8.1"]),
        ]);
        let authority_at = |level| Blank::new(&issuer(level), &issuer(level + 1), KEYS.p256.info()).with(authority(None));
        let intermediates = (0..intermediates).map(authority_at).collect();
        let root = Blank::new("CN=Root", "CN=Root", KEYS.p256.info()).with(authority(None));
        TpmChain { leaf, intermediates, root }
    }

    /// All authorities share one key: names and rules alone tell them apart.
    fn verify(&self, now: Option<u64>) -> Result<Vec<Certificate>, Fault> {
        let sign = |blank: &Blank| read(&blank.sign(&KEYS.p256, How::EcdsaP256));
        let intermediates: Vec<Certificate> = self.intermediates.iter().rev().map(sign).collect();
        chain(&sign(&self.leaf), &intermediates, &[sign(&self.root)], now)
    }
}

fn purposes(oids: &[&str]) -> Extension {
    let usage = ExtendedKeyUsage(oids.iter().map(|oid| ObjectIdentifier::new(oid).unwrap()).collect());
    extension(ObjectIdentifier::new("2.5.29.37").unwrap(), true, &usage.to_der().unwrap())
}

#[test]
fn a_chain_of_a_tpm_leads_to_its_root() {
    for intermediates in 0..=MAX_DEPTH - 2 {
        let path = TpmChain::new(intermediates).verify(Some(NOW)).unwrap();
        assert_eq!(path.len(), intermediates + 2);
        assert_eq!(path.last().unwrap().subject(), "CN=Root");
        assert!(path.windows(2).all(|pair| pair[0].signed_by(&pair[1]).is_ok()));
    }
    assert_fault(TpmChain::new(MAX_DEPTH - 1).verify(None), Reason::ChainInvalid, "not among the certificates given");
}

#[test]
fn a_chain_without_its_root_or_an_intermediate_ends_nowhere() {
    let mut broken = TpmChain::new(2);
    broken.intermediates.remove(0);
    assert_fault(broken.verify(None), Reason::ChainInvalid, "was issued by \"CN=CA 0\"");
    let mut broken = TpmChain::new(1);
    broken.root.subject = "CN=Other Root".into();
    assert!(broken.verify(None).is_err());
}

#[test]
fn a_leaf_is_not_trusted_for_being_among_the_roots() {
    let leaf = read(&TpmChain::new(1).leaf.sign(&KEYS.p256, How::EcdsaP256));
    assert_fault(chain(&leaf, &[], std::slice::from_ref(&leaf), None), Reason::ChainInvalid, "not among the certificates given");
}

#[test]
fn authorities_must_be_allowed_to_issue() {
    for level in 0..3 {
        let with = |extensions: Vec<Extension>| {
            let mut changed = TpmChain::new(2);
            let blank = changed.intermediates.get_mut(level).unwrap_or(&mut changed.root);
            blank.extensions = extensions;
            changed.verify(None)
        };
        assert!(with(authority(None)).is_ok());
        let usage = || key_usage(KeyUsages::KeyCertSign);
        assert_fault(with(vec![basic_constraints(false, None), usage()]), Reason::ChainInvalid, "not one of a certificate authority");
        assert_fault(with(vec![usage()]), Reason::ChainInvalid, "not one of a certificate authority");
        assert_fault(with(vec![basic_constraints(true, None)]), Reason::ChainInvalid, "lacks keyCertSign");
        let crl_only = vec![basic_constraints(true, None), key_usage(KeyUsages::CRLSign)];
        assert_fault(with(crl_only), Reason::ChainInvalid, "lacks keyCertSign");
        let limit = u8::try_from(level).unwrap();
        assert!(with(authority(Some(limit))).is_ok());
        if let Some(less) = limit.checked_sub(1) {
            assert_fault(with(authority(Some(less))), Reason::ChainInvalid, "intermediate certificates below it");
        }
    }
}

#[test]
fn critical_extensions_that_are_not_known_are_refused_everywhere() {
    let name_constraints = || extension(ObjectIdentifier::new("2.5.29.30").unwrap(), true, &[0x30, 0]);
    let mut changed = TpmChain::new(1);
    changed.leaf.extensions.push(name_constraints());
    assert_fault(changed.verify(None), Reason::ChainInvalid, "the critical extension 2.5.29.30, which is not known");
    let mut changed = TpmChain::new(1);
    changed.intermediates[0].extensions.push(name_constraints());
    assert_fault(changed.verify(None), Reason::ChainInvalid, "the critical extension 2.5.29.30, which is not known");
    let mut changed = TpmChain::new(1);
    changed.root.extensions.push(name_constraints());
    assert_fault(changed.verify(None), Reason::ChainInvalid, "the critical extension 2.5.29.30, which is not known");
    let mut changed = TpmChain::new(1);
    changed.leaf.extensions.push(Extension { critical: false, ..name_constraints() });
    assert!(changed.verify(None).is_ok());
}

#[test]
fn every_certificate_must_be_valid_at_the_time() {
    for level in 0..3 {
        let mut changed = TpmChain::new(1);
        let expired = (NOW - 10, NOW - 1);
        match level {
            0 => changed.leaf.validity = expired,
            1 => changed.intermediates[0].validity = expired,
            _ => changed.root.validity = expired,
        }
        assert_fault(changed.verify(Some(NOW)), Reason::CertificateExpired, "and it is");
        assert!(changed.verify(Some(NOW - 5)).is_ok());
        assert!(changed.verify(None).is_ok());
    }
}

#[test]
fn a_leaf_is_no_authority_and_for_no_other_purpose() {
    let with = |change: &dyn Fn(&mut Blank)| {
        let mut changed = TpmChain::new(1);
        change(&mut changed.leaf);
        changed.verify(None)
    };
    assert_fault(with(&|leaf| leaf.extensions = authority(None)), Reason::ChainInvalid, "wanted that of a key");
    let server = with(&|leaf| leaf.extensions = vec![purposes(&["1.3.6.1.5.5.7.3.1"])]);
    assert_fault(server, Reason::ChainInvalid, "other purposes");
    assert!(with(&|leaf| leaf.extensions = vec![purposes(&["1.3.6.1.5.5.7.3.1", "2.23.133.8.1"])]).is_ok());
    assert!(with(&|leaf| leaf.extensions = vec![purposes(&["2.5.29.37.0"])]).is_ok());
    assert!(with(&|leaf| leaf.extensions = vec![]).is_ok());
}

#[test]
fn the_right_issuer_is_found_among_others_of_its_name() {
    let good = TpmChain::new(1);
    let sign = |blank: &Blank, key| read(&blank.sign(key, How::EcdsaP256));
    let leaf = sign(&good.leaf, &KEYS.p256);
    let mut stranger = good.intermediates[0].clone();
    stranger.info = forge::Key::p256().info();
    let intermediates = [sign(&stranger, &KEYS.p256), sign(&good.intermediates[0], &KEYS.p256)];
    let path = chain(&leaf, &intermediates, &[sign(&good.root, &KEYS.p256)], None).unwrap();
    assert_eq!(path[1], intermediates[1]);
}

#[test]
fn many_certificates_of_one_name_take_no_more_than_their_share_of_time() {
    let link = |serial: u8| Blank { serial: vec![serial], ..Blank::new("CN=A", "CN=A", KEYS.p256.info()).with(authority(None)) };
    let leaf = read(&Blank::new("CN=Leaf", "CN=A", KEYS.p256.info()).sign(&KEYS.p256, How::EcdsaP256));
    let links: Vec<Certificate> = (1..=16).map(|serial| read(&link(serial).sign(&KEYS.p256, How::EcdsaP256))).collect();
    let other = root(&KEYS.p256, How::EcdsaP256);
    assert_fault(chain(&leaf, &links, std::slice::from_ref(&other), None), Reason::ChainInvalid, "not among the certificates given");
    // The right one may only stand next to the leaf: behind the others it is not reached before the search gives up.
    let right = Blank::new("CN=A", "CN=Root", KEYS.p256.info()).with(authority(Some(0)));
    let right = [read(&right.sign(&KEYS.p256, How::EcdsaP256))];
    let (first, last) = ([&right, &links[1..]].concat(), [&links[1..], &right].concat());
    assert_eq!(chain(&leaf, &first, std::slice::from_ref(&other), None).unwrap().len(), 3);
    assert!(chain(&leaf, &last, std::slice::from_ref(&other), None).is_err());
    let too_many = [links.as_slice(), &links].concat();
    assert_fault(chain(&leaf, &too_many, &[other], None), Reason::ChainInvalid, "there are 32 intermediate certificates");
}

#[test]
fn a_list_needs_an_issuer_that_may_sign_lists() {
    let how = How::EcdsaP256;
    let der = BlankCrl::new("CN=Root", vec![vec![7], vec![1, 0]]).sign(&KEYS.p256, how);
    let crl = Crl::from_der(&der).unwrap();
    assert_eq!((crl.issuer(), crl.this_update(), crl.next_update()), ("CN=Root".into(), NOW - 1000, Some(NOW + 1000)));
    assert!(crl.lists(&[7]) && crl.lists(&[1, 0]) && !crl.lists(&[1]) && !crl.lists(&[]));
    crl.check(&root(&KEYS.p256, how), Some(NOW)).unwrap();
    let usage = vec![basic_constraints(true, None), key_usage(KeyUsages::KeyCertSign)];
    let not_for_lists = read(&Blank::new("CN=Root", "CN=Root", KEYS.p256.info()).with(usage).sign(&KEYS.p256, how));
    assert_fault(crl.check(&not_for_lists, None), Reason::RevocationListInvalid, "lacks cRLSign");
    assert_fault(crl.check(&root(&KEYS.rsa, How::Pss(Sha::Sha256)), None), Reason::RevocationListInvalid, "is not signed by");
}

#[test]
fn a_list_names_one_algorithm_inside_and_outside() {
    let mut der = BlankCrl::new("CN=Root", vec![]).sign(&KEYS.rsa, How::Pkcs1(Sha::Sha256));
    let sha256_with_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    let outer = der.windows(9).rposition(|window| window == sha256_with_rsa).unwrap();
    der[outer + 8] = 0x0c;
    assert_fault(Crl::from_der(&der), Reason::RevocationListInvalid, "one signature algorithm inside");
}

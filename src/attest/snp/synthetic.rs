//! Makes whole sets of evidence for tests, right and wrong ones, of every product, kind of key and version of report.
//!
//! The keys are TEST keys, made once in each process. Their roots are named like AMD's, and are none of AMD's.

use super::{Certificates, Endorsement, Product, REPORT_BYTES, Roots, SIGNED_BYTES};
use crate::attest::x509::Certificate;
use crate::attest::x509::ObjectIdentifier;
use crate::attest::x509::forge::{self, Blank, BlankCrl, How, Key, Sha, authority, extension, ia5};
use aws_lc_rs::signature::EcdsaKeyPair;
use std::sync::LazyLock;
use x509_cert::der::Encode;
use x509_cert::ext::Extension;

pub(crate) const HOW: How = How::Pss(Sha::Sha384);
pub(crate) const CSP_ID: &str = "test.cloud.example";
pub(crate) const ASK_SERIAL: [u8; 2] = [1, 2];
pub(crate) const VLEK_SERIAL: [u8; 2] = [1, 3];

pub(crate) struct Keys {
    pub(crate) ark: Key,
    pub(crate) ask: Key,
    pub(crate) asvk: Key,
    /// Somebody who is not the maker of these chips.
    pub(crate) forger: Key,
    pub(crate) leaf: EcdsaKeyPair,
    pub(crate) other_leaf: EcdsaKeyPair,
}

pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ark: Key::rsa(),
    ask: Key::rsa(),
    asvk: Key::rsa(),
    forger: Key::rsa(),
    leaf: forge::fixed_pair(),
    other_leaf: forge::fixed_pair(),
});

pub(crate) fn name(common_name: &str) -> String {
    format!("CN={common_name},O=Advanced Micro Devices,ST=CA,L=Santa Clara,C=US,OU=Engineering")
}

pub(crate) fn ark(product: Product) -> Blank {
    let name = name(&format!("ARK-{product}"));
    Blank::new(&name, &name, KEYS.ark.info()).with(authority(None))
}

pub(crate) fn ask(product: Product) -> Blank {
    let (subject, issuer) = (name(&format!("SEV-{product}")), name(&format!("ARK-{product}")));
    let blank = Blank::new(&subject, &issuer, KEYS.ask.info()).with(authority(Some(0)));
    Blank { serial: ASK_SERIAL.to_vec(), ..blank }
}

pub(crate) fn asvk(product: Product) -> Blank {
    let (subject, issuer) = (name(&format!("SEV-VLEK-{product}")), name(&format!("ARK-{product}")));
    let blank = Blank::new(&subject, &issuer, KEYS.asvk.info()).with(authority(Some(0)));
    Blank { serial: ASK_SERIAL.to_vec(), ..blank }
}

pub(crate) fn amd_oid(tail: &str) -> ObjectIdentifier {
    ObjectIdentifier::new(&format!("1.3.6.1.4.1.3704.1.{tail}")).unwrap()
}

pub(crate) fn number(tail: &str, value: u8) -> Extension {
    extension(amd_oid(tail), false, &value.to_der().unwrap())
}

fn common(product: Product, product_name: &str) -> Vec<Extension> {
    let tcb = tcb(product);
    let tails = match product {
        Product::Milan | Product::Genoa => ["3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8"],
        Product::Turin => ["3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8"],
    };
    let mut extensions = vec![number("1", u8::from(product == Product::Turin)), extension(amd_oid("2"), false, &ia5(product_name))];
    extensions.extend(tails.into_iter().zip(tcb).map(|(tail, value)| number(tail, value)));
    extensions
}

pub(crate) fn vcek(product: Product) -> Blank {
    let mut extensions = common(product, &format!("{product}-B0"));
    let chip = chip_id(product);
    extensions.push(extension(amd_oid("4"), false, chip.get(..product.chip_id_bytes()).unwrap()));
    let blank = Blank::new(&name("SEV-VCEK"), &name(&format!("SEV-{product}")), forge::p384_info(&KEYS.leaf));
    Blank { serial: vec![0], ..blank.with(extensions) }
}

pub(crate) fn vlek(product: Product) -> Blank {
    let mut extensions = common(product, product.as_str());
    extensions.push(extension(amd_oid("5"), false, &ia5(CSP_ID)));
    let blank = Blank::new(&name("SEV-VLEK"), &name(&format!("SEV-VLEK-{product}")), forge::p384_info(&KEYS.leaf));
    Blank { serial: VLEK_SERIAL.to_vec(), ..blank.with(extensions) }
}

/// The bytes of a TCB_VERSION: every part differs, so that none can be taken for another.
pub(crate) fn tcb(product: Product) -> [u8; 8] {
    match product {
        Product::Milan | Product::Genoa => [3, 4, 0, 0, 0, 0, 21, 209],
        Product::Turin => [1, 2, 3, 4, 0, 0, 0, 84],
    }
}

pub(crate) fn chip_id(product: Product) -> [u8; 64] {
    let mut chip_id = [0; 64];
    for (index, byte) in chip_id.iter_mut().take(product.chip_id_bytes()).enumerate() {
        *byte = 0xa0 ^ u8::try_from(index).unwrap();
    }
    chip_id
}

pub(crate) fn cpuid(product: Product) -> [u8; 3] {
    match product {
        Product::Milan => [0x19, 0x01, 1],
        Product::Genoa => [0x19, 0x11, 1],
        Product::Turin => [0x1a, 0x02, 1],
    }
}

pub(crate) fn put(report: &mut [u8; REPORT_BYTES], offset: usize, bytes: &[u8]) {
    report[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A report that is not yet signed.
pub(crate) fn blank_report(product: Product, endorsement: Endorsement, version: u32) -> [u8; REPORT_BYTES] {
    let mut report = [0; REPORT_BYTES];
    put(&mut report, 0x000, &version.to_le_bytes());
    put(&mut report, 0x008, &0x0003_0000_u64.to_le_bytes());
    put(&mut report, 0x034, &1_u32.to_le_bytes());
    put(&mut report, 0x040, &0b101_u64.to_le_bytes());
    put(&mut report, 0x048, &(if endorsement == Endorsement::Vlek { 4_u32 } else { 0 }).to_le_bytes());
    put(&mut report, 0x050, &[0x5a; 64]);
    put(&mut report, 0x090, &[0x3c; 48]);
    put(&mut report, 0x160, &[0xff; 32]);
    for offset in [0x038, 0x180, 0x1e0, 0x1f0] {
        put(&mut report, offset, &tcb(product));
    }
    if version >= 3 {
        put(&mut report, 0x188, &cpuid(product));
    }
    put(&mut report, 0x1a0, &chip_id(product));
    put(&mut report, 0x1e8, &[4, 55, 1, 0, 4, 55, 1, 0]);
    if version >= 5 {
        put(&mut report, 0x1f8, &[7, 0, 0, 0, 0, 0, 0, 0, 9]);
    }
    report
}

pub(crate) fn sign_report(report: &mut [u8; REPORT_BYTES], key: &EcdsaKeyPair) {
    let signature = forge::sign_fixed(key, &report[..SIGNED_BYTES]);
    let (r, s) = signature.split_at(48);
    put(report, SIGNED_BYTES, &r.iter().rev().copied().collect::<Vec<u8>>());
    put(report, SIGNED_BYTES + 72, &s.iter().rev().copied().collect::<Vec<u8>>());
}

pub(crate) fn signed_report(product: Product, endorsement: Endorsement, version: u32) -> [u8; REPORT_BYTES] {
    let mut report = blank_report(product, endorsement, version);
    sign_report(&mut report, &KEYS.leaf);
    report
}

pub(crate) fn ark_der(product: Product) -> Vec<u8> {
    ark(product).sign(&KEYS.ark, HOW)
}

/// ASK or ASVK, as the kind of leaf wants.
pub(crate) fn issuer_der(product: Product, endorsement: Endorsement) -> Vec<u8> {
    match endorsement {
        Endorsement::Vcek => ask(product).sign(&KEYS.ark, HOW),
        Endorsement::Vlek => asvk(product).sign(&KEYS.ark, HOW),
    }
}

pub(crate) fn leaf_der(product: Product, endorsement: Endorsement) -> Vec<u8> {
    match endorsement {
        Endorsement::Vcek => vcek(product).sign(&KEYS.ask, HOW),
        Endorsement::Vlek => vlek(product).sign(&KEYS.asvk, HOW),
    }
}

pub(crate) fn roots(product: Product) -> Roots {
    Roots::given(vec![Certificate::from_der(&ark_der(product)).unwrap()]).unwrap()
}

pub(crate) fn certificates(product: Product, endorsement: Endorsement) -> Certificates {
    let files = [issuer_der(product, endorsement), leaf_der(product, endorsement)];
    Certificates::from_files(files.iter().map(Vec::as_slice)).unwrap()
}

pub(crate) fn crl(product: Product, serials: &[&[u8]]) -> BlankCrl {
    BlankCrl::new(&name(&format!("ARK-{product}")), serials.iter().map(|serial| serial.to_vec()).collect())
}

/// A table as hosts make it, of GUIDs in the order of RFC 4122 and contents.
pub(crate) fn table(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut head = Vec::new();
    let mut contents = Vec::new();
    let start = (entries.len() + 1) * 24;
    for (guid, bytes) in entries {
        head.extend(guid_bytes(guid));
        head.extend(u32::try_from(start + contents.len()).unwrap().to_le_bytes());
        head.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        contents.extend_from_slice(bytes);
    }
    head.extend([0; 24]);
    head.extend(contents);
    head
}

pub(crate) fn guid_bytes(guid: &str) -> Vec<u8> {
    hex::decode(guid.replace('-', "")).unwrap()
}

//! Quotes of a TPM that lives in this test, over the registers of real starts of real machines.

use super::specimen::{APP, Edit, NODE, NONCE, OTHER, Says, Specimen, apply};
use super::{Entry, gap, no, row, weak, yes};
use crate::attest::Rung::{ImageByHardware, ImageByTpm, PinnedKey};
use crate::attest::eventlog::tests::support::{ASKED, Real, event, expected, places, select, write};
use crate::attest::eventlog::{Event, EventType, Registers, replay};
use crate::attest::evidence::{Evidence, Nonce, Subject, TpmEvidence};
use crate::attest::judge::{Wanted, demands};
use crate::attest::tpm::public::{Attributes, Public};
use crate::attest::x509::forge::{Blank, How, Key, NOW, YEAR, authority, basic_constraints, extension};
use crate::attest::x509::{Certificate, ObjectIdentifier};
use crate::attest::{Reason, Rung};
use crate::session::seed::Source;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The handle of the owner's hierarchy, under which the key hangs.
const OWNER: u32 = 0x4000_0001;
/// TPMA_OBJECT of a key that signs only what its TPM measured.
const SIGNS: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 16 | 1 << 18;
/// TPMA_OBJECT of an endorsement key.
const ENDORSES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16 | 1 << 17;
const CA: &str = "CN=TEST maker of TPMs";

/// A TPM's two keys.
struct Keys {
    ak: EcdsaKeyPair,
    ek: EcdsaKeyPair,
}

fn keys() -> Keys {
    let pair = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    Keys { ak: pair(), ek: pair() }
}

static OWN: LazyLock<Keys> = LazyLock::new(keys);
static ANOTHER: LazyLock<Keys> = LazyLock::new(keys);
static MAKER: LazyLock<Key> = LazyLock::new(Key::p256);
static FORGER: LazyLock<Key> = LazyLock::new(Key::p256);

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A TPMT_PUBLIC on P-256; `middle` is the symmetric part and the scheme.
fn public(pair: &EcdsaKeyPair, attributes: u32, policy: &[u8], middle: &[u8]) -> Vec<u8> {
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    [&[0, 0x23, 0, 0x0b][..], &attributes.to_be_bytes(), &sized(policy), middle, &[0, 3, 0, 0x10], &sized(x), &sized(y)].concat()
}

fn ak_public(pair: &EcdsaKeyPair, attributes: u32) -> Vec<u8> {
    public(pair, attributes, &[], &[0, 0x10, 0, 0x18, 0, 0x0b])
}

fn ek_public(pair: &EcdsaKeyPair, attributes: u32) -> Vec<u8> {
    public(pair, attributes, &[0x83; 32], &[0, 6, 0, 128, 0, 0x43, 0, 0x10])
}

/// The name of the endorsement key, by which an owner may vouch for it.
pub(super) fn ek_name() -> Vec<u8> {
    Public::parse(&ek_public(&OWN.ek, ENDORSES)).unwrap().name()
}

/// The same key as a provider names it.
fn ek_info() -> Vec<u8> {
    Public::parse(&ek_public(&OWN.ek, ENDORSES)).unwrap().spki()
}

fn info(pair: &EcdsaKeyPair) -> x509_cert::spki::SubjectPublicKeyInfoOwned {
    use x509_cert::der::Decode;
    let point = pair.public_key().as_ref();
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    x509_cert::spki::SubjectPublicKeyInfoOwned::from_der(&[&head, point].concat()).unwrap()
}

fn signed(blank: &Blank, key: &Key) -> Vec<u8> {
    blank.sign(key, How::EcdsaP256)
}

fn ca(subject: &str, issuer: &str, key: &Key) -> Blank {
    Blank::new(subject, issuer, key.info()).with(authority(None))
}

/// The root that is trusted.
pub(super) fn root() -> Certificate {
    static ROOT: LazyLock<Certificate> = LazyLock::new(|| Certificate::from_der(&signed(&ca(CA, CA, &MAKER), &MAKER)).unwrap());
    ROOT.clone()
}

/// "tcg-kp-EKCertificate", or another purpose.
fn purpose(last: u8) -> x509_cert::ext::Extension {
    extension(ObjectIdentifier::new_unwrap("2.5.29.37"), false, &[0x30, 7, 6, 5, 0x67, 0x81, 5, 8, last])
}

fn blank_ek() -> Blank {
    Blank::new("", CA, info(&OWN.ek)).with(vec![purpose(1)])
}

fn blank_ak() -> Blank {
    Blank::new("CN=TEST attestation key", CA, info(&OWN.ak))
}

/// What is in a TPMS_ATTEST.
pub(super) struct Attest {
    magic: u32,
    kind: u16,
    signer: Vec<u8>,
    extra: Vec<u8>,
    safe: u8,
    selection: Vec<u8>,
    digest: Vec<u8>,
}

impl Attest {
    fn bytes(&self) -> Vec<u8> {
        let clock = [&5_000u64.to_be_bytes()[..], &3u32.to_be_bytes(), &0u32.to_be_bytes(), &[self.safe]].concat();
        let head = [&self.magic.to_be_bytes()[..], &self.kind.to_be_bytes(), &sized(&self.signer), &sized(&self.extra)].concat();
        [head, clock, 7u64.to_be_bytes().to_vec(), self.selection.clone(), sized(&self.digest)].concat()
    }
}

fn selection(bank: u16, pcrs: &[u8]) -> Vec<u8> {
    let mut bits = [0; 3];
    pcrs.iter().for_each(|pcr| bits[usize::from(pcr / 8)] |= 1 << (pcr % 8));
    [&1u32.to_be_bytes()[..], &bank.to_be_bytes(), &[3], &bits].concat()
}

/// How a quote is made.
pub(super) struct Tpm {
    log: Vec<u8>,
    registers: Registers,
    quoted: Vec<u8>,
    keys: &'static Keys,
    signer: &'static EcdsaKeyPair,
    attributes: u32,
    ek_attributes: u32,
    ek_certificate: Option<Vec<u8>>,
    ak_certificate: Option<Vec<u8>>,
    attest: Vec<Edit<Attest>>,
    after: Vec<Edit<TpmEvidence>>,
}

impl Tpm {
    /// Over what a real machine measured.
    pub(super) fn of(name: &str) -> Tpm {
        let real = real(name);
        Tpm::over(real.log.to_vec(), real.pcr)
    }

    fn over(log: Vec<u8>, registers: Registers) -> Tpm {
        static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| signed(&blank_ek(), &MAKER));
        Tpm {
            log,
            registers,
            quoted: ASKED.to_vec(),
            keys: &OWN,
            signer: &OWN.ak,
            attributes: SIGNS,
            ek_attributes: ENDORSES,
            ek_certificate: Some(CERTIFICATE.clone()),
            ak_certificate: None,
            attest: Vec::new(),
            after: Vec::new(),
        }
    }

    pub(super) fn evidence(&self, bound: &Subject) -> TpmEvidence {
        let ak_public = ak_public(&self.keys.ak, self.attributes);
        let pcrs = select(&self.registers, &self.quoted);
        let values: Vec<&[u8]> = pcrs.values().map(<[u8; 32]>::as_slice).collect();
        let mut attest = Attest {
            magic: 0xff54_4347,
            kind: 0x8018,
            signer: Public::parse(&ak_public).unwrap().qualified_name(&OWNER.to_be_bytes()),
            extra: bound.qualifying_data().to_vec(),
            safe: 1,
            selection: selection(0x000b, &self.quoted),
            digest: Sha256::digest(values.concat()).to_vec(),
        };
        apply(&self.attest, &mut attest);
        let attest = attest.bytes();
        let pair = self.signer.sign(&SystemRandom::new(), &attest).unwrap();
        let (r, s) = pair.as_ref().split_at(32);
        let mut evidence = TpmEvidence {
            signature: [&[0, 0x18, 0, 0x0b][..], &sized(r), &sized(s)].concat(),
            attest,
            ak_public,
            ek_public: ek_public(&self.keys.ek, self.ek_attributes),
            ek_certificate: self.ek_certificate.clone(),
            ak_certificate: self.ak_certificate.clone(),
            event_log: self.log.clone(),
            pcrs,
        };
        apply(&self.after, &mut evidence);
        evidence
    }
}

/// A real start.
fn real(name: &str) -> Real {
    macro_rules! log {
        ($name:literal) => {
            Real::of(
                include_bytes!(concat!("../eventlog/testdata/", $name, ".bin")),
                include_str!(concat!("../eventlog/testdata/", $name, ".json")),
            )
        };
    }
    match name {
        "plain" => log!("plain"),
        "changed" => log!("changed"),
        "shell" => log!("shell"),
        "entry" => log!("entry"),
        "secure" => log!("secure"),
        other => panic!("there is no log {other}"),
    }
}

/// Evidence of the right image, by a machine that is none of ours.
pub(super) fn of_another_machine() -> Evidence {
    let tpm = Tpm { keys: &ANOTHER, signer: &ANOTHER.ak, ..Tpm::of("plain") };
    let bound = Subject { node: NODE, app_digest: APP, nonce: Nonce(NONCE), seed: None };
    Evidence { nonce: bound.nonce, app_digest: APP, snp: None, tpm: Some(tpm.evidence(&bound)), seed: None }
}

/// The digest of the boot program of a start.
pub(super) fn boots(name: &str) -> [u8; 32] {
    let program = |event: &Event| event.pcr == 4 && event.kind == EventType::EfiBootServicesApplication;
    real(name).events().iter().find(|event| program(event)).unwrap().sha256
}

/// The start of `plain` with other events, told as they were: a machine that did something else.
pub(super) fn did(change: impl FnOnce(&mut Vec<Event>)) -> Specimen {
    let mut events = real("plain").events();
    change(&mut events);
    Specimen::tpm("plain").with_tpm(|tpm| *tpm = Tpm::over(write(&events), replay(&events)))
}

/// The log of one start with the registers of another.
fn told(log: &str, registers: &str) -> Specimen {
    Specimen::tpm(registers).with_tpm(|tpm| *tpm = Tpm::lying(log, registers))
}

/// The log of `plain` was edited, the registers were not.
fn edited(change: impl FnOnce(&mut Vec<Event>)) -> Specimen {
    let mut events = real("plain").events();
    change(&mut events);
    Specimen::tpm("plain").with_tpm(|tpm| tpm.log = write(&events))
}

/// The right image, described.
fn wrong_image() -> Specimen {
    Specimen::tpm("changed").whole()
}

fn own_ak_info() -> Vec<u8> {
    der_of(&OWN.ak)
}

fn another_info() -> Vec<u8> {
    der_of(&ANOTHER.ak)
}

fn der_of(pair: &EcdsaKeyPair) -> Vec<u8> {
    use x509_cert::der::Encode;
    info(pair).to_der().unwrap()
}

fn plain() -> Specimen {
    Specimen::tpm("plain").whole()
}

/// The right image, in the policy.
pub(super) fn listed() -> Specimen {
    Specimen::tpm("plain").image(boots("plain"))
}

fn demanded(log: &str, ek: Option<&[u8]>) -> Specimen {
    Specimen::tpm(log).want(Wanted::Demand(demands(&boots("plain"), ek)))
}

fn quoting(specimen: Specimen, without: &[u8]) -> Specimen {
    let left: Vec<u8> = ASKED.into_iter().filter(|pcr| !without.contains(pcr)).collect();
    specimen.with_tpm(|tpm| tpm.quoted = left)
}

pub(super) fn attest(specimen: Specimen, edit: impl Fn(&mut Attest) + 'static) -> Specimen {
    specimen.with_tpm(|tpm| tpm.attest.push(Box::new(edit)))
}

/// Something in the evidence was changed after the TPM signed.
pub(super) fn after(specimen: Specimen, edit: impl Fn(&mut TpmEvidence) + 'static) -> Specimen {
    specimen.with_tpm(|tpm| tpm.after.push(Box::new(edit)))
}

pub(super) fn ek_certificate(specimen: Specimen, blank: &Blank, key: &Key) -> Specimen {
    let der = signed(blank, key);
    specimen.with_tpm(|tpm| tpm.ek_certificate = Some(der))
}

/// The endorsement certificate says something else, and its maker signs it.
fn ek_says(change: impl FnOnce(&mut Blank)) -> Specimen {
    let mut blank = blank_ek();
    change(&mut blank);
    ek_certificate(plain(), &blank, &MAKER)
}

/// The attestation key has a certificate of its own, and nobody asks the TPM anything.
fn ak_says(specimen: Specimen, key: &Key, change: impl FnOnce(&mut Blank)) -> Specimen {
    let mut blank = blank_ak();
    change(&mut blank);
    let der = signed(&blank, key);
    specimen.says(Says::Nothing).with_tpm(|tpm| (tpm.ak_certificate, tpm.ek_certificate) = (Some(der), None))
}

fn without_ek_certificate(specimen: Specimen) -> Specimen {
    specimen.with_tpm(|tpm| tpm.ek_certificate = None)
}

/// The endorsement certificate comes from under an intermediate one.
fn through_intermediate() -> (Specimen, Certificate) {
    let between = "CN=TEST model of TPMs";
    let intermediate = Certificate::from_der(&signed(&ca(between, CA, &FORGER), &MAKER)).unwrap();
    let blank = Blank { issuer: between.into(), ..blank_ek() };
    (ek_certificate(plain(), &blank, &FORGER), intermediate)
}

pub(super) fn table() -> Vec<Entry> {
    [images(), logs(), registers(), quotes(), keys_table(), endorsements(), ak_certificates(), bindings()].into_iter().flatten().collect()
}

/// Which image was started, and how the right one is named.
fn images() -> Vec<Entry> {
    let ek = ek_name();
    let listed_as = |log: &str, digest: [u8; 32]| Specimen::tpm(log).image(digest);
    let mut rows = vec![
        row("tpm: the image, described", plain(), yes(ImageByTpm)),
        row("tpm: the image, in the policy", listed(), yes(ImageByTpm)),
        row("tpm: the image, demanded by a grant", demanded("plain", None), yes(ImageByTpm)),
        row("tpm: image and TPM, demanded by a grant", demanded("plain", Some(&ek)), yes(ImageByTpm)),
        row("tpm: image and TPM demanded, no roots", demanded("plain", Some(&ek)).no_tpm_roots(), yes(ImageByTpm)),
        row("tpm: its provider names its key", plain().provider_names(&[another_info(), ek_info()]), yes(ImageByTpm)),
        row("tpm: its provider names another key", plain().provider_names(&[another_info()]), no(Reason::ChainInvalid)),
        row("tpm: its provider names its key, the wrong image", wrong_image().provider_names(&[ek_info()]), no(Reason::ImageMismatch)),
        row("tpm: image and another TPM demanded", demanded("plain", Some(b"another")), no(Reason::ImageMismatch)),
        row("tpm: another image demanded", Specimen::tpm("plain").want(Wanted::Demand(demands(&OTHER, None))), no(Reason::ImageMismatch)),
        row("tpm: nobody named an image", Specimen::tpm("plain"), gap(Reason::ImageNotNamed)),
        row(
            "tpm: nobody named an image, and much is demanded",
            Specimen::tpm("plain").demand(ImageByTpm),
            weak(PinnedKey, Reason::ImageNotNamed),
        ),
        row(
            "tpm: only a launch measurement is named",
            Specimen::tpm("plain").want(Wanted::ImageMeasurement([1; 48])),
            gap(Reason::ImageNotNamed),
        ),
        row("tpm: the image, described, no roots", plain().no_tpm_roots(), no(Reason::ChainInvalid)),
        row("tpm: the image, in the policy, no roots", listed().no_tpm_roots(), no(Reason::ChainInvalid)),
        row(
            "tpm: one of two listed images",
            Specimen::tpm("plain").policy(format!("tpm.images = [\"{}\", \"{}\"]", hex::encode(OTHER), hex::encode(boots("plain")))),
            yes(ImageByTpm),
        ),
        row("tpm: another image listed", listed_as("plain", OTHER), no(Reason::ImageMismatch)),
        row("tpm: an image under Secure Boot, in the policy", listed_as("secure", boots("secure")), yes(ImageByTpm)),
        row("tpm: Secure Boot demanded and on", listed_as("secure", boots("secure")).policy("tpm.secure_boot = true"), yes(ImageByTpm)),
        row("tpm: Secure Boot demanded and off", listed().policy("tpm.secure_boot = true"), no(Reason::PlatformNotAllowed)),
        row(
            "tpm: Secure Boot demanded and not signed",
            quoting(listed_as("secure", boots("secure")), &[7]).policy("tpm.secure_boot = true"),
            no(Reason::PlatformNotAllowed),
        ),
        row("tpm: a changed image, in the policy of those who changed it", listed_as("changed", boots("changed")), yes(ImageByTpm)),
    ];
    for log in ["changed", "shell", "entry", "secure"] {
        rows.push(row(format!("tpm: {log}, where plain is described"), Specimen::tpm(log).whole(), no(Reason::ImageMismatch)));
        rows.push(row(format!("tpm: {log}, where plain is listed"), listed_as(log, boots("plain")), no(Reason::ImageMismatch)));
        rows.push(row(format!("tpm: {log}, where plain is demanded"), demanded(log, None), no(Reason::ImageMismatch)));
    }
    rows
}

/// Logs that are not those of the registers, and machines that did something else.
fn logs() -> Vec<Entry> {
    let program = || event(4, EventType::EfiBootServicesApplication, b"another program", b"?");
    let before = move |events: &mut Vec<Event>| {
        let place = places(events, 4)[2];
        events.insert(place, program());
    };
    let addition = |pcr: u8| event(pcr, EventType::Ipl, b"an archive", b"?");
    vec![
        row("log: made to look like the image", told("plain", "changed").whole(), no(Reason::EventLogMismatch)),
        row("log: made to look like the image in the policy", told("plain", "changed").image(boots("plain")), no(Reason::EventLogMismatch)),
        row("log: of another boot", told("secure", "plain").whole(), no(Reason::EventLogMismatch)),
        row("log: of another boot, in the policy", told("secure", "plain").image(boots("plain")), no(Reason::EventLogMismatch)),
        row("log: without the boot entry's command line", told("plain", "entry").image(boots("plain")), no(Reason::EventLogMismatch)),
        row(
            "log: an event is missing",
            edited(|events| drop(events.remove(places(events, 4)[2]))).image(boots("plain")),
            no(Reason::EventLogMismatch),
        ),
        row(
            "log: an event too many",
            edited(|events| events.push(event(11, EventType::Ipl, b"x", b"?"))).whole(),
            no(Reason::EventLogMismatch),
        ),
        row(
            "log: two events swapped",
            edited(|events| {
                let at = places(events, 11);
                events.swap(at[0], at[1]);
            })
            .whole(),
            no(Reason::EventLogMismatch),
        ),
        row("log: written anew, with SHA-256 alone", edited(|_| {}).whole(), yes(ImageByTpm)),
        row("log: a program before the image, described", did(before).whole(), no(Reason::ImageMismatch)),
        row("log: a program before the image, listed", did(before).image(boots("plain")), no(Reason::ImageMismatch)),
        row("log: a program after the image, described", did(move |events| events.push(program())).whole(), no(Reason::ImageMismatch)),
        row("log: files from outside, described", did(move |events| events.push(addition(12))).whole(), no(Reason::ImageMismatch)),
        row(
            "log: files from outside, listed",
            did(move |events| events.push(addition(12))).image(boots("plain")),
            no(Reason::ImageMismatch),
        ),
        row(
            "log: extensions from outside, listed",
            did(move |events| events.push(addition(13))).image(boots("plain")),
            no(Reason::ImageMismatch),
        ),
        row(
            "log: nothing was started",
            did(|events| events.retain(|event| event.pcr != 4)).image(boots("plain")),
            no(Reason::ImageMismatch),
        ),
        row("log: empty", after(plain(), |tpm| tpm.event_log.clear()), no(Reason::Malformed)),
        row("log: cut in the middle of an event", after(plain(), |tpm| tpm.event_log.truncate(3001)), no(Reason::Malformed)),
        row("log: a byte behind its end", after(plain(), |tpm| tpm.event_log.push(0)), no(Reason::Malformed)),
        row("log: zeros", after(plain(), |tpm| tpm.event_log.fill(0)), no(Reason::Malformed)),
    ]
}

/// Registers that were not signed, or not so.
fn registers() -> Vec<Entry> {
    let mut rows = vec![
        row("registers: a value is another", after(plain(), |tpm| tpm.pcrs.extend([(11, OTHER)])), no(Reason::EventLogMismatch)),
        row("registers: one that was not signed", after(plain(), |tpm| tpm.pcrs.extend([(0, OTHER)])), no(Reason::RegistersMissing)),
        row(
            "registers: one that was signed is left out",
            after(plain(), |tpm| tpm.pcrs.retain(|pcr, _| *pcr != 12)),
            no(Reason::RegistersMissing),
        ),
        row("registers: none is given", after(plain(), |tpm| tpm.pcrs.clear()), no(Reason::RegistersMissing)),
        row(
            "registers: all that a log can lead to",
            plain().with_tpm(|tpm| tpm.quoted = (0..24).filter(|pcr| *pcr != 10).collect()),
            yes(ImageByTpm),
        ),
        row("registers: PCR 10, which is in no log", plain().with_tpm(|tpm| tpm.quoted.push(10)), no(Reason::EventLogMismatch)),
        row("registers: PCR 9 is not needed where 12 is", quoting(plain(), &[9]), yes(ImageByTpm)),
        row("registers: PCR 7 is not needed", quoting(plain(), &[7]), yes(ImageByTpm)),
        row("registers: neither PCR 9 nor 12", quoting(plain(), &[9, 12]), no(Reason::RegistersMissing)),
        row("registers: only one of no account", plain().with_tpm(|tpm| tpm.quoted = vec![16]), no(Reason::RegistersMissing)),
        row(
            "registers: without PCR 12, where a boot entry adds to it",
            quoting(Specimen::tpm("entry").image(boots("plain")), &[12]),
            no(Reason::RegistersMissing),
        ),
    ];
    for pcr in [4, 11, 12, 13] {
        rows.push(row(format!("registers: PCR {pcr} is not signed, described"), quoting(plain(), &[pcr]), no(Reason::RegistersMissing)));
        rows.push(row(format!("registers: PCR {pcr} is not signed, listed"), quoting(listed(), &[pcr]), no(Reason::RegistersMissing)));
    }
    rows
}

/// What a TPM signed is not what a quote is.
fn quotes() -> Vec<Entry> {
    let sha1 = |attest: &mut Attest| attest.selection = selection(0x0004, &ASKED);
    let two = |attest: &mut Attest| {
        let one = selection(0x000b, &ASKED);
        attest.selection = [&2u32.to_be_bytes()[..], &one[4..], &one[4..]].concat();
    };
    vec![
        row("quote: not made by a TPM", attest(plain(), |attest| attest.magic = 0), no(Reason::Malformed)),
        row("quote: a certification", attest(plain(), |attest| attest.kind = 0x8017), no(Reason::Malformed)),
        row("quote: the time alone", attest(plain(), |attest| attest.kind = 0x8019), no(Reason::Malformed)),
        row("quote: of the SHA-1 bank", attest(plain(), sha1), no(Reason::RegistersMissing)),
        row("quote: of two banks", attest(plain(), two), no(Reason::RegistersMissing)),
        row("quote: of no register", attest(plain(), |attest| attest.selection = selection(0x000b, &[])), no(Reason::RegistersMissing)),
        row("quote: a digest that is too short", attest(plain(), |attest| attest.digest.truncate(20)), no(Reason::Malformed)),
        row("quote: a digest of other values", attest(plain(), |attest| attest.digest.fill(1)), no(Reason::EventLogMismatch)),
        row("quote: a flag that is neither", attest(plain(), |attest| attest.safe = 2), no(Reason::Malformed)),
        row("quote: a byte behind its end, signed", attest(plain(), |attest| attest.selection.push(0)), no(Reason::Malformed)),
        row("quote: changed after it was signed", after(plain(), |tpm| tpm.attest[50] ^= 1), no(Reason::SignatureInvalid)),
        row("quote: a byte behind its end, not signed", after(plain(), |tpm| tpm.attest.push(0)), no(Reason::SignatureInvalid)),
        row("quote: empty", after(plain(), |tpm| tpm.attest.clear()), no(Reason::SignatureInvalid)),
        row("quote: no signature", after(plain(), |tpm| tpm.signature.clear()), no(Reason::Malformed)),
        row("quote: a signature of zeros", after(plain(), |tpm| tpm.signature[6..38].fill(0)), no(Reason::SignatureInvalid)),
        row("quote: a byte behind the signature", after(plain(), |tpm| tpm.signature.push(0)), no(Reason::Malformed)),
        row("quote: a signature with another hash", after(plain(), |tpm| tpm.signature[3] = 0x0c), no(Reason::SignatureInvalid)),
        row("quote: a signature of another kind", after(plain(), |tpm| tpm.signature[1] = 0x1a), no(Reason::Malformed)),
    ]
}

/// Keys that may sign what no TPM measured, or that are not the one that signed.
fn keys_table() -> Vec<Entry> {
    let claims = |bits: u32| after(plain().with_tpm(|tpm| tpm.attributes = bits), |tpm| tpm.ak_public = ak_public(&OWN.ak, SIGNS));
    let mut rows = vec![
        row(
            "key: no fixed scheme",
            after(plain(), |tpm| tpm.ak_public = public(&OWN.ak, SIGNS, &[], &[0, 0x10, 0, 0x10])),
            no(Reason::KeyNotRestricted),
        ),
        row("key: not restricted, and said to be", claims(SIGNS & !Attributes::RESTRICTED.bits()), no(Reason::BindingMismatch)),
        row("key: hangs under another key", attest(plain(), |attest| attest.signer[10] ^= 1), no(Reason::BindingMismatch)),
        row("key: without the name of the signer", attest(plain(), |attest| attest.signer.clear()), no(Reason::BindingMismatch)),
        row("key: of another TPM", after(plain(), |tpm| tpm.ak_public = ak_public(&ANOTHER.ak, SIGNS)), no(Reason::SignatureInvalid)),
        row("key: another one signed", plain().with_tpm(|tpm| tpm.signer = &ANOTHER.ak), no(Reason::SignatureInvalid)),
        row("key: cut", after(plain(), |tpm| tpm.ak_public.truncate(40)), no(Reason::Malformed)),
        row("key: of no kind", after(plain(), |tpm| tpm.ak_public.fill(0)), no(Reason::Malformed)),
        row("key: the endorsement key cut", after(plain(), |tpm| tpm.ek_public.truncate(40)).says(Says::Nothing), no(Reason::Malformed)),
    ];
    for (name, bit) in [
        ("fixed to its TPM", Attributes::FIXED_TPM),
        ("fixed to its parent", Attributes::FIXED_PARENT),
        ("made by the TPM", Attributes::SENSITIVE_DATA_ORIGIN),
        ("restricted", Attributes::RESTRICTED),
        ("one that signs", Attributes::SIGN),
    ] {
        let specimen = plain().with_tpm(|tpm| tpm.attributes &= !bit.bits());
        rows.push(row(format!("key: not {name}"), specimen, no(Reason::KeyNotRestricted)));
    }
    for (name, bit) in [("decrypts too", Attributes::DECRYPT), ("signs certificates too", Attributes::X509_SIGN)] {
        rows.push(row(format!("key: {name}"), plain().with_tpm(|tpm| tpm.attributes |= bit.bits()), no(Reason::KeyNotRestricted)));
    }
    rows
}

/// Who vouches for the TPM.
fn endorsements() -> Vec<Entry> {
    let ek = ek_name();
    let unfit = |bits: u32| plain().with_tpm(|tpm| tpm.ek_attributes = bits);
    let (lost, intermediate) = through_intermediate();
    let (known, _) = through_intermediate();
    let expired = |blank: &mut Blank| blank.validity = (NOW - YEAR, NOW - 1);
    vec![
        row("ek: nobody asked the TPM", plain().says(Says::Nothing), gap(Reason::EndorsementMissing)),
        row(
            "ek: nobody asked, the wrong image, described",
            Specimen::tpm("changed").whole().says(Says::Nothing),
            no(Reason::ImageMismatch),
        ),
        row(
            "ek: nobody asked, and much is demanded",
            plain().says(Says::Nothing).demand(ImageByTpm),
            weak(PinnedKey, Reason::EndorsementMissing),
        ),
        row("ek: the challenge was not opened", plain().says(Says::Wrong), no(Reason::EndorsementInvalid)),
        row("ek: another challenge was opened", plain().says(Says::RightOfOther), no(Reason::EndorsementInvalid)),
        row("ek: not opened, demanded by name", demanded("plain", Some(&ek)).says(Says::Wrong), no(Reason::EndorsementInvalid)),
        row("ek: not asked, demanded by name", demanded("plain", Some(&ek)).says(Says::Nothing), gap(Reason::EndorsementMissing)),
        row("ek: no certificate", without_ek_certificate(plain()), no(Reason::ChainInvalid)),
        row("ek: no certificate, in the policy", without_ek_certificate(listed()), no(Reason::ChainInvalid)),
        row("ek: no certificate, demanded by name", without_ek_certificate(demanded("plain", Some(&ek))), yes(ImageByTpm)),
        row(
            "ek: certified by somebody",
            ek_certificate(plain(), &Blank { issuer: "CN=Somebody".into(), ..blank_ek() }, &FORGER),
            no(Reason::ChainInvalid),
        ),
        row("ek: certified by somebody of the same name", ek_certificate(plain(), &blank_ek(), &FORGER), no(Reason::ChainInvalid)),
        row("ek: certified for another key", ek_says(|blank| blank.info = info(&ANOTHER.ek)), no(Reason::CertificateMismatch)),
        row("ek: certified for the attestation key", ek_says(|blank| blank.info = info(&OWN.ak)), no(Reason::CertificateMismatch)),
        row("ek: certified until yesterday", ek_says(expired), no(Reason::CertificateExpired)),
        row("ek: certified from tomorrow on", ek_says(|blank| blank.validity = (NOW + 1, NOW + YEAR)), no(Reason::CertificateExpired)),
        row("ek: certified for another purpose", ek_says(|blank| blank.extensions = vec![purpose(2)]), no(Reason::ChainInvalid)),
        row(
            "ek: certified as an authority",
            ek_says(|blank| blank.extensions.push(basic_constraints(true, None))),
            no(Reason::ChainInvalid),
        ),
        row("ek: certified without a purpose", ek_says(|blank| blank.extensions.clear()), yes(ImageByTpm)),
        row("ek: a certificate that is none", after(plain(), |tpm| tpm.ek_certificate = Some(vec![0x30, 0])), no(Reason::Malformed)),
        row(
            "ek: the root's own certificate",
            after(plain(), |tpm| tpm.ek_certificate = Some(root().der().to_vec())),
            no(Reason::ChainInvalid),
        ),
        row("ek: through somebody who is not known", lost, no(Reason::ChainInvalid)),
        row(
            "ek: through somebody who is among the roots",
            known.with(|setting| setting.tpm_roots = vec![intermediate, root()]),
            yes(ImageByTpm),
        ),
        row("ek: a key that signs", unfit(ENDORSES | Attributes::SIGN.bits()), gap(Reason::EndorsementMissing)),
        row("ek: a key that is not restricted", unfit(ENDORSES & !Attributes::RESTRICTED.bits()), gap(Reason::EndorsementMissing)),
        row("ek: the time is after all certificates", plain().with(|setting| setting.now = NOW + YEAR + 1), no(Reason::CertificateExpired)),
    ]
}

/// Keys with a certificate of their own, as some clouds give.
fn ak_certificates() -> Vec<Entry> {
    let ek = ek_name();
    let expired = |blank: &mut Blank| blank.validity = (NOW - YEAR, NOW - 1);
    let same = |_: &mut Blank| {};
    vec![
        row("ak: certified", ak_says(plain(), &MAKER, same), yes(ImageByTpm)),
        row("ak: certified, in the policy", ak_says(listed(), &MAKER, same), yes(ImageByTpm)),
        row("ak: certified, demanded by a grant", ak_says(demanded("plain", None), &MAKER, same), yes(ImageByTpm)),
        row("ak: certified, the TPM demanded by name", ak_says(demanded("plain", Some(&ek)), &MAKER, same), no(Reason::ImageMismatch)),
        row("ak: certified, the wrong image", ak_says(Specimen::tpm("changed").whole(), &MAKER, same), no(Reason::ImageMismatch)),
        row("ak: certified, nobody named an image", ak_says(Specimen::tpm("plain"), &MAKER, same), gap(Reason::ImageNotNamed)),
        row("ak: certified by somebody", ak_says(plain(), &FORGER, |blank| blank.issuer = "CN=Somebody".into()), no(Reason::ChainInvalid)),
        row("ak: certified by somebody of the same name", ak_says(plain(), &FORGER, same), no(Reason::ChainInvalid)),
        row("ak: certified, its provider names it", ak_says(plain(), &MAKER, same).provider_names(&[own_ak_info()]), yes(ImageByTpm)),
        row(
            "ak: certified, its provider names another",
            ak_says(plain(), &MAKER, same).provider_names(&[another_info()]),
            no(Reason::ChainInvalid),
        ),
        row("ak: certified, no roots", ak_says(plain(), &MAKER, same).no_tpm_roots(), no(Reason::ChainInvalid)),
        row(
            "ak: certified for another key",
            ak_says(plain(), &MAKER, |blank| blank.info = info(&ANOTHER.ak)),
            no(Reason::CertificateMismatch),
        ),
        row(
            "ak: certified for the endorsement key",
            ak_says(plain(), &MAKER, |blank| blank.info = info(&OWN.ek)),
            no(Reason::CertificateMismatch),
        ),
        row("ak: certified until yesterday", ak_says(plain(), &MAKER, expired), no(Reason::CertificateExpired)),
        row(
            "ak: certified as an authority",
            ak_says(plain(), &MAKER, |blank| blank.extensions = authority(None)),
            no(Reason::ChainInvalid),
        ),
        row("ak: certified as an attestation key", ak_says(plain(), &MAKER, |blank| blank.extensions = vec![purpose(3)]), yes(ImageByTpm)),
        row(
            "ak: certified for another purpose",
            ak_says(plain(), &MAKER, |blank| blank.extensions = vec![purpose(2)]),
            no(Reason::ChainInvalid),
        ),
        row("ak: a certificate that is none", after(plain(), |tpm| tpm.ak_certificate = Some(vec![0x30, 0])), no(Reason::Malformed)),
        row(
            "ak: certified, and not restricted",
            ak_says(plain(), &MAKER, same).with_tpm(|tpm| tpm.attributes &= !Attributes::RESTRICTED.bits()),
            no(Reason::KeyNotRestricted),
        ),
    ]
}

/// Quotes that were made for something else.
fn bindings() -> Vec<Entry> {
    vec![
        row("tpm: bound to another node", plain().bound(|bound| bound.node = OTHER), no(Reason::BindingMismatch)),
        row("tpm: bound to another nonce", plain().bound(|bound| bound.nonce = Nonce(OTHER)), no(Reason::BindingMismatch)),
        row(
            "tpm: bound to another source of its key",
            plain().bound(|bound| bound.seed = Some(Source::Sealed)),
            no(Reason::BindingMismatch),
        ),
        row("tpm: bound to another program", plain().bound(|bound| bound.app_digest = OTHER), no(Reason::BindingMismatch)),
        row("tpm: bound to nothing", attest(plain(), |attest| attest.extra.clear()), no(Reason::BindingMismatch)),
        row("tpm: bound to zeros", attest(plain(), |attest| attest.extra.fill(0)), no(Reason::BindingMismatch)),
        row("tpm: bound to the first half", attest(plain(), |attest| attest.extra.truncate(16)), no(Reason::BindingMismatch)),
        row(
            "tpm: bound as a report is",
            attest(plain(), |attest| {
                attest.extra = Subject { node: NODE, app_digest: APP, nonce: Nonce(NONCE), seed: None }.report_data().to_vec()
            }),
            no(Reason::BindingMismatch),
        ),
        row("tpm: hardware is demanded", plain().demand(ImageByHardware), weak(Rung::ImageByTpm, Reason::ProofTooWeak)),
        row("tpm: what it proves is demanded", plain().demand(ImageByTpm), yes(ImageByTpm)),
        row("tpm: less is demanded", plain().demand(PinnedKey), yes(ImageByTpm)),
    ]
}

/// What the image of `plain` measures, with nothing in its registers.
pub(super) fn image_without_registers() -> Wanted {
    Wanted::Image(Box::new(crate::attest::eventlog::image::Expected { pcr: Registers::new(), ..expected() }))
}

impl Tpm {
    /// The log of one start with the registers of another.
    pub(super) fn lying(log: &str, registers: &str) -> Tpm {
        Tpm { log: real(log).log.to_vec(), ..Tpm::of(registers) }
    }
}

/// The quote is bound to something else.
pub(super) fn bound_elsewhere(specimen: Specimen) -> Specimen {
    attest(specimen, |attest| attest.extra.fill(1))
}

impl Attest {
    /// The digest is of other registers.
    pub(super) fn forget_registers(&mut self) {
        self.digest.fill(0);
    }

    /// It answers nothing.
    pub(super) fn forget_question(&mut self) {
        self.extra.clear();
    }
}

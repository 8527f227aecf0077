//! Reports of synthetic AMD chips, of every product, kind of key and layout, and what may be wrong with them.

use super::specimen::{ARK, ASK, CRL, MEASURED, OTHER, Specimen, Table, VCEK, VLEK, test_roots};
use super::{Come, Entry, gap, no, row, weak, yes};
use crate::attest::Reason;
use crate::attest::Rung::{GenuineChip, ImageByHardware, PinnedKey, ProviderFirmware};
use crate::attest::evidence::Nonce;
use crate::attest::judge::Wanted;
use crate::attest::snp::synthetic::{self, HOW, KEYS, VLEK_SERIAL, amd_oid, name, number};
use crate::attest::snp::{Endorsement, Product, Roots};
use crate::attest::x509::forge::{Blank, NOW, YEAR, authority, basic_constraints, extension, ia5, key_usage};
use crate::session::seed::Source;
use x509_cert::ext::pkix::KeyUsages;

const KEYS_OF: [Endorsement; 2] = [Endorsement::Vcek, Endorsement::Vlek];
/// Offsets in a report.
const POLICY: usize = 0x008;
const VMPL: usize = 0x030;
const SIGNATURE_ALGO: usize = 0x034;
const PLATFORM: usize = 0x040;
const KEY_INFO: usize = 0x048;
const REPORT_DATA: usize = 0x050;
const MEASUREMENT: usize = 0x090;
const ID_KEY: usize = 0x0e0;
const AUTHOR_KEY: usize = 0x110;
const REPORTED_TCB: usize = 0x180;
const CPUID: usize = 0x188;
const CHIP_ID: usize = 0x1a0;
const LAUNCH_TCB: usize = 0x1f0;
const SIGNATURE: usize = 0x2a0;
/// Bits of the guest policy that are always set here: threads may share cores, and the bit that must be one.
const USUAL: u64 = 0x30000;

pub(super) fn milan() -> Specimen {
    Specimen::snp(Product::Milan, Endorsement::Vcek, 3)
}

fn vlek() -> Specimen {
    Specimen::snp(Product::Milan, Endorsement::Vlek, 3)
}

pub(super) fn image() -> Wanted {
    Wanted::ImageMeasurement(MEASURED)
}

pub(super) fn firmware() -> Wanted {
    Wanted::FirmwareMeasurement(MEASURED)
}

pub(super) fn demanded() -> Wanted {
    Wanted::Demand(MEASURED[..20].try_into().unwrap())
}

pub(super) fn table() -> Vec<Entry> {
    [kinds(), measurements(), rules(), tcb(), launch_keys(), layouts(), signatures(), certificates(), chains(), tables(), bindings()]
        .into_iter()
        .flatten()
        .collect()
}

/// Every product, key and layout, under every way to name what is right.
fn kinds() -> Vec<Entry> {
    let ways: [(&str, Option<Wanted>, Come); 5] = [
        ("as image", Some(image()), yes(ImageByHardware)),
        ("as firmware", Some(firmware()), yes(ProviderFirmware)),
        ("by nobody", None, yes(GenuineChip)),
        ("by a grant", Some(demanded()), yes(ProviderFirmware)),
        ("otherwise", Some(Wanted::ImageMeasurement([1; 48])), no(Reason::MeasurementMismatch)),
    ];
    let mut rows = Vec::new();
    for product in Product::ALL {
        for endorsement in KEYS_OF {
            for version in [2, 3, 5] {
                for (way, wanted, come) in &ways {
                    let specimen = wanted.iter().cloned().fold(Specimen::snp(product, endorsement, version), Specimen::want);
                    rows.push(row(format!("snp: {product} {endorsement} version {version}, named {way}"), specimen, *come));
                }
            }
        }
    }
    rows
}

/// What was launched, and who says that it is right.
fn measurements() -> Vec<Entry> {
    let listed = |list: &str, digests: &[[u8; 48]]| {
        let digests: Vec<String> = digests.iter().map(hex::encode).collect();
        milan().policy(format!("snp.{list} = {digests:?}"))
    };
    let other = [1; 48];
    vec![
        row("measured: an image in the policy", listed("images", &[other, MEASURED]), yes(ImageByHardware)),
        row("measured: firmware in the policy", listed("firmware", &[MEASURED]), yes(ProviderFirmware)),
        row(
            "measured: both in the policy",
            listed("images", &[MEASURED]).policy(format!("snp.firmware = [\"{}\"]", hex::encode(MEASURED))),
            yes(ImageByHardware),
        ),
        row("measured: not in the policy's images", listed("images", &[other]), no(Reason::MeasurementMismatch)),
        row("measured: not in the policy's firmware", listed("firmware", &[other]), no(Reason::MeasurementMismatch)),
        row(
            "measured: one bit beside an image",
            milan().report(|report| report[MEASUREMENT] ^= 1).want(image()),
            no(Reason::MeasurementMismatch),
        ),
        row(
            "measured: the last bit beside an image",
            milan().report(|report| report[MEASUREMENT + 47] ^= 1).want(image()),
            no(Reason::MeasurementMismatch),
        ),
        row("measured: zeros", milan().at(MEASUREMENT, &[0; 48]).want(image()), no(Reason::MeasurementMismatch)),
        row(
            "measured: not what a grant demands, and more is demanded",
            milan().want(Wanted::Demand([1; 20])).demand(ProviderFirmware),
            weak(PinnedKey, Reason::ProofTooWeak),
        ),
        row(
            "measured: firmware where an image is demanded",
            milan().want(firmware()).demand(ImageByHardware),
            weak(ProviderFirmware, Reason::ProofTooWeak),
        ),
    ]
}

/// Each rule of the policy, broken and kept.
fn rules() -> Vec<Entry> {
    let bit = |index: u32| milan().guest_policy(USUAL | 1 << index);
    let vmpl = |level: u32| milan().at(VMPL, &level.to_le_bytes());
    let smt = |guest: u64, platform: u64| milan().guest_policy(guest).at(PLATFORM, &platform.to_le_bytes()).policy("snp.smt = false");
    let platform = |bits: u64| milan().at(PLATFORM, &bits.to_le_bytes());
    vec![
        row("rule: debugging", bit(19), no(Reason::DebugEnabled)),
        row("rule: debugging, of a named image", bit(19).want(image()), no(Reason::DebugEnabled)),
        row("rule: debugging, allowed", bit(19).policy("snp.debug = true"), yes(GenuineChip)),
        row("rule: debugging, with a VLEK", vlek().guest_policy(USUAL | 1 << 19), no(Reason::DebugEnabled)),
        row("rule: migration", bit(18), no(Reason::MigrationAllowed)),
        row("rule: migration, allowed", bit(18).policy("snp.migration = true"), yes(GenuineChip)),
        row(
            "rule: debugging and migration, one allowed",
            milan().guest_policy(USUAL | 3 << 18).policy("snp.debug = true"),
            no(Reason::MigrationAllowed),
        ),
        row("rule: level 1", vmpl(1), no(Reason::VmplNotAllowed)),
        row("rule: level 1, allowed", vmpl(1).policy("snp.vmpl = 1"), yes(GenuineChip)),
        row("rule: level 0 where 1 is allowed", vmpl(0).policy("snp.vmpl = 1"), yes(GenuineChip)),
        row("rule: level 3 where 2 is allowed", vmpl(3).policy("snp.vmpl = 2"), no(Reason::VmplNotAllowed)),
        row("rule: the host asked", vmpl(u32::MAX).policy("snp.vmpl = 3"), no(Reason::VmplNotAllowed)),
        row("rule: a level in the second byte", vmpl(0x100).policy("snp.vmpl = 3"), no(Reason::VmplNotAllowed)),
        row("rule: threads, both", smt(USUAL, 1), no(Reason::SmtEnabled)),
        row("rule: threads, allowed by the guest", smt(USUAL, 0), no(Reason::SmtEnabled)),
        row("rule: threads, on the platform", smt(0x20000, 1), no(Reason::SmtEnabled)),
        row("rule: threads, neither", smt(0x20000, 0), yes(GenuineChip)),
        row("rule: one socket, not", milan().policy("snp.single_socket = true"), no(Reason::PlatformNotAllowed)),
        row("rule: one socket", bit(20).policy("snp.single_socket = true"), yes(GenuineChip)),
        row("rule: aliases not checked", platform(0b101).policy("snp.alias_check = true"), no(Reason::PlatformNotAllowed)),
        row("rule: aliases checked", platform(0b10_0101).policy("snp.alias_check = true"), yes(GenuineChip)),
        row("rule: the product is listed", milan().policy("snp.products = [\"turin\", \"milan\"]"), yes(GenuineChip)),
        row("rule: later policy bits", bit(25), yes(GenuineChip)),
    ]
}

/// Each part of the firmware against its minimum.
fn tcb() -> Vec<Entry> {
    let all: [(Product, &[(&str, u8)]); 3] = [
        (Product::Milan, &[("bootloader", 3), ("tee", 4), ("snp", 21), ("microcode", 209)]),
        (Product::Genoa, &[("bootloader", 3), ("tee", 4), ("snp", 21), ("microcode", 209)]),
        (Product::Turin, &[("fmc", 1), ("bootloader", 2), ("tee", 3), ("snp", 4), ("microcode", 84)]),
    ];
    let mut rows = Vec::new();
    for (product, parts) in all {
        for (part, version) in parts {
            let line = |least: u8| format!("snp.minimum_tcb.{}.{part} = {least}", product.as_str().to_lowercase());
            let specimen = || Specimen::snp(product, Endorsement::Vcek, 3);
            rows.push(row(format!("tcb: {product} {part} as demanded"), specimen().policy(line(*version)), yes(GenuineChip)));
            rows.push(row(format!("tcb: {product} {part} too old"), specimen().policy(line(version + 1)), no(Reason::TcbTooOld)));
        }
    }
    let minimum = |line: &str| milan().policy(format!("snp.minimum_tcb.{line}"));
    rows.extend([
        row("tcb: a part that the product lacks", minimum("milan.fmc = 0"), no(Reason::TcbTooOld)),
        row("tcb: the highest that can be demanded", minimum("milan.snp = 255"), no(Reason::TcbTooOld)),
        row("tcb: a minimum of another product", minimum("genoa.snp = 255"), yes(GenuineChip)),
        row("tcb: too old, with a VLEK", vlek().policy("snp.minimum_tcb.milan.snp = 22"), no(Reason::TcbTooOld)),
        row("tcb: lower than the certificate's", milan().report(|report| report[REPORTED_TCB] -= 1), no(Reason::CertificateMismatch)),
        row("tcb: higher than the certificate's", milan().report(|report| report[REPORTED_TCB] += 1), no(Reason::CertificateMismatch)),
        row("tcb: reserved bytes of the launch", milan().report(|report| report[LAUNCH_TCB + 3] = 1), no(Reason::Malformed)),
        row(
            "tcb: another in a VLEK's certificate",
            vlek().leaf(|leaf| set(leaf, "3.3", number("3.3", 22).extn_value.as_bytes())),
            no(Reason::CertificateMismatch),
        ),
    ]);
    rows
}

/// The keys that signed the launch.
fn launch_keys() -> Vec<Entry> {
    let (right, other) = ([7; 48], [8; 48]);
    let mut rows = Vec::new();
    for (rule, offset) in [("id_keys", ID_KEY), ("author_keys", AUTHOR_KEY)] {
        let line = |keys: &[[u8; 48]]| format!("snp.{rule} = {:?}", keys.iter().map(hex::encode).collect::<Vec<_>>());
        rows.extend([
            row(format!("launch: {rule}, the right one"), milan().at(offset, &right).policy(line(&[right])), yes(GenuineChip)),
            row(format!("launch: {rule}, one of two"), milan().at(offset, &right).policy(line(&[other, right])), yes(GenuineChip)),
            row(format!("launch: {rule}, another"), milan().at(offset, &right).policy(line(&[other])), no(Reason::LaunchKeyMismatch)),
            row(format!("launch: {rule}, none"), milan().policy(line(&[right])), no(Reason::LaunchKeyMismatch)),
        ]);
    }
    let crossed = milan().at(ID_KEY, &right).policy(format!("snp.author_keys = [\"{}\"]", hex::encode(right)));
    rows.push(row("launch: the identity key where the author's is demanded", crossed, no(Reason::LaunchKeyMismatch)));
    rows
}

/// Reports that are none, or of another kind.
fn layouts() -> Vec<Entry> {
    let version = |number: u32| milan().at(0, &number.to_le_bytes());
    vec![
        row("layout: version 1", version(1), gap(Reason::UnsupportedProduct)),
        row("layout: version 4", version(4), gap(Reason::UnsupportedProduct)),
        row("layout: version 6", version(6), gap(Reason::UnsupportedProduct)),
        row("layout: version 6, and a chip is demanded", version(6).demand(GenuineChip), weak(PinnedKey, Reason::UnsupportedProduct)),
        row("layout: version 5 said to be 2", Specimen::snp(Product::Milan, Endorsement::Vcek, 5).at(0, &[2]), no(Reason::Malformed)),
        row("layout: cut", milan().after(|report| report.truncate(1183)), no(Reason::Malformed)),
        row("layout: a byte behind", milan().after(|report| report.push(0)), no(Reason::Malformed)),
        row("layout: empty", milan().after(Vec::clear), no(Reason::Malformed)),
        row("layout: zeros", milan().after(|report| report.fill(0)), gap(Reason::UnsupportedProduct)),
        row("layout: reserved bytes before the data", milan().at(0x04c, &[1]), no(Reason::Malformed)),
        row("layout: reserved bytes at the end", milan().at(0x29f, &[1]), no(Reason::Malformed)),
        row("layout: bytes behind S", milan().after(|report| report[0x49f] = 1), no(Reason::Malformed)),
        row("layout: bytes behind R", milan().after(|report| report[SIGNATURE + 48] = 1), no(Reason::Malformed)),
        row("layout: a guest policy without its fixed bit", milan().guest_policy(0x10000), no(Reason::Malformed)),
        row("layout: a guest policy of the future", milan().guest_policy(USUAL | 1 << 26), no(Reason::Malformed)),
        row("layout: platform bits of the future", milan().at(PLATFORM, &[0x45]), no(Reason::Malformed)),
        row("layout: a key of no kind", milan().at(KEY_INFO, &[2 << 2]), no(Reason::Malformed)),
        row("layout: another processor", milan().at(CPUID, &synthetic::cpuid(Product::Genoa)), no(Reason::CertificateMismatch)),
        row("layout: a processor that nobody knows", milan().at(CPUID, &[0x1a, 0x50, 0]), gap(Reason::UnsupportedProduct)),
    ]
}

/// Signatures that are not of the chip, or not over this.
fn signatures() -> Vec<Entry> {
    let undebug = |report: &mut Vec<u8>| report[POLICY + 2] &= !8;
    vec![
        row("signature: by another key", milan().signed_by_other_leaf(), no(Reason::SignatureInvalid)),
        row("signature: zeros", milan().after(|report| report[SIGNATURE..].fill(0)), no(Reason::SignatureInvalid)),
        row("signature: a bit of R", milan().after(|report| report[SIGNATURE + 5] ^= 4), no(Reason::SignatureInvalid)),
        row("signature: a bit of S", milan().after(|report| report[SIGNATURE + 72 + 5] ^= 4), no(Reason::SignatureInvalid)),
        row(
            "signature: debugging taken out afterwards",
            milan().guest_policy(USUAL | 1 << 19).after(undebug),
            no(Reason::SignatureInvalid),
        ),
        row(
            "signature: the measurement put in afterwards",
            milan().at(MEASUREMENT, &[1; 48]).after(|report| report[MEASUREMENT..MEASUREMENT + 48].fill(0x3c)).want(image()),
            no(Reason::SignatureInvalid),
        ),
        row(
            "signature: the level put down afterwards",
            milan().at(VMPL, &[1]).after(|report| report[VMPL] = 0),
            no(Reason::SignatureInvalid),
        ),
        row("signature: none", milan().at(KEY_INFO, &[7 << 2]), no(Reason::SignatureInvalid)),
        row("signature: of no algorithm", milan().at(SIGNATURE_ALGO, &[0]), no(Reason::SignatureInvalid)),
        row("signature: of another algorithm", milan().at(SIGNATURE_ALGO, &[2]), no(Reason::SignatureInvalid)),
        row(
            "signature: by the key of a certificate for another",
            milan().leaf(|leaf| leaf.info = crate::attest::x509::forge::p384_info(&KEYS.other_leaf)),
            no(Reason::SignatureInvalid),
        ),
        row("signature: said to be of a VLEK", milan().at(KEY_INFO, &[4]), gap(Reason::CertificateMissing)),
        row("signature: said to be of a VCEK", vlek().at(KEY_INFO, &[0]), gap(Reason::CertificateMissing)),
        row("chip: masked", milan().at(CHIP_ID, &[0; 64]), no(Reason::CertificateMismatch)),
        row("chip: masked, with a VLEK", vlek().at(CHIP_ID, &[0; 64]), yes(GenuineChip)),
        row("chip: its key masked", milan().at(KEY_INFO, &[2]), no(Reason::CertificateMismatch)),
        row("chip: its key masked, with a VLEK", vlek().at(KEY_INFO, &[6]), yes(GenuineChip)),
        row("chip: another", milan().report(|report| report[CHIP_ID + 63] ^= 1), no(Reason::CertificateMismatch)),
        row(
            "chip: a Turin with a long name",
            Specimen::snp(Product::Turin, Endorsement::Vcek, 3).at(CHIP_ID + 8, &[1]),
            no(Reason::Malformed),
        ),
    ]
}

fn set(blank: &mut Blank, tail: &str, value: &[u8]) {
    blank.extensions.retain(|extension| extension.extn_id != amd_oid(tail));
    blank.extensions.push(extension(amd_oid(tail), false, value));
}

/// What certificates say.
fn certificates() -> Vec<Entry> {
    let expired = |blank: &mut Blank| blank.validity = (NOW - YEAR, NOW - 1);
    let early = |blank: &mut Blank| blank.validity = (NOW + 1, NOW + YEAR);
    let old_root = || Blank { validity: (NOW - YEAR, NOW - 1), ..synthetic::ark(Product::Milan) }.sign(&KEYS.ark, HOW);
    let at = |now: u64| milan().with(move |setting| setting.now = now);
    let usage = |usage: KeyUsages| move |blank: &mut Blank| blank.extensions = vec![basic_constraints(true, None), key_usage(usage)];
    vec![
        row("leaf: expired", milan().leaf(expired), no(Reason::CertificateExpired)),
        row("leaf: not valid yet", milan().leaf(early), no(Reason::CertificateExpired)),
        row("leaf: of another chip", milan().leaf(|leaf| set(leaf, "4", &[9; 64])), no(Reason::CertificateMismatch)),
        row("leaf: of no chip", milan().leaf(|leaf| set(leaf, "4", &[0; 64])), no(Reason::CertificateMismatch)),
        row("leaf: of a chip and a provider", milan().leaf(|leaf| set(leaf, "5", &ia5("cloud"))), no(Reason::CertificateMismatch)),
        row("leaf: of another product", milan().leaf(|leaf| set(leaf, "2", &ia5("Genoa-B1"))), gap(Reason::CertificateMissing)),
        row(
            "leaf: of a product that nobody knows",
            milan().leaf(|leaf| set(leaf, "2", &ia5("Venice-A0"))),
            gap(Reason::UnsupportedProduct),
        ),
        row("leaf: of a layout that nobody knows", milan().leaf(|leaf| set(leaf, "1", &[2, 1, 2])), gap(Reason::UnsupportedProduct)),
        row(
            "leaf: without its firmware",
            milan().leaf(|leaf| leaf.extensions.retain(|one| one.extn_id != amd_oid("3.8"))),
            no(Reason::CertificateMismatch),
        ),
        row("leaf: an extension twice", milan().leaf(|leaf| leaf.extensions.push(number("3.8", 209))), no(Reason::Malformed)),
        row(
            "leaf: a critical extension",
            milan().leaf(|leaf| leaf.extensions.push(extension(amd_oid("99"), true, &[5, 0]))),
            no(Reason::ChainInvalid),
        ),
        row(
            "leaf: an authority",
            milan().leaf(|leaf| leaf.extensions.push(basic_constraints(true, None))),
            no(Reason::CertificateMismatch),
        ),
        row("leaf: by another name", milan().leaf(|leaf| leaf.subject = name("SEV-OTHER")), no(Reason::CertificateMismatch)),
        row("issuer: expired", milan().issuer(expired), no(Reason::CertificateExpired)),
        row(
            "issuer: no authority",
            milan().issuer(|ask| ask.extensions = vec![basic_constraints(false, None)]),
            no(Reason::CertificateMismatch),
        ),
        row("issuer: may not sign", milan().issuer(usage(KeyUsages::CRLSign)), no(Reason::ChainInvalid)),
        row("issuer: may sign", milan().issuer(usage(KeyUsages::KeyCertSign)), yes(GenuineChip)),
        row("root: expired", milan().trusting(&old_root()), no(Reason::CertificateExpired)),
        row("time: the first second", at(NOW - YEAR), yes(GenuineChip)),
        row("time: the last second", at(NOW + YEAR), yes(GenuineChip)),
        row("time: a second before", at(NOW - YEAR - 1), no(Reason::CertificateExpired)),
        row("time: a second after", at(NOW + YEAR + 1), no(Reason::CertificateExpired)),
    ]
}

/// Chains that lead elsewhere.
fn chains() -> Vec<Entry> {
    let forged_root = || Blank { info: KEYS.forger.info(), ..synthetic::ark(Product::Milan) }.sign(&KEYS.forger, HOW);
    let short = || synthetic::ark(Product::Milan).with(authority(Some(0))).sign(&KEYS.ark, HOW);
    let only = |roots: Vec<Roots>| milan().with(move |setting| setting.snp_roots = roots);
    let amd = || Roots::amd().unwrap();
    vec![
        row("chain: a leaf signed by somebody", milan().leaf_by(&KEYS.forger), no(Reason::SignatureInvalid)),
        row("chain: a leaf signed by the root", milan().leaf_by(&KEYS.ark), no(Reason::SignatureInvalid)),
        row("chain: a leaf signed for VLEKs", milan().leaf_by(&KEYS.asvk), no(Reason::SignatureInvalid)),
        row("chain: an ASK signed by somebody", milan().issuer_by(&KEYS.forger), no(Reason::SignatureInvalid)),
        row("chain: an ASK of somebody else's", milan().issuer(|ask| ask.issuer = name("ARK-Genoa")), no(Reason::ChainInvalid)),
        row(
            "chain: all of it by somebody",
            milan().issuer_by(&KEYS.forger).sent(move |sent| sent.push((ARK, forged_root()))),
            no(Reason::SignatureInvalid),
        ),
        row("chain: an ASK with another key", milan().issuer(|ask| ask.info = KEYS.forger.info()), no(Reason::SignatureInvalid)),
        row("chain: the root of another product", only(vec![test_roots(Product::Genoa)]), no(Reason::ChainInvalid)),
        row("chain: the right root second", only(vec![test_roots(Product::Genoa), test_roots(Product::Milan)]), yes(GenuineChip)),
        row("chain: beside AMD's", only(vec![amd(), test_roots(Product::Milan)]), yes(GenuineChip)),
        row("chain: AMD's roots alone", only(vec![amd()]), no(Reason::SignatureInvalid)),
        row("chain: no roots", only(Vec::new()), gap(Reason::VerifierUnavailable)),
        row("chain: no roots, and a chip is demanded", only(Vec::new()).demand(GenuineChip), weak(PinnedKey, Reason::VerifierUnavailable)),
        row("chain: a root that allows no ASK", milan().trusting(&short()), no(Reason::ChainInvalid)),
        row(
            "chain: a VCEK under the ASVK",
            milan().leaf(|leaf| leaf.issuer = name("SEV-VLEK-Milan")).leaf_by(&KEYS.asvk),
            no(Reason::ChainInvalid),
        ),
    ]
}

/// What the host sent.
fn tables() -> Vec<Entry> {
    let without = |guid: &'static str| move |sent: &mut Table| sent.retain(|(kind, _)| *kind != guid);
    let list = |product: Product, serials: &[&[u8]]| synthetic::crl(product, serials).sign(&KEYS.ark, HOW);
    let with = |guid: &'static str, bytes: Vec<u8>| move |sent: &mut Table| sent.push((guid, bytes.clone()));
    let ark = synthetic::ark_der(Product::Milan);
    let both = synthetic::leaf_der(Product::Milan, Endorsement::Vlek);
    let unknown = "11111111-2222-3333-4444-555555555555";
    let milan_list = list(Product::Milan, &[&synthetic::ASK_SERIAL]);
    let other_list = list(Product::Milan, &[&[9, 9]]);
    let vlek_list = list(Product::Milan, &[&VLEK_SERIAL]);
    let genoa_list = list(Product::Genoa, &[&[9, 9]]);
    let forged = synthetic::crl(Product::Milan, &[&[9, 9]]).sign(&KEYS.forger, HOW);
    vec![
        row("table: empty", milan().sent(Table::clear), gap(Reason::CertificateMissing)),
        row(
            "table: empty, and a chip is demanded",
            milan().sent(Table::clear).demand(GenuineChip),
            weak(PinnedKey, Reason::CertificateMissing),
        ),
        row("table: no leaf", milan().sent(without(VCEK)), gap(Reason::CertificateMissing)),
        row("table: no ASK", milan().sent(without(ASK)), gap(Reason::CertificateMissing)),
        row("table: no ASVK", vlek().sent(without(ASK)), gap(Reason::CertificateMissing)),
        row("table: with the root", milan().sent(with(ARK, ark.clone())), yes(GenuineChip)),
        row("table: with both kinds of leaf", milan().sent(with(VLEK, both)), yes(GenuineChip)),
        row("table: with something unknown", milan().sent(with(unknown, vec![1, 2, 3])), yes(GenuineChip)),
        row("table: a leaf where the root belongs", milan().sent(|sent| sent[1].0 = ARK), no(Reason::CertificateMismatch)),
        row("table: the ASK where the leaf belongs", milan().sent(|sent| sent[1].1 = sent[0].1.clone()), no(Reason::CertificateMismatch)),
        row(
            "table: an ASK of another product",
            milan().sent(|sent| sent[0].1 = synthetic::issuer_der(Product::Genoa, Endorsement::Vcek)),
            gap(Reason::CertificateMissing),
        ),
        row(
            "table: a leaf of another product",
            milan().sent(|sent| sent[1].1 = synthetic::leaf_der(Product::Genoa, Endorsement::Vcek)),
            gap(Reason::CertificateMissing),
        ),
        row("table: a certificate that is none", milan().sent(|sent| sent[1].1 = vec![0x30, 3, 1, 2, 3]), no(Reason::Malformed)),
        row("table: one entry twice", milan().sent(with(VCEK, vec![1])), no(Reason::Malformed)),
        row("table: cut", milan().table(|table| table.truncate(table.len() - 9)), no(Reason::Malformed)),
        row("table: cut in its head", milan().table(|table| table.truncate(30)), no(Reason::Malformed)),
        row(
            "table: without an end",
            milan().table(|table| table.iter_mut().skip(48).take(24).for_each(|byte| *byte = 1)),
            no(Reason::Malformed),
        ),
        row("table: an entry beyond its end", milan().table(|table| table[22] = 0xff), no(Reason::Malformed)),
        row("table: an entry of no bytes", milan().table(|table| table[20..24].fill(0)), no(Reason::Malformed)),
        row(
            "table: two entries in one place",
            milan().table(|table| {
                let first: Vec<u8> = table[16..24].to_vec();
                table[40..48].copy_from_slice(&first);
            }),
            no(Reason::Malformed),
        ),
        row(
            "table: an entry in the head",
            milan().table(|table| table[16..20].copy_from_slice(&8u32.to_le_bytes())),
            no(Reason::Malformed),
        ),
        row("table: the ASK taken back", milan().sent(with(CRL, milan_list)), no(Reason::Revoked)),
        row("table: the VLEK taken back", vlek().sent(with(CRL, vlek_list)), no(Reason::Revoked)),
        row("table: another taken back", milan().sent(with(CRL, other_list)), yes(GenuineChip)),
        row("table: a list of another product", milan().sent(with(CRL, genoa_list)), no(Reason::RevocationListInvalid)),
        row("table: a list by somebody", milan().sent(with(CRL, forged)), no(Reason::RevocationListInvalid)),
        row("table: a list that is none", milan().sent(with(CRL, vec![0x30, 0])), no(Reason::RevocationListInvalid)),
        row("given: certificates from elsewhere", milan().certificates_given(&milan()), yes(GenuineChip)),
        row(
            "given: of another chip",
            milan().certificates_given(&milan().leaf(|leaf| set(leaf, "4", &[9; 64]))),
            no(Reason::CertificateMismatch),
        ),
        row("given: of another kind", milan().certificates_given(&vlek()), gap(Reason::CertificateMissing)),
    ]
}

/// Reports that were made for something else.
fn bindings() -> Vec<Entry> {
    vec![
        row("snp: bound to another node", milan().bound(|bound| bound.node = OTHER), no(Reason::BindingMismatch)),
        row("snp: bound to another nonce", milan().bound(|bound| bound.nonce = Nonce(OTHER)), no(Reason::BindingMismatch)),
        row(
            "snp: bound to another source of its key",
            milan().bound(|bound| bound.seed = Some(Source::Measured)),
            no(Reason::BindingMismatch),
        ),
        row("snp: bound to another program", milan().bound(|bound| bound.app_digest = OTHER), no(Reason::BindingMismatch)),
        row("snp: bound to nothing", milan().at(REPORT_DATA, &[0; 64]), no(Reason::BindingMismatch)),
        row("snp: bound in its first half", milan().at(REPORT_DATA + 32, &[0; 32]), no(Reason::BindingMismatch)),
        row(
            "snp: a named image, bound to another node",
            milan().want(image()).bound(|bound| bound.node = OTHER),
            no(Reason::BindingMismatch),
        ),
    ]
}

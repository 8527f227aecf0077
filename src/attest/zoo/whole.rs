//! Evidence as a whole: none, unreadable, old, of both kinds; and what was demanded of it.

use super::snp::{demanded, firmware, image, milan};
use super::specimen::{APP, NODE, NONCE, OTHER, Says, Specimen, Table};
use super::tpm::{boots, listed};
use super::{Come, Entry, gap, no, row, weak, yes, yes_but};
use crate::attest::Reason;
use crate::attest::Rung::{self, GenuineChip, ImageByHardware, ImageByTpm, Nothing, PinnedKey, ProviderFirmware};
use crate::attest::evidence::Nonce;
use crate::attest::judge::{Asked, Wanted};
use crate::attest::x509::forge::NOW;
use crate::encoding::cbor::Map;
use crate::session::messages::MAX_EVIDENCE;

const DEBUG: u64 = 0x30000 | 1 << 19;

pub(super) fn table() -> Vec<Entry> {
    [nothing(), unreadable(), questions(), demands(), named(), both()].into_iter().flatten().collect()
}

/// Nodes that show nothing.
fn nothing() -> Vec<Entry> {
    let none = |asked| Specimen::none().asked(asked);
    let empty = gap(Reason::NoEvidence);
    vec![
        row("none: nothing is shown", Specimen::none(), empty),
        row("none: nothing is shown, a pinned key is demanded", Specimen::none().demand(PinnedKey), empty),
        row("none: nothing is shown, a chip is demanded", Specimen::none().demand(GenuineChip), weak(PinnedKey, Reason::NoEvidence)),
        row("none: nothing is shown, and nobody is pinned", none(Asked::Nobody), empty.unbound()),
        row("none: nobody is pinned, a pinned key is demanded", none(Asked::Nobody).demand(PinnedKey), weak(Nothing, Reason::NoEvidence)),
        row("none: nothing is shown, though an image is named", Specimen::none().whole(), empty),
        row("none: hardware says nothing", Specimen::empty(), empty),
        row("none: hardware says nothing, and nobody is pinned", Specimen::empty().asked(Asked::Nobody), empty.unbound()),
        row("none: hardware says nothing, an image is demanded", Specimen::empty().demand(ImageByTpm), weak(PinnedKey, Reason::NoEvidence)),
    ]
}

/// Bytes that are no evidence.
fn unreadable() -> Vec<Entry> {
    let instead = |bytes: Vec<u8>| milan().bytes(move |shown| shown.clone_from(&bytes));
    let head = |version: u64| Map::new().with(0, version).with(1, NONCE).with(2, APP);
    let bad = no(Reason::Malformed);
    vec![
        row("bytes: none", instead(Vec::new()), bad),
        row("bytes: text", instead(b"verified".to_vec()), bad),
        row("bytes: version 0", instead(head(0).encode()), bad),
        row("bytes: version 2", instead(head(2).encode()), bad),
        row("bytes: a field of the future", instead(head(1).with(5, OTHER).encode()), bad),
        row("bytes: a short nonce", instead(Map::new().with(0, 1u64).with(1, [1u8; 31]).with(2, APP).encode()), bad),
        row("bytes: a report that is no map", instead(head(1).with(3, OTHER).encode()), bad),
        row("bytes: a register that no TPM has", instead(head(1).with(4, Map::new().with(7, Map::new().with(24, OTHER))).encode()), bad),
        row("bytes: one behind the end", milan().bytes(|bytes| bytes.push(0)), bad),
        row("bytes: one cut off", milan().bytes(|bytes| bytes.truncate(bytes.len() - 1)), bad),
        row("bytes: cut in half", milan().bytes(|bytes| bytes.truncate(bytes.len() / 2)), bad),
        row("bytes: twice", milan().bytes(|bytes| bytes.extend(bytes.clone())), bad),
        row("bytes: the number of fields in two bytes", milan().bytes(|bytes| drop(bytes.splice(0..1, [0xb8, 4]))), bad),
        row("bytes: more than may travel", instead(vec![0xa0; MAX_EVIDENCE + 1]), bad),
        row(
            "bytes: more than may travel, though it could be read",
            instead(head(1).with(3, Map::new().with(0, vec![1u8; 1184]).with(1, vec![0u8; MAX_EVIDENCE])).encode()),
            bad,
        ),
        row("bytes: none, and nobody is pinned", instead(Vec::new()).asked(Asked::Nobody), bad.unbound()),
    ]
}

/// What was asked, and when.
fn questions() -> Vec<Entry> {
    let made = |time: u64| milan().nonce(Nonce::at(time)).asked(Asked::Node(NODE));
    let limited = |time: u64| made(time).policy("max_age = \"1h\"");
    vec![
        row("asked: another nonce", milan().asked(Asked::Nonce(NODE, OTHER)), no(Reason::BindingMismatch)),
        row("asked: another node", milan().asked(Asked::Nonce(OTHER, NONCE)), no(Reason::BindingMismatch)),
        row("asked: a nonce, answered with what was made before", milan().nonce(Nonce::at(NOW)), no(Reason::BindingMismatch)),
        row("asked: nothing, answered with what another asked", milan().asked(Asked::Node(NODE)), no(Reason::Stale)),
        row("asked: a node, made now", made(NOW), yes(GenuineChip)),
        row("asked: another node, made now", made(NOW).asked(Asked::Node(OTHER)), no(Reason::BindingMismatch)),
        row("asked: a node, made long ago", made(1), yes(GenuineChip)),
        row("asked: a node, as old as allowed", limited(NOW - 3600), yes(GenuineChip)),
        row("asked: a node, a second too old", limited(NOW - 3601), no(Reason::Stale)),
        row("asked: a node, without a time", limited(0), no(Reason::Stale)),
        row("asked: a node, five minutes ahead", limited(NOW + 300), yes(GenuineChip)),
        row("asked: a node, more than five minutes ahead", limited(NOW + 301), no(Reason::Stale)),
        row("asked: a node, from the future, any age", made(NOW + 301), no(Reason::Stale)),
        row("asked: a node, from the end of time", made(u64::MAX), no(Reason::Stale)),
        row("asked: a nonce, where an age is demanded", milan().policy("max_age = \"1s\""), yes(GenuineChip)),
        row(
            "asked: a time changed afterwards",
            limited(NOW - 7200).bytes(|bytes| {
                let at = bytes.windows(8).position(|eight| eight == (NOW - 7200).to_be_bytes()).unwrap();
                bytes[at..at + 8].copy_from_slice(&NOW.to_be_bytes());
            }),
            no(Reason::BindingMismatch),
        ),
        row("asked: nobody is pinned", milan().asked(Asked::Nobody), yes(GenuineChip)),
        row("asked: nobody is pinned, bound to somebody", milan().bound(|bound| bound.node = OTHER).asked(Asked::Nobody), yes(GenuineChip)),
        row("asked: nobody is pinned, debugging", milan().guest_policy(DEBUG).asked(Asked::Nobody), no(Reason::DebugEnabled).unbound()),
        row(
            "asked: nobody is pinned, not asked",
            Specimen::tpm("plain").whole().says(Says::Nothing).asked(Asked::Nobody),
            gap(Reason::EndorsementMissing).unbound(),
        ),
        row("asked: nobody is pinned, a quote", Specimen::tpm("plain").whole().asked(Asked::Nobody), yes(ImageByTpm)),
        row("asked: a quote made before", listed().nonce(Nonce::at(NOW - 5)).asked(Asked::Node(NODE)), yes(ImageByTpm)),
    ]
}

/// Each rung, demanded of what proves each.
fn demands() -> Vec<Entry> {
    let proofs: [(Rung, fn() -> Specimen); 4] = [
        (GenuineChip, milan),
        (ProviderFirmware, || milan().want(firmware())),
        (ImageByTpm, || Specimen::tpm("plain").whole()),
        (ImageByHardware, || milan().want(image())),
    ];
    let mut rows = Vec::new();
    for (proved, make) in proofs {
        for demand in Rung::ALL {
            let come = if demand > proved { weak(proved, Reason::ProofTooWeak) } else { yes(proved) };
            rows.push(row(format!("demand: {demand} of {proved}"), make().demand(demand), come));
        }
    }
    rows.push(row("demand: of what is refused", milan().guest_policy(DEBUG).demand(ImageByTpm), no(Reason::DebugEnabled)));
    rows
}

/// What a person named must be there, whatever rung the rest makes.
fn named() -> Vec<Entry> {
    let tpm = || Specimen::tpm("plain").whole();
    vec![
        row("named: an image in the policy, a report alone", milan().image(boots("plain")), no(Reason::ProofTooWeak)),
        row("named: an image, a report alone", milan().whole().must_show_image(), no(Reason::ProofTooWeak)),
        row("named: an image, a report of known firmware", milan().want(firmware()).must_show_image(), no(Reason::ProofTooWeak)),
        row("named: an image, by its launch", milan().want(image()).must_show_image(), yes(ImageByHardware)),
        row("named: an image, a quote", tpm().must_show_image(), yes(ImageByTpm)),
        row(
            "named: an image, a quote of a TPM that was not asked",
            tpm().says(Says::Nothing).must_show_image(),
            weak(PinnedKey, Reason::EndorsementMissing),
        ),
        row("named: a launch, a quote alone", tpm().must_show_measurement(), no(Reason::MeasurementMismatch)),
        row("named: a launch, both", Specimen::both("plain").whole().want(firmware()).must_show_measurement(), yes(ImageByTpm)),
        row(
            "named: a launch, both, without certificates",
            Specimen::both("plain").whole().sent(Table::clear).must_show_measurement(),
            no(Reason::MeasurementMismatch),
        ),
        row("named: an image, nothing is shown", Specimen::none().must_show_image().demand(PinnedKey), gap(Reason::NoEvidence)),
    ]
}

/// A report and a quote together: each counts, none excuses the other.
fn both() -> Vec<Entry> {
    let good = || Specimen::both("plain").whole().want(image());
    let rest = |specimen: Specimen| specimen.whole();
    let plain = || rest(Specimen::both("plain"));
    let unknown = |specimen: Specimen| specimen.at(0, &[6]);
    let refused = |reason: Reason| -> Come { no(reason) };
    vec![
        row("both: good", good(), yes(ImageByHardware)),
        row("both: good, the firmware is named", plain().want(firmware()), yes(ImageByTpm)),
        row("both: good, the image in the policy", Specimen::both("plain").image(boots("plain")), yes(ImageByTpm)),
        row("both: good, the TPM's image alone is named", plain(), yes(ImageByTpm)),
        row("both: good, nothing is named", Specimen::both("plain"), yes_but(GenuineChip, Reason::ImageNotNamed)),
        row(
            "both: good, the launch alone is named",
            Specimen::both("plain").want(image()),
            yes_but(ImageByHardware, Reason::ImageNotNamed),
        ),
        row("both: good, and a grant demands the launch", Specimen::both("changed").want(demanded()), yes(ProviderFirmware)),
        row("both: good, and hardware is demanded", plain().demand(ImageByHardware), weak(ImageByTpm, Reason::ProofTooWeak)),
        row("both: the chip debugs", good().guest_policy(DEBUG), refused(Reason::DebugEnabled)),
        row("both: the chip's level is 1", good().at(0x030, &[1]), refused(Reason::VmplNotAllowed)),
        row("both: the report is of another key", good().signed_by_other_leaf(), refused(Reason::SignatureInvalid)),
        row("both: another launch", plain().want(Wanted::ImageMeasurement([1; 48])), refused(Reason::MeasurementMismatch)),
        row("both: the chip has no certificate", good().sent(Table::clear), yes_but(ImageByTpm, Reason::CertificateMissing)),
        row(
            "both: the chip has no certificate, and hardware is demanded",
            good().sent(Table::clear).demand(ImageByHardware),
            weak(ImageByTpm, Reason::CertificateMissing),
        ),
        row("both: a report of the future", unknown(good()), yes_but(ImageByTpm, Reason::UnsupportedProduct)),
        row("both: no roots for chips", good().with(|setting| setting.snp_roots.clear()), yes_but(ImageByTpm, Reason::VerifierUnavailable)),
        row("both: nobody asked the TPM", good().says(Says::Nothing), yes_but(ImageByHardware, Reason::EndorsementMissing)),
        row(
            "both: nobody asked the TPM, and the launch is not named",
            plain().says(Says::Nothing),
            yes_but(GenuineChip, Reason::EndorsementMissing),
        ),
        row(
            "both: nobody asked the TPM, and its image is demanded",
            plain().says(Says::Nothing).demand(ImageByTpm),
            weak(GenuineChip, Reason::EndorsementMissing),
        ),
        row("both: the TPM could not answer", good().says(Says::Wrong), refused(Reason::EndorsementInvalid)),
        row("both: the TPM started another image", rest(Specimen::both("changed")).want(image()), refused(Reason::ImageMismatch)),
        row(
            "both: the TPM's log is another's",
            good().with_tpm(|tpm| *tpm = super::tpm::Tpm::lying("plain", "changed")),
            refused(Reason::EventLogMismatch),
        ),
        row("both: bound to another node", good().bound(|bound| bound.node = OTHER), refused(Reason::BindingMismatch)),
        row("both: the report alone is bound to another node", good().at(0x050, &[1; 64]), refused(Reason::BindingMismatch)),
        row("both: the quote alone is bound to another node", super::tpm::bound_elsewhere(good()), refused(Reason::BindingMismatch)),
        row("both: neither can be proved", good().sent(Table::clear).says(Says::Nothing), gap(Reason::CertificateMissing)),
        row("both: bad, each in its way", good().guest_policy(DEBUG).says(Says::Wrong), refused(Reason::DebugEnabled)),
        row("both: a report alone, where both were", milan().whole(), yes(GenuineChip)),
        row(
            "both: a report alone, where the TPM's image is demanded",
            milan().whole().demand(ImageByTpm),
            weak(GenuineChip, Reason::ProofTooWeak),
        ),
    ]
}

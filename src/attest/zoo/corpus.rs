//! What other verifiers forgot, one test for each public report, named after it. None of it is copied: each is the same mistake, tried here.

use super::snp::{firmware, image, milan};
use super::specimen::{APP, CRL, NODE, NONCE, OTHER, Says, Specimen};
use super::tpm::{after, attest, boots, image_without_registers, listed};
use super::{Come, Setting};
use crate::attest::evidence::{Evidence, Nonce, Subject};
use crate::attest::judge::{Asked, Wanted, demands};
use crate::attest::snp::synthetic::{self, HOW, KEYS};
use crate::attest::snp::{Endorsement, Product, Roots};
use crate::attest::x509::forge::NOW;
use crate::attest::{Outcome, Policy, Reason, Rung, Verdict};

fn judged(specimen: Specimen) -> Verdict {
    let (shown, setting) = specimen.build();
    setting.judge(shown.as_deref())
}

#[track_caller]
fn refused(specimen: Specimen, reason: Reason, how: &str) {
    let verdict = judged(specimen);
    assert_eq!((verdict.outcome, verdict.reason()), (Outcome::Refused, Some(reason)), "{how}: {:?}", verdict.faults);
    assert!(verdict.rung <= Rung::PinnedKey && verdict.image.is_none() && verdict.measurement.is_none(), "{how}");
}

/// A way to come to a verdict about a report.
type Way = (&'static str, fn() -> Specimen);

/// Every way there is, each of which verifies a good report.
const WAYS: [Way; 10] = [
    ("a nonce", milan),
    ("made before", || milan().nonce(Nonce::at(NOW)).asked(Asked::Node(NODE))),
    ("offline", || milan().asked(Asked::Nobody)),
    ("a VLEK", || Specimen::snp(Product::Genoa, Endorsement::Vlek, 5)),
    ("the image is named", || milan().want(image())),
    ("the firmware is named", || milan().want(firmware())),
    ("certificates from elsewhere", || milan().certificates_given(&milan())),
    ("beside a TPM", || Specimen::both("plain").whole()),
    ("a TPM alone is demanded", || Specimen::both("plain").whole().demand(Rung::ImageByTpm)),
    ("a TPM's image is demanded by a grant", || Specimen::both("plain").want(Wanted::Demand(demands(&boots("plain"), None)))),
];

#[test]
fn attestation_rs_pr_67_debug_and_level_are_checked_on_every_way() {
    for (how, make) in WAYS {
        assert_eq!(judged(make()).outcome, Outcome::Verified, "{how}");
        refused(make().guest_policy(0xb0000), Reason::DebugEnabled, how);
        refused(make().at(0x030, &[1]), Reason::VmplNotAllowed, how);
        refused(make().at(0x030, &[0xff; 4]), Reason::VmplNotAllowed, how);
    }
}

#[test]
fn cmcp_384_a_report_for_something_else_is_fatal_on_every_way() {
    for (how, make) in WAYS {
        if how != "offline" {
            refused(make().bound(|bound| bound.node = OTHER), Reason::BindingMismatch, how);
            refused(make().at(0x050, &[0; 64]), Reason::BindingMismatch, how);
        }
    }
}

#[test]
fn cmcp_pr_390_a_chain_that_was_not_verified_is_never_verified() {
    for (how, make) in WAYS {
        refused(make().signed_by_other_leaf(), Reason::SignatureInvalid, how);
        if how != "certificates from elsewhere" {
            refused(make().leaf_by(&KEYS.forger), Reason::SignatureInvalid, how);
            refused(make().issuer_by(&KEYS.forger), Reason::SignatureInvalid, how);
        }
        let alone = judged(make().with(|setting| setting.snp_roots.clear()));
        assert!(alone.measurement.is_none() && alone.rung < Rung::ImageByHardware, "{how}");
        assert_ne!(alone.rung, Rung::GenuineChip, "{how}");
    }
}

#[test]
fn ccf_4299_every_flag_of_the_guest_policy_is_read() {
    for (how, make) in WAYS {
        refused(make().guest_policy(0x30000 | 1 << 18), Reason::MigrationAllowed, how);
        refused(make().guest_policy(0x30000 | 1 << 19), Reason::DebugEnabled, how);
        refused(make().policy("snp.smt = false"), Reason::SmtEnabled, how);
        refused(make().policy("snp.single_socket = true"), Reason::PlatformNotAllowed, how);
        refused(make().policy("snp.alias_check = true"), Reason::PlatformNotAllowed, how);
        // A flag that this program does not know is no flag to pass over.
        for bit in 26..64 {
            refused(make().guest_policy(0x30000 | 1 << bit), Reason::Malformed, how);
        }
    }
}

#[test]
fn ms_tee_attestation_verification_141_bytes_that_nobody_signed_are_refused() {
    for at in (0x2a0 + 48..0x2a0 + 72).chain(0x2a0 + 72 + 48..0x4a0) {
        refused(milan().after(move |report| report[at] = 1), Reason::Malformed, "behind the signature's numbers");
    }
    refused(milan().after(|report| report.extend([0; 368])), Reason::Malformed, "behind the report");
    let plain = || Specimen::tpm("plain").whole();
    refused(after(plain(), |tpm| tpm.attest.push(0)), Reason::SignatureInvalid, "behind the quote");
    refused(after(plain(), |tpm| tpm.signature.push(0)), Reason::Malformed, "behind its signature");
    refused(after(plain(), |tpm| tpm.ak_public.push(0)), Reason::Malformed, "behind the key");
    refused(after(plain(), |tpm| tpm.ek_public.push(0)).says(Says::Nothing), Reason::Malformed, "behind the endorsement key");
    refused(after(plain(), |tpm| tpm.ek_certificate.as_mut().unwrap().push(0)), Reason::Malformed, "behind its certificate");
    refused(after(plain(), |tpm| tpm.event_log.push(0)), Reason::Malformed, "behind the log");
    refused(plain().bytes(|bytes| bytes.push(0)), Reason::Malformed, "behind the evidence");
}

#[test]
fn gce_tcb_verifier_pr_79_the_signature_of_each_endorsement_is_checked() {
    let last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    refused(milan().sent(move |sent| last(&mut sent[0].1)), Reason::SignatureInvalid, "the ASK");
    refused(milan().sent(move |sent| last(&mut sent[1].1)), Reason::SignatureInvalid, "the VCEK");
    let vlek = Specimen::snp(Product::Turin, Endorsement::Vlek, 5);
    refused(vlek.sent(move |sent| last(&mut sent[1].1)), Reason::SignatureInvalid, "the VLEK");
    let list = || synthetic::crl(Product::Milan, &[]).sign(&KEYS.ark, HOW);
    refused(
        milan().sent(move |sent| {
            let mut list = list();
            last(&mut list);
            sent.push((CRL, list));
        }),
        Reason::RevocationListInvalid,
        "the list",
    );
    for specimen in [Specimen::tpm("plain").whole(), Specimen::both("plain").want(image())] {
        refused(
            after(specimen, move |tpm| last(tpm.ek_certificate.as_mut().unwrap())),
            Reason::ChainInvalid,
            "the endorsement certificate",
        );
    }
}

#[test]
fn veraison_pr_418_each_part_of_what_was_signed_is_still_checked() {
    for (how, make) in WAYS {
        for at in [0x008, 0x050, 0x090, 0x0c0, 0x0e0, 0x140, 0x1e8] {
            let verdict = judged(make().after(move |report| report[at] ^= 1));
            assert_eq!(verdict.outcome, Outcome::Refused, "{how}: {at:#x}");
        }
    }
    for specimen in [Specimen::tpm("plain").whole(), listed()] {
        refused(after(specimen, |tpm| tpm.attest[60] ^= 1), Reason::SignatureInvalid, "the quote");
    }
    for specimen in [Specimen::tpm("plain").whole(), listed()] {
        refused(after(specimen, |tpm| tpm.pcrs.get_mut(&4).unwrap()[0] ^= 1), Reason::EventLogMismatch, "the registers");
    }
    for specimen in [Specimen::tpm("plain").whole(), listed()] {
        refused(attest(specimen, |attest| attest.forget_registers()), Reason::EventLogMismatch, "the digest of the registers");
    }
}

#[test]
fn opennhp_1732_evidence_that_calls_itself_a_test_is_no_better_for_it() {
    let named = || milan().at(0x010, b"test").at(0x020, b"TEST IMAGE").at(0x0c0, b"simulated").at(0x140, b"fake");
    let amd = |specimen: Specimen| specimen.with(|setting| setting.snp_roots = vec![Roots::amd().unwrap()]);
    assert_eq!(judged(named()).outcome, Outcome::Verified, "its words decide nothing");
    refused(amd(named()), Reason::SignatureInvalid, "test roots were not passed");
    refused(amd(named()).asked(Asked::Nobody), Reason::SignatureInvalid, "nor here");
    refused(named().guest_policy(0xb0000), Reason::DebugEnabled, "and test evidence may not debug");
    // The forged TPM is of "TEST maker of TPMs": without its root it is nobody's.
    refused(Specimen::tpm("plain").whole().no_tpm_roots(), Reason::ChainInvalid, "a test TPM");
    let said = judged(milan()).vouched_by.unwrap();
    assert!(said.contains("not AMD's") && !said.starts_with("AMD"), "{said}");
}

#[test]
fn contrast_pr_270_an_empty_expectation_is_not_a_pass() {
    let empty = |lines: &str| milan().policy(lines);
    let lists = "snp.images = []\nsnp.firmware = []\nsnp.id_keys = []\nsnp.author_keys = []\ntpm.images = []";
    assert_eq!(Come::of(&judged(empty(lists))), super::yes(Rung::GenuineChip), "nothing about the image is proved");
    assert_eq!(judged(empty(lists).demand(Rung::ProviderFirmware)).outcome, Outcome::Refused);
    assert_ne!(judged(empty("snp.products = []")).outcome, Outcome::Verified);
    for word in ["", "00", &"0".repeat(95)] {
        assert!(Policy::parse(&format!("version = 1\nsnp.images = [\"{word}\"]")).is_err(), "{word:?}");
        assert!(Policy::parse(&format!("version = 1\ntpm.images = [\"{word}\"]")).is_err(), "{word:?}");
    }
    assert!(Roots::given(Vec::new()).is_err());
    refused(milan().want(Wanted::ImageMeasurement([0; 48])), Reason::MeasurementMismatch, "zeros are a digest");
    refused(milan().policy(format!("snp.id_keys = [\"{}\"]", "11".repeat(48))), Reason::LaunchKeyMismatch, "zeros are no key");
    // The same of a TPM.
    assert_eq!(Come::of(&judged(Specimen::tpm("plain").policy("tpm.images = []"))), super::gap(Reason::ImageNotNamed));
    refused(Specimen::tpm("plain").want(image_without_registers()), Reason::Malformed, "a description without registers");
    refused(Specimen::tpm("plain").want(Wanted::Demand([0; 20])), Reason::ImageMismatch, "zeros are demanded");
    refused(Specimen::tpm("plain").image([0; 32]), Reason::ImageMismatch, "zeros are listed");
    refused(Specimen::tpm("plain").whole().no_tpm_roots(), Reason::ChainInvalid, "no roots");
    refused(attest(Specimen::tpm("plain").whole(), |attest| attest.forget_question()), Reason::BindingMismatch, "an empty answer");
}

#[test]
fn dstack_554_nothing_is_joined_without_its_length_or_label() {
    let subject = Subject { node: NODE, app_digest: APP, nonce: Nonce(NONCE), seed: None };
    // A byte that moves from one part to the next would be the same bytes if lengths were not there; the parts' sizes are fixed, too.
    let joined = [&NODE[..], &APP, &NONCE].concat();
    let plain: [u8; 64] = sha2::Digest::finalize(<sha2::Sha512 as sha2::Digest>::new_with_prefix(&joined)).into();
    assert_ne!(subject.report_data(), plain);
    let swapped = Subject { node: APP, app_digest: NODE, nonce: Nonce(NONCE), seed: None };
    assert_ne!(subject.report_data(), swapped.report_data());
    refused(Specimen::tpm("plain").whole().bound(move |bound| *bound = swapped), Reason::BindingMismatch, "parts in another order");
    // What a grant demands: an image alone is never what image and TPM are, and a name's bytes are never an image's.
    let image = boots("plain");
    let all = [demands(&image, None), demands(&image, Some(b"")), demands(&image, Some(&[0])), demands(&image, Some(&image))];
    for (index, one) in all.iter().enumerate() {
        assert!(!all[..index].contains(one), "{index}");
    }
}

#[test]
fn dstack_563_what_forges_evidence_is_in_no_program() {
    let only_in_tests = |file: &str, module: &str| {
        let wanted = format!("#[cfg(test)]\npub(crate) mod {module};");
        let private = format!("#[cfg(test)]\nmod {module};");
        assert!(file.contains(&wanted) || file.contains(&private), "{module}");
        assert_eq!(file.matches(&format!("mod {module}")).count(), 1, "{module}");
    };
    only_in_tests(include_str!("../snp/mod.rs"), "synthetic");
    only_in_tests(include_str!("../snp/mod.rs"), "tests");
    only_in_tests(include_str!("../x509.rs"), "forge");
    only_in_tests(include_str!("../x509.rs"), "tests");
    only_in_tests(include_str!("../eventlog/mod.rs"), "tests");
    only_in_tests(include_str!("../mod.rs"), "zoo");
    // A simulator would have to be asked for somewhere.
    for file in [include_str!("../judge.rs"), include_str!("../evidence.rs"), include_str!("../policy.rs"), include_str!("../snp/roots.rs")]
    {
        let code = file.split("#[cfg(test)]").next().unwrap().to_lowercase();
        assert!(!["simulat", "synthetic", "insecure", "env::var"].iter().any(|word| code.contains(word)));
    }
}

#[test]
fn dstack_566_a_size_is_bounded_before_anything_is_read() {
    let largest = crate::session::messages::MAX_EVIDENCE;
    for size in [largest + 1, 16 * largest] {
        refused(milan().bytes(move |bytes| bytes.resize(size, 0)), Reason::Malformed, "more than may travel");
    }
    // A length that is a lie reserves nothing.
    refused(
        milan().bytes(|bytes| bytes.splice(0..1, [0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).for_each(drop)),
        Reason::Malformed,
        "fields",
    );
    refused(after(Specimen::tpm("plain").whole(), |tpm| tpm.event_log = vec![0; 32 * 1024 + 1]), Reason::Malformed, "a long log");
}

/// Setting and evidence of a good report are as good after a round trip, so that none of the above is refused for how it is made.
#[test]
fn what_is_good_is_verified() {
    for (how, make) in WAYS {
        let (shown, setting): (Option<Vec<u8>>, Setting) = make().build();
        let again = Evidence::decode(shown.as_deref().unwrap()).unwrap().encode();
        assert_eq!(Some(&again), shown.as_ref(), "{how}");
        assert_eq!(setting.judge(Some(&again)).outcome, Outcome::Verified, "{how}");
    }
}

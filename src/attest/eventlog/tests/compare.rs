//! Comparison with an image: what is right passes, and whatever differs is named.

use super::support::{ASKED, asked, event, expected, places, real, section, select};
use crate::attest::Reason;
use crate::attest::eventlog::image::{Comparison, Expected, Value, compare};
use crate::attest::eventlog::{Event, EventType, Registers, extend, replay, sha256};
use proptest::prelude::{any, prop_assert, proptest};

/// The verdict on a log whose machine really has the registers that it leads to.
fn honest(events: &[Event]) -> Comparison {
    compare(events, &asked(events), &expected())
}

fn plain() -> Vec<Event> {
    real!("plain").events()
}

/// The sentence of a verdict with this reason.
#[track_caller]
fn sentence(comparison: &Comparison, reason: Reason) -> String {
    let fault = comparison.result.clone().unwrap_err();
    assert_eq!(fault.reason, reason, "{fault}");
    fault.sentence
}

#[track_caller]
fn names(comparison: &Comparison, words: &[&str]) {
    let said = sentence(comparison, Reason::ImageMismatch);
    for words in words {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(comparison.findings.iter().any(|finding| !finding.ok));
}

#[test]
fn a_machine_that_started_the_image_passes() {
    let real = real!("plain");
    let comparison = compare(&real.events(), &real.quote(&ASKED), &expected());
    assert_eq!(comparison.result, Ok(()));
    assert!(comparison.findings.iter().all(|finding| finding.ok), "{:#?}", comparison.findings);
    assert_eq!(comparison.secure_boot, Some(false));
    assert_eq!(comparison.unchecked, ["the stub does not measure .uname by itself: only the boot program as a whole tells of it"]);
    let components: Vec<&str> = comparison.findings.iter().map(|finding| finding.component.as_str()).collect();
    assert_eq!(
        components[..5],
        ["the kernel", "the description", "the command line", "the programs inside (initrd)", "the order of the parts"]
    );
    // Every other register that the log knows may be asked, too.
    let all: Vec<u8> = (0..24).filter(|pcr| *pcr != 10).collect();
    assert_eq!(compare(&real.events(), &real.quote(&all), &expected()).result, Ok(()));
    // As few as possible.
    let few = compare(&real.events(), &real.quote(&[4, 11, 12]), &expected());
    assert_eq!((few.result, few.secure_boot, few.unchecked.len()), (Ok(()), None, 4));
}

#[test]
fn registers_that_are_needed_are_asked_for() {
    let real = real!("plain");
    for (asked, missing) in [(&[4, 9, 12][..], "PCR 11"), (&[11, 9, 12], "PCR 4"), (&[4, 11], "PCR 9 or 12"), (&[], "no register")] {
        let comparison = compare(&real.events(), &real.quote(asked), &expected());
        let said = sentence(&comparison, Reason::RegistersMissing);
        assert!(said.contains(missing), "{said}");
        assert!(comparison.findings.is_empty());
    }
    let mut expected = expected();
    expected.pcr.remove(&11);
    assert!(sentence(&compare(&real.events(), &real.quote(&ASKED), &expected), Reason::Malformed).contains("PCR 11"));
}

#[test]
fn linux_own_register_cannot_be_compared() {
    let real = real!("plain");
    let said = sentence(&compare(&real.events(), &real.quote(&[4, 9, 10, 11]), &expected()), Reason::EventLogMismatch);
    assert!(said.contains("outside this log"), "{said}");
}

#[test]
fn a_real_machine_with_another_command_line_inside_is_named() {
    let real = real!("changed");
    let comparison = compare(&real.events(), &real.quote(&ASKED), &expected());
    names(
        &comparison,
        &[
            "the command line is 1e57be1f",
            "wanted bbecdcf2",
            "the boot program is 2b60bcd9",
            "the command line that the kernel got is 135bbdb4",
        ],
    );
    let said = sentence(&comparison, Reason::ImageMismatch);
    assert!(!said.contains("the kernel is") && !said.contains("initrd"), "{said}");
}

#[test]
fn a_real_machine_that_came_through_another_program_is_named() {
    let real = real!("shell");
    let comparison = compare(&real.events(), &real.quote(&ASKED), &expected());
    names(
        &comparison,
        &[
            "another program was started before it: d6cb71f2c6241bd0… (the log says: Firmware(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FirmwareFile(",
            "Returning from EFI Application from Boot Option",
            "something was added from outside the image: \"console=ttyS0,115200 quiet panic=1 rdinit=/init extra=1\"",
            "the command line that the kernel got is a5411a4c",
        ],
    );
    let said = sentence(&comparison, Reason::ImageMismatch);
    assert!(!said.contains("the boot program is") && !said.contains("a program of its own"), "{said}");
}

#[test]
fn a_real_machine_whose_boot_entry_has_another_command_line_is_named_though_pcr_4_and_11_are_right() {
    let real = real!("entry");
    assert_eq!(select(&real.pcr, &[4, 11]), expected().pcr, "neither PCR 4 nor PCR 11 knows");
    let extra = "\"console=ttyS0,115200 quiet panic=1 rdinit=/init extra=2\"";
    for asked in [&[4, 9, 11][..], &[4, 11, 12], &ASKED] {
        let comparison = compare(&real.events(), &real.quote(asked), &expected());
        let words = if asked.contains(&12) { extra } else { "the command line that the kernel got is" };
        names(&comparison, &[words]);
    }
}

#[test]
fn a_real_machine_with_secure_boot_lacks_its_kernel_in_pcr_4() {
    let real = real!("secure");
    let comparison = compare(&real.events(), &real.quote(&ASKED), &expected());
    assert_eq!(comparison.secure_boot, Some(true));
    // This boot program was laid out anew so that it could be signed; its parts are the same.
    names(&comparison, &["the boot program is d68e8972", "the kernel, as a program of its own, is not measured (Secure Boot is on)"]);
    assert!(comparison.findings.iter().filter(|finding| finding.pcr == 11).all(|finding| finding.ok));
}

#[test]
fn each_part_that_differs_is_named() {
    let parts = [
        (".linux", "the kernel is 2d711642"),
        (".initrd", "the programs inside (initrd) is 2d711642"),
        (".cmdline", "the command line is 2d711642"),
        (".osrel", "the description is 2d711642"),
    ];
    for (name, words) in parts {
        let mut events = plain();
        let place = section(&events, name);
        events[place].sha256 = sha256(b"x");
        let comparison = honest(&events);
        names(&comparison, &[words]);
        let wrong: Vec<u8> = comparison.findings.iter().filter(|finding| !finding.ok).map(|finding| finding.pcr).collect();
        assert_eq!(wrong, [11, 11], "the part and its register: {name}");
    }
}

#[test]
fn parts_that_are_missing_or_there_beyond_the_image_are_named() {
    let mut events = plain();
    let place = section(&events, ".osrel");
    events.drain(place - 1..=place);
    names(&honest(&events), &["the description is missing"]);

    let more = |name: &str, label: &str| {
        let mut events = plain();
        let label: Vec<u8> = crate::attest::eventlog::data::utf16(&format!("{label}\0"));
        events.push(event(11, EventType::Ipl, format!("{name}\0").as_bytes(), &label));
        events.push(event(11, EventType::Ipl, b"more", &label));
        honest(&events)
    };
    names(&more(".uname", ".uname"), &["the kernel's release is there, which the image does not have"]);
    names(&more(".dtb", "a lie"), &["the table of devices is there"]);
    names(&more(".strange", ".strange"), &["the section .strange is there"]);
    names(&more(".strange", ".harmless"), &["something that is no section was measured", "(the log says: .harmless)"]);
    names(&more(".linux", ".linux"), &["the kernel was measured again"]);
}

#[test]
fn parts_in_another_order_are_named() {
    let mut events = plain();
    let (kernel, release) = (section(&events, ".linux"), section(&events, ".osrel"));
    events.swap(kernel, release);
    events.swap(kernel - 1, release - 1);
    names(&honest(&events), &["the order of the parts is .osrel .linux .cmdline .initrd, wanted .linux .osrel .cmdline .initrd"]);
}

#[test]
fn newer_stubs_measure_more() {
    let mut expected = expected();
    let name = sha256(b".uname\0");
    let digest = expected.sections.iter().find(|(name, ..)| name == ".uname").unwrap().1;
    let register = extend(&extend(&expected.pcr[&11], &name), &digest);
    expected.pcr.insert(11, register);
    let mut events = plain();
    names(&compare(&events, &asked(&events), &expected), &["the kernel's release is missing"]);
    events.push(Event { pcr: 11, kind: EventType::Ipl, sha256: name, data: Vec::new() });
    events.push(Event { pcr: 11, kind: EventType::Ipl, sha256: digest, data: Vec::new() });
    let comparison = compare(&events, &asked(&events), &expected);
    assert_eq!((comparison.result, comparison.unchecked), (Ok(()), Vec::new()));
}

#[test]
fn programs_that_differ_are_named() {
    let place = |events: &[Event], index: usize| {
        *places(events, 4).iter().filter(|place| events[**place].kind == EventType::EfiBootServicesApplication).nth(index).unwrap()
    };
    let changed = |change: &dyn Fn(&mut Vec<Event>, usize, usize)| {
        let mut events = plain();
        let (uki, kernel) = (place(&events, 0), place(&events, 1));
        change(&mut events, uki, kernel);
        honest(&events)
    };
    let boot_loader = event(4, EventType::EfiBootServicesApplication, b"x", b"?");
    names(&changed(&|events, uki, _| events[uki].sha256 = sha256(b"x")), &["the boot program is 2d711642", "wanted ccffe318"]);
    names(&changed(&|events, _, kernel| events[kernel].sha256 = sha256(b"x")), &["the kernel, as a program of its own, is 2d711642"]);
    names(&changed(&|events, uki, _| events.insert(uki, boot_loader.clone())), &["another program was started before it: 2d711642"]);
    names(&changed(&|events, _, kernel| events.insert(kernel, boot_loader.clone())), &["another program was started after it: 2d711642"]);
    names(&changed(&|events, _, _| events.push(boot_loader.clone())), &["another program was started after it"]);
    names(&changed(&|events, _, kernel| drop(events.remove(kernel))), &["the kernel, as a program of its own, is missing"]);
    names(&changed(&|events, uki, _| drop(events.remove(uki))), &["the boot program is missing"]);
    let both = changed(&|events, uki, kernel| {
        events[uki].sha256 = sha256(b"x");
        events[kernel].sha256 = sha256(b"y");
        events.insert(uki, boot_loader.clone());
    });
    names(&both, &["the boot program is 2d711642", "the kernel, as a program of its own, is a1fce436", "before it: 2d711642"]);
    let nothing = honest(&plain().into_iter().filter(|event| event.pcr != 4).collect::<Vec<_>>());
    names(&nothing, &["the boot program is missing", "a program of its own, is missing", "what the firmware did before is \"\""]);
}

#[test]
fn what_the_kernel_got_is_compared() {
    let changed = |change: &dyn Fn(&mut Vec<Event>, usize, usize)| {
        let mut events = plain();
        let [command_line, initrd] = places(&events, 9)[..] else { panic!() };
        change(&mut events, command_line, initrd);
        honest(&events)
    };
    names(&changed(&|events, _, initrd| events[initrd].sha256 = sha256(b"x")), &["the initrd that the kernel got is 2d711642"]);
    names(&changed(&|events, line, _| events[line].sha256 = sha256(b"x")), &["the command line that the kernel got is 2d711642"]);
    names(&changed(&|events, _, initrd| drop(events.remove(initrd))), &["the initrd that the kernel got is missing"]);
    names(&changed(&|events, line, initrd| events.swap(line, initrd)), &["PCR 9 (initrd and command line as the kernel got them) is"]);
    names(&changed(&|events, line, _| events.push(events[line].clone())), &["something else was handed to the kernel: e66fb9c6"]);
}

#[test]
fn additions_from_outside_are_named() {
    for (pcr, label) in [(12, "Credentials initrd"), (13, "System extension initrd")] {
        let mut events = plain();
        events.push(event(pcr, EventType::Ipl, b"an archive", &crate::attest::eventlog::data::utf16(&format!("{label}\0"))));
        let comparison = honest(&events);
        names(&comparison, &["something was added from outside the image", &format!("(the log says: {label})")]);
        let not_asked = compare(&events, &select(&replay(&events), &[4, 9, 11]), &expected());
        assert!(not_asked.result.is_ok() && not_asked.unchecked.iter().any(|it| it.contains(&format!("PCR {pcr} was not signed"))));
    }
}

#[test]
fn a_log_made_to_look_like_the_image_is_named() {
    let (good, bad) = (real!("plain"), real!("changed"));
    let comparison = compare(&good.events(), &bad.quote(&ASKED), &expected());
    let said = sentence(&comparison, Reason::EventLogMismatch);
    for words in [
        "the log was edited to look like the image: not the image's is PCR 4 (the boot program as a whole, and the kernel), \
         PCR 9 (initrd and command line as the kernel got them), PCR 11 (the parts of the boot program)",
        "the log leads to 9b2e237f476ad52e9125f6dd852be79f575e9e31286030f9ddedc4c53609690c in PCR 4",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let wrong: Vec<u8> = comparison.findings.iter().filter(|finding| !finding.ok).map(|finding| finding.pcr).collect();
    assert_eq!(wrong, [4, 9, 11]);
}

/// A change of a log.
type Edit<'a> = &'a dyn Fn(&mut Vec<Event>);

#[test]
fn a_log_of_this_image_that_was_edited_is_named() {
    let quoted = real!("plain").quote(&ASKED);
    for (pcr, reason) in [(4, "PCR 4"), (9, "PCR 9"), (11, "PCR 11")] {
        for place in places(&plain(), pcr) {
            let edits: [Edit<'_>; 4] = [
                &|events| drop(events.remove(place)),
                &|events| events.insert(place, events[place].clone()),
                &|events| events[place].sha256[31] ^= 1,
                &|events| events[place].kind = EventType::NoAction,
            ];
            for edit in edits {
                let mut events = plain();
                edit(&mut events);
                let said = sentence(&compare(&events, &quoted, &expected()), Reason::EventLogMismatch);
                assert!(said.contains(&format!("the log was edited or cut: the TPM signed what the image makes of {reason}")), "{said}");
            }
        }
        for pair in places(&plain(), pcr).windows(2) {
            let mut events = plain();
            events.swap(pair[0], pair[1]);
            let result = compare(&events, &quoted, &expected());
            sentence(&result, Reason::EventLogMismatch);
        }
    }
    // PCR 7 has no expected value, but the log must lead to it all the same.
    for place in places(&plain(), 7) {
        let mut events = plain();
        events.remove(place);
        let said = sentence(&compare(&events, &quoted, &expected()), Reason::EventLogMismatch);
        assert!(said.contains("in PCR 7") && !said.contains("edited"), "{said}");
    }
}

#[test]
fn words_that_were_not_measured_are_refused_where_the_digest_is_of_them() {
    let mut events = plain();
    let place = places(&events, 4)[0];
    events[place].data[0] ^= 1;
    let comparison = compare(&events, &real!("plain").quote(&ASKED), &expected());
    assert!(sentence(&comparison, Reason::EventLogMismatch).contains("the data of an event EV_EFI_ACTION in PCR 4"));
}

#[test]
fn descriptions_that_contradict_themselves_never_pass() {
    let real = real!("plain");
    let verdict = |change: &dyn Fn(&mut Expected)| {
        let mut expected = expected();
        change(&mut expected);
        compare(&real.events(), &real.quote(&ASKED), &expected).result.is_ok()
    };
    assert!(verdict(&|_| {}));
    assert!(!verdict(&|expected| expected.uki_authenticode[0] ^= 1));
    assert!(!verdict(&|expected| expected.kernel_authenticode[0] ^= 1));
    assert!(!verdict(&|expected| expected.command_line.push(' ')));
    assert!(!verdict(&|expected| expected.sections.clear()));
    assert!(!verdict(&|expected| expected.pcr.extend([(12, [1; 32])])));
    for index in [0, 1, 3, 4] {
        assert!(!verdict(&|expected| expected.sections[index].1[0] ^= 1), "{index}");
    }
}

#[test]
fn lines_for_people_have_full_digests_and_sentences_short_ones() {
    let real = real!("changed");
    let comparison = compare(&real.events(), &real.quote(&ASKED), &expected());
    let line = comparison.findings.iter().find(|finding| finding.component == "the command line").unwrap();
    assert_eq!(line.found.as_ref().unwrap().to_string(), "1e57be1f7efa00d7".to_owned() + &line.found.as_ref().unwrap().to_string()[16..]);
    assert_eq!(line.wanted.as_ref().unwrap().to_string(), "bbecdcf217ae232ff428ad4f7616dc8061e086c6c64d858645daadf12fa2cbcc");
    assert_eq!(line.sentence(), "the command line is 1e57be1f7efa00d7…, wanted bbecdcf217ae232f…");
    assert_eq!(Value::Said([0; 32], "words".to_owned()).to_string(), format!("{} (the log says: words)", "00".repeat(32)));
}

#[test]
fn a_log_as_long_as_can_be_makes_a_short_sentence() {
    let mut events = plain();
    events.extend((0..2000u32).map(|index| event(11, EventType::Ipl, &index.to_le_bytes(), &[b'a'; 100])));
    let comparison = honest(&events);
    let said = sentence(&comparison, Reason::ImageMismatch);
    assert!(said.len() < 3000 && said.contains("more"), "{}", said.len());
    assert!(comparison.findings.len() < 2100);
}

proptest! {
    #[test]
    fn no_events_make_the_comparison_panic(
        seeds in proptest::collection::vec((0..24u8, any::<u32>(), any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 0..48)), 0..30),
        extra in proptest::bool::ANY,
    ) {
        let mut events = if extra { plain() } else { Vec::new() };
        for (pcr, code, measured, data) in seeds {
            let kind = EventType::from_code((code % 16) | (code & 0x8000_0000));
            events.push(event([4, 9, 11, 12, 13, pcr][usize::from(pcr) % 6], kind, &measured, &data));
        }
        let before: Registers = asked(&events);
        let comparison = compare(&events, &before, &expected());
        let unchanged = before == real!("plain").quote(&ASKED);
        prop_assert!(comparison.result.is_err() || unchanged);
    }
}

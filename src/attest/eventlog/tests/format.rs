//! Parsing and replay: real logs, everything that is malformed, and bounds.

use super::support::{Real, asked, event, expected, header, real, write};
use crate::attest::Reason;
use crate::attest::eventlog::image::compare;
use crate::attest::eventlog::{Content, Event, EventType, MAX_EVENTS, MAX_LOG, content, parse, replay, secure_boot};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use std::time::{Duration, Instant};

fn all() -> [(&'static str, Real); 5] {
    [
        ("plain", real!("plain")),
        ("changed", real!("changed")),
        ("shell", real!("shell")),
        ("entry", real!("entry")),
        ("secure", real!("secure")),
    ]
}

#[test]
fn real_logs_lead_to_the_registers_of_their_machines() {
    for (name, real) in all() {
        let registers = replay(&real.events());
        assert!([0, 1, 2, 3, 4, 5, 6, 7, 9, 11].iter().all(|pcr| registers.contains_key(pcr)), "{name}");
        for (pcr, value) in &real.pcr {
            match pcr {
                // Linux extends this one by itself, and the log knows nothing of it.
                10 => assert!(!registers.contains_key(pcr) && *value != [0; 32], "{name}"),
                _ => assert_eq!(registers.get(pcr).copied().unwrap_or(crate::attest::eventlog::initial(*pcr)), *value, "{name}: PCR {pcr}"),
            }
        }
    }
}

#[test]
fn real_events_can_be_read_and_their_digests_are_of_their_data_where_they_should_be() {
    for (name, real) in all() {
        let events = real.events();
        let contents: Vec<Content> = events.iter().map(|event| content(event).unwrap()).collect();
        let has = |wanted: &Content| contents.contains(wanted);
        assert!(has(&Content::Action("Calling EFI Application from Boot Option".to_owned())), "{name}");
        assert!(has(&Content::Separator(true)) && has(&Content::LoadOptions) && has(&Content::Initrd), "{name}");
        assert!(has(&Content::Label(".cmdline".to_owned())), "{name}: the stub labels in UTF-16");
        assert_eq!(secure_boot(&events).unwrap(), Some(name == "secure"), "{name}");
    }
    let programs: Vec<String> = real!("plain")
        .events()
        .iter()
        .filter_map(|event| match content(event) {
            Ok(Content::Program(path)) => Some(path),
            _ => None,
        })
        .collect();
    assert_eq!(programs, [r"PciRoot(0)/Pci(1,0)/HD(1)/\EFI\BOOT\BOOTX64.EFI", "Media(55c5d1f8-04cd-46b5-8a20-e56cbb3052d0)"]);
}

#[test]
fn every_truncation_is_refused_or_ends_between_events() {
    let real = real!("plain");
    let whole = real.events();
    let mut between = 0;
    for length in 0..real.log.len() {
        match parse(&real.log[..length]) {
            Ok(events) => {
                assert_eq!(events, whole[..events.len()]);
                between += 1;
            }
            Err(fault) => assert_eq!(fault.reason, Reason::Malformed),
        }
    }
    assert_eq!(between, whole.len(), "after the header, and after each event but the last");
}

#[test]
fn nothing_may_stand_behind_the_last_event() {
    for more in [&[0; 1][..], &[0; 16], &[0; 64], &[0xff; 12]] {
        let log = [real!("plain").log, more].concat();
        assert_eq!(parse(&log).unwrap_err().reason, Reason::Malformed, "{} bytes more", more.len());
    }
}

#[test]
fn headers_are_checked() {
    let accepted = |log: &[u8]| parse(log).is_ok();
    assert!(accepted(&header(&[(0x0b, 32)])) && accepted(&header(&[(0x0c, 48), (0x0b, 32), (0x12, 32)])));
    let refused: [(&str, Vec<u8>); 6] = [
        ("no SHA-256", header(&[(0x04, 20)])),
        ("SHA-256 of another size", header(&[(0x0b, 20)])),
        ("an algorithm twice", header(&[(0x0b, 32), (0x0b, 32)])),
        ("an unknown algorithm", header(&[(0x0b, 32), (0x99, 32)])),
        ("no algorithm", header(&[])),
        ("too many algorithms", header(&[(0x0b, 32); 9])),
    ];
    for (what, log) in refused {
        assert!(!accepted(&log), "{what}");
    }
    for (offset, what) in [(0, "register"), (4, "type"), (8, "digest"), (28, "length"), (32, "signature"), (53, "major version")] {
        let mut log = header(&[(0x0b, 32)]);
        log[offset] ^= 1;
        assert!(!accepted(&log), "{what}");
    }
    assert!(!accepted(&[]), "an empty log has no header");
}

/// A change of an event's bytes.
type Damage = &'static dyn Fn(&mut Vec<u8>);

#[test]
fn events_are_checked() {
    let log = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut log = write(&[event(4, EventType::Separator, &[0; 4], &[0; 4])]);
        let at = header(&[(0x0b, 32)]).len();
        let mut event = log.split_off(at);
        change(&mut event);
        parse(&[log, event].concat())
    };
    assert!(log(&|_| {}).is_ok());
    assert!(log(&|event| event[0] = 23).is_ok());
    let refused: [(&str, Damage); 6] = [
        ("no such register", &|event| event[0] = 24),
        ("a register beyond a byte", &|event| event[1] = 1),
        ("no digest", &|event| event[8] = 0),
        ("two digests", &|event| event[8] = 2),
        ("a digest of another algorithm", &|event| event[12] = 4),
        ("data beyond the end", &|event| event[49] = 0xff),
    ];
    for (what, change) in refused {
        assert_eq!(log(change).unwrap_err().reason, Reason::Malformed, "{what}");
    }
    let twice = [header(&[(0x04, 20), (0x0b, 32)]), vec![0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0]].concat();
    let same = [&[0x0b, 0][..], &[0; 32], &[0x0b, 0], &[0; 32], &[0; 4]].concat();
    assert_eq!(parse(&[twice, same].concat()).unwrap_err().reason, Reason::Malformed, "an event with two digests of one algorithm");
}

#[test]
fn events_that_only_inform_change_nothing() {
    let mut informs = event(Event::NO_PCR, EventType::NoAction, b"", b"SP800-155 Event3");
    assert_eq!(parse(&write(&[informs.clone()])).unwrap(), [informs.clone()]);
    assert!(replay(&[informs.clone()]).is_empty());
    informs.kind = EventType::Separator;
    assert!(parse(&write(&[informs])).is_err(), "only events that inform have no register");
    assert!(replay(&[event(7, EventType::NoAction, b"x", b"x")]).is_empty());
}

#[test]
fn the_startup_locality_is_what_pcr_0_begins_with() {
    let locality = |locality: u8| event(0, EventType::NoAction, b"", &[&b"StartupLocality\0"[..], &[locality]].concat());
    let version = event(0, EventType::SCrtmVersion, b"1", b"1");
    let from = |number: u8| replay(&parse(&write(&[locality(number), version.clone()])).unwrap())[&0];
    let mut start = [0; 64];
    start[32..].copy_from_slice(&version.sha256);
    assert_eq!(from(0), crate::attest::eventlog::sha256(&start));
    start[31] = 3;
    assert_eq!(from(3), crate::attest::eventlog::sha256(&start));
    for refused in [vec![version.clone(), locality(3)], vec![locality(3), locality(3)], vec![locality(7)]] {
        assert_eq!(parse(&write(&refused)).unwrap_err().reason, Reason::Malformed);
    }
}

#[test]
fn registers_for_dynamic_launches_begin_with_ones() {
    let digest = [&[0xff; 32][..], &crate::attest::eventlog::sha256(b"x")].concat();
    assert_eq!(replay(&[event(17, EventType::Action, b"x", b"")])[&17], crate::attest::eventlog::sha256(&digest));
}

#[test]
fn data_that_was_not_measured_is_a_fault_where_the_digest_should_be_of_it() {
    let kinds = [EventType::EfiAction, EventType::Separator, EventType::EfiVariableDriverConfig, EventType::EfiVariableAuthority];
    for kind in kinds {
        let fault = content(&event(7, kind, b"measured", b"said")).unwrap_err();
        assert_eq!(fault.reason, Reason::EventLogMismatch, "{fault}");
    }
    assert_eq!(content(&event(4, EventType::Separator, &[1, 0, 0, 0], b"why")).unwrap(), Content::Separator(false));
    assert_eq!(content(&event(4, EventType::Separator, b"odd", b"odd")).unwrap_err().reason, Reason::Malformed);
    assert_eq!(content(&event(4, EventType::EfiBootServicesApplication, b"", b"short")).unwrap_err().reason, Reason::Malformed);
    assert_eq!(content(&event(9, EventType::EventTag, b"", b"short")).unwrap_err().reason, Reason::Malformed);
}

#[test]
fn secure_boot_cannot_be_switched_on_behind_the_separator_or_by_other_words() {
    let on = real!("secure").events().into_iter().find(|event| event.pcr == 7).unwrap();
    let mut events = real!("plain").events();
    events.push(on.clone());
    assert_eq!(secure_boot(&events).unwrap(), Some(false), "anybody can extend PCR 7 later");
    for event in events.iter_mut().filter(|event| event.pcr == 7) {
        event.kind = EventType::Unknown(9);
        event.data.clear();
    }
    assert_eq!(secure_boot(&events).unwrap(), Some(false), "types and data do not count");
    events.insert(0, on.clone());
    assert_eq!(secure_boot(&events).unwrap_err().reason, Reason::EventLogMismatch, "both values");
    assert_eq!(secure_boot(&[on]).unwrap(), None, "without a separator nobody knows who measured it");
}

#[test]
fn logs_have_bounds() {
    let small = event(8, EventType::Ipl, b"", b"");
    assert_eq!(parse(&write(&vec![small.clone(); MAX_EVENTS])).unwrap().len(), MAX_EVENTS);
    assert_eq!(parse(&write(&vec![small; MAX_EVENTS + 1])).unwrap_err().reason, Reason::Malformed);
    let space = MAX_LOG - write(&[event(8, EventType::Ipl, b"", b"")]).len();
    assert!(parse(&write(&[event(8, EventType::Ipl, b"", &vec![1; space])])).is_ok());
    assert_eq!(parse(&write(&[event(8, EventType::Ipl, b"", &vec![1; space + 1])])).unwrap_err().reason, Reason::Malformed);
    assert!(parse(&vec![0; 100 * 1024 * 1024]).unwrap_err().sentence.contains("at most"));
}

fn any_event() -> impl Strategy<Value = Event> {
    (0..=23u8, any::<u32>(), any::<[u8; 32]>(), vec(any::<u8>(), 0..64)).prop_map(|(pcr, code, sha256, data)| Event {
        pcr,
        kind: EventType::from_code((code % 20) | (code & 0x8000_0000)),
        sha256,
        data,
    })
}

/// Also tells how long it takes: `cargo test --release little_time -- --nocapture`.
#[test]
fn a_hundred_events_take_little_time_and_the_longest_log_not_much() {
    let expected = expected();
    let best = |events: &[Event]| {
        let log = write(events);
        let once = |_| {
            let start = Instant::now();
            let events = parse(&log).unwrap();
            let _ = compare(&events, &asked(&events), &expected);
            start.elapsed()
        };
        let best = (0..20).map(once).min().unwrap();
        println!("{} bytes, {} events: {best:?}", log.len(), events.len());
        best
    };
    let mut events = real!("plain").events();
    events.extend((events.len() as u32..100).map(|index| event(1, EventType::EfiVariableBoot, &index.to_le_bytes(), &[0; 200])));
    assert!(best(&events) < Duration::from_millis(50));
    let name = event(11, EventType::Ipl, b".linux\0", &[b'a'; 70]);
    events.extend((events.len()..MAX_EVENTS).map(|_| name.clone()));
    assert!(best(&events) < Duration::from_millis(500));
}

proptest! {
    #[test]
    fn what_is_written_is_read(events in vec(any_event(), 0..40)) {
        prop_assert_eq!(parse(&write(&events)).unwrap(), events);
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in vec(any::<u8>(), 0..2048), events in vec(any_event(), 0..20)) {
        if let Ok(events) = parse(&bytes) {
            replay(&events);
        }
        // Behind a good header, so that events are reached.
        let _ = parse(&[header(&[(0x0b, 32)]), bytes].concat());
        let _ = secure_boot(&events);
        for event in &events {
            let _ = content(event);
        }
    }

    #[test]
    fn damaged_real_logs_do_not_make_the_readers_panic(changes in vec((0usize..8000, any::<u8>()), 1..20), cut in 0usize..9000) {
        let mut log = real!("plain").log.to_vec();
        for (at, byte) in changes {
            log[at] = byte;
        }
        log.truncate(cut);
        if let Ok(events) = parse(&log) {
            // Events own no more than the log had.
            prop_assert!(events.iter().map(|event| event.data.len()).sum::<usize>() <= log.len());
            prop_assert!(events.len() * 50 <= log.len());
            replay(&events);
            let _ = events.iter().try_for_each(|event| content(event).map(drop));
        }
    }
}

//! Every single bit of a real log: a changed one is noticed, or it is among those that nothing vouches for and nothing is read from.

use super::support::{ASKED, Real, expected, header, real};
use crate::attest::eventlog::image::compare;
use crate::attest::eventlog::{Event, EventType, parse};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a byte of a log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Of the header: platform class, minor version, errata, size of words.
    HeaderWords,
    /// Of the header: everything else.
    Header,
    /// An event's type.
    Kind,
    /// Digests of other algorithms.
    OtherDigests,
    /// Words about what was measured, in a register that was signed.
    Words,
    /// Data of an event of a register that was not signed.
    UnsignedData,
    /// Register or digest of an event of a register that was not signed.
    Unsigned,
    /// Everything else: registers, counts, lengths, digests, data that was measured.
    Covered,
}

/// What each byte of the log belongs to. (Its own reader, so that it does not repeat the parser's mistakes.)
fn parts(real: &Real, asked: &[u8]) -> Vec<Part> {
    let log = real.log;
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let mut parts = vec![Part::Covered; log.len()];
    let mut mark = |range: Range<usize>, part: Part| parts[range].fill(part);
    let mut at = 32 + number(28);
    mark(0..at, Part::Header);
    mark(48..53, Part::HeaderWords);
    mark(54..56, Part::HeaderWords);
    for event in real.events() {
        let signed = asked.contains(&event.pcr);
        mark(at + 4..at + 8, Part::Kind);
        let mut place = at + 12;
        for _ in 0..number(at + 8) {
            let size = match log[place] {
                0x04 => 20,
                0x0b => 32,
                0x0c => 48,
                _ => 64,
            };
            match log[place] {
                0x0b if signed => {}
                0x0b => mark(place + 2..place + 2 + size, Part::Unsigned),
                _ => mark(place + 2..place + 2 + size, Part::OtherDigests),
            }
            place += 2 + size;
        }
        let end = place + 4 + event.data.len();
        match signed {
            false => {
                mark(at..at + 4, Part::Unsigned);
                mark(place + 4..end, Part::UnsignedData);
            }
            true if !is_checked(&event) => mark(place + 4..end, Part::Words),
            true => {}
        }
        at = end;
    }
    assert_eq!(at, log.len());
    parts
}

fn is_checked(event: &Event) -> bool {
    let kinds = [EventType::EfiAction, EventType::Separator, EventType::EfiVariableDriverConfig, EventType::EfiVariableAuthority];
    kinds.contains(&event.kind)
}

/// Flips each bit; returns how many flips of each part went unnoticed. Those must not change anything that was found.
fn unnoticed(asked: &[u8]) -> BTreeMap<Part, usize> {
    let real = real!("plain");
    let (quoted, expected, parts) = (real.quote(asked), expected(), parts(&real, asked));
    let events = real.events();
    let good = compare(&events, &quoted, &expected);
    assert!(good.result.is_ok());
    let signed = |events: &[Event]| -> Vec<(u8, [u8; 32])> {
        events.iter().filter(|event| event.is_extended() && asked.contains(&event.pcr)).map(|event| (event.pcr, event.sha256)).collect()
    };
    let mut unnoticed = BTreeMap::new();
    let mut log = real.log.to_vec();
    for (at, part) in parts.iter().enumerate() {
        for bit in 0..8 {
            log[at] ^= 1 << bit;
            if let Ok(flipped) = parse(&log) {
                let comparison = compare(&flipped, &quoted, &expected);
                if comparison.result.is_ok() {
                    assert_eq!(comparison, good, "byte {at}, bit {bit} ({part:?}) changes what is found");
                    assert_eq!(signed(&flipped), signed(&events), "byte {at}, bit {bit} ({part:?}) changes what was measured");
                    *unnoticed.entry(*part).or_default() += 1;
                }
            }
            log[at] ^= 1 << bit;
        }
    }
    println!("{asked:?}: {unnoticed:?} of {} bits", 8 * log.len());
    unnoticed
}

#[test]
fn every_bit_is_noticed_or_of_no_account() {
    let found = unnoticed(&ASKED);
    assert!(found.keys().all(|part| ![Part::Covered, Part::Header].contains(part)), "{found:?}");
}

#[test]
fn with_all_registers_only_words_types_and_other_digests_are_of_no_account() {
    let all: Vec<u8> = (0..24).filter(|pcr| *pcr != 10).collect();
    let found = unnoticed(&all);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [Part::HeaderWords, Part::Kind, Part::OtherDigests, Part::Words]);
    assert!(header(&[(0x0b, 32)]).len() > 56, "the header's words have fixed places");
}

//! Reads the crypto-agile event log: a header event that names the digest algorithms, then events with one digest for each.

use super::bytes::Bytes;
use super::{Event, EventType, LAST_PCR, MAX_EVENTS, MAX_LOG};
use crate::attest::{Fault, Reason};

/// Begins the header's data (TCG_EfiSpecIdEvent).
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// The only major version there is.
const MAJOR: u8 = 2;
/// TPM_ALG_SHA256 (TCG Algorithm Registry).
const SHA256: u16 = 0x000b;
/// Sizes of the digests that firmware uses: SHA-1, SHA-256, SHA-384, SHA-512, SM3-256, SHA3-256, SHA3-384, SHA3-512.
const SIZES: [(u16, u16); 8] =
    [(0x0004, 20), (SHA256, 32), (0x000c, 48), (0x000d, 64), (0x0012, 32), (0x0027, 32), (0x0028, 48), (0x0029, 64)];
/// No register: some events only inform, and newer firmware numbers them so.
const NO_REGISTER: u32 = u32::MAX;

/// Reads a log as Linux exposes it in `/sys/kernel/security/tpm0/binary_bios_measurements` (TCG PC Client Platform Firmware Profile
/// 1.06, section 10): at most [`MAX_LOG`] bytes and [`MAX_EVENTS`] events, each with a SHA-256 digest.
///
/// Linux walks the firmware's buffers event by event and stops at the first empty one, so no padding comes out; bytes behind the last
/// event are a fault.
pub fn parse(log: &[u8]) -> Result<Vec<Event>, Fault> {
    if log.len() > MAX_LOG {
        return Err(malformed(format!("the event log has {} bytes, at most {MAX_LOG} are read", log.len())));
    }
    let mut bytes = Bytes(log);
    let algorithms = header(&mut bytes).map_err(|why| malformed(format!("the event log's header {why}")))?;
    let mut events = Vec::new();
    while !bytes.is_empty() {
        if events.len() == MAX_EVENTS {
            return Err(malformed(format!("the event log has more than {MAX_EVENTS} events")));
        }
        let number = events.len() + 1;
        let event = event(&mut bytes, &algorithms).map_err(|why| malformed(format!("event {number} of the event log {why}")))?;
        check_locality(&event, &events).map_err(|why| malformed(format!("event {number} of the event log {why}")))?;
        events.push(event);
    }
    Ok(events)
}

fn malformed(sentence: String) -> Fault {
    Fault::new(Reason::Malformed, sentence)
}

/// An algorithm's number and the bytes of its digests.
type Algorithm = (u16, usize);

/// The first event has the old form, so that old readers can skip it: register, type, SHA-1, length, data.
fn header(bytes: &mut Bytes<'_>) -> Result<Vec<Algorithm>, String> {
    let ends = || "ends early".to_owned();
    let pcr = bytes.u32().ok_or_else(ends)?;
    let kind = EventType::from_code(bytes.u32().ok_or_else(ends)?);
    let sha1 = bytes.array::<20>().ok_or_else(ends)?;
    let mut data = Bytes(bytes.sized().ok_or_else(ends)?);
    if pcr != 0 || kind != EventType::NoAction || sha1 != [0; 20] {
        return Err(format!("is {kind} for PCR {pcr}, it must be {} for PCR 0 without a digest", EventType::NoAction));
    }
    if data.take(SIGNATURE.len()).ok_or_else(ends)? != SIGNATURE {
        return Err("is not of a crypto-agile log".to_owned());
    }
    let (_class, _minor, major) = (data.u32().ok_or_else(ends)?, data.u8().ok_or_else(ends)?, data.u8().ok_or_else(ends)?);
    let (_errata, _word) = (data.u8().ok_or_else(ends)?, data.u8().ok_or_else(ends)?);
    if major != MAJOR {
        return Err(format!("has version {major}, this program reads {MAJOR}"));
    }
    let algorithms = algorithms(&mut data)?;
    let vendor = usize::from(data.u8().ok_or_else(ends)?);
    data.take(vendor).ok_or_else(ends)?;
    if data.is_empty() { Ok(algorithms) } else { Err("has more bytes than it tells".to_owned()) }
}

fn algorithms(data: &mut Bytes<'_>) -> Result<Vec<Algorithm>, String> {
    let ends = || "ends early".to_owned();
    let count = data.u32().ok_or_else(ends)?;
    if count == 0 || count as usize > SIZES.len() {
        return Err(format!("names {count} algorithms, 1 to {} are possible", SIZES.len()));
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for _ in 0..count {
        let named = (data.u16().ok_or_else(ends)?, data.u16().ok_or_else(ends)?);
        if !SIZES.contains(&named) || algorithms.iter().any(|(known, _)| *known == named.0) {
            return Err(format!("names the algorithm {:#06x} with digests of {} bytes, which is unknown or there twice", named.0, named.1));
        }
        algorithms.push((named.0, usize::from(named.1)));
    }
    if algorithms.iter().any(|(known, _)| *known == SHA256) { Ok(algorithms) } else { Err("does not name SHA-256".to_owned()) }
}

/// One event of the new form (TCG_PCR_EVENT2): register, type, digests, length, data.
fn event(bytes: &mut Bytes<'_>, algorithms: &[Algorithm]) -> Result<Event, String> {
    let ends = || "ends early".to_owned();
    let number = bytes.u32().ok_or_else(ends)?;
    let kind = EventType::from_code(bytes.u32().ok_or_else(ends)?);
    let sha256 = digests(bytes, algorithms)?;
    let data = bytes.sized().ok_or_else(ends)?.to_vec();
    let pcr = match u8::try_from(number) {
        Ok(pcr) if pcr <= LAST_PCR => pcr,
        _ if number == NO_REGISTER && kind == EventType::NoAction => Event::NO_PCR,
        _ => return Err(format!("is for PCR {number}, the last one is {LAST_PCR}")),
    };
    Ok(Event { pcr, kind, sha256, data })
}

/// At most one digest for each algorithm that the header names, in any order; SHA-256 must be there, and it alone is kept.
fn digests(bytes: &mut Bytes<'_>, algorithms: &[Algorithm]) -> Result<[u8; 32], String> {
    let ends = || "ends early".to_owned();
    let count = bytes.u32().ok_or_else(ends)?;
    if count as usize > algorithms.len() {
        return Err(format!("has {count} digests, the header names only {} algorithms", algorithms.len()));
    }
    let (mut seen, mut sha256) = (Vec::with_capacity(algorithms.len()), None);
    for _ in 0..count {
        let number = bytes.u16().ok_or_else(ends)?;
        let known = algorithms.iter().find(|(known, _)| *known == number && !seen.contains(&number));
        let Some((_, size)) = known else {
            return Err(format!("has a digest of the algorithm {number:#06x}, which the header does not name or which is there twice"));
        };
        seen.push(number);
        let digest = bytes.take(*size).ok_or_else(ends)?;
        if number == SHA256 {
            sha256 = digest.try_into().ok();
        }
    }
    sha256.ok_or_else(|| "has no SHA-256 digest".to_owned())
}

/// The locality decides what PCR 0 begins with, so it is told once, and before anything is measured there.
fn check_locality(event: &Event, before: &[Event]) -> Result<(), String> {
    match event.startup_locality() {
        Some(_) if before.iter().any(|earlier| earlier.pcr == 0 && (earlier.is_extended() || earlier.startup_locality().is_some())) => {
            Err("tells the startup locality too late or again".to_owned())
        }
        Some(locality) if ![0, 3, 4].contains(&locality) => Err(format!("tells the startup locality {locality}, only 0, 3 and 4 exist")),
        _ => Ok(()),
    }
}

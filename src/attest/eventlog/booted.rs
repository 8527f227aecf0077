//! Which boot program was started, for a verifier that knows its digest alone and has no description of it.

use super::data::Content;
use super::{Event, EventType, Registers, Sha256Value, content, hex, initial, replay};
use crate::attest::{Fault, Reason};
use sha2::{Digest, Sha256};

/// Programs that the firmware started (TCG PC Client Platform Firmware Profile 1.06, section 3.3.4).
const PROGRAMS: u8 = 4;
/// What the stub was given from outside the image: command line and credentials, extensions. Without it both stay as they were.
const ADDITIONS: [u8; 2] = [12, 13];
/// The firmware's word before it starts what a boot entry names.
const CALLING: &str = "Calling EFI Application from Boot Option";

/// What firmware measures when a boot program gives the machine back.
const RETURNED: &str = "Returning from EFI Application from Boot Option";

/// The Authenticode digest of the boot program, if the log leads to every register that was signed, if the firmware started
/// that program before any other, and if nothing was added to it from outside.
pub fn booted(events: &[Event], quoted: &Registers) -> Result<Sha256Value, Fault> {
    leads_to(events, quoted)?;
    for pcr in ADDITIONS {
        match quoted.get(&pcr) {
            Some(value) if *value == initial(pcr) => {}
            Some(value) => {
                let sentence = format!("something was added from outside the image: PCR {pcr} is {}, wanted zero", hex(value));
                return Err(Fault::new(Reason::ImageMismatch, sentence));
            }
            None => {
                return Err(Fault::new(Reason::RegistersMissing, format!("the TPM did not sign PCR {pcr}, which tells what was added")));
            }
        }
    }
    let mut programs = events.iter().filter(|event| event.pcr == PROGRAMS && event.is_extended());
    let calling = programs.next().map(content).transpose()?;
    let separator = programs.next().map(content).transpose()?;
    let steps =
        matches!(&calling, Some(Content::Action(action)) if action == CALLING) && matches!(separator, Some(Content::Separator(true)));
    let first = programs.next().filter(|event| steps && event.kind == EventType::EfiBootServicesApplication);
    let first =
        first.ok_or_else(|| Fault::new(Reason::ImageMismatch, "the firmware did something else before it started the boot program"))?;
    // A boot program that gives up leads to the next boot entry. The kernel that it starts is measured as one more program; the
    // firmware's own words, as of a return, are known by their digest, whatever the log calls them.
    let kernel = programs.next();
    let words = |event: &Event| matches!(content(event), Ok(Content::Action(_))) || event.sha256[..] == Sha256::digest(RETURNED)[..];
    if kernel.is_some_and(words) || programs.next().is_some() {
        return Err(Fault::new(Reason::ImageMismatch, "the boot program was not the last thing that the firmware started"));
    }
    Ok(first.sha256)
}

fn leads_to(events: &[Event], quoted: &Registers) -> Result<(), Fault> {
    let log = replay(events);
    let differing = quoted.iter().find_map(|(pcr, value)| {
        let by_log = log.get(pcr).copied().unwrap_or_else(|| initial(*pcr));
        (by_log != *value).then(|| format!("the log leads to {} in PCR {pcr}, the TPM signed {}", hex(&by_log), hex(value)))
    });
    differing.map_or(Ok(()), |sentence| Err(Fault::new(Reason::EventLogMismatch, sentence)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::eventlog::{parse, replay};

    /// A real log, and registers to which it leads with 12 and 13 as they were.
    fn plain() -> Vec<Event> {
        parse(include_bytes!("testdata/plain.bin")).unwrap()
    }

    fn quoted(events: &[Event]) -> Registers {
        let log = replay(events);
        [4, 7, 9, 11, 12, 13].map(|pcr| (pcr, log.get(&pcr).copied().unwrap_or_else(|| initial(pcr)))).into_iter().collect()
    }

    fn words(text: &str) -> Event {
        let (kind, data) = (EventType::EfiAction, text.as_bytes().to_vec());
        Event { pcr: PROGRAMS, kind, sha256: Sha256::digest(&data).into(), data }
    }

    #[test]
    fn the_first_program_counts_if_it_is_the_last_word() {
        let events = plain();
        let image = booted(&events, &quoted(&events)).unwrap();
        let kernel = events.iter().filter(|event| event.pcr == PROGRAMS).nth(3).unwrap().clone();
        assert_ne!(kernel.sha256, image);
        // The boot program gave up, and another system was started in its place.
        let other = Event { sha256: [7; 32], ..kernel.clone() };
        let gave_up = |more: &[Event]| {
            let mut events: Vec<Event> = plain().into_iter().filter(|event| event.sha256 != kernel.sha256).collect();
            events.extend_from_slice(more);
            booted(&events, &quoted(&events)).map_err(|fault| fault.reason)
        };
        let mismatch = Err(Reason::ImageMismatch);
        assert_eq!(gave_up(&[words(RETURNED), words(CALLING), other.clone()]), mismatch);
        assert_eq!(gave_up(&[words(RETURNED)]), mismatch);
        // A log that calls the return something else changes nothing.
        assert_eq!(gave_up(&[Event { kind: EventType::EfiBootServicesApplication, data: Vec::new(), ..words(RETURNED) }]), mismatch);
        assert_eq!(gave_up(&[kernel.clone(), other.clone()]), mismatch);
        let mut before = plain();
        let place = before.iter().position(|event| event.sha256 == image).unwrap();
        before.insert(place, other);
        assert_ne!(booted(&before, &quoted(&before)), Ok(image), "what was started first is what counts");
    }

    #[test]
    fn what_comes_from_outside_the_image_is_refused() {
        for pcr in ADDITIONS {
            let events = plain();
            let mut signed = quoted(&events);
            assert!(signed.remove(&pcr).is_some());
            assert_eq!(booted(&events, &signed).unwrap_err().reason, Reason::RegistersMissing);
            let mut events = plain();
            events.push(Event { pcr, ..words("a command line") });
            assert_eq!(booted(&events, &quoted(&events)).unwrap_err().reason, Reason::ImageMismatch);
        }
        let events = plain();
        let mut signed = quoted(&events);
        signed.insert(9, [1; 32]);
        assert_eq!(booted(&events, &signed).unwrap_err().reason, Reason::EventLogMismatch);
    }
}

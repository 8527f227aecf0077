//! Which boot program was started, for a verifier that knows its digest alone and has no description of it.

use super::data::Content;
use super::{Event, EventType, Registers, Sha256Value, content, hex, initial, replay};
use crate::attest::{Fault, Reason};

/// Programs that the firmware started (TCG PC Client Platform Firmware Profile 1.06, section 3.3.4).
const PROGRAMS: u8 = 4;
/// What the stub was given from outside the image: command line and credentials, extensions. Without it both stay as they were.
const ADDITIONS: [u8; 2] = [12, 13];
/// The firmware's word before it starts what a boot entry names.
const CALLING: &str = "Calling EFI Application from Boot Option";

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

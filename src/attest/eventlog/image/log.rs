//! Whether a log leads to the registers that a TPM signed, and if not, what that looks like.

use super::{Finding, IMA, meaning};
use crate::attest::eventlog::data::is_measured;
use crate::attest::eventlog::{Event, Registers, Sha256Value, content, hex, initial};
use crate::attest::{Fault, Reason};

/// Registers that a fault names with both values.
const MAX_NAMED: usize = 4;

/// What the log leads to, also for registers that it does not mention.
fn by_log(log: &Registers, pcr: u8) -> Sha256Value {
    log.get(&pcr).copied().unwrap_or_else(|| initial(pcr))
}

/// One line for each register that was signed.
pub(super) fn findings(log: &Registers, quoted: &Registers) -> Vec<Finding> {
    quoted
        .iter()
        .map(|(pcr, value)| Finding::of_digests(*pcr, format!("PCR {pcr} by the log"), Some(&by_log(log, *pcr)), Some(value)))
        .collect()
}

/// The log must lead to every register that was signed.
pub(super) fn check(log: &Registers, quoted: &Registers, wanted: &Registers) -> Result<(), Fault> {
    let differing: Vec<u8> = quoted.iter().filter(|(pcr, value)| by_log(log, **pcr) != **value).map(|(pcr, _)| *pcr).collect();
    if differing.is_empty() {
        return Ok(());
    }
    let mut parts: Vec<String> = differing.iter().take(MAX_NAMED).map(|pcr| difference(*pcr, log, quoted)).collect();
    if let Some(more @ 1..) = differing.len().checked_sub(MAX_NAMED) {
        parts.push(format!("{more} more registers differ"));
    }
    parts.extend(explanation(&differing, log, quoted, wanted));
    if differing.contains(&IMA) {
        parts.push("Linux extends PCR 10 by itself and outside this log, so it cannot be compared".to_owned());
    }
    Err(Fault::new(Reason::EventLogMismatch, parts.join("; ")))
}

fn difference(pcr: u8, log: &Registers, quoted: &Registers) -> String {
    let signed = quoted.get(&pcr).map(|value| hex(value)).unwrap_or_default();
    format!("the log leads to {} in PCR {pcr}, the TPM signed {signed}", hex(&by_log(log, pcr)))
}

/// What a difference looks like; both can be true, of different registers.
fn explanation(differing: &[u8], log: &Registers, quoted: &Registers, wanted: &Registers) -> Vec<String> {
    let like = |registers: &dyn Fn(u8) -> Option<Sha256Value>| -> Vec<u8> {
        differing.iter().copied().filter(|pcr| wanted.get(pcr).is_some_and(|value| registers(*pcr) == Some(*value))).collect()
    };
    let faked = like(&|pcr| Some(by_log(log, pcr)));
    let honest = like(&|pcr| quoted.get(&pcr).copied());
    let mut sentences = Vec::new();
    if !faked.is_empty() {
        let which: Vec<String> = faked.iter().map(|pcr| format!("PCR {pcr} ({})", meaning(*pcr))).collect();
        sentences.push(format!("the log was edited to look like the image: not the image's is {}", which.join(", ")));
    }
    if !honest.is_empty() {
        let which: Vec<String> = honest.iter().map(|pcr| format!("PCR {pcr}")).collect();
        sentences.push(format!("the log was edited or cut: the TPM signed what the image makes of {}", which.join(", ")));
    }
    sentences
}

/// Where the digest should be of the data, it must be, in every register that was signed. Other data is not looked at: nothing vouches
/// for it, so it decides nothing, not even that the log is bad.
pub(super) fn check_contents(events: &[Event], quoted: &Registers) -> Result<(), Fault> {
    let mut signed = events.iter().filter(|event| event.is_extended() && quoted.contains_key(&event.pcr));
    signed.try_for_each(|event| if is_measured(event.kind) { content(event).map(drop) } else { Ok(()) })
}

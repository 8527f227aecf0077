//! Compares what a machine measured with what an image is expected to measure, and names what differs in plain words.
//!
//! What is decided is decided by registers and digests that the TPM vouches for. Words from the log (types, paths, labels) only help to
//! name what differs, once it is clear that something does.

mod additions;
mod finding;
mod kernel;
mod log;
mod programs;
mod sections;

pub use finding::{Finding, Value};

use super::{Event, Registers, Sha256Value, replay, secure_boot};
use crate::attest::{Fault, Reason};

/// The boot program as a whole, and the kernel.
const PROGRAMS: u8 = 4;
/// Secure Boot: whether it is on, its keys, and which of them were used.
const SECURE_BOOT: u8 = 7;
/// Command line and initrd as the kernel got them.
const KERNEL: u8 = 9;
/// Linux extends this one for itself, and in a log of its own.
const IMA: u8 = 10;
/// The parts of the boot program.
const SECTIONS: u8 = 11;
/// What the stub takes from outside the boot program: another command line, credentials; extensions.
const ADDITIONS: [u8; 2] = [12, 13];
/// Differences that a fault names; the findings have them all.
const MAX_NAMED: usize = 8;

/// What a machine that starts an image must measure: the image's description, with numbers in place of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Authenticode digest (SHA-256) of the boot program, a unified kernel image.
    pub uki_authenticode: Sha256Value,
    /// The same of the kernel inside.
    pub kernel_authenticode: Sha256Value,
    /// The boot program's sections: name as in `.linux`, SHA-256, bytes.
    pub sections: Vec<(String, Sha256Value, u64)>,
    /// The kernel's command line.
    pub command_line: String,
    /// Registers by number; 4 and 11 must be among them.
    pub pcr: Registers,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// One line for each thing compared, in the order in which people want to read them.
    pub findings: Vec<Finding>,
    /// What could not be compared, and why: whole sentences without a full stop.
    pub unchecked: Vec<String>,
    /// Whether Secure Boot was on; none if PCR 7 was not signed or does not say.
    pub secure_boot: Option<bool>,
    /// The verdict: the machine started this image and nothing else, or why that is not proved.
    pub result: Result<(), Fault>,
}

/// Compares.
///
/// `quoted` are registers that a TPM signed: 4 and 11, every other one in `expected.pcr`, and 9 or 12. One of the last two is needed because
/// without Secure Boot the stub takes another command line from whoever calls it, which shows in 9 (what the kernel got) and 12 (what the
/// stub was given), but neither in 4 nor in 11.
///
/// | verdict | reason |
/// | --- | --- |
/// | a register is missing | [`Reason::RegistersMissing`] |
/// | the log does not lead to each of them | [`Reason::EventLogMismatch`] |
/// | it does, and they are not those of the image | [`Reason::ImageMismatch`] |
pub fn compare(events: &[Event], quoted: &Registers, expected: &Expected) -> Comparison {
    let mut comparison = Comparison { findings: Vec::new(), unchecked: Vec::new(), secure_boot: None, result: Ok(()) };
    comparison.result = judge(&mut comparison, events, quoted, expected);
    comparison
}

fn judge(comparison: &mut Comparison, events: &[Event], quoted: &Registers, expected: &Expected) -> Result<(), Fault> {
    check_registers(quoted, expected)?;
    let mut wanted = expected.pcr.clone();
    if let Some(register) = kernel::register(expected) {
        wanted.entry(KERNEL).or_insert(register);
    }
    comparison.findings = log::findings(&replay(events), quoted);
    log::check(&replay(events), quoted, &wanted)?;
    log::check_contents(events, quoted)?;
    // From here on the log's digests are the TPM's word.
    if quoted.contains_key(&SECURE_BOOT) {
        comparison.secure_boot = secure_boot(events)?;
    }
    comparison.unchecked = unchecked(quoted, expected);
    let mut found = sections::findings(events, expected);
    if quoted.contains_key(&KERNEL) {
        found.extend(kernel::findings(events, expected));
    }
    found.extend(programs::findings(events, expected, comparison.secure_boot));
    found.extend(ADDITIONS.into_iter().filter(|pcr| quoted.contains_key(pcr)).flat_map(|pcr| additions::findings(events, pcr)));
    let verdict = verdict(&found, quoted, &wanted);
    found.extend(registers(quoted, &wanted));
    found.append(&mut comparison.findings);
    comparison.findings = found;
    verdict
}

/// Whether the TPM signed everything that is needed, and the image's description tells enough.
fn check_registers(quoted: &Registers, expected: &Expected) -> Result<(), Fault> {
    if let Some(pcr) = [PROGRAMS, SECTIONS].iter().find(|pcr| !expected.pcr.contains_key(pcr)) {
        return Err(Fault::new(Reason::Malformed, format!("the image's description does not tell PCR {pcr}")));
    }
    if let Some(pcr) = expected.pcr.keys().find(|pcr| !quoted.contains_key(pcr)) {
        return Err(Fault::new(
            Reason::RegistersMissing,
            format!("the TPM signed {}, PCR {pcr} ({}) is needed", names(quoted), meaning(*pcr)),
        ));
    }
    if [KERNEL, ADDITIONS[0]].iter().any(|pcr| quoted.contains_key(pcr)) {
        return Ok(());
    }
    let sentence = format!("the TPM signed {}, PCR 9 or 12 is needed: only they tell another command line", names(quoted));
    Err(Fault::new(Reason::RegistersMissing, sentence))
}

fn names(quoted: &Registers) -> String {
    if quoted.is_empty() {
        return "no register".to_owned();
    }
    let numbers: Vec<String> = quoted.keys().map(u8::to_string).collect();
    format!("PCR {}", numbers.join(", "))
}

/// Registers that must have a certain value.
fn registers<'a>(quoted: &'a Registers, wanted: &'a Registers) -> impl Iterator<Item = Finding> + 'a {
    wanted.iter().filter_map(|(pcr, value)| {
        let found = quoted.get(pcr)?;
        Some(Finding::of_digests(*pcr, format!("PCR {pcr} ({})", meaning(*pcr)), Some(found), Some(value)))
    })
}

/// Parts first, since they tell most; registers speak only where no part does.
fn verdict(found: &[Finding], quoted: &Registers, wanted: &Registers) -> Result<(), Fault> {
    let wrong: Vec<String> = found.iter().filter(|finding| !finding.ok).map(Finding::sentence).collect();
    let wrong = match wrong.is_empty() {
        true => registers(quoted, wanted).filter(|finding| !finding.ok).map(|finding| finding.sentence()).collect(),
        false => wrong,
    };
    if wrong.is_empty() {
        return Ok(());
    }
    let more = match wrong.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let named = wrong[..wrong.len().min(MAX_NAMED)].join("; ");
    Err(Fault::new(Reason::ImageMismatch, format!("the machine did not start this image: {named}{more}")))
}

fn unchecked(quoted: &Registers, expected: &Expected) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut missing = |pcr: u8, what: &str| {
        if !quoted.contains_key(&pcr) {
            sentences.push(format!("PCR {pcr} was not signed: {what}"));
        }
    };
    missing(SECURE_BOOT, "nobody knows whether Secure Boot was on");
    missing(KERNEL, "initrd and command line as the kernel got them are not known");
    missing(ADDITIONS[0], "credentials and other files that the stub took from the boot disk are not known");
    missing(ADDITIONS[1], "extensions that the stub took from the boot disk are not known");
    for name in sections::unmeasured(expected) {
        sentences.push(format!("the stub does not measure {name} by itself: only the boot program as a whole tells of it"));
    }
    sentences
}

/// What a register stands for (TCG PC Client Platform Firmware Profile 1.06, section 3; systemd's TPM2_PCR_MEASUREMENTS).
fn meaning(pcr: u8) -> &'static str {
    match pcr {
        0..=3 | 5 | 6 => "the firmware, its settings and its disks",
        PROGRAMS => "the boot program as a whole, and the kernel",
        SECURE_BOOT => "Secure Boot",
        KERNEL => "initrd and command line as the kernel got them",
        IMA => "files that Linux measured by itself, which are not in this log",
        SECTIONS => "the parts of the boot program",
        12 => "command line and files from outside the image",
        13 => "extensions from outside the image",
        _ => "other programs' measurements",
    }
}

/// The events that changed a register, in their order.
fn extended(events: &[Event], pcr: u8) -> impl Iterator<Item = &Event> {
    events.iter().filter(move |event| event.pcr == pcr && event.is_extended())
}

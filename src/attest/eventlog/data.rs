//! Reads what events say, and checks it against their digests where the specification says that those are of the data.

use super::bytes::Bytes;
use super::{Event, EventType, Sha256Value, hex, path, sha256};
use crate::attest::{Fault, Reason};

/// What separators hold (TCG PC Client Platform Firmware Profile 1.06, section 10): all is well, twice.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
/// What is measured instead when something failed; the data then tells what.
const SEPARATOR_ERROR: [u8; 4] = [1, 0, 0, 0];
/// Where Secure Boot shows.
const SECURE_BOOT_PCR: u8 = 7;
/// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as it lies in memory.
const GLOBAL: [u8; 16] = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// Numbers of Linux's own events (drivers/firmware/efi/libstub/efistub.h).
const INITRD_TAG: u32 = 0x8f3b_22ec;
const LOAD_OPTIONS_TAG: u32 = 0x8f3b_22ed;
/// Letters of a text that are shown.
const MAX_TEXT: usize = 200;

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// What firmware did, as in "Calling EFI Application from Boot Option". The digest vouches for it.
    Action(String),
    /// A separator; false if something failed before it. The digest vouches for it.
    Separator(bool),
    /// A program that firmware started: where it came from, in the words of UEFI. The event's digest is the program's Authenticode
    /// digest and vouches for nothing here.
    Program(String),
    /// A UEFI variable. The digest vouches for it.
    Variable(Variable),
    /// What a boot stub says about what it measured: the name of a section, a command line. The digest is seldom of these words.
    Label(String),
    /// Linux: the digest is of its command line, as UTF-16 with a zero at its end.
    LoadOptions,
    /// Linux: the digest is of the initial file system that it was handed.
    Initrd,
    /// Data of which no meaning is known here.
    Other,
}

/// A UEFI variable as it was measured (UEFI_VARIABLE_DATA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Whose names these are, as a GUID lies in memory.
    pub vendor: [u8; 16],
    /// As in `SecureBoot`.
    pub name: String,
    /// What it holds; empty if there is no such variable.
    pub value: Vec<u8>,
}

/// Reads what an event says. Where the specification says that the digest is of the data, a digest that is not is a fault.
pub fn content(event: &Event) -> Result<Content, Fault> {
    let unreadable = || Fault::new(Reason::Malformed, format!("an event {} in PCR {} cannot be read", event.kind, event.pcr));
    match event.kind {
        EventType::EfiAction => {
            check_digest(event)?;
            Ok(Content::Action(text(&event.data)))
        }
        EventType::Separator => separator(event),
        EventType::EfiVariableDriverConfig | EventType::EfiVariableAuthority => {
            check_digest(event)?;
            variable(&event.data).map(Content::Variable).ok_or_else(unreadable)
        }
        EventType::EfiBootServicesApplication | EventType::EfiBootServicesDriver | EventType::EfiRuntimeServicesDriver => {
            program(&event.data).map(Content::Program).ok_or_else(unreadable)
        }
        EventType::Ipl => Ok(Content::Label(text(&event.data))),
        EventType::EventTag => tagged(&event.data).ok_or_else(unreadable),
        _ => Ok(Content::Other),
    }
}

/// Types whose digest the specification says to be of the data, so that [`content`] checks it (TCG PC Client Platform Firmware Profile
/// 1.06, section 10). There are more, but nothing here reads them.
pub(super) fn is_measured(kind: EventType) -> bool {
    let kinds = [EventType::EfiAction, EventType::Separator, EventType::EfiVariableDriverConfig, EventType::EfiVariableAuthority];
    kinds.contains(&kind)
}

/// Whether Secure Boot was on; none if the log does not say, as with firmware that knows nothing of it.
///
/// Believe it only if PCR 7 was signed and the log leads to it ([`super::image::compare`] sees to that). Then nobody can change it:
/// it is read from digests alone, of which there are two, and before the separator, after which anybody can extend PCR 7.
pub fn secure_boot(events: &[Event]) -> Result<Option<bool>, Fault> {
    let [off, on] = [0, 1].map(secure_boot_digest);
    let separators = SEPARATORS.map(|value| sha256(&value));
    let measured: Vec<&Event> = events.iter().filter(|event| event.pcr == SECURE_BOOT_PCR && event.is_extended()).collect();
    // Without a separator nobody knows where the firmware's own words end.
    let end = measured.iter().position(|event| separators.contains(&event.sha256)).unwrap_or_default();
    let early = measured.iter().take(end);
    let said: Vec<bool> = early.filter(|event| [off, on].contains(&event.sha256)).map(|event| event.sha256 == on).collect();
    match said[..] {
        [] => Ok(None),
        [said] => Ok(Some(said)),
        _ => Err(Fault::new(
            Reason::EventLogMismatch,
            format!("PCR 7 tells {} times whether Secure Boot is on, it must be once", said.len()),
        )),
    }
}

/// The digest of the variable `SecureBoot` with this value (UEFI_VARIABLE_DATA).
fn secure_boot_digest(value: u8) -> Sha256Value {
    let name = "SecureBoot";
    let mut data = GLOBAL.to_vec();
    data.extend((name.len() as u64).to_le_bytes());
    data.extend(1u64.to_le_bytes());
    data.extend(utf16(name));
    data.push(value);
    sha256(&data)
}

fn check_digest(event: &Event) -> Result<(), Fault> {
    if event.digest_is_of_data() {
        return Ok(());
    }
    let (found, wanted) = (hex(&sha256(&event.data)), hex(&event.sha256));
    let sentence = format!("the data of an event {} in PCR {} has the digest {found}, measured was {wanted}", event.kind, event.pcr);
    Err(Fault::new(Reason::EventLogMismatch, sentence))
}

fn separator(event: &Event) -> Result<Content, Fault> {
    if event.sha256 == sha256(&SEPARATOR_ERROR) {
        return Ok(Content::Separator(false));
    }
    check_digest(event)?;
    match SEPARATORS.iter().any(|value| event.data == value) {
        true => Ok(Content::Separator(true)),
        false => Err(Fault::new(Reason::Malformed, format!("a separator in PCR {} is neither of the two that exist", event.pcr))),
    }
}

/// UEFI_VARIABLE_DATA: owner, letters of the name, bytes of the value, name, value; nothing behind.
fn variable(data: &[u8]) -> Option<Variable> {
    let mut bytes = Bytes(data);
    let (vendor, letters, size) = (bytes.array()?, usize::try_from(bytes.u64()?).ok()?, usize::try_from(bytes.u64()?).ok()?);
    let name = text(bytes.take(letters.checked_mul(2)?)?);
    let value = bytes.take(size)?.to_vec();
    bytes.is_empty().then_some(Variable { vendor, name, value })
}

/// UEFI_IMAGE_LOAD_EVENT: address, size, address it was linked for, bytes of the device path, device path. Shim tells of
/// no path and writes some bytes all the same (seen on a ThinkPad), so the rest may be longer or shorter: nothing is decided by it.
fn program(data: &[u8]) -> Option<String> {
    let mut bytes = Bytes(data);
    let (_address, _size, _linked) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
    let length = usize::try_from(bytes.u64()?).ok()?;
    Some(path::text(bytes.0.get(..length).unwrap_or(bytes.0)))
}

/// TCG_PCClientTaggedEvent: number, length, words.
fn tagged(data: &[u8]) -> Option<Content> {
    let mut bytes = Bytes(data);
    let tag = bytes.u32()?;
    bytes.sized()?;
    Some(match tag {
        INITRD_TAG => Content::Initrd,
        LOAD_OPTIONS_TAG => Content::LoadOptions,
        _ => Content::Other,
    })
}

/// Words in ASCII or UTF-16, without what a terminal might take as a command, and not too long.
pub(super) fn text(data: &[u8]) -> String {
    let pairs = data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let wide = data.len() >= 2 && data.len().is_multiple_of(2) && data[1] == 0;
    let whole: String = match wide {
        true => char::decode_utf16(pairs.take(MAX_TEXT)).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect(),
        false => String::from_utf8_lossy(data.get(..4 * MAX_TEXT).unwrap_or(data)).into_owned(),
    };
    clean(whole.trim_end_matches('\0'))
}

/// Text without what a terminal might take as a command, and not too long.
pub(super) fn clean(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|letter| if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' }).collect()
}

/// UTF-16 as it lies in memory.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

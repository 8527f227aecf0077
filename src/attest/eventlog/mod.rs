//! What firmware, boot stub and kernel measured when a machine started: reads their event log and computes the registers it leads to.
//!
//! A log is nobody's word: whoever hands it over can write what he likes. It proves something only where [`replay`] leads to registers
//! that a TPM signed, and then it proves the SHA-256 digests in these registers, their number and their order. Nothing vouches for
//!
//! - the header's platform class, versions and word size, and its vendor's bytes,
//! - digests of other algorithms,
//! - types of events, except that an event is no `EV_NO_ACTION`,
//! - events that are `EV_NO_ACTION`, except the startup locality if PCR 0 is signed,
//! - data whose digest is not of the data: paths of programs, words of boot stub and kernel, parts of the firmware,
//! - everything in registers that are not signed.
//!
//! So nothing is decided by those. They are shown to people, as what the log says.

mod booted;
mod bytes;
mod data;
pub mod image;
mod kind;
mod parse;
mod path;
#[cfg(test)]
pub(crate) mod tests;

pub use booted::booted;
pub use data::{Content, content, secure_boot};
pub use kind::EventType;
pub use parse::parse;

use crate::encoding::hex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Bytes of a log, at most. Linux hands out some ten KiB; firmware has room for 64 KiB or a little more.
pub const MAX_LOG: usize = 256 * 1024;
/// Events of a log, at most. Virtual machines have about 40, computers with all their devices about 200.
pub const MAX_EVENTS: usize = 2048;
/// The last register of a TPM (TCG PC Client Platform TPM Profile).
pub const LAST_PCR: u8 = 23;
/// Begins the event that tells from which locality the TPM was started.
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";

/// A digest, or the value of a register, of the SHA-256 bank.
pub type Sha256Value = [u8; 32];
/// Values of registers by number.
pub type Registers = BTreeMap<u8, Sha256Value>;

/// One event (TCG PC Client Platform Firmware Profile 1.06, section 10).
///
/// A register that a TPM signed vouches for `pcr` and `sha256`, and for their order. It vouches for `data` only where
/// [`Event::digest_is_of_data`] holds. It never vouches for `kind`: a type can be changed and the register stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The register, 0 to 23; [`Event::NO_PCR`] for some events that only inform.
    pub pcr: u8,
    /// What it says it is.
    pub kind: EventType,
    /// What the register was extended with.
    pub sha256: Sha256Value,
    /// What was measured, or words about it.
    pub data: Vec<u8>,
}

impl Event {
    /// Stands for the register number 0xffffffff of events that only inform.
    pub const NO_PCR: u8 = u8::MAX;

    /// Whether it changed its register.
    pub fn is_extended(&self) -> bool {
        self.kind != EventType::NoAction && self.pcr <= LAST_PCR
    }

    /// Whether its data is what was measured, so that the digest vouches for it.
    pub fn digest_is_of_data(&self) -> bool {
        sha256(&self.data) == self.sha256
    }

    /// The locality from which the TPM was started: PCR 0 begins with this number as its last byte (TCG_EfiStartupLocalityEvent).
    pub fn startup_locality(&self) -> Option<u8> {
        match self.data.split_last_chunk::<1>() {
            Some((STARTUP_LOCALITY, [locality])) if self.pcr == 0 && self.kind == EventType::NoAction => Some(*locality),
            _ => None,
        }
    }
}

/// The registers that a log leads to: those, and only those, that it extends.
pub fn replay(events: &[Event]) -> Registers {
    let mut registers = Registers::new();
    let mut start = None;
    for event in events {
        if event.is_extended() {
            let begin = || if event.pcr == 0 { start.unwrap_or_default() } else { initial(event.pcr) };
            let register = registers.entry(event.pcr).or_insert_with(begin);
            *register = extend(register, &event.sha256);
        } else if let Some(locality) = event.startup_locality() {
            start = Some(started_from(locality));
        }
    }
    registers
}

/// What a register holds that nothing has been measured into: zeros, but ones where only a dynamic launch may measure.
pub fn initial(pcr: u8) -> Sha256Value {
    if (17..=22).contains(&pcr) { [0xff; 32] } else { [0; 32] }
}

fn started_from(locality: u8) -> Sha256Value {
    let mut value = [0; 32];
    value[31] = locality;
    value
}

/// What a register holds after a measurement (TPM 2.0 Library, TPM2_PCR_Extend).
fn extend(register: &Sha256Value, digest: &Sha256Value) -> Sha256Value {
    Sha256::new().chain_update(register).chain_update(digest).finalize().into()
}

fn sha256(bytes: &[u8]) -> Sha256Value {
    Sha256::digest(bytes).into()
}

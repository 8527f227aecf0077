//! What can go wrong with a TPM, in words.

use super::rc;
use crate::attest::tpm::wire::WireError;
use std::{fmt, io};

/// Why the TPM did not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The TPM could not be reached.
    Io(io::Error),
    /// The TPM's answer breaks the rules of the specification.
    Answer(String),
    /// What was asked for cannot be asked of a TPM.
    Argument(String),
    /// The TPM wants an authorization value (password) where an empty one was given.
    Authorization {
        /// The command.
        command: &'static str,
    },
    /// After too many wrong passwords, the TPM refuses all for a while (`TPM_RC_LOCKOUT`).
    Lockout,
    /// The TPM stayed busy for longer than this program waits.
    Busy {
        /// The command.
        command: &'static str,
    },
    /// The registers have other values than at the time of sealing, so that the secret stays closed.
    PcrChanged,
    /// What the TPM was given was not made for it or for the key in question, or was changed (`TPM_RC_INTEGRITY`).
    Integrity {
        /// The command.
        command: &'static str,
    },
    /// The TPM has no room for another key or session.
    NoRoom {
        /// The command.
        command: &'static str,
    },
    /// Any other refusal.
    Refused {
        /// The command.
        command: &'static str,
        /// The code (`TPM_RC`, Part 2, 6.6).
        code: u32,
    },
}

impl Error {
    /// The error of a response code that is not zero.
    pub(super) fn from_code(command: &'static str, code: u32) -> Error {
        match rc::base(code) {
            rc::AUTH_FAIL | rc::BAD_AUTH => Error::Authorization { command },
            rc::LOCKOUT => Error::Lockout,
            rc::PCR_CHANGED => Error::PcrChanged,
            rc::INTEGRITY => Error::Integrity { command },
            rc::OBJECT_MEMORY | rc::SESSION_MEMORY | rc::OBJECT_HANDLES | rc::SESSION_HANDLES => Error::NoRoom { command },
            _ if rc::is_busy(code) => Error::Busy { command },
            _ => Error::Refused { command, code },
        }
    }

    /// Whether the TPM refused with one of these codes.
    pub(super) fn is_refusal(&self, codes: &[u32]) -> bool {
        matches!(self, Error::Refused { code, .. } if codes.contains(&rc::base(*code)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "the TPM cannot be reached: {error}"),
            Error::Answer(sentence) => write!(f, "the TPM's answer cannot be used: {sentence}"),
            Error::Argument(sentence) => f.write_str(sentence),
            Error::Authorization { command } => write!(f, "{command}: the TPM wants a password, an empty one was given"),
            Error::Lockout => f.write_str("the TPM is locked after too many wrong passwords"),
            Error::Busy { command } => write!(f, "{command}: the TPM is still busy after {} attempts", super::transport::ATTEMPTS),
            Error::PcrChanged => f.write_str("the registers have other values than when the secret was sealed"),
            Error::Integrity { command } => write!(f, "{command}: this was made for another TPM or key, or was changed"),
            Error::NoRoom { command } => write!(f, "{command}: the TPM has no room for another key or session"),
            Error::Refused { command, code } => match rc::words(*code) {
                "" => write!(f, "{command}: the TPM refuses with code 0x{code:03x}"),
                words => write!(f, "{command}: {words} (code 0x{code:03x})"),
            },
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Error {
        Error::Answer(error.to_string())
    }
}

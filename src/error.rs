//! The one error type that leaves the library: a stable code, what went wrong, the causes, and what to do.
//!
//! A module may keep an enum of its own while it works; at its edge that becomes an [`Error`]. The code decides
//! the exit status, so programs can rely on it; the hint is a sentence or, better, a command that can be pasted.

use std::fmt;

/// Stable, documented names of failures. `as_str` is what `--json` prints; `exit_code` is the process status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Something failed that has no better name.
    Failed,
    /// The command line, or a value on it, is wrong.
    Usage,
    /// What was named does not exist here.
    NotFound,
    /// It exists already, so nothing was changed.
    Exists,
    /// Trust, policy, evidence or a node said no.
    Refused,
    /// A blob cannot be read: not one of ours, cut short, damaged, of another type or version.
    BadBlob,
    /// The other side could not be reached.
    Unreachable,
    /// The time allowed ran out.
    TimedOut,
    /// Something must be set up or mended first.
    Precondition,
    /// Files have permissions that let others read secrets.
    Permissions,
    /// The keyring cannot be opened: wrong passphrase, missing key, damaged file.
    Keyring,
    /// The ledger is damaged or cannot be written.
    Ledger,
    /// A file could not be read or written.
    Io,
    /// The other side broke the protocol.
    Protocol,
    /// The user interrupted; everything half made was removed.
    Interrupted,
}

impl Code {
    /// Every code, for documentation and tests.
    pub const ALL: [Code; 15] = [
        Code::Failed,
        Code::Usage,
        Code::NotFound,
        Code::Exists,
        Code::Refused,
        Code::BadBlob,
        Code::Unreachable,
        Code::TimedOut,
        Code::Precondition,
        Code::Permissions,
        Code::Keyring,
        Code::Ledger,
        Code::Io,
        Code::Protocol,
        Code::Interrupted,
    ];

    /// The name in JSON output and in logs; never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Failed => "failed",
            Code::Usage => "usage",
            Code::NotFound => "not_found",
            Code::Exists => "exists",
            Code::Refused => "refused",
            Code::BadBlob => "bad_blob",
            Code::Unreachable => "unreachable",
            Code::TimedOut => "timed_out",
            Code::Precondition => "precondition",
            Code::Permissions => "permissions",
            Code::Keyring => "keyring",
            Code::Ledger => "ledger",
            Code::Io => "io",
            Code::Protocol => "protocol",
            Code::Interrupted => "interrupted",
        }
    }

    /// The exit status of the process: 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable, 6 precondition, 130 interrupted.
    pub fn exit_code(self) -> u8 {
        match self {
            Code::Failed | Code::Exists | Code::Ledger | Code::Io | Code::Protocol => 1,
            Code::Usage | Code::BadBlob => 2,
            Code::NotFound => 3,
            Code::Refused => 4,
            Code::Unreachable | Code::TimedOut => 5,
            Code::Precondition | Code::Permissions | Code::Keyring => 6,
            Code::Interrupted => 130,
        }
    }
}

/// What went wrong, why, and what to do about it.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    /// In a box: few errors have one, and every result would carry its size.
    ruling: Option<Box<Ruling>>,
}

/// What made a refusal: a rule by its name, and the entry of the ledger that put it in force, where one is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// A path into the policy, or a code of `docs/protocol.md`.
    pub rule: String,
    /// The id of a span.
    pub entry: Option<String>,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with its code and one sentence that names the value in question.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), causes: Vec::new(), hint: None, ruling: None }
    }

    /// Says what to do; a command to paste where there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds an underlying error and, in turn, its sources.
    #[must_use]
    pub fn cause(mut self, cause: impl std::error::Error) -> Self {
        self.causes.push(cause.to_string());
        let mut next = cause.source();
        while let Some(source) = next {
            let text = source.to_string();
            if self.causes.last().is_none_or(|last| !last.contains(&text)) {
                self.causes.push(text);
            }
            next = source.source();
        }
        self
    }

    /// Adds a reason in words.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.causes.push(reason.into());
        self
    }

    /// Names the rule that refused, and the entry of the ledger that put it in force.
    #[must_use]
    pub fn ruled(mut self, rule: impl Into<String>, entry: Option<String>) -> Self {
        self.ruling = Some(Box::new(Ruling { rule: rule.into(), entry }));
        self
    }

    /// What made it, if it is a refusal.
    pub fn ruling(&self) -> Option<&Ruling> {
        self.ruling.as_deref()
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The sentence, without causes and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The underlying reasons, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What to do, if anything is known to help.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Turns an I/O result into ours, naming what was being done, as in `.doing("read", path)`.
pub trait Doing<T> {
    /// `what` is a verb phrase, `on` the file, folder or address.
    fn doing(self, what: &str, on: impl fmt::Display) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: &str, on: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    "free some space on this disk and run the command again"
                }
                std::io::ErrorKind::ReadOnlyFilesystem => "choose a writable place with --home DIR",
                std::io::ErrorKind::PermissionDenied => "check who owns it and its permissions, or choose another place with --home DIR",
                std::io::ErrorKind::NotFound => "check the path",
                std::io::ErrorKind::AddrInUse => "choose another port, or end the program that uses this one",
                _ => "run `portdistrict doctor` to see what is missing",
            };
            Error::new(Code::Io, format!("cannot {what} {on}")).cause(error).hint(hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_distinct_names() {
        let mut names: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn causes_are_listed_once_and_outermost_first() {
        let inner = std::io::Error::other("disk on fire");
        let error = Error::new(Code::Io, "cannot save").cause(inner).hint("call the fire brigade");
        assert_eq!(error.causes(), ["disk on fire"]);
        assert_eq!(error.hint_text(), Some("call the fire brigade"));
    }
}

//! One line of a comparison: what was compared, what was found, what was wanted.

use crate::attest::eventlog::{Sha256Value, hex};
use std::fmt;

/// Digits of a digest in a sentence.
const SHORT: usize = 16;

/// What was found or wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A digest, or the value of a register.
    Digest(Sha256Value),
    /// A digest, and what the log says about it, which nothing proves.
    Said(Sha256Value, String),
    /// Words.
    Text(String),
}

impl Value {
    /// For sentences: digests are cut to their first 16 digits.
    fn short(&self) -> String {
        let cut = |digest: &Sha256Value| hex(&digest[..SHORT / 2]) + "…";
        match self {
            Value::Digest(digest) => cut(digest),
            Value::Said(digest, words) => format!("{} (the log says: {words})", cut(digest)),
            Value::Text(words) => words.clone(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Digest(digest) => f.write_str(&hex(digest)),
            Value::Said(digest, words) => write!(f, "{} (the log says: {words})", hex(digest)),
            Value::Text(words) => f.write_str(words),
        }
    }
}

/// One thing that was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The register that vouches for it.
    pub pcr: u8,
    /// What it is, in plain words, as in `the kernel`.
    pub component: String,
    /// What the machine measured; none if it measured nothing.
    pub found: Option<Value>,
    /// What the image makes it measure; none if that is nothing.
    pub wanted: Option<Value>,
    /// Whether that is right.
    pub ok: bool,
}

impl Finding {
    /// Right if both digests are there and equal.
    pub(super) fn of_digests(pcr: u8, component: impl Into<String>, found: Option<&Sha256Value>, wanted: Option<&Sha256Value>) -> Finding {
        let value = |digest: Option<&Sha256Value>| digest.copied().map(Value::Digest);
        Finding { pcr, component: component.into(), found: value(found), wanted: value(wanted), ok: found.is_some() && found == wanted }
    }

    /// Something that should not be there.
    pub(super) fn unwanted(pcr: u8, component: impl Into<String>, found: Value) -> Finding {
        Finding { pcr, component: component.into(), found: Some(found), wanted: None, ok: false }
    }

    /// In one sentence, without a full stop.
    pub fn sentence(&self) -> String {
        let component = &self.component;
        match (&self.found, &self.wanted) {
            (Some(found), Some(wanted)) => format!("{component} is {}, wanted {}", found.short(), wanted.short()),
            (None, Some(wanted)) => format!("{component} is missing, wanted {}", wanted.short()),
            (Some(found), None) => format!("{component}: {}", found.short()),
            (None, None) => component.clone(),
        }
    }
}

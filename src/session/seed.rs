//! Where a node's seed comes from, and with it the question who else can have its keys.

use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The source of a seed, by the names of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Random, in the node's state folder.
    Local,
    /// Handed over by the owner, at the claim and after each restart.
    #[default]
    Owner,
    /// Random, kept by the machine's TPM for the image that runs.
    Sealed,
    /// Derived by the processor from the measured launch.
    Measured,
}

impl Source {
    /// Every source.
    pub const ALL: [Source; 4] = [Source::Local, Source::Owner, Source::Sealed, Source::Measured];
    /// Those that a machine which boots an image can have.
    pub const OF_IMAGES: [Source; 3] = [Source::Owner, Source::Sealed, Source::Measured];

    /// The name on the command line, in the ledger and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Local => "local",
            Source::Owner => "owner",
            Source::Sealed => "sealed",
            Source::Measured => "measured",
        }
    }

    /// Who can have the seed.
    pub fn known_to(self) -> &'static str {
        match self {
            Source::Local => "whoever can read the node's state folder",
            Source::Owner => "its owner, and whoever runs a machine that its owner accepts",
            Source::Sealed => "whoever runs the TPM, and not its owner",
            Source::Measured => "this image on this processor alone, and not its owner",
        }
    }

    /// Whether the machine has it by itself, and its owner does not.
    pub fn is_of_hardware(self) -> bool {
        matches!(self, Source::Sealed | Source::Measured)
    }
}

impl FromStr for Source {
    type Err = Error;
    fn from_str(text: &str) -> Result<Source> {
        Source::ALL.into_iter().find(|source| source.as_str() == text).ok_or_else(|| {
            let names = Source::ALL.map(Source::as_str).join(", ");
            Error::new(Code::Usage, format!("{text:?} is no source of a seed: choose one of {names}")).hint("--seed owner")
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

//! What a verification comes to: a rung of one fixed ladder, whom that rung makes one trust, and why it is not a higher one.

use super::fault::{Fault, Reason};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The ladder of proof, lowest first. There is one for all providers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Nothing.
    #[default]
    Nothing,
    /// The node holds the key that it held when it was first met.
    PinnedKey,
    /// The key is held by a guest of a genuine AMD SEV-SNP processor, which runs nobody knows what.
    GenuineChip,
    /// In such a guest the provider's known firmware was started, which started nobody knows what.
    ProviderFirmware,
    /// A TPM that somebody vouches for measured this very image.
    ImageByTpm,
    /// The processor itself measured this very image.
    ImageByHardware,
}

impl Rung {
    /// Every rung, lowest first.
    pub const ALL: [Rung; 6] =
        [Rung::Nothing, Rung::PinnedKey, Rung::GenuineChip, Rung::ProviderFirmware, Rung::ImageByTpm, Rung::ImageByHardware];

    /// The name on the command line, in policies, records and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Rung::Nothing => "nothing",
            Rung::PinnedKey => "pinned-key",
            Rung::GenuineChip => "genuine-chip",
            Rung::ProviderFirmware => "provider-firmware",
            Rung::ImageByTpm => "image-by-tpm",
            Rung::ImageByHardware => "image-by-hardware",
        }
    }

    /// A few words for people.
    pub fn title(self) -> &'static str {
        match self {
            Rung::Nothing => "nothing proved",
            Rung::PinnedKey => "key pinned on first use",
            Rung::GenuineChip => "genuine AMD chip",
            Rung::ProviderFirmware => "known provider firmware",
            Rung::ImageByTpm => "image, by the machine's TPM",
            Rung::ImageByHardware => "image, by the hardware",
        }
    }

    /// Whom one must trust who relies on it.
    pub fn trust(self) -> &'static str {
        match self {
            Rung::Nothing => "everybody on the way to the node",
            Rung::PinnedKey => "whoever gave you the invite, and whoever runs the machine",
            Rung::GenuineChip => "AMD; and whoever runs the machine, for what it runs",
            Rung::ProviderFirmware => "AMD and the provider's firmware; and whoever runs the machine, for what it boots",
            Rung::ImageByTpm => "whoever vouches for the TPM (a cloud: its hypervisor; a computer: its owner), and who built the image",
            Rung::ImageByHardware => "AMD, and who built the image",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Rung {
    type Err = String;

    fn from_str(text: &str) -> Result<Rung, String> {
        Rung::ALL.into_iter().find(|rung| rung.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Rung::ALL.iter().map(|rung| rung.as_str()).collect();
            format!("{text:?} is no rung of the ladder of proof: choose one of {}", names.join(", "))
        })
    }
}

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything that the evidence says, and that was demanded, was checked and holds.
    Verified,
    /// Something is false, forbidden, or less than demanded.
    Refused,
    /// A part is missing, so nothing above a pinned key was proved; nothing speaks against the node.
    Unverified,
}

impl Outcome {
    /// The name in JSON and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Verified => "verified",
            Outcome::Refused => "refused",
            Outcome::Unverified => "unverified",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was asked, in a few words.
    pub rule: String,
    /// What the evidence shows.
    pub found: String,
    /// What would have been right.
    pub wanted: String,
    /// `None` where there was nothing to compare with.
    pub holds: Option<bool>,
}

/// What a verification came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// How far up the ladder.
    pub rung: Rung,
    /// On what it rests: `none`, `snp`, `tpm`, `snp+tpm`.
    pub kind: &'static str,
    /// Who vouches for the TPM or the chip, where somebody does.
    pub vouched_by: Option<String>,
    /// Why it is not verified; empty if it is.
    pub faults: Vec<Fault>,
    /// Every rule that was looked at, in order.
    pub findings: Vec<Finding>,
    /// What was proved of the image: the Authenticode digest of its boot program.
    pub image: Option<[u8; 32]>,
    /// The launch measurement in a genuine report.
    pub measurement: Option<[u8; 48]>,
    /// The name (TPM 2.0 part 1, 16) of the endorsement key that was shown to belong to the quote.
    pub endorsement: Option<Vec<u8>>,
    /// SHA-256 of the evidence; zero where there is none.
    pub evidence: [u8; 32],
}

impl Verdict {
    /// A node that shows nothing: its key can be pinned, and that is all.
    pub fn none(pinned: bool) -> Verdict {
        Verdict {
            outcome: Outcome::Unverified,
            rung: if pinned { Rung::PinnedKey } else { Rung::Nothing },
            kind: "none",
            vouched_by: None,
            faults: vec![Fault::new(Reason::NoEvidence, "the node shows no evidence of its hardware or its image")],
            findings: Vec::new(),
            image: None,
            measurement: None,
            endorsement: None,
            evidence: [0; 32],
        }
    }

    /// The same, refused if it proves less than `demand`.
    #[must_use]
    pub fn demanding(mut self, demand: Rung) -> Verdict {
        if self.rung < demand {
            self.faults.push(Fault::new(
                Reason::ProofTooWeak,
                format!("proved is {:?} ({}), demanded is {:?} ({demand})", self.rung.title(), self.rung, demand.title()),
            ));
            self.outcome = Outcome::Refused;
            (self.image, self.measurement, self.endorsement) = (None, None, None);
        }
        self
    }

    /// The reason that matters most: the first that refuses, else the first gap.
    pub fn reason(&self) -> Option<Reason> {
        let worst = self.faults.iter().find(|fault| !fault.reason.is_gap() && fault.reason != Reason::ProofTooWeak);
        worst.or(self.faults.first()).map(|fault| fault.reason)
    }

    /// One line of proof, as in `image, by the machine's TPM (verified)`.
    pub fn line(&self) -> String {
        match (self.kind, self.outcome) {
            ("none", Outcome::Unverified) => format!("none, {}", self.rung.title()),
            (_, Outcome::Verified) => format!("{} (verified)", self.rung.title()),
            (_, outcome) => {
                let reason = self.reason().map_or("", Reason::as_str);
                format!("{outcome}: {reason}; {}", self.rung.title())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_fixed() {
        assert!(Rung::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for rung in Rung::ALL {
            assert_eq!(rung.as_str().parse::<Rung>().unwrap(), rung);
            assert_eq!(serde_json::to_value(rung).unwrap(), rung.as_str());
            assert!(!rung.trust().is_empty());
        }
        assert!("gold".parse::<Rung>().unwrap_err().contains("pinned-key"));
    }

    #[test]
    fn without_evidence_the_key_is_all_there_is() {
        let verdict = Verdict::none(true);
        assert_eq!(verdict.line(), "none, key pinned on first use");
        assert_eq!((verdict.outcome, verdict.rung), (Outcome::Unverified, Rung::PinnedKey));
        let refused = verdict.demanding(Rung::ImageByTpm);
        assert_eq!((refused.outcome, refused.rung), (Outcome::Refused, Rung::PinnedKey));
        assert_eq!(refused.reason(), Some(Reason::NoEvidence));
        assert!(refused.faults[1].sentence.contains("image-by-tpm"));
    }
}

//! Why evidence was not believed: a stable code for programs, a sentence for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Stable, documented reasons. A new way to fail gets a new name; a name never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Evidence was wanted, and there is none.
    NoEvidence,
    /// It cannot be read: cut short, too long, of a version nobody knows, or against its own rules.
    Malformed,
    /// It was made by a product that this program has no roots or layouts for.
    UnsupportedProduct,
    /// A signature does not belong to what it should have signed.
    SignatureInvalid,
    /// The certificates do not lead to a root that is trusted.
    ChainInvalid,
    /// A certificate that is needed was neither sent nor given.
    CertificateMissing,
    /// The certificate is for another chip, product or firmware than the report names.
    CertificateMismatch,
    /// A certificate is not valid at this time.
    CertificateExpired,
    /// A certificate was taken back by its maker.
    Revoked,
    /// The list of revoked certificates cannot be used: foreign, forged or too old.
    RevocationListInvalid,
    /// The firmware's security version is below what is demanded.
    TcbTooOld,
    /// The host may read the memory of this machine.
    DebugEnabled,
    /// A migration agent may take its memory elsewhere.
    MigrationAllowed,
    /// The report was asked for at a privilege level that is not allowed.
    VmplNotAllowed,
    /// Two threads of a processor core are shared, which is not allowed.
    SmtEnabled,
    /// The platform lacks a protection that is demanded, or has one that is forbidden.
    PlatformNotAllowed,
    /// What was launched is not among what is allowed.
    MeasurementMismatch,
    /// The identity or author key of the launch is not allowed.
    LaunchKeyMismatch,
    /// It was made for another key, another program or another question.
    BindingMismatch,
    /// The TPM's key was not shown to live in the TPM whose endorsement key was certified.
    EndorsementMissing,
    /// The TPM could not open the challenge to its endorsement key: the quote is another one's.
    EndorsementInvalid,
    /// The attestation key has properties that let it sign what no TPM measured.
    KeyNotRestricted,
    /// The event log does not lead to the registers that the TPM signed.
    EventLogMismatch,
    /// The registers are not those of the image.
    ImageMismatch,
    /// The TPM signed other registers than those that are needed.
    RegistersMissing,
    /// Nobody said which image is the right one.
    ImageNotNamed,
    /// It is older than allowed, or from before the machine was last started.
    Stale,
    /// It was not signed by anybody, as in records of old versions.
    UnsignedLegacy,
    /// This program lacks what it takes to judge.
    VerifierUnavailable,
    /// The node's key is another one than the one that was pinned.
    KeyChanged,
    /// What was proved is less than what was demanded.
    ProofTooWeak,
}

impl Reason {
    /// Every reason, for documentation and tests.
    pub const ALL: [Reason; 31] = [
        Reason::NoEvidence,
        Reason::Malformed,
        Reason::UnsupportedProduct,
        Reason::SignatureInvalid,
        Reason::ChainInvalid,
        Reason::CertificateMissing,
        Reason::CertificateMismatch,
        Reason::CertificateExpired,
        Reason::Revoked,
        Reason::RevocationListInvalid,
        Reason::TcbTooOld,
        Reason::DebugEnabled,
        Reason::MigrationAllowed,
        Reason::VmplNotAllowed,
        Reason::SmtEnabled,
        Reason::PlatformNotAllowed,
        Reason::MeasurementMismatch,
        Reason::LaunchKeyMismatch,
        Reason::BindingMismatch,
        Reason::EndorsementMissing,
        Reason::EndorsementInvalid,
        Reason::KeyNotRestricted,
        Reason::EventLogMismatch,
        Reason::ImageMismatch,
        Reason::RegistersMissing,
        Reason::ImageNotNamed,
        Reason::Stale,
        Reason::UnsignedLegacy,
        Reason::VerifierUnavailable,
        Reason::KeyChanged,
        Reason::ProofTooWeak,
    ];

    /// The name in JSON, in records and in `--explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NoEvidence => "no_evidence",
            Reason::Malformed => "malformed",
            Reason::UnsupportedProduct => "unsupported_product",
            Reason::SignatureInvalid => "signature_invalid",
            Reason::ChainInvalid => "chain_invalid",
            Reason::CertificateMissing => "certificate_missing",
            Reason::CertificateMismatch => "certificate_mismatch",
            Reason::CertificateExpired => "certificate_expired",
            Reason::Revoked => "revoked",
            Reason::RevocationListInvalid => "revocation_list_invalid",
            Reason::TcbTooOld => "tcb_too_old",
            Reason::DebugEnabled => "debug_enabled",
            Reason::MigrationAllowed => "migration_allowed",
            Reason::VmplNotAllowed => "vmpl_not_allowed",
            Reason::SmtEnabled => "smt_enabled",
            Reason::PlatformNotAllowed => "platform_not_allowed",
            Reason::MeasurementMismatch => "measurement_mismatch",
            Reason::LaunchKeyMismatch => "launch_key_mismatch",
            Reason::BindingMismatch => "binding_mismatch",
            Reason::EndorsementMissing => "endorsement_missing",
            Reason::EndorsementInvalid => "endorsement_invalid",
            Reason::KeyNotRestricted => "key_not_restricted",
            Reason::EventLogMismatch => "event_log_mismatch",
            Reason::ImageMismatch => "image_mismatch",
            Reason::RegistersMissing => "registers_missing",
            Reason::ImageNotNamed => "image_not_named",
            Reason::Stale => "stale",
            Reason::UnsignedLegacy => "unsigned_legacy",
            Reason::VerifierUnavailable => "verifier_unavailable",
            Reason::KeyChanged => "key_changed",
            Reason::ProofTooWeak => "proof_too_weak",
        }
    }

    /// Whether a part is missing, and nothing speaks against the node: it proves less, but it did not lie.
    pub fn is_gap(self) -> bool {
        matches!(
            self,
            Reason::NoEvidence
                | Reason::CertificateMissing
                | Reason::UnsupportedProduct
                | Reason::EndorsementMissing
                | Reason::ImageNotNamed
                | Reason::UnsignedLegacy
                | Reason::VerifierUnavailable
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The stable reason.
    pub reason: Reason,
    /// One sentence without a full stop, which names the value found and the value wanted.
    pub sentence: String,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(reason: Reason, sentence: impl Into<String>) -> Fault {
        Fault { reason, sentence: sentence.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.sentence, self.reason)
    }
}

impl std::error::Error for Fault {}

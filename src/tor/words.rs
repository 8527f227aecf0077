//! What Arti reports, in words that a person can act on. Arti's own text never leaves through here.

use super::Places;
use crate::error::{Code, Error};
use arti_client::status::BlockageKind;
use arti_client::{ErrorKind, HasKind};

/// What to do when the network itself cannot be reached.
const BRIDGES: &str = "if Tor is blocked where you are, use bridges: get some at https://bridges.torproject.org, then put them under [tor] \
                       in config.toml: bridges = [\"192.0.2.3:443 FINGERPRINT\"]";

/// What is said when no directory has the descriptor.
pub const NOT_PUBLISHED: &str = "the exit's onion service is not published";

/// Why the way into the network is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// No connection at all.
    Offline,
    /// Connections come about, but nothing passes.
    Filtered,
    /// Relays do not answer as they should.
    NoAnswer,
    /// This clock is too far off.
    Clock,
    /// Relays answer, but have no list that can be used.
    NoDirectory,
}

impl From<BlockageKind> for Blocked {
    fn from(kind: BlockageKind) -> Self {
        match kind {
            BlockageKind::Offline => Blocked::Offline,
            BlockageKind::Filtering => Blocked::Filtered,
            BlockageKind::ClockSkewed => Blocked::Clock,
            BlockageKind::CantBootstrap => Blocked::NoDirectory,
            _ => Blocked::NoAnswer,
        }
    }
}

impl Blocked {
    /// In a few words.
    pub fn as_str(self) -> &'static str {
        match self {
            Blocked::Offline => "no relay can be reached",
            Blocked::Filtered => "connections to relays are made, but nothing passes",
            Blocked::NoAnswer => "relays do not answer",
            Blocked::Clock => "this computer's clock is wrong",
            Blocked::NoDirectory => "no relay hands out a list that can be used",
        }
    }

    /// As an error, with the way out.
    pub fn to_error(self) -> Error {
        let error = Error::new(Code::Unreachable, format!("the Tor network cannot be reached: {}", self.as_str()));
        match self {
            Blocked::Offline => error.because("this computer is offline, or the network it is in blocks Tor").hint(BRIDGES),
            Blocked::Filtered | Blocked::NoAnswer => error.because("the network this computer is in seems to block Tor").hint(BRIDGES),
            Blocked::Clock => error.hint("set the clock right: timedatectl set-ntp true"),
            Blocked::NoDirectory => error.hint("check the clock of this computer, then try again; if it stays so, use bridges"),
        }
    }
}

/// An error of Arti for a person.
pub(super) fn explain(error: &arti_client::Error, places: &Places) -> Error {
    tracing::debug!(%error, "arti");
    explain_kind(error.kind(), places)
}

/// The same when only its kind is known; nothing else of an error is looked at.
pub(super) fn explain_kind(kind: ErrorKind, places: &Places) -> Error {
    use ErrorKind as K;
    let unreachable = |text: &str| Error::new(Code::Unreachable, text);
    match kind {
        K::OnionServiceNotFound => unreachable(NOT_PUBLISHED)
            .because("its machine is off, was started less than a minute ago, or has another address now")
            .hint("try again in a minute; its owner should look: portdistrict machine list"),
        K::OnionServiceNotRunning => unreachable("the exit's onion service does not answer any more")
            .because("its machine was stopped or lost its network")
            .hint("try again in a minute; its owner should look: portdistrict machine list"),
        K::OnionServiceMissingClientAuth | K::OnionServiceWrongClientAuth => {
            Error::new(Code::Refused, "the exit's onion service is open only to keys that it knows, and yours is not among them")
                .because("discovery-key-unknown")
                .hint("ask its owner for a new invite")
        }
        K::OnionServiceAddressInvalid => {
            Error::new(Code::BadBlob, "the onion address in this invite is not one").hint("ask for a new invite")
        }
        K::OnionServiceConnectionFailed
        | K::OnionServiceProtocolViolation
        | K::TorNetworkTimeout
        | K::CircuitCollapse
        | K::CircuitRefused
        | K::RelayTooBusy
        | K::TransientFailure
        | K::RemoteNetworkTimeout
        | K::TorProtocolViolation
        | K::RelayIdMismatch
        | K::NoPath => unreachable("no way through the Tor network to the exit came about")
            .hint("it is tried again over other relays; if it stays so, its owner should look: portdistrict machine list"),
        K::RemoteStreamClosed | K::RemoteStreamReset | K::RemoteStreamError | K::RemoteConnectionRefused => {
            unreachable("the exit's onion service ended the stream").hint("try again in a moment")
        }
        K::TorAccessFailed | K::LocalNetworkError | K::BootstrapRequired => Blocked::NoAnswer.to_error(),
        K::TorDirectoryError | K::TorDirectoryUnusable | K::TorDocumentRejected => Blocked::NoDirectory.to_error(),
        K::DirectoryExpired | K::ClockSkew => Blocked::Clock.to_error(),
        K::InvalidConfig | K::InvalidConfigTransition | K::FeatureDisabled => {
            Error::new(Code::Precondition, "Tor does not accept its settings")
                .hint("look at [tor] in config.toml, and at the file of --tor-config")
        }
        K::LocalResourceAlreadyInUse => {
            Error::new(Code::Precondition, format!("another process uses the Tor state in {}", places.state.display()))
                .hint("end the other one, or use another --home")
        }
        K::FsPermissions
        | K::PersistentStateAccessFailed
        | K::CacheAccessFailed
        | K::KeystoreAccessFailed
        | K::LocalResourceExhausted
        | K::NoHomeDirectory => {
            Error::new(Code::Io, format!("Tor cannot use its folders {} and {}", places.state.display(), places.cache.display()))
                .because("they cannot be written, or the disk is full")
                .hint(format!("df -h {}", places.state.display()))
        }
        K::PersistentStateCorrupted | K::CacheCorrupted | K::KeystoreCorrupted => {
            Error::new(Code::Io, format!("the Tor state in {} is damaged", places.state.display()))
                .hint(format!("move it away, it is made anew: mv {0} {0}.old", places.state.display()))
        }
        K::SoftwareDeprecated => {
            Error::new(Code::Precondition, "the Tor network no longer accepts this version").hint("upgrade portdistrict")
        }
        _ => {
            Error::new(Code::Failed, "Tor failed inside this program").because(format!("{kind:?}")).hint("try again; with -vv it says more")
        }
    }
}

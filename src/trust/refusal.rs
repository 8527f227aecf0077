//! The reasons for which a node says no: one stable code each, and the sentence that a friend reads.
//!
//! The node's log and the friend's screen name the same code, so the two can talk about it (PD-EX7).

use crate::encoding::cbor::CborError;
use crate::error::{Code, Error};
use std::fmt;
use std::str::FromStr;

/// Why a node refused a session. `docs/protocol.md`, "Refusals", lists the same codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The key, or the issuer of the grant, is nobody this node trusts.
    UnknownKey,
    /// The grant's time is over.
    GrantExpired,
    /// The grant's time has not begun.
    GrantNotYetValid,
    /// The grant is not what its issuer signed.
    GrantSignature,
    /// The owner took the grant back.
    GrantRevoked,
    /// Another device has accepted the invite.
    GrantBoundElsewhere,
    /// The grant must be renewed by the owner from time to time, and was not.
    LeaseExpired,
    /// The grant does not hold at this hour, or is paused.
    OutsideHours,
    /// The grant is for another node.
    WrongNode,
    /// The grant does not hold by the way by which the friend came.
    WrongTransport,
    /// The bytes or streams that the grant allows are used up.
    LimitReached,
    /// The node has no owner yet.
    NotClaimed,
    /// The node has no room at the moment.
    Busy,
    /// The grant needs something that this node, or this client, is too old for.
    UpgradeRequired,
    /// The owner has switched the exit off, or the way by which the friend came.
    SwitchedOff,
}

/// A code that this version does not know; it comes from a newer node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node refused with a code that this version does not know: {0}")]
pub struct UnknownRefusal(String);

impl Refusal {
    /// Every refusal, for documentation and tests.
    pub const ALL: [Refusal; 15] = [
        Refusal::UnknownKey,
        Refusal::GrantExpired,
        Refusal::GrantNotYetValid,
        Refusal::GrantSignature,
        Refusal::GrantRevoked,
        Refusal::GrantBoundElsewhere,
        Refusal::LeaseExpired,
        Refusal::OutsideHours,
        Refusal::WrongNode,
        Refusal::WrongTransport,
        Refusal::LimitReached,
        Refusal::NotClaimed,
        Refusal::Busy,
        Refusal::UpgradeRequired,
        Refusal::SwitchedOff,
    ];

    /// The code on the wire, in logs and in `--json`; never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::UnknownKey => "unknown-key",
            Refusal::GrantExpired => "grant-expired",
            Refusal::GrantNotYetValid => "grant-not-yet-valid",
            Refusal::GrantSignature => "grant-signature",
            Refusal::GrantRevoked => "grant-revoked",
            Refusal::GrantBoundElsewhere => "grant-bound-elsewhere",
            Refusal::LeaseExpired => "lease-expired",
            Refusal::OutsideHours => "outside-hours",
            Refusal::WrongNode => "wrong-node",
            Refusal::WrongTransport => "wrong-transport",
            Refusal::LimitReached => "limit-reached",
            Refusal::NotClaimed => "not-claimed",
            Refusal::Busy => "busy",
            Refusal::UpgradeRequired => "upgrade-required",
            Refusal::SwitchedOff => "switched-off",
        }
    }

    /// The answer to a grant that could not even be read: newer than this node, or not what anybody signed.
    pub fn of_unreadable_grant(error: &CborError) -> Refusal {
        match error {
            CborError::Unknown(_) => Refusal::UpgradeRequired,
            CborError::TooLong(_) | CborError::Malformed | CborError::NotCanonical | CborError::Field(_) => Refusal::GrantSignature,
        }
    }

    /// Whether the same request may succeed later without anybody doing anything; `exit connect` retries only then.
    pub fn is_passing(self) -> bool {
        match self {
            Refusal::Busy | Refusal::GrantNotYetValid | Refusal::OutsideHours | Refusal::NotClaimed => true,
            Refusal::UnknownKey
            | Refusal::GrantExpired
            | Refusal::GrantSignature
            | Refusal::GrantRevoked
            | Refusal::GrantBoundElsewhere
            | Refusal::LeaseExpired
            | Refusal::WrongNode
            | Refusal::WrongTransport
            | Refusal::LimitReached
            | Refusal::UpgradeRequired
            | Refusal::SwitchedOff => false,
        }
    }

    /// One sentence for the friend; `exit` is the name under which the friend knows the exit.
    pub fn for_friend(self, exit: &str) -> String {
        match self {
            Refusal::UnknownKey => format!("{exit} does not know this key or whoever issued the invite"),
            Refusal::GrantExpired => format!("the invite for {exit} has expired"),
            Refusal::GrantNotYetValid => format!("the invite for {exit} is not valid yet"),
            Refusal::GrantSignature => format!("{exit} did not accept the signature on this invite"),
            Refusal::GrantRevoked => format!("the owner of {exit} has taken this invite back"),
            Refusal::GrantBoundElsewhere => format!("the invite for {exit} was already accepted on another device"),
            Refusal::LeaseExpired => format!("the owner of {exit} has not renewed your access in time"),
            Refusal::OutsideHours => format!("{exit} is not open to you at this hour"),
            Refusal::WrongNode => format!("this invite is for another node than {exit}"),
            Refusal::WrongTransport => format!("the invite for {exit} is not for the way by which you came"),
            Refusal::LimitReached => format!("you have used up what the invite for {exit} allows"),
            Refusal::NotClaimed => format!("{exit} has not been set up by its owner yet"),
            Refusal::Busy => format!("{exit} is busy at the moment"),
            Refusal::UpgradeRequired => format!("this version of portdistrict and the one on {exit} do not understand the invite alike"),
            Refusal::SwitchedOff => format!("the owner has switched {exit} off"),
        }
    }

    /// What the friend can do about it; a command where one helps.
    pub fn remedy(self) -> &'static str {
        match self {
            Refusal::UnknownKey => "ask the owner for a new invite; the exit may have been set up anew since this one was made",
            Refusal::GrantExpired => "ask the owner for a new invite; if yours should still be valid, check the clock of this computer",
            Refusal::GrantNotYetValid => "wait until it begins; if it should be valid now, check the clocks of both computers",
            Refusal::GrantSignature => "copy the invite again, whole; if that does not help, ask the owner for a new one",
            Refusal::GrantRevoked => "ask the owner; only a new invite helps",
            Refusal::GrantBoundElsewhere => {
                "use it on the device that accepted it; if that was not yours, tell the owner, who sees this attempt, and ask for a new invite"
            }
            Refusal::LeaseExpired => "ask the owner to renew it, or for a new invite",
            Refusal::OutsideHours => "try again later, or ask the owner for other hours",
            Refusal::WrongNode => "ask the owner for an invite to this exit",
            Refusal::WrongTransport => "ask the owner for an invite that names both ways: directly and over Tor",
            Refusal::LimitReached => {
                "ask the owner for more, or close connections that you no longer need; what is allowed for a day begins anew at midnight UTC"
            }
            Refusal::NotClaimed => "ask the owner to run `portdistrict machine claim`, then try again",
            Refusal::Busy => "try again in a minute",
            Refusal::UpgradeRequired => "upgrade portdistrict on this computer, and ask the owner to do the same",
            Refusal::SwitchedOff => "ask the owner when it will be on again; the invite stays good",
        }
    }

    /// The refusal as the error that a command ends with.
    pub fn to_error(self, exit: &str) -> Error {
        Error::new(Code::Refused, self.for_friend(exit))
            .because(format!("the node answered {self}"))
            .ruled(self.as_str(), None)
            .hint(self.remedy())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Refusal {
    type Err = UnknownRefusal;

    fn from_str(text: &str) -> Result<Self, UnknownRefusal> {
        // The text is a peer's: a long or odd one is not carried into messages.
        let shown = || text.chars().filter(char::is_ascii_graphic).take(40).collect();
        Refusal::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| UnknownRefusal(shown()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_reads_back_as_itself() {
        for refusal in Refusal::ALL {
            assert_eq!(refusal.as_str().parse(), Ok(refusal));
        }
    }

    #[test]
    fn each_refusal_has_its_own_sentence_and_a_remedy() {
        let mut sentences: Vec<_> = Refusal::ALL.iter().map(|r| r.for_friend("anna-exit")).collect();
        sentences.sort_unstable();
        sentences.dedup();
        assert_eq!(sentences.len(), Refusal::ALL.len());
        for refusal in Refusal::ALL {
            let error = refusal.to_error("anna-exit");
            assert_eq!(error.code(), Code::Refused);
            assert!(error.message().contains("anna-exit") && error.hint_text().is_some_and(|h| !h.is_empty()));
            assert_eq!(error.causes(), [format!("the node answered {}", refusal.as_str())]);
        }
    }

    #[test]
    fn the_document_names_each_code() {
        let document = include_str!("../../docs/protocol.md");
        let (_, section) = document.split_once("\n## Refusals\n").unwrap();
        for refusal in Refusal::ALL {
            assert!(section.contains(&format!("`{refusal}`")), "{refusal}");
        }
    }

    #[test]
    fn an_unreadable_grant_is_newer_or_false() {
        assert_eq!(Refusal::of_unreadable_grant(&CborError::Unknown(11)), Refusal::UpgradeRequired);
        assert_eq!(Refusal::of_unreadable_grant(&CborError::NotCanonical), Refusal::GrantSignature);
    }

    #[test]
    fn an_unknown_code_is_cut_and_cleaned() {
        let error = "\u{1b}[2Jpay-first".parse::<Refusal>().unwrap_err();
        assert_eq!(error, UnknownRefusal("[2Jpay-first".into()));
        assert_eq!("x".repeat(5000).parse::<Refusal>().unwrap_err().0.len(), 40);
    }
}

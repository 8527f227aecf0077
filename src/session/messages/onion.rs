//! How a node's onion service is; part of its status, and of what it says on its control socket.

use super::Message;
use crate::encoding::cbor::{CborError, Map};
use crate::encoding::onion::OnionAddress;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MAX_REASON: usize = 300;

/// How far an onion service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnionState {
    /// The node is on its way into the Tor network.
    Joining = 1,
    /// It looks for introduction points and hands out its descriptor.
    Publishing = 2,
    /// A connection through the network reached it, and nothing is missing.
    Ready = 3,
    /// It can be reached, but something is missing.
    Degraded = 4,
    /// It was ready, or should be, and cannot be reached.
    Unreachable = 5,
}

impl OnionState {
    /// Every state.
    pub const ALL: [OnionState; 5] =
        [OnionState::Joining, OnionState::Publishing, OnionState::Ready, OnionState::Degraded, OnionState::Unreachable];

    /// The name in text and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            OnionState::Joining => "joining",
            OnionState::Publishing => "publishing",
            OnionState::Ready => "ready",
            OnionState::Degraded => "degraded",
            OnionState::Unreachable => "unreachable",
        }
    }

    /// Whether friends get through.
    pub fn is_reachable(self) -> bool {
        matches!(self, OnionState::Ready | OnionState::Degraded)
    }
}

/// What a node knows of its onion service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnionStatus {
    /// Where everybody who has the address finds it.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub address: OnionAddress,
    /// Where only those find it whose discovery key it knows.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub restricted: OnionAddress,
    /// How far it is.
    pub state: OnionState,
    /// How far it has come into the network, from 0 to 100.
    pub percent: u64,
    /// What is missing, or waited for.
    pub reason: Option<String>,
    /// Directories that shall have its descriptor.
    pub directories: u64,
    /// Directories that have it as it is now.
    pub directories_reached: u64,
    /// Unix seconds at which a directory took it last.
    pub uploaded_at: Option<u64>,
    /// Introduction points that hold.
    pub introduction_points: u64,
    /// Circuits of clients open now.
    pub circuits: u64,
    /// Sessions that came over Tor and are open now.
    pub clients: u64,
    /// Unix seconds at which a connection through the network last reached it.
    pub tested_at: Option<u64>,
    /// Keys that may discover the restricted service.
    pub discovery_keys: u64,
}

impl OnionStatus {
    /// How far a service is that nobody reaches yet, in a few words.
    pub fn stage(&self) -> String {
        let reason = self.reason.clone().unwrap_or_default();
        match self.state {
            OnionState::Joining => format!("{} %: {reason}", self.percent),
            _ => reason,
        }
    }

    /// One of which nothing is known yet.
    pub fn new(address: OnionAddress, restricted: OnionAddress) -> Self {
        OnionStatus {
            address,
            restricted,
            state: OnionState::Joining,
            percent: 0,
            reason: None,
            directories: 0,
            directories_reached: 0,
            uploaded_at: None,
            introduction_points: 0,
            circuits: 0,
            clients: 0,
            tested_at: None,
            discovery_keys: 0,
        }
    }
}

impl Message for OnionStatus {
    const LIMIT: usize = 1024;
    fn to_map(&self) -> Map {
        Map::new()
            .with(0, *self.address.key())
            .with(1, *self.restricted.key())
            .with(2, self.state as u64)
            .with(3, self.percent)
            .with_some(4, self.reason.as_deref().map(|text| &text[..text.floor_char_boundary(MAX_REASON)]))
            .with(5, self.directories)
            .with(6, self.directories_reached)
            .with_some(7, self.uploaded_at)
            .with(8, self.introduction_points)
            .with(9, self.circuits)
            .with(10, self.clients)
            .with_some(11, self.tested_at)
            .with(12, self.discovery_keys)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let state = |number| OnionState::ALL.into_iter().find(|state| *state as u64 == number).ok_or(CborError::Field(2));
        Ok(OnionStatus {
            address: OnionAddress::from_key(map.array(0)?),
            restricted: OnionAddress::from_key(map.array(1)?),
            state: state(map.uint(2)?)?,
            percent: map.uint(3)?,
            reason: map.opt_text(4, MAX_REASON)?,
            directories: map.uint(5)?,
            directories_reached: map.uint(6)?,
            uploaded_at: map.opt_uint(7)?,
            introduction_points: map.uint(8)?,
            circuits: map.uint(9)?,
            clients: map.uint(10)?,
            tested_at: map.opt_uint(11)?,
            discovery_keys: map.uint(12)?,
        })
    }
}

fn as_text<S: Serializer>(address: &OnionAddress, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OnionAddress, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

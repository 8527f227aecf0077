//! What a node counted on each of the last days: sums, never a destination, a name or an address.

use super::control::maps;
use super::{MAX_REPLY, Message};
use crate::encoding::cbor::{CborError, Map};

/// Most days in one reply: today and the thirty before.
pub const HISTORY_DAYS: usize = 31;
/// Most grants counted apart on one day; what more of them use is counted together.
pub const MAX_DAY_GRANTS: usize = 1024;
/// Most reasons of refusals on one day.
pub const MAX_DAY_REASONS: usize = 64;
const MAX_REASON: usize = 32;

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Bytes from guests to destinations.
    pub up: u64,
    /// Bytes from destinations to guests.
    pub down: u64,
    /// Sessions that began.
    pub sessions: u64,
}

impl Used {
    /// Both together; sums end at the largest number there is.
    pub fn add(&mut self, more: Used) {
        self.up = self.up.saturating_add(more.up);
        self.down = self.down.saturating_add(more.down);
        self.sessions = self.sessions.saturating_add(more.sessions);
    }

    /// Bytes in both directions together.
    pub fn bytes(&self) -> u64 {
        self.up.saturating_add(self.down)
    }

    fn to_map(self) -> Map {
        Map::new().with(1, self.up).with(2, self.down).with(3, self.sessions)
    }

    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Used { up: map.uint(1)?, down: map.uint(2)?, sessions: map.uint(3)? })
    }
}

/// Result of the history request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryReply {
    /// Days on which something happened, oldest first.
    pub days: Vec<HistoryDay>,
}

impl Message for HistoryReply {
    const LIMIT: usize = MAX_REPLY;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.days.iter().map(Message::to_map).collect::<Vec<_>>())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let days: Vec<HistoryDay> = maps(map, 0, HISTORY_DAYS)?;
        ascending(&days, |day| day.day, 0)?;
        Ok(HistoryReply { days })
    }
}

/// One day's sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryDay {
    /// Days since 1970-01-01, UTC.
    pub day: u64,
    /// Handshakes of guests that the node answered, with a yes or a no.
    pub handshakes: u64,
    /// How often it said no, to sessions and to streams, by reason; in the order of the reasons.
    pub refusals: Vec<(String, u64)>,
    /// What each grant used, in the order of their ids.
    pub grants: Vec<GrantDay>,
    /// What grants used that were too many to be counted apart.
    pub others: Used,
}

impl Message for HistoryDay {
    const LIMIT: usize = MAX_REPLY;
    fn to_map(&self) -> Map {
        let reason = |(reason, count): &(String, u64)| Reason(reason.clone(), *count).to_map();
        Map::new()
            .with(0, self.day)
            .with(1, self.handshakes)
            .with(2, self.refusals.iter().map(reason).collect::<Vec<_>>())
            .with(3, self.grants.iter().map(Message::to_map).collect::<Vec<_>>())
            .with(4, self.others.to_map())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let mut others = map.opt_map(4)?.ok_or(CborError::Field(4))?;
        let refusals: Vec<Reason> = maps(map, 2, MAX_DAY_REASONS)?;
        let day = HistoryDay {
            day: map.uint(0)?,
            handshakes: map.uint(1)?,
            refusals: refusals.into_iter().map(|Reason(reason, count)| (reason, count)).collect(),
            grants: maps(map, 3, MAX_DAY_GRANTS)?,
            others: Used::from_map(&mut others)?,
        };
        others.finish()?;
        ascending(&day.refusals, |(reason, _)| reason.clone(), 2)?;
        ascending(&day.grants, |grant| grant.id, 3)?;
        Ok(day)
    }
}

/// What one grant used on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantDay {
    /// The grant's id.
    pub id: [u8; 8],
    /// How much.
    pub used: Used,
}

impl Message for GrantDay {
    const LIMIT: usize = 64;
    fn to_map(&self) -> Map {
        self.used.to_map().with(0, self.id)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(GrantDay { id: map.array(0)?, used: Used::from_map(map)? })
    }
}

struct Reason(String, u64);

impl Message for Reason {
    const LIMIT: usize = 64;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.0.as_str()).with(1, self.1)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Reason(map.text(0, MAX_REASON)?, map.uint(1)?))
    }
}

/// Refuses a list in which something stands twice or in another order: there is one spelling of a history.
fn ascending<T, K: Ord>(list: &[T], key: impl Fn(&T) -> K, field: u64) -> Result<(), CborError> {
    if list.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])) { Ok(()) } else { Err(CborError::Field(field)) }
}

//! What the owner has switched off on a node, as it is asked for and as it is answered.

use super::Message;
use crate::encoding::cbor::{CborError, Map};

/// One thing that can be switched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// The clock of the owner's word: Unix milliseconds, then a counter; zeroes as long as nothing was said. A node takes no older word
    /// than the one it has, so that two devices of one owner do not undo each other's.
    pub edition: (u64, u64),
    /// Whether it is off.
    pub off: bool,
}

impl Switch {
    /// The later one of two words.
    #[must_use]
    pub fn or_later(self, other: Switch) -> Switch {
        if other.edition > self.edition { other } else { self }
    }
}

impl Message for Switch {
    const LIMIT: usize = 24;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.edition.0).with(1, self.edition.1).with_some(2, self.off.then_some(true))
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Switch { edition: (map.uint(0)?, map.uint(1)?), off: map.flag(2)? })
    }
}

/// Everything that can be switched. A machine begins with nothing off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// It takes guests.
    pub exit: Switch,
    /// It is an onion service.
    pub tor: Switch,
}

impl Switches {
    /// Of each the later word.
    #[must_use]
    pub fn or_later(self, other: Switches) -> Switches {
        Switches { exit: self.exit.or_later(other.exit), tor: self.tor.or_later(other.tor) }
    }
}

impl Message for Switches {
    const LIMIT: usize = 64;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.exit.to_map()).with(1, self.tor.to_map())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Switches { exit: nested(map, 0)?, tor: nested(map, 1)? })
    }
}

/// Result of switching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switched {
    /// What holds now.
    pub now: Switches,
    /// Sessions that were closed by it.
    pub closed: u64,
}

impl Message for Switched {
    const LIMIT: usize = 80;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.now.to_map()).with(1, self.closed)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Switched { now: nested(map, 0)?, closed: map.uint(1)? })
    }
}

/// A message within another one, with all of its fields and no others.
pub(super) fn nested<T: Message>(map: &mut Map, key: u64) -> Result<T, CborError> {
    let mut inner = map.opt_map(key)?.ok_or(CborError::Field(key))?;
    let read = T::from_map(&mut inner)?;
    inner.finish()?;
    Ok(read)
}

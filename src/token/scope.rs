//! What narrows a grant beside its amounts: places, hours, ways, devices. A grant and a caveat write it with the same keys.

use super::grant::{Limits, Mode};
use super::window::Window;
use crate::encoding::cbor::{CborError, Map, Value};

/// Most destination rules in one list of a grant.
pub const MAX_RULES: usize = 16;
/// Longest destination rule in bytes.
pub const MAX_RULE: usize = 128;
/// Most devices that a grant of mode `many` may be bound to.
pub const MAX_DEVICES: u32 = 64;

/// Keys that grants and caveats share.
pub(super) mod key {
    pub(in crate::token) const BYTES: u64 = 6;
    pub(in crate::token) const BITS_PER_SECOND: u64 = 7;
    pub(in crate::token) const STREAMS: u64 = 8;
    pub(in crate::token) const ALLOW: u64 = 9;
    pub(in crate::token) const MODE: u64 = 11;
    pub(in crate::token) const DEVICES: u64 = 13;
    pub(in crate::token) const WINDOW: u64 = 14;
    pub(in crate::token) const PAUSED: u64 = 15;
    pub(in crate::token) const BYTES_PER_DAY: u64 = 20;
    pub(in crate::token) const WAY: u64 = 21;
    pub(in crate::token) const DENY: u64 = 22;
}

/// By which way a guest comes to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// TCP.
    Direct,
    /// The onion service.
    Tor,
}

impl Way {
    /// The name in commands, logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Tor => "tor",
        }
    }

    /// The number on the wire and in the node's memory.
    pub fn number(self) -> u64 {
        match self {
            Way::Direct => 1,
            Way::Tor => 2,
        }
    }

    /// Reads the number.
    pub fn from_number(number: u64) -> Option<Way> {
        [Way::Direct, Way::Tor].into_iter().find(|way| way.number() == number)
    }
}

/// Where, when, by which way and for how many devices; the default narrows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Destinations to which it is narrowed; empty means nothing narrower. At most [`MAX_RULES`] of [`MAX_RULE`] bytes.
    pub allow: Vec<String>,
    /// Destinations that are taken out again, whatever `allow` says; the same bounds.
    pub deny: Vec<String>,
    /// The hours of the week in which it holds; absent means always.
    pub window: Option<Window>,
    /// The one way by which guests may come; absent means any.
    pub way: Option<Way>,
    /// Devices that may be bound under mode `many`, 1 to [`MAX_DEVICES`]; absent means [`MAX_DEVICES`].
    pub devices: Option<u32>,
    /// Suspended.
    pub paused: bool,
}

impl Scope {
    pub(super) fn write(&self, mut map: Map) -> Map {
        for (key, rules) in [(key::ALLOW, &self.allow), (key::DENY, &self.deny)] {
            if !rules.is_empty() {
                map.insert(key, rules.clone());
            }
        }
        map.with_some(key::WINDOW, self.window.as_ref().map(Window::to_value))
            .with_some(key::WAY, self.way.map(Way::number))
            .with_some(key::DEVICES, self.devices.map(u64::from))
            .with_some(key::PAUSED, self.paused.then_some(true))
    }

    /// Takes the fields out. That each has only one spelling is for the caller to check, by writing it again.
    pub(super) fn read(map: &mut Map) -> Result<Scope, CborError> {
        let window = map.list(key::WINDOW, Window::MAX_NUMBERS)?;
        let way = map.opt_uint(key::WAY)?.map(|number| Way::from_number(number).ok_or(CborError::Unknown(key::WAY))).transpose()?;
        let devices = map.opt_uint(key::DEVICES)?.map(u32::try_from).transpose().map_err(|_| CborError::Field(key::DEVICES))?;
        if devices.is_some_and(|devices| !(1..=MAX_DEVICES).contains(&devices)) {
            return Err(CborError::Field(key::DEVICES));
        }
        Ok(Scope {
            allow: rules(map, key::ALLOW)?,
            deny: rules(map, key::DENY)?,
            window: if window.is_empty() { None } else { Some(Window::from_values(&window).ok_or(CborError::Field(key::WINDOW))?) },
            way,
            devices,
            paused: map.flag(key::PAUSED)?,
        })
    }
}

fn rules(map: &mut Map, key: u64) -> Result<Vec<String>, CborError> {
    let rule = |value| match value {
        Value::Text(rule) if rule.len() <= MAX_RULE => Ok(rule),
        _ => Err(CborError::Field(key)),
    };
    map.list(key, MAX_RULES)?.into_iter().map(rule).collect()
}

pub(super) fn write_limits(limits: &Limits, map: Map) -> Map {
    map.with_some(key::BYTES, limits.bytes)
        .with_some(key::BYTES_PER_DAY, limits.bytes_per_day)
        .with_some(key::BITS_PER_SECOND, limits.bits_per_second)
        .with_some(key::STREAMS, limits.streams.map(u64::from))
}

pub(super) fn read_limits(map: &mut Map) -> Result<Limits, CborError> {
    let streams = map.opt_uint(key::STREAMS)?.map(u32::try_from).transpose();
    Ok(Limits {
        bytes: map.opt_uint(key::BYTES)?,
        bytes_per_day: map.opt_uint(key::BYTES_PER_DAY)?,
        bits_per_second: map.opt_uint(key::BITS_PER_SECOND)?,
        streams: streams.map_err(|_| CborError::Field(key::STREAMS))?,
    })
}

pub(super) fn read_mode(map: &mut Map) -> Result<Option<Mode>, CborError> {
    match map.opt_uint(key::MODE)? {
        None => Ok(None),
        Some(0) => Ok(Some(Mode::Try)),
        Some(1) => Ok(Some(Mode::Once)),
        Some(2) => Ok(Some(Mode::Many)),
        Some(_) => Err(CborError::Unknown(key::MODE)),
    }
}

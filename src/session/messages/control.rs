//! What the owner may ask of a node, and the answers; evidence streams use the same envelope.

use super::switches::nested;
use super::{Kind, MAX_REPLY, MAX_REQUEST, Message, OnionStatus, Switches, first_bytes};
use crate::encoding::cbor::{CborError, Map, Value};
use crate::token::{CAVEAT_LIMIT, GRANT_LIMIT, RULES_LIMIT, Way};

/// Most signed revocations in one request.
pub const MAX_REVOCATIONS: usize = 128;
/// Most grants in one status reply; those used last come first.
pub const MAX_GRANTS: usize = 4096;
/// Most keys that may discover a restricted onion service; more do not fit its descriptor.
pub const MAX_DISCOVERY_KEYS: usize = 128;
/// Most log lines in one reply.
pub const MAX_LOG_LINES: usize = 1000;
const MAX_TEXT: usize = 1024;
const MAX_RULES: usize = 256;
const MAX_RULE: usize = 64;
/// Longest signed revocation.
pub const MAX_REVOCATION: usize = 512;
const MAX_BOUND: usize = 64;
/// Most signed grants in one request.
pub const MAX_RENEWED: usize = 24;
/// Longest lease statement.
const MAX_LEASE: usize = 256;
/// Most days of which the use is told: thirty, and today.
const MAX_DAYS: usize = 31;

/// The owner's request on a control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// How the node is and who used it.
    Status,
    /// Evidence that answers this nonce; without one, the cached evidence.
    Evidence(Option<[u8; 32]>),
    /// Signed revocations, remembered for ever and in force at once.
    Revoke(Vec<Vec<u8>>),
    /// Read the allow-list, or replace it.
    Policy(Option<Vec<String>>),
    /// Take no new sessions and streams, and end with the last open stream.
    Drain,
    /// Log lines.
    Logs(LogsRequest),
    /// End the process.
    Stop,
    /// What the owner's policy says of destinations, signed.
    Rules(Vec<u8>),
    /// Let the holder of a key discover the restricted onion service.
    Discovery(Discovery),
    /// A signed lease statement: the owner was there.
    Lease(Vec<u8>),
    /// Later revisions of grants, each signed.
    Renew(Vec<Vec<u8>>),
    /// What was counted on each of the last days.
    History,
    /// What is off from now on.
    Switch(Switches),
}

/// A key that may discover the restricted onion service, as long as its grant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The grant it came with.
    pub grant: [u8; 8],
    /// X25519.
    pub key: [u8; 32],
    /// Unix seconds.
    pub expires: u64,
}

/// Which log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogsRequest {
    /// Only lines with a number above this one.
    pub after: u64,
    /// At most so many, the newest.
    pub lines: u64,
    /// Seconds to wait for a line if there is none; at most 30.
    pub wait: u64,
}

impl ControlRequest {
    /// The stream's first bytes.
    pub fn first_bytes(&self) -> Vec<u8> {
        first_bytes(Kind::Control, &self.encode())
    }
}

impl Message for ControlRequest {
    const LIMIT: usize = MAX_REQUEST;
    fn to_map(&self) -> Map {
        let op = |n: u64| Map::new().with(0, n);
        match self {
            ControlRequest::Status => op(1),
            ControlRequest::Evidence(nonce) => op(2).with_some(1, *nonce),
            ControlRequest::Revoke(list) => op(3).with(1, list.iter().cloned().map(Value::Bytes).collect::<Vec<_>>()),
            ControlRequest::Policy(rules) => op(4).with_some(1, rules.clone()),
            ControlRequest::Drain => op(5),
            ControlRequest::Logs(logs) => op(6).with(1, logs.after).with(2, logs.lines).with(3, logs.wait),
            ControlRequest::Stop => op(7),
            ControlRequest::Lease(signed) => op(9).with(1, signed.as_slice()),
            ControlRequest::Rules(signed) => op(11).with(1, signed.as_slice()),
            ControlRequest::Renew(list) => op(10).with(1, list.iter().cloned().map(Value::Bytes).collect::<Vec<_>>()),
            ControlRequest::Discovery(d) => op(8).with(1, d.grant).with(2, d.key).with(3, d.expires),
            ControlRequest::History => op(12),
            ControlRequest::Switch(switches) => op(13).with(1, switches.to_map()),
        }
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(match map.uint(0)? {
            1 => ControlRequest::Status,
            2 => ControlRequest::Evidence(map.opt_array(1)?),
            3 => ControlRequest::Revoke(byte_strings(map, 1, MAX_REVOCATIONS, MAX_REVOCATION)?),
            4 if map.keys().any(|key| key == 1) => ControlRequest::Policy(Some(texts(map, 1, MAX_RULES, MAX_RULE)?)),
            4 => ControlRequest::Policy(None),
            5 => ControlRequest::Drain,
            6 => ControlRequest::Logs(LogsRequest { after: map.uint(1)?, lines: map.uint(2)?, wait: map.uint(3)? }),
            7 => ControlRequest::Stop,
            8 => ControlRequest::Discovery(Discovery { grant: map.array(1)?, key: map.array(2)?, expires: map.uint(3)? }),
            9 => ControlRequest::Lease(map.bytes(1, MAX_LEASE)?),
            11 => ControlRequest::Rules(map.bytes(1, RULES_LIMIT)?),
            10 => ControlRequest::Renew(byte_strings(map, 1, MAX_RENEWED, GRANT_LIMIT)?),
            12 => ControlRequest::History,
            13 => ControlRequest::Switch(nested(map, 1)?),
            _ => return Err(CborError::Field(0)),
        })
    }
}

/// The answer on a control or evidence stream: `{0: result}` or `{1: code, 2: text}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    /// It was done.
    Done(T),
    /// It was not: a stable code and a sentence.
    Failed {
        /// One of the codes of [`crate::error::Code`], or a refusal of the session.
        code: String,
        /// What a person reads.
        text: String,
    },
}

impl<T: Message> Message for Reply<T> {
    const LIMIT: usize = MAX_REPLY;
    fn to_map(&self) -> Map {
        match self {
            Reply::Done(result) => Map::new().with(0, result.to_map()),
            Reply::Failed { code, text } => Map::new().with(1, code.as_str()).with(2, text.as_str()),
        }
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let Some(mut inner) = map.opt_map(0)? else {
            return Ok(Reply::Failed { code: map.text(1, 64)?, text: map.text(2, MAX_TEXT)? });
        };
        let result = T::from_map(&mut inner)?;
        inner.finish()?;
        Ok(Reply::Done(result))
    }
}

/// Result of drain and stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nothing;

impl Message for Nothing {
    const LIMIT: usize = 1;
    fn to_map(&self) -> Map {
        Map::new()
    }
    fn from_map(_: &mut Map) -> Result<Self, CborError> {
        Ok(Nothing)
    }
}

/// Result of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Revocations now in force, new and known ones.
    pub accepted: u64,
    /// Sessions that were closed by it.
    pub closed: u64,
}

impl Message for Revoked {
    const LIMIT: usize = 32;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.accepted).with(1, self.closed)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Revoked { accepted: map.uint(0)?, closed: map.uint(1)? })
    }
}

/// Result of the renewal of grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Revisions that the node did not know.
    pub news: u64,
    /// Sessions that were closed, to come back under other terms.
    pub closed: u64,
}

impl Message for Renewed {
    const LIMIT: usize = 32;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.news).with(1, self.closed)
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Renewed { news: map.uint(0)?, closed: map.uint(1)? })
    }
}

/// What the holder of a grant asks on a stream of his own session. The answer is a [`Reply`] of [`Revoked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderRequest {
    /// The caveat, in its canonical bytes, with which he made what he takes back.
    pub revoke: Vec<u8>,
}

impl HolderRequest {
    /// The stream's first bytes.
    pub fn first_bytes(&self) -> Vec<u8> {
        first_bytes(Kind::Holder, &self.encode())
    }
}

impl Message for HolderRequest {
    const LIMIT: usize = CAVEAT_LIMIT + 8;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.revoke.as_slice())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(HolderRequest { revoke: map.bytes(0, CAVEAT_LIMIT)? })
    }
}

/// Result of the policy request: the allow-list now in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReply {
    /// Rules, one text each.
    pub allow: Vec<String>,
}

impl Message for PolicyReply {
    const LIMIT: usize = MAX_REQUEST;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.allow.clone())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(PolicyReply { allow: texts(map, 0, MAX_RULES, MAX_RULE)? })
    }
}

/// Result of the logs request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogsReply {
    /// Number of the last line here; `after` of the next request.
    pub last: u64,
    /// JSON lines, oldest first.
    pub lines: Vec<String>,
}

impl Message for LogsReply {
    const LIMIT: usize = MAX_REPLY;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.last).with(1, self.lines.clone())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(LogsReply { last: map.uint(0)?, lines: texts(map, 1, MAX_LOG_LINES, 4 * MAX_TEXT)? })
    }
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Version of the running program.
    pub version: String,
    /// Label given at deploy.
    pub label: String,
    /// The node's Noise key.
    pub node: [u8; 32],
    /// The owner's identity key.
    pub owner: Option<[u8; 32]>,
    /// Where the node's seed comes from.
    pub seed_source: String,
    /// Unix seconds at which the process was ready.
    pub started: u64,
    /// Unix seconds on the node's clock, so that a wrong one is seen.
    pub now: u64,
    /// Sessions open now.
    pub sessions: u64,
    /// Exit streams open now.
    pub streams: u64,
    /// Takes no new sessions.
    pub draining: bool,
    /// The allow-list in force.
    pub allow: Vec<String>,
    /// Grants that were used, revoked or misused; used last first.
    pub grants: Vec<GrantStatus>,
    /// Its onion service, if it has one.
    pub onion: Option<OnionStatus>,
    /// When by its clock it last heard from its owner, Unix seconds: the newest lease statement.
    pub heard: u64,
    /// The owner has switched it off: it takes no guests.
    pub exit_off: bool,
    /// The owner has switched its onion service off.
    pub tor_off: bool,
}

impl Message for Status {
    const LIMIT: usize = MAX_REPLY;
    fn to_map(&self) -> Map {
        Map::new()
            .with(0, self.version.as_str())
            .with(1, self.label.as_str())
            .with(2, self.node)
            .with_some(3, self.owner)
            .with(4, self.seed_source.as_str())
            .with(5, self.started)
            .with(6, self.now)
            .with(7, self.sessions)
            .with(8, self.streams)
            .with(9, self.draining)
            .with(10, self.allow.clone())
            .with(11, self.grants.iter().map(Message::to_map).collect::<Vec<_>>())
            .with_some(12, self.onion.as_ref().map(Message::to_map))
            .with(13, self.heard)
            .with_some(14, self.exit_off.then_some(true))
            .with_some(15, self.tor_off.then_some(true))
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(Status {
            version: map.text(0, 64)?,
            label: map.text(1, 64)?,
            node: map.array(2)?,
            owner: map.opt_array(3)?,
            seed_source: map.text(4, 16)?,
            started: map.uint(5)?,
            now: map.uint(6)?,
            sessions: map.uint(7)?,
            streams: map.uint(8)?,
            draining: map.flag(9)?,
            allow: texts(map, 10, MAX_RULES, MAX_RULE)?,
            grants: maps(map, 11, MAX_GRANTS)?,
            onion: opt_message(map, 12)?,
            heard: map.uint(13)?,
            exit_off: map.flag(14)?,
            tor_off: map.flag(15)?,
        })
    }
}

/// What a node knows about one grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantStatus {
    /// The grant's id.
    pub id: [u8; 8],
    /// Device keys it is bound to, the first one first.
    pub bound: Vec<[u8; 32]>,
    /// Bytes from the guest to destinations.
    pub up: u64,
    /// Bytes from destinations to the guest.
    pub down: u64,
    /// Unix seconds of the last use.
    pub last_used: Option<u64>,
    /// How often somebody else tried it after it was bound.
    pub reuse: u64,
    /// Unix seconds of the last such try.
    pub last_reuse: Option<u64>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Sessions open now.
    pub sessions: u64,
    /// By which way the last use came.
    pub last_way: Option<Way>,
    /// Day since 1970 (UTC) and bytes both ways, the oldest day first; at most 31.
    pub days: Vec<(u64, u64)>,
    /// The grant of which a holder made this one.
    pub parent: Option<[u8; 8]>,
    /// Whom it is for, as that holder calls him.
    pub name: Option<String>,
}

impl Message for GrantStatus {
    const LIMIT: usize = 4096;
    fn to_map(&self) -> Map {
        Map::new()
            .with(0, self.id)
            .with(1, self.bound.iter().map(|key| Value::from(*key)).collect::<Vec<_>>())
            .with(2, self.up)
            .with(3, self.down)
            .with_some(4, self.last_used)
            .with(5, self.reuse)
            .with_some(6, self.last_reuse)
            .with(7, self.revoked)
            .with(8, self.sessions)
            .with_some(9, self.last_way.map(Way::number))
            .with_some(10, (!self.days.is_empty()).then(|| self.days.iter().flat_map(|(day, bytes)| [*day, *bytes]).collect::<Vec<u64>>()))
            .with_some(11, self.parent)
            .with_some(12, self.name.as_deref())
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        Ok(GrantStatus {
            id: map.array(0)?,
            bound: byte_strings(map, 1, MAX_BOUND, 32)?
                .into_iter()
                .map(|key| key.try_into().map_err(|_| CborError::Field(1)))
                .collect::<Result<_, _>>()?,
            up: map.uint(2)?,
            down: map.uint(3)?,
            last_used: map.opt_uint(4)?,
            reuse: map.uint(5)?,
            last_reuse: map.opt_uint(6)?,
            revoked: map.flag(7)?,
            sessions: map.uint(8)?,
            last_way: map.opt_uint(9)?.map(|n| Way::from_number(n).ok_or(CborError::Unknown(9))).transpose()?,
            days: days(map, 10)?,
            parent: map.opt_array(11)?,
            name: map.opt_text(12, 32)?,
        })
    }
}

/// Pairs of day and bytes in one row.
fn days(map: &mut Map, key: u64) -> Result<Vec<(u64, u64)>, CborError> {
    let number = |value: &Value| match value {
        Value::Uint(n) => Ok(*n),
        _ => Err(CborError::Field(key)),
    };
    let given = map.keys().any(|known| known == key);
    let numbers = map.list(key, 2 * MAX_DAYS)?.iter().map(number).collect::<Result<Vec<u64>, _>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    // Present and empty would be a second spelling.
    if !rest.is_empty() || (given && pairs.is_empty()) {
        return Err(CborError::Field(key));
    }
    Ok(pairs.iter().map(|[day, bytes]| (*day, *bytes)).collect())
}

fn texts(map: &mut Map, key: u64, count: usize, length: usize) -> Result<Vec<String>, CborError> {
    let text = |value| match value {
        Value::Text(text) if text.len() <= length => Ok(text),
        _ => Err(CborError::Field(key)),
    };
    map.list(key, count)?.into_iter().map(text).collect()
}

pub(super) fn byte_strings(map: &mut Map, key: u64, count: usize, length: usize) -> Result<Vec<Vec<u8>>, CborError> {
    let bytes = |value| match value {
        Value::Bytes(bytes) if bytes.len() <= length => Ok(bytes),
        _ => Err(CborError::Field(key)),
    };
    map.list(key, count)?.into_iter().map(bytes).collect()
}

pub(super) fn maps<T: Message>(map: &mut Map, key: u64, count: usize) -> Result<Vec<T>, CborError> {
    let one = |value| match value {
        Value::Map(mut inner) => {
            let message = T::from_map(&mut inner)?;
            inner.finish()?;
            Ok(message)
        }
        _ => Err(CborError::Field(key)),
    };
    map.list(key, count)?.into_iter().map(one).collect()
}

fn opt_message<T: Message>(map: &mut Map, key: u64) -> Result<Option<T>, CborError> {
    let Some(mut inner) = map.opt_map(key)? else { return Ok(None) };
    let message = T::from_map(&mut inner)?;
    inner.finish()?;
    Ok(Some(message))
}

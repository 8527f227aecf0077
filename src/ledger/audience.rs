//! Who may see a span. Every read for somebody and every export asks here, and nowhere else.

use super::kinds::{self, Body};
use super::span::Span;
use crate::config::Label;
use crate::error::{Code, Error, Result};
use rusqlite::Connection;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// The member of a body that says who may see the span; without it, all devices of the owner.
pub(super) const MEMBER: &str = "for";
/// What every audience may see, because no chain can be checked without it. It holds public keys and signatures alone.
const OPEN: [&str; 3] = [kinds::IdentityCreated::KIND, kinds::IdentityRotated::KIND, kinds::DeviceRevoked::KIND];
/// The most peers and groups that one span is shared with.
const MAX_SHARED: usize = 64;
/// Letters of a node id.
const ID_LENGTH: usize = 32;

/// For whom something is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The operator at this device: everything that is here.
    ThisDevice,
    /// Every device of the owner.
    Devices,
    /// Somebody else, by id: only what was shared with that peer or with a group it is in.
    Peer(String),
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Audience::ThisDevice => f.write_str("device"),
            Audience::Devices => f.write_str("devices"),
            Audience::Peer(id) => write!(f, "peer:{id}"),
        }
    }
}

impl FromStr for Audience {
    type Err = Error;

    fn from_str(text: &str) -> Result<Audience> {
        match (text, text.strip_prefix("peer:")) {
            ("device", _) => Ok(Audience::ThisDevice),
            ("devices", _) => Ok(Audience::Devices),
            (_, Some(id)) if is_id(id) => Ok(Audience::Peer(id.to_owned())),
            _ => Err(Error::new(Code::Usage, format!("{:?} is no audience", text.chars().take(60).collect::<String>()))
                .hint("one of: device, devices, peer:ID with the 32 letters of the peer's id")),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
}

/// Who may see one span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// All devices of the owner.
    #[default]
    Devices,
    /// The device that wrote it.
    Device,
    /// All devices of the owner, and these: `peer:ID` and `group:NAME`.
    Shared(Vec<String>),
}

impl Visibility {
    /// What a body says; `None` if it says something that this version does not understand.
    pub fn of(body: &serde_json::Map<String, Value>) -> Option<Visibility> {
        match body.get(MEMBER) {
            None => Some(Visibility::Devices),
            Some(Value::String(text)) if text == "device" => Some(Visibility::Device),
            Some(Value::Array(list)) => {
                let names: Option<Vec<String>> =
                    list.iter().map(|name| name.as_str().filter(|n| is_shared_with(n)).map(str::to_owned)).collect();
                names.filter(|names| (1..=MAX_SHARED).contains(&names.len()) && names.is_sorted_by(|a, b| a < b)).map(Visibility::Shared)
            }
            Some(_) => None,
        }
    }

    /// The value of the member `for`; none for what all devices see.
    pub fn member(&self) -> Option<Value> {
        match self {
            Visibility::Devices => None,
            Visibility::Device => Some("device".into()),
            Visibility::Shared(names) => Some(names.clone().into()),
        }
    }

    /// From the words of a command line: `device`, `devices`, or any number of `peer:ID` and `group:NAME`.
    pub fn parse(words: &[String]) -> Result<Visibility> {
        let mut names = words.to_vec();
        names.sort();
        names.dedup();
        match names.as_slice() {
            [] => Ok(Visibility::Devices),
            [one] if one == "devices" => Ok(Visibility::Devices),
            [one] if one == "device" => Ok(Visibility::Device),
            _ => match names.iter().find(|name| !is_shared_with(name)) {
                None if names.len() <= MAX_SHARED => Ok(Visibility::Shared(names)),
                bad => Err(Error::new(Code::Usage, format!("nothing can be shared with {:?}", bad.map_or("so many", String::as_str)))
                    .hint("give device, devices, or up to 64 of peer:ID and group:NAME")),
            },
        }
    }
}

fn is_shared_with(name: &str) -> bool {
    name.strip_prefix("peer:").is_some_and(is_id) || name.strip_prefix("group:").is_some_and(|name| name.parse::<Label>().is_ok())
}

/// Whether a span stays on the device that wrote it; one whose `for` cannot be understood does.
pub(super) fn is_private(span: &Span) -> bool {
    !OPEN.contains(&span.kind.as_str()) && Visibility::of(&span.body).is_none_or(|seen| seen == Visibility::Device)
}

/// An audience that knows which groups it is in: what decides about each span.
#[derive(Clone, Debug)]
pub(super) struct Eyes {
    audience: Audience,
    /// `peer:ID` and `group:NAME` of a peer.
    names: Vec<String>,
}

impl Eyes {
    /// The groups are those of now: who left one sees its spans no more.
    pub(super) fn of(audience: &Audience, conn: &Connection) -> rusqlite::Result<Eyes> {
        let mut names = Vec::new();
        if let Audience::Peer(id) = audience {
            names.push(audience.to_string());
            let mut groups = conn.prepare_cached("SELECT 'group:' || name FROM groups WHERE member = ?1")?;
            names.extend(groups.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?);
        }
        Ok(Eyes { audience: audience.clone(), names })
    }

    /// Whether this audience may see a span. One whose `for` cannot be understood is for nobody but this device.
    pub(super) fn see(&self, span: &Span) -> bool {
        match (&self.audience, Visibility::of(&span.body)) {
            (Audience::ThisDevice, _) => true,
            _ if OPEN.contains(&span.kind.as_str()) => true,
            (Audience::Devices, Some(Visibility::Devices | Visibility::Shared(_))) => true,
            (Audience::Peer(_), Some(Visibility::Shared(with))) => with.iter().any(|name| self.names.contains(name)),
            _ => false,
        }
    }
}

//! The invite: address, node key, grant and secret in one line, everything that a friend needs.
//!
//! What can be worked out is left out of the line: the grant in it lacks the subject key, which follows from the secret,
//! and the node key, which stands beside it. The reader puts both back and so has the very bytes that were signed.

use super::blob::{self, BlobError, Type};
use super::chain::{Chain, read_caveats};
use super::grant::{SignedGrant, key};
use super::secret::Secret16;
use crate::config::Label;
use crate::encoding::cbor::{CborError, Map, Value};
use crate::encoding::onion::OnionAddress;
use crate::error::{Code, Error, Result};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The longest line of an invite for the direct transport.
pub const DIRECT_BLOB_LIMIT: usize = 450;
/// The longest line of an invite that names an onion address.
pub const TOR_BLOB_LIMIT: usize = 480;
/// The longest line of an invite that a holder passed on, by whatever way.
pub const DELEGATED_BLOB_LIMIT: usize = 600;

const MAX_ADDRESSES: usize = 4;
const DIRECT: u64 = 1;
const TOR: u64 = 2;
const DIRECT_AND_TOR: u64 = 3;

/// Keys of the invite's map.
mod field {
    pub(super) const TRANSPORT: u64 = 0;
    pub(super) const ADDRESSES: u64 = 1;
    pub(super) const NODE: u64 = 2;
    pub(super) const GRANT: u64 = 3;
    pub(super) const SIGNATURE: u64 = 4;
    pub(super) const SECRET: u64 = 5;
    pub(super) const NAME: u64 = 6;
    pub(super) const ONION: u64 = 7;
    pub(super) const RESTRICTED: u64 = 8;
    pub(super) const CAVEATS: u64 = 9;
}

/// How the node is reached: by TCP, over Tor, or by TCP with Tor to fall back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// At most four of `host:port` (IPv6 in brackets), best first; none without the direct transport.
    pub addresses: Vec<String>,
    /// Its onion service; none without Tor.
    pub onion: Option<Onion>,
}

/// A node's onion service, as an invite names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onion {
    /// Where it is.
    pub address: OnionAddress,
    /// Whether it is found only with the discovery key that follows from the invite's secret.
    pub restricted: bool,
}

impl Transport {
    /// By TCP alone.
    pub fn direct(addresses: Vec<String>) -> Transport {
        Transport { addresses, onion: None }
    }

    /// The name on the command line and in the ledger.
    pub fn as_str(&self) -> &'static str {
        match (self.addresses.is_empty(), self.onion.is_some()) {
            (_, false) => "direct",
            (true, true) => "tor",
            (false, true) => "direct,tor",
        }
    }

    fn number(&self) -> u64 {
        match (self.addresses.is_empty(), self.onion.is_some()) {
            (_, false) => DIRECT,
            (true, true) => TOR,
            (false, true) => DIRECT_AND_TOR,
        }
    }
}

/// What the friend is given.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// How to reach the node.
    pub transport: Transport,
    /// The node's Noise key.
    pub node: [u8; 32],
    /// What the owner allows, and what holders in between took away.
    pub grant: Chain,
    /// From which the key follows that the friend must prove; absent if the grant names a key that he has already.
    pub secret: Option<Secret16>,
    /// How the owner calls the exit; a proposal.
    pub name: Option<Label>,
}

/// Without the secret.
impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("transport", &self.transport)
            .field("grant", &self.grant)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Invite {
    /// The line for a chat. Fails if it would be longer than [`DIRECT_BLOB_LIMIT`] (with Tor [`TOR_BLOB_LIMIT`], passed on
    /// [`DELEGATED_BLOB_LIMIT`]), or if the parts do not belong together.
    pub fn to_blob(&self) -> Result<String> {
        let line = blob::encode(Type::Invite, &self.content()?);
        let limit = match (self.grant.caveats().is_empty(), self.transport.onion.is_some()) {
            (false, _) => DELEGATED_BLOB_LIMIT,
            (true, true) => TOR_BLOB_LIMIT,
            (true, false) => DIRECT_BLOB_LIMIT,
        };
        if line.len() > limit {
            return Err(Error::new(Code::Usage, format!("the invite would have {} characters, more than {limit}", line.len()))
                .hint("give fewer addresses, a shorter host name, or fewer rules"));
        }
        Ok(line)
    }

    /// The same for a QR code.
    pub fn to_qr(&self) -> Result<String> {
        Ok(blob::encode_for_qr(Type::Invite, &self.content()?))
    }

    /// Reads a line, however a chat program bent it, and checks the owner's signature in it.
    pub fn from_blob(text: &str) -> Result<Invite, BlobError> {
        Self::from_content(&blob::read(Type::Invite, text)?)
    }

    fn content(&self) -> Result<Vec<u8>> {
        let Transport { addresses, onion } = &self.transport;
        let list = addresses.iter().map(|address| address_to_value(address)).collect::<Result<Vec<_>>>()?;
        if (list.is_empty() && onion.is_none()) || list.len() > MAX_ADDRESSES {
            return Err(Error::new(Code::Usage, format!("an invite holds 1 to {MAX_ADDRESSES} addresses, not {}", list.len()))
                .hint("name the addresses that a friend can reach"));
        }
        let restricted = onion.is_some_and(|onion| onion.restricted);
        if restricted && self.secret.is_none() {
            return Err(
                Error::new(Code::Usage, "an invite without a secret cannot find a restricted onion service").hint("leave out --restricted")
            );
        }
        let map = Map::new()
            .with(field::TRANSPORT, self.transport.number())
            .with_some(field::ADDRESSES, (!list.is_empty()).then_some(list))
            .with_some(field::ONION, onion.map(|onion| *onion.address.key()))
            .with_some(field::RESTRICTED, restricted.then_some(true))
            .with(field::NODE, self.node)
            .with(field::GRANT, self.short_grant()?)
            .with(field::SIGNATURE, *self.grant.root().signature())
            .with_some(field::CAVEATS, (!self.grant.caveats().is_empty()).then(|| self.caveats()))
            .with_some(field::SECRET, self.secret.as_ref().map(|s| *s.as_bytes()))
            .with_some(field::NAME, self.name.as_ref().map(Label::as_str));
        Ok(map.encode())
    }

    fn from_content(bytes: &[u8]) -> Result<Invite, BlobError> {
        let mut map = Map::decode(bytes, blob::MAX_CONTENT)?;
        // First of all: the other fields of an unknown transport are unknown too.
        let transport = match map.uint(field::TRANSPORT)? {
            DIRECT => Transport::direct(addresses(&mut map)?),
            TOR => Transport { addresses: Vec::new(), onion: Some(onion(&mut map)?) },
            DIRECT_AND_TOR => Transport { addresses: addresses(&mut map)?, onion: Some(onion(&mut map)?) },
            other => return Err(BlobError::UnknownTransport(other)),
        };
        let node = map.array(field::NODE)?;
        let secret = map.opt_array(field::SECRET)?.map(Secret16::from_bytes);
        let caveats = if map.keys().any(|key| key == field::CAVEATS) { read_caveats(&mut map, field::CAVEATS)? } else { Vec::new() };
        if secret.is_none() && !caveats.is_empty() {
            return Err(CborError::Field(field::SECRET).into());
        }
        // Of a grant that was passed on the secret is another than the owner's.
        let subject_from = secret.as_ref().filter(|_| caveats.is_empty());
        let short = map.opt_map(field::GRANT)?.ok_or(CborError::Field(field::GRANT))?;
        let grant = SignedGrant::from_parts(whole_grant(short, node, subject_from)?, map.array(field::SIGNATURE)?)?;
        let name = map.opt_text(field::NAME, 32)?.map(|n| n.parse()).transpose().map_err(|_| CborError::Field(field::NAME))?;
        map.finish()?;
        if !grant.verify_signature() {
            return Err(BlobError::Signature);
        }
        if transport.onion.is_some_and(|onion| onion.restricted) && secret.is_none() {
            return Err(CborError::Field(field::RESTRICTED).into());
        }
        Ok(Invite { transport, node, grant: Chain::from_parts(grant, caveats), secret, name })
    }

    fn caveats(&self) -> Vec<Value> {
        self.grant.caveats().iter().map(|(bytes, _)| Value::Bytes(bytes.clone())).collect()
    }

    fn short_grant(&self) -> Result<Map> {
        let mixed = |what: &str| Error::new(Code::Failed, format!("the grant in this invite is for another {what} than the invite"));
        let grant = self.grant.root().grant();
        let mut map = Map::decode(self.grant.root().payload(), super::GRANT_LIMIT).map_err(|e| mixed("form").cause(e))?;
        match grant.node {
            // A grant for any node has no node key; the mark keeps the reader from putting one in.
            None => map.insert(key::NODE, Value::Null),
            Some(node) if node == self.node => drop(map.remove(key::NODE)),
            Some(_) => return Err(mixed("node")),
        }
        match self.secret.as_ref().filter(|_| self.grant.caveats().is_empty()) {
            Some(secret) if secret.subject() == grant.subject => drop(map.remove(key::SUBJECT)),
            Some(_) => return Err(mixed("key")),
            None => {}
        }
        Ok(map)
    }
}

/// The payload as it was signed.
fn whole_grant(mut map: Map, node: [u8; 32], secret: Option<&Secret16>) -> Result<Vec<u8>, CborError> {
    match map.remove(key::NODE) {
        None => map.insert(key::NODE, node),
        Some(Value::Null) => {}
        Some(_) => return Err(CborError::Field(key::NODE)),
    }
    if let Some(secret) = secret {
        if map.remove(key::SUBJECT).is_some() {
            return Err(CborError::Field(key::SUBJECT));
        }
        map.insert(key::SUBJECT, secret.subject());
    }
    Ok(map.encode())
}

fn onion(map: &mut Map) -> Result<Onion, CborError> {
    let address = OnionAddress::from_key(map.array(field::ONION)?);
    // Only the one spelling: absent, or true.
    let restricted = map.keys().any(|key| key == field::RESTRICTED);
    if restricted && !map.flag(field::RESTRICTED)? {
        return Err(CborError::Field(field::RESTRICTED));
    }
    Ok(Onion { address, restricted })
}

fn addresses(map: &mut Map) -> Result<Vec<String>, CborError> {
    let list = map.list(field::ADDRESSES, MAX_ADDRESSES)?;
    if list.is_empty() {
        return Err(CborError::Field(field::ADDRESSES));
    }
    list.into_iter().map(|value| value_to_address(value).ok_or(CborError::Field(field::ADDRESSES))).collect()
}

/// Numbers take 6 or 18 bytes; a name is text, in small letters.
fn address_to_value(address: &str) -> Result<Value> {
    let bad = || {
        Error::new(Code::Usage, format!("{address:?} is not an address that a friend can use"))
            .hint("write HOST:PORT, for example exit.example.org:8443, 192.0.2.7:8443 or [2001:db8::7]:8443")
    };
    if let Ok(socket) = address.parse::<SocketAddr>() {
        let scoped = matches!(socket, SocketAddr::V6(v6) if v6.scope_id() != 0);
        return if scoped || socket.port() == 0 { Err(bad()) } else { Ok(socket_to_bytes(socket).into()) };
    }
    let name = address.to_ascii_lowercase();
    if is_name_and_port(&name) { Ok(name.into()) } else { Err(bad()) }
}

fn socket_to_bytes(socket: SocketAddr) -> Vec<u8> {
    let mut bytes = match socket.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend(socket.port().to_be_bytes());
    bytes
}

fn value_to_address(value: Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => {
            let (ip, port) = bytes.split_last_chunk::<2>()?;
            let ip = match ip.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
                _ => return None,
            };
            let port = u16::from_be_bytes(*port);
            (port != 0).then(|| SocketAddr::new(ip, port).to_string())
        }
        // A number written as text would be a second spelling.
        Value::Text(name) => (is_name_and_port(&name) && name.parse::<SocketAddr>().is_err()).then_some(name),
        _ => None,
    }
}

fn is_name_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && l.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    let canonical = port.parse::<u16>().is_ok_and(|n| n != 0 && n.to_string() == port);
    canonical && host.len() <= 253 && host.split('.').all(label)
}

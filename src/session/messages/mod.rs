//! What travels inside the encrypted channel: claim messages, the first bytes of a stream, and what the owner may ask.
//!
//! Everything is a deterministic CBOR map with a stated size; `docs/protocol.md` lists the fields. Types here only carry
//! values: who may say what is decided by `trust` and by the node.

mod claim;
mod control;
mod evidence;
mod history;
mod onion;
mod switches;

pub use claim::{CLAIM_TYPE, Challenge, Claim, ClaimRefusal, ClaimReply, MAX_ROTATIONS, Offer, Turn, claim_payload};
pub use control::{
    ControlRequest, Discovery, GrantStatus, HolderRequest, LogsReply, LogsRequest, MAX_DISCOVERY_KEYS, MAX_GRANTS, MAX_LOG_LINES,
    MAX_RENEWED, MAX_REVOCATION, MAX_REVOCATIONS, Nothing, PolicyReply, Renewed, Reply, Revoked, Status,
};
pub use evidence::{Activated, Activation, EvidenceReply, EvidenceRequest};
pub use history::{GrantDay, HISTORY_DAYS, HistoryDay, HistoryReply, MAX_DAY_GRANTS, MAX_DAY_REASONS, Used};
pub use onion::{OnionState, OnionStatus};
pub use switches::{Switch, Switched, Switches};

use crate::encoding::cbor::{CborError, Map};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest message of the bootstrap; evidence with its certificates is the largest part.
pub const MAX_BOOTSTRAP: usize = 48 * 1024;
/// Largest request at the start of a stream.
pub const MAX_REQUEST: usize = 60 * 1024;
/// Largest reply on a control or evidence stream.
pub const MAX_REPLY: usize = 2 * 1024 * 1024;
/// Longest host name in an exit request (RFC 1928 has one length byte).
pub const MAX_HOST: usize = 255;
/// Most bytes that an echo stream returns.
pub const MAX_ECHO: usize = 64 * 1024;

/// Largest evidence: a report, its certificates, a quote and an event log.
pub const MAX_EVIDENCE: usize = 46 * 1024;

/// A message with its canonical bytes.
pub trait Message: Sized {
    /// Largest accepted encoding.
    const LIMIT: usize;
    /// The fields.
    fn to_map(&self) -> Map;
    /// Takes the fields out; whatever is left over is refused by [`Message::decode`].
    fn from_map(map: &mut Map) -> Result<Self, CborError>;

    /// The canonical bytes.
    fn encode(&self) -> Vec<u8> {
        self.to_map().encode()
    }

    /// Reads canonical bytes and refuses unknown fields.
    fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let mut map = Map::decode(bytes, Self::LIMIT)?;
        let message = Self::from_map(&mut map)?;
        map.finish()?;
        Ok(message)
    }
}

/// What a stream is for; its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes to and from a destination.
    Exit = 1,
    /// The owner's requests.
    Control = 2,
    /// The node's evidence.
    Evidence = 3,
    /// Bytes come back, for health checks.
    Echo = 4,
    /// What the holder of a grant takes back that he had passed on.
    Holder = 5,
}

impl Kind {
    /// Reads the first byte.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Exit, Kind::Control, Kind::Evidence, Kind::Echo, Kind::Holder].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The first bytes of a stream: kind, u16 length, request. Data may follow in the same flight.
pub fn first_bytes(kind: Kind, request: &[u8]) -> Vec<u8> {
    debug_assert!(request.len() <= MAX_REQUEST);
    let mut out = Vec::with_capacity(3 + request.len());
    out.push(kind as u8);
    out.extend_from_slice(&u16::try_from(request.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(request);
    out
}

/// First bytes of an echo stream, or of one that asks for the evidence: the request has no fields.
pub fn first_bytes_empty(kind: Kind) -> Vec<u8> {
    first_bytes(kind, &Map::new().encode())
}

/// Reads what [`first_bytes`] wrote; the request is still encoded.
pub async fn read_first(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 3];
    stream.read_exact(&mut head).await?;
    let kind = Kind::from_byte(head[0]).ok_or_else(|| invalid("unknown kind of stream"))?;
    let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
    let limit = match kind {
        Kind::Exit => ExitRequest::LIMIT,
        Kind::Control => MAX_REQUEST,
        Kind::Evidence => EvidenceRequest::LIMIT,
        Kind::Echo => 1,
        Kind::Holder => HolderRequest::LIMIT,
    };
    if length > limit {
        return Err(invalid("request too long"));
    }
    let mut request = vec![0; length];
    stream.read_exact(&mut request).await?;
    Ok((kind, request))
}

/// Writes a reply with its u32 length in front.
pub async fn write_reply(stream: &mut (impl AsyncWrite + Unpin), reply: &[u8]) -> io::Result<()> {
    let length = u32::try_from(reply.len()).map_err(|_| invalid("reply too long"))?;
    let mut out = Vec::with_capacity(4 + reply.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(reply);
    stream.write_all(&out).await?;
    stream.flush().await
}

/// Reads a reply of at most [`MAX_REPLY`] bytes.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    if length as usize > MAX_REPLY {
        return Err(invalid("reply too long"));
    }
    // Grows with what really arrives: the length is only the other side's word.
    let mut reply = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut reply).await?;
    if reply.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(reply)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Where an exit stream wants to go. Names are resolved by the node.
#[derive(Clone, PartialEq, Eq)]
pub struct ExitRequest {
    /// Address or name; no brackets around IPv6.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl ExitRequest {
    /// The stream's first bytes.
    pub fn first_bytes(&self) -> Vec<u8> {
        first_bytes(Kind::Exit, &self.encode())
    }
}

impl Message for ExitRequest {
    const LIMIT: usize = MAX_HOST + 16;
    fn to_map(&self) -> Map {
        Map::new().with(0, self.host.as_str()).with(1, u64::from(self.port))
    }
    fn from_map(map: &mut Map) -> Result<Self, CborError> {
        let host = map.text(0, MAX_HOST)?;
        let port = u16::try_from(map.uint(1)?).map_err(|_| CborError::Field(1))?;
        if host.is_empty() { Err(CborError::Field(0)) } else { Ok(ExitRequest { host, port }) }
    }
}

/// The one byte that answers an exit request: RFC 1928 §6, and two of the codes it leaves unassigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReply {
    /// Open; bytes follow.
    Open = 0x00,
    /// Something else went wrong on the node.
    Failed = 0x01,
    /// The node's owner does not let guests go there.
    NotAllowed = 0x02,
    /// No route.
    NetworkUnreachable = 0x03,
    /// Unknown name, or no answer in time.
    HostUnreachable = 0x04,
    /// Nobody listens there.
    ConnectionRefused = 0x05,
    /// The grant's bytes are used up, or it has as many streams as it may.
    LimitReached = 0xf0,
    /// The node is stopping or full.
    Busy = 0xf1,
}

impl ExitReply {
    const ALL: [ExitReply; 8] = [
        ExitReply::Open,
        ExitReply::Failed,
        ExitReply::NotAllowed,
        ExitReply::NetworkUnreachable,
        ExitReply::HostUnreachable,
        ExitReply::ConnectionRefused,
        ExitReply::LimitReached,
        ExitReply::Busy,
    ];

    /// Reads the byte; unknown ones mean that it failed.
    pub fn from_byte(byte: u8) -> ExitReply {
        Self::ALL.into_iter().find(|reply| *reply as u8 == byte).unwrap_or(ExitReply::Failed)
    }

    /// The byte for a SOCKS5 client, which knows only RFC 1928.
    pub fn socks(self) -> u8 {
        match self {
            ExitReply::LimitReached => ExitReply::NotAllowed as u8,
            ExitReply::Busy => ExitReply::Failed as u8,
            other => other as u8,
        }
    }

    /// The reason in a few words, for logs and for the friend.
    pub fn meaning(self) -> &'static str {
        match self {
            ExitReply::Open => "open",
            ExitReply::Failed => "the exit could not open it",
            ExitReply::NotAllowed => "the owner of the exit does not let guests go there",
            ExitReply::NetworkUnreachable => "the exit has no route to it",
            ExitReply::HostUnreachable => "the name is unknown to the exit, or nothing answers there",
            ExitReply::ConnectionRefused => "nothing listens there",
            ExitReply::LimitReached => "the limit of this invite is reached",
            ExitReply::Busy => "the exit is stopping or full",
        }
    }
}

#[cfg(test)]
mod tests;

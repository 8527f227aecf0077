//! The lines of an exported ledger (`docs/protocol.md`, "Export"): their one spelling, and reading them with a bound.

use super::audience::Audience;
use super::span::{B64, MAX_SPAN, SpanId};
use crate::encoding::json;
use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, ErrorKind};

/// The version of the format.
pub(super) const VERSION: u64 = 1;
/// The longest line: a span and what stands around it.
pub const MAX_LINE: usize = MAX_SPAN + 1024;
/// What stands before a span's bytes in its line, up to its id, between id and signature, and behind the signature.
const BEFORE_ID: &str = "{\"id\":\"";
const BEFORE_SIGNATURE: &str = "\",\"signature\":\"";
const BEFORE_SPAN: &str = "\",\"span\":";
/// Letters of an id and of a signature in base64url.
const ID: usize = 43;
const SIGNATURE: usize = 86;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// The version of the format.
    #[serde(rename = "portdistrict-ledger")]
    pub(super) version: u64,
    /// Whose ledger it is.
    pub(super) identity: B64<32>,
    /// The audience it was made for.
    #[serde(rename = "for")]
    pub(super) audience: String,
    /// How many lines of spans follow, withheld ones included.
    pub(super) spans: u64,
    /// The heads of the ledger, ascending.
    pub(super) heads: Vec<SpanId>,
    /// When it was made, Unix seconds.
    pub(super) created: u64,
}

/// In place of a span that the audience may not see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Withheld {
    /// Who wrote it.
    pub(super) author: B64<32>,
    /// Its id.
    pub(super) id: SpanId,
    /// Its number among the author's spans.
    pub(super) seq: u64,
    /// The author's signature over the id.
    pub(super) signature: B64<64>,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trailer {
    /// BLAKE3 of everything before this line, line breaks included.
    pub(super) blake3: B64<32>,
    /// How many lines stand between the first and this one.
    pub(super) count: u64,
}

/// A line after the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Span { id: SpanId, signature: B64<64>, bytes: Vec<u8> },
    Withheld(Withheld),
    Trailer(Trailer),
}

impl Line {
    /// The line without its line break.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        match self {
            Line::Withheld(link) => json::canonical(link),
            Line::Trailer(trailer) => json::canonical(trailer),
            Line::Span { id, signature, bytes } => {
                let mut line = format!("{BEFORE_ID}{id}{BEFORE_SIGNATURE}{signature}{BEFORE_SPAN}").into_bytes();
                line.extend_from_slice(bytes);
                line.push(b'}');
                Ok(line)
            }
        }
    }

    /// Reads the one spelling of a line. The bytes of a span are taken as they are; whoever uses them checks them.
    pub(super) fn decode(line: &[u8]) -> Result<Line> {
        if line.starts_with(BEFORE_ID.as_bytes()) {
            return span(line).ok_or_else(|| Error::new(Code::BadBlob, "it is no line of a span"));
        }
        if line.starts_with(b"{\"author\":") {
            return json::from_canonical(line, MAX_LINE).map(Line::Withheld);
        }
        if line.starts_with(b"{\"blake3\":") {
            return json::from_canonical(line, MAX_LINE).map(Line::Trailer);
        }
        Err(Error::new(Code::BadBlob, "it is no line of an exported ledger"))
    }
}

fn span(line: &[u8]) -> Option<Line> {
    let rest = line.strip_prefix(BEFORE_ID.as_bytes())?;
    let (id, rest) = rest.split_at_checked(ID)?;
    let rest = rest.strip_prefix(BEFORE_SIGNATURE.as_bytes())?;
    let (signature, rest) = rest.split_at_checked(SIGNATURE)?;
    let bytes = rest.strip_prefix(BEFORE_SPAN.as_bytes())?.strip_suffix(b"}")?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(Line::Span { id: text(id)?.parse().ok()?, signature: text(signature)?.parse().ok()?, bytes: bytes.to_vec() })
}

impl Header {
    /// Reads the one spelling of the first line.
    pub(super) fn decode(line: &[u8]) -> Result<Header> {
        let header: Header = json::from_canonical(line, MAX_LINE).map_err(|error| {
            Error::new(Code::BadBlob, "it does not begin as an exported ledger")
                .cause(error)
                .hint("make one with: portdistrict ledger export")
        })?;
        if header.version != VERSION {
            let what = format!("it has version {}; this program reads version {VERSION}", header.version);
            return Err(Error::new(Code::BadBlob, what).hint("upgrade portdistrict"));
        }
        header.audience.parse::<Audience>()?;
        Ok(header)
    }
}

/// Reads lines of at most [`MAX_LINE`] bytes, whatever the length of what is sent.
pub(super) struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    /// The number of the line read last, from 1.
    pub(super) number: u64,
    /// Of all lines before the one read last.
    pub(super) digest: blake3::Hasher,
    /// Set by the first failure, after which there is nothing more to read.
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(from: R) -> Lines<R> {
        Lines { from, buffer: Vec::new(), number: 0, digest: blake3::Hasher::new(), ended: false }
    }

    /// The next line without its line break, which it must have; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        if self.ended {
            return Ok(None);
        }
        self.digest.update(&self.buffer);
        self.buffer.clear();
        self.number += 1;
        let there = self.fill();
        self.ended = !matches!(there, Ok(true));
        Ok(there?.then(|| &self.buffer[..self.buffer.len() - 1]))
    }

    /// Reads up to the next line break into the buffer; false at the end.
    fn fill(&mut self) -> Result<bool> {
        loop {
            let there = match self.from.fill_buf() {
                Ok(there) => there,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::new(Code::Io, "it cannot be read to its end").cause(error)),
            };
            if there.is_empty() {
                let cut = !self.buffer.is_empty();
                return if cut { Err(Error::new(Code::BadBlob, "it is cut short")) } else { Ok(false) };
            }
            let end = there.iter().position(|byte| *byte == b'\n');
            let take = end.map_or(there.len(), |end| end + 1);
            if self.buffer.len() + take > MAX_LINE + 1 {
                return Err(Error::new(Code::BadBlob, format!("it is longer than {MAX_LINE} bytes")));
            }
            self.buffer.extend_from_slice(&there[..take]);
            self.from.consume(take);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

/// For fuzzing: what is accepted is the one spelling.
pub(crate) fn check_line(data: &[u8]) {
    if let Ok(line) = Line::decode(data) {
        assert_eq!(line.encode().ok().as_deref(), Some(data));
    }
    if let Ok(header) = Header::decode(data) {
        assert_eq!(json::canonical(&header).ok().as_deref(), Some(data));
    }
}

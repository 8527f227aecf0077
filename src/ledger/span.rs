//! One signed entry: its canonical bytes, its id, and what makes it valid by itself (`docs/protocol.md`, "Span").

use super::hlc::Hlc;
use crate::encoding::json::{self, MAX_INTEGER};
use crate::encoding::{base64, from_base64_array};
use crate::error::{Code, Error, Result};
use crate::keyring;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// The version this program writes; it reads no other.
pub(super) const VERSION: u64 = 1;
/// The longest canonical form.
pub const MAX_SPAN: usize = 64 * 1024;
/// The most heads one span may name.
pub(super) const MAX_DEPS: usize = 64;
/// The longest kind.
const MAX_KIND: usize = 64;
/// The type under which spans are signed.
pub(super) const TYPE: &str = "span";

/// `N` bytes that are written as base64url in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct B64<const N: usize>(pub [u8; N]);

/// The id of a span: BLAKE3 of its canonical bytes.
pub type SpanId = B64<32>;

impl<const N: usize> fmt::Display for B64<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base64(&self.0))
    }
}

impl<const N: usize> fmt::Debug for B64<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64(&self.0))
    }
}

impl<const N: usize> FromStr for B64<N> {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        from_base64_array(text).map(B64).ok_or_else(|| {
            Error::new(Code::Usage, format!("{:?} is not {N} bytes in base64url", text.chars().take(80).collect::<String>()))
                .hint("copy the whole text, without = at the end")
        })
    }
}

impl<const N: usize> From<[u8; N]> for B64<N> {
    fn from(bytes: [u8; N]) -> Self {
        B64(bytes)
    }
}

impl<const N: usize> Serialize for B64<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for B64<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Letters::<N>)
    }
}

/// Reads the letters where they stand: spans are full of keys and ids.
struct Letters<const N: usize>;

impl<const N: usize> serde::de::Visitor<'_> for Letters<N> {
    type Value = B64<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes in base64url")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<B64<N>, E> {
        from_base64_array(text).map(B64).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// The signed content of an entry. Field names are those of the canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Format version.
    pub v: u64,
    /// The device key that signs.
    pub author: B64<32>,
    /// Position in the author's chain, from 0.
    pub seq: u64,
    /// The author's previous span; the member is there even if it is `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    pub prev: Option<SpanId>,
    /// Heads the author knew besides `prev`, ascending.
    pub deps: Vec<SpanId>,
    /// When, in an order that every device agrees on.
    pub hlc: Hlc,
    /// `noun.verb-past`
    pub kind: String,
    /// What happened; its fields depend on the kind.
    pub body: Map<String, Value>,
}

/// The members of a span in their canonical order.
#[derive(Serialize)]
struct Spelled<'a> {
    author: &'a B64<32>,
    body: &'a Map<String, Value>,
    deps: &'a [SpanId],
    hlc: Hlc,
    kind: &'a str,
    prev: &'a Option<SpanId>,
    seq: u64,
    v: u64,
}

/// What makes bytes no valid span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Over [`MAX_SPAN`].
    #[error("it is longer than {MAX_SPAN} bytes")]
    TooLong,
    /// Not JSON, or not the fields of a span.
    #[error("its bytes are not a span")]
    Malformed,
    /// Written by a later program.
    #[error("it has version {0}, which this program does not know")]
    Version(u64),
    /// The same value in another spelling.
    #[error("its bytes are not in canonical form")]
    NotCanonical,
    /// A field breaks a rule of the format.
    #[error("{0}")]
    Rule(&'static str),
}

/// The version alone, so that a newer span is not called malformed.
#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

impl Span {
    /// The canonical bytes; refuses content that a reader would refuse.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = self.spell()?;
        let refuse =
            |why: SpanError| Error::new(Code::Failed, format!("cannot record {}: {why}", self.kind)).hint("shorten the values given");
        self.check_rules().map_err(refuse)?;
        if bytes.len() > MAX_SPAN { Err(refuse(SpanError::TooLong)) } else { Ok(bytes) }
    }

    /// The canonical bytes. The members are written down in their order; where the body does not come out canonical by itself (names
    /// that UTF-16 orders otherwise), the general way is taken.
    fn spell(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(&Spelled {
            author: &self.author,
            body: &self.body,
            deps: &self.deps,
            hlc: self.hlc,
            kind: &self.kind,
            prev: &self.prev,
            seq: self.seq,
            v: self.v,
        });
        bytes.ok().filter(|bytes| json::is_canonical(bytes)).map_or_else(|| json::canonical(self), Ok)
    }

    /// Reads canonical bytes and checks every rule that needs no other span.
    pub fn decode(bytes: &[u8]) -> Result<Span, SpanError> {
        if bytes.len() > MAX_SPAN {
            return Err(SpanError::TooLong);
        }
        let span: Span = serde_json::from_slice(bytes).map_err(|_| match serde_json::from_slice(bytes) {
            Ok(Versioned { v }) if v != VERSION => SpanError::Version(v),
            _ => SpanError::Malformed,
        })?;
        if span.v != VERSION {
            return Err(SpanError::Version(span.v));
        }
        span.check_rules()?;
        // With every member there and none besides, canonical JSON is what `encode` writes.
        if json::is_canonical(bytes) { Ok(span) } else { Err(SpanError::NotCanonical) }
    }

    fn check_rules(&self) -> Result<(), SpanError> {
        if !is_kind(&self.kind) {
            return Err(SpanError::Rule("its kind is not of the form noun.verb-past"));
        }
        if self.prev.is_none() != (self.seq == 0) {
            return Err(SpanError::Rule("only the first span of an author has no predecessor"));
        }
        if self.deps.len() > MAX_DEPS {
            return Err(SpanError::Rule("it names too many heads"));
        }
        if !self.deps.is_sorted_by(|a, b| a < b) || self.prev.is_some_and(|prev| self.deps.contains(&prev)) {
            return Err(SpanError::Rule("its heads are not in order, or named twice"));
        }
        if [self.seq, self.hlc.ms, self.hlc.n].iter().any(|n| *n >= MAX_INTEGER) || !self.body.values().all(is_exact) {
            return Err(SpanError::Rule("it holds a number that is not a whole one below 2^53"));
        }
        Ok(())
    }
}

/// Whether every number within keeps its value in any JSON reader.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.as_u64().is_some_and(|n| n < MAX_INTEGER) || number.as_i64().is_some_and(|n| n.unsigned_abs() < MAX_INTEGER)
        }
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(map) => map.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// `noun.verb-past`, lower case, at most 64 characters.
pub(super) fn is_kind(kind: &str) -> bool {
    let word = |w: &str| w.starts_with(|c: char| c.is_ascii_lowercase()) && w.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
    kind.len() <= MAX_KIND && kind.split_once('.').is_some_and(|(noun, verb)| word(noun) && word(verb))
}

/// The id of canonical bytes.
pub fn id_of(bytes: &[u8]) -> SpanId {
    B64(*blake3::hash(bytes).as_bytes())
}

/// The author's signature over an id.
pub(super) fn sign(key: &SigningKey, id: &SpanId) -> [u8; 64] {
    keyring::sign(key, TYPE, &id.0)
}

/// Whether the author signed this id.
pub(super) fn signed(author: &B64<32>, id: &SpanId, signature: &[u8; 64]) -> bool {
    keyring::verify(&author.0, TYPE, &id.0, signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::{Purpose, Seed};
    use proptest::prelude::*;
    use serde_json::json;

    fn example() -> Span {
        let Value::Object(body) = json!({"label": "home", "note": "grüße ☂"}) else { unreachable!() };
        let key = Seed::from_bytes(&std::array::from_fn(|i| i as u8)).signing_key(Purpose::DeviceSign);
        Span {
            v: VERSION,
            author: B64(key.verifying_key().to_bytes()),
            seq: 1,
            prev: Some(B64([1; 32])),
            deps: vec![B64([2; 32])],
            hlc: Hlc { ms: 1_777_816_800_000, n: 0 },
            kind: "example.made".to_owned(),
            body,
        }
    }

    /// The vector in `docs/protocol.md`, "Span".
    #[test]
    fn the_vector_is_that_of_the_document() {
        let document = include_str!("../../docs/protocol.md");
        let bytes = example().encode().unwrap();
        let key = Seed::from_bytes(&std::array::from_fn(|i| i as u8)).signing_key(Purpose::DeviceSign);
        let id = id_of(&bytes);
        for text in [String::from_utf8(bytes).unwrap(), id.to_string(), base64(&sign(&key, &id))] {
            assert!(document.contains(&text), "docs/protocol.md lacks {text}");
        }
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let good = String::from_utf8(example().encode().unwrap()).unwrap();
        assert_eq!(Span::decode(good.as_bytes()), Ok(example()));
        let author = format!("\"author\":\"{}\"", example().author);
        for (bad, why) in [
            (String::new(), SpanError::Malformed),
            (good[..good.len() - 1].to_owned(), SpanError::Malformed),
            (format!("{good} "), SpanError::NotCanonical),
            (good.replace("\"seq\":1", "\"seq\": 1"), SpanError::NotCanonical),
            (good.replace("\"seq\":1", "\"seq\":1.0"), SpanError::Malformed),
            (good.replace("\"v\":1", "\"v\":2"), SpanError::Version(2)),
            (good.replace("\"v\":1", "\"v\":1,\"w\":1"), SpanError::Malformed),
            (good.replace(&format!("{author},"), ""), SpanError::Malformed),
            (good.replace(&author, &format!("{author},{author}")), SpanError::Malformed),
            (good.replace('☂', "\\u2602"), SpanError::NotCanonical),
            ("x".repeat(MAX_SPAN + 1), SpanError::TooLong),
        ] {
            assert_eq!(Span::decode(bad.as_bytes()), Err(why), "{bad}");
        }
        let first = Span { seq: 0, prev: None, ..example() };
        let without_prev = String::from_utf8(first.encode().unwrap()).unwrap().replace("\"prev\":null,", "");
        assert_eq!(Span::decode(without_prev.as_bytes()), Err(SpanError::Malformed));
    }

    #[test]
    fn rules_hold_for_writers_and_readers() {
        let body = |value: Value| Span { body: [("x".to_owned(), value)].into_iter().collect(), ..example() };
        assert!(body(json!((1u64 << 53) - 1)).encode().is_ok());
        for bad in [
            body(json!(1u64 << 53)),
            body(json!([{"deep": 1.5}])),
            body(json!("x".repeat(MAX_SPAN))),
            Span { kind: "Example.made".into(), ..example() },
            Span { kind: "example".into(), ..example() },
            Span { kind: format!("a.{}", "b".repeat(63)), ..example() },
            Span { prev: None, ..example() },
            Span { seq: 0, ..example() },
            Span { deps: vec![B64([2; 32]), B64([2; 32])], ..example() },
            Span { deps: vec![B64([1; 32])], ..example() },
        ] {
            assert!(bad.encode().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(at in 0usize..300, byte in any::<u8>()) {
            let mut bytes = example().encode().unwrap();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Ok(span) = Span::decode(&bytes) {
                prop_assert_eq!(span.encode().unwrap(), bytes);
            }
        }
    }
}

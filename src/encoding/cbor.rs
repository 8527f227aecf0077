//! Deterministic CBOR (RFC 8949 §4.2.1) with integer keys, for blobs in a chat and messages in a session.
//!
//! There is one small value type. Decoding builds it and then encodes it again: only bytes that come back equal
//! are accepted, so every canonical-form rule is enforced in one place and nothing can be signed in two spellings.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use std::collections::BTreeMap;

/// Depth that no message of ours reaches; deeper input is refused before it can exhaust the stack.
const MAX_DEPTH: usize = 8;

/// A CBOR value as this program uses it: no floats, no tags, no negative numbers, maps with unsigned keys only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An unsigned integer.
    Uint(u64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text string.
    Text(String),
    /// An array.
    Array(Vec<Value>),
    /// A map with unsigned integer keys.
    Map(Map),
}

/// The fields of a message, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(BTreeMap<u64, Value>);

/// Why bytes were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// Longer than the caller allows.
    #[error("longer than the {0} bytes allowed")]
    TooLong(usize),
    /// The bytes end too early or are no CBOR that this program uses.
    #[error("not valid CBOR")]
    Malformed,
    /// Valid, but not in the one canonical form, or followed by more bytes.
    #[error("not in canonical form")]
    NotCanonical,
    /// A required field is missing or has another type or size.
    #[error("field {0} is missing or has the wrong form")]
    Field(u64),
    /// A field that this version does not know.
    #[error("field {0} is unknown to this version")]
    Unknown(u64),
}

impl From<Vec<u8>> for Value {
    fn from(v: Vec<u8>) -> Self {
        Value::Bytes(v)
    }
}
impl From<&[u8]> for Value {
    fn from(v: &[u8]) -> Self {
        Value::Bytes(v.to_vec())
    }
}
impl<const N: usize> From<[u8; N]> for Value {
    fn from(v: [u8; N]) -> Self {
        Value::Bytes(v.to_vec())
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Text(v.to_owned())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::Text(v)
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Value::Uint(v)
    }
}
impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}
impl From<Map> for Value {
    fn from(v: Map) -> Self {
        Value::Map(v)
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value
where
    T: NotByte,
{
    fn from(v: Vec<T>) -> Self {
        Value::Array(v.into_iter().map(Into::into).collect())
    }
}

/// Keeps `Vec<u8>` a byte string rather than an array of numbers.
pub trait NotByte {}
impl NotByte for Value {}
impl NotByte for Map {}
impl NotByte for String {}
impl NotByte for u64 {}

impl Map {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field; for building messages.
    #[must_use]
    pub fn with(mut self, key: u64, value: impl Into<Value>) -> Self {
        self.0.insert(key, value.into());
        self
    }

    /// Adds a field only if there is a value.
    #[must_use]
    pub fn with_some(self, key: u64, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Inserts or replaces a field.
    pub fn insert(&mut self, key: u64, value: impl Into<Value>) {
        self.0.insert(key, value.into());
    }

    /// Takes a field out.
    pub fn remove(&mut self, key: u64) -> Option<Value> {
        self.0.remove(&key)
    }

    /// The keys that have not been taken yet.
    pub fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.keys().copied()
    }

    /// Takes a required unsigned integer.
    pub fn uint(&mut self, key: u64) -> Result<u64, CborError> {
        self.opt_uint(key)?.ok_or(CborError::Field(key))
    }

    /// Takes an optional unsigned integer.
    pub fn opt_uint(&mut self, key: u64) -> Result<Option<u64>, CborError> {
        match self.0.remove(&key) {
            None => Ok(None),
            Some(Value::Uint(n)) => Ok(Some(n)),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Takes a required byte string of at most `max` bytes.
    pub fn bytes(&mut self, key: u64, max: usize) -> Result<Vec<u8>, CborError> {
        self.opt_bytes(key, max)?.ok_or(CborError::Field(key))
    }

    /// Takes an optional byte string of at most `max` bytes.
    pub fn opt_bytes(&mut self, key: u64, max: usize) -> Result<Option<Vec<u8>>, CborError> {
        match self.0.remove(&key) {
            None => Ok(None),
            Some(Value::Bytes(b)) if b.len() <= max => Ok(Some(b)),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Takes a required byte string of exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, key: u64) -> Result<[u8; N], CborError> {
        self.opt_array(key)?.ok_or(CborError::Field(key))
    }

    /// Takes an optional byte string of exactly `N` bytes.
    pub fn opt_array<const N: usize>(&mut self, key: u64) -> Result<Option<[u8; N]>, CborError> {
        match self.0.remove(&key) {
            None => Ok(None),
            Some(Value::Bytes(b)) => b.try_into().map(Some).map_err(|_| CborError::Field(key)),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Takes a required text of at most `max` bytes.
    pub fn text(&mut self, key: u64, max: usize) -> Result<String, CborError> {
        self.opt_text(key, max)?.ok_or(CborError::Field(key))
    }

    /// Takes an optional text of at most `max` bytes.
    pub fn opt_text(&mut self, key: u64, max: usize) -> Result<Option<String>, CborError> {
        match self.0.remove(&key) {
            None => Ok(None),
            Some(Value::Text(t)) if t.len() <= max => Ok(Some(t)),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Takes a boolean; absent means `false`.
    pub fn flag(&mut self, key: u64) -> Result<bool, CborError> {
        match self.0.remove(&key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(b),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Takes an optional nested map.
    pub fn opt_map(&mut self, key: u64) -> Result<Option<Map>, CborError> {
        match self.0.remove(&key) {
            None => Ok(None),
            Some(Value::Map(m)) => Ok(Some(m)),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Takes an array of at most `max` items; absent means empty.
    pub fn list(&mut self, key: u64, max: usize) -> Result<Vec<Value>, CborError> {
        match self.0.remove(&key) {
            None => Ok(Vec::new()),
            Some(Value::Array(a)) if a.len() <= max => Ok(a),
            Some(_) => Err(CborError::Field(key)),
        }
    }

    /// Refuses fields that nobody took.
    pub fn finish(self) -> Result<(), CborError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(CborError::Unknown(*key)),
        }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut encoder = Encoder::new(&mut out);
        encode_map(&mut encoder, self);
        out
    }

    /// Reads canonical bytes of at most `limit` bytes that hold exactly one map.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Map, CborError> {
        if bytes.len() > limit {
            return Err(CborError::TooLong(limit));
        }
        let mut decoder = Decoder::new(bytes);
        let value = decode_value(&mut decoder, MAX_DEPTH)?;
        let Value::Map(map) = value else { return Err(CborError::Malformed) };
        if decoder.position() != bytes.len() || map.encode() != bytes {
            return Err(CborError::NotCanonical);
        }
        Ok(map)
    }
}

/// Writing to a `Vec` cannot fail, so the encoder's results carry nothing.
fn encode_map(e: &mut Encoder<&mut Vec<u8>>, map: &Map) {
    let _ = e.map(map.0.len() as u64);
    for (key, value) in &map.0 {
        let _ = e.u64(*key);
        encode_value(e, value);
    }
}

fn encode_value(e: &mut Encoder<&mut Vec<u8>>, value: &Value) {
    let _ = match value {
        Value::Null => e.null().map(drop),
        Value::Bool(b) => e.bool(*b).map(drop),
        Value::Uint(n) => e.u64(*n).map(drop),
        Value::Bytes(b) => e.bytes(b).map(drop),
        Value::Text(t) => e.str(t).map(drop),
        Value::Array(items) => {
            let done = e.array(items.len() as u64).map(drop);
            for item in items {
                encode_value(e, item);
            }
            done
        }
        Value::Map(map) => {
            encode_map(e, map);
            Ok(())
        }
    };
}

fn decode_value(d: &mut Decoder<'_>, depth: usize) -> Result<Value, CborError> {
    let bad = |_| CborError::Malformed;
    if depth == 0 {
        return Err(CborError::Malformed);
    }
    Ok(match d.datatype().map_err(bad)? {
        Type::Null => d.null().map(|()| Value::Null).map_err(bad)?,
        Type::Bool => Value::Bool(d.bool().map_err(bad)?),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Value::Uint(d.u64().map_err(bad)?),
        Type::Bytes => Value::Bytes(d.bytes().map_err(bad)?.to_vec()),
        Type::String => Value::Text(d.str().map_err(bad)?.to_owned()),
        Type::Array => {
            let n = d.array().map_err(bad)?.ok_or(CborError::NotCanonical)?;
            // The length is the other side's word: items are pushed one by one, never reserved.
            let mut items = Vec::new();
            for _ in 0..n {
                items.push(decode_value(d, depth - 1)?);
            }
            Value::Array(items)
        }
        Type::Map => {
            let n = d.map().map_err(bad)?.ok_or(CborError::NotCanonical)?;
            let mut map = BTreeMap::new();
            for _ in 0..n {
                let key = d.u64().map_err(bad)?;
                if map.insert(key, decode_value(d, depth - 1)?).is_some() {
                    return Err(CborError::NotCanonical);
                }
            }
            Value::Map(Map(map))
        }
        // RFC 8949 §4.2.1: definite lengths only.
        Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef => return Err(CborError::NotCanonical),
        _ => return Err(CborError::Malformed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_only_the_canonical_form() {
        let map = Map::new().with(0, 1u64).with(1, [7u8; 3]).with(24, "hi");
        let bytes = map.encode();
        assert_eq!(Map::decode(&bytes, 100), Ok(map));
        assert_eq!(Map::decode(&bytes, 5), Err(CborError::TooLong(5)));
        // 1 written in two bytes; keys out of order; a key twice; trailing byte; indefinite length.
        for bad in [&[0xa1, 0x00, 0x18, 0x01][..], &[0xa2, 1, 0, 0, 0], &[0xa2, 0, 0, 0, 0], &[0xa0, 0], &[0xbf, 0xff]] {
            assert_eq!(Map::decode(bad, 100), Err(CborError::NotCanonical), "{bad:x?}");
        }
    }

    #[test]
    fn a_huge_claimed_length_allocates_nothing() {
        assert_eq!(Map::decode(&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 100), Err(CborError::Malformed));
        assert_eq!(Map::decode(&[0x81; 40], 100), Err(CborError::Malformed));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(map) = Map::decode(&bytes, 200) {
                prop_assert_eq!(map.encode(), bytes);
            }
        }
    }
}

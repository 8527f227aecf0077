//! Canonical JSON (RFC 8785) for spans, envelopes and exports.

pub use super::scan::{MAX_INTEGER, is_canonical};
use crate::error::{Code, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Serialises in the one canonical form.
pub fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json_canonicalizer::to_vec(value).map_err(|e| Error::new(Code::Failed, "cannot write a value as canonical JSON").cause(e))
}

/// Reads a value of at most `limit` bytes and refuses any form but the canonical one.
pub fn from_canonical<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T> {
    let bad = |why: &str| Error::new(Code::Protocol, format!("not canonical JSON: {why}"));
    if bytes.len() > limit {
        return Err(bad(&format!("longer than {limit} bytes")));
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| bad("cannot be parsed").cause(e))?;
    if canonical(&value)? != bytes {
        return Err(bad("another spelling of the same value"));
    }
    serde_json::from_value(value).map_err(|e| bad("unexpected fields").cause(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_spellings() {
        assert!(from_canonical::<serde_json::Value>(br#"{"a":1,"b":[2]}"#, 100).is_ok());
        for bad in [&br#"{"b":1,"a":1}"#[..], br#"{"a": 1}"#, br#"{"a":1.0}"#, br#"{"a":1}x"#, b"", br#"{"a":1,"a":1}"#] {
            assert!(from_canonical::<serde_json::Value>(bad, 100).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(from_canonical::<serde_json::Value>(br#"{"a":1}"#, 3).is_err());
    }
}

//! Canonical bytes: deterministic CBOR for what must be small, canonical JSON for what people read,
//! and the two alphabets (base64url and base32 without padding) everything else is written in.

pub mod cbor;
pub mod json;
pub mod onion;
mod scan;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

/// Base64url without padding, the one base64 alphabet of this program (PD-ID4).
pub fn base64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// Reads base64url without padding; `None` for anything else.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// Reads base64url of exactly `N` bytes.
pub fn from_base64_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_base64(text)?.try_into().ok()
}

/// Lower-case hex, for digests of measured things.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Reads hexadecimal, of either case, of exactly `N` bytes.
pub fn from_hex_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Upper-case base32 without padding, for node ids.
pub fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes)
}

/// The id of an identity or a node: base32 of the first 20 bytes of BLAKE3(public key); 32 characters (PD-ID1).
pub fn node_id(public_key: &[u8; 32]) -> String {
    base32(&blake3::hash(public_key).as_bytes()[..20])
}

/// Shortens an id or digest for a table: the first six and the last four characters.
pub fn short(text: &str) -> String {
    if text.len() <= 12 || !text.is_ascii() {
        return text.to_owned();
    }
    format!("{}…{}", &text[..6], &text[text.len() - 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_is_32_characters() {
        assert_eq!(node_id(&[0; 32]).len(), 32);
    }

    #[test]
    fn base64_refuses_padding_and_the_other_alphabet() {
        assert_eq!(base64(&[0xfb, 0xff]), "-_8");
        assert!(from_base64("-_8=").is_none());
        assert!(from_base64("+/8").is_none());
    }
}

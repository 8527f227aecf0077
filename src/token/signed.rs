//! What all signed tokens share: payload and signature as two byte strings, `{0: payload, 1: signature}`.

use crate::encoding::cbor::{CborError, Map};

/// The wire form of a signed payload.
pub(super) fn encode(payload: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    Map::new().with(0, payload).with(1, *signature).encode()
}

/// Takes the wire form, of at most `limit` bytes, apart.
pub(super) fn decode(bytes: &[u8], limit: usize) -> Result<(Vec<u8>, [u8; 64]), CborError> {
    let mut map = Map::decode(bytes, limit)?;
    let payload = map.bytes(0, limit)?;
    let signature = map.array(1)?;
    map.finish()?;
    Ok((payload, signature))
}

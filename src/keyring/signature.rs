//! Typed Ed25519 signatures (RFC 8032), over `"portdistrict/TYPE/v1\n"` and the payload, strictly verified.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What is really signed: the type in front keeps a signature from meaning something else elsewhere.
pub(crate) fn message(typ: &str, payload: &[u8]) -> Vec<u8> {
    [b"portdistrict/", typ.as_bytes(), b"/v1\n", payload].concat()
}

/// Signs a payload as one type of thing.
pub fn sign(key: &SigningKey, typ: &str, payload: &[u8]) -> [u8; 64] {
    key.sign(&message(typ, payload)).to_bytes()
}

/// Whether the signature is this key's, over this payload, as this type. Strict: no small-order keys, no second spelling.
pub fn verify(public: &[u8; 32], typ: &str, payload: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(public) else { return false };
    key.verify_strict(&message(typ, payload), &Signature::from_bytes(signature)).is_ok()
}

/// What is really signed of an envelope (DSSE v1, pre-authentication encoding). It begins as no message of [`sign`] does.
fn envelope(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Signs the payload of a DSSE envelope, so that any tool that knows those can check it.
pub fn sign_envelope(key: &SigningKey, payload_type: &str, payload: &[u8]) -> [u8; 64] {
    key.sign(&envelope(payload_type, payload)).to_bytes()
}

/// Whether the signature of a DSSE envelope is this key's, as strictly as [`verify`].
pub fn verify_envelope(public: &[u8; 32], payload_type: &str, payload: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(public) else { return false };
    key.verify_strict(&envelope(payload_type, payload), &Signature::from_bytes(signature)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::hex;
    use crate::keyring::{Purpose, Seed};

    #[test]
    fn a_signature_holds_for_its_key_type_and_payload_only() {
        let key = Seed::from_bytes(&[7; 32]).signing_key(Purpose::IdentitySign);
        let public = key.verifying_key().to_bytes();
        let signature = sign(&key, "grant", b"payload");
        assert!(verify(&public, "grant", b"payload", &signature));
        assert!(!verify(&public, "span", b"payload", &signature));
        assert!(!verify(&public, "grant", b"payloae", &signature));
        assert!(!verify(&public, "grant", b"payload2", &signature));
        let other = Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign).verifying_key().to_bytes();
        assert!(!verify(&other, "grant", b"payload", &signature));
        for bit in 0..512 {
            let mut flipped = signature;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&public, "grant", b"payload", &flipped), "bit {bit}");
        }
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(!verify(&neutral, "span", b"", &[0; 64]));
        assert!(!verify(&[0; 32], "span", b"", &[0; 64]));
    }

    /// The vector in `docs/protocol.md`, "Signatures".
    #[test]
    fn the_vector_is_that_of_the_document() {
        let key = Seed::from_bytes(&std::array::from_fn(|i| i as u8)).signing_key(Purpose::IdentitySign);
        let signature = hex(&sign(&key, "example", b"hello"));
        assert!(include_str!("../../docs/protocol.md").contains(&signature), "docs/protocol.md lacks {signature}");
    }
}

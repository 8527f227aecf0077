//! A seed and the derivation of keys from it (`docs/protocol.md`, "Key derivation").

use crate::error::{Code, Error, Result};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 32 secret bytes that keys are derived from. Cannot be printed; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

/// What a derived key is for; each purpose gives an unrelated key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Ed25519: signs grants, devices and everything else the owner decides.
    IdentitySign,
    /// X25519: what others seal to this identity.
    IdentityEcdh,
    /// X25519: this device as a client of nodes.
    ClientNoise,
    /// X25519: a node towards its clients.
    NodeNoise,
    /// Ed25519: a node's onion address.
    NodeOnion,
    /// Ed25519: a node's onion address for those whose discovery key it knows.
    NodeOnionRestricted,
    /// X25519: with which a node finds its own restricted onion service.
    NodeDiscovery,
    /// Ed25519: signs this device's spans.
    DeviceSign,
    /// X25519: what the owner's other devices seal to this one.
    DeviceEcdh,
}

impl Purpose {
    /// Every purpose, for documentation and tests.
    pub const ALL: [Purpose; 9] = [
        Purpose::IdentitySign,
        Purpose::IdentityEcdh,
        Purpose::ClientNoise,
        Purpose::NodeNoise,
        Purpose::NodeOnion,
        Purpose::DeviceSign,
        Purpose::NodeOnionRestricted,
        Purpose::NodeDiscovery,
        Purpose::DeviceEcdh,
    ];

    /// The name within the derivation context.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::IdentitySign => "identity-sign",
            Purpose::IdentityEcdh => "identity-ecdh",
            Purpose::ClientNoise => "client-noise",
            Purpose::NodeNoise => "node-noise",
            Purpose::NodeOnion => "node-onion",
            Purpose::NodeOnionRestricted => "node-onion-restricted",
            Purpose::NodeDiscovery => "node-discovery",
            Purpose::DeviceSign => "device-sign",
            Purpose::DeviceEcdh => "device-ecdh",
        }
    }
}

impl Seed {
    /// A new seed from the system's generator.
    pub fn random() -> Result<Seed> {
        let mut seed = Seed([0; 32]);
        getrandom::fill(&mut seed.0)
            .map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e).hint("restart the computer"))?;
        Ok(seed)
    }

    /// A seed that was stored or handed over.
    pub fn from_bytes(bytes: &[u8; 32]) -> Seed {
        Seed(*bytes)
    }

    /// The secret itself, for storing or handing it over.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one purpose: `BLAKE3::derive_key("portdistrict v1 PURPOSE", seed)`.
    pub fn derive(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        let context = format!("portdistrict v1 {}", purpose.as_str());
        Zeroizing::new(blake3::derive_key(&context, &self.0))
    }

    /// The Ed25519 key for one purpose.
    pub fn signing_key(&self, purpose: Purpose) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.derive(purpose))
    }
}

/// The X25519 public key of a secret (RFC 7748).
pub fn x25519_public(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::hex;

    /// The table in `docs/protocol.md`, "Key derivation": seed 00, 01, … 1f.
    #[test]
    fn derivation_vectors_are_those_of_the_document() {
        let document = include_str!("../../docs/protocol.md");
        let seed = Seed::from_bytes(&std::array::from_fn(|i| i as u8));
        for purpose in Purpose::ALL {
            let secret = seed.derive(purpose);
            let public = match purpose {
                Purpose::IdentitySign | Purpose::NodeOnion | Purpose::NodeOnionRestricted | Purpose::DeviceSign => {
                    seed.signing_key(purpose).verifying_key().to_bytes()
                }
                Purpose::IdentityEcdh | Purpose::ClientNoise | Purpose::NodeNoise | Purpose::NodeDiscovery | Purpose::DeviceEcdh => {
                    x25519_public(&secret)
                }
            };
            let row = format!("| `{}` | `{}` | `{}` |", purpose.as_str(), hex(secret.as_slice()), hex(&public));
            assert!(document.contains(&row), "docs/protocol.md lacks this row:\n{row}");
        }
        let identity = seed.signing_key(Purpose::IdentitySign).verifying_key().to_bytes();
        let id = crate::encoding::node_id(&identity);
        assert!(document.contains(&format!("`{id}`")), "docs/protocol.md lacks the node id {id}");
    }

    #[test]
    fn random_seeds_differ() {
        assert_ne!(Seed::random().unwrap().expose(), Seed::random().unwrap().expose());
    }
}

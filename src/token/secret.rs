//! The 16 secret bytes in an invite, from which the key that its grant names is derived.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// An invite's secret. Whoever knows it may use the grant until a device is bound to it; so it has no `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret16([u8; 16]);

impl Secret16 {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        // Without the system's randomness nothing here can be safe, so there is nothing to fall back to.
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        Secret16(bytes)
    }

    /// The one in a blob.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Secret16(bytes)
    }

    /// The secret of a one-time code, which its maker finds again from the code's name and his own seed.
    pub fn of_code(seed: &[u8; 32], id: &[u8; 8]) -> Self {
        let context = format!("portdistrict v1 device-code {}", crate::encoding::hex(id));
        let whole = Zeroizing::new(blake3::derive_key(&context, seed));
        Secret16(std::array::from_fn(|i| whole[i]))
    }

    /// BLAKE3 of it, which may be known.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The X25519 secret that it stands for; the session's static key until a device is bound.
    pub fn subject_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("portdistrict v1 invite-subject", &self.0))
    }

    /// The X25519 secret that finds a restricted onion service.
    pub fn discovery_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("portdistrict v1 invite-discovery", &self.0))
    }

    /// The public half of [`Secret16::discovery_secret`], which the node learns from the owner.
    pub fn discovery(&self) -> [u8; 32] {
        let secret = x25519_dalek::StaticSecret::from(*self.discovery_secret());
        x25519_dalek::PublicKey::from(&secret).to_bytes()
    }

    /// The public half, which the grant names as its subject.
    pub fn subject(&self) -> [u8; 32] {
        let secret = x25519_dalek::StaticSecret::from(*self.subject_secret());
        x25519_dalek::PublicKey::from(&secret).to_bytes()
    }
}

//! Sealing to an X25519 key, as an age file: whoever has the secret half opens it, with this program or with age itself.

use crate::error::{Code, Error, Result};
use age::x25519::{Identity, Recipient};
use bech32::{Bech32, Hrp};
use zeroize::{Zeroize, Zeroizing};

/// Seals bytes to a public key.
pub fn seal(to: &[u8; 32], bytes: &[u8]) -> Result<Vec<u8>> {
    let cannot =
        || Error::new(Code::Failed, "cannot seal to this key").hint("ask for the other side's line again: portdistrict identity export");
    let text = bech32::encode::<Bech32>(Hrp::parse_unchecked("age"), to).map_err(|error| cannot().cause(error))?;
    let recipient: Recipient = text.parse().map_err(|why: &str| cannot().because(why))?;
    age::encrypt(&recipient, bytes).map_err(|error| cannot().cause(error))
}

/// Opens what was sealed to the public half of a secret; at most `limit` bytes.
pub fn open(secret: &[u8; 32], sealed: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let other = || {
        Error::new(Code::Refused, "this is sealed to another key than the one here")
            .hint("use it on the device, or with the identity, that it was made for")
    };
    let mut text = bech32::encode_upper::<Bech32>(Hrp::parse_unchecked("age-secret-key-"), secret).map_err(|error| other().cause(error))?;
    let identity = text.parse::<Identity>();
    text.zeroize();
    let identity = identity.map_err(|why| other().because(why))?;
    let bytes = age::decrypt(&identity, sealed).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => other(),
        error => Error::new(Code::BadBlob, "what is sealed here is damaged").cause(error).hint("ask for it again"),
    })?;
    let bytes = Zeroizing::new(bytes);
    if bytes.len() > limit {
        return Err(
            Error::new(Code::BadBlob, format!("what is sealed here is longer than the {limit} bytes allowed")).hint("ask for it again")
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::x25519_public;

    #[test]
    fn what_is_sealed_opens_with_the_secret_alone_and_unchanged() {
        let secret = [5; 32];
        let sealed = seal(&x25519_public(&secret), b"hello").unwrap();
        assert_eq!(open(&secret, &sealed, 5).unwrap().as_slice(), b"hello");
        assert_eq!(open(&secret, &sealed, 4).unwrap_err().code(), Code::BadBlob);
        assert_eq!(open(&[6; 32], &sealed, 5).unwrap_err().code(), Code::Refused);
        let last = sealed.len() - 1;
        for at in [40, last] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&secret, &changed, 5).is_err());
        }
    }
}

//! The address of an onion service, version 3: an Ed25519 public key written as a host name (Tor's rend-spec, "ONIONADDRESS").

use std::fmt;
use std::str::FromStr;
use tor_hscrypto::pk::HsId;

/// Length of `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.onion`.
pub const ADDRESS_LEN: usize = 62;

/// An onion address. It is no secret by itself, but whoever has it can look for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OnionAddress([u8; 32]);

/// A text that is no onion address of version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an onion address of version 3 (56 letters and digits, then .onion)")]
pub struct NotOnion;

impl OnionAddress {
    /// The address of the service with this public key.
    pub fn from_key(key: [u8; 32]) -> Self {
        OnionAddress(key)
    }

    /// The public key.
    pub fn key(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first letters, for lines where the whole does not fit.
    pub fn short(&self) -> String {
        format!("{}….onion", &self.to_string()[..8])
    }
}

impl fmt::Display for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use safelog::DisplayRedacted;
        f.pad(&HsId::from(self.0).display_unredacted().to_string())
    }
}

impl FromStr for OnionAddress {
    type Err = NotOnion;
    fn from_str(text: &str) -> Result<Self, NotOnion> {
        let id: HsId = text.parse().map_err(|_| NotOnion)?;
        Ok(OnionAddress(*id.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Tor's rend-spec, section on encoding onion addresses.
    const EXAMPLE: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    #[test]
    fn an_address_reads_back_and_a_wrong_letter_is_noticed() {
        let address: OnionAddress = EXAMPLE.parse().unwrap();
        assert_eq!(address.to_string(), EXAMPLE);
        assert_eq!(EXAMPLE.len(), ADDRESS_LEN);
        assert_eq!(OnionAddress::from_key(*address.key()), address);
        assert_eq!(address.short(), "pg6mmjiy….onion");
        assert_eq!(EXAMPLE.replace("pg6", "pg7").parse::<OnionAddress>(), Err(NotOnion));
        assert!("example.org".parse::<OnionAddress>().is_err() && "".parse::<OnionAddress>().is_err());
    }
}

//! What a verifier demands: `policy.toml`. What it does not say is decided strictly.

use super::verdict::Rung;
use crate::config::time::parse_duration;
use crate::encoding::from_hex_array;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// Far above what a policy needs.
pub const MAX_POLICY: usize = 256 * 1024;
/// The version that this program reads.
const VERSION: u32 = 1;
/// Every TCB component of any product (AMD 56860, tables 3 and 4).
const COMPONENTS: [&str; 5] = ["fmc", "bootloader", "tee", "snp", "microcode"];
const PRODUCTS: [&str; 3] = ["milan", "genoa", "turin"];

/// The rules.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of this document.
    version: u32,
    /// The lowest rung that is enough.
    #[serde(default)]
    pub demand: Rung,
    /// How old evidence may be, in seconds.
    #[serde(default, deserialize_with = "seconds")]
    pub max_age: Option<u64>,
    /// Rules about SEV-SNP reports.
    #[serde(default)]
    pub snp: SnpPolicy,
    /// Rules about TPM quotes.
    #[serde(default)]
    pub tpm: TpmPolicy,
    /// What a person named beside the rules.
    #[serde(skip)]
    pub must: Must,
}

/// What evidence must speak about, whatever rung that makes: what was named and is not even there was not verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Must {
    /// The image.
    pub image: bool,
    /// The launch measurement.
    pub measurement: bool,
}

/// Rules about SEV-SNP reports.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct SnpPolicy {
    /// Products that are accepted.
    pub products: Vec<String>,
    /// Whether the host may read the guest's memory for debugging.
    pub debug: bool,
    /// Whether a migration agent may move the guest.
    pub migration: bool,
    /// Whether processor cores may run two threads; every cloud does.
    pub smt: bool,
    /// The highest privilege level number that may ask for a report; 0 is the most privileged.
    pub vmpl: u32,
    /// Whether the guest must be bound to one socket.
    pub single_socket: bool,
    /// Whether memory addresses must have been checked for aliases when the platform started (AMD-SB-3015).
    pub alias_check: bool,
    /// Launch measurements that cover a whole image.
    pub images: Vec<Hex<48>>,
    /// Launch measurements that cover a provider's firmware alone.
    pub firmware: Vec<Hex<48>>,
    /// Digests of identity keys; any if empty.
    pub id_keys: Vec<Hex<48>>,
    /// Digests of author keys; any if empty.
    pub author_keys: Vec<Hex<48>>,
    /// Lowest security versions by product and component.
    pub minimum_tcb: BTreeMap<String, BTreeMap<String, u8>>,
    /// Files with root certificates that are accepted beside AMD's.
    pub roots: Vec<String>,
}

impl Default for SnpPolicy {
    fn default() -> Self {
        SnpPolicy {
            products: PRODUCTS.map(str::to_owned).to_vec(),
            debug: false,
            migration: false,
            smt: true,
            vmpl: 0,
            single_socket: false,
            alias_check: false,
            images: Vec::new(),
            firmware: Vec::new(),
            id_keys: Vec::new(),
            author_keys: Vec::new(),
            minimum_tcb: BTreeMap::new(),
            roots: Vec::new(),
        }
    }
}

/// Rules about TPM quotes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct TpmPolicy {
    /// Authenticode digests of boot programs that are accepted.
    pub images: Vec<Hex<32>>,
    /// Files with root certificates of TPMs.
    pub roots: Vec<String>,
    /// Whether the firmware must have checked signatures (Secure Boot).
    pub secure_boot: bool,
}

/// A digest, written in hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::encoding::hex(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = from_hex_array(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not {N} bytes in hex")))?;
        Ok(Hex(bytes))
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(|duration| Some(duration.as_secs())).map_err(|error| serde::de::Error::custom(error.to_string()))
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            version: VERSION,
            demand: Rung::Nothing,
            max_age: None,
            snp: SnpPolicy::default(),
            tpm: TpmPolicy::default(),
            must: Must::default(),
        }
    }
}

impl Policy {
    /// Reads one; the error is a sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if policy.version != VERSION {
            return Err(format!("it has version {}, this program reads {VERSION}", policy.version));
        }
        if let Some(product) = policy.snp.products.iter().chain(policy.snp.minimum_tcb.keys()).find(|p| !PRODUCTS.contains(&p.as_str())) {
            return Err(format!("{product:?} is no product: choose among {}", PRODUCTS.join(", ")));
        }
        if let Some(part) = policy.snp.minimum_tcb.values().flat_map(BTreeMap::keys).find(|c| !COMPONENTS.contains(&c.as_str())) {
            return Err(format!("{part:?} is no part of a TCB: choose among {}", COMPONENTS.join(", ")));
        }
        if policy.snp.vmpl > 3 {
            return Err(format!("vmpl = {} is none: 0 to 3", policy.snp.vmpl));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_what_it_changes_and_the_rest_is_strict() {
        let policy = Policy::parse("version = 1").unwrap();
        assert_eq!(policy, Policy::default());
        assert!(!policy.snp.debug && !policy.snp.migration && policy.snp.vmpl == 0);
        let text = format!(
            "version = 1\ndemand = \"image-by-tpm\"\nmax_age = \"1h\"\n[snp]\nimages = [\"{}\"]\nminimum_tcb.milan = {{ snp = 24 }}\n[tpm]\nroots = [\"ca.pem\"]\n",
            "ab".repeat(48)
        );
        let policy = Policy::parse(&text).unwrap();
        assert_eq!((policy.demand, policy.max_age, policy.snp.images[0].0), (Rung::ImageByTpm, Some(3600), [0xab; 48]));
        assert_eq!(policy.snp.minimum_tcb["milan"]["snp"], 24);
    }

    #[test]
    fn what_nobody_reads_is_refused() {
        for (text, word) in [
            ("", "version"),
            ("version = 2", "version 2"),
            ("version = 1\ndebgu = true", "debgu"),
            ("version = 1\ndemand = \"gold\"", "gold"),
            ("version = 1\n[snp]\nimages = [\"abcd\"]", "48 bytes"),
            ("version = 1\n[snp]\nproducts = [\"rome\"]", "rome"),
            ("version = 1\n[snp]\nvmpl = 4", "vmpl"),
            ("version = 1\n[snp]\nminimum_tcb.milan = { sev = 1 }", "sev"),
            ("version = 1\nmax_age = \"soon\"", "soon"),
        ] {
            let said = Policy::parse(text).unwrap_err();
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}

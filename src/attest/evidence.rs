//! Evidence as it travels and as it is kept: what hardware signed, and to what it is bound.

use crate::encoding::cbor::{CborError, Map};
use crate::session::messages::MAX_EVIDENCE;
use crate::session::seed::Source;
use sha2::{Digest, Sha256, Sha512};
use std::collections::BTreeMap;

/// Largest event log that travels; UEFI machines write 10 to 30 KiB.
pub const MAX_EVENT_LOG: usize = 32 * 1024;
/// Largest certificate table (AMD 56421, section 4.1.8): ARK, ASK and VCEK take 5 KiB.
pub const MAX_CERTIFICATES: usize = 12 * 1024;
/// Largest structure that a TPM makes of a key, a quote or a signature.
const MAX_TPM: usize = 2048;
/// Largest certificate of a TPM.
const MAX_TPM_CERTIFICATE: usize = 4096;
/// Registers of a TPM's bank.
const REGISTERS: u64 = 24;
/// Longest name of a seed's source.
const MAX_SOURCE: usize = 16;
/// Version of the encoding.
const VERSION: u64 = 1;

/// What a verifier asked, or, where nobody asked, the time: 24 zero bytes and Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl Nonce {
    /// For evidence that answers nobody in particular.
    pub fn at(seconds: u64) -> Nonce {
        let mut bytes = [0; 32];
        bytes[24..].copy_from_slice(&seconds.to_be_bytes());
        Nonce(bytes)
    }

    /// When it was made, by the node's own clock, where it answers nobody in particular.
    pub fn time(&self) -> Option<u64> {
        let (zero, seconds) = self.0.split_first_chunk::<24>()?;
        (*zero == [0; 24]).then(|| u64::from_be_bytes(seconds.try_into().unwrap_or_default()))
    }
}

/// What evidence speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The node's Noise key.
    pub node: [u8; 32],
    /// SHA-256 of the program that runs.
    pub app_digest: [u8; 32],
    /// The question.
    pub nonce: Nonce,
    /// Where the key comes from, if it says so.
    pub seed: Option<Source>,
}

impl Subject {
    /// REPORT_DATA of an SNP report: SHA-512 of a label and each part behind its length, so that no two subjects share it.
    pub fn report_data(&self) -> [u8; 64] {
        let mut hasher = Sha512::new_with_prefix(b"portdistrict evidence v1");
        for part in [&self.node[..], &self.app_digest, &self.nonce.0] {
            hasher.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            hasher.update(part);
        }
        if let Some(seed) = self.seed {
            hasher.update([0, 0, 0, u8::try_from(seed.as_str().len()).unwrap_or(u8::MAX)]);
            hasher.update(seed.as_str());
        }
        hasher.finalize().into()
    }

    /// The qualifying data of a quote: a TPM may take fewer than 64 bytes, so it is SHA-256 of [`Subject::report_data`].
    pub fn qualifying_data(&self) -> [u8; 32] {
        Sha256::digest(self.report_data()).into()
    }
}

/// A report of an AMD SEV-SNP guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// ATTESTATION_REPORT, 1184 bytes.
    pub report: Vec<u8>,
    /// The certificate table of the extended report, as the host gave it; may be empty.
    pub certificates: Vec<u8>,
}

/// A quote of a TPM 2.0, with what it takes to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmEvidence {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the key that signed.
    pub ak_public: Vec<u8>,
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_public: Vec<u8>,
    /// The endorsement key's certificate, if the TPM holds one.
    pub ek_certificate: Option<Vec<u8>>,
    /// The signing key's own certificate, where a cloud issues one.
    pub ak_certificate: Option<Vec<u8>>,
    /// The firmware's event log, as the kernel shows it.
    pub event_log: Vec<u8>,
    /// The registers that the quote covers (SHA-256 bank).
    pub pcrs: BTreeMap<u8, [u8; 32]>,
}

/// What a node shows. Nothing in it is believed for being there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The question it answers.
    pub nonce: Nonce,
    /// SHA-256 of the program that runs.
    pub app_digest: [u8; 32],
    /// The processor's word.
    pub snp: Option<SnpEvidence>,
    /// The TPM's word.
    pub tpm: Option<TpmEvidence>,
    /// Where the node's seed comes from, by the word of the program that was measured.
    pub seed: Option<Source>,
}

impl Evidence {
    /// The name of what it rests on: `snp`, `tpm`, `snp+tpm` or `none`.
    pub fn kind(&self) -> &'static str {
        match (&self.snp, &self.tpm) {
            (Some(_), Some(_)) => "snp+tpm",
            (Some(_), None) => "snp",
            (None, Some(_)) => "tpm",
            (None, None) => "none",
        }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        Map::new()
            .with(0, VERSION)
            .with(1, self.nonce.0)
            .with(2, self.app_digest)
            .with_some(3, self.snp.as_ref().map(SnpEvidence::to_map))
            .with_some(4, self.tpm.as_ref().map(TpmEvidence::to_map))
            .with_some(5, self.seed.map(Source::as_str))
            .encode()
    }

    /// Reads what [`Evidence::encode`] wrote; anything else is refused.
    pub fn decode(bytes: &[u8]) -> Result<Evidence, CborError> {
        let mut map = Map::decode(bytes, MAX_EVIDENCE)?;
        if map.uint(0)? != VERSION {
            return Err(CborError::Field(0));
        }
        let evidence = Evidence {
            nonce: Nonce(map.array(1)?),
            app_digest: map.array(2)?,
            snp: map.opt_map(3)?.map(SnpEvidence::from_map).transpose()?,
            tpm: map.opt_map(4)?.map(TpmEvidence::from_map).transpose()?,
            seed: map.opt_text(5, MAX_SOURCE)?.map(|name| name.parse().map_err(|_| CborError::Field(5))).transpose()?,
        };
        map.finish()?;
        Ok(evidence)
    }

    /// The name under which a verification is recorded: SHA-256 of the canonical bytes.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }
}

impl SnpEvidence {
    fn to_map(&self) -> Map {
        Map::new().with(0, self.report.clone()).with(1, self.certificates.clone())
    }

    fn from_map(mut map: Map) -> Result<SnpEvidence, CborError> {
        let evidence = SnpEvidence { report: map.bytes(0, MAX_TPM)?, certificates: map.bytes(1, MAX_CERTIFICATES)? };
        map.finish()?;
        Ok(evidence)
    }
}

impl TpmEvidence {
    fn to_map(&self) -> Map {
        let pcrs = self.pcrs.iter().fold(Map::new(), |map, (index, value)| map.with(u64::from(*index), *value));
        Map::new()
            .with(0, self.attest.clone())
            .with(1, self.signature.clone())
            .with(2, self.ak_public.clone())
            .with(3, self.ek_public.clone())
            .with_some(4, self.ek_certificate.clone())
            .with_some(5, self.ak_certificate.clone())
            .with(6, self.event_log.clone())
            .with(7, pcrs)
    }

    fn from_map(mut map: Map) -> Result<TpmEvidence, CborError> {
        let mut registers = map.opt_map(7)?.ok_or(CborError::Field(7))?;
        let numbers: Vec<u64> = registers.keys().collect();
        let mut pcrs = BTreeMap::new();
        for number in numbers {
            let index = u8::try_from(number).ok().filter(|_| number < REGISTERS).ok_or(CborError::Field(7))?;
            pcrs.insert(index, registers.array(number)?);
        }
        let evidence = TpmEvidence {
            attest: map.bytes(0, MAX_TPM)?,
            signature: map.bytes(1, MAX_TPM)?,
            ak_public: map.bytes(2, MAX_TPM)?,
            ek_public: map.bytes(3, MAX_TPM)?,
            ek_certificate: map.opt_bytes(4, MAX_TPM_CERTIFICATE)?,
            ak_certificate: map.opt_bytes(5, MAX_TPM_CERTIFICATE)?,
            event_log: map.bytes(6, MAX_EVENT_LOG)?,
            pcrs,
        };
        map.finish()?;
        Ok(evidence)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn largest() -> Evidence {
        let pcrs = (0..24).map(|index| (index, [index; 32])).collect();
        Evidence {
            nonce: Nonce([7; 32]),
            app_digest: [8; 32],
            snp: Some(SnpEvidence { report: vec![1; 1184], certificates: vec![2; 6 * 1024] }),
            seed: Some(Source::Measured),
            tpm: Some(TpmEvidence {
                attest: vec![3; 256],
                signature: vec![4; 264],
                ak_public: vec![5; 320],
                ek_public: vec![6; 320],
                ek_certificate: Some(vec![7; 1600]),
                ak_certificate: Some(vec![7; 1600]),
                event_log: vec![8; MAX_EVENT_LOG],
                pcrs,
            }),
        }
    }

    #[test]
    fn evidence_comes_back_as_it_was() {
        let whole = largest();
        for evidence in [
            Evidence { snp: None, ..whole.clone() },
            Evidence { tpm: None, ..whole.clone() },
            Evidence { snp: None, tpm: None, ..whole.clone() },
            Evidence { seed: None, ..whole.clone() },
            whole,
        ] {
            let bytes = evidence.encode();
            assert!(bytes.len() <= MAX_EVIDENCE, "{}", bytes.len());
            assert_eq!(Evidence::decode(&bytes).unwrap(), evidence);
            assert!(Evidence::decode(&[&bytes[..], &[0]].concat()).is_err(), "nothing may follow");
            assert!(Evidence::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_subject_has_data_of_its_own_in_each_part() {
        let subject = Subject { node: [1; 32], app_digest: [2; 32], nonce: Nonce([3; 32]), seed: None };
        let others = [
            Subject { seed: Some(Source::Owner), ..subject },
            Subject { seed: Some(Source::Sealed), ..subject },
            Subject { node: [9; 32], ..subject },
            Subject { app_digest: [9; 32], ..subject },
            Subject { nonce: Nonce([9; 32]), ..subject },
            Subject { node: subject.app_digest, app_digest: subject.node, ..subject },
        ];
        for other in others {
            assert_ne!(other.report_data(), subject.report_data());
            assert_ne!(other.qualifying_data(), subject.qualifying_data());
        }
        // The label and the lengths are part of the format (docs/protocol.md).
        let mut plain = b"portdistrict evidence v1".to_vec();
        for part in [[1; 32], [2; 32], [3; 32]] {
            plain.extend([0, 0, 0, 32]);
            plain.extend(part);
        }
        assert_eq!(subject.report_data()[..], Sha512::digest(&plain)[..]);
        plain.extend(b"\0\0\0\x06sealed");
        assert_eq!(Subject { seed: Some(Source::Sealed), ..subject }.report_data()[..], Sha512::digest(&plain)[..]);
    }

    #[test]
    fn the_time_is_read_only_where_nobody_asked() {
        assert_eq!(Nonce::at(1_795_000_000).time(), Some(1_795_000_000));
        assert_eq!(Nonce([1; 32]).time(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(evidence) = Evidence::decode(&bytes) {
                prop_assert_eq!(evidence.encode(), bytes);
            }
        }
    }
}

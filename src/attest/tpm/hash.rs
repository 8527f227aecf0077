//! The two hash functions that are accepted, under the numbers that TPMs use.

/// The hash functions that are accepted (`TPM_ALG_ID`, Part 2, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256: `TPM_ALG_SHA256`, 0x000b, 32 bytes.
    Sha256,
    /// SHA-384: `TPM_ALG_SHA384`, 0x000c, 48 bytes.
    Sha384,
}

impl Hash {
    /// The hash function of a `TPM_ALG_ID`, if it is one that is accepted.
    pub fn from_id(id: u16) -> Option<Hash> {
        match id {
            0x000b => Some(Hash::Sha256),
            0x000c => Some(Hash::Sha384),
            _ => None,
        }
    }

    /// The `TPM_ALG_ID`.
    pub fn id(self) -> u16 {
        match self {
            Hash::Sha256 => 0x000b,
            Hash::Sha384 => 0x000c,
        }
    }

    /// The size of a digest in bytes.
    pub fn size(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
        }
    }

    /// The size of a digest in bits.
    pub(crate) fn bits(self) -> u16 {
        match self {
            Hash::Sha256 => 256,
            Hash::Sha384 => 384,
        }
    }

    /// The digest of all parts, one after the other.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> aws_lc_rs::digest::Digest {
        let mut context = aws_lc_rs::digest::Context::new(match self {
            Hash::Sha256 => &aws_lc_rs::digest::SHA256,
            Hash::Sha384 => &aws_lc_rs::digest::SHA384,
        });
        for part in parts {
            context.update(part);
        }
        context.finish()
    }
}

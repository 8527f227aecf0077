//! CRC-32C (RFC 3720, B.4), by which Cloud Storage checks what arrives.

use crc::{CRC_32_ISCSI, Crc, Digest, Table};

/// One for the whole program: its tables are large.
static TABLES: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A checksum under way.
#[derive(Clone)]
pub struct Crc32c(Digest<'static, u32, Table<16>>);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(TABLES.digest())
    }
}

impl Crc32c {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum as Cloud Storage writes it: big-endian, in base64.
    pub fn finish(self) -> String {
        data_encoding::BASE64.encode(&self.0.finalize().to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answers() {
        // RFC 3720, B.4; and the check value of the catalogue of CRCs.
        for (bytes, crc) in [(vec![0; 32], 0x8A91_36AAu32), (vec![0xFF; 32], 0x62A8_AB43), (b"123456789".to_vec(), 0xE306_9283)] {
            let right = data_encoding::BASE64.encode(&crc.to_be_bytes());
            for cut in 0..bytes.len() {
                let mut sum = Crc32c::default();
                sum.update(&bytes[..cut]);
                sum.update(&bytes[cut..]);
                assert_eq!(sum.finish(), right, "{bytes:?} cut at {cut}");
            }
        }
    }
}

//! CRC-32C (RFC 3720, B.4), by which Cloud Storage checks what arrives: eight bytes at a time from tables.

const POLYNOMIAL: u32 = 0x82F6_3B78;
const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// A checksum under way.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(u32::MAX)
    }
}

impl Crc32c {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let word = u64::from_le_bytes(*eight) ^ u64::from(crc);
            crc = 0;
            for (at, byte) in word.to_le_bytes().into_iter().enumerate() {
                crc ^= TABLES[7 - at][usize::from(byte)];
            }
        }
        for byte in rest {
            crc = crc >> 8 ^ TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
        }
        self.0 = crc;
    }

    /// The checksum as Cloud Storage writes it: big-endian, in base64.
    pub fn finish(self) -> String {
        data_encoding::BASE64.encode(&(!self.0).to_be_bytes())
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

//! Portable executables (Microsoft PE format): adds sections, and computes the digest that firmware measures (Authenticode).

use crate::error::{Code, Error, Result};
use sha2::{Digest, Sha256};

/// Bytes of one section header.
const SECTION: usize = 40;
/// Offsets within the optional header of a PE32+.
const SECTION_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const SIZE_OF_IMAGE: usize = 56;
const SIZE_OF_HEADERS: usize = 60;
const CHECK_SUM: usize = 64;
/// Entry 4 of the data directory: where signatures are.
const CERTIFICATES: usize = 144;
/// Section holds data that can be read.
const INITIALIZED_READABLE: u32 = 0x4000_0040;
/// More sections than any executable here has.
const MAX_SECTIONS: u16 = 96;

/// An executable whose headers have been checked.
pub(super) struct Pe<'a> {
    bytes: &'a [u8],
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the first section header.
    table: usize,
    sections: Vec<Section>,
}

/// A section as it lies in the file.
struct Section {
    /// Where it is loaded, relative to the image.
    address: u32,
    /// Bytes when loaded.
    size: u32,
    /// Where its bytes are in the file.
    raw: (usize, usize),
}

impl<'a> Pe<'a> {
    /// Checks the headers; `name` is for messages.
    pub(super) fn parse(name: &str, bytes: &'a [u8]) -> Result<Pe<'a>> {
        Self::read(bytes).ok_or_else(|| {
            Error::new(Code::Usage, format!("{name} is no 64-bit EFI program, or it ends early"))
                .hint("the stub is /usr/lib/systemd/boot/efi/linuxx64.efi.stub of the package systemd-boot-efi")
        })
    }

    fn read(bytes: &'a [u8]) -> Option<Pe<'a>> {
        let start = usize::try_from(u32_at(bytes, 0x3c)?).ok()?;
        if bytes.get(..2)? != b"MZ" || bytes.get(start..start.checked_add(4)?)? != b"PE\0\0" {
            return None;
        }
        let coff = start + 4;
        let (count, optional_size) = (u16_at(bytes, coff + 2)?, u16_at(bytes, coff + 16)?);
        let optional = coff + 20;
        let table = optional + usize::from(optional_size);
        let is_pe32_plus = u16_at(bytes, optional)? == 0x20b;
        if !is_pe32_plus || usize::from(optional_size) < CERTIFICATES + 8 || count > MAX_SECTIONS {
            return None;
        }
        let sections = (0..usize::from(count)).map(|index| Section::read(bytes, table + index * SECTION)).collect::<Option<_>>()?;
        let pe = Pe { bytes, coff, optional, table, sections };
        let headers = pe.field(SIZE_OF_HEADERS)? as usize;
        let fits = headers <= bytes.len() && headers >= table + usize::from(count) * SECTION;
        let aligned = |field| pe.field(field).is_some_and(u32::is_power_of_two);
        (fits && aligned(SECTION_ALIGNMENT) && aligned(FILE_ALIGNMENT)).then_some(pe)
    }

    fn field(&self, offset: usize) -> Option<u32> {
        u32_at(self.bytes, self.optional + offset)
    }

    /// Whether a text stands in the contents of its sections (not in its headers).
    pub(super) fn mentions(&self, text: &[u8]) -> bool {
        self.sections.iter().any(|section| {
            let data = &self.bytes[section.raw.0..section.raw.1];
            data.windows(text.len()).any(|window| window == text)
        })
    }

    /// SHA-256 over everything but checksum, signatures and their place (Authenticode PE, "Calculating the PE Image Hash").
    pub(super) fn authenticode(&self) -> Option<[u8; 32]> {
        let headers = self.field(SIZE_OF_HEADERS)? as usize;
        let (check_sum, certificates) = (self.optional + CHECK_SUM, self.optional + CERTIFICATES);
        let signed = u32_at(self.bytes, certificates + 4)? as usize;
        let mut hasher = Sha256::new();
        hasher.update(self.bytes.get(..check_sum)?);
        hasher.update(self.bytes.get(check_sum + 4..certificates)?);
        hasher.update(self.bytes.get(certificates + 8..headers)?);
        let mut sections: Vec<_> = self.sections.iter().filter(|section| section.raw.0 < section.raw.1).collect();
        sections.sort_by_key(|section| section.raw.0);
        let mut hashed = headers;
        for section in sections {
            hasher.update(&self.bytes[section.raw.0..section.raw.1]);
            hashed += section.raw.1 - section.raw.0;
        }
        hasher.update(self.bytes.get(hashed..self.bytes.len().checked_sub(signed)?).unwrap_or_default());
        Some(hasher.finalize().into())
    }

    /// The same executable with more sections behind the last one; none if there is no room for their headers.
    pub(super) fn with_sections(&self, added: &[(&str, &[u8])]) -> Option<Vec<u8>> {
        let (section_align, file_align) = (self.field(SECTION_ALIGNMENT)?, self.field(FILE_ALIGNMENT)? as usize);
        let table_end = self.table + self.sections.len() * SECTION;
        if table_end + added.len() * SECTION > self.field(SIZE_OF_HEADERS)? as usize {
            return None;
        }
        let mut out = self.bytes.to_vec();
        let last =
            self.sections.iter().map(|section| section.address.checked_add(section.size)).try_fold(0, |max, end| Some(end?.max(max)))?;
        let mut address = last.checked_next_multiple_of(section_align)?;
        for (index, (name, data)) in added.iter().enumerate() {
            out.resize(out.len().next_multiple_of(file_align), 0);
            let (raw, size) = (u32::try_from(out.len()).ok()?, u32::try_from(data.len()).ok()?);
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(file_align), 0);
            let raw_size = u32::try_from(out.len()).ok()? - raw;
            let header = &mut out[table_end + index * SECTION..][..SECTION];
            header.fill(0);
            header.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
            put_u32(header, 8, size);
            put_u32(header, 12, address);
            put_u32(header, 16, raw_size);
            put_u32(header, 20, raw);
            put_u32(header, 36, INITIALIZED_READABLE);
            address = address.checked_add(size)?.checked_next_multiple_of(section_align)?;
        }
        let count = (self.sections.len() + added.len()) as u16;
        out[self.coff + 2..self.coff + 4].copy_from_slice(&count.to_le_bytes());
        put_u32(&mut out, self.optional + SIZE_OF_IMAGE, address);
        put_u32(&mut out, self.optional + CHECK_SUM, 0);
        Some(out)
    }
}

impl Section {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let header = bytes.get(at..at + SECTION)?;
        let (size, address) = (u32_at(header, 8)?, u32_at(header, 12)?);
        let (length, start) = (u32_at(header, 16)? as usize, u32_at(header, 20)? as usize);
        let end = start.checked_add(length)?;
        bytes.get(start..end)?;
        Some(Section { address, size, raw: (start, end) })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest executable that the checks let through: one section, room for three more headers.
    fn smallest() -> Vec<u8> {
        let mut bytes = vec![0; 0x600];
        bytes[..2].copy_from_slice(b"MZ");
        put_u32(&mut bytes, 0x3c, 0x40);
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        bytes[0x46..0x48].copy_from_slice(&1u16.to_le_bytes());
        bytes[0x54..0x56].copy_from_slice(&240u16.to_le_bytes());
        let optional = 0x58;
        bytes[optional..optional + 2].copy_from_slice(&0x20bu16.to_le_bytes());
        put_u32(&mut bytes, optional + SECTION_ALIGNMENT, 0x1000);
        put_u32(&mut bytes, optional + FILE_ALIGNMENT, 0x200);
        put_u32(&mut bytes, optional + SIZE_OF_IMAGE, 0x2000);
        put_u32(&mut bytes, optional + SIZE_OF_HEADERS, 0x200);
        let section = optional + 240;
        bytes[section..section + 5].copy_from_slice(b".text");
        put_u32(&mut bytes, section + 8, 0x10);
        put_u32(&mut bytes, section + 12, 0x1000);
        put_u32(&mut bytes, section + 16, 0x200);
        put_u32(&mut bytes, section + 20, 0x200);
        bytes[0x200..0x207].copy_from_slice(b".linux\0");
        bytes
    }

    #[test]
    fn added_sections_lie_behind_the_others_and_read_back() {
        let bytes = smallest();
        let stub = Pe::parse("a stub", &bytes).unwrap();
        assert!(stub.mentions(b".linux") && !stub.mentions(b".text"), "contents count, headers do not");
        let whole = stub.with_sections(&[(".osrel", b"hello")]).unwrap();
        let pe = Pe::parse("an image", &whole).unwrap();
        assert_eq!(pe.sections.len(), 2);
        let added = &pe.sections[1];
        assert_eq!((added.address, added.size), (0x2000, 5));
        assert_eq!(&whole[added.raw.0..added.raw.0 + 5], b"hello");
        assert_eq!(pe.field(SIZE_OF_IMAGE), Some(0x3000));
        let four: [(&str, &[u8]); 4] = [(".a", b""), (".b", b""), (".c", b""), (".d", b"")];
        assert!(stub.with_sections(&four[..3]).is_some() && stub.with_sections(&four).is_none(), "there is room for three headers");
    }

    #[test]
    fn checksum_and_signatures_do_not_count_and_everything_else_does() {
        let mut bytes = smallest();
        let digest = Pe::parse("a stub", &bytes).unwrap().authenticode().unwrap();
        put_u32(&mut bytes, 0x58 + CHECK_SUM, 7);
        // A signature of eight bytes at the end.
        put_u32(&mut bytes, 0x58 + CERTIFICATES, 0x600);
        put_u32(&mut bytes, 0x58 + CERTIFICATES + 4, 8);
        bytes.extend_from_slice(&[9; 8]);
        assert_eq!(Pe::parse("a stub", &bytes).unwrap().authenticode(), Some(digest));
        bytes[0x300] ^= 1;
        assert_ne!(Pe::parse("a stub", &bytes).unwrap().authenticode(), Some(digest));
        bytes[0x300] ^= 1;
        bytes[0x500] ^= 1;
        assert_ne!(Pe::parse("a stub", &bytes).unwrap().authenticode(), Some(digest), "bytes behind the last section count");
    }

    #[test]
    fn every_truncation_is_refused_or_whole() {
        let bytes = smallest();
        for length in 0..bytes.len() {
            if let Ok(pe) = Pe::parse("a stub", &bytes[..length]) {
                assert!(pe.authenticode().is_some() && length >= 0x400, "{length}");
            }
        }
    }
}

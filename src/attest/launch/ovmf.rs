//! What an OVMF firmware says about itself at its end: a table of GUIDs, and the SEV metadata that it leads to.
//!
//! Formats: edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` (table) and `X64/OvmfSevMetadata.asm` (metadata). A firmware
//! may come from anywhere, so every number in it is checked before it is used.

use super::Error;
use super::gctx::{Digest, Gctx, PAGE, PageType, sha384};
use super::hashes;

/// Far above real firmware, which has 2 to 16 MiB.
pub(super) const MAX_FIRMWARE: usize = 64 << 20;
/// All pages that metadata may ask for, 64 MiB; real firmware has about 32.
pub(super) const MAX_PAGES: u64 = 16_384;

/// The firmware ends where the first 4 GiB end.
const TOP: u64 = 1 << 32;
/// From the end of the table to the end of the firmware: the reset vector's code.
const AFTER_TABLE: usize = 32;
/// Size and GUID, which end each entry of the table.
const ENTRY: usize = 18;
/// Signature, size, version, count.
const METADATA: usize = 16;
/// Address, size, type.
const SECTION: usize = 12;

const FOOTER: Guid = guid(0x96b582de, 0x1fb2, 0x45f7, 0xbaea_a366c55a082d);
const RESET_VECTOR: Guid = guid(0x00f771de, 0x1a7e, 0x4fcb, 0x890e_68c77e2fb44e);
const SEV_METADATA: Guid = guid(0xdc886566, 0x984a, 0x4798, 0xa75e_5585a7bf67cc);
const HASHES_TABLE: Guid = guid(0x7255371f, 0x3a3b, 0x4b04, 0x927b_1da6efa8d454);

/// A GUID as EFI stores it.
pub(super) type Guid = [u8; 16];

/// EFI stores the first three groups of a GUID in little-endian order and the rest as written.
pub(super) const fn guid(a: u32, b: u16, c: u16, rest: u64) -> Guid {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// What a section of the metadata is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Memory that the firmware uses before it can accept any itself.
    Memory,
    /// The page with the guest's keys.
    Secrets,
    /// The page with the CPUID values that the processor has checked.
    Cpuid,
    /// The calling area of an SVSM; not used here, where no SVSM runs.
    SvsmCaa,
    /// The page with the table of kernel hashes.
    KernelHashes,
}

/// Pages that the hypervisor must load besides the firmware itself.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) address: u64,
    pub(super) pages: u64,
}

/// An OVMF firmware that can start an SEV-SNP guest.
#[derive(Debug)]
pub struct Firmware<'a> {
    bytes: &'a [u8],
    pub(super) sections: Vec<Section>,
    /// Where virtual CPUs after the first one start, if there may be any.
    pub(super) reset_vector: Option<u32>,
    /// Address and bytes of the table of kernel hashes.
    hashes_table: Option<(u32, u32)>,
}

impl<'a> Firmware<'a> {
    /// Reads the table and the metadata at the end of a firmware: the whole file that the hypervisor loads below 4 GiB.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_FIRMWARE {
            return Err(Error::TooLarge(bytes.len()));
        }
        if bytes.is_empty() || !bytes.len().is_multiple_of(PAGE) {
            return Err(Error::NotPages(bytes.len()));
        }
        let table = table(bytes)?;
        let offset = find(table, &SEV_METADATA)?.and_then(|entry| u32_at(entry, 0)).ok_or(Error::NoMetadata)?;
        let hashes_table = find(table, &HASHES_TABLE)?.and_then(|entry| Some((u32_at(entry, 0)?, u32_at(entry, 4)?)));
        Ok(Firmware {
            bytes,
            sections: sections(bytes, offset)?,
            // Builds without SEV-ES or without kernel hashes have the entry filled with zeroes.
            reset_vector: find(table, &RESET_VECTOR)?.and_then(|entry| u32_at(entry, 0)).filter(|address| *address != 0),
            hashes_table: hashes_table.filter(|(address, _)| *address != 0),
        })
    }

    /// The digest after the firmware's own pages, before its sections: what sev-snp-measure calls `snp:ovmf-hash`.
    pub fn digest(&self) -> Digest {
        let mut gctx = Gctx::new();
        let mut address = TOP - self.bytes.len() as u64;
        let mut last: (&[u8], Digest) = (&[], [0; 48]);
        for page in self.bytes.chunks_exact(PAGE) {
            // A quarter to a half of the pages only repeat the one before, as padding; comparing costs far less than hashing.
            if page != last.0 {
                last = (page, sha384(page));
            }
            gctx.add(PageType::Normal, address, &last.1);
            address += PAGE as u64;
        }
        gctx.0
    }

    /// Whether it starts a kernel only if that has the hashes that were measured at the launch.
    pub fn checks_kernels(&self) -> bool {
        self.hashes_offset().is_ok()
    }

    /// Where in its page the table of kernel hashes goes.
    pub(super) fn hashes_offset(&self) -> Result<usize, Error> {
        let measured = self.sections.iter().any(|section| section.kind == Kind::KernelHashes);
        let (address, size) = self.hashes_table.filter(|_| measured).ok_or(Error::NoKernelHashes)?;
        let offset = address as usize % PAGE;
        if (size as usize) < hashes::PADDED_LEN || offset + hashes::PADDED_LEN > PAGE {
            return Err(Error::BadKernelHashes { address, size });
        }
        Ok(offset)
    }
}

/// The entries before the footer, which is an entry too and holds the size of all.
fn table(bytes: &[u8]) -> Result<&[u8], Error> {
    let (rest, _) = bytes.split_last_chunk::<AFTER_TABLE>().ok_or(Error::NoTable)?;
    let (rest, footer) = rest.split_last_chunk::<ENTRY>().ok_or(Error::NoTable)?;
    if footer[2..] != FOOTER {
        return Err(Error::NoTable);
    }
    let size = u16::from_le_bytes([footer[0], footer[1]]);
    let entries = usize::from(size).checked_sub(ENTRY).and_then(|size| rest.len().checked_sub(size));
    entries.and_then(|start| rest.get(start..)).ok_or(Error::BadTable(size))
}

/// The data of an entry. Each one ends with its size and GUID, so the table is read from its end; of two with one GUID the
/// later counts, as in QEMU (`pc_system_ovmf_table_find`).
fn find<'a>(mut table: &'a [u8], wanted: &Guid) -> Result<Option<&'a [u8]>, Error> {
    while let Some((data, end)) = table.split_last_chunk::<ENTRY>() {
        let size = u16::from_le_bytes([end[0], end[1]]);
        let start = table.len().checked_sub(usize::from(size)).filter(|start| *start <= data.len()).ok_or(Error::BadTable(size))?;
        if end[2..] == *wanted {
            return Ok(Some(&data[start..]));
        }
        table = &table[..start];
    }
    Ok(None)
}

fn sections(bytes: &[u8], offset: u32) -> Result<Vec<Section>, Error> {
    let bad = |field, value| Error::BadMetadata { field, value };
    let start = bytes.len().checked_sub(offset as usize).filter(|_| offset as usize >= METADATA);
    let metadata = start.and_then(|start| bytes.get(start..)).ok_or_else(|| bad("its distance from the end", offset))?;
    let field = |at| u32_at(metadata, at).unwrap_or(0);
    let (signature, size, version, count) = (field(0), field(4), field(8), field(12));
    if signature != u32::from_le_bytes(*b"ASEV") {
        return Err(bad("its signature", signature));
    }
    if version != 1 {
        return Err(Error::UnknownVersion(version));
    }
    let list = metadata.get(METADATA..size as usize).ok_or_else(|| bad("its size", size))?;
    if list.len() / SECTION < count as usize {
        return Err(bad("its number of sections", count));
    }
    let mut pages = 0;
    let mut sections = Vec::new();
    for entry in list.chunks_exact(SECTION).take(count as usize) {
        let section = section(entry)?;
        pages += section.pages;
        if pages > MAX_PAGES {
            return Err(Error::TooManyPages);
        }
        sections.push(section);
    }
    Ok(sections)
}

fn section(entry: &[u8]) -> Result<Section, Error> {
    let field = |at| u32_at(entry, at).unwrap_or(0);
    let (address, size, kind) = (field(0), field(4), field(8));
    let (kind, single) = match kind {
        1 => (Kind::Memory, false),
        2 => (Kind::Secrets, true),
        3 => (Kind::Cpuid, true),
        4 => (Kind::SvsmCaa, false),
        0x10 => (Kind::KernelHashes, true),
        other => return Err(Error::UnknownSection(other)),
    };
    let whole = size > 0 && size.is_multiple_of(PAGE as u32) && address.is_multiple_of(PAGE as u32);
    // Hypervisors do not agree on what several pages of secrets or CPUID values would be; nobody builds that.
    if !whole || single && size as usize != PAGE {
        return Err(Error::BadSection { address, size });
    }
    Ok(Section { kind, address: address.into(), pages: u64::from(size) / PAGE as u64 })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

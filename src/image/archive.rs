//! The form in which Google takes a disk: `disk.raw` in a gzipped old GNU tar, with its holes left out
//! (what `tar --format=oldgnu -Sczf` makes).

use super::disk::{DISK, Extent};
use crate::error::{Doing, Result};
use miniz_oxide::deflate::compress_to_vec;
use std::io::{self, Read, Seek, SeekFrom, Write};
use tar::{EntryType, Header};

/// The name that Google wants.
const NAME: &str = "disk.raw";
/// No name, no time, no flags, unknown system (RFC 1952, 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The deflate of one library and not of another: the same bytes on every processor.
const LEVEL: u8 = 6;
/// Holes below this size are kept as zeros: the header has room for four ranges.
const SMALL_HOLE: u64 = 1024 * 1024;
const BLOCK: usize = 512;

/// Writes the archive of a disk with data in `extents`.
pub fn write(disk: &mut (impl Read + Seek), extents: &[Extent], epoch: u32, out: &mut impl Write) -> Result<()> {
    try_write(disk, extents, epoch, out).doing("write", "the archive")
}

fn try_write(disk: &mut (impl Read + Seek), extents: &[Extent], epoch: u32, out: &mut impl Write) -> io::Result<()> {
    let extents = join(extents);
    let mut tar = header(&extents, epoch)?.as_bytes().to_vec();
    for (start, length) in &extents {
        disk.seek(SeekFrom::Start(*start))?;
        let copied = disk.by_ref().take(*length).read_to_end(&mut tar)?;
        if copied as u64 != *length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The file's last block, and two empty ones for the archive's end.
    tar.resize(tar.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    out.write_all(&GZIP_HEADER)?;
    out.write_all(&compress_to_vec(&tar, LEVEL))?;
    out.write_all(&crc32fast::hash(&tar).to_le_bytes())?;
    // The length modulo 2^32, as the format has it.
    out.write_all(&(tar.len() as u32).to_le_bytes())?;
    out.flush()
}

fn header(extents: &[Extent], epoch: u32) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_path(NAME)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch.into());
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(extents.iter().map(|(_, length)| length).sum());
    let gnu = header.as_gnu_mut().ok_or(io::ErrorKind::Other)?;
    gnu.set_real_size(DISK);
    if extents.len() > gnu.sparse.len() {
        return Err(io::Error::other(format!("the disk has {} ranges of data, four can be named", extents.len())));
    }
    for (field, (start, length)) in gnu.sparse.iter_mut().zip(extents) {
        field.set_offset(*start);
        field.set_length(*length);
    }
    header.set_cksum();
    Ok(header)
}

/// Ranges with only a small hole between them become one.
fn join(extents: &[Extent]) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for (start, length) in extents {
        match joined.last_mut() {
            Some((from, so_far)) if start - (*from + *so_far) < SMALL_HOLE && *from > 0 => *so_far = start + length - *from,
            _ => joined.push((*start, *length)),
        }
    }
    joined
}

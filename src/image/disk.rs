//! A bootable disk: GPT, and one FAT32 file system with `EFI/BOOT/BOOTX64.EFI` (UEFI 2.10, 5 and 13.3). Identifiers and times are
//! fixed, so the same program gives the same disk.

use crate::error::{Doing, Result};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use uuid::{Uuid, uuid};

/// Size of a disk: Google takes multiples of 1 GiB only. Nearly all of it is a hole.
pub const DISK: u64 = 1024 * 1024 * 1024;
/// Where the file system begins.
const START: u64 = 1024 * 1024;
/// FAT32 wants at least 65,525 clusters (Microsoft FAT specification 1.03, 3.5).
const SMALLEST: u64 = 64 * 1024 * 1024;
/// Room for the file system's own tables, beside the program.
const TABLES: u64 = 4 * 1024 * 1024;
const SECTOR: u64 = 512;
/// Holes are kept in units of this many bytes.
const BLOCK: usize = 4096;
/// Identifies every disk that this program makes; random, once.
const DISK_ID: Uuid = uuid!("5b3d0c6e-8d0f-4b43-9c55-0c2f6e0b7a11");
const PARTITION_ID: Uuid = uuid!("d06f8c4b-2c92-4a6e-b7a1-6f9f0f1d5e42");
const VOLUME_ID: u32 = 0x5044_0001;
const VOLUME_LABEL: &[u8; 11] = b"PORTDISTRCT";

/// A range of a disk that is not a hole: offset and length.
pub type Extent = (u64, u64);

/// Writes a disk that boots `program`; says where there is data. `out` begins as a hole of [`DISK`] bytes.
pub fn write<D: Read + Write + Seek + std::fmt::Debug>(out: &mut D, program: &[u8]) -> Result<Vec<Extent>> {
    let doing = |result: io::Result<Vec<Extent>>| result.doing("write", "the disk image");
    doing(try_write(out, program))
}

fn try_write<D: Read + Write + Seek + std::fmt::Debug>(out: &mut D, program: &[u8]) -> io::Result<Vec<Extent>> {
    let system = file_system(program)?;
    let sectors = u32::try_from(DISK / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(out).map_err(io::Error::other)?;
    let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(&mut *out, Some(DISK_ID)).map_err(io::Error::other)?;
    let partition = Partition {
        part_type_guid: partition_types::EFI,
        part_guid: PARTITION_ID,
        first_lba: START / SECTOR,
        last_lba: (START + system.len() as u64) / SECTOR - 1,
        flags: 0,
        name: "portdistrict".to_owned(),
    };
    table.update_partitions(BTreeMap::from([(1, partition)])).map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)?;
    let mut extents = vec![(0, 34 * SECTOR)];
    extents.extend(write_sparse(out, START, &system)?);
    extents.push((DISK - 33 * SECTOR, 33 * SECTOR));
    Ok(extents)
}

/// A FAT32 file system with the program where firmware looks for it.
fn file_system(program: &[u8]) -> io::Result<Vec<u8>> {
    let size = size_for(program.len() as u64)
        .ok_or_else(|| io::Error::other(format!("a program of {} MiB does not fit onto a disk of 1 GiB", program.len() >> 20)))?;
    let mut bytes = vec![0; size as usize];
    let options =
        FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(512).volume_id(VOLUME_ID).volume_label(*VOLUME_LABEL);
    format_volume(Cursor::new(&mut bytes), options)?;
    {
        // Without a clock every time in it is 1980-01-01.
        let system = FileSystem::new(Cursor::new(&mut bytes), FsOptions::new())?;
        let folder = system.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
        let mut file = folder.create_file("BOOTX64.EFI")?;
        file.write_all(program)?;
        file.flush()?;
        drop(file);
        drop(folder);
        system.unmount()?;
    }
    Ok(bytes)
}

/// Bytes of a file system that holds a program; none if that would not fit onto the disk.
fn size_for(program: u64) -> Option<u64> {
    let size = (program + TABLES).max(SMALLEST).next_multiple_of(START);
    (size + 2 * START <= DISK).then_some(size)
}

/// Writes what is not zero, and says where that is.
fn write_sparse<D: Write + Seek>(out: &mut D, start: u64, bytes: &[u8]) -> io::Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let at = start + (index * BLOCK) as u64;
        out.seek(SeekFrom::Start(at))?;
        out.write_all(block)?;
        match extents.last_mut() {
            Some((from, length)) if *from + *length == at => *length += block.len() as u64,
            _ => extents.push((at, block.len() as u64)),
        }
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_grows_with_the_program_as_far_as_the_disk_goes() {
        assert_eq!(size_for(1), Some(SMALLEST));
        assert_eq!(size_for(SMALLEST), Some(SMALLEST + TABLES));
        assert_eq!(size_for(DISK), None);
        assert_eq!(size_for(DISK - 2 * START - TABLES), Some(DISK - 2 * START));
        assert_eq!(size_for(DISK - 2 * START - TABLES + 1), None);
    }

    #[test]
    fn a_disk_is_read_back_by_others_and_the_same_each_time() {
        let made = || {
            let mut file = tempfile::tempfile().unwrap();
            file.set_len(DISK).unwrap();
            let extents = write(&mut file, b"a program").unwrap();
            (file, extents)
        };
        let (mut one, extents) = made();
        let (mut two, again) = made();
        assert_eq!(extents, again);
        for (start, length) in &extents {
            let read = |file: &mut std::fs::File| {
                file.seek(SeekFrom::Start(*start)).unwrap();
                let mut bytes = vec![0; *length as usize];
                file.read_exact(&mut bytes).unwrap();
                bytes
            };
            assert_eq!(read(&mut one), read(&mut two), "at {start}");
        }
        let table = gpt::GptConfig::new().open_from_device(&mut one).unwrap();
        let partition = table.partitions()[&1].clone();
        assert_eq!((partition.part_type_guid, partition.part_guid), (partition_types::EFI, PARTITION_ID));
        let mut system = vec![0; ((partition.last_lba + 1 - partition.first_lba) * SECTOR) as usize];
        one.seek(SeekFrom::Start(partition.first_lba * SECTOR)).unwrap();
        one.read_exact(&mut system).unwrap();
        let system = FileSystem::new(Cursor::new(&mut system), FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        let mut program = Vec::new();
        system.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").unwrap().read_to_end(&mut program).unwrap();
        assert_eq!(program, b"a program");
    }
}

//! Metadata on a disk: a FAT file system with a known label, and in it one file. For hypervisors that can hand in nothing else.

use crate::error::{Doing, Result};
use crate::owner::metadata::MAX;
use fatfs::{FileSystem, FsOptions};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The file system's label.
pub(super) const LABEL: &str = "PDCONFIG";
/// How long disks may take to appear.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// The file in it.
const FILE: &str = "config.json";

/// Looks at every disk, also those that come up a moment after their driver; the name and the bytes of the file on the first
/// that has the label.
pub(super) fn find() -> Result<Option<(String, Vec<u8>)>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look()? {
            None if Instant::now() < deadline => std::thread::sleep(PAUSE),
            found => return Ok(found),
        }
    }
}

fn look() -> Result<Option<(String, Vec<u8>)>> {
    for name in names() {
        if let Some(bytes) = read(&Path::new("/dev").join(&name))? {
            return Ok(Some((name, bytes)));
        }
    }
    Ok(None)
}

/// The disks that the kernel knows.
pub(super) fn names() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The file's bytes, at most one more than is allowed; none if this is no such disk.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Ok(file) = File::open(path) else { return Ok(None) };
    let Ok(system) = FileSystem::new(ReadOnly(file), FsOptions::new().update_accessed_date(false)) else { return Ok(None) };
    if system.volume_label() != LABEL {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let root = system.root_dir();
    let file = root.open_file(FILE).doing("read", format!("{FILE} on {}", path.display()))?;
    file.take(MAX as u64 + 1).read_to_end(&mut bytes).doing("read", format!("{FILE} on {}", path.display()))?;
    Ok(Some(bytes))
}

/// A disk that nothing is ever written to.
struct ReadOnly(File);

impl Read for ReadOnly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for ReadOnly {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Write for ReadOnly {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatfs::{FormatVolumeOptions, format_volume};

    fn disk(label: &[u8; 11], file: Option<&[u8]>) -> tempfile::NamedTempFile {
        let made = tempfile::NamedTempFile::new().unwrap();
        let device = made.reopen().unwrap();
        device.set_len(2 * 1024 * 1024).unwrap();
        format_volume(&device, FormatVolumeOptions::new().volume_label(*label)).unwrap();
        if let Some(bytes) = file {
            let system = FileSystem::new(&device, FsOptions::new()).unwrap();
            system.root_dir().create_file(FILE).unwrap().write_all(bytes).unwrap();
        }
        made
    }

    #[test]
    fn only_a_disk_with_the_label_counts() {
        assert_eq!(read(disk(b"PDCONFIG   ", Some(b"hello")).path()).unwrap().as_deref(), Some(&b"hello"[..]));
        assert_eq!(read(disk(b"SOMETHING  ", Some(b"hello")).path()).unwrap(), None);
        assert!(read(disk(b"PDCONFIG   ", None).path()).unwrap_err().message().contains("config.json"));
        let noise = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(noise.path(), vec![7; 65536]).unwrap();
        assert_eq!(read(noise.path()).unwrap(), None);
    }
}

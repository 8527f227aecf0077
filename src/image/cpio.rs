//! Writes a `newc` cpio archive, the format of an initial root file system (Linux: driver-api/early-userspace/buffer-format).
//!
//! Owners are root, times are one given second, inodes count up, and entries stand in the order they were added: the
//! same calls give the same bytes.

/// Kind and permissions of a folder, as in `stat(2)`.
const FOLDER: u32 = 0o040_755;
/// The same of a file that only root may read.
const FILE: u32 = 0o100_400;
/// The same of a program.
const PROGRAM: u32 = 0o100_500;
/// The same of a character device.
const CHAR_DEVICE: u32 = 0o020_600;
/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";
/// What everything is padded to.
const ALIGN: usize = 4;

/// An archive under construction.
pub(super) struct Cpio {
    out: Vec<u8>,
    inode: u32,
    mtime: u32,
}

impl Cpio {
    /// Empty; everything in it will carry the time `mtime` (Unix seconds).
    pub(super) fn new(mtime: u32) -> Self {
        Cpio { out: Vec::new(), inode: 0, mtime }
    }

    /// Adds a folder; those above it must have been added before.
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, 2, (0, 0), &[]);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, data: &[u8]) {
        self.entry(path, FILE, 1, (0, 0), data);
    }

    /// Adds a program.
    pub(super) fn program(&mut self, path: &str, data: &[u8]) {
        self.entry(path, PROGRAM, 1, (0, 0), data);
    }

    /// Adds a character device.
    pub(super) fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHAR_DEVICE, 1, (major, minor), &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        (self.inode, self.mtime) = (0, 0);
        self.entry(TRAILER, 0, 1, (0, 0), &[]);
        self.out
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), data: &[u8]) {
        if path != TRAILER {
            self.inode += 1;
        }
        // An initial root file system holds less than 4 GiB: the caller's inputs are bounded far below.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = path.len() as u32 + 1;
        self.out.extend_from_slice(b"070701");
        let fields = [self.inode, mode, 0, 0, links, self.mtime, size, 0, 0, device.0, device.1, name_size, 0];
        for field in fields {
            self.out.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.out.extend_from_slice(path.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_same_calls_give_the_same_bytes_and_the_kernels_header() {
        let make = || {
            let mut cpio = Cpio::new(7);
            cpio.folder("dev");
            cpio.char_device("dev/console", 5, 1);
            cpio.file("a", b"hello");
            cpio.finish()
        };
        let bytes = make();
        assert_eq!(bytes, make());
        // Magic, then inode, mode, owner, group, links, time, size, device, device of a device, length of the name, checksum.
        let header = "070701 00000001 000041ED 00000000 00000000 00000002 00000007 00000000 \
                      00000000 00000000 00000000 00000000 00000004 00000000";
        assert_eq!(String::from_utf8_lossy(&bytes[..110]), header.replace(' ', ""));
        assert_eq!(bytes.len() % ALIGN, 0);
    }

    #[test]
    fn another_program_reads_it() {
        let mut cpio = Cpio::new(0);
        cpio.folder("lib");
        cpio.file("lib/a", b"hello");
        let Ok(mut child) = Command::new("cpio").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        else {
            return;
        };
        child.stdin.take().unwrap().write_all(&cpio.finish()).unwrap();
        assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), "lib\nlib/a\n");
    }
}

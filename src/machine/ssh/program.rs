//! The program that a server runs: this very one, or another build of it. On the server it is named by its digest.

use crate::encoding::hex;
use crate::error::{Code, Doing, Error, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// Digits of the digest that make the name: enough to tell builds apart, short enough to read.
const NAME: usize = 16;
/// The ELF header as far as it is looked at (System V ABI, figure 4-3).
const HEADER: usize = 20;

/// Where programs lie on a server; `bin`, so that policies of SELinux know what they are.
pub(super) fn folder_of_programs() -> &'static str {
    "/usr/local/lib/portdistrict/bin"
}

/// A program that can be sent.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Where it is here.
    pub(super) path: PathBuf,
    /// SHA-256, hex.
    pub(super) digest: String,
    /// In bytes.
    pub(super) size: u64,
    /// What it runs on, as `uname -m` says it; none if this version does not know.
    pub(super) architecture: Option<&'static str>,
}

impl Program {
    /// This very program as it runs, also if its file was replaced since; or the build that was named.
    pub(super) fn open(named: Option<&Path>) -> Result<Program> {
        let path = named.unwrap_or(Path::new("/proc/self/exe"));
        let mut file = File::open(path).doing("open", path.display())?;
        let mut header = Vec::new();
        file.by_ref().take(HEADER as u64).read_to_end(&mut header).doing("read", path.display())?;
        let architecture = architecture(&header).ok_or_else(|| {
            Error::new(Code::Usage, format!("{} is no program for Linux", path.display()))
                .hint("name a build of portdistrict, or leave --program away to send this one")
        })?;
        file.rewind().doing("read", path.display())?;
        let mut digest = Sha256::new();
        let size = std::io::copy(&mut file, &mut digest).doing("read", path.display())?;
        Ok(Program { path: path.to_owned(), digest: hex(&digest.finalize()), size, architecture })
    }

    /// Its name on the server.
    pub(super) fn name(&self) -> &str {
        &self.digest[..NAME]
    }
}

/// What an ELF program runs on: `None` for what is none, `Some(None)` for a processor that has no name here.
fn architecture(header: &[u8]) -> Option<Option<&'static str>> {
    let [0x7f, b'E', b'L', b'F', class, order, ..] = header else { return None };
    let machine: [u8; 2] = header.get(18..20)?.try_into().ok()?;
    let machine = if *order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    Some(match (machine, class, order) {
        (62, 2, 1) => Some("x86_64"),
        (183, 2, 1) => Some("aarch64"),
        (243, 2, 1) => Some("riscv64"),
        (21, 2, 1) => Some("ppc64le"),
        (22, 2, 2) => Some("s390x"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_one_for_this_processor() {
        let me = Program::open(None).unwrap();
        assert_eq!((me.architecture, me.digest.len(), me.name().len()), (Some(std::env::consts::ARCH), 64, NAME));
        assert_eq!(me.size, std::fs::metadata("/proc/self/exe").unwrap().len());
    }

    #[test]
    fn a_script_is_none() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "#!/bin/sh\n", "\x7fELF"] {
            let path = dir.path().join("script");
            std::fs::write(&path, text).unwrap();
            assert_eq!(Program::open(Some(&path)).unwrap_err().code(), Code::Usage);
        }
        assert_eq!(Program::open(Some(&dir.path().join("none"))).unwrap_err().code(), Code::Io);
    }
}

//! A unified kernel image: stub, kernel, initial file system and command line as one EFI program, and what a TPM will hold
//! after it has started (UAPI Group, "Unified Kernel Image").

use super::pcr;
use super::pe::Pe;
use crate::error::{Code, Error, Result};
use sha2::{Digest, Sha256};

/// Sections in the order in which stubs measure them; older stubs know fewer.
const MEASURED: [&str; 5] = [".linux", ".osrel", ".cmdline", ".initrd", ".uname"];

/// What a unified kernel image is made of.
pub(super) struct Parts<'a> {
    /// The EFI program that starts the rest.
    pub stub: &'a [u8],
    /// A `bzImage`.
    pub kernel: &'a [u8],
    /// The kernel's release, as in `6.12.117+deb12-cloud-amd64`.
    pub release: &'a str,
    /// A packed initial root file system.
    pub initrd: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// What it is, in os-release(5)'s form.
    pub os_release: &'a str,
}

/// One section, as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// As in `.linux`.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// SHA-256.
    pub sha256: [u8; 32],
}

/// The finished program and what follows from it.
pub struct Uki {
    /// The EFI program.
    pub bytes: Vec<u8>,
    /// Its sections in their order.
    pub pieces: Vec<Piece>,
    /// What firmware measures of it.
    pub authenticode: [u8; 32],
    /// What firmware measures of the kernel inside.
    pub kernel_authenticode: [u8; 32],
    /// PCR 4 after it has started, on firmware that starts nothing before it.
    pub pcr4: [u8; 32],
    /// PCR 11 after it has started.
    pub pcr11: [u8; 32],
}

/// Puts the parts together.
pub(super) fn assemble(parts: &Parts<'_>) -> Result<Uki> {
    let stub = Pe::parse("the stub", parts.stub)?;
    if !stub.mentions(b".linux") || !stub.mentions(b".initrd") {
        return Err(Error::new(Code::Usage, "this EFI program is no stub for unified kernel images")
            .hint("the stub is /usr/lib/systemd/boot/efi/linuxx64.efi.stub of the package systemd-boot-efi"));
    }
    let kernel_authenticode = Pe::parse("the kernel", parts.kernel)?.authenticode().ok_or_else(kernel_ends_early)?;
    let sections: [(&'static str, &[u8]); 5] = [
        (".osrel", parts.os_release.as_bytes()),
        (".cmdline", parts.command_line.as_bytes()),
        (".uname", parts.release.as_bytes()),
        (".linux", parts.kernel),
        (".initrd", parts.initrd),
    ];
    let bytes = stub.with_sections(&sections).ok_or_else(|| {
        Error::new(Code::Usage, "the stub has no room for five more sections").hint("use the stub of systemd 252 or later")
    })?;
    let authenticode = Pe::parse("the image", &bytes)?.authenticode().ok_or_else(kernel_ends_early)?;
    let measured: Vec<(&str, &[u8])> = MEASURED
        .into_iter()
        .filter(|name| stub.mentions(name.as_bytes()))
        .filter_map(|name| sections.iter().copied().find(|(section, _)| *section == name))
        .collect();
    let piece = |(name, data): &(&'static str, &[u8])| Piece { name, size: data.len(), sha256: Sha256::digest(data).into() };
    Ok(Uki {
        pieces: sections.iter().map(piece).collect(),
        authenticode,
        kernel_authenticode,
        pcr4: pcr::pcr4(&[authenticode, kernel_authenticode]),
        pcr11: pcr::pcr11(&measured),
        bytes,
    })
}

fn kernel_ends_early() -> Error {
    Error::new(Code::Usage, "the kernel ends early").hint("fetch the kernel package again: apt-get download PACKAGE")
}

//! An image on its way to a machine: found, copied with its holes, and refused if it is not what its description says.

use crate::config::fs;
use crate::encoding::hex;
use crate::error::{Code, Doing, Error, Result};
use crate::image::Manifest;
use crate::progress::Step;
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Copied at a time; a block of zeros becomes a hole.
const BLOCK: usize = 256 * 1024;

/// An image with its description.
pub(super) struct Found {
    /// The disk.
    pub(super) disk: PathBuf,
    /// Its description.
    pub(super) manifest: Manifest,
}

/// By its folder, its `image.json` or its disk.
pub(super) fn find(image: &Path) -> Result<Found> {
    let folder = if image.is_dir() { image } else { image.parent().unwrap_or(Path::new(".")) };
    let file = folder.join("image.json");
    let bytes = fs::read(&file, Manifest::MAX).map_err(|error| match error.code() {
        Code::NotFound => Error::new(Code::NotFound, format!("there is no image in {}: image.json is missing", folder.display()))
            .hint(format!("portdistrict machine build -o {}", fs::shell_quote(folder))),
        _ => error,
    })?;
    let manifest = Manifest::parse(&file.display().to_string(), &bytes)?;
    Ok(Found { disk: folder.join(&manifest.disk.name), manifest })
}

/// Copies the disk; what arrives is what was hashed, so nothing can change in between.
pub(super) fn copy(found: &Found, to: &Path, step: &dyn Step) -> Result<()> {
    let told = &found.manifest.disk;
    let mut from = File::open(&found.disk).doing("read", found.disk.display())?;
    let mut out = File::options().write(true).create_new(true).open(to).doing("write", to.display())?;
    out.set_len(told.size).doing("write", to.display())?;
    let (mut hasher, mut buffer, mut done) = (Context::new(&SHA256), vec![0; BLOCK], 0u64);
    loop {
        let n = fill(&mut from, &mut buffer).doing("read", found.disk.display())?;
        if n == 0 || done > told.size {
            break;
        }
        hasher.update(&buffer[..n]);
        if buffer[..n].iter().any(|byte| *byte != 0) {
            out.seek(SeekFrom::Start(done)).and_then(|_| out.write_all(&buffer[..n])).doing("write", to.display())?;
        }
        done += n as u64;
        step.bytes(done, told.size);
    }
    let digest = hex(hasher.finish().as_ref());
    if digest != told.sha256 {
        return Err(Error::new(Code::Refused, format!("{} is not the image that image.json describes", found.disk.display()))
            .because(format!("its sha256 is {digest}"))
            .because(format!("image.json says {}", told.sha256))
            .hint("build it again, or fetch it again"));
    }
    Ok(())
}

fn fill(from: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match from.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

//! An archive on this computer with its description, and whether it is what that says.

use crate::config::fs;
use crate::encoding::hex;
use crate::error::{Code, Doing, Error, Result};
use crate::google::crc32c::Crc32c;
use crate::image::Manifest;
use crate::progress::Step;
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Read at a time; in between, others may work.
const BLOCK: usize = 1024 * 1024;

/// An archive that `machine build` made, on this computer or another.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The file.
    pub file: PathBuf,
    /// Its description.
    pub manifest: Manifest,
}

impl Archive {
    /// By its folder, its `image.json` or the archive itself.
    pub fn find(image: &Path) -> Result<Archive> {
        let folder = if image.is_file() { image.parent().unwrap_or(Path::new(".")) } else { image };
        let file = folder.join("image.json");
        let bytes = fs::read(&file, Manifest::MAX).map_err(|error| match error.code() {
            Code::NotFound => Error::new(Code::NotFound, format!("there is no image in {}: image.json is missing", folder.display()))
                .hint(format!("portdistrict machine build -o {}", fs::shell_quote(folder))),
            _ => error,
        })?;
        let manifest = Manifest::parse(&file.display().to_string(), &bytes)?;
        let name = Path::new(&manifest.archive.name);
        if name.file_name() != Some(name.as_os_str()) {
            return Err(Error::new(Code::Usage, format!("{} names an archive elsewhere: {:?}", file.display(), manifest.archive.name))
                .hint("name the folder that `portdistrict machine build` made"));
        }
        Ok(Archive { file: folder.join(name), manifest })
    }

    /// Compares size and digest with the description, and returns the checksum (CRC-32C) by which Google compares what arrives.
    pub async fn check(&self, step: &dyn Step) -> Result<String> {
        let (told, shown) = (&self.manifest.archive, self.file.display());
        let mut file = File::open(&self.file).doing("read", &shown)?;
        let (mut digest, mut crc, mut done, mut block) = (Context::new(&SHA256), Crc32c::default(), 0u64, vec![0; BLOCK]);
        loop {
            let count = file.read(&mut block).doing("read", &shown)?;
            if count == 0 {
                break;
            }
            digest.update(&block[..count]);
            crc.update(&block[..count]);
            done += count as u64;
            step.bytes(done.min(told.size), told.size);
            tokio::task::yield_now().await;
        }
        let digest = hex(digest.finish().as_ref());
        if done == told.size && digest == told.sha256 {
            return Ok(crc.finish());
        }
        Err(Error::new(Code::Refused, format!("{shown} is not the archive that image.json describes"))
            .because(format!("it has {done} bytes with the sha256 {digest}"))
            .because(format!("image.json says {} bytes, {}", told.size, told.sha256))
            .hint(format!("portdistrict machine build -o {}", fs::shell_quote(self.file.parent().unwrap_or(Path::new("."))))))
    }
}

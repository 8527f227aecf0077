//! A device's seed while it waits to be let in: an age file beside no keyring, protected as the keyring will be.

use super::{Protection, Seed, Unlock, file};
use crate::config::{Paths, fs};
use crate::encoding::{base64, from_base64_array};
use crate::error::{Code, Doing, Error, Result};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What a device has before it belongs to an identity.
pub struct Enrolment {
    /// Its own seed.
    pub device: Seed,
    /// The identity that it wants to join.
    pub identity: [u8; 32],
}

impl Enrolment {
    /// The one that is stored, if any.
    pub fn load(paths: &Paths, unlock: &Unlock) -> Result<Option<Enrolment>> {
        let path = path(paths);
        if !path.exists() {
            return Ok(None);
        }
        let text = file::open_text(&path, unlock, &unlock.key_file(paths))?;
        let damaged = || {
            Error::new(Code::Keyring, format!("{} does not hold what `device init` wrote", path.display()))
                .hint(format!("begin again: rm {}", fs::shell_quote(&path)))
        };
        let text = std::str::from_utf8(&text).map_err(|_| damaged())?;
        let (device, identity) = text.split_once('\n').ok_or_else(damaged)?;
        let device = Zeroizing::new(from_base64_array::<32>(device).ok_or_else(damaged)?);
        let identity = from_base64_array(identity).ok_or_else(damaged)?;
        Ok(Some(Enrolment { device: Seed::from_bytes(&device), identity }))
    }

    /// The one that is stored for this identity; made if there is none, or one for another identity.
    pub fn load_or_make(paths: &Paths, unlock: &Unlock, identity: &[u8; 32]) -> Result<Enrolment> {
        for folder in [&paths.config, &paths.data, &paths.state, &paths.cache] {
            fs::ensure_private_dir(folder)?;
        }
        let _lock = super::lock(paths)?;
        if let Some(found) = Enrolment::load(paths, unlock)?.filter(|found| found.identity == *identity) {
            return Ok(found);
        }
        let made = Enrolment { device: Seed::random()?, identity: *identity };
        let device = Zeroizing::new(base64(made.device.expose()));
        let text = Zeroizing::new(format!("{}\n{}", *device, base64(identity)));
        let protection = if unlock.has_passphrase_source() { Protection::Passphrase } else { Protection::KeyFile };
        file::seal_text(&path(paths), &text, protection, unlock, &unlock.key_file(paths))?;
        Ok(made)
    }

    /// Removes the stored one; the keyring has taken its place.
    pub fn remove(paths: &Paths) -> Result<()> {
        let path = path(paths);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", path.display()),
            _ => Ok(()),
        }
    }
}

fn path(paths: &Paths) -> PathBuf {
    paths.data.join("enrolment.age")
}

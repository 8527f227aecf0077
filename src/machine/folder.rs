//! The folder of a machine under construction: removed with all that is in it unless the deploy finishes.

use crate::config::Label;
use crate::config::fs::ensure_private_dir;
use crate::error::{Code, Doing, Error, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folder; dropping it removes it.
pub(super) struct Folder {
    dir: PathBuf,
    keep: bool,
}

impl Folder {
    /// Makes the folder, and takes an existing one for somebody else's.
    pub(super) fn create(label: &Label, dir: &Path) -> Result<Folder> {
        if let Some(parent) = dir.parent() {
            ensure_private_dir(parent)?;
        }
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(Code::Exists, format!("there are files of a machine `{label}` already: {}", dir.display()))
                    .hint(format!("portdistrict machine destroy {label} --yes")))
            }
            other => other.doing("make the folder", dir.display()),
        }?;
        let folder = Folder { dir: dir.to_owned(), keep: false };
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).doing("protect", dir.display())?;
        Ok(folder)
    }

    /// The deploy has finished.
    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Removes a machine's folder; one that is gone already is no failure.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", dir.display()),
        _ => Ok(()),
    }
}

//! Private files and folders: born 0600 and 0700, replaced atomically, refused when looser, locked against a second process.

use crate::error::{Code, Doing, Error, Result};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long [`lock`] waits for another process; everything done under a lock takes much less.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Makes a folder (and those above it that are missing) with mode 0700; an existing one must be ours alone.
pub fn ensure_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).doing("create the folder", path.display())?;
    check_private_dir(path)
}

/// Refuses a folder that others can look into; creates nothing.
pub fn check_private_dir(path: &Path) -> Result<()> {
    let found = fs::metadata(path).map_err(|error| missing(path, error))?;
    refuse_looser(path, &found, 0o700)
}

/// Whether this process may write to a file; no on a read-only disk, for root too.
pub fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Refuses a file that others can read; reads nothing of it.
pub fn check_private(path: &Path) -> Result<()> {
    let found = fs::metadata(path).map_err(|error| missing(path, error))?;
    refuse_looser(path, &found, 0o600)
}

/// Replaces a file with mode 0600. After a crash there is the old content or the new one, never a part:
/// the bytes are synced before the rename, and the folder after it.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Code::Io, format!("cannot write {}: it names no file", path.display())).hint("name a file in a folder"));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut random = [0u8; 6];
    getrandom::fill(&mut random)
        .map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e).hint("restart the computer"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", crate::encoding::hex(&random)));
    let temporary = folder.join(temporary);
    let written = write_then_rename(&temporary, path, bytes);
    if written.is_err() {
        // Nothing half made stays behind; the write error is the one worth telling.
        let _ = fs::remove_file(&temporary);
    }
    written.doing("write", path.display())?;
    sync_dir(folder)
}

fn write_then_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Makes renames and removals in a folder durable.
pub fn sync_dir(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|dir| dir.sync_all()).doing("sync the folder", folder.display())
}

/// Reads at most `limit` bytes of a file that only its owner (this user or root) can open; a looser one is refused.
pub fn read_private(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path).map_err(|error| missing(path, error))?;
    refuse_looser(path, &file.metadata().doing("look at", path.display())?, 0o600)?;
    read_limited(file, limit, path)
}

/// Reads at most `limit` bytes of an ordinary file; one byte more is refused.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| missing(path, error))?;
    Ok(std::mem::take(&mut *read_limited(file, limit, path)?))
}

fn read_limited(file: File, limit: usize, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit.min(4096)));
    file.take(limit as u64 + 1).read_to_end(&mut bytes).doing("read", path.display())?;
    if bytes.len() > limit {
        return Err(Error::new(Code::Io, format!("{} is longer than the {limit} bytes allowed", path.display()))
            .hint("check that it is the right file"));
    }
    Ok(bytes)
}

fn missing(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::new(Code::NotFound, format!("there is no {}", path.display())).hint("check the path");
    }
    match Err::<(), _>(error).doing("read", path.display()) {
        Err(error) => error,
        Ok(()) => unreachable!("built from an error"),
    }
}

/// Refuses what others could read or replace, with the command that mends it.
fn refuse_looser(path: &Path, found: &fs::Metadata, mode: u32) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    let quoted = shell_quote(path);
    if found.uid() != me && found.uid() != 0 {
        return Err(Error::new(Code::Permissions, format!("{} belongs to another user (uid {})", path.display(), found.uid()))
            .hint(format!("sudo chown {me} {quoted}")));
    }
    let actual = found.mode() & 0o777;
    if actual & 0o077 != 0 {
        return Err(Error::new(Code::Permissions, format!("{} can be opened by others: its mode is {actual:04o}", path.display()))
            .hint(format!("chmod {mode:04o} {quoted}")));
    }
    Ok(())
}

/// The path as a POSIX shell reads it back, for hints that are pasted.
pub fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Holds a lock file until dropped; the kernel lets go when the process dies.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child that another thread is starting holds a copy of the descriptor until it executes.
        let _ = self.0.unlock();
    }
}

/// Takes the lock, waiting a while for another process.
pub fn lock(path: &Path) -> Result<Lock> {
    let start = Instant::now();
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        if start.elapsed() > LOCK_PATIENCE {
            return Err(Error::new(
                Code::TimedOut,
                format!("another portdistrict process holds {} for more than 10 seconds", path.display()),
            )
            .hint(format!("see which one with: fuser {}", shell_quote(path))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes the lock, or answers `None` at once when another process has it.
pub fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).doing("open the lock file", path.display())?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).doing("lock", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn files_are_born_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_private(&path, 3).unwrap().as_slice(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn reading_stops_one_byte_past_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_private(&path, b"1234").unwrap();
        assert!(read_private(&path, 4).is_ok());
        assert_eq!(read_private(&path, 3).unwrap_err().code(), Code::Io);
        assert_eq!(read_private(&dir.path().join("none"), 3).unwrap_err().code(), Code::NotFound);
    }

    #[test]
    fn looser_permissions_are_refused_with_the_command_that_mends_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's");
        write_private(&path, b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path, 10).unwrap_err();
        assert_eq!(error.code(), Code::Permissions);
        assert!(error.hint_text().unwrap().starts_with("chmod 0600 '"), "{error:?}");
        let status = std::process::Command::new("sh").args(["-c", error.hint_text().unwrap()]).status().unwrap();
        assert!(status.success());
        assert!(read_private(&path, 10).is_ok());

        let folder = dir.path().join("a/b");
        ensure_private_dir(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&dir.path().join("a"))), (0o700, 0o700));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(ensure_private_dir(&folder).unwrap_err().code(), Code::Permissions);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        fs::write(dir.path().join("target/full"), b"").unwrap();
        assert_eq!(write_private(&dir.path().join("target"), b"x").unwrap_err().code(), Code::Io);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_excludes_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
    }
}

//! Where kernel and stub come from if nobody names them: Debian packages, fetched with apt, kept in the cache.

use super::check::Check;
use crate::config::{Paths, fs};
use crate::encoding::hex;
use crate::error::{Code, Doing, Error, Result};
use crate::image::{Deb, Input, MAX_INPUT, Role};
use crate::keyring;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A package that an image is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    /// A kernel for virtual machines.
    Kernel,
    /// The EFI program that starts it.
    Stub,
}

impl Package {
    /// Names under which Debian's releases have it, the first one that is known wins.
    fn names(self) -> &'static [&'static str] {
        match self {
            Package::Kernel => &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
            Package::Stub => &["systemd-boot-efi"],
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Package::Kernel => "--kernel-deb",
            Package::Stub => "--stub",
        }
    }

    /// What it is, for people.
    pub(super) fn what(self) -> &'static str {
        match self {
            Package::Kernel => "kernel",
            Package::Stub => "stub",
        }
    }
}

/// The newest package of this kind; from the cache if apt cannot be asked.
pub(super) fn fetch(paths: &Paths, package: Package) -> Result<PathBuf> {
    let folder = folder(paths)?;
    let mut first = None;
    for name in package.names() {
        match download(&folder, name).and_then(|file| follow(&folder, file)) {
            Ok(file) => return Ok(file),
            Err(error) => first = first.or(Some(error)),
        }
    }
    if let Some(file) = cached(&folder, package) {
        return Ok(file);
    }
    Err(first.unwrap_or_else(|| missing(package)).hint(format!(
        "apt-get update && apt-get download {}, on Debian 12 or later; then name the file: {} FILE.deb",
        package.names()[0],
        package.flag()
    )))
}

/// The very package that a manifest names: from the cache by its digest, or from apt by its version.
pub(super) fn fetch_again(paths: &Paths, input: &Input) -> Result<PathBuf> {
    let folder = folder(paths)?;
    let flag = if input.role == Role::Kernel { "--kernel-deb" } else { "--stub" };
    let is_it = |path: &PathBuf| fs::read(path, MAX_INPUT).is_ok_and(|bytes| hex(&Sha256::digest(&bytes)) == input.sha256);
    if let Some(found) = files(&folder).into_iter().find(is_it) {
        return Ok(found);
    }
    let gone = || {
        Error::new(Code::NotFound, format!("{} with sha256 {} is not here", input.name, input.sha256))
            .hint(format!("name the file: {flag} {}", fs::shell_quote(Path::new(&input.name))))
    };
    let package = input.package.as_ref().filter(|name| is_package(name)).ok_or_else(gone)?;
    let fetched =
        download(&folder, package).map_err(|error| error.causes().iter().fold(gone(), |gone, cause| gone.because(cause.clone())))?;
    if is_it(&fetched) { Ok(fetched) } else { Err(gone().because(format!("apt has another {package}"))) }
}

/// Whether a build would find what it needs.
pub(super) fn checks(paths: &Paths) -> Vec<Check> {
    let check = |package: Package| match (cached(&paths.cache.join("packages"), package), apt()) {
        (Some(file), _) => Check::pass(package.what(), file.display().to_string()),
        (None, Some(_)) => Check::pass(package.what(), format!("`machine build` fetches {} with apt", package.names()[0])),
        (None, None) => Check::fail(
            package.what(),
            "none is here, and there is no apt-get to fetch one",
            format!("name a Debian package: portdistrict machine build {} FILE.deb", package.flag()),
        ),
    };
    [Package::Kernel, Package::Stub].map(check).into()
}

/// `NAME=VERSION` in Debian's characters (Debian policy, 5.6.1 and 5.6.12): what somebody's manifest says reaches a command line.
fn is_package(text: &str) -> bool {
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c);
    let version = |c: char| c.is_ascii_alphanumeric() || ".+:~-".contains(c);
    text.split_once('=').is_some_and(|(package, number)| {
        package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && package.chars().all(name)
            && !number.is_empty()
            && number.chars().all(version)
    })
}

fn missing(package: Package) -> Error {
    Error::new(Code::Precondition, format!("there is no {} to build an image from", package.what()))
}

fn folder(paths: &Paths) -> Result<PathBuf> {
    let folder = paths.cache.join("packages");
    fs::ensure_private_dir(&folder)?;
    Ok(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    files.sort();
    files
}

/// The newest of its kind that was fetched before.
fn cached(folder: &Path, package: Package) -> Option<PathBuf> {
    let kind = match package {
        Package::Kernel => "linux-image-",
        Package::Stub => "systemd-boot-efi",
    };
    let holds_files = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.len() > 64 * 1024);
    let name = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind));
    files(folder)
        .into_iter()
        .filter(|path| name(path) && holds_files(path))
        .max_by_key(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

fn apt() -> Option<PathBuf> {
    super::tools::find("apt-get")
}

/// A package that is nothing but a name for another one leads to that one.
fn follow(folder: &Path, file: PathBuf) -> Result<PathBuf> {
    let bytes = fs::read(&file, MAX_INPUT)?;
    let deb = Deb::parse(&file.display().to_string(), &bytes)?;
    match deb.depends.iter().find(|name| name.starts_with("linux-image-") && **name != deb.package) {
        Some(name) => download(folder, name),
        None => Ok(file),
    }
}

/// `apt-get download`, which checks what it fetches against the signed index and leaves what is there already.
fn download(folder: &Path, package: &str) -> Result<PathBuf> {
    let apt = apt().ok_or_else(|| Error::new(Code::Precondition, format!("{package} cannot be fetched: there is no apt-get here")))?;
    let before = files(folder);
    let output = Command::new(apt)
        .args(["download", "-q", "--", package])
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .env_remove(keyring::VARIABLE)
        .output()
        .doing("run", "apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let error = Error::new(Code::Unreachable, format!("apt-get cannot fetch {package}"));
        return Err(said.lines().filter(|line| line.starts_with("E:")).fold(error, |error, line| error.because(line.to_owned())));
    }
    let name = format!("{}_", package.split('=').next().unwrap_or(package));
    let named = |path: &&PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
    let after = files(folder);
    let new = after.iter().find(|path| !before.contains(path) && named(path));
    let newest = after.iter().filter(named).max_by_key(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok());
    new.or(newest).cloned().ok_or_else(|| Error::new(Code::NotFound, format!("apt-get fetched no {package}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_package_with_its_version_reaches_apt() {
        assert!(is_package("linux-image-6.12.117+deb12-cloud-amd64=6.12.117-1~deb12u1"));
        for other in ["", "x", "=1", "-oDir::Bin::dpkg=/tmp/evil", "x=", "x=1 y", "X=1", "x=$(true)"] {
            assert!(!is_package(other), "{other}");
        }
    }
}

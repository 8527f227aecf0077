//! The keyring at rest: an age file (age-encryption.org/v1) with canonical JSON inside.
//!
//! `{"device":…,"identity":…,"v":1}`, seeds in base64url; during a rotation `next`, and after one `retired`, an array. `age -d -i keyring.key keyring.age` prints it, so nobody
//! depends on this program to get their keys back.

use super::{Keyring, Seed, Unlock};
use crate::config::fs;
use crate::encoding::{base64, from_base64};
use crate::error::{Code, Error, Result};
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::io::{Read, Write};
use std::path::Path;
use zeroize::Zeroizing;

/// A keyring file is about 300 bytes; a few more recipients are fine.
const FILE_LIMIT: usize = 64 * 1024;

/// The most scrypt rounds (as a power of two) that are tried: 1 GiB of memory, about four seconds.
const MAX_WORK_FACTOR: u8 = 20;

const RESTORE: &str = "restore it from a backup";

/// What opens the stored keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// A file next to it, or wherever the user keeps it.
    KeyFile,
    /// Something only a person knows.
    Passphrase,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<'a> {
    device: &'a str,
    identity: &'a str,
    next: Option<&'a str>,
    #[serde(default, borrow)]
    retired: Vec<&'a str>,
    v: u64,
}

/// Version of the contents, read before anything else so that a newer file is not called damaged.
#[derive(Deserialize)]
struct Version {
    v: u64,
}

pub(super) fn protection(path: &Path) -> Result<Protection> {
    let bytes = load(path)?;
    let decryptor = Decryptor::new_buffered(bytes.as_slice()).map_err(|error| damaged(path, error))?;
    Ok(if decryptor.is_scrypt() { Protection::Passphrase } else { Protection::KeyFile })
}

pub(super) fn open(path: &Path, unlock: &Unlock, key_file: &Path) -> Result<Keyring> {
    let text = open_text(path, unlock, key_file)?;
    parse(&text).map_err(|why| match why {
        Some(version) => Error::new(Code::Keyring, format!("{} has version {version}, which this program does not know", path.display()))
            .hint("upgrade portdistrict"),
        None => Error::new(Code::Keyring, format!("{} opens, but does not hold a keyring", path.display())).hint(RESTORE),
    })
}

/// What is in an age file, opened by a passphrase or a key file as its header says.
pub(super) fn open_text(path: &Path, unlock: &Unlock, key_file: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = load(path)?;
    let decryptor = Decryptor::new_buffered(bytes.as_slice()).map_err(|error| damaged(path, error))?;
    let opened = if decryptor.is_scrypt() {
        let mut identity = scrypt::Identity::new(unlock.passphrase()?);
        identity.set_max_work_factor(MAX_WORK_FACTOR);
        decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| passphrase_failed(path, error))
    } else {
        let identity = match unlock.keychain() {
            Some(name) => super::keychain::load(name)?,
            None => read_key(key_file)?.ok_or_else(|| no_key(path, key_file))?,
        };
        decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| key_failed(path, key_file, error))
    };
    let mut text = Zeroizing::new(Vec::with_capacity(512));
    opened?.take(FILE_LIMIT as u64).read_to_end(&mut text).map_err(|error| damaged(path, error))?;
    Ok(text)
}

/// Writes an age file that opens in one of the ways.
pub(super) fn seal_text(path: &Path, text: &str, how: Protection, unlock: &Unlock, key_file: &Path) -> Result<()> {
    match how {
        Protection::KeyFile => write_for_key(path, text, unlock, key_file),
        Protection::Passphrase => write_for_passphrase(path, text, &unlock.new_passphrase()?, unlock.work_factor()),
    }
}

pub(super) fn seal_with_passphrase(path: &Path, keyring: &Keyring, passphrase: &SecretString, work_factor: u8) -> Result<()> {
    write_for_passphrase(path, &text(keyring), passphrase, work_factor)
}

fn write_for_passphrase(path: &Path, text: &str, passphrase: &SecretString, work_factor: u8) -> Result<()> {
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(work_factor);
    let sealed = age::encrypt(&recipient, text.as_bytes()).map_err(cannot_seal)?;
    fs::write_private(path, &sealed)
}

/// Uses the key file that is there, or makes one; the key is on the disk before anything depends on it.
pub(super) fn seal_with_key(path: &Path, keyring: &Keyring, unlock: &Unlock, key_file: &Path) -> Result<()> {
    write_for_key(path, &text(keyring), unlock, key_file)
}

/// Seals so that each of these keys opens it.
pub(super) fn seal_to(path: &Path, keyring: &Keyring, keys: &[&x25519::Identity]) -> Result<()> {
    let recipients: Vec<_> = keys.iter().map(|key| key.to_public()).collect();
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let mut sealed = Vec::new();
    let encryptor = Encryptor::with_recipients(recipients).map_err(cannot_seal)?;
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(cannot_seal)?;
    writer.write_all(text(keyring).as_bytes()).and_then(|()| writer.finish().map(drop)).map_err(cannot_seal)?;
    fs::write_private(path, &sealed)
}

/// The key in a key file that must be there.
pub(super) fn existing_key(key_file: &Path) -> Result<x25519::Identity> {
    read_key(key_file)?.ok_or_else(|| Error::new(Code::Keyring, format!("the key file {} is missing", key_file.display())).hint(RESTORE))
}

/// A key that is not stored anywhere yet.
pub(super) fn new_key() -> x25519::Identity {
    x25519::Identity::generate()
}

fn write_for_key(path: &Path, text: &str, unlock: &Unlock, key_file: &Path) -> Result<()> {
    let identity = match (unlock.keychain(), read_key(key_file)?) {
        (Some(name), _) => super::keychain::load(name)?,
        (None, Some(identity)) => identity,
        (None, None) => make_key(key_file)?,
    };
    let sealed = age::encrypt(&identity.to_public(), text.as_bytes()).map_err(cannot_seal)?;
    fs::write_private(path, &sealed)
}

fn make_key(key_file: &Path) -> Result<x25519::Identity> {
    let identity = x25519::Identity::generate();
    let secret = identity.to_string();
    let lines = Zeroizing::new(format!(
        "# Opens the portdistrict keyring; keep it as secret as the keyring itself.\n# public key: {}\n{}\n",
        identity.to_public(),
        secret.expose_secret()
    ));
    fs::write_private(key_file, lines.as_bytes())?;
    Ok(identity)
}

/// The age identity in a key file, `None` if there is no file.
fn read_key(key_file: &Path) -> Result<Option<x25519::Identity>> {
    let bytes = match fs::read_private(key_file, FILE_LIMIT) {
        Err(error) if error.code() == Code::NotFound => return Ok(None),
        other => other?,
    };
    match age_key(&bytes) {
        Some(identity) => Ok(Some(identity)),
        None => {
            Err(Error::new(Code::Keyring, format!("the key file {} holds no age key (AGE-SECRET-KEY-1…)", key_file.display()))
                .hint(RESTORE))
        }
    }
}

/// The first age key in the text of a key file.
pub(super) fn age_key(text: &[u8]) -> Option<x25519::Identity> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().map(str::trim).find(|line| line.starts_with("AGE-SECRET-KEY-1"))?.parse().ok()
}

fn load(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = fs::read_private(path, FILE_LIMIT)?;
    if bytes.is_empty() {
        return Err(Error::new(Code::Keyring, format!("{} is empty", path.display())).hint(RESTORE));
    }
    Ok(bytes)
}

/// The one spelling of the contents.
fn text(keyring: &Keyring) -> Zeroizing<String> {
    let quoted = |seed: &Seed| Zeroizing::new(format!("\"{}\"", *Zeroizing::new(base64(seed.expose()))));
    // Room for everything at once: a text that grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(256 + 64 * keyring.retired.len()));
    *out += "{\"device\":";
    *out += &quoted(&keyring.device);
    *out += ",\"identity\":";
    *out += &quoted(&keyring.identity);
    if let Some(next) = &keyring.next {
        *out += ",\"next\":";
        *out += &quoted(next);
    }
    for (n, seed) in keyring.retired.iter().enumerate() {
        *out += if n == 0 { ",\"retired\":[" } else { "," };
        *out += &quoted(seed);
    }
    *out += if keyring.retired.is_empty() { ",\"v\":1}" } else { "],\"v\":1}" };
    out
}

/// Reads the contents; the error carries the version if that is what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Keyring, Option<u64>> {
    let Version { v } = serde_json::from_slice(bytes).map_err(|_| None)?;
    if v != 1 {
        return Err(Some(v));
    }
    let stored: Stored<'_> = serde_json::from_slice(bytes).map_err(|_| None)?;
    let seed = |text: &str| {
        let bytes = Zeroizing::new(from_base64(text).ok_or(None)?);
        bytes.as_slice().try_into().map(Seed::from_bytes).map_err(|_| None)
    };
    let keyring = Keyring {
        identity: seed(stored.identity)?,
        device: seed(stored.device)?,
        next: stored.next.map(seed).transpose()?,
        retired: stored.retired.iter().map(|text| seed(text)).collect::<Result<_, _>>()?,
    };
    if stored.v != 1 || text(&keyring).as_bytes() != bytes { Err(None) } else { Ok(keyring) }
}

fn damaged(path: &Path, cause: impl std::error::Error) -> Error {
    Error::new(Code::Keyring, format!("{} is damaged", path.display())).cause(cause).hint(RESTORE)
}

fn passphrase_failed(path: &Path, error: DecryptError) -> Error {
    match error {
        DecryptError::ExcessiveWork { required, .. } => Error::new(
            Code::Keyring,
            format!("{} asks for 2^{required} rounds of scrypt, more than the 2^{MAX_WORK_FACTOR} allowed", path.display()),
        )
        .hint("if you made it so, open it with `age -d` and seal it again with `age -p`; otherwise restore it from a backup"),
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed | DecryptError::NoMatchingKeys => {
            Error::new(Code::Keyring, format!("the passphrase does not open {}", path.display()))
                .hint("try again; case and keyboard layout matter")
        }
        other => damaged(path, other),
    }
}

fn key_failed(path: &Path, key_file: &Path, error: DecryptError) -> Error {
    match error {
        DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            Error::new(Code::Keyring, format!("the key file {} does not open {}", key_file.display(), path.display()))
                .hint("name the right one with PORTDISTRICT_KEYRING_KEY_FILE=FILE, or restore both from one backup")
        }
        other => damaged(path, other),
    }
}

fn no_key(path: &Path, key_file: &Path) -> Error {
    Error::new(Code::Keyring, format!("the key file {} that opens {} is missing", key_file.display(), path.display()))
        .hint("restore it from a backup, or say where it is with PORTDISTRICT_KEYRING_KEY_FILE=FILE")
}

fn cannot_seal(cause: impl std::error::Error) -> Error {
    Error::new(Code::Keyring, "cannot seal the keyring").cause(cause).hint("run `portdistrict doctor`")
}

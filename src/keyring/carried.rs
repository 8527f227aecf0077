//! An identity that the environment carries, for pipelines: read into memory, never stored. The device of a home that is used so has a seed
//! of its own, derived from the identity and from a name that is no secret; only the name is kept.

use super::{Keyring, Seed, Unlock, file};
use crate::config::{Paths, fs};
use crate::encoding::{from_hex_array, hex};
use crate::error::{Code, Doing, Error, Result};
use age::{DecryptError, Decryptor};
use std::io::Read;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// The variable that holds the identity. No program that is started from here gets it.
pub const VARIABLE: &str = "PORTDISTRICT_KEYRING";
/// A backup line or a sealed keyring has a few thousand bytes at most.
const LIMIT: usize = 64 * 1024;
const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";

/// Where the age key comes from that opens a sealed identity.
#[derive(Clone, Debug)]
pub enum AgeKeyFrom {
    /// A private file.
    File(PathBuf),
    /// An inherited file descriptor, read to its end.
    Descriptor(u32),
}

/// What the variable holds, opened if it is sealed.
pub enum Carried {
    /// What `identity export --secret` prints.
    Line(Zeroizing<String>),
    /// What is in a keyring; of its device nothing is used.
    Keyring(Keyring),
}

/// Reads what the environment carries.
pub(super) fn read(text: &str, unlock: &Unlock) -> Result<Carried> {
    let wrong = |why: &str| {
        Error::new(Code::Keyring, format!("{VARIABLE} holds no identity: {why}"))
            .hint("put there what `portdistrict identity export --secret` prints, or that sealed with age -a")
    };
    if text.len() > LIMIT {
        return Err(wrong("it is too long"));
    }
    let Some((_, sealed)) = text.split_once(BEGIN) else { return Ok(Carried::Line(Zeroizing::new(text.to_owned()))) };
    let body = sealed.split_once(END).map(|(body, _)| body).ok_or_else(|| wrong("its end is missing"))?;
    let body: String = body.split_ascii_whitespace().collect();
    let sealed = data_encoding::BASE64.decode(body.as_bytes()).map_err(|_| wrong("it is damaged"))?;
    let opened = open(&sealed, unlock)?;
    if opened.starts_with(b"{") {
        return file::parse(&opened).map(Carried::Keyring).map_err(|_| wrong("it opens, but there is no keyring in it"));
    }
    let line = std::str::from_utf8(&opened).map_err(|_| wrong("it opens, but there is no text in it"))?;
    Ok(Carried::Line(Zeroizing::new(line.to_owned())))
}

fn open(sealed: &[u8], unlock: &Unlock) -> Result<Zeroizing<Vec<u8>>> {
    let damaged = |error: &dyn std::fmt::Display| {
        Error::new(Code::Keyring, format!("{VARIABLE} is damaged")).because(error.to_string()).hint("seal it again with age -a")
    };
    let decryptor = Decryptor::new_buffered(sealed).map_err(|error| damaged(&error))?;
    if decryptor.is_scrypt() {
        return Err(Error::new(Code::Keyring, format!("{VARIABLE} is sealed with a passphrase, and nobody is asked in a pipeline"))
            .hint("seal it to an age key: age -a -r age1…"));
    }
    let from = unlock.age_key().ok_or_else(|| {
        Error::new(Code::Precondition, format!("{VARIABLE} is sealed, and the age key that opens it is not named"))
            .hint("PORTDISTRICT_AGE_IDENTITY_FILE=FILE, or --identity-fd N")
    })?;
    let (name, text) = key_text(from)?;
    let key = file::age_key(&text)
        .ok_or_else(|| Error::new(Code::Keyring, format!("{name} holds no age key (AGE-SECRET-KEY-1…)")).hint("make one: age-keygen"))?;
    let mut opened = Zeroizing::new(Vec::with_capacity(LIMIT));
    let reader = decryptor.decrypt(std::iter::once(&key as &dyn age::Identity)).map_err(|error| match error {
        DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            Error::new(Code::Keyring, format!("the age key in {name} does not open {VARIABLE}"))
                .hint("seal the identity to that key: age -a -r age1…")
        }
        other => damaged(&other),
    })?;
    reader.take(LIMIT as u64).read_to_end(&mut opened).map_err(|error| damaged(&error))?;
    Ok(opened)
}

fn key_text(from: &AgeKeyFrom) -> Result<(String, Zeroizing<Vec<u8>>)> {
    match from {
        AgeKeyFrom::File(path) => Ok((path.display().to_string(), fs::read_private(path, LIMIT)?)),
        AgeKeyFrom::Descriptor(number) => {
            let name = format!("file descriptor {number}");
            let file = std::fs::File::open(format!("/proc/self/fd/{number}")).doing("read the age key from", &name)?;
            let mut text = Zeroizing::new(Vec::with_capacity(4096));
            file.take(LIMIT as u64).read_to_end(&mut text).doing("read the age key from", &name)?;
            Ok((name, text))
        }
    }
}

/// The keyring of this home for a carried identity. Two homes never have one device, or their chains would contradict each other.
pub fn keyring_of(paths: &Paths, identity: Seed, retired: Vec<Seed>) -> Result<Keyring> {
    let id = device_id(paths)?.ok_or_else(|| {
        Error::new(Code::Precondition, format!("there is no identity yet in {}", paths.home_in_use())).hint("portdistrict init")
    })?;
    let context = format!("portdistrict v1 carried-device {}", hex(&id));
    let device = Zeroizing::new(blake3::derive_key(&context, identity.expose()));
    Ok(Keyring { retired, ..Keyring::of(identity, Seed::from_bytes(&device)) })
}

/// Gives this home's device a name if it has none.
pub fn name_device(paths: &Paths) -> Result<()> {
    if device_id(paths)?.is_some() {
        return Ok(());
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Error::new(Code::Failed, "the system gives no random bytes").cause(error))?;
    fs::write_private(&device_file(paths), format!("{}\n", hex(&id)).as_bytes())
}

fn device_id(paths: &Paths) -> Result<Option<[u8; 16]>> {
    let path = device_file(paths);
    let text = match fs::read_private(&path, 64) {
        Err(error) if error.code() == Code::NotFound => return Ok(None),
        other => other?,
    };
    let id = std::str::from_utf8(&text).ok().and_then(|text| from_hex_array(text.trim()));
    id.map(Some).ok_or_else(|| {
        Error::new(Code::Keyring, format!("{} does not hold the name of a device", path.display()))
            .hint(format!("this home becomes another device with: rm {}", fs::shell_quote(&path)))
    })
}

fn device_file(paths: &Paths) -> PathBuf {
    paths.data.join("device.id")
}

/// Refuses what would store a keyring while the environment carries the identity.
pub(super) fn refuse_storing() -> Error {
    Error::new(Code::Precondition, format!("the identity comes from {VARIABLE} and is never stored here"))
        .hint(format!("do this at home, without it: unset {VARIABLE}"))
}

//! An exported ledger under age (age-encryption.org/v1): sealed to keys or a passphrase, and recognised when it is read.

use crate::error::{Code, Doing, Error, Result};
use age::{Decryptor, Encryptor, scrypt, x25519};
use secrecy::SecretString;
use std::io::{BufRead, BufReader, Write};

/// How every age file that is no text begins.
const MARK: &[u8] = b"age-encryption.org/";
/// The most scrypt rounds (as a power of two) that are tried: 1 GiB of memory, about four seconds.
const MAX_WORK_FACTOR: u8 = 20;

/// To whom an export is sealed.
pub enum Seal {
    /// Keys `age1…`.
    Recipients(Vec<x25519::Recipient>),
    /// Whoever knows this.
    Passphrase(SecretString),
}

impl Seal {
    /// Keys as they are written: `age1…`.
    pub fn to_keys(keys: &[String]) -> Result<Seal> {
        let parse = |key: &String| {
            key.trim().parse::<x25519::Recipient>().map_err(|why| {
                Error::new(Code::Usage, format!("{:?} is no age recipient", key.chars().take(80).collect::<String>()))
                    .because(why)
                    .hint("give the line that begins with age1, as age-keygen -y prints it")
            })
        };
        keys.iter().map(parse).collect::<Result<_>>().map(Seal::Recipients)
    }

    /// Lets `write` write into the sealed file, and ends it.
    pub fn write<W: Write, T>(&self, to: W, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        let failed = |error: age::EncryptError| Error::new(Code::Failed, "cannot seal the export").cause(error).hint("portdistrict doctor");
        let encryptor = match self {
            Seal::Recipients(keys) => Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient)).map_err(failed)?,
            Seal::Passphrase(passphrase) => Encryptor::with_user_passphrase(passphrase.clone()),
        };
        let mut sealed = encryptor.wrap_output(to).doing("write", "the export")?;
        let done = write(&mut sealed)?;
        sealed.finish().and_then(|mut to| to.flush()).doing("write", "the export")?;
        Ok(done)
    }
}

/// What may open a sealed export.
#[derive(Default)]
pub struct Opener {
    /// The text of a file with age keys (`AGE-SECRET-KEY-1…`).
    pub keys: Option<zeroize::Zeroizing<Vec<u8>>>,
    /// A passphrase.
    pub passphrase: Option<SecretString>,
}

impl Opener {
    /// What is inside if it is sealed, else what is there.
    pub fn open<'a>(&self, mut from: impl BufRead + 'a) -> Result<Box<dyn BufRead + 'a>> {
        if !from.fill_buf().doing("read", "the export")?.starts_with(MARK) {
            return Ok(Box::new(from));
        }
        let damaged =
            |error: age::DecryptError| Error::new(Code::BadBlob, "the sealed export cannot be read").cause(error).hint("export it again");
        let sealed = Decryptor::new_buffered(from).map_err(damaged)?;
        let wrong = |error: age::DecryptError| {
            let what = "what was given does not open the sealed export";
            Error::new(Code::Precondition, what).cause(error).hint("give the key or passphrase that it was sealed for")
        };
        let inside = if sealed.is_scrypt() {
            let missing = "the export is sealed with a passphrase";
            let passphrase = self.passphrase.clone().ok_or_else(|| {
                Error::new(Code::Precondition, missing).hint("portdistrict ledger import FILE --sealed-passphrase-file passphrase.txt")
            })?;
            let mut identity = scrypt::Identity::new(passphrase);
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            sealed.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(wrong)?
        } else {
            let keys = self.identities()?;
            sealed.decrypt(keys.iter().map(|key| key as &dyn age::Identity)).map_err(wrong)?
        };
        Ok(Box::new(BufReader::new(inside)))
    }

    fn identities(&self) -> Result<Vec<x25519::Identity>> {
        let Some(text) = &self.keys else {
            return Err(Error::new(Code::Precondition, "the export is sealed for an age key")
                .hint("portdistrict ledger import FILE --age-key key.txt"));
        };
        let text = std::str::from_utf8(text).unwrap_or_default();
        let keys: Vec<_> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        if keys.is_empty() {
            return Err(
                Error::new(Code::Usage, "the key file holds no age key (AGE-SECRET-KEY-1…)").hint("make one with: age-keygen -o key.txt")
            );
        }
        Ok(keys)
    }
}

//! What opens the keyring: a key file, or a passphrase from a file, a descriptor or a person.

use super::carried::{self, AgeKeyFrom, Carried, VARIABLE};
use crate::config::{Paths, fs};
use crate::error::{Code, Doing, Error, Result};
use secrecy::{ExposeSecret, SecretString};
use std::env;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Far beyond any passphrase; a larger file is a mistake.
const PASSPHRASE_LIMIT: usize = 64 * 1024;

/// About one second on today's computers (2^18 rounds of scrypt), what the age tools use too.
const WORK_FACTOR: u8 = 18;

/// Asks a person. Implemented by [`Terminal`]; tests and other faces bring their own.
pub trait Prompt: Send + Sync {
    /// Asks for a passphrase without showing it.
    fn passphrase(&self, question: &str) -> std::io::Result<SecretString>;
}

/// Asks on the controlling terminal, without echo, whatever stdin and stdout are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal;

impl Prompt for Terminal {
    fn passphrase(&self, question: &str) -> std::io::Result<SecretString> {
        rpassword::prompt_password(format!("{question}: ")).map(SecretString::from)
    }
}

/// Where a passphrase comes from without asking.
#[derive(Clone, Debug)]
pub enum PassphraseFrom {
    /// The first line of a private file; `-` is standard input.
    File(PathBuf),
    /// The first line of an inherited file descriptor.
    Descriptor(u32),
    /// It was given or asked for before.
    Known(SecretString),
}

/// The ways to open the keyring that this process was given.
#[derive(Clone, Default)]
pub struct Unlock {
    key_file: Option<PathBuf>,
    passphrase: Option<PassphraseFrom>,
    prompt: Option<Arc<dyn Prompt>>,
    work_factor: Option<u8>,
    keychain: Option<String>,
    carried: Option<SecretString>,
    age_key: Option<AgeKeyFrom>,
}

impl Unlock {
    /// What the environment says: `PORTDISTRICT_KEYRING_KEY_FILE`, `PORTDISTRICT_PASSPHRASE_FILE`, and for pipelines
    /// `PORTDISTRICT_KEYRING`, `PORTDISTRICT_AGE_IDENTITY_FILE`.
    pub fn from_env() -> Unlock {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        Unlock {
            key_file: named("PORTDISTRICT_KEYRING_KEY_FILE"),
            passphrase: named("PORTDISTRICT_PASSPHRASE_FILE").map(PassphraseFrom::File),
            // What is no text is no identity either, and is refused as such.
            carried: env::var_os(VARIABLE).filter(|text| !text.is_empty()).map(|text| text.into_string().unwrap_or_default().into()),
            age_key: named("PORTDISTRICT_AGE_IDENTITY_FILE").map(AgeKeyFrom::File),
            ..Unlock::default()
        }
    }

    /// Takes the identity from this text, as if the environment carried it.
    #[must_use]
    pub fn with_carried(mut self, text: impl Into<SecretString>) -> Self {
        self.carried = Some(text.into());
        self
    }

    /// Opens a carried identity that is sealed with the age key from here; wins over the environment.
    #[must_use]
    pub fn with_age_key(mut self, from: AgeKeyFrom) -> Self {
        self.age_key = Some(from);
        self
    }

    /// Whether the environment carries the identity, which is then never stored.
    pub fn carries(&self) -> bool {
        self.carried.is_some()
    }

    /// The identity that the environment carries, if it does.
    pub fn carried(&self) -> Result<Option<Carried>> {
        self.carried.as_ref().map(|text| carried::read(text.expose_secret(), self)).transpose()
    }

    /// Where the age key comes from that opens it.
    pub(super) fn age_key(&self) -> Option<&AgeKeyFrom> {
        self.age_key.as_ref()
    }

    /// Refused while the environment carries the identity.
    pub fn check_storing(&self) -> Result<()> {
        if self.carries() { Err(carried::refuse_storing()) } else { Ok(()) }
    }

    /// Uses this key file; wins over the environment.
    #[must_use]
    pub fn with_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_file = Some(path.into());
        self
    }

    /// Uses this key file unless another was named; for what the settings say.
    #[must_use]
    pub fn or_key_file(mut self, path: Option<PathBuf>) -> Self {
        self.key_file = self.key_file.or(path);
        self
    }

    /// Takes the key from the desktop's keychain, unless a key file was named; for what the settings say.
    #[must_use]
    pub fn or_keychain(mut self, paths: &Paths) -> Self {
        if self.key_file.is_none() {
            self.keychain = Some(super::keychain::name(paths));
        }
        self
    }

    /// Takes the key from a file again.
    #[must_use]
    pub fn without_keychain(mut self) -> Self {
        self.keychain = None;
        self
    }

    /// Under which name the key is in the keychain, if it is there.
    pub fn keychain(&self) -> Option<&str> {
        self.keychain.as_deref()
    }

    /// Reads the passphrase here; wins over the environment.
    #[must_use]
    pub fn with_passphrase(mut self, from: PassphraseFrom) -> Self {
        self.passphrase = Some(from);
        self
    }

    /// Asks a person if a passphrase is needed and nothing else gives it.
    #[must_use]
    pub fn with_prompt(mut self, prompt: impl Prompt + 'static) -> Self {
        self.prompt = Some(Arc::new(prompt));
        self
    }

    /// Seals with 2^`log_n` rounds of scrypt instead of the usual number; for tests, which have no second to spare.
    #[must_use]
    pub fn with_work_factor(mut self, log_n: u8) -> Self {
        self.work_factor = Some(log_n.clamp(1, WORK_FACTOR));
        self
    }

    /// Rounds of scrypt to seal with, as a power of two.
    pub(super) fn work_factor(&self) -> u8 {
        self.work_factor.unwrap_or(WORK_FACTOR)
    }

    /// The key file in use.
    pub fn key_file(&self, paths: &Paths) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| paths.keyring_key_file())
    }

    /// Whether a passphrase was offered without asking.
    pub fn has_passphrase_source(&self) -> bool {
        self.passphrase.is_some()
    }

    /// The passphrase that opens the keyring.
    pub fn passphrase(&self) -> Result<SecretString> {
        match &self.passphrase {
            Some(from) => read(from),
            None => self.ask("Passphrase of the keyring"),
        }
    }

    /// The same, with the passphrase read or asked for now, so that a command that needs it several times asks once.
    pub fn remembered(&self) -> Result<Unlock> {
        Ok(self.clone().with_passphrase(PassphraseFrom::Known(self.passphrase()?)))
    }

    /// [`Unlock::remembered`] where the stored keyring needs a passphrase.
    pub fn asked_once(&self, paths: &Paths) -> Result<Unlock> {
        self.check_storing()?;
        match super::Keyring::protection(paths)? {
            super::Protection::Passphrase => self.remembered(),
            super::Protection::KeyFile => Ok(self.clone()),
        }
    }

    /// A passphrase to seal with; a person types it twice.
    pub fn new_passphrase(&self) -> Result<SecretString> {
        if let Some(from) = &self.passphrase {
            return read(from);
        }
        let first = self.ask("New passphrase for the keyring")?;
        let second = self.ask("The same again")?;
        if first.expose_secret() != second.expose_secret() {
            return Err(Error::new(Code::Usage, "the two passphrases differ; nothing was changed").hint("run the command again"));
        }
        Ok(first)
    }

    fn ask(&self, question: &str) -> Result<SecretString> {
        let without = || {
            Error::new(Code::Precondition, "the keyring needs a passphrase, and there is no terminal to ask on")
                .hint("put it into a file of mode 0600 and set PORTDISTRICT_PASSPHRASE_FILE=FILE")
        };
        let prompt = self.prompt.as_ref().ok_or_else(without)?;
        not_empty(prompt.passphrase(question).map_err(|error| without().cause(error))?, "what was typed")
    }
}

fn read(from: &PassphraseFrom) -> Result<SecretString> {
    match from {
        PassphraseFrom::Known(passphrase) => Ok(passphrase.clone()),
        PassphraseFrom::File(path) if path == Path::new("-") => {
            first_line(&read_stream(std::io::stdin().lock(), "standard input")?, "standard input")
        }
        PassphraseFrom::File(path) => first_line(&fs::read_private(path, PASSPHRASE_LIMIT)?, &path.display().to_string()),
        PassphraseFrom::Descriptor(number) => {
            let name = format!("file descriptor {number}");
            let file = std::fs::File::open(format!("/proc/self/fd/{number}")).doing("read the passphrase from", &name)?;
            first_line(&read_stream(file, &name)?, &name)
        }
    }
}

fn read_stream(stream: impl Read, name: &str) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    stream.take(PASSPHRASE_LIMIT as u64 + 1).read_to_end(&mut bytes).doing("read the passphrase from", name)?;
    if bytes.len() > PASSPHRASE_LIMIT {
        return Err(Error::new(Code::Keyring, format!("{name} is too long for a passphrase")).hint("give the passphrase in one line"));
    }
    Ok(bytes)
}

fn first_line(bytes: &[u8], name: &str) -> Result<SecretString> {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| {
        Error::new(Code::Keyring, format!("the passphrase in {name} is not UTF-8 text")).hint("save the file as UTF-8 and try again")
    })?;
    not_empty(SecretString::from(text), name)
}

fn not_empty(passphrase: SecretString, name: &str) -> Result<SecretString> {
    if passphrase.expose_secret().is_empty() {
        return Err(
            Error::new(Code::Keyring, format!("the passphrase is empty: {name}")).hint("give a passphrase of at least one character")
        );
    }
    Ok(passphrase)
}

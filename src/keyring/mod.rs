//! The operator's secrets: two seeds, the keys derived from them, and signatures made and checked with a type.
//!
//! Every key comes from a seed and a named purpose, so that what must be backed up is small and no key serves two jobs.
//! At rest the seeds are one age file that any age tool opens; see [`Unlock`] for what opens it here.

mod carried;
mod enrolment;
mod file;
mod keychain;
mod sealed;
mod seed;
mod signature;
mod unlock;

pub use carried::{AgeKeyFrom, Carried, VARIABLE, keyring_of, name_device};
pub use enrolment::Enrolment;
pub use file::Protection;
pub use sealed::{open, seal};
pub use seed::{Purpose, Seed, x25519_public};
pub(crate) use signature::message;
pub use signature::{sign, sign_envelope, verify, verify_envelope};
pub use unlock::{PassphraseFrom, Prompt, Terminal, Unlock};

use crate::config::{Paths, fs};
use crate::encoding;
use crate::error::{Code, Error, Result};
use ed25519_dalek::SigningKey;
use secrecy::SecretString;
use std::path::Path;
use zeroize::Zeroizing;

/// The opened keyring: who the operator is, and which of the operator's devices this is.
pub struct Keyring {
    /// The master seed, the same on every device of the operator.
    pub identity: Seed,
    /// This device's own seed.
    pub device: Seed,
    /// The master seed that is about to take the place of `identity`, while a rotation is under way.
    pub next: Option<Seed>,
    /// Master seeds that were replaced, oldest first; they open what was sealed under them, and sign nothing.
    pub retired: Vec<Seed>,
}

impl Keyring {
    /// A keyring with these seeds, not stored anywhere.
    pub fn of(identity: Seed, device: Seed) -> Keyring {
        Keyring { identity, device, next: None, retired: Vec::new() }
    }

    /// A keyring with new seeds, not stored anywhere.
    pub fn random() -> Result<Keyring> {
        Ok(Keyring::of(Seed::random()?, Seed::random()?))
    }

    /// A new keyring, stored under a passphrase if `unlock` names a source for one, else under a key file. Never replaces one.
    pub fn create(paths: &Paths, unlock: &Unlock) -> Result<Keyring> {
        Keyring::random()?.store_first(paths, unlock)
    }

    /// Stores a keyring where there is none; protected as [`Keyring::create`] does it.
    pub fn store_first(self, paths: &Paths, unlock: &Unlock) -> Result<Keyring> {
        unlock.check_storing()?;
        fs::ensure_private_dir(&paths.data)?;
        let _lock = lock(paths)?;
        let file = paths.keyring_file();
        if file.try_exists().unwrap_or(true) {
            return Err(
                Error::new(Code::Exists, format!("there is a keyring already: {}", file.display())).hint("portdistrict identity show")
            );
        }
        if unlock.has_passphrase_source() {
            file::seal_with_passphrase(&file, &self, &unlock.new_passphrase()?, unlock.work_factor())?;
        } else {
            file::seal_with_key(&file, &self, unlock, &unlock.key_file(paths))?;
        }
        Ok(self)
    }

    /// Replaces the stored keyring, protected as it is now. The passphrase, where there is one, is asked for again: see
    /// [`Unlock::remembered`].
    pub fn store(&self, paths: &Paths, unlock: &Unlock) -> Result<()> {
        unlock.check_storing()?;
        let _lock = lock(paths)?;
        let file = paths.keyring_file();
        match file::protection(&file)? {
            Protection::KeyFile => file::seal_with_key(&file, self, unlock, &unlock.key_file(paths)),
            Protection::Passphrase => file::seal_with_passphrase(&file, self, &unlock.passphrase()?, unlock.work_factor()),
        }
    }

    /// The public key of an identity with this seed.
    pub fn public_of(seed: &Seed) -> [u8; 32] {
        seed.signing_key(Purpose::IdentitySign).verifying_key().to_bytes()
    }

    /// The seed of an identity that this one is or was; none for anybody else's.
    pub fn seed_of(&self, identity: &[u8; 32]) -> Option<&Seed> {
        let is = |seed: &&Seed| Keyring::public_of(seed) == *identity;
        std::iter::once(&self.identity).chain(self.retired.iter().rev()).find(is)
    }

    /// Opens the stored keyring.
    pub fn open(paths: &Paths, unlock: &Unlock) -> Result<Keyring> {
        unlock.check_storing()?;
        fs::check_private_dir(&paths.data).map_err(|error| missing_home(error, paths))?;
        file::open(&paths.keyring_file(), unlock, &unlock.key_file(paths)).map_err(|error| missing_home(error, paths))
    }

    /// Whether a keyring is stored here; says nothing about whether it opens.
    pub fn exists(paths: &Paths) -> bool {
        paths.keyring_file().exists()
    }

    /// What opens the stored keyring: a key file or a passphrase.
    pub fn protection(paths: &Paths) -> Result<Protection> {
        file::protection(&paths.keyring_file()).map_err(|error| missing_home(error, paths))
    }

    /// Seals the stored keyring with a passphrase and removes the key file that `init` made.
    ///
    /// A key file that the user keeps elsewhere stays: it no longer opens anything, but it is not ours to delete.
    pub fn lock_with_passphrase(&self, paths: &Paths, unlock: &Unlock, passphrase: &SecretString) -> Result<()> {
        unlock.check_storing()?;
        let _lock = lock(paths)?;
        file::seal_with_passphrase(&paths.keyring_file(), self, passphrase, unlock.work_factor())?;
        remove_if_there(&paths.keyring_key_file())
    }

    /// Seals the stored keyring with a key file again, made if it is missing.
    pub fn unlock_to_keyfile(&self, paths: &Paths, unlock: &Unlock) -> Result<()> {
        unlock.check_storing()?;
        let _lock = lock(paths)?;
        let unlock = unlock.clone().without_keychain();
        file::seal_with_key(&paths.keyring_file(), self, &unlock, &unlock.key_file(paths))
    }

    /// Puts a new key into the desktop's keychain and seals the stored keyring with it. `decide` makes the next command look for the
    /// key there; the key file that `init` made is removed last. At every point in between the old way opens the keyring, or the new one.
    pub fn lock_with_keychain(&self, paths: &Paths, unlock: &Unlock, decide: impl FnOnce() -> Result<()>) -> Result<()> {
        unlock.check_storing()?;
        let _lock = lock(paths)?;
        let (file, key, name) = (paths.keyring_file(), file::new_key(), keychain::name(paths));
        keychain::store(&name, &key)?;
        if file::protection(&file)? == Protection::KeyFile && unlock.keychain().is_none() {
            file::seal_to(&file, self, &[&key, &file::existing_key(&unlock.key_file(paths))?])?;
        }
        decide()?;
        file::seal_to(&file, self, &[&key])?;
        remove_if_there(&paths.keyring_key_file())
    }

    /// Takes the key out of the keychain, when nothing is sealed with it any more.
    pub fn forget_keychain(paths: &Paths) -> Result<()> {
        keychain::remove(&keychain::name(paths))
    }

    /// What others seal to this identity.
    pub fn sealing_public(&self) -> [u8; 32] {
        x25519_public(&self.identity.derive(Purpose::IdentityEcdh))
    }

    /// Opens what was sealed to this identity, or to one that it took the place of; at most `limit` bytes.
    pub fn unseal(&self, sealed: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>> {
        let open_with = |seed: &Seed| open(&seed.derive(Purpose::IdentityEcdh), sealed, limit);
        match open_with(&self.identity) {
            Err(error) if error.code() == Code::Refused => self.retired.iter().map(open_with).find(Result::is_ok).unwrap_or(Err(error)),
            done => done,
        }
    }

    /// Signs devices, grants and revocations.
    pub fn identity_key(&self) -> SigningKey {
        self.identity.signing_key(Purpose::IdentitySign)
    }

    /// The public identity.
    pub fn identity_public(&self) -> [u8; 32] {
        self.identity_key().verifying_key().to_bytes()
    }

    /// Signs this device's spans.
    pub fn device_key(&self) -> SigningKey {
        self.device.signing_key(Purpose::DeviceSign)
    }

    /// The public key of this device, the author of its spans.
    pub fn device_public(&self) -> [u8; 32] {
        self.device_key().verifying_key().to_bytes()
    }

    /// The X25519 secret this device uses towards nodes.
    pub fn client_noise(&self) -> Zeroizing<[u8; 32]> {
        self.device.derive(Purpose::ClientNoise)
    }

    /// The public half of [`Keyring::client_noise`].
    pub fn client_noise_public(&self) -> [u8; 32] {
        x25519_public(&self.client_noise())
    }

    /// Seals or opens the key that finds an exit's restricted onion service: exclusive or with a key that is derived for
    /// this one grant and used for nothing else. What is sealed may stand in the ledger.
    pub fn seal_discovery(&self, grant: &[u8; 8], key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let context = format!("portdistrict v1 exit-discovery {}", encoding::hex(grant));
        let mut out = Zeroizing::new(blake3::derive_key(&context, self.device.expose()));
        out.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        out
    }

    /// Seals or opens the seed of a machine that keeps nothing itself: exclusive or with a key that is derived for this machine
    /// alone (`id` is random). What is sealed may stand in the ledger, and every device of this identity can open it.
    pub fn seal_machine_seed(&self, id: &[u8; 16], seed: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        machine_seed(&self.identity, id, seed)
    }

    /// Opens the seed of a machine that was deployed under this identity, or under one that it took the place of.
    pub fn open_machine_seed(&self, owner: &[u8; 32], id: &[u8; 16], sealed: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        machine_seed(self.seed_of(owner).unwrap_or(&self.identity), id, sealed)
    }

    /// The id people compare: 32 characters of the identity.
    pub fn node_id(&self) -> String {
        encoding::node_id(&self.identity_public())
    }

    /// The identity's signature over this device's key, which makes its spans the identity's.
    pub fn device_certificate(&self) -> [u8; 64] {
        sign(&self.identity_key(), DEVICE, &self.device_public())
    }
}

fn machine_seed(identity: &Seed, id: &[u8; 16], seed: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let context = format!("portdistrict v1 machine-seed {}", encoding::hex(id));
    let mut out = Zeroizing::new(blake3::derive_key(&context, identity.expose()));
    out.iter_mut().zip(seed).for_each(|(byte, key)| *byte ^= key);
    out
}

/// The signature type of device certificates.
pub const DEVICE: &str = "device";

fn lock(paths: &Paths) -> Result<fs::Lock> {
    fs::lock(&paths.data.join("keyring.lock"))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(Code::Io, format!("the keyring opens another way now, but its old key file {} is still there", path.display()))
                .cause(error)
                .hint(format!("rm {}", fs::shell_quote(path))))
        }
        _ => Ok(()),
    }
}

/// Where nothing was ever set up, the way out is `init`, not a file name.
fn missing_home(error: Error, paths: &Paths) -> Error {
    if error.code() != Code::NotFound {
        return error;
    }
    Error::new(Code::Precondition, format!("there is no identity yet in {}", paths.home_in_use())).hint("portdistrict init")
}

#[cfg(test)]
mod tests;

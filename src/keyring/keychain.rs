//! The desktop's keychain (Secret Service, freedesktop.org) as a place for the key that opens the keyring.
//!
//! The keyring stays an age file; its key is an age identity, kept as a secret with the attributes `application` and `keyring`.

use crate::config::Paths;
use crate::error::{Code, Error, Result};
use age::x25519::Identity;
use secrecy::ExposeSecret;
use secret_service::EncryptionType;
use secret_service::blocking::{Collection, SecretService};
use std::collections::HashMap;
use zeroize::Zeroizing;

const LABEL: &str = "portdistrict keyring";
const CONTENT_TYPE: &str = "text/plain";

/// Under which name the key of a home is kept: where its keyring is.
pub(super) fn name(paths: &Paths) -> String {
    paths.keyring_file().display().to_string()
}

/// Puts a key there, in place of one of the same name, and reads it back.
pub(super) fn store(name: &str, key: &Identity) -> Result<()> {
    let secret = key.to_string();
    let text = Zeroizing::new(secret.expose_secret().to_owned());
    let expected = text.clone();
    with(name, move |collection, attributes| {
        collection.create_item(LABEL, attributes.clone(), text.as_bytes(), true, CONTENT_TYPE).map(drop)
    })?;
    if load(name)?.to_string().expose_secret() == expected.as_str() {
        return Ok(());
    }
    Err(Error::new(Code::Precondition, "the keychain did not keep the key; nothing was changed").hint("portdistrict identity lock"))
}

/// The key of this name.
pub(super) fn load(name: &str) -> Result<Identity> {
    let found = with(name, |collection, attributes| {
        let items = collection.search_items(attributes.clone())?;
        let Some(item) = items.first() else { return Ok(None) };
        item.unlock()?;
        item.get_secret().map(|bytes| Some(Zeroizing::new(bytes)))
    })?;
    let bytes = found.ok_or_else(|| {
        Error::new(Code::Keyring, format!("the keychain holds no key for {name}"))
            .hint("restore the key file from a backup and name it: --key-file FILE")
    })?;
    std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
        Error::new(Code::Keyring, format!("what the keychain holds for {name} is no age key"))
            .hint("restore the key file from a backup and name it: --key-file FILE")
    })
}

/// Takes a key away, if it is there.
pub(super) fn remove(name: &str) -> Result<()> {
    with(name, |collection, attributes| collection.search_items(attributes.clone())?.iter().try_for_each(|item| item.delete()))
}

/// Work on the default collection, unlocked. On a thread of its own: the library brings its own event loop, and a command may be in one.
fn with<T: Send>(
    name: &str,
    work: impl FnOnce(&Collection<'_>, &HashMap<&str, &str>) -> Result<T, secret_service::Error> + Send,
) -> Result<T> {
    let attributes = HashMap::from([("application", "portdistrict"), ("keyring", name)]);
    let done = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let service = SecretService::connect(EncryptionType::Dh)?;
            let collection = service.get_default_collection()?;
            collection.unlock()?;
            work(&collection, &attributes)
        });
        worker.join().unwrap_or(Err(secret_service::Error::Unavailable))
    });
    done.map_err(|error| {
        let (what, hint) = match error {
            secret_service::Error::Prompt | secret_service::Error::Locked => {
                ("the keychain stays locked", "unlock it on the desktop and run the command again")
            }
            _ => (
                "no keychain answers in this session",
                "start one (gnome-keyring, KWallet, KeePassXC) in this session, or keep the key otherwise: portdistrict identity lock",
            ),
        };
        Error::new(Code::Precondition, what).cause(error).hint(hint)
    })
}

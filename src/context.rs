//! What a command of the operator works with: paths, settings, keyring and ledger, each opened when first asked for.
//!
//! Making a context touches no disk, so that help, completion and commands of a friend without a home work anywhere.

use crate::config::{KeySource, Paths, Settings, fs, time};
use crate::error::{Code, Error, Result};
use crate::keyring::{self, Carried, Keyring, Unlock};
use crate::ledger::kinds::{Body, IdentityCreated};
use crate::ledger::{B64, Ledger, SpanId};
use crate::token::SecretIdentity;
use std::sync::OnceLock;

/// Opens what a command needs, at most once.
pub struct Context {
    paths: Paths,
    unlock: Unlock,
    settings: OnceLock<Settings>,
    keyring: OnceLock<Keyring>,
    ledger: OnceLock<Ledger>,
}

/// What [`Context::init`] found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// An identity was created.
    Created,
    /// There was one already; nothing changed, or what an interrupted `init` had left out was added.
    Present,
}

impl Context {
    /// A context over these folders; what opens the keyring is tried when it is needed.
    pub fn new(paths: Paths, unlock: Unlock) -> Context {
        Context { paths, unlock, settings: OnceLock::new(), keyring: OnceLock::new(), ledger: OnceLock::new() }
    }

    /// Where things are on disk.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        time::now_s()
    }

    /// What the user set.
    pub fn settings(&self) -> Result<&Settings> {
        once(&self.settings, || Settings::load(&self.paths))
    }

    /// What opens the keyring: what the caller gave, then what the settings say.
    pub fn unlock(&self) -> Result<Unlock> {
        let set = &self.settings()?.keyring;
        let unlock = match set.source {
            KeySource::Keychain => self.unlock.clone().or_keychain(&self.paths),
            KeySource::KeyFile => self.unlock.clone(),
        };
        Ok(unlock.or_key_file(set.key_file.clone()))
    }

    /// The opened keyring.
    pub fn keyring(&self) -> Result<&Keyring> {
        once(&self.keyring, || {
            let unlock = self.unlock()?;
            match unlock.carried()? {
                None => Keyring::open(&self.paths, &unlock),
                Some(carried) => self.carried(carried),
            }
        })
    }

    /// Whether there is a keyring, stored or carried; says nothing about whether it opens.
    pub fn has_keyring(&self) -> bool {
        self.unlock.carries() || Keyring::exists(&self.paths)
    }

    /// The keyring for an identity that the environment carries. A home that stores another one is never mixed with it.
    fn carried(&self, carried: Carried) -> Result<Keyring> {
        if Keyring::exists(&self.paths) {
            return Err(Error::new(Code::Precondition, format!("{} is set, and this home stores a keyring of its own", keyring::VARIABLE))
                .because(self.paths.home_in_use())
                .hint(format!("choose another home with --home DIR, or: unset {}", keyring::VARIABLE)));
        }
        let (identity, retired) = match carried {
            Carried::Keyring(Keyring { identity, retired, .. }) => (identity, retired),
            Carried::Line(line) => {
                let SecretIdentity { identity, retired } = SecretIdentity::from_blob(&line).map_err(|error| {
                    Error::new(Code::Keyring, format!("{} holds no identity", keyring::VARIABLE))
                        .because(error.to_string())
                        .hint("put there what `portdistrict identity export --secret` prints, or that sealed with age -a")
                })?;
                (identity, retired)
            }
        };
        keyring::keyring_of(&self.paths, identity, retired)
    }

    /// The ledger, for reading and appending.
    pub fn ledger(&self) -> Result<&Ledger> {
        once(&self.ledger, || {
            self.need_ledger()?;
            let path = self.paths.ledger_file();
            // On a read-only disk one can still look; what would change something then fails with the reason.
            Ledger::open(&path).or_else(|error| if fs::is_writable(&path) { Err(error) } else { Ledger::open_read_only(&path) })
        })
    }

    /// The ledger without the right to change it, for completion and for a read-only disk; opened anew each time.
    pub fn ledger_read_only(&self) -> Result<Ledger> {
        self.need_ledger()?;
        Ledger::open_read_only(&self.paths.ledger_file())
    }

    /// Records what happened, signed by this device.
    pub fn record<T: Body>(&self, body: &T) -> Result<SpanId> {
        self.ledger()?.record(&self.keyring()?.device_key(), body)
    }

    /// Records a span of any kind, signed by this device.
    pub fn append(&self, kind: &str, body: serde_json::Value) -> Result<SpanId> {
        self.ledger()?.append(&self.keyring()?.device_key(), kind, body)
    }

    /// Makes folders, ledger and keyring where they are missing. Running it again is harmless, also after an interruption.
    ///
    /// The ledger comes first: a keyring without a ledger then always means that the ledger was lost, and is never taken
    /// for a new start, which would give this device a second chain.
    pub fn init(&self) -> Result<Init> {
        if self.unlock.carries() { self.begin_carried() } else { self.begin(Keyring::random) }
    }

    /// The home of a pipeline: it has a name for its device and a ledger, and no keyring. Where it was thrown away, it begins anew as
    /// another device.
    fn begin_carried(&self) -> Result<Init> {
        self.make_folders()?;
        let _lock = fs::lock(&self.paths.data.join("init.lock"))?;
        keyring::name_device(&self.paths)?;
        let keyring = self.keyring()?;
        let present = self.has_ledger();
        let ledger = once(&self.ledger, || Ledger::open(&self.paths.ledger_file()))?;
        self.begin_chain(keyring, ledger)?;
        Ok(if present { Init::Present } else { Init::Created })
    }

    fn make_folders(&self) -> Result<()> {
        [&self.paths.config, &self.paths.data, &self.paths.state, &self.paths.cache]
            .into_iter()
            .try_for_each(|folder| fs::ensure_private_dir(folder))
    }

    /// As [`Context::init`], with the keyring that `make` brings where there is none.
    pub fn begin(&self, make: impl FnOnce() -> Result<Keyring>) -> Result<Init> {
        self.unlock.check_storing()?;
        self.make_folders()?;
        let _lock = fs::lock(&self.paths.data.join("init.lock"))?;
        let present = Keyring::exists(&self.paths);
        if present && !self.has_ledger() {
            return Err(self.lost_ledger());
        }
        let ledger = once(&self.ledger, || Ledger::open(&self.paths.ledger_file()))?;
        let owner = ledger.current_identity()?;
        let keyring = if present {
            self.keyring()?
        } else if owner.is_some() {
            return Err(self.lost_keyring());
        } else {
            once(&self.keyring, || make()?.store_first(&self.paths, &self.unlock()?))?
        };
        self.begin_chain(keyring, ledger)?;
        Ok(if present { Init::Present } else { Init::Created })
    }

    /// The device's certificate as the first span of its chain, if the ledger belongs to the identity.
    fn begin_chain(&self, keyring: &Keyring, ledger: &Ledger) -> Result<()> {
        let owner = ledger.current_identity()?;
        // A rotation that was interrupted after it was recorded leaves the new seed waiting in the keyring.
        let next = keyring.next.as_ref().map(Keyring::public_of);
        if owner.is_some_and(|owner| owner.0 != keyring.identity_public() && Some(owner.0) != next) {
            return Err(Error::new(
                Code::Precondition,
                format!("keyring and ledger in {} belong to different identities", self.paths.home_in_use()),
            )
            .hint("restore both from one backup"));
        }
        if !ledger.has_author(&keyring.device_public())? {
            ledger.record(&keyring.device_key(), &certificate(keyring))?;
        }
        Ok(())
    }

    fn has_ledger(&self) -> bool {
        std::fs::metadata(self.paths.ledger_file()).is_ok_and(|found| found.len() > 0)
    }

    fn need_ledger(&self) -> Result<()> {
        if self.has_ledger() {
            return Ok(());
        }
        if Keyring::exists(&self.paths) {
            return Err(self.lost_ledger());
        }
        Err(Error::new(Code::Precondition, format!("there is no identity yet in {}", self.paths.home_in_use())).hint("portdistrict init"))
    }

    fn lost_ledger(&self) -> Error {
        let data = fs::shell_quote(&self.paths.data);
        Error::new(Code::Ledger, format!("there is a keyring, but its ledger {} is missing or empty", self.paths.ledger_file().display()))
            .hint(format!("restore it from a backup; without one, begin again: mv {data} {data}.old && portdistrict init"))
    }

    fn lost_keyring(&self) -> Error {
        let data = fs::shell_quote(&self.paths.data);
        Error::new(Code::Keyring, format!("there is a ledger, but its keyring {} is missing", self.paths.keyring_file().display()))
            .hint(format!("restore it from a backup; without one, begin again: mv {data} {data}.old && portdistrict init"))
    }
}

fn certificate(keyring: &Keyring) -> IdentityCreated {
    IdentityCreated {
        identity: B64(keyring.identity_public()),
        device: B64(keyring.device_public()),
        cert: B64(keyring.device_certificate()),
    }
}

fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(there) = cell.get() {
        return Ok(there);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Filter;
    use serde_json::json;

    fn context(dir: &tempfile::TempDir) -> Context {
        Context::new(Paths::find(Some(dir.path())).unwrap(), Unlock::default())
    }

    fn error<T>(result: Result<T>) -> Error {
        match result {
            Err(error) => error,
            Ok(_) => panic!("it should have failed"),
        }
    }

    #[test]
    fn before_init_everything_says_init_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cx = context(&dir);
        for error in [error(cx.keyring()), error(cx.ledger()), error(cx.ledger_read_only()), error(cx.append("note.made", json!({})))] {
            assert_eq!((error.code(), error.hint_text()), (Code::Precondition, Some("portdistrict init")));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn init_can_be_repeated_and_completes_what_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(context(&dir).init().unwrap(), Init::Created);
        let cx = context(&dir);
        assert_eq!(cx.init().unwrap(), Init::Present);
        cx.append("note.made", json!({})).unwrap();
        assert_eq!(cx.ledger().unwrap().log(&Filter::default()).unwrap().len(), 2);
        assert!(cx.ledger_read_only().unwrap().verify().unwrap().is_ok());

        // Interrupted after the ledger was made, and after the keyring was made.
        let dir = tempfile::tempdir().unwrap();
        let cx = context(&dir);
        fs::ensure_private_dir(&cx.paths().data).unwrap();
        drop(Ledger::open(&cx.paths().ledger_file()).unwrap());
        assert_eq!(context(&dir).init().unwrap(), Init::Created);
        let dir = tempfile::tempdir().unwrap();
        let cx = context(&dir);
        fs::ensure_private_dir(&cx.paths().data).unwrap();
        drop(Ledger::open(&cx.paths().ledger_file()).unwrap());
        Keyring::create(cx.paths(), &Unlock::default()).unwrap();
        assert_eq!(context(&dir).init().unwrap(), Init::Present);
        assert!(context(&dir).append("note.made", json!({})).is_ok());
    }

    #[test]
    fn several_inits_at_once_make_one_identity() {
        let dir = tempfile::tempdir().unwrap();
        let made: Vec<Init> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| context(&dir).init().unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|m| **m == Init::Created).count(), 1);
        assert_eq!(context(&dir).ledger().unwrap().verify().unwrap().spans, 1);
    }

    #[test]
    fn a_lost_half_is_named_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cx = context(&dir);
        cx.init().unwrap();
        let (ledger, keyring) = (cx.paths().ledger_file(), cx.paths().keyring_file());
        drop(cx);
        std::fs::rename(&keyring, dir.path().join("k")).unwrap();
        let lost = error(context(&dir).init());
        assert_eq!(lost.code(), Code::Keyring);
        assert!(lost.hint_text().unwrap().contains("backup"));

        std::fs::rename(dir.path().join("k"), &keyring).unwrap();
        std::fs::remove_file(&ledger).unwrap();
        assert_eq!(error(context(&dir).init()).code(), Code::Ledger);
        assert_eq!(error(context(&dir).ledger()).code(), Code::Ledger);
        fs::write_private(&ledger, b"").unwrap();
        assert_eq!(error(context(&dir).init()).code(), Code::Ledger);
    }

    #[test]
    fn halves_of_different_identities_are_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        context(&one).init().unwrap();
        context(&two).init().unwrap();
        let (from, to) = (context(&one).paths().ledger_file(), context(&two).paths().ledger_file());
        std::fs::copy(from, to).unwrap();
        assert!(error(context(&two).init()).message().contains("different identities"));
    }

    #[test]
    fn the_settings_can_move_the_key_file() {
        let (dir, stick) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cx = context(&dir);
        fs::ensure_private_dir(&cx.paths().config).unwrap();
        let key = stick.path().join("keyring.key");
        std::fs::write(cx.paths().settings_file(), format!("[keyring]\nkey_file = {key:?}\n")).unwrap();
        cx.init().unwrap();
        assert!(key.exists() && !cx.paths().keyring_key_file().exists());
        context(&dir).keyring().unwrap();
    }
}

//! The four folders everything of ours lives in, found the same way by every command (PD-ID5).

use super::Label;
use crate::error::{Code, Error, Result};
use etcetera::BaseStrategy;
use std::env;
use std::path::{Path, PathBuf};

/// Where configuration, data, state and cache are. Finding them creates and reads nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `config.toml`
    pub config: PathBuf,
    /// The keyring and the ledger: what must be backed up.
    pub data: PathBuf,
    /// Sockets, logs and what a running process needs; may be lost.
    pub state: PathBuf,
    /// What can be fetched or built again.
    pub cache: PathBuf,
    source: Source,
}

/// What decided on the folders, for telling the user.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Flag(PathBuf),
    Variable(PathBuf),
    Xdg,
}

impl Paths {
    /// The flag `--home` wins, then `PORTDISTRICT_HOME`, then the XDG directories. Touches no disk.
    pub fn find(home: Option<&Path>) -> Result<Paths> {
        if let Some(home) = home {
            return Self::under(home, Source::Flag);
        }
        match env::var_os("PORTDISTRICT_HOME") {
            Some(home) if !home.is_empty() => Self::under(Path::new(&home), Source::Variable),
            _ => Self::xdg(),
        }
    }

    fn under(home: &Path, source: impl FnOnce(PathBuf) -> Source) -> Result<Paths> {
        if home.as_os_str().is_empty() {
            return Err(Error::new(Code::Usage, "--home is empty").hint("name a folder, as in --home ./portdistrict-home"));
        }
        // Detached processes outlive this one's working directory, so the folder is made absolute once, here.
        let home = std::path::absolute(home).map_err(|e| {
            Error::new(Code::Usage, format!("cannot use {} as home", home.display())).cause(e).hint("give an absolute path")
        })?;
        Ok(Paths {
            config: home.join("config"),
            data: home.join("data"),
            state: home.join("state"),
            cache: home.join("cache"),
            source: source(home),
        })
    }

    fn xdg() -> Result<Paths> {
        // Without HOME the library would ask the password database, which a static binary must not do.
        if env::var_os("HOME").is_none_or(|home| home.is_empty()) {
            return Err(Error::new(Code::Precondition, "there is no home folder: neither HOME nor PORTDISTRICT_HOME is set")
                .hint("name a folder with --home DIR"));
        }
        let dirs = etcetera::base_strategy::Xdg::new()
            .map_err(|e| Error::new(Code::Precondition, "cannot find the home folder").cause(e).hint("name a folder with --home DIR"))?;
        let ours = |dir: PathBuf| dir.join("portdistrict");
        Ok(Paths {
            config: ours(dirs.config_dir()),
            data: ours(dirs.data_dir()),
            state: ours(dirs.state_dir().unwrap_or_else(|| dirs.home_dir().join(".local/state"))),
            cache: ours(dirs.cache_dir()),
            source: Source::Xdg,
        })
    }

    /// Which home is in use and why, for `status`, `doctor` and errors; names the trap of running under sudo.
    pub fn home_in_use(&self) -> String {
        let text = match &self.source {
            Source::Flag(home) => format!("{} (--home)", home.display()),
            Source::Variable(home) => format!("{} (PORTDISTRICT_HOME)", home.display()),
            Source::Xdg => format!("{} (XDG)", self.data.display()),
        };
        match self.sudo_user() {
            Some(user) => format!("{text}, under sudo by {user}"),
            None => text,
        }
    }

    /// The user behind `sudo`, if the folders were not named explicitly and may therefore surprise.
    pub fn sudo_user(&self) -> Option<String> {
        if self.source != Source::Xdg {
            return None;
        }
        env::var("SUDO_USER").ok().filter(|user| !user.is_empty() && user != "root")
    }

    /// The state folder of one machine.
    pub fn machine_dir(&self, label: &Label) -> PathBuf {
        self.machines_dir().join(label.as_str())
    }

    /// The folder with one folder for each machine.
    pub fn machines_dir(&self) -> PathBuf {
        self.state.join("machines")
    }

    /// The settings file.
    pub fn settings_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The keyring, an age file.
    pub fn keyring_file(&self) -> PathBuf {
        self.data.join("keyring.age")
    }

    /// The key that opens the keyring unless a passphrase does.
    pub fn keyring_key_file(&self) -> PathBuf {
        self.data.join("keyring.key")
    }

    /// The ledger database.
    pub fn ledger_file(&self) -> PathBuf {
        self.data.join("ledger.db")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_home_holds_all_four_folders() {
        let paths = Paths::find(Some(Path::new("/tmp/none/such"))).unwrap();
        assert_eq!(paths.config, Path::new("/tmp/none/such/config"));
        assert_eq!(paths.cache, Path::new("/tmp/none/such/cache"));
        assert_eq!(paths.machine_dir(&"home".parse().unwrap()), Path::new("/tmp/none/such/state/machines/home"));
        assert_eq!(paths.home_in_use(), "/tmp/none/such (--home)");
        assert!(!Path::new("/tmp/none").exists());
    }

    #[test]
    fn a_relative_home_becomes_absolute_and_an_empty_one_is_refused() {
        assert!(Paths::find(Some(Path::new("x"))).unwrap().data.is_absolute());
        assert_eq!(Paths::find(Some(Path::new(""))).unwrap_err().code(), Code::Usage);
    }
}

//! The node's configuration file, written by deploy and read once at start; all of it is checked before a port is opened.

use super::egress::Rule;
use crate::config::{Label, fs};
use crate::encoding::{base64, from_base64_array};
use crate::error::{Code, Error, Result};
use crate::keyring::Seed;
use crate::session::CoverKey;
use crate::session::seed::Source;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Far above what a configuration needs.
const MAX_CONFIG: usize = 256 * 1024;

/// What a node is told. Relative paths are relative to the folder of the file.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The one TCP address; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where the node keeps its key and memory; made with mode 0700 if missing.
    pub state_dir: PathBuf,
    /// The name given at deploy.
    pub label: Label,
    /// The identity key (base64url) of the only one who may claim it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The first one to come may claim it; only where no owner is fixed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub claim_by_anyone: bool,
    /// A file (mode 0600) that holds the bootstrap's cover key, 32 bytes as base64url. Without it no claim is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_cover_file: Option<PathBuf>,
    /// Destinations beyond the public internet, as in `10.1.2.3:80` or `10.0.0.0/8`. The owner can replace it at run time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Name servers for machines without `/etc/resolv.conf`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<IpAddr>,
    /// Write destinations into the log. Off: who went where is the guest's business.
    #[serde(default, skip_serializing_if = "is_false")]
    pub log_destinations: bool,
    /// Be an onion service, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tor: Option<Tor>,
    /// A file (mode 0600) with the seed, 32 bytes as base64url, that a node begins with which has none yet; without it a random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_file: Option<PathBuf>,
    /// The seed is handed over by the owner with the claim; until then the node has keys that it forgets, and no onion service.
    #[serde(default, skip_serializing_if = "is_false")]
    pub seed_from_owner: bool,
    /// The hardware that gave the seed in `seed_file`, in a machine that boots an image; no configuration file can say so.
    #[serde(skip)]
    pub seed_of: Option<Source>,
    /// How much of the machine the node may use.
    #[serde(default, skip_serializing_if = "Bounds::is_default")]
    pub limits: Bounds,
}

/// The section `[tor]`: its presence makes the node an onion service.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Tor {
    /// A file with Arti's own settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_file: Option<PathBuf>,
    /// Bridge lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
    /// Say "ready" only after a connection through the network reached this node.
    pub self_test: bool,
}

impl Default for Tor {
    fn default() -> Self {
        Tor { config_file: None, bridges: Vec::new(), self_test: true }
    }
}

/// What bounds the node's use of memory and descriptors against strangers and guests.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Sessions open at once.
    pub sessions: usize,
    /// Exit streams open at once.
    pub streams: usize,
    /// Connections that have not finished their handshake, in all.
    pub handshakes: usize,
    /// The same, from one address (one /64 for IPv6). The oldest makes room for the newest.
    pub handshakes_per_source: usize,
    /// Unanswered connections that are kept open for a while, in all. The oldest makes room for the newest.
    pub lingering: usize,
    /// The same, from one address.
    pub lingering_per_source: usize,
    /// Threads that serve; 0 means one for each processor.
    pub threads: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            sessions: 16_384,
            streams: 32_768,
            handshakes: 8192,
            handshakes_per_source: 1024,
            lingering: 2048,
            lingering_per_source: 1024,
            threads: 0,
        }
    }
}

impl Bounds {
    fn is_default(&self) -> bool {
        *self == Bounds::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Config {
    /// A configuration with nothing but what every node needs.
    pub fn new(listen: SocketAddr, state_dir: impl Into<PathBuf>, label: Label) -> Self {
        Config {
            listen,
            state_dir: state_dir.into(),
            label,
            owner: None,
            claim_by_anyone: false,
            bootstrap_cover_file: None,
            allow: Vec::new(),
            name_servers: Vec::new(),
            log_destinations: false,
            tor: None,
            seed_file: None,
            seed_from_owner: false,
            seed_of: None,
            limits: Bounds::default(),
        }
    }

    /// Reads the file and makes its paths absolute.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path, MAX_CONFIG)?;
        let bad = |why: String| {
            Error::new(Code::Usage, format!("{}: {why}", path.display()))
                .hint("docs/operators-guide.md lists every key of a node's configuration")
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("not a text file".into()))?;
        let mut config: Config = toml::from_str(text).map_err(|error| bad(error.to_string().trim().to_owned()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.state_dir = folder.join(&config.state_dir);
        config.bootstrap_cover_file = config.bootstrap_cover_file.map(|file| folder.join(file));
        config.seed_file = config.seed_file.map(|file| folder.join(file));
        if let Some(tor) = &mut config.tor {
            tor.config_file = tor.config_file.take().map(|file| folder.join(file));
        }
        config.check().map_err(|error| match error.hint_text() {
            Some(hint) => bad(error.message().to_owned()).hint(hint),
            None => bad(error.message().to_owned()),
        })?;
        Ok(config)
    }

    /// The text that [`Config::read`] reads back.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::new(Code::Failed, "cannot write the node's configuration").cause(error))
    }

    /// Everything that can be wrong before the machine is touched.
    pub fn check(&self) -> Result<()> {
        self.rules()?;
        if self.owner_key()?.is_some() && self.claim_by_anyone {
            return Err(Error::new(Code::Usage, "`owner` and `claim_by_anyone` exclude each other").hint("remove one of the two lines"));
        }
        if self.seed_from_owner && (self.seed_file.is_some() || self.owner.is_none()) {
            return Err(Error::new(Code::Usage, "`seed_from_owner` needs a fixed `owner` and excludes `seed_file`")
                .hint("name the owner, and leave `seed_file` away"));
        }
        Ok(())
    }

    /// Where the node's seed comes from.
    pub fn seed_source(&self) -> Source {
        self.seed_of.unwrap_or(if self.seed_from_owner { Source::Owner } else { Source::Local })
    }

    /// The allow-list as rules.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        Rule::parse_list(&self.allow)
    }

    /// The owner's key, if one is fixed.
    pub fn owner_key(&self) -> Result<Option<[u8; 32]>> {
        let Some(text) = &self.owner else { return Ok(None) };
        from_base64_array(text).map(Some).ok_or_else(|| {
            Error::new(Code::Usage, format!("`owner` is not a key: `{}`", text.escape_debug()))
                .hint("take the 43 characters that `portdistrict identity show` prints")
        })
    }

    /// The bootstrap's cover key, if claims are possible.
    pub fn bootstrap_cover(&self) -> Result<Option<CoverKey>> {
        let key = self.bootstrap_cover_file.as_deref().map(|path| {
            read_key(path, "a cover key")
                .map_err(|error| error.hint("deploy the machine again, or remove `bootstrap_cover_file` if it is claimed already"))
        });
        Ok(key.transpose()?.map(|key| CoverKey::from_bytes(*key)))
    }

    /// The seed to begin with, if one was given.
    pub fn first_seed(&self) -> Result<Option<Seed>> {
        let Some(path) = &self.seed_file else { return Ok(None) };
        let key = read_key(path, "a seed").map_err(|error| error.hint("deploy the machine again, with another --seed-file or none"))?;
        Ok(Some(Seed::from_bytes(&key)))
    }
}

/// 32 secret bytes as base64url, in a file that others cannot read.
fn read_key(path: &Path, what: &str) -> Result<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(fs::read_private(path, 64)?);
    let key = std::str::from_utf8(&bytes).ok().and_then(|text| from_base64_array(text.trim()));
    key.map(Zeroizing::new)
        .ok_or_else(|| Error::new(Code::Usage, format!("{} does not hold {what} (32 bytes as base64url)", path.display())))
}

/// Writes a cover key where [`Config::bootstrap_cover_file`] points.
pub fn write_cover_file(path: &Path, key: &[u8; 32]) -> Result<()> {
    fs::write_private(path, base64(key).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    const SMALL: &str = "listen = \"127.0.0.1:0\"\nstate_dir = \"state\"\nlabel = \"home\"\n";

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("[::1]:4433".parse().unwrap(), dir.path().join("state"), "home".parse().unwrap());
        config.owner = Some(base64(&[7; 32]));
        config.allow = vec!["10.0.0.0/8:80".into()];
        config.name_servers = vec!["9.9.9.9".parse().unwrap()];
        config.limits.sessions = 5;
        config.bootstrap_cover_file = Some(dir.path().join("cover"));
        let path = dir.path().join("node.toml");
        std::fs::write(&path, config.to_toml().unwrap()).unwrap();
        assert_eq!(Config::read(&path).unwrap(), config);
        assert_eq!(config.owner_key().unwrap(), Some([7; 32]));

        write_cover_file(&dir.path().join("cover"), &[9; 32]).unwrap();
        assert!(config.bootstrap_cover().unwrap().is_some());
        std::fs::write(dir.path().join("cover"), "short").unwrap();
        assert!(config.bootstrap_cover().is_err());
    }

    #[test]
    fn the_smallest_file_has_safe_defaults_and_paths_beside_it() {
        let config = read(SMALL).unwrap();
        assert!(config.state_dir.is_absolute() && config.state_dir.ends_with("state"));
        assert!(config.allow.is_empty() && config.owner.is_none() && !config.claim_by_anyone && !config.log_destinations);
        assert!(config.bootstrap_cover().unwrap().is_none());
    }

    #[test]
    fn mistakes_are_named_with_file_and_key() {
        let table = [
            ("colour = 1\n", "colour"),
            ("allow = [\"example.org\"]\n", "example.org"),
            ("owner = \"short\"\n", "`owner` is not a key: `short`"),
            ("[limits]\nsession = 1\n", "session"),
            ("listen = 7\n", "listen"),
            ("", "label"),
        ];
        for (line, expected) in table {
            let text = if line.is_empty() { SMALL.replace("home", "Not A Label") } else { format!("{SMALL}{line}") };
            let error = read(&text).unwrap_err();
            assert!(error.message().contains("node.toml") && error.message().contains(expected), "{line}: {error}");
            assert!(error.hint_text().is_some());
        }
        let waits = format!("{SMALL}seed_from_owner = true\n");
        assert!(read(&waits).unwrap_err().message().contains("needs a fixed `owner`"));
        let both = format!("{SMALL}owner = \"{}\"\nclaim_by_anyone = true\n", base64(&[1; 32]));
        assert!(read(&both).unwrap_err().message().contains("exclude each other"));
    }
}

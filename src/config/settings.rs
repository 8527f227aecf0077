//! What the user set in `config.toml`. The commented defaults are compiled in; an unknown key is refused with its line.

use super::{Paths, fs, time};
use crate::error::{Code, Error, Result};
use serde::{Deserialize, Deserializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest settings file that is read.
const LIMIT: usize = 64 * 1024;

/// Every setting with its default and a comment; the text `portdistrict` would have written for you.
pub const DEFAULT: &str = include_str!("default.toml");

/// The settings, each with its default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long a command waits for others.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// The keyring.
    pub keyring: KeyringSettings,
    /// What `exit invite` grants unless told otherwise.
    pub invite: InviteSettings,
    /// Where `exit connect` listens.
    pub connect: ConnectSettings,
    /// The way into the Tor network.
    pub tor: TorSettings,
    /// How providers are spoken to.
    pub http: HttpSettings,
    /// Google Compute Engine.
    pub gce: GceSettings,
    /// Hetzner Cloud.
    pub hetzner: HetznerSettings,
}

/// The section `[http]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// How long one request may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often one is tried that may be repeated.
    pub attempts: u32,
    /// The longest pause after the first attempt; it doubles with each.
    #[serde(deserialize_with = "duration")]
    pub pause: Duration,
}

/// The section `[gce]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GceSettings {
    /// The project that pays.
    pub project: Option<String>,
    /// Where machines stand.
    pub zone: Option<String>,
    /// Where images are uploaded to.
    pub bucket: Option<String>,
    /// A file with credentials.
    pub credentials: Option<PathBuf>,
}

/// The section `[hetzner]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HetznerSettings {
    /// Where machines stand.
    pub zone: Option<String>,
    /// A file with the token.
    pub token_file: Option<PathBuf>,
}

/// The section `[tor]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TorSettings {
    /// A file with Arti's own settings.
    pub config_file: Option<PathBuf>,
    /// Bridge lines.
    pub bridges: Vec<String>,
}

/// The section `[keyring]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyringSettings {
    /// The key file, if it is not next to the keyring.
    pub key_file: Option<PathBuf>,
    /// Where the key is that opens the keyring.
    pub source: KeySource,
}

/// Where the key is that opens the keyring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// In a file.
    #[default]
    KeyFile,
    /// In the desktop's keychain.
    Keychain,
}

impl KeySource {
    fn as_str(self) -> &'static str {
        match self {
            KeySource::KeyFile => "key-file",
            KeySource::Keychain => "keychain",
        }
    }
}

/// The section `[invite]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InviteSettings {
    /// How long a new grant lasts.
    #[serde(deserialize_with = "duration")]
    pub lifetime: Duration,
}

/// The section `[connect]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectSettings {
    /// The proxy's address; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout: Duration::from_secs(30),
            keyring: KeyringSettings::default(),
            invite: InviteSettings::default(),
            connect: ConnectSettings::default(),
            tor: TorSettings::default(),
            http: HttpSettings::default(),
            gce: GceSettings::default(),
            hetzner: HetznerSettings::default(),
        }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings { timeout: Duration::from_secs(60), attempts: 6, pause: Duration::from_secs(1) }
    }
}

impl Default for InviteSettings {
    fn default() -> Self {
        InviteSettings { lifetime: Duration::from_secs(24 * 60 * 60) }
    }
}

impl Default for ConnectSettings {
    fn default() -> Self {
        ConnectSettings { listen: SocketAddr::from(([127, 0, 0, 1], 1080)) }
    }
}

impl Settings {
    /// Reads `config.toml`; a missing file means the defaults.
    pub fn load(paths: &Paths) -> Result<Settings> {
        let file = paths.settings_file();
        let bytes = match fs::read(&file, LIMIT) {
            Err(error) if error.code() == Code::NotFound => return Ok(Settings::default()),
            other => other?,
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::new(Code::Precondition, format!("{} is not UTF-8 text", file.display())).hint("save it as UTF-8"))?;
        Self::parse(&text, &file)
    }

    /// The settings file with another `source` under `[keyring]`, and everything else as the user wrote it.
    pub fn with_key_source(paths: &Paths, source: KeySource) -> Result<String> {
        let file = paths.settings_file();
        let text = match fs::read(&file, LIMIT) {
            Err(error) if error.code() == Code::NotFound => String::new(),
            other => String::from_utf8_lossy(&other?).into_owned(),
        };
        let line = format!("source = \"{}\"", source.as_str());
        let mut lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.trim() == "[keyring]");
        match at {
            Some(at) => {
                let end = lines[at + 1..].iter().position(|line| line.trim_start().starts_with('[')).map_or(lines.len(), |n| at + 1 + n);
                let is_source =
                    |line: &&str| line.trim_start().strip_prefix("source").is_some_and(|rest| rest.trim_start().starts_with('='));
                match lines[at + 1..end].iter().position(is_source) {
                    Some(n) => lines[at + 1 + n] = &line,
                    None => lines.insert(at + 1, &line),
                }
            }
            None => lines.extend(["[keyring]", &line]),
        }
        let text = lines.join("\n") + "\n";
        // What was not understood is left to the one who wrote it.
        match Settings::parse(&text, &file) {
            Ok(settings) if settings.keyring.source == source => Ok(text),
            _ => Err(Error::new(Code::Precondition, format!("cannot set the source of the key in {}", file.display()))
                .hint(format!("write under [keyring]: {line}"))),
        }
    }

    fn parse(text: &str, file: &Path) -> Result<Settings> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::new(Code::Precondition, format!("{} line {line}: {}", file.display(), error.message()))
                .hint(format!("correct it, or move it away: mv {0} {0}.old", fs::shell_quote(file)))
        })
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    time::parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("/home/config.toml"))
    }

    #[test]
    fn the_compiled_in_text_says_the_defaults() {
        assert_eq!(parse(DEFAULT).unwrap(), Settings::default());
        let uncommented: String =
            DEFAULT.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).fold(String::new(), |all, line| all + line + "\n");
        let all = parse(&uncommented).unwrap();
        assert_eq!(all.keyring.key_file.as_deref(), Some(Path::new("/media/stick/keyring.key")));
        assert_eq!((all.tor.config_file.is_some(), all.tor.bridges.len()), (true, 1));
        assert!(all.gce.project.is_some() && all.gce.zone.is_some() && all.gce.bucket.is_some() && all.gce.credentials.is_some());
        assert!(all.hetzner.zone.is_some() && all.hetzner.token_file.is_some());
        let Settings { timeout, invite, connect, http, .. } = all;
        assert_eq!(Settings { timeout, invite, connect, http, ..Settings::default() }, Settings::default());
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_with_file_and_line() {
        for (text, line, word) in [
            ("colour = 1\n", 1, "colour"),
            ("timeout = \"5s\"\n\n[invite]\nlifetim = \"1h\"\n", 4, "lifetim"),
            ("[invite]\nlifetime = \"soon\"\n", 2, "soon"),
            ("[connect]\nlisten = \"localhost\"\n", 2, "socket"),
            ("timeout = 5\n", 1, "string"),
            ("[invite\n", 1, ""),
            ("timeout = \"ü\"\n", 1, "ü"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message().starts_with(&format!("/home/config.toml line {line}: ")), "{error}");
            assert!(error.message().contains(word), "{error}");
            assert!(error.hint_text().unwrap().contains("mv /home/config.toml"));
        }
    }

    #[test]
    fn the_source_of_the_key_is_set_and_the_rest_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::find(Some(dir.path())).unwrap();
        fs::ensure_private_dir(&paths.config).unwrap();
        assert_eq!(Settings::with_key_source(&paths, KeySource::Keychain).unwrap(), "[keyring]\nsource = \"keychain\"\n");
        let mine = "# mine\ntimeout = \"5s\"\n[keyring] \n# here\nsource= \"key-file\"\n[tor]\nbridges = []\n";
        std::fs::write(paths.settings_file(), mine).unwrap();
        let set = Settings::with_key_source(&paths, KeySource::Keychain).unwrap();
        assert_eq!(set, mine.replace("source= \"key-file\"", "source = \"keychain\""));
        std::fs::write(paths.settings_file(), mine.replace("source= \"key-file\"\n", "")).unwrap();
        assert!(
            Settings::with_key_source(&paths, KeySource::Keychain).unwrap().contains("[keyring] \nsource = \"keychain\"\n# here\n[tor]")
        );
        std::fs::write(paths.settings_file(), "keyring.key_file = \"/x\"\n").unwrap();
        assert!(Settings::with_key_source(&paths, KeySource::Keychain).unwrap_err().hint_text().unwrap().contains("source = "));
    }

    #[test]
    fn a_missing_file_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::find(Some(dir.path())).unwrap();
        assert_eq!(Settings::load(&paths).unwrap(), Settings::default());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

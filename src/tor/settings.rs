//! What of Arti's settings a person may decide, and what we decide.

use super::{Places, Role};
use crate::config::fs;
use crate::error::{Code, Error, Result};
use arti_client::config::{BridgeConfigBuilder, CfgPath, TorClientConfig, TorClientConfigBuilder};
use std::path::{Path, PathBuf};
use tor_config::ExplicitOrAuto;
use tor_keymgr::config::ArtiKeystoreKind;

/// The largest settings file that is read.
pub const MAX_SETTINGS: usize = 256 * 1024;
/// Most memory that Arti's queues may take before it drops the greediest circuits; fits a machine of 512 MiB.
const MEMORY: usize = 128 << 20;
/// Sections of an `arti.toml` that are for the program `arti`, not for what is embedded here.
const NOT_FOR_US: [&str; 7] = ["application", "logging", "metrics", "onion_services", "proxy", "rpc", "use_obsolete_software"];

/// What a person decides about Tor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// A file with Arti's own settings: other networks, bridges, pluggable transports.
    pub file: Option<PathBuf>,
    /// Bridge lines, as bridges.torproject.org hands them out.
    pub bridges: Vec<String>,
}

impl Settings {
    /// Reads them and says what is wrong with them.
    pub fn check(&self) -> Result<()> {
        self.client_config(&Places::within(Path::new("/nowhere")), Role::Host).map(drop)
    }

    /// Arti's configuration.
    pub(super) fn client_config(&self, places: &Places, role: Role) -> Result<TorClientConfig> {
        let (mut builder, table) = match &self.file {
            Some(file) => read(file)?,
            None => (TorClientConfig::builder(), toml::Table::new()),
        };
        self.add_bridges(&mut builder)?;
        let storage = builder.storage();
        storage.state_dir(CfgPath::new_literal(&places.state)).cache_dir(CfgPath::new_literal(&places.cache));
        // These folders are checked like every private folder of ours: 0700, and ours alone. Naming no group keeps Arti from
        // looking one up, which fails where there is no /etc/passwd.
        storage.permissions().trust_no_group_id().dangerously_trust_everyone();
        if role == Role::Client {
            storage.keystore().primary().kind(ExplicitOrAuto::Explicit(ArtiKeystoreKind::Ephemeral));
        }
        if !table.contains_key("preemptive_circuits") {
            // Nothing here leaves by Tor's own exits, so circuits to these are not kept ready.
            builder.preemptive_circuits().set_initial_predicted_ports(Vec::new());
        }
        if !table.contains_key("system") {
            builder.system().memory().max(MEMORY);
        }
        builder.build().map_err(|error| {
            tracing::debug!(%error, "arti's settings");
            let wrong = Error::new(Code::Precondition, "Tor does not accept its settings").because(error.to_string());
            match &self.file {
                Some(file) => wrong.hint(format!("look at {}", file.display())),
                None => wrong.hint("look at [tor] in config.toml"),
            }
        })
    }

    fn add_bridges(&self, builder: &mut TorClientConfigBuilder) -> Result<()> {
        for line in &self.bridges {
            let bridge: BridgeConfigBuilder = line.parse().map_err(|error| {
                Error::new(Code::Precondition, format!("`{}` is not a bridge line", line.escape_debug()))
                    .cause(error)
                    .hint("write it as bridges.torproject.org hands it out: [TRANSPORT] ADDRESS:PORT FINGERPRINT …")
            })?;
            builder.bridges().bridges().push(bridge);
        }
        Ok(())
    }
}

/// Reads a file of Arti's settings; a key that Arti does not know is an error, not a surprise.
fn read(file: &Path) -> Result<(TorClientConfigBuilder, toml::Table)> {
    let bytes = fs::read(file, MAX_SETTINGS)?;
    let bad = |why: String| {
        Error::new(Code::Precondition, format!("{}: {why}", file.display()))
            .hint("it takes the settings of Arti's client, as its arti.toml does")
    };
    let text = String::from_utf8(bytes).map_err(|_| bad("not a text file".to_owned()))?;
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| bad(error.to_string().trim().to_owned()))?;
    table.retain(|name, _| !NOT_FOR_US.iter().any(|section| **section == *name));
    let mut unknown = Vec::new();
    let builder = serde_ignored::deserialize(table.clone(), |path| unknown.push(path.to_string()))
        .map_err(|error: toml::de::Error| bad(error.to_string().trim().to_owned()))?;
    match unknown.first() {
        Some(key) => Err(bad(format!("Arti has no setting `{key}`"))),
        None => Ok((builder, table)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, bridges: &[&str]) -> Result<TorClientConfig> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("arti.toml");
        std::fs::write(&file, text).unwrap();
        let bridges = bridges.iter().map(|&line| line.to_owned()).collect();
        Settings { file: Some(file), bridges }.client_config(&Places::within(dir.path()), Role::Client)
    }

    #[test]
    fn artis_own_file_is_taken_and_mistakes_in_it_are_named() {
        config("", &[]).unwrap();
        config("[address_filter]\nallow_local_addrs = true\n[proxy]\nsocks_listen = 9150\n", &[]).unwrap();
        for (text, named) in [
            ("[address_filter]\nallow_lokal = true\n", "address_filter.allow_lokal"),
            ("[adress_filter]\n", "adress_filter"),
            ("not toml", "arti.toml"),
            ("[address_filter]\nallow_local_addrs = 7\n", "arti.toml"),
        ] {
            let error = config(text, &[]).unwrap_err();
            assert!(error.message().contains(named) && error.hint_text().is_some(), "{text}: {error:?}");
        }
    }

    #[test]
    fn bridge_lines_are_read() {
        config("", &["192.0.2.3:443 4352E58420E68F5E40BF7C74FADDCCD9D1349413"]).unwrap();
        let error = config("", &["somewhere nice"]).unwrap_err();
        assert!(error.message().contains("somewhere nice"), "{error:?}");
    }
}

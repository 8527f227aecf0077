//! What a node needs to know, as deploy writes it: the files of one folder, wherever that folder is.

use super::provider::Plan;
use crate::encoding::base64;
use crate::error::{Code, Error, Result};
use serde::Serialize;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// Names within a machine's folder that its configuration mentions; relative, so that the folder can be moved.
pub(super) const CONFIG: &str = "node.toml";
pub(super) const STATE: &str = "node";
pub(super) const COVER: &str = "cover";
pub(super) const SEED: &str = "seed";
pub(super) const TOR_SETTINGS: &str = "arti.toml";

/// The contents of the files.
pub(super) struct NodeFiles {
    /// Of [`CONFIG`].
    pub(super) config: String,
    /// Of [`COVER`].
    pub(super) cover: Zeroizing<String>,
    /// Of [`SEED`], if it begins with one that was chosen.
    pub(super) seed: Option<Zeroizing<String>>,
    /// Of [`TOR_SETTINGS`], if there are any.
    pub(super) tor_settings: Option<String>,
}

/// The configuration as providers write it; `node` reads and documents the same names.
#[derive(Serialize)]
struct Config<'a> {
    label: &'a str,
    listen: SocketAddr,
    state_dir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    claim_by_anyone: bool,
    bootstrap_cover_file: &'a str,
    allow: &'a [String],
    log_destinations: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tor: Option<TorSection<'a>>,
}

/// Its section `[tor]`.
#[derive(Serialize)]
struct TorSection<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    config_file: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    bridges: &'a [String],
    self_test: bool,
}

impl NodeFiles {
    /// The files for a plan whose node listens there.
    pub(super) fn of(plan: &Plan, listen: SocketAddr) -> Result<NodeFiles> {
        let config = Config {
            label: plan.label.as_str(),
            listen,
            state_dir: STATE,
            owner: plan.owner.map(|owner| base64(&owner)),
            claim_by_anyone: plan.owner.is_none(),
            bootstrap_cover_file: COVER,
            allow: &plan.allow,
            log_destinations: plan.log_destinations,
            seed_file: plan.seed.as_ref().map(|_| SEED),
            tor: plan.tor.as_ref().map(|tor| TorSection {
                config_file: tor.settings_text.as_ref().map(|_| TOR_SETTINGS),
                bridges: &tor.bridges,
                self_test: tor.self_test,
            }),
        };
        Ok(NodeFiles {
            config: toml::to_string(&config).map_err(|e| Error::new(Code::Failed, "cannot write the node's configuration").cause(e))?,
            cover: Zeroizing::new(base64(&plan.cover)),
            seed: plan.seed.as_ref().map(|seed| Zeroizing::new(base64(&**seed))),
            tor_settings: plan.tor.as_ref().and_then(|tor| tor.settings_text.clone()),
        })
    }
}

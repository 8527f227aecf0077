//! What a provider of machines must be able to do. Local processes are the first; emulated machines, SSH and clouds follow.

use super::check::Check;
use crate::config::Label;
use crate::encoding::onion::OnionAddress;
use crate::error::{Code, Error, Result};
use crate::progress::Progress;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Work of a provider; boxed so that providers can be chosen by name.
pub type Job<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// Where machines can be deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process on this computer.
    Local,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 1] = [Kind::Local];

    /// The name on the command line, in the ledger and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Local => "local",
        }
    }

    /// The provider itself.
    pub fn provider(self) -> Box<dyn Provider> {
        match self {
            Kind::Local => Box::new(super::local::Local),
        }
    }
}

impl FromStr for Kind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            Error::new(Code::Usage, format!("{text:?} is no provider: choose one of {}", names.join(", "))).hint("--on local")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Everything that is decided before a machine is made.
#[derive(Clone)]
pub struct Plan {
    /// Its name.
    pub label: Label,
    /// Folder for what the provider must keep on this computer; made and removed by the provider.
    pub dir: PathBuf,
    /// The only identity that may claim it; `None` lets the first one do so.
    pub owner: Option<[u8; 32]>,
    /// Opens the bootstrap to whoever knows it.
    pub cover: [u8; 32],
    /// Address to listen on; every one if absent.
    pub listen: Option<IpAddr>,
    /// Port to listen on; 0 finds a free one.
    pub port: u16,
    /// `host:port` under which friends reach it; found by the provider if empty.
    pub addresses: Vec<String>,
    /// Destinations allowed although the policy refuses them.
    pub allow: Vec<String>,
    /// Whether the node logs where its guests go.
    pub log_destinations: bool,
    /// Whether a service manager keeps it running over restarts of the computer.
    pub service: bool,
    /// The seed its node begins with; a random one if absent.
    pub seed: Option<Zeroizing<[u8; 32]>>,
    /// Be an onion service, too.
    pub tor: Option<TorPlan>,
}

/// What a machine's onion service is told.
#[derive(Clone, Debug)]
pub struct TorPlan {
    /// Arti's own settings, as text.
    pub settings_text: Option<String>,
    /// Bridge lines.
    pub bridges: Vec<String>,
    /// Ready only after a connection through the network.
    pub self_test: bool,
}

/// Where a machine's onion services are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onions {
    /// By everybody who has the address.
    pub address: OnionAddress,
    /// By those whose discovery key the node knows.
    pub restricted: OnionAddress,
}

/// A machine that exists, as far as a provider must know it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name.
    pub label: Label,
    /// The folder of [`Plan::dir`].
    pub dir: PathBuf,
}

/// What became of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// `host:port` for the operator's own connections.
    pub dial: String,
    /// `host:port` for friends.
    pub addresses: Vec<String>,
    /// Its onion services, if it was to have any.
    pub onion: Option<Onions>,
}

/// How the machine is, as far as its provider can see from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    On,
    /// It exists and does not run.
    Off,
    /// There is no trace of it.
    Gone,
}

impl Power {
    /// The name in text and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Power::On => "running",
            Power::Off => "stopped",
            Power::Gone => "gone",
        }
    }
}

/// Takes lines of a log; false ends the reading.
pub type LineSink<'a> = &'a mut dyn FnMut(&str) -> Result<bool>;

/// A provider of machines. What fails half way removes what it made; so does dropping the work.
pub trait Provider {
    /// What [`Provider::deploy`] would do, one sentence each.
    fn describe(&self, plan: &Plan) -> Result<Vec<String>>;
    /// Makes and starts a machine; done when its node says that it is ready.
    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed>;
    /// Starts it if it does not run; done when its node says that it is ready. True if it had to be started.
    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool>;
    /// Ends its process or powers it off.
    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()>;
    /// How it is, seen from outside.
    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power>;
    /// The process on this computer, if it is one and runs.
    fn pid(&self, site: &Site) -> Option<i32>;
    /// The last `lines` lines of its node's log, then the following ones as they come if `follow` is set.
    fn logs<'a>(&'a self, site: &'a Site, lines: usize, follow: bool, sink: LineSink<'a>) -> Job<'a, ()>;
    /// Stops it and removes everything that deploy made.
    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()>;
    /// What this provider needs, each found or missing; with a machine also how that one is.
    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>>;
}

//! What a provider of machines must be able to do.

use super::check::Check;
use crate::attest::Rung;
use crate::config::Label;
use crate::config::time::now_s;
use crate::context::Context;
use crate::encoding::base64;
use crate::encoding::onion::OnionAddress;
use crate::error::{Code, Error, Result};
use crate::image::Manifest;
use crate::ledger::Resource;
use crate::owner::metadata::{self, Metadata, OnFailure};
use crate::progress::Progress;
use crate::session::seed::Source;
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
    /// A virtual machine on this computer.
    Qemu,
    /// A service of a server that is reached by SSH.
    Ssh,
    /// A virtual machine at Google Compute Engine.
    Gce,
    /// A server at Hetzner Cloud.
    Hetzner,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [Kind::Local, Kind::Qemu, Kind::Ssh, Kind::Gce, Kind::Hetzner];

    /// The name on the command line, in the ledger and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Local => "local",
            Kind::Qemu => "qemu",
            Kind::Ssh => "ssh",
            Kind::Gce => "gce",
            Kind::Hetzner => "hetzner",
        }
    }

    /// Whether its machines boot an image: they keep nothing, and their seed comes from their owner or their hardware.
    pub fn keeps_no_seed(self) -> bool {
        match self {
            Kind::Local | Kind::Ssh => false,
            Kind::Qemu | Kind::Gce | Kind::Hetzner => true,
        }
    }

    /// The provider itself.
    pub fn provider(self, cx: &Context) -> Box<dyn Provider + '_> {
        match self {
            Kind::Local => Box::new(super::local::Local),
            Kind::Qemu => Box::new(super::qemu::Qemu),
            Kind::Ssh => Box::new(super::ssh::Ssh::new(cx)),
            Kind::Gce => Box::new(super::gce::Gce::new(cx)),
            Kind::Hetzner => Box::new(super::hetzner::Hetzner::new(cx)),
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
    /// Where its node's seed comes from.
    pub source: Source,
    /// The seed its node begins with; a random one if absent.
    pub seed: Option<Zeroizing<[u8; 32]>>,
    /// Be an onion service, too.
    pub tor: Option<TorPlan>,
    /// The virtual machine, where it is one of this computer.
    pub vm: Option<VmPlan>,
    /// The virtual machine, where it is one of a cloud.
    pub cloud: Option<CloudPlan>,
    /// The server, where it is reached by SSH.
    pub host: Option<Server>,
}

/// A server that is reached by SSH, and what is to run there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As `ssh` takes it, as in `root@server` or a name of its configuration.
    pub host: String,
    /// Another build of this program, for another processor; this very one if absent.
    pub program: Option<PathBuf>,
}

impl Plan {
    /// What a machine that boots an image is told.
    pub(super) fn metadata(&self, port: u16, on_failure: OnFailure) -> Result<Metadata> {
        let owner = self
            .owner
            .ok_or_else(|| Error::new(Code::Usage, "a machine that boots an image needs an owner").hint("leave --claim-by-anyone away"))?;
        let tor = self.tor.as_ref().map(|tor| metadata::Tor {
            settings: tor.settings_text.clone(),
            bridges: tor.bridges.clone(),
            self_test: tor.self_test,
        });
        Ok(Metadata {
            portdistrict: metadata::VERSION,
            label: self.label.clone(),
            owner: base64(&owner),
            cover: base64(&self.cover),
            made_at: now_s(),
            port,
            allow: self.allow.clone(),
            name_servers: Vec::new(),
            log_destinations: self.log_destinations,
            tor,
            on_failure,
            seed: self.source,
            launch: Vec::new(),
        })
    }
}

/// How a cloud is to make a machine; what is absent is as the cloud's settings say, or as is usual there.
#[derive(Clone, Debug, Default)]
pub struct CloudPlan {
    /// The name of a published image; the newest one if absent.
    pub image: Option<String>,
    /// The project that pays, where the cloud has them.
    pub project: Option<String>,
    /// Where in the world, in the cloud's words.
    pub zone: Option<String>,
    /// How large, in the cloud's words.
    pub size: Option<String>,
    /// Encrypt its memory, and let its processor prove that.
    pub confidential: bool,
    /// Keep its address when it is stopped.
    pub static_address: bool,
    /// What it does when nothing can go on.
    pub on_failure: OnFailure,
}

/// How a virtual machine is made.
#[derive(Clone, Debug)]
pub struct VmPlan {
    /// The image: its folder, its `image.json` or its disk.
    pub image: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// What runs its instructions.
    pub accel: Accel,
    /// Give it a TPM.
    pub tpm: bool,
    /// UEFI firmware; found if absent.
    pub firmware: Option<PathBuf>,
    /// What it does when nothing can go on.
    pub on_failure: OnFailure,
}

/// What runs a virtual machine's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// The processor if it can, else a program.
    #[default]
    Auto,
    /// The processor.
    Kvm,
    /// A program: slow, and possible everywhere.
    Tcg,
}

impl Accel {
    /// Every choice.
    pub const ALL: [Accel; 3] = [Accel::Auto, Accel::Kvm, Accel::Tcg];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Accel::Auto => "auto",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }
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
    /// The image that it boots (Authenticode digest of its boot program, hex).
    pub image: Option<String>,
    /// What its evidence must prove before anything is handed to it.
    pub demand: Rung,
}

/// What a machine's evidence is compared with, as far as its provider knows.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// The image that it was deployed with.
    pub image: Option<Manifest>,
    /// Root certificates of its TPM (PEM).
    pub tpm_roots: Vec<Vec<u8>>,
    /// Keys of its TPM that its provider names (SubjectPublicKeyInfo in DER).
    pub tpm_keys: Vec<Vec<u8>>,
}

/// How the machine is, as far as its provider can see from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    On,
    /// It runs, and has not said yet that it is ready.
    Booting,
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
            Power::Booting => "booting",
            Power::Off => "stopped",
            Power::Gone => "gone",
        }
    }
}

/// Something that stands at a provider under the owner's mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The machine it says it belongs to.
    pub label: Option<Label>,
    /// What, where and under which name, as [`Resource::id`] says it.
    pub id: String,
    /// How it is, if it is a machine.
    pub power: Option<Power>,
    /// Its public addresses.
    pub addresses: Vec<IpAddr>,
}

/// Takes lines of a log; false ends the reading.
pub type LineSink<'a> = &'a mut dyn FnMut(&str) -> Result<bool>;

/// A provider of machines. What fails half way removes what it made; so does dropping the work.
pub trait Provider {
    /// What [`Provider::deploy`] would do, one sentence each.
    fn describe<'a>(&'a self, plan: &'a Plan) -> Job<'a, Vec<String>>;
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
    /// Whether it has the logs of its machines; where it has none, they are asked of the node, and [`Provider::logs`] is not called.
    fn keeps_logs(&self) -> bool {
        true
    }
    /// The last `lines` lines of its node's log, then the following ones as they come if `follow` is set.
    fn logs<'a>(&'a self, site: &'a Site, lines: usize, follow: bool, sink: LineSink<'a>) -> Job<'a, ()>;
    /// What the machine's evidence is compared with.
    fn expectation(&self, site: &Site) -> Result<Expectation>;
    /// Stops it and removes everything that deploy made.
    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()>;
    /// Removes one thing that was made elsewhere for this owner; well if it is gone already. Nothing else is ever touched.
    fn remove<'a>(&'a self, resource: &'a Resource) -> Job<'a, ()> {
        Box::pin(async move {
            Err(Error::new(Code::Failed, format!("this provider makes nothing like {}", resource.id())).hint("portdistrict ledger verify"))
        })
    }
    /// Everything that stands at the provider under the owner's mark, whether it is recorded or not.
    fn survey(&self) -> Job<'_, Vec<Found>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// What this provider needs, each found or missing; with a machine also how that one is.
    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>>;
}

//! The life of a machine that boots an image: this program is its first process and its only one.
//!
//! It makes the little that a kernel leaves to user space, learns what to be from the machine's metadata, brings up the
//! network, and runs a node. Whatever ends it says so on the serial console and powers the machine off. There is no shell to fall into.

mod disk;
mod http;
mod inventory;
mod metadata;
pub mod net;
mod power;
mod serial;
mod system;

use super::config::{Config, Tor, write_cover_file};
use super::evidence::{Hardware, Witness};
use super::hardware::Machine;
use super::hardware::seed::Holder;
use super::log::Log;
use crate::config::fs;
use crate::encoding::{base64, from_base64_array};
use crate::error::{Code, Doing, Error, Result};
use crate::keyring::Seed;
use crate::owner::metadata::Metadata;
use crate::owner::ready::Ready;
use net::{Net, Summary};
use serial::{State, mark};
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use zeroize::Zeroizing;

/// What a node of an image keeps; in memory, gone with the machine.
const RUN: &str = "/run/portdistrict";
/// Where an image keeps the drivers of every machine, and those that are only needed to look for a disk.
const MODULES: &str = "/modules";
const DISK_MODULES: &str = "/modules/disk";
/// Where the name servers that the network names are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long the network may take.
const NETWORK_PATIENCE: Duration = Duration::from_secs(60);

/// Whether this process is the first one of a machine that boots an image.
pub fn is_init() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// The whole life of the machine.
pub fn main() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        serial::fail(&format!("a bug: {panic}"), &[], None);
        power::end();
    }));
    mark("VERSION", env!("CARGO_PKG_VERSION"));
    mark("STATE", State::Booting.as_str());
    match live() {
        Ok(()) => {
            mark("STATE", State::Off.as_str());
            power::off()
        }
        Err(error) => {
            serial::fail(error.message(), error.causes(), error.hint_text());
            power::end()
        }
    }
}

fn live() -> Result<()> {
    system::mount()?;
    system::load_modules(Path::new(MODULES))?;
    system::mount_with_drivers();
    system::check_memory()?;
    system::raise_limits();
    power::watch_button();
    let hardware = Machine::find();
    mark("EVIDENCE", hardware.as_ref().map_or("none", Machine::kind));
    for (index, value) in system::platform_registers() {
        mark(&format!("PCR{index}"), &value);
    }
    // The node learns from it how its onion service is.
    let _ = tracing_subscriber::registry().with(crate::tor::facts_layer()).try_init();
    system::wait_for_entropy()?;
    let log = Log::to(std::io::stderr(), false);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.doing("start", "the network")?;
    let (metadata, _net) = runtime.block_on(begin(&log))?;
    power::decide(metadata.on_failure);
    system::set_clock(metadata.made_at, &log)?;
    let config = configure(&metadata, hardware.as_ref())?;
    let witness = Witness::of(hardware.map(|machine| Box::new(machine) as Box<dyn Hardware>));
    let log = Log::to(std::io::stderr(), metadata.log_destinations);
    power::watch_over(config.state_dir.clone());
    super::run_with(&config, &log, &witness, |ready| announce(ready, &log))
}

/// What the machine is to be, and its network. Metadata that needs no network comes first: it can say nothing wrong of one that is down.
async fn begin(log: &Log) -> Result<(Metadata, Net)> {
    let at_hand = metadata::at_hand(log)?;
    let report = {
        let log = log.clone();
        Arc::new(move |line: &str| log.event("network").with("message", line).write())
    };
    let net = Net::start(net::Options { resolv_conf: Some(RESOLV_CONF.into()), log: report }).map_err(|error| {
        Error::new(Code::Failed, "cannot bring up the network").cause(error).hint("build the image with another kernel")
    })?;
    let found = net.ready(Instant::now() + NETWORK_PATIENCE).await.map_err(|error| {
        Error::new(Code::Unreachable, format!("no network within {} seconds", NETWORK_PATIENCE.as_secs()))
            .cause(error)
            .hint("give the machine a network with DHCP or IPv6 router advertisements")
    })?;
    log_network(log, &found);
    let metadata = match at_hand {
        Some(metadata) => metadata,
        None => metadata::from_network(log).await?,
    };
    Ok((metadata, net))
}

fn log_network(log: &Log, found: &Summary) {
    let addresses = found.interfaces.iter().flat_map(|interface| interface.addresses.iter().map(|address| (&interface.name, address)));
    let addresses: Vec<String> = addresses.map(|(name, at)| format!("{name} {}/{} {}", at.ip, at.prefix, at.how.as_str())).collect();
    let servers: Vec<String> = found.name_servers().iter().map(ToString::to_string).collect();
    log.event("network.ready").with("addresses", addresses).with("name_servers", servers).write();
}

/// The node's configuration, with the files that it names.
fn configure(metadata: &Metadata, hardware: Option<&Machine>) -> Result<Config> {
    let run = Path::new(RUN);
    fs::ensure_private_dir(run)?;
    let cover = from_base64_array(&metadata.cover).ok_or_else(|| Error::new(Code::Usage, "the metadata has no cover key"))?;
    let cover_file = run.join("cover");
    write_cover_file(&cover_file, &cover)?;
    let mut config = Config::new((Ipv6Addr::UNSPECIFIED, metadata.port).into(), run.join("node"), metadata.label.clone());
    config.bootstrap_cover_file = Some(cover_file);
    config.owner = Some(metadata.owner.clone());
    config.allow.clone_from(&metadata.allow);
    config.name_servers.clone_from(&metadata.name_servers);
    config.log_destinations = metadata.log_destinations;
    match seed(metadata, hardware)? {
        None => config.seed_from_owner = true,
        Some(seed) => {
            // A file in memory, like all that the node keeps.
            let file = run.join("seed");
            fs::write_private(&file, Zeroizing::new(base64(seed.expose())).as_bytes())?;
            (config.seed_file, config.seed_of) = (Some(file), Some(metadata.seed));
        }
    }
    if let Some(tor) = &metadata.tor {
        let settings = run.join("arti.toml");
        if let Some(text) = &tor.settings {
            fs::write_private(&settings, text.as_bytes())?;
        }
        let config_file = tor.settings.as_ref().map(|_| settings);
        config.tor = Some(Tor { config_file, bridges: tor.bridges.clone(), self_test: tor.self_test });
    }
    config.check()?;
    Ok(config)
}

/// The seed of the machine's hardware; none if its owner brings it.
fn seed(metadata: &Metadata, hardware: Option<&Machine>) -> Result<Option<Seed>> {
    if !metadata.seed.is_of_hardware() {
        return Ok(None);
    }
    let hardware = hardware.ok_or_else(|| {
        Error::new(Code::Precondition, format!("this machine has no hardware for a seed that is {}", metadata.seed))
            .hint("deploy it with --seed owner")
    })?;
    let owner = from_base64_array(&metadata.owner).ok_or_else(|| Error::new(Code::Usage, "the metadata has no owner"))?;
    let covering = metadata.measurements().unwrap_or_default();
    hardware.seed(metadata.seed, &Holder { owner: &owner, label: metadata.label.as_str() }, &covering)
}

/// Says on the serial console what is true from now on.
fn announce(ready: &Ready, log: &Log) {
    inventory::take().log(log);
    mark("NODE", &ready.node);
    if let Some(onion) = &ready.onion {
        mark("ONION", &onion.address.to_string());
    }
    mark("STATE", if ready.claimed { State::Claimed.as_str() } else { State::Ready.as_str() });
    mark("READY", &ready.listen.to_string());
}

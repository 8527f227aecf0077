//! Tor inside this process: one embedded Arti, started when first needed, as client and as host of onion services.
//!
//! Whatever Arti reports is put into our words here (`words`); its own text goes to the debug log at most.

mod facts;
mod runtime;
mod service;
mod settings;
mod words;

pub use facts::{Facts, layer as facts_layer};
pub use service::{Arrival, DiscoveryKey, Hosting, Service, onion_address};
pub use settings::{MAX_SETTINGS, Settings};

use runtime::Runtime;

use crate::config::fs::ensure_private_dir;
use crate::encoding::onion::OnionAddress;
use crate::error::{Code, Error, Result};
use arti_client::config::BoolOrAuto;
use arti_client::{BootstrapBehavior, DataStream, ErrorKind, StreamPrefs, TorClient};
use futures::StreamExt;
use futures::future::select_ok;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};
use tor_hscrypto::pk::{HsClientDescEncSecretKey, HsId};
use tor_keymgr::KeystoreSelector;
use tor_llcrypto::pk::curve25519;
use tor_proto::ClockSkew;
use tor_proto::client::stream::ClientStreamCtrl;
use zeroize::Zeroizing;

pub use words::{Blocked, NOT_PUBLISHED};

/// The port of our onion services; what follows on it is what follows on a node's TCP port.
pub const ONION_PORT: u16 = 443;
/// How long no progress at all is borne while joining the network.
const STUCK: Duration = Duration::from_secs(25);
/// How long a way to an onion service may take to come about: a descriptor, an introduction, a meeting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// When a way has not come about for so long, a second one is tried beside it over other relays: an introduction that a dead
/// circuit swallowed is otherwise waited for to the end. An ordinary way takes two to five seconds.
const SECOND_WAY: Duration = Duration::from_secs(8);
/// How long the end of Arti is waited for.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Ways in a row that did not come about, after which Arti is started anew.
const FAILURES: usize = 3;
/// Differences of clocks below this are nobody's business.
const SKEW_WORTH_TELLING: Duration = Duration::from_secs(10 * 60);

/// How far this process has come on its way into the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has needed it yet.
    #[default]
    Off,
    /// On its way.
    Joining {
        /// From 0 to 100.
        percent: u8,
        /// Why it does not go on, if it does not.
        blocked: Option<Blocked>,
    },
    /// It can be used.
    Joined,
}

impl Stage {
    /// What it waits for, in a few words.
    pub fn waits_for(self) -> &'static str {
        match self {
            Stage::Off => "not started",
            Stage::Joining { blocked: Some(blocked), .. } => blocked.as_str(),
            Stage::Joining { percent: 0..15, .. } => "connecting to a first relay",
            Stage::Joining { percent: 15..40, .. } => "fetching the list of relays",
            Stage::Joining { .. } => "fetching what is known of the relays",
            Stage::Joined => "joined",
        }
    }
}

/// Where Tor keeps what it must remember (guards, keys) and what it can fetch again (lists of relays).
#[derive(Clone, Debug)]
pub struct Places {
    /// Must survive: whoever changes guards often is found sooner.
    pub state: PathBuf,
    /// Saves time and traffic.
    pub cache: PathBuf,
}

impl Places {
    /// Both within one folder.
    pub fn within(folder: &Path) -> Places {
        Places { state: folder.join("state"), cache: folder.join("cache") }
    }
}

/// Whether onion services are hosted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects only; keys stay in memory.
    Client,
    /// Hosts services; the keys of introduction points are kept, so that they survive a restart.
    Host,
}

/// Arti, or the intention to start it.
pub struct Tor {
    places: Places,
    settings: Settings,
    role: Role,
    client: Mutex<Option<Client>>,
    stage: watch::Sender<Stage>,
    joining: Mutex<()>,
    /// What the first relay of the last circuit said of this clock.
    skew: StdMutex<ClockSkew>,
    /// Ways that did not come about since the last one that did.
    failures: AtomicUsize,
}

type Client = Arc<TorClient<Runtime>>;

impl Tor {
    /// Touches neither disk nor network.
    pub fn new(places: Places, settings: Settings, role: Role) -> Arc<Tor> {
        let stage = watch::Sender::new(Stage::Off);
        Arc::new(Tor {
            places,
            settings,
            role,
            client: Mutex::default(),
            stage,
            joining: Mutex::default(),
            skew: StdMutex::new(ClockSkew::None),
            failures: AtomicUsize::new(0),
        })
    }

    /// How far it is, now and later.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// The client, started but perhaps not yet in the network.
    async fn client(&self) -> Result<Client> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // Arti makes TLS connections with whatever is installed; two are linked, so none is chosen by itself.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = self.settings.client_config(&self.places, self.role)?;
        for folder in [&self.places.state, &self.places.cache] {
            ensure_private_dir(folder)?;
        }
        let runtime = runtime::current()
            .map_err(|e| Error::new(Code::Failed, "cannot start Tor").cause(e).hint("allow more open files: ulimit -n 1024"))?;
        let builder = TorClient::with_runtime(runtime).config(config).bootstrap_behavior(BootstrapBehavior::OnDemand);
        let client = builder.create_unbootstrapped_async().await.map_err(|error| words::explain(&error, &self.places))?;
        Ok(slot.insert(client).clone())
    }

    /// Ends Arti, so that the next use starts a new one. Guards stay the same, since they are on disk; but a new one asks them
    /// at once, where the old one would wait ever longer for relays that did not answer a while ago.
    pub async fn start_over(&self) {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.take() {
            let stopped = client.wait_for_stop();
            drop(client);
            let _ = tokio::time::timeout(STOP_PATIENCE, stopped).await;
            self.failures.store(0, Ordering::Relaxed);
            self.stage.send_replace(Stage::Off);
        }
    }

    /// Joins the network if that has not been done; ends with an error when it is stuck.
    pub async fn join(&self) -> Result<()> {
        let client = self.client().await?;
        // One at a time: everybody else waits for the same thing.
        let _joining = self.joining.lock().await;
        if client.bootstrap_status().ready_for_traffic() {
            self.stage.send_replace(Stage::Joined);
            return Ok(());
        }
        let outcome = tokio::select! {
            done = client.bootstrap() => done.map_err(|error| words::explain(&error, &self.places)),
            stuck = self.watch(&client) => Err(stuck),
        };
        self.stage.send_replace(if outcome.is_ok() { Stage::Joined } else { Stage::Off });
        if outcome.is_err() {
            // Whoever tries again wants it tried, not waited for.
            drop(client);
            self.start_over().await;
        }
        outcome
    }

    /// Tells each step of the way; ends when none is made for long.
    async fn watch(&self, client: &TorClient<Runtime>) -> Error {
        let mut events = client.bootstrap_events();
        let mut status = client.bootstrap_status();
        let mut moved = (0, Instant::now());
        loop {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
            let percent = (status.as_frac() * 100.0).clamp(0.0, 100.0) as u8;
            let blocked = status.blocked().map(|blockage| Blocked::from(blockage.kind()));
            self.stage.send_replace(Stage::Joining { percent, blocked });
            if percent != moved.0 {
                moved = (percent, Instant::now());
            }
            let Some(left) = STUCK.checked_sub(moved.1.elapsed()) else {
                return blocked.unwrap_or(Blocked::NoAnswer).to_error();
            };
            match tokio::time::timeout(left, events.next()).await {
                Ok(Some(next)) => status = next,
                Ok(None) => tokio::time::sleep(left).await,
                Err(_) => {}
            }
        }
    }

    /// Opens a stream to an onion service over circuits that nothing else uses. `discovery` is the key without which a
    /// restricted service is not even found.
    pub async fn connect(&self, onion: &OnionAddress, discovery: Option<&[u8; 32]>) -> Result<DataStream> {
        self.join().await?;
        // A host knows better when: its services would end with it.
        if self.role == Role::Client && self.failures.load(Ordering::Relaxed) >= FAILURES {
            self.start_over().await;
            self.join().await?;
        }
        let client = self.client().await?;
        if let Some(key) = discovery {
            self.remember_discovery(&client, onion, key)?;
        }
        let error = match tokio::time::timeout(CONNECT_PATIENCE, two_ways(&client, onion)).await {
            Ok(Ok(stream)) => {
                self.failures.store(0, Ordering::Relaxed);
                self.note_skew(&stream).await;
                return Ok(stream);
            }
            Ok(Err(error)) => words::explain(&error, &self.places),
            Err(_) => words::explain_kind(ErrorKind::TorNetworkTimeout, &self.places),
        };
        // A service that is not there is not the network's fault.
        if error.code() != Code::Refused && error.message() != NOT_PUBLISHED {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        Err(error)
    }

    fn remember_discovery(&self, client: &TorClient<Runtime>, onion: &OnionAddress, key: &[u8; 32]) -> Result<()> {
        let id = HsId::from(*onion.key());
        let secret = HsClientDescEncSecretKey::from(curve25519::StaticSecret::from(*Zeroizing::new(*key)));
        // In memory only; there may be an older one for the same service.
        let _ = client.remove_service_discovery_key(KeystoreSelector::Primary, id);
        client
            .insert_service_discovery_key(KeystoreSelector::Primary, id, secret)
            .map(drop)
            .map_err(|error| words::explain(&error, &self.places))
    }

    /// Remembers what the guard said of this clock when the connection to it was made.
    async fn note_skew(&self, stream: &DataStream) {
        let Some(tunnel) = stream.client_stream_ctrl().and_then(|ctrl| ctrl.tunnel()) else { return };
        let Ok(circuit) = tunnel.as_single_circ() else { return };
        if let Ok(skew) = circuit.first_hop_clock_skew().await {
            *self.skew.lock().unwrap_or_else(PoisonError::into_inner) = skew;
        }
    }

    /// What the Tor network thinks of this clock, if it disagrees with it by much.
    pub fn clock_off(&self) -> Option<String> {
        let (direction, by) = match *self.skew.lock().unwrap_or_else(PoisonError::into_inner) {
            ClockSkew::Fast(by) => ("ahead of", by),
            ClockSkew::Slow(by) => ("behind", by),
            ClockSkew::None => return None,
        };
        (by >= SKEW_WORTH_TELLING).then(|| {
            let by = crate::config::time::duration(by.as_secs());
            format!("the clock of this computer is about {by} {direction} that of the Tor relays")
        })
    }

    /// Where it keeps its files.
    pub fn places(&self) -> &Places {
        &self.places
    }
}

/// The first of two ways to come about; the second one sets out when the first takes long.
async fn two_ways(client: &TorClient<Runtime>, onion: &OnionAddress) -> Result<DataStream, arti_client::Error> {
    let mut first = Box::pin(way(client, onion));
    match tokio::time::timeout(SECOND_WAY, &mut first).await {
        Ok(outcome) => outcome,
        Err(_) => select_ok([first, Box::pin(way(client, onion))]).await.map(|(stream, _)| stream),
    }
}

async fn way(client: &TorClient<Runtime>, onion: &OnionAddress) -> Result<DataStream, arti_client::Error> {
    let mut prefs = StreamPrefs::new();
    prefs.connect_to_onion_services(BoolOrAuto::Explicit(true));
    // Also makes Arti fetch a fresh descriptor instead of trusting one that led nowhere.
    prefs.new_isolation_group();
    client.connect_with_prefs((onion.to_string(), ONION_PORT), &prefs).await
}

/// Without anything that Arti would print of itself.
impl std::fmt::Debug for Tor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tor").field("role", &self.role).field("stage", &*self.stage.borrow()).finish_non_exhaustive()
    }
}

//! An onion service hosted by this process: its circuits, the streams that come over them, and how it is.

use super::facts::{self, Facts};
use super::runtime::Runtime;
use super::{ONION_PORT, Tor, words};
use crate::encoding::onion::OnionAddress;
use crate::error::{Code, Error, Result};
use arti_client::config::Reconfigure;
use arti_client::config::onion_service::{OnionServiceConfig, OnionServiceConfigBuilder};
use arti_client::{DataStream, TorClient};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tor_cell::relaycell::msg::{Connected, End, EndReason};
use tor_hscrypto::pk::{HsClientDescEncKey, HsIdKeypair};
use tor_hsservice::config::restricted_discovery::HsClientNickname;
use tor_hsservice::status::{OnionServiceStatus, State};
use tor_hsservice::{HsNickname, RendRequest, RunningOnionService, StreamRequest};
use tor_llcrypto::pk::{curve25519, ed25519};
use tor_proto::stream::IncomingStreamRequest;

/// What to do about what should not happen.
const RESTART: &str = "start the node again; for a machine on this computer: portdistrict machine reconnect LABEL";
/// Introduction points that a service keeps.
const INTRODUCTION_POINTS: u8 = 3;
/// Circuits of clients at once; each is a client's session, or an attempt at one.
const MAX_CIRCUITS: usize = 4096;
/// Streams on one circuit; a client needs one.
const MAX_STREAMS: u32 = 16;
/// Streams that wait to be served.
const QUEUE: usize = 256;
/// A circuit over which nothing is asked for so long is closed.
const SILENT_CIRCUIT: Duration = Duration::from_secs(60);

/// How often, and with what pauses, the state of a service that has just ended is asked for.
const LET_GO_TRIES: u32 = 25;
const LET_GO: Duration = Duration::from_millis(200);

/// The public X25519 key of somebody who may discover a restricted service, under a name for it.
pub type DiscoveryKey = (String, [u8; 32]);

/// What to host.
pub struct Hosting<'a> {
    /// Ed25519 seed of the service's identity.
    pub key: &'a [u8; 32],
    /// Only holders of these keys can find it; `None` is for everybody.
    pub restricted_to: Option<&'a [DiscoveryKey]>,
    /// Counts the circuits of clients, also those that outlive the service.
    pub circuits: Arc<AtomicUsize>,
}

/// A stream that a client opened to the service.
pub struct Arrival {
    stream: DataStream,
    /// Its circuit hears when it has gone.
    _open: mpsc::Sender<()>,
}

impl AsyncRead for Arrival {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Arrival {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The address of the service with this identity.
pub fn onion_address(key: &[u8; 32]) -> OnionAddress {
    OnionAddress::from_key(keypair(key).verifying_key().to_bytes())
}

fn keypair(key: &[u8; 32]) -> ed25519::Keypair {
    ed25519::Keypair::from_bytes(key)
}

/// A service that runs until this is dropped.
pub struct Service {
    running: Arc<RunningOnionService>,
    nickname: HsNickname,
    facts: watch::Receiver<Facts>,
    accepting: JoinHandle<()>,
}

impl Service {
    /// Launches a service. Arrivals come from then on; whether anybody can reach it is another question.
    pub async fn host(tor: &Tor, hosting: Hosting<'_>) -> Result<(Service, mpsc::Receiver<Arrival>)> {
        let client = tor.client().await?;
        let address = onion_address(hosting.key);
        let nickname = nickname(&address)?;
        let facts = facts::begin(nickname.as_ref());
        let config = config(&nickname, hosting.restricted_to)?;
        let identity = HsIdKeypair::from(ed25519::ExpandedKeypair::from(&keypair(hosting.key)));
        let explain = |error| words::explain(&error, tor.places());
        // The nickname follows from the key, so a key that is there already is this one: it was hosted here before.
        let launched = match client.launch_onion_service_with_hsid(config.clone(), identity) {
            Ok(launched) => launched.map(|(running, requests)| (running, requests.boxed())),
            Err(_) => launch_again(&client, &config).await.map_err(explain)?,
        };
        let (running, requests) = launched.ok_or_else(|| Error::new(Code::Failed, "Tor did not launch the onion service").hint(RESTART))?;
        if running.onion_address().is_none_or(|id| id.as_ref() != address.key()) {
            return Err(Error::new(Code::Failed, "Tor launched the onion service under another address").hint("move the Tor state away"));
        }
        let (queue, arrivals) = mpsc::channel(QUEUE);
        let accepting = tokio::spawn(accept(requests, queue, hosting.circuits));
        Ok((Service { running, nickname, facts, accepting }, arrivals))
    }

    /// Replaces the keys that may discover it; takes effect with the next descriptor, within seconds.
    pub fn restrict_to(&self, keys: &[DiscoveryKey]) -> Result<()> {
        let config = config(&self.nickname, Some(keys))?;
        self.running.reconfigure(config, Reconfigure::AllOrNothing).map_err(|error| {
            tracing::debug!(%error, "arti");
            Error::new(Code::Failed, "Tor did not take the new discovery keys").hint(RESTART)
        })
    }

    /// What is known of its descriptor and introduction points, now and later.
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }

    /// What Arti thinks of it whenever that changes.
    pub fn changes(&self) -> impl Stream<Item = ()> + Unpin + use<> {
        self.running.status_events().map(|_: OnionServiceStatus| ())
    }

    /// Why Arti thinks that it is not well, if it does.
    pub fn complaint(&self) -> Option<&'static str> {
        match self.running.status().state() {
            State::Broken => Some("Tor has given up on the service"),
            State::Shutdown => Some("the service has ended"),
            _ => None,
        }
    }
}

type Launched = Option<(Arc<RunningOnionService>, BoxStream<'static, RendRequest>)>;

/// Launches a service whose key is there. One that has just ended takes a moment to let go of its state.
async fn launch_again(client: &TorClient<Runtime>, config: &OnionServiceConfig) -> Result<Launched, arti_client::Error> {
    let mut left = LET_GO_TRIES;
    loop {
        match client.launch_onion_service(config.clone()) {
            Ok(launched) => return Ok(launched.map(|(running, requests)| (running, requests.boxed()))),
            Err(error) if left == 0 => return Err(error),
            Err(_) => left -= 1,
        }
        tokio::time::sleep(LET_GO).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn nickname(address: &OnionAddress) -> Result<HsNickname> {
    let name = format!("n{}", &address.to_string()[..20]);
    HsNickname::new(name).map_err(|e| Error::new(Code::Failed, "cannot name the onion service").cause(e).hint(RESTART))
}

fn config(nickname: &HsNickname, restricted_to: Option<&[DiscoveryKey]>) -> Result<OnionServiceConfig> {
    let mut builder = OnionServiceConfigBuilder::default();
    builder.nickname(nickname.clone()).num_intro_points(INTRODUCTION_POINTS).max_concurrent_streams_per_circuit(MAX_STREAMS);
    if let Some(keys) = restricted_to {
        let restricted = builder.restricted_discovery();
        restricted.enabled(true);
        for (name, key) in keys {
            let name: HsClientNickname =
                name.parse().map_err(|_| Error::new(Code::Failed, format!("`{name}` cannot name a discovery key")).hint(RESTART))?;
            restricted.static_keys().access().push((name, HsClientDescEncKey::from(curve25519::PublicKey::from(*key))));
        }
    }
    builder.build().map_err(|e| Error::new(Code::Failed, "cannot configure the onion service").cause(e).hint(RESTART))
}

/// Answers clients until the service ends.
async fn accept(mut requests: impl Stream<Item = RendRequest> + Unpin, queue: mpsc::Sender<Arrival>, circuits: Arc<AtomicUsize>) {
    while let Some(request) = requests.next().await {
        if circuits.load(Ordering::Relaxed) >= MAX_CIRCUITS {
            let _ = request.reject().await;
            continue;
        }
        let counted = Counted::new(&circuits);
        tokio::spawn(circuit(request, queue.clone(), counted));
    }
}

/// Meets one client and takes the streams that it opens; the circuit lasts until the client or its last stream has gone.
async fn circuit(request: RendRequest, queue: mpsc::Sender<Arrival>, _counted: Counted) {
    let mut streams = match request.accept().await {
        Ok(streams) => streams,
        Err(error) => {
            tracing::debug!(%error, "arti");
            return;
        }
    };
    let mut served: Option<mpsc::Receiver<()>> = None;
    loop {
        // While a stream is open the circuit may be as silent as it likes.
        let silence = async {
            if let Some(open) = &mut served {
                let _ = open.recv().await;
            }
            tokio::time::sleep(SILENT_CIRCUIT).await;
        };
        let stream = tokio::select! {
            stream = streams.next() => stream,
            () = silence => None,
        };
        let Some(stream) = stream else { return };
        let Some(stream) = take(stream).await else { continue };
        let (open, closed) = mpsc::channel(1);
        served = Some(closed);
        if queue.send(Arrival { stream, _open: open }).await.is_err() {
            return;
        }
    }
}

/// The stream, if it is for our port; everything else ends as other onion services end it.
async fn take(stream: StreamRequest) -> Option<DataStream> {
    let ours = matches!(stream.request(), IncomingStreamRequest::Begin(begin) if begin.port() == ONION_PORT);
    if !ours {
        let _ = stream.reject(End::new_with_reason(EndReason::DONE)).await;
        return None;
    }
    stream.accept(Connected::new_empty()).await.inspect_err(|error| tracing::debug!(%error, "arti")).ok()
}

/// A circuit is counted while this lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(circuits: &Arc<AtomicUsize>) -> Self {
        circuits.fetch_add(1, Ordering::Relaxed);
        Counted(circuits.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

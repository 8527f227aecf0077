//! The owner's way into a claimed machine: its pinned key, and a grant that the owner issues to himself.

pub mod devices;
pub mod identity;
pub mod metadata;
pub mod peers;
pub mod ready;
pub mod revocations;
pub mod rotate;
pub mod words;

use crate::config::Label;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::ledger::{B64, Machine};
use crate::resolve::socket_addresses;
use crate::session::messages::{Revoked, Switched};
use crate::session::{self, ConnectError, ControlClient, owner_hello};
use serde_json::Value;
use std::io;
use std::ops::Deref;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a TCP connection to a node may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Name of the operator's own address among what a provider remembers of a machine.
pub const DIAL: &str = "dial";
/// Name of its onion address there.
pub const ONION: &str = "onion";
/// Name of the onion address that only those find whose discovery key the node knows.
pub const ONION_RESTRICTED: &str = "onion_restricted";
/// Name there of the sealed seed of a machine that keeps nothing itself: 16 bytes of id, 32 of seed, base64url.
pub const SEED: &str = "seed";

/// Name there of where the machine's seed comes from, where that is neither its state folder nor its owner.
pub const SEED_SOURCE: &str = "seed_source";
/// Name there of the image that the machine boots: Authenticode digest of its boot program, hex.
pub const IMAGE: &str = "image";
/// Name there of the rung that its evidence must reach before anything is handed over.
pub const DEMAND: &str = "demand";

/// A control session; it ends when this is dropped.
pub struct Control {
    client: ControlClient,
    /// What the node was told on this occasion, and what it answered.
    told: revocations::Word,
    heard: Revoked,
}

impl Control {
    /// Connects as the owner of a claimed machine; only the node with the pinned key can answer. It hears at once what it may
    /// have missed.
    pub async fn open(cx: &Context, machine: &Machine) -> Result<Control> {
        let label = &machine.label;
        let B64(node) = machine.node_key.ok_or_else(|| not_claimed(label))?;
        let (address, keyring) = (dial_address(machine)?, cx.keyring()?);
        let stream = dial(address, label).await?;
        let opened = session::connect(stream, &keyring.client_noise(), &node, owner_hello(keyring, cx.now()), cx.now()).await;
        let (session, _) = opened.map_err(|error| refused(error, address, &node, label))?;
        let client = ControlClient::new(session);
        let (told, heard) = revocations::catch_up(cx, &client, machine).await;
        Ok(Control { client, told, heard })
    }

    /// Tells it what is switched off; it was told at the beginning of this visit, too, so this asks what came of it.
    pub async fn tell_switches(&self, machine: &Machine) -> Result<Option<Switched>> {
        revocations::tell_switches(&self.client, machine).await
    }

    /// Tells it what the policy says of destinations now; it was told at the beginning of this visit, too.
    pub async fn tell_rules(&self, cx: &Context, machine: &Machine) -> Result<()> {
        revocations::tell_rules(cx, &self.client, machine).await
    }
}

/// A machine whose key nobody knows yet.
pub(crate) fn not_claimed(label: &Label) -> Error {
    Error::new(Code::Precondition, format!("machine `{label}` is not claimed yet")).hint(format!("portdistrict machine claim {label}"))
}

/// Where the operator connects to: the provider may know a nearer address than the one for friends, unless it was found elsewhere since.
pub fn dial_address(machine: &Machine) -> Result<&str> {
    let at_deploy = machine.detail.get("addresses").and_then(|addresses| addresses.get(0)).and_then(Value::as_str);
    let moved = machine.address.as_deref().filter(|address| at_deploy.is_some_and(|at_deploy| at_deploy != *address));
    let dial = moved.or(machine.detail.get(DIAL).and_then(Value::as_str)).or(machine.address.as_deref());
    dial.ok_or_else(|| {
        Error::new(Code::Precondition, format!("the address of machine `{}` is not known", machine.label))
            .hint(format!("portdistrict machine show {}", machine.label))
    })
}

/// Connects to a node, naming the address when that fails.
pub async fn dial(address: &str, label: &Label) -> Result<TcpStream> {
    let unreachable = || {
        Error::new(Code::Unreachable, format!("machine `{label}` cannot be reached at {address}"))
            .hint(format!("portdistrict machine reconnect {label}"))
    };
    let found = socket_addresses(address).await.map_err(|why| unreachable().because(why))?;
    let stream = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(found.as_slice())).await;
    let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| unreachable().cause(error))?;
    stream.set_nodelay(true).map_err(|error| unreachable().cause(error))?;
    Ok(stream)
}

impl Deref for Control {
    type Target = ControlClient;
    fn deref(&self) -> &ControlClient {
        &self.client
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.client.close();
    }
}

fn refused(error: ConnectError, address: &str, node: &[u8; 32], label: &Label) -> Error {
    match error {
        ConnectError::Refused { code, text } => Error::new(Code::Refused, format!("machine `{label}` refused its owner: {text}"))
            .because(code.as_str())
            .hint(format!("portdistrict machine claim {label}")),
        // Whoever answers there does not hold the pinned key; that is never passed over (PD-EX9).
        ConnectError::Silent => {
            Error::new(Code::Refused, format!("the program at {address} is not the machine `{label}` that was claimed"))
                .because(format!("node {} is pinned for it, and whoever listens there does not hold that key", node_id(node)))
                .because("if the address is right, check that the clocks of both computers agree within a few minutes")
                .hint(format!("portdistrict machine reconnect {label}"))
        }
        ConnectError::Io(error) => Error::new(Code::Unreachable, format!("the connection to machine `{label}` at {address} failed"))
            .cause(error)
            .hint(format!("portdistrict machine reconnect {label}")),
        ConnectError::Protocol(why) => Error::new(Code::Protocol, format!("the handshake with machine `{label}` at {address} failed"))
            .because(why)
            .hint("use the same version of portdistrict on both sides"),
    }
}

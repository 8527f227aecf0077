//! The owner's way into a claimed machine: its pinned key, and a grant that the owner issues to himself.

use super::claim::dial;
use crate::config::Label;
use crate::encoding::{cbor::Map, node_id};
use crate::error::{Code, Error, Result};
use crate::keyring::Keyring;
use crate::session::{self, ConnectError, ControlClient, Hello};
use crate::token::{Grant, Limits, Mode, Role, SignedGrant};
use std::ops::Deref;

/// A self-issued grant holds this long either way, so that clocks may differ.
const DAY: u64 = 24 * 60 * 60;

/// A control session; it ends when this is dropped.
pub struct Control(ControlClient);

impl Control {
    /// Connects as the owner; only the node with this key can answer.
    pub async fn open(address: &str, node: &[u8; 32], label: &Label, keyring: &Keyring, now: u64) -> Result<Control> {
        let stream = dial(address, label).await?;
        let hello = Hello { grant: own_grant(keyring, now).encode(), bind: None, version: env!("CARGO_PKG_VERSION").to_owned() };
        let opened = session::connect(stream, &keyring.client_noise(), node, hello, now).await;
        let (session, _) = opened.map_err(|error| refused(error, address, node, label))?;
        Ok(Control(ControlClient::new(session)))
    }
}

impl Deref for Control {
    type Target = ControlClient;
    fn deref(&self) -> &ControlClient {
        &self.0
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The owner's word to himself: this device may control every node of mine.
fn own_grant(keyring: &Keyring, now: u64) -> SignedGrant {
    let grant = Grant {
        id: Grant::random_id(),
        issuer: keyring.identity_public(),
        node: None,
        subject: keyring.client_noise_public(),
        not_before: now.saturating_sub(DAY),
        expires: now + DAY,
        limits: Limits::default(),
        egress: Vec::new(),
        evidence: None,
        mode: Mode::Many,
        role: Role::Control,
        reserved: Map::new(),
    };
    grant.sign(&keyring.identity_key())
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

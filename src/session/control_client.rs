//! The owner's requests to a node, each on a stream of its own.

use super::messages::{
    ControlRequest, Discovery, EvidenceReply, HistoryReply, HolderRequest, LogsReply, LogsRequest, Message, Nothing, PolicyReply, Renewed,
    Reply, Revoked, Status, Switched, Switches, read_reply,
};
use super::{Hello, Session};
use crate::encoding::cbor::Map;
use crate::error::{Code, Error, Result};
use crate::keyring::Keyring;
use crate::token::{Grant, Limits, Mode, Role, Scope, SignedLease, SignedRules};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Time for one answer; `logs` may wait longer on purpose.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A grant of oneself to oneself holds this long either way, so that clocks may differ.
const DAY: u64 = 24 * 60 * 60;

/// How an owner introduces itself to its nodes: with a grant for this device that it signs on the spot.
pub fn owner_hello(keyring: &Keyring, now: u64) -> Hello {
    let grant = Grant {
        id: Grant::random_id(),
        issuer: keyring.identity_public(),
        node: None,
        subject: keyring.client_noise_public(),
        not_before: now.saturating_sub(DAY),
        expires: now + DAY,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 0,
        revision: 0,
        evidence: None,
        mode: Mode::Many,
        role: Role::Control,
        reserved: Map::new(),
    };
    let grant = grant.sign(&keyring.identity_key()).encode();
    Hello { grant, bind: None, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Speaks to a node over a session that was opened with an owner's grant.
#[derive(Clone, Debug)]
pub struct ControlClient {
    session: Session,
}

impl ControlClient {
    /// Uses a session; the node checks on each request that it is the owner's.
    pub fn new(session: Session) -> Self {
        ControlClient { session }
    }

    /// How the node is.
    pub async fn status(&self) -> Result<Status> {
        self.ask(&ControlRequest::Status).await
    }

    /// Evidence that answers a nonce: made on the spot, by one call to the hardware.
    pub async fn evidence(&self, nonce: [u8; 32]) -> Result<EvidenceReply> {
        self.ask(&ControlRequest::Evidence(Some(nonce))).await
    }

    /// The session itself, for streams that are open to every guest.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Hands over signed revocations; live sessions of theirs end.
    pub async fn revoke(&self, revocations: Vec<Vec<u8>>) -> Result<Revoked> {
        self.ask(&ControlRequest::Revoke(revocations)).await
    }

    /// Reads the allow list, or replaces it.
    pub async fn policy(&self, allow: Option<Vec<String>>) -> Result<PolicyReply> {
        self.ask(&ControlRequest::Policy(allow)).await
    }

    /// Log lines after a position; waits up to `request.wait` seconds for new ones.
    pub async fn logs(&self, request: LogsRequest) -> Result<LogsReply> {
        self.ask(&ControlRequest::Logs(request)).await
    }

    /// Takes no new sessions and ends when the last one has ended.
    pub async fn drain(&self) -> Result<Nothing> {
        self.ask(&ControlRequest::Drain).await
    }

    /// Lets the holder of a key discover the node's restricted onion service.
    pub async fn discovery(&self, discovery: Discovery) -> Result<Nothing> {
        self.ask(&ControlRequest::Discovery(discovery)).await
    }

    /// Says that the owner is there.
    pub async fn lease(&self, lease: &SignedLease) -> Result<Nothing> {
        self.ask(&ControlRequest::Lease(lease.encode())).await
    }

    /// Hands over later revisions of grants, each signed; at most [`super::messages::MAX_RENEWED`].
    pub async fn renew(&self, grants: Vec<Vec<u8>>) -> Result<Renewed> {
        self.ask(&ControlRequest::Renew(grants)).await
    }

    /// Hands over what the policy says of destinations. Rules older than those it has change nothing.
    pub async fn rules(&self, rules: &SignedRules) -> Result<Nothing> {
        self.ask(&ControlRequest::Rules(rules.encode())).await
    }

    /// Says what is off from now on. A word older than the one that the node has changes nothing.
    pub async fn switch(&self, switches: Switches) -> Result<Switched> {
        self.ask(&ControlRequest::Switch(switches)).await
    }

    /// What was counted on each of the last days.
    pub async fn history(&self) -> Result<HistoryReply> {
        self.ask(&ControlRequest::History).await
    }

    /// Ends now.
    pub async fn stop(&self) -> Result<Nothing> {
        self.ask(&ControlRequest::Stop).await
    }

    /// Ends the session.
    pub fn close(&self) {
        self.session.close();
    }

    async fn ask<T: Message>(&self, request: &ControlRequest) -> Result<T> {
        let extra = match request {
            ControlRequest::Logs(logs) => Duration::from_secs(logs.wait),
            _ => Duration::ZERO,
        };
        ask(&self.session, &request.first_bytes(), ANSWER_TIMEOUT + extra).await
    }
}

/// Takes back what the holder of a session passed on; the session is one under his grant.
pub async fn revoke_passed_on(session: &Session, caveat: Vec<u8>) -> Result<Revoked> {
    ask(session, &HolderRequest { revoke: caveat }.first_bytes(), ANSWER_TIMEOUT).await
}

/// One request on a stream of its own, and the answer.
async fn ask<T: Message>(session: &Session, request: &[u8], patience: Duration) -> Result<T> {
    let exchange = async {
        let mut stream = session.open(request).await?;
        stream.shutdown().await?;
        read_reply(&mut stream).await
    };
    let hint = "see what the node says: portdistrict machine logs";
    let bytes = tokio::time::timeout(patience, exchange)
        .await
        .map_err(|_| Error::new(Code::TimedOut, "the node did not answer in time").hint(hint))?
        .map_err(|e| Error::new(Code::Unreachable, "the node ended the conversation").cause(e).hint(hint))?;
    match Reply::<T>::decode(&bytes) {
        Ok(Reply::Done(answer)) => Ok(answer),
        Ok(Reply::Failed { code, text }) => Err(Error::new(Code::Refused, format!("the node refuses: {text}")).because(code).hint(hint)),
        Err(error) => Err(Error::new(Code::Protocol, "the node's answer cannot be read")
            .cause(error)
            .hint("the node may run another version; deploy it again")),
    }
}

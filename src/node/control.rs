//! What the owner may ask while the node runs; one request on each control stream.

use super::core::Core;
use super::egress::Rule;
use super::gate::Admitted;
use super::onion::Onion;
use super::rules;
use crate::config::time::now_s;
use crate::error::Error;
use crate::session::Stream;
use crate::session::messages::{
    Activated, ControlRequest, Discovery, EvidenceReply, EvidenceRequest, HistoryReply, HolderRequest, LogsReply, LogsRequest,
    MAX_DISCOVERY_KEYS, MAX_LOG_LINES, Message, Nothing, PolicyReply, Renewed, Reply, Revoked, Status, Switched, Switches, write_reply,
};
use crate::token::{SignedGrant, SignedLease, SignedRevocation};
use crate::trust::Refusal;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest wait for a log line.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Answers one request of the owner.
pub(super) async fn serve(core: &Arc<Core>, request: &[u8], stream: Stream) -> io::Result<()> {
    let Ok(request) = ControlRequest::decode(request) else {
        return send(stream, failed::<Nothing>("protocol", "this node does not know the request; update the older side")).await;
    };
    match request {
        ControlRequest::Status => send(stream, Reply::Done(status(core))).await,
        ControlRequest::Evidence(nonce) => send(stream, show_evidence(core, nonce).await).await,
        ControlRequest::Revoke(list) => send(stream, revoke(core, &list).await).await,
        ControlRequest::Policy(rules) => send(stream, policy(core, rules).await).await,
        ControlRequest::Logs(logs) => send(stream, Reply::Done(read_log(core, logs).await)).await,
        ControlRequest::Drain => {
            core.log.event("drain").write();
            core.drain();
            send(stream, Reply::Done(Nothing)).await
        }
        ControlRequest::Lease(signed) => send(stream, hear(core, &signed).await).await,
        ControlRequest::Rules(signed) => send(stream, take_rules(core, signed).await).await,
        ControlRequest::Renew(list) => send(stream, renew(core, &list).await).await,
        ControlRequest::Discovery(discovery) => send(stream, discover(core, discovery).await).await,
        ControlRequest::History => send(stream, history(core).await).await,
        ControlRequest::Switch(switches) => send(stream, switch(core, switches).await).await,
        ControlRequest::Stop => {
            core.log.event("stop.asked").write();
            let sent = send(stream, Reply::Done(Nothing)).await;
            core.stop();
            sent
        }
    }
}

/// Answers the holder of a grant, who takes back what he passed on.
pub(super) async fn hold(core: &Arc<Core>, admitted: &Arc<Admitted>, request: &[u8], stream: Stream) -> io::Result<()> {
    let Ok(HolderRequest { revoke }) = HolderRequest::decode(request) else {
        return send(stream, failed::<Nothing>("protocol", "this node does not know the request; update the older side")).await;
    };
    let (gate, admitted) = (core.gate.clone(), admitted.clone());
    let done = tokio::task::spawn_blocking(move || gate.revoke_passed_on(&admitted, &revoke, now_s())).await;
    let reply = match done {
        Ok(Ok((id, closed))) => {
            core.log.event("grant.revoked").grant(&id).with("by", "holder").with("closed", closed).write();
            Reply::Done(Revoked { accepted: 1, closed: closed as u64 })
        }
        Ok(Err(error)) => failed_with(&error),
        Err(_) => failed("failed", "the node could not finish it"),
    };
    send(stream, reply).await
}

/// Answers an evidence stream; open to every guest.
pub(super) async fn evidence(core: &Core, request: &[u8], stream: Stream) -> io::Result<()> {
    match EvidenceRequest::decode(request) {
        Ok(EvidenceRequest::Show) => send(stream, show_evidence(core, None).await).await,
        Ok(EvidenceRequest::Activate(activation)) => match core.witness.activate(activation).await {
            Ok(secret) => send(stream, Reply::Done(Activated { secret })).await,
            Err(error) => send(stream, failed_with::<Activated>(&error)).await,
        },
        Err(_) => send(stream, failed::<Nothing>("protocol", "this node does not know the request; update the older side")).await,
    }
}

/// Fresh evidence for the owner's nonce; without one, what was made before.
async fn show_evidence(core: &Core, nonce: Option<[u8; 32]>) -> Reply<EvidenceReply> {
    let speaker = core.speaker().await;
    let evidence = match nonce {
        Some(nonce) => core.witness.answer(speaker, nonce).await,
        None => core.witness.cached(speaker).await,
    };
    match evidence {
        Ok(evidence) => Reply::Done(EvidenceReply { evidence, app_digest: speaker.app_digest }),
        Err(error) => {
            core.log.event("evidence.failed").with("error", error.message()).with("causes", error.causes().join("; ")).write();
            failed_with(&error)
        }
    }
}

/// Refuses a request of somebody who is not the owner.
pub(super) async fn refuse(stream: Stream) -> io::Result<()> {
    send(stream, failed::<Nothing>("refused", "only the owner of the node may ask that")).await
}

async fn send<T: Message>(mut stream: Stream, reply: Reply<T>) -> io::Result<()> {
    write_reply(&mut stream, &reply.encode()).await?;
    stream.shutdown().await?;
    // Stays until the other side has read it, or a moment: dropping resets.
    let mut end = [0; 1];
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut end)).await;
    Ok(())
}

fn failed<T>(code: &str, text: impl Into<String>) -> Reply<T> {
    Reply::Failed { code: code.to_owned(), text: text.into() }
}

fn failed_with<T>(error: &Error) -> Reply<T> {
    failed(error.code().as_str(), error.message())
}

fn status(core: &Core) -> Status {
    let switches = core.gate.switches();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        label: core.config.label.as_str().to_owned(),
        node: core.key,
        owner: core.gate.owner(),
        seed_source: core.config.seed_source().as_str().to_owned(),
        started: core.started,
        now: now_s(),
        sessions: core.gate.sessions() as u64,
        streams: core.streams() as u64,
        draining: core.gate.is_draining(),
        allow: core.policy().allow().iter().map(ToString::to_string).collect(),
        grants: core.gate.grants(),
        onion: core.onion.as_ref().map(Onion::status),
        heard: core.gate.heard(),
        exit_off: switches.exit.off,
        tor_off: switches.tor.off,
    }
}

async fn revoke(core: &Arc<Core>, list: &[Vec<u8>]) -> Reply<Revoked> {
    let owner = core.gate.owner().unwrap_or_default();
    let read = |bytes: &Vec<u8>| SignedRevocation::decode(bytes).ok().filter(|signed| signed.verify(&owner));
    let Some(list) = list.iter().map(read).collect::<Option<Vec<_>>>() else {
        return failed(Refusal::GrantSignature.as_str(), "one of the revocations is not signed by the owner of this node");
    };
    let accepted = list.len() as u64;
    let gate = core.gate.clone();
    match tokio::task::spawn_blocking(move || gate.revoke(&list)).await {
        Ok(Ok(closed)) => {
            onion_forgets(core).await;
            core.log.event("grant.revoked").with("count", accepted).with("closed", closed).write();
            Reply::Done(Revoked { accepted, closed: closed as u64 })
        }
        Ok(Err(error)) => failed_with(&error),
        Err(_) => failed("failed", "the node could not finish it"),
    }
}

async fn hear(core: &Arc<Core>, signed: &[u8]) -> Reply<Nothing> {
    let owner = core.gate.owner().unwrap_or_default();
    let Some(signed) = SignedLease::decode(signed).ok().filter(|signed| signed.verify(&owner, &core.key)) else {
        return failed(Refusal::GrantSignature.as_str(), "the lease statement is not for this node, or not signed by its owner");
    };
    let gate = core.gate.clone();
    match tokio::task::spawn_blocking(move || gate.hear(&signed, now_s())).await {
        Ok(Ok(_)) => Reply::Done(Nothing),
        Ok(Err(refusal)) => failed(refusal.as_str(), "the lease statement is hours ahead of this node's clock, or could not be kept"),
        Err(_) => failed("failed", "the node could not finish it"),
    }
}

async fn renew(core: &Arc<Core>, list: &[Vec<u8>]) -> Reply<Renewed> {
    let owner = core.gate.owner().unwrap_or_default();
    let is_ours = |signed: &SignedGrant| signed.grant().issuer == owner && signed.verify_signature();
    let Some(list) = list.iter().map(|bytes| SignedGrant::decode(bytes).ok().filter(is_ours)).collect::<Option<Vec<_>>>() else {
        return failed(Refusal::GrantSignature.as_str(), "one of the grants is not signed by the owner of this node");
    };
    let gate = core.gate.clone();
    match tokio::task::spawn_blocking(move || gate.renew(&list)).await {
        Ok(Ok((news, closed))) => {
            if news > 0 {
                core.log.event("grant.renewed").with("count", news).with("closed", closed).write();
            }
            Reply::Done(Renewed { news: news as u64, closed: closed as u64 })
        }
        Ok(Err(error)) => failed_with(&error),
        Err(_) => failed("failed", "the node could not finish it"),
    }
}

/// Who was cut off is not to find the restricted service either.
async fn onion_forgets(core: &Arc<Core>) {
    let (Some(onion), gate) = (&core.onion, core.gate.clone()) else { return };
    if let Ok(Ok(keys)) = tokio::task::spawn_blocking(move || gate.state().discovery(now_s())).await {
        onion.set_discovery(keys);
    }
}

/// Remembers the key first: it must be known after a restart, too.
async fn discover(core: &Arc<Core>, discovery: Discovery) -> Reply<Nothing> {
    let Some(onion) = &core.onion else {
        return failed("precondition", "this node is no onion service; deploy it with --tor");
    };
    let (gate, now) = (core.gate.clone(), now_s());
    let kept = tokio::task::spawn_blocking(move || {
        if gate.state().discovery(now)?.len() >= MAX_DISCOVERY_KEYS {
            return Ok(None);
        }
        gate.state().add_discovery(&discovery.grant, &discovery.key, discovery.expires)?;
        gate.state().discovery(now).map(Some)
    });
    match kept.await {
        Ok(Ok(Some(keys))) => {
            onion.set_discovery(keys);
            core.log.event("discovery.added").grant(&discovery.grant).write();
            Reply::Done(Nothing)
        }
        Ok(Ok(None)) => failed("limit-reached", format!("a restricted onion service has at most {MAX_DISCOVERY_KEYS} friends at a time")),
        Ok(Err(error)) => failed_with(&error),
        Err(_) => failed("failed", "the node could not finish it"),
    }
}

async fn policy(core: &Arc<Core>, rules: Option<Vec<String>>) -> Reply<PolicyReply> {
    if let Some(texts) = rules {
        let rules = match Rule::parse_list(&texts) {
            Ok(rules) => rules,
            Err(error) => return failed_with(&error),
        };
        let texts: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let gate = core.gate.clone();
        match tokio::task::spawn_blocking(move || gate.state().set_allow(&texts)).await {
            Ok(Ok(())) => core.set_allow(rules),
            Ok(Err(error)) => return failed_with(&error),
            Err(_) => return failed("failed", "the node could not finish it"),
        }
        core.log.event("policy.replaced").write();
    }
    Reply::Done(PolicyReply { allow: core.policy().allow().iter().map(ToString::to_string).collect() })
}

async fn take_rules(core: &Arc<Core>, signed: Vec<u8>) -> Reply<Nothing> {
    let own = core.clone();
    match tokio::task::spawn_blocking(move || rules::replace(&own, &signed)).await {
        Ok(Ok((number, _))) => {
            core.log.event("rules.taken").with("policy", number).write();
            Reply::Done(Nothing)
        }
        Ok(Err(error)) => failed_with(&error),
        Err(_) => failed("failed", "the node could not finish it"),
    }
}

/// What the owner switches off is off when he has the answer; an onion service that is switched on comes up after it.
async fn switch(core: &Arc<Core>, switches: Switches) -> Reply<Switched> {
    let gate = core.gate.clone();
    match tokio::task::spawn_blocking(move || gate.switch(switches)).await {
        Ok(Ok((now, closed))) => {
            if let Some(onion) = &core.onion {
                onion.set_up(!now.tor.off);
            }
            let in_words = |off| if off { "off" } else { "on" };
            let line = core.log.event("switched").with("exit", in_words(now.exit.off)).with("tor", in_words(now.tor.off));
            line.with("closed", closed).write();
            Reply::Done(Switched { now, closed: closed as u64 })
        }
        Ok(Err(error)) => failed_with(&error),
        Err(_) => failed("failed", "the node could not finish it"),
    }
}

/// What was counted up to now, also what is not on disk yet.
async fn history(core: &Arc<Core>) -> Reply<HistoryReply> {
    let gate = core.gate.clone();
    let counted = tokio::task::spawn_blocking(move || {
        // A full disk is the log's business; the counters in memory are right either way.
        let _ = gate.flush(now_s());
        gate.history().reply(now_s())
    });
    counted.await.map_or_else(|_| failed("failed", "the node could not finish it"), Reply::Done)
}

async fn read_log(core: &Core, request: LogsRequest) -> LogsReply {
    let count = usize::try_from(request.lines).unwrap_or(usize::MAX).min(MAX_LOG_LINES);
    let patience = Duration::from_secs(request.wait).min(LONGEST_WAIT);
    let (mut last, mut lines) = core.log.after(request.after, count);
    if lines.is_empty() && !patience.is_zero() {
        let _ = tokio::time::timeout(patience, core.log.wait(request.after)).await;
        (last, lines) = core.log.after(request.after, count);
    }
    LogsReply { last, lines }
}

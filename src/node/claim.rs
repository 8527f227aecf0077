//! The bootstrap, from the node's side: it says what it is and learns who owns it, once.

use super::core::Core;
use super::state::Claimed;
use crate::config::time::now_s;
use crate::keyring::{self, Seed};
use crate::session::Pipe;
use crate::session::messages::{Activated, CLAIM_TYPE, Challenge, Claim, ClaimRefusal, ClaimReply, Message, Offer, Turn, claim_payload};
use crate::token::{SignedRotation, leads};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Challenges to the TPM in one conversation.
const MAX_ACTIVATIONS: usize = 3;
/// What an answer gets to leave in before the node begins anew.
const FAREWELL: Duration = Duration::from_millis(300);
/// What a new owner has to sign again what the former one granted, before that ends. He does it in his first visit.
const SUCCESSION: Duration = Duration::from_secs(5);

/// Speaks to whoever knows the bootstrap's cover key.
pub(super) async fn serve(core: &Arc<Core>, mut pipe: Pipe) -> io::Result<()> {
    let challenge = Challenge::decode(&pipe.recv(Challenge::LIMIT).await?).map_err(io::Error::other)?;
    let speaker = core.speaker().await;
    let evidence = core.witness.answer(speaker, challenge.nonce).await;
    if let Err(error) = &evidence {
        core.log.event("evidence.failed").with("error", error.message()).with("causes", error.causes().join("; ")).write();
    }
    let offer = Offer {
        // A process on a host has none, and says so by its absence; so does hardware that fails.
        evidence: evidence.ok().flatten(),
        app_digest: speaker.app_digest,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        label: core.config.label.as_str().to_owned(),
        seed_source: speaker.seed.as_str().to_owned(),
        // With keys that it is about to forget it says no: whoever else claims it in that moment must not take it for another.
        claimed: core.has_seed && core.gate.owner().is_some(),
    };
    pipe.send(&offer.encode()).await?;
    let claim = turns(core, &mut pipe).await?;
    let reply = decide(core, &claim, &pipe.hash).await;
    let line = core.log.event("claim").with("owner", crate::encoding::base64(&claim.owner));
    match reply {
        ClaimReply::Claimed => line.with("result", "claimed").write(),
        ClaimReply::Reconnected => line.with("result", "reconnected").write(),
        ClaimReply::Refused(refusal) => line.with("result", "refused").with("reason", refusal.as_str()).write(),
    }
    if reply == ClaimReply::Claimed {
        core.claimed.notify_one();
    }
    if reply == ClaimReply::Claimed && !core.has_seed {
        // From here on it has other keys, whatever becomes of this connection.
        begin_anew(core);
    }
    pipe.send(&reply.encode()).await?;
    pipe.close().await
}

/// Opens the challenges to the TPM that come before the claim: one for each key that the operator may have to check.
async fn turns(core: &Core, pipe: &mut Pipe) -> io::Result<Claim> {
    for _ in 0..=MAX_ACTIVATIONS {
        match Turn::decode(&pipe.recv(Turn::LIMIT).await?).map_err(io::Error::other)? {
            Turn::Claim(claim) => return Ok(claim),
            Turn::Activate(activation) => {
                let secret = core.witness.activate_for_owner(activation).await.unwrap_or_else(|error| {
                    core.log.event("evidence.failed").with("error", error.message()).with("causes", error.causes().join("; ")).write();
                    Zeroizing::default()
                });
                pipe.send(&Activated { secret }.encode()).await?;
            }
        }
    }
    Err(io::Error::other("too many challenges and no claim"))
}

/// Accepts the owner fixed at deploy, or whoever comes first where that was asked for; afterwards only the owner.
async fn decide(core: &Arc<Core>, claim: &Claim, handshake_hash: &[u8; 32]) -> ClaimReply {
    let payload = claim_payload(handshake_hash, &core.key);
    if !keyring::verify(&claim.owner, CLAIM_TYPE, &payload, &claim.signature) {
        return ClaimReply::Refused(ClaimRefusal::BadSignature);
    }
    let rotations: Option<Vec<SignedRotation>> = claim.rotations.iter().map(|bytes| SignedRotation::decode(bytes).ok()).collect();
    let follows = |former: &[u8; 32]| rotations.as_ref().is_some_and(|rotations| leads(former, &claim.owner, rotations));
    if let Some(former) = core.gate.owner().filter(|former| former != &claim.owner && follows(former)) {
        return succeed(core, former, claim.owner).await;
    }
    if core.gate.owner().is_none() {
        let fixed = core.fixed_owner;
        let welcome = fixed.map_or(core.config.claim_by_anyone, |fixed| bool::from(fixed.ct_eq(&claim.owner)) || follows(&fixed));
        if !welcome {
            return ClaimReply::Refused(ClaimRefusal::NotOwner);
        }
    }
    let seed = claim.seed.as_ref().filter(|_| !core.has_seed).map(Seed::from_bytes);
    if !core.has_seed && seed.is_none() {
        return ClaimReply::Refused(ClaimRefusal::SeedMissing);
    }
    let (gate, owner) = (core.gate.clone(), claim.owner);
    match tokio::task::spawn_blocking(move || gate.claim(&owner, seed.as_ref(), now_s())).await {
        Ok(Ok(Claimed::Now)) => ClaimReply::Claimed,
        Ok(Ok(Claimed::Before)) => ClaimReply::Reconnected,
        Ok(Ok(Claimed::ByAnother)) => ClaimReply::Refused(ClaimRefusal::AlreadyClaimed),
        Ok(Err(_)) | Err(_) => ClaimReply::Refused(ClaimRefusal::Storage),
    }
}

/// The owner's new identity takes the place of the former one. Sessions under what the new one does not sign again end in a moment.
async fn succeed(core: &Arc<Core>, former: [u8; 32], owner: [u8; 32]) -> ClaimReply {
    let gate = core.gate.clone();
    match tokio::task::spawn_blocking(move || gate.succeed(&former, &owner)).await {
        Ok(Ok(true)) => {
            core.log.event("owner.rotated").with("owner", crate::encoding::base64(&owner)).write();
            let core = core.clone();
            tokio::spawn(async move {
                tokio::time::sleep(SUCCESSION).await;
                let closed = core.gate.end_foreign();
                core.log.event("owner.former").with("closed", closed).write();
            });
            ClaimReply::Reconnected
        }
        Ok(Ok(false)) => ClaimReply::Refused(ClaimRefusal::AlreadyClaimed),
        Ok(Err(_)) | Err(_) => ClaimReply::Refused(ClaimRefusal::Storage),
    }
}

/// The answer that is about to be sent gets a moment to leave.
fn begin_anew(core: &Arc<Core>) {
    let core = core.clone();
    tokio::spawn(async move {
        tokio::time::sleep(FAREWELL).await;
        core.start_over();
    });
}

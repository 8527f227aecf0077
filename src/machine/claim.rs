//! Taking possession of a node: the bootstrap conversation of `docs/protocol.md`, on the operator's side.

use crate::attest::judge::{Answer, Asked};
use crate::attest::{Outcome, Rung, Verdict};
use crate::config::Label;
use crate::error::{Code, Error, Result};
use crate::keyring::{Keyring, Purpose, Seed, sign, x25519_public};
use crate::owner::dial;
use crate::progress::Progress;
use crate::proof::{self, Terms};
use crate::session::messages::{Activated, CLAIM_TYPE, Challenge, Claim, ClaimRefusal, ClaimReply, Message, Offer, Turn, claim_payload};
use crate::session::seed::Source;
use crate::session::{self, ConnectError, CoverKey, Pipe};
use std::io;

/// What a claim found out about the node.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The node's Noise key, pinned from now on.
    pub node: [u8; 32],
    /// What the node says it is.
    pub offer: Offer,
    /// Whether it was this owner's before.
    pub again: bool,
    /// What it proved before anything was handed over.
    pub verdict: Verdict,
    /// Whether what was found was accepted for right.
    pub discovered: bool,
}

/// Why a claim came to nothing.
pub enum Failure {
    /// The node does not prove what is demanded; it has this key.
    Unproved([u8; 32], Box<Verdict>),
    /// Anything else.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// Where a machine is, and what it takes to claim it.
pub struct Target<'a> {
    /// `host:port`.
    pub address: &'a str,
    /// The bootstrap's cover key.
    pub cover: &'a [u8; 32],
    /// Its name.
    pub label: &'a Label,
    /// Where it was deployed to get its seed from.
    pub source: Source,
    /// The seed to hand over, to a machine that waits for it.
    pub seed: Option<&'a Seed>,
    /// Asked when its evidence is known, before anything is handed over.
    pub permit: &'a dyn Fn(&Verdict) -> Result<()>,
    /// Signed rotations that lead to the owner's identity of now, oldest first.
    pub rotations: &'a [Vec<u8>],
}

/// Has a node prove what the terms demand; then proves to it that we are its owner, hands over its seed if it needs one, and
/// learns its key.
pub async fn claim(
    target: &Target<'_>,
    terms: Terms,
    discover: bool,
    keyring: &Keyring,
    progress: &dyn Progress,
) -> Result<Claimed, Failure> {
    let (address, cover, label) = (target.address, target.cover, target.label);
    let step = progress.step("connect to the node");
    let stream = dial(address, label).await?;
    let pipe = session::bootstrap(stream, &CoverKey::from_bytes(*cover), &keyring.client_noise()).await;
    let mut pipe = pipe.map_err(|error| no_bootstrap(error, label, address))?;
    step.done();

    let step = progress.step("verify its evidence");
    let (offer, verdict, discovered) = question(&mut pipe, target, terms, discover).await?;
    if verdict.outcome == Outcome::Refused {
        return Err(Failure::Unproved(pipe.remote, Box::new(verdict)));
    }
    (target.permit)(&verdict)?;
    if offer.seed_source == Source::Measured.as_str() && verdict.rung < Rung::ImageByHardware {
        return Err(unmeasured(label, &verdict).into());
    }
    step.done();

    let step = progress.step("prove ownership");
    let reply = converse(&mut pipe, target, &offer, keyring).await?;
    // With the seed the node's key is ours to know; without it we learn it now.
    let node = target.seed.map_or(pipe.remote, |seed| x25519_public(&seed.derive(Purpose::NodeNoise)));
    let claimed = Claimed { node, offer, again: reply == ClaimReply::Reconnected, verdict, discovered };

    // The node has written its owner down before it answered; how the connection ends no longer matters.
    let _ = pipe.close().await;
    if let ClaimReply::Refused(refusal) = reply {
        return Err(refused(refusal, label).into());
    }
    step.done();
    Ok(claimed)
}

/// Challenge and offer, and a challenge to the TPM that the offer shows.
async fn question(pipe: &mut Pipe, target: &Target<'_>, mut terms: Terms, discover: bool) -> Result<(Offer, Verdict, bool)> {
    let label = target.label;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    let lost = |error| lost(label, error);
    pipe.send(&Challenge { nonce }.encode()).await.map_err(lost)?;
    let offer: Offer = read(&pipe.recv(Offer::LIMIT).await.map_err(lost)?, label)?;
    let shown = offer.evidence.as_deref();
    let answer = match proof::challenge(shown) {
        None => Answer::NotAsked,
        Some((challenge, activation)) => {
            pipe.send(&Turn::Activate(activation).encode()).await.map_err(lost)?;
            let activated: Activated = read(&pipe.recv(Activated::LIMIT).await.map_err(lost)?, label)?;
            challenge.answered(&activated.secret)
        }
    };
    let (verdict, discovered) = super::attest::judge(&mut terms, discover, shown, Asked::Nonce(pipe.remote, nonce), &answer);
    Ok((offer, verdict, discovered))
}

fn lost(label: &Label, error: io::Error) -> Error {
    Error::new(Code::Unreachable, format!("the connection to `{label}` broke during the claim"))
        .cause(error)
        .hint(format!("portdistrict machine claim {label}"))
}

/// Claim and reply.
async fn converse(pipe: &mut Pipe, target: &Target<'_>, offer: &Offer, keyring: &Keyring) -> Result<ClaimReply> {
    let label = target.label;
    let lost = |error| lost(label, error);
    if offer.label != label.as_str() {
        return Err(Error::new(Code::Refused, format!("the node there is called `{}`, not `{label}`; nothing was claimed", offer.label))
            .hint("portdistrict machine list"));
    }
    let signature = sign(&keyring.identity_key(), CLAIM_TYPE, &claim_payload(&pipe.hash, &pipe.remote));
    // A node that has its seed already answers with the key that comes of it, and is not handed it again.
    let own = target.seed.map(|seed| x25519_public(&seed.derive(Purpose::NodeNoise)));
    let has_seed = own == Some(pipe.remote);
    if offer.seed_source != target.source.as_str() || (offer.claimed && own.is_some() && !has_seed) {
        return Err(other_seed(label));
    }
    let seed = target.seed.filter(|_| !has_seed).map(|seed| *seed.expose());
    let claim = Claim { owner: keyring.identity_public(), signature, seed, rotations: target.rotations.to_vec() };
    pipe.send(&Turn::Claim(claim).encode()).await.map_err(lost)?;
    read(&pipe.recv(ClaimReply::LIMIT).await.map_err(lost)?, label)
}

/// Whoever answers there does with its seed what the machine that was deployed would not.
fn other_seed(label: &Label) -> Error {
    Error::new(Code::Refused, format!("the node there is not the machine `{label}` that was deployed; nothing was handed over"))
        .because("it does not get its keys from where that machine would")
        .hint(format!("portdistrict machine logs {label}"))
}

/// Under a launch that does not cover the image, another machine on the same processor can come to the same seed.
fn unmeasured(label: &Label, verdict: &Verdict) -> Error {
    Error::new(
        Code::Refused,
        format!("machine `{label}` says that its seed is measured, and its hardware does not say so; nothing was claimed"),
    )
    .because(format!("wanted is proof of the \"{}\", it has \"{}\"", Rung::ImageByHardware.title(), verdict.rung.title()))
    .hint(format!("deploy it with --seed owner: portdistrict machine destroy {label}"))
}

fn read<T: Message>(bytes: &[u8], label: &Label) -> Result<T> {
    T::decode(bytes).map_err(|e| {
        Error::new(Code::Protocol, format!("machine `{label}` answers in a way this version does not understand"))
            .cause(e)
            .hint("use the same version of portdistrict on both sides")
    })
}

fn no_bootstrap(error: ConnectError, label: &Label, address: &str) -> Error {
    match error {
        ConnectError::Silent => {
            Error::new(Code::Refused, format!("the program at {address} does not answer to the bootstrap key of `{label}`"))
                .because("it is another program, another node, or a clock is more than a few minutes off")
                .hint(format!("portdistrict machine doctor {label}"))
        }
        ConnectError::Io(error) => Error::new(Code::Unreachable, format!("the connection to `{label}` at {address} failed"))
            .cause(error)
            .hint(format!("portdistrict machine logs {label}")),
        other => Error::new(Code::Protocol, format!("the bootstrap of `{label}` at {address} failed"))
            .cause(other)
            .hint("use the same version of portdistrict on both sides"),
    }
}

fn refused(refusal: ClaimRefusal, label: &Label) -> Error {
    let text = match refusal {
        ClaimRefusal::AlreadyClaimed => format!("machine `{label}` refused: somebody else owns it already"),
        ClaimRefusal::NotOwner => format!("machine `{label}` refused: another owner was fixed when it was deployed"),
        ClaimRefusal::BadSignature => format!("machine `{label}` refused: the proof of ownership does not hold"),
        ClaimRefusal::SeedMissing => format!("machine `{label}` waits for its seed, and none was handed over"),
        ClaimRefusal::Storage => format!("machine `{label}` could not write down its owner"),
    };
    let hint = match refusal {
        ClaimRefusal::AlreadyClaimed | ClaimRefusal::NotOwner => {
            "use the home it was deployed from, or deploy a machine of your own".to_owned()
        }
        ClaimRefusal::BadSignature | ClaimRefusal::SeedMissing => format!("portdistrict machine claim {label}"),
        ClaimRefusal::Storage => format!("portdistrict machine doctor {label}"),
    };
    Error::new(if refusal == ClaimRefusal::Storage { Code::Io } else { Code::Refused }, text).because(refusal.as_str()).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_words_and_a_way_out() {
        let label: Label = "home".parse().unwrap();
        for refusal in ClaimRefusal::ALL {
            let error = refused(refusal, &label);
            assert!(error.message().contains("home") && error.hint_text().is_some(), "{error:?}");
            assert_eq!(error.causes(), [refusal.as_str()]);
        }
    }
}

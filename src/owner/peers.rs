//! What the owner decides about other identities: who they are, how far they are believed, and when no longer.

use super::words::Words;
use crate::config::Label;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Blob, PeerAdded, PeerDemoted, PeerForgotten, PeerRefused, PeerRevoked, PeerTrusted, PeerVerified, Succeeds};
use crate::ledger::{B64, Peer, PeerState};
use crate::token::{Identity, SignedIdentity};
use ed25519_dalek::VerifyingKey;

/// What adding a peer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was not known.
    New,
    /// It was known, and nothing is new.
    Known,
    /// It was known, and its blob is newer.
    Renewed,
    /// Its key takes the place of the one with this id, whose state it keeps.
    Rotated(String),
}

impl Added {
    /// The word in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Added::New => "new",
            Added::Known => "known",
            Added::Renewed => "renewed",
            Added::Rotated(_) => "rotated",
        }
    }
}

/// Adds whoever made an identity blob, under `name` or the name in it.
pub fn add(cx: &Context, signed: &SignedIdentity, name: Option<&Label>) -> Result<(Peer, Added)> {
    let identity = signed.identity();
    let id = node_id(&identity.identity);
    check_new(cx, &identity.identity, &id)?;
    let ledger = cx.ledger()?;
    let body = |name: Label| PeerAdded {
        id: id.clone(),
        key: B64(identity.identity),
        sealing: Some(B64(identity.ecdh)),
        client: identity.client.map(B64),
        name,
        provenance: "blob".to_owned(),
        endpoint: None,
        issued: Some(identity.issued),
        succeeds: None,
    };
    if let Some(known) = ledger.peer_by_id(&id)? {
        not_revoked(&known)?;
        let name = name.unwrap_or(&known.name).clone();
        let news = known.issued.is_none_or(|issued| issued < identity.issued);
        if !news && name == known.name {
            return Ok((known, Added::Known));
        }
        refuse_other(cx, &name, &identity.identity)?;
        // An older blob may give a name, and takes back nothing that a newer one said.
        let renewed = if news { body(name) } else { as_recorded(&known, name) };
        cx.record(&PeerAdded { endpoint: known.endpoint, ..renewed })?;
        return Ok((ledger.peer(&id)?, Added::Renewed));
    }
    if let Some((known, succeeds)) = predecessor(cx, identity)? {
        not_revoked(&known)?;
        let name = name.unwrap_or(&known.name).clone();
        cx.record(&PeerAdded { provenance: "rotated".to_owned(), endpoint: known.endpoint, succeeds: Some(succeeds), ..body(name) })?;
        return Ok((ledger.peer(&id)?, Added::Rotated(known.id)));
    }
    let name = name.cloned().or_else(|| Label::near(identity.name.as_deref()?));
    let name = name.ok_or_else(|| {
        Error::new(Code::Usage, "this identity has no name that could be used here")
            .hint("choose one: portdistrict peer add BLOB --as NAME")
    })?;
    refuse_other(cx, &name, &identity.identity)?;
    cx.record(&body(name))?;
    Ok((ledger.peer(&id)?, Added::New))
}

/// Adds a key that was seen somewhere, without a blob that proves that anybody holds it.
pub fn adopt(cx: &Context, key: &[u8; 32], endpoint: Option<&str>, name: &Label) -> Result<(Peer, Added)> {
    if VerifyingKey::from_bytes(key).map_or(true, |key| key.is_weak()) {
        return Err(
            Error::new(Code::Usage, format!("{} is no identity key", B64(*key))).hint("ask for its line: portdistrict identity export")
        );
    }
    let id = node_id(key);
    check_new(cx, key, &id)?;
    refuse_other(cx, name, key)?;
    let ledger = cx.ledger()?;
    let known = ledger.peer_by_id(&id)?;
    if let Some(known) = &known {
        not_revoked(known)?;
        if known.name == *name && endpoint.is_none_or(|endpoint| known.endpoint.as_deref() == Some(endpoint)) {
            return Ok((known.clone(), Added::Known));
        }
    }
    let seen = endpoint.map(str::to_owned);
    cx.record(&match &known {
        Some(known) => PeerAdded { endpoint: seen.or_else(|| known.endpoint.clone()), ..as_recorded(known, name.clone()) },
        None => PeerAdded {
            id: id.clone(),
            key: B64(*key),
            sealing: None,
            client: None,
            name: name.clone(),
            provenance: "adopted".to_owned(),
            endpoint: seen,
            issued: None,
            succeeds: None,
        },
    })?;
    Ok((ledger.peer(&id)?, if known.is_some() { Added::Renewed } else { Added::New }))
}

/// The words that the owner and a peer compare.
pub fn words(cx: &Context, peer: &Peer) -> Result<Words> {
    Words::of(&cx.keyring()?.identity_public(), &peer.key.0)
}

/// How words were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Read out.
    Words,
    /// Scanned.
    Qr,
}

impl Compared {
    fn as_str(self) -> &'static str {
        match self {
            Compared::Words => "words",
            Compared::Qr => "qr",
        }
    }
}

/// Refuses what the other side said, if it is not what is seen here.
pub fn check_words(peer: &Peer, words: Words, said: &str) -> Result<()> {
    if words.are(said) {
        return Ok(());
    }
    Err(Error::new(Code::Refused, format!("these are not the words for `{}`; nothing was changed", peer.name))
        .because("a word was misheard, or one of you has another key of the other than he thinks")
        .hint(format!("compare all of them again: portdistrict peer show {}", peer.name)))
}

/// Records that the words were the same on both sides.
pub fn verify(cx: &Context, peer: &Peer, how: Compared) -> Result<Peer> {
    not_revoked(peer)?;
    cx.record(&PeerVerified { id: peer.id.clone(), how: how.as_str().to_owned() })?;
    cx.ledger()?.peer(&peer.id)
}

/// Trusts a peer that was verified; `unverified` does without, and is recorded.
pub fn trust(cx: &Context, peer: &Peer, unverified: bool) -> Result<Peer> {
    not_revoked(peer)?;
    if peer.state == PeerState::Trusted {
        return Ok(peer.clone());
    }
    if peer.state == PeerState::Seen && !unverified {
        return Err(Error::new(Code::Refused, format!("peer `{}` was not verified: nobody checked whose key it is", peer.name))
            .hint(format!("compare words first: portdistrict peer verify {}", peer.name)));
    }
    cx.record(&PeerTrusted { id: peer.id.clone(), unverified: peer.state == PeerState::Seen })?;
    cx.ledger()?.peer(&peer.id)
}

/// Takes one step back: from trusted to verified (if it was), from verified to seen.
pub fn demote(cx: &Context, peer: &Peer) -> Result<Peer> {
    not_revoked(peer)?;
    let to = match (peer.state, &peer.verified) {
        (PeerState::Trusted, Some(_)) => PeerState::Verified,
        (PeerState::Trusted | PeerState::Verified, _) => PeerState::Seen,
        (PeerState::Seen | PeerState::Revoked, _) => {
            return Err(Error::new(Code::Usage, format!("peer `{}` is only {}; there is nothing to take back", peer.name, peer.state))
                .hint(format!("portdistrict peer show {}", peer.name)));
        }
    };
    cx.record(&PeerDemoted { id: peer.id.clone(), to: to.as_str().to_owned() })?;
    cx.ledger()?.peer(&peer.id)
}

/// Ends all belief in a peer's key; again, it changes nothing.
pub fn revoke(cx: &Context, peer: &Peer, reason: &str) -> Result<Peer> {
    if peer.state == PeerState::Revoked {
        return Ok(peer.clone());
    }
    cx.record(&PeerRevoked { id: peer.id.clone(), reason: reason.to_owned() })?;
    cx.ledger()?.peer(&peer.id)
}

/// Takes a peer off the list. Its name is free again, and its history stays.
pub fn forget(cx: &Context, peer: &Peer) -> Result<()> {
    cx.record(&PeerForgotten { id: peer.id.clone() }).map(drop)
}

/// What is recorded of a peer already, under another name.
fn as_recorded(known: &Peer, name: Label) -> PeerAdded {
    PeerAdded {
        id: known.id.clone(),
        key: known.key,
        sealing: known.sealing,
        client: known.client,
        name,
        provenance: known.provenance.clone(),
        endpoint: known.endpoint.clone(),
        issued: known.issued,
        succeeds: None,
    }
}

/// A key that can be somebody else's, and is not one that was replaced.
fn check_new(cx: &Context, key: &[u8; 32], id: &str) -> Result<()> {
    if cx.keyring()?.identity_public() == *key {
        return Err(Error::new(Code::Usage, format!("{id} is your own identity")).hint("portdistrict identity show"));
    }
    match cx.ledger()?.peer_successor(id)? {
        Some(new) => {
            Err(Error::new(Code::Refused, format!("the key {id} was replaced by {new}; whoever still shows it may have stolen it"))
                .hint(format!("portdistrict peer show {new}")))
        }
        None => Ok(()),
    }
}

/// Refuses another key under the name of a known peer, and writes that down.
fn refuse_other(cx: &Context, name: &Label, key: &[u8; 32]) -> Result<()> {
    let known = match cx.ledger()?.peer(name.as_str()) {
        Err(error) if error.code() == Code::NotFound => return Ok(()),
        other => other?,
    };
    if known.key.0 == *key {
        return Ok(());
    }
    cx.record(&PeerRefused { id: known.id.clone(), found: B64(*key) })?;
    Err(Error::new(Code::Refused, format!("peer `{name}` has another key; nothing was changed"))
        .because(format!("known: {}", known.id))
        .because(format!("found: {}", node_id(key)))
        .because("somebody else uses the name, or it lost its key and began anew: a rotation signed by the old key would have been taken")
        .hint(format!(
            "ask over another channel; if the new key is right: portdistrict peer forget {name}; if it is somebody else: --as NAME"
        )))
}

/// The known peer whose key the rotations in a blob lead from.
fn predecessor(cx: &Context, identity: &Identity) -> Result<Option<(Peer, Succeeds)>> {
    for (n, rotation) in identity.rotations.iter().enumerate().rev() {
        let Some(known) = cx.ledger()?.peer_by_id(&node_id(&rotation.rotation().old))? else { continue };
        let succeeds = Succeeds {
            id: known.id.clone(),
            state: known.state.as_str().to_owned(),
            verified: known.verified.clone(),
            rotations: identity.rotations[n..].iter().map(|rotation| Blob(rotation.encode())).collect(),
        };
        return Ok(Some((known, succeeds)));
    }
    Ok(None)
}

fn not_revoked(peer: &Peer) -> Result<()> {
    if peer.state != PeerState::Revoked {
        return Ok(());
    }
    Err(Error::new(Code::Refused, format!("peer `{}` was revoked; its key is not believed any more", peer.name))
        .hint(format!("if that was a mistake: portdistrict peer forget {}, then add it again", peer.name)))
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;

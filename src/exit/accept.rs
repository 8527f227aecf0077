//! Makes an invite one's own: the node binds it to this device, and the text is dead for everyone else.

use super::way::{Failure, Hidden, Way};
use crate::config::Label;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::keyring::Keyring;
use crate::ledger::kinds::{Blob, ExitAccepted, ExitForgotten, NodePinned};
use crate::ledger::{B64, Exit};
use crate::progress::Progress;
use crate::proof::Terms;
use crate::session::Hello;
use crate::token::{Chain, Invite, Mode};
use crate::tor::Tor;
use std::sync::Arc;

/// What reaching a node needs from outside.
#[derive(Clone, Copy)]
pub struct Net<'a> {
    /// The way into the Tor network, should it be needed.
    pub tor: &'a Arc<Tor>,
    /// Shows steps that take time.
    pub progress: &'a dyn Progress,
    /// Is told before each wait.
    pub retry: &'a (dyn Fn(u64, &Error) + Send + Sync),
}

/// Accepts an invite under `name`, or under the name that it proposes. Accepting the same one again changes nothing.
///
/// A home is made quietly where there is none: a friend need not know that there is such a thing.
pub async fn accept(cx: &Context, invite: &Invite, name: Option<&Label>, net: &Net<'_>) -> Result<Exit> {
    let terms = invite.grant.terms().ok_or_else(too_far)?;
    if terms.mode == Mode::Try {
        return Err(Error::new(Code::Refused, "this invite is for trying only and cannot be accepted").hint("portdistrict exit try BLOB"));
    }
    cx.init()?;
    let signed = invite.grant.encode();
    if let Some(known) = cx.ledger()?.exits()?.into_iter().find(|exit| exit.signed == signed && exit.bound) {
        return Ok(known);
    }
    let onion = invite.transport.onion.map(|onion| onion.address.to_string());
    let places: Vec<String> = invite.transport.addresses.iter().cloned().chain(onion.clone()).collect();
    check_pins(cx, &places, &invite.node)?;
    let name = free_name(cx, invite, name)?;
    let mut way = super::try_::way(invite, net.tor)?;
    way.name = name.to_string();
    way.hello.bind = Some(cx.keyring()?.client_noise_public());
    let reached = way.reach_patiently(net.progress, net.retry).await.map_err(Failure::into_error)?;
    // The session of the pasted key has done its work; what follows comes as the device.
    reached.session.close();
    for address in &places {
        if cx.ledger()?.pinned(address)? != Some(B64(invite.node)) {
            cx.record(&NodePinned { address: address.clone(), node_key: B64(invite.node) })?;
        }
    }
    let keyring = cx.keyring()?;
    let found = way.onion.as_ref().and_then(|hidden| hidden.discovery.as_deref());
    let discovery = found.map(|key| B64(*keyring.seal_discovery(&invite.grant.id(), key)));
    cx.record(&ExitAccepted {
        name: name.clone(),
        transport: invite.transport.as_str().to_owned(),
        addresses: invite.transport.addresses.clone(),
        node_key: B64(invite.node),
        grant: Blob(signed),
        bound: true,
        expires: terms.expires,
        onion,
        discovery,
    })?;
    cx.ledger()?.exit(&name)
}

/// Takes a later revision of the grant behind an exit that was accepted, for a node that was not told of it.
pub fn take_renewed(cx: &Context, renewed: &Chain) -> Result<Exit> {
    let new = renewed.root().grant();
    for exit in cx.ledger()?.exits()? {
        let Ok(old) = Chain::decode(&exit.signed) else { continue };
        let (id, issuer, revision) = (old.root().grant().id, old.root().grant().issuer, old.root().grant().revision);
        if id != new.id || issuer != new.issuer {
            continue;
        }
        if revision >= new.revision {
            return Ok(exit);
        }
        let chain = old.under(renewed.root().clone());
        cx.record(&ExitAccepted {
            name: exit.name.clone(),
            transport: exit.transport,
            addresses: exit.addresses,
            node_key: exit.node_key,
            expires: chain.terms().ok_or_else(too_far)?.expires,
            grant: Blob(chain.encode()),
            bound: exit.bound,
            onion: exit.onion,
            discovery: exit.discovery,
        })?;
        return cx.ledger()?.exit(&exit.name);
    }
    Err(Error::new(Code::NotFound, "this renews a grant that was not accepted here")
        .hint("accept the invite first: portdistrict exit accept BLOB"))
}

/// Nobody's node would take it.
fn too_far() -> Error {
    Error::new(Code::Refused, "this invite was passed on farther than its owner allows")
        .hint("ask whoever sent it for an invite of the owner's")
}

/// A node behind an exit that is in use here must keep its key (PD-EX9). Forgetting that exit is the user's word that the
/// change is known.
fn check_pins(cx: &Context, addresses: &[String], node: &[u8; 32]) -> Result<()> {
    let exits = cx.ledger()?.exits()?;
    for address in addresses {
        let Some(pinned) = cx.ledger()?.pinned(address)?.filter(|pinned| pinned.0 != *node) else { continue };
        let Some(exit) =
            exits.iter().find(|exit| (exit.addresses.contains(address) || exit.onion.as_ref() == Some(address)) && exit.node_key == pinned)
        else {
            continue;
        };
        return Err(Error::new(
            Code::Refused,
            format!("the node at {address} has another key than the one pinned for exit `{}`", exit.name),
        )
        .because(format!("pinned:  {}", node_id(&pinned.0)))
        .because(format!("invited: {}", node_id(node)))
        .because("somebody else may answer at this address, or its owner has set the node up anew")
        .hint(format!("ask its owner; if it was set up anew: portdistrict exit forget {}, then accept again", exit.name)));
    }
    Ok(())
}

/// The wanted name, or the proposed one with a number if it is taken.
fn free_name(cx: &Context, invite: &Invite, wanted: Option<&Label>) -> Result<Label> {
    let taken: Vec<Label> = cx.ledger()?.exits()?.into_iter().map(|exit| exit.name).collect();
    if let Some(name) = wanted {
        if taken.contains(name) {
            return Err(Error::new(Code::Exists, format!("there is an exit `{name}` already"))
                .hint(format!("choose another name with --as, or: portdistrict exit forget {name}")));
        }
        return Ok(name.clone());
    }
    let proposed = invite.name.as_ref().map_or("exit", Label::as_str);
    let numbered = (2..1000).map(|n| format!("{}-{n}", &proposed[..proposed.len().min(28)]));
    std::iter::once(proposed.to_owned())
        .chain(numbered)
        .filter_map(|name| name.parse::<Label>().ok())
        .find(|name| !taken.contains(name))
        .ok_or_else(|| Error::new(Code::Usage, "no free name for this exit").hint("choose one with --as NAME"))
}

/// The way to an accepted exit, as this device.
pub fn way(exit: &Exit, keyring: &Keyring, tor: &Arc<Tor>) -> Result<Way> {
    let unreadable =
        || Error::new(Code::Ledger, format!("what is recorded of exit `{}` cannot be read", exit.name)).hint("portdistrict ledger verify");
    let chain = Chain::decode(&exit.signed).map_err(|_| unreadable())?;
    let open = |sealed: &B64<32>| keyring.seal_discovery(&chain.id(), &sealed.0);
    let onion = match &exit.onion {
        Some(address) => Some(Hidden {
            address: address.parse().map_err(|_| unreadable())?,
            discovery: exit.discovery.as_ref().map(open),
            tor: tor.clone(),
        }),
        None => None,
    };
    Ok(Way {
        name: exit.name.to_string(),
        addresses: exit.addresses.clone(),
        onion,
        node: exit.node_key.0,
        secret: keyring.client_noise(),
        hello: Hello {
            grant: exit.signed.clone(),
            bind: Some(keyring.client_noise_public()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        proof: Terms::demanded(chain.root().grant().evidence, None)?,
    })
}

/// Forgets an accepted exit; the node is not told.
pub fn forget(cx: &Context, name: &Label) -> Result<()> {
    let exit = cx.ledger()?.exit(name)?;
    cx.record(&ExitForgotten { name: exit.name }).map(drop)
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;

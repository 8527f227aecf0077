//! Makes an invite one's own: the node binds it to this device, and the text is dead for everyone else.

use super::way::{Failure, Way};
use crate::config::Label;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::keyring::Keyring;
use crate::ledger::kinds::{Blob, ExitAccepted, ExitForgotten, NodePinned};
use crate::ledger::{B64, Exit};
use crate::session::Hello;
use crate::token::{Invite, Mode, Transport};

/// Accepts an invite under `name`, or under the name that it proposes. Accepting the same one again changes nothing.
///
/// A home is made quietly where there is none: a friend need not know that there is such a thing.
pub async fn accept(cx: &Context, invite: &Invite, name: Option<&Label>) -> Result<Exit> {
    if invite.grant.grant().mode == Mode::Try {
        return Err(Error::new(Code::Refused, "this invite is for trying only and cannot be accepted").hint("portdistrict exit try BLOB"));
    }
    cx.init()?;
    let signed = invite.grant.encode();
    if let Some(known) = cx.ledger()?.exits()?.into_iter().find(|exit| exit.signed == signed && exit.bound) {
        return Ok(known);
    }
    let Transport::Direct { addresses } = &invite.transport;
    check_pins(cx, addresses, &invite.node)?;
    let name = free_name(cx, invite, name)?;
    let mut way = super::try_::way(invite)?;
    way.name = name.to_string();
    way.hello.bind = Some(cx.keyring()?.client_noise_public());
    let reached = way.reach().await.map_err(Failure::into_error)?;
    // The session of the pasted key has done its work; what follows comes as the device.
    reached.session.close();
    for address in addresses {
        if cx.ledger()?.pinned(address)? != Some(B64(invite.node)) {
            cx.record(&NodePinned { address: address.clone(), node_key: B64(invite.node) })?;
        }
    }
    cx.record(&ExitAccepted {
        name: name.clone(),
        transport: "direct".to_owned(),
        addresses: addresses.clone(),
        node_key: B64(invite.node),
        grant: Blob(signed),
        bound: true,
        expires: invite.grant.grant().expires,
    })?;
    cx.ledger()?.exit(&name)
}

/// A node behind an exit that is in use here must keep its key (PD-EX9). Forgetting that exit is the user's word that the
/// change is known.
fn check_pins(cx: &Context, addresses: &[String], node: &[u8; 32]) -> Result<()> {
    let exits = cx.ledger()?.exits()?;
    for address in addresses {
        let Some(pinned) = cx.ledger()?.pinned(address)?.filter(|pinned| pinned.0 != *node) else { continue };
        let Some(exit) = exits.iter().find(|exit| exit.addresses.contains(address) && exit.node_key == pinned) else { continue };
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
pub fn way(exit: &Exit, keyring: &Keyring) -> Way {
    Way {
        name: exit.name.to_string(),
        addresses: exit.addresses.clone(),
        node: exit.node_key.0,
        secret: keyring.client_noise(),
        hello: Hello {
            grant: exit.signed.clone(),
            bind: Some(keyring.client_noise_public()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    }
}

/// Forgets an accepted exit; the node is not told.
pub fn forget(cx: &Context, name: &Label) -> Result<()> {
    let exit = cx.ledger()?.exit(name)?;
    cx.record(&ExitForgotten { name: exit.name }).map(drop)
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;

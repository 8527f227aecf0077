//! Passing an accepted exit on, narrower: the friend's side. Nobody is asked; the node works out the same by itself.
//!
//! What was passed on is recorded here with its caveat, so that it can be taken back: at the node, over a session of one's own.

use super::accept::{self, Net};
use super::grants::Told;
use super::invite::check_scope;
use super::way::Failure;
use crate::config::Label;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Blob, GrantPassedOn, GrantRevoked, RevocationDelivered};
use crate::ledger::{B64, Exit, PassedOn};
use crate::session::messages::Revoked;
use crate::session::revoke_passed_on;
use crate::token::{Caveat, Chain, Invite, Limits, Mode, Onion, Scope, Terms, Transport, child_id, child_secret};
use crate::trust::Reach;
use std::time::Duration;

/// What is passed on, and what is taken away.
#[derive(Clone, Debug)]
pub struct Request {
    /// The accepted exit.
    pub exit: Label,
    /// Whom it is for.
    pub name: Label,
    /// From now on; absent means as long as one's own grant.
    pub lifetime: Option<Duration>,
    /// How often its text can be accepted.
    pub mode: Mode,
    /// How much.
    pub limits: Limits,
    /// Where to, when, by which way and for how many devices.
    pub scope: Scope,
    /// How deep it may be passed on; absent means one less than one's own grant.
    pub delegable: Option<u8>,
}

/// What was passed on.
#[derive(Clone, Debug)]
pub struct Made {
    /// The line to paste.
    pub blob: String,
    /// The same for a QR code.
    pub qr: String,
    /// Names the new grant.
    pub id: [u8; 8],
    /// What it comes to, one's own bounds and those above included.
    pub terms: Terms,
}

/// Makes a narrower invite of an exit that this device holds; with `dry_run` nothing is recorded.
pub fn pass_on(cx: &Context, request: &Request, dry_run: bool) -> Result<Made> {
    let exit = cx.ledger()?.exit(&request.exit)?;
    let own = chain(&exit)?;
    let terms = own.terms().filter(|terms| terms.delegable > 0).ok_or_else(|| {
        Error::new(Code::Refused, format!("the grant behind exit `{}` may not be passed on", exit.name))
            .hint("ask its owner for one that may: portdistrict grant create … --delegable 1")
    })?;
    check_scope(&request.scope, request.mode)?;
    Reach::parse(&terms.allow, &terms.deny)?;
    let (keyring, parent) = (cx.keyring()?, own.id());
    let caveat = caveat(request, &terms, &keyring.client_noise_public(), &parent, cx.now());
    let narrowed = own.with(caveat);
    let (Some(terms), Some((bytes, _))) = (narrowed.terms(), narrowed.caveats().last()) else {
        return Err(Error::new(Code::Failed, "the grant could not be narrowed"));
    };
    let secret = child_secret(&keyring.client_noise(), &exit.node_key.0, &parent, bytes);
    let (id, bytes) = (narrowed.id(), bytes.clone());
    let invite = Invite { transport: transport(&exit)?, node: exit.node_key.0, grant: narrowed, secret, name: Some(exit.name.clone()) };
    let made = Made { blob: invite.to_blob()?, qr: invite.to_qr()?, id, terms };
    // Recorded before it is shown: what exists can always be taken back.
    if !dry_run {
        cx.record(&GrantPassedOn {
            id: B64(id),
            parent: B64(parent),
            name: request.name.clone(),
            node_key: exit.node_key,
            exit: Some(exit.name),
            caveat: Some(Blob(bytes)),
            expires: Some(made.terms.expires),
        })?;
    }
    Ok(made)
}

/// The grant behind an exit.
fn chain(exit: &Exit) -> Result<Chain> {
    Chain::decode(&exit.signed).map_err(|error| {
        Error::new(Code::Ledger, format!("what is recorded of exit `{}` cannot be read", exit.name))
            .cause(error)
            .hint("portdistrict ledger verify")
    })
}

fn caveat(request: &Request, above: &Terms, device: &[u8; 32], parent: &[u8; 8], now: u64) -> Caveat {
    loop {
        let caveat = Caveat {
            // Where others may hold the same grant, the node must know whose key to take.
            holder: if above.mode == Mode::Many { device.first_chunk().copied() } else { None },
            expires: request.lifetime.map(|lifetime| now + lifetime.as_secs().max(1)),
            limits: request.limits,
            scope: request.scope.clone(),
            mode: (request.mode < above.mode).then_some(request.mode),
            delegable: request.delegable.filter(|depth| *depth + 1 < above.delegable),
            ..Caveat::new(request.name.clone())
        };
        // As text an id never begins with `-`, which a command line takes for an option.
        if !B64(caveat.id(parent)).to_string().starts_with('-') {
            return caveat;
        }
    }
}

/// The ways to the node that the receiver can go, too: a restricted onion service knows only the holder's key.
fn transport(exit: &Exit) -> Result<Transport> {
    let onion = exit.onion.as_ref().filter(|_| exit.discovery.is_none());
    let onion = onion.and_then(|onion| onion.parse().ok()).map(|address| Onion { address, restricted: false });
    if exit.addresses.is_empty() && onion.is_none() {
        return Err(Error::new(Code::Precondition, format!("only you can find exit `{}`: its onion service is restricted", exit.name))
            .hint("ask its owner to invite your friend himself"));
    }
    Ok(Transport { addresses: exit.addresses.clone(), onion })
}

/// Takes back what was passed on from here, by name or id, and everything that was made of it. What the node does not hear now
/// it hears by [`retry`].
pub async fn take_back(cx: &Context, name_or_id: &str, reason: &str, net: &Net<'_>) -> Result<(PassedOn, Told)> {
    let found = cx.ledger()?.one_passed_on(name_or_id)?;
    if found.revoked.is_none() {
        cx.record(&GrantRevoked { id: found.id, at: cx.now(), reason: reason.to_owned(), revocation: None })?;
    }
    let told = tell(cx, &found, net).await?;
    Ok((cx.ledger()?.one_passed_on(&found.id.to_string())?, told))
}

/// Tells the nodes what they have not heard of what was taken back here.
pub async fn retry(cx: &Context, net: &Net<'_>) -> Result<Vec<Told>> {
    let mut told = Vec::new();
    for one in cx.ledger()?.passed_on()? {
        if one.exit.is_some() && one.revoked.is_some() && !has_heard(cx, &one)? {
            told.push(tell(cx, &one, net).await?);
        }
    }
    Ok(told)
}

/// Whether the node is known to have heard that it was taken back.
pub fn has_heard(cx: &Context, one: &PassedOn) -> Result<bool> {
    Ok(cx.ledger()?.deliveries(&one.node_key.0)?.iter().any(|delivery| delivery.id == one.id && delivery.revoked))
}

async fn tell(cx: &Context, one: &PassedOn, net: &Net<'_>) -> Result<Told> {
    let (Some(name), Some(caveat)) = (&one.exit, &one.caveat) else {
        return Err(
            Error::new(Code::Refused, format!("the grant for {} was not passed on from here", one.name)).hint("portdistrict grant list")
        );
    };
    let heard = ask(cx, name, one, caveat, net).await;
    if heard.is_ok() {
        cx.record(&RevocationDelivered { id: one.id, node: name.clone(), node_key: one.node_key })?;
    }
    Ok(Told { machine: name.clone(), heard })
}

async fn ask(cx: &Context, exit: &Label, one: &PassedOn, caveat: &[u8], net: &Net<'_>) -> Result<Revoked> {
    let exit = cx.ledger()?.exit(exit)?;
    let own = chain(&exit)?;
    if child_id(&own.id(), caveat) != one.id.0 {
        return Err(Error::new(Code::Precondition, format!("exit `{}` is another one now than that which was passed on", exit.name))
            .hint("ask its owner to take it back"));
    }
    let way = accept::way(&exit, cx.keyring()?, net.tor)?;
    let reached = way.reach_patiently(net.progress, net.retry).await.map_err(Failure::into_error)?;
    let answer = revoke_passed_on(&reached.session, caveat.to_vec()).await;
    reached.session.close();
    answer
}

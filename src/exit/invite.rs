//! The operator's act: decides what a friend may do, records it, and makes the line that says so.

use crate::config::Label;
use crate::context::Context;
use crate::encoding::cbor::Map;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Blob, GrantIssued, GrantLimits};
use crate::ledger::{B64, Machine};
use crate::token::{Grant, Invite, Limits, Mode, Role, Secret16, SignedGrant, Transport};
use std::time::Duration;

/// A friend's clock may be behind ours by this much without the invite looking as if it were not valid yet.
const EARLIER: u64 = 2 * 3600;
/// Longest life of an invite: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The machine to lend.
    pub node: Label,
    /// The friend's name, for the operator's own records.
    pub name: Label,
    /// From now on.
    pub lifetime: Duration,
    /// How often it can be accepted.
    pub mode: Mode,
    /// What may be used up.
    pub limits: Limits,
}

/// An invite that was recorded.
#[derive(Clone, Debug)]
pub struct Invited {
    /// The line to paste.
    pub blob: String,
    /// The same for a QR code.
    pub qr: String,
    /// Names the grant in lists, logs and `grant revoke`.
    pub id: [u8; 8],
    /// When it ends, unix seconds.
    pub expires: u64,
}

/// Makes an invite and records its grant; with `dry_run` everything is checked and nothing recorded.
pub fn invite(cx: &Context, request: &Request, dry_run: bool) -> Result<Invited> {
    let machine = cx.ledger()?.machine(&request.node)?;
    let (address, node) = reachable(&machine)?;
    if request.lifetime.is_zero() || request.lifetime > LONGEST {
        return Err(
            Error::new(Code::Usage, "an invite lasts between a second and ten years").hint("portdistrict exit invite … --lifetime 7d")
        );
    }
    let secret = Secret16::random();
    let grant = grant(cx, request, node, secret.subject())?;
    let (id, expires) = (grant.grant().id, grant.grant().expires);
    let transport = Transport::Direct { addresses: vec![address] };
    let invite = Invite { transport, node, grant, secret: Some(secret), name: Some(request.node.clone()) };
    let invited = Invited { blob: invite.to_blob()?, qr: invite.to_qr()?, id, expires };
    // Recorded before it is shown: an invite that exists can always be revoked.
    if !dry_run {
        cx.record(&issued(request, &invite.grant))?;
    }
    Ok(invited)
}

fn reachable(machine: &Machine) -> Result<(String, [u8; 32])> {
    match (&machine.address, &machine.node_key) {
        (Some(address), Some(key)) => Ok((address.clone(), key.0)),
        _ => Err(Error::new(Code::Precondition, format!("machine `{}` is not claimed yet, so its key is not known", machine.label))
            .hint(format!("portdistrict machine claim {}", machine.label))),
    }
}

fn grant(cx: &Context, request: &Request, node: [u8; 32], subject: [u8; 32]) -> Result<SignedGrant> {
    let (keyring, now) = (cx.keyring()?, cx.now());
    let grant = Grant {
        id: Grant::random_id(),
        issuer: keyring.identity_public(),
        node: Some(node),
        subject,
        not_before: now.saturating_sub(EARLIER),
        expires: now + request.lifetime.as_secs().max(1),
        limits: request.limits,
        egress: Vec::new(),
        evidence: None,
        mode: request.mode,
        role: Role::Exit,
        reserved: Map::new(),
    };
    Ok(grant.sign(&keyring.identity_key()))
}

fn issued(request: &Request, signed: &SignedGrant) -> GrantIssued {
    let grant = signed.grant();
    GrantIssued {
        id: B64(grant.id),
        name: request.name.clone(),
        node: Some(request.node.clone()),
        node_key: grant.node.map(B64),
        subject: B64(grant.subject),
        mode: request.mode.as_str().to_owned(),
        not_before: grant.not_before,
        expires: grant.expires,
        limits: GrantLimits { bytes: grant.limits.bytes, bits_per_second: grant.limits.bits_per_second, streams: grant.limits.streams },
        grant: Blob(signed.encode()),
    }
}

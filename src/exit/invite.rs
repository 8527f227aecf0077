//! The operator's act: decides what a friend may do, records it, and makes the line that says so.

use crate::attest::judge::demands;
use crate::config::Label;
use crate::context::Context;
use crate::encoding::cbor::Map;
use crate::encoding::from_hex_array;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Blob, Body, GrantIssued, GrantLimits};
use crate::ledger::{B64, Machine, MachineState};
use crate::owner::{Control, ONION, ONION_RESTRICTED};
use crate::policy::{self, Act, Asked, Lend};
use crate::session::messages::Discovery;
use crate::token::{Grant, Invite, Limits, MAX_DEPTH, Mode, Onion, Role, Scope, Secret16, SignedGrant, Transport};
use crate::trust::Reach;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// The node's clock may be behind ours by this much without the invite looking as if it were not valid yet; it is what a
/// handshake tolerates too.
const EARLIER: u64 = 2 * 3600;
/// Most recorded addresses that go into an invite.
const MAX_ADDRESSES: usize = 4;
/// Shortest lease.
const SHORTEST_LEASE: Duration = Duration::from_secs(3600);
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
    /// Where to, when and for how many devices.
    pub scope: Scope,
    /// For how long a node serves it after it last heard from its owner; absent means for its life, at most 30 days.
    pub lease: Option<Duration>,
    /// How deep the friend may pass it on.
    pub delegable: u8,
    /// Whether it holds on every machine of the owner, not only on the one to which the invite leads.
    pub any_node: bool,
    /// `host:port` under which the friend reaches the node; empty means those that are recorded.
    pub addresses: Vec<String>,
    /// By which ways; absent means Tor alone for an onion service, else the direct one.
    pub transports: Option<Transports>,
    /// Let nobody find the onion service who has not got a discovery key; this invite carries one.
    pub restricted: bool,
    /// What the node must prove to the friend before anything passes.
    pub evidence: Option<Evidence>,
}

/// What a friend demands of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The image that the machine proved to its owner, on that very TPM where no other vouches for it.
    Proved,
    /// An image or a launch measurement, by the first 20 bytes of its digest.
    Digest([u8; 20]),
}

/// By which ways a friend may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transports {
    /// TCP.
    Direct,
    /// The onion service.
    Tor,
    /// TCP, and the onion service if that fails.
    DirectAndTor,
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
    /// Where the friend will look for the node.
    pub transport: Transport,
}

impl Invited {
    /// Whether it leads nowhere but to this computer itself, which is worth a warning.
    pub fn is_only_for_here(&self) -> bool {
        let is_here = |address: &String| address.parse::<SocketAddr>().is_ok_and(|socket| socket.ip().is_loopback());
        self.transport.onion.is_none() && self.transport.addresses.iter().all(is_here)
    }
}

/// Makes an invite and records its grant; with `dry_run` everything is checked and nothing recorded.
pub async fn invite(cx: &Context, request: &Request, dry_run: bool) -> Result<Invited> {
    let machine = cx.ledger()?.machine(&request.node)?;
    let (transport, node) = reachable(&machine, request)?;
    check(request)?;
    let lend = Lend {
        mode: request.mode.as_str(),
        life: request.lifetime.as_secs(),
        bytes: request.limits.bytes,
        today: policy::today(cx, GrantIssued::KIND)?,
    };
    policy::guard(cx, &Act::Lend(lend), request.name.as_str(), Asked::dry_run(dry_run))?;
    let secret = Secret16::random();
    let evidence = request.evidence.map(|evidence| demanded(cx, &request.node, node, evidence)).transpose()?;
    let grant = grant(cx, request, node, secret.subject(), evidence)?;
    let (id, expires) = (grant.grant().id, grant.grant().expires);
    let issued = issued(request, &grant);
    let discovery = Discovery { grant: id, key: secret.discovery(), expires };
    let invite = Invite { transport: transport.clone(), node, grant: grant.into(), secret: Some(secret), name: Some(request.node.clone()) };
    let invited = Invited { blob: invite.to_blob()?, qr: invite.to_qr()?, id, expires, transport };
    // What cannot be read must not be recorded: too many rules, or one that is too long.
    Invite::from_blob(&invited.blob)
        .map_err(|error| Error::new(Code::Usage, "nobody could read this invite").cause(error).hint("give fewer and shorter rules"))?;
    // Recorded before it is shown: an invite that exists can always be revoked.
    if !dry_run {
        // A rule of the policy about this very friend holds only on a node that knows which grant is his.
        let ruled = policy::is_about(cx, request.name.as_str())?;
        let control = if request.restricted || ruled { Some(Control::open(cx, &machine).await?) } else { None };
        if let Some(control) = control.as_ref().filter(|_| request.restricted) {
            // The node first: an invite whose key it does not know would lead nowhere.
            control.discovery(discovery).await?;
        }
        cx.record(&issued)?;
        if let Some(control) = control.as_ref().filter(|_| ruled) {
            control.tell_rules(cx, &machine).await?;
        }
    }
    Ok(invited)
}

/// What no grant may say.
fn check(request: &Request) -> Result<()> {
    if request.lifetime.is_zero() || request.lifetime > LONGEST {
        return Err(
            Error::new(Code::Usage, "an invite lasts between a second and ten years").hint("portdistrict exit invite … --lifetime 7d")
        );
    }
    check_scope(&request.scope, request.mode)?;
    if request.lease.is_some_and(|lease| lease < SHORTEST_LEASE) {
        return Err(Error::new(Code::Usage, "a lease is at least an hour: you would have to be in touch with the node all the time")
            .hint("portdistrict grant create … --lease 6h"));
    }
    if request.delegable > MAX_DEPTH {
        return Err(Error::new(Code::Usage, format!("a grant can be passed on at most {MAX_DEPTH} times in a row"))
            .hint(format!("portdistrict grant create … --delegable {MAX_DEPTH}")));
    }
    if request.delegable > 0 && request.mode == Mode::Try {
        return Err(Error::new(Code::Usage, "an invite for trying belongs to nobody who could pass it on")
            .hint("leave out --delegable, or give --mode once"));
    }
    Ok(())
}

/// What a scope may not say, the owner's or a holder's.
pub(super) fn check_scope(scope: &Scope, mode: Mode) -> Result<()> {
    Reach::parse(std::slice::from_ref(&scope.allow), &scope.deny)?;
    if scope.devices.is_some() && mode != Mode::Many {
        return Err(Error::new(Code::Usage, "a number of devices needs an invite that several may accept")
            .hint("leave out --devices, or give --mode many"));
    }
    Ok(())
}

/// Where friends reach a machine, and its key.
fn reachable(machine: &Machine, request: &Request) -> Result<(Transport, [u8; 32])> {
    let label = &machine.label;
    let key = machine.node_key.filter(|_| machine.state == MachineState::Claimed).ok_or_else(|| {
        Error::new(Code::Precondition, format!("machine `{label}` is not claimed yet, so its key is not known"))
            .hint(format!("portdistrict machine claim {label}"))
    })?;
    let recorded = || {
        let list = machine.detail.get("addresses").and_then(Value::as_array);
        let list: Vec<String> = list.into_iter().flatten().filter_map(|address| address.as_str().map(str::to_owned)).collect();
        if list.is_empty() { machine.address.clone().into_iter().collect() } else { list }
    };
    let onion = onion(machine, request.restricted)?;
    let by_default = if onion.is_some() { Transports::Tor } else { Transports::Direct };
    let (direct, tor) = match request.transports.unwrap_or(by_default) {
        Transports::Direct => (true, false),
        Transports::Tor => (false, true),
        Transports::DirectAndTor => (true, true),
    };
    if request.restricted && !tor {
        return Err(Error::new(Code::Usage, "--restricted concerns the onion service, and this invite does not use it")
            .hint("leave out --restricted, or add --transport tor"));
    }
    if tor && onion.is_none() {
        return Err(Error::new(Code::Precondition, format!("machine `{label}` is no onion service"))
            .hint("deploy one with: portdistrict machine deploy --on local --label LABEL --tor"));
    }
    let onion = onion.filter(|_| tor);
    let wanted = &request.addresses;
    if !direct {
        return match wanted.first() {
            None => Ok((Transport { addresses: Vec::new(), onion }, key.0)),
            Some(address) => Err(Error::new(Code::Usage, format!("this invite is for Tor alone, and {address} would be in it"))
                .hint("leave out --address, or add --transport direct,tor")),
        };
    }
    let mut addresses = if wanted.is_empty() { recorded() } else { wanted.clone() };
    if addresses.is_empty() {
        return Err(Error::new(Code::Precondition, format!("it is not known where friends reach machine `{label}`"))
            .hint("say it with --address HOST:PORT"));
    }
    if wanted.is_empty() {
        // What a provider found may be more than an invite holds; the best come first.
        addresses.truncate(MAX_ADDRESSES);
    }
    Ok((Transport { addresses, onion }, key.0))
}

/// The machine's onion service, if it is one.
fn onion(machine: &Machine, restricted: bool) -> Result<Option<Onion>> {
    let name = if restricted { ONION_RESTRICTED } else { ONION };
    let Some(text) = machine.detail.get(name).and_then(Value::as_str) else { return Ok(None) };
    let address = text.parse().map_err(|error| {
        Error::new(Code::Ledger, format!("the onion address recorded of machine `{}` is none", machine.label))
            .cause(error)
            .hint("portdistrict ledger verify")
    })?;
    Ok(Some(Onion { address, restricted }))
}

/// The digest that the friend's side looks for.
fn demanded(cx: &Context, label: &Label, node: [u8; 32], evidence: Evidence) -> Result<[u8; 20]> {
    if let Evidence::Digest(digest) = evidence {
        return Ok(digest);
    }
    let proof = cx.ledger()?.proved(&node)?;
    let image = proof.as_ref().and_then(|proof| from_hex_array(proof.image.as_deref()?));
    let (Some(proof), Some(image)) = (proof, image) else {
        return Err(Error::new(Code::Precondition, format!("machine `{label}` has not proved which image it runs"))
            .hint(format!("portdistrict machine attest {label}")));
    };
    let endorsement = proof.endorsement.as_deref().and_then(|text| data_encoding::HEXLOWER.decode(text.as_bytes()).ok());
    Ok(demands(&image, endorsement.as_deref()))
}

fn grant(cx: &Context, request: &Request, node: [u8; 32], subject: [u8; 32], evidence: Option<[u8; 20]>) -> Result<SignedGrant> {
    let (keyring, now) = (cx.keyring()?, cx.now());
    let grant = Grant {
        id: Grant::random_id(),
        issuer: keyring.identity_public(),
        node: (!request.any_node).then_some(node),
        subject,
        // A short lease must not have run out for the most part before it begins.
        not_before: now.saturating_sub(request.lease.map_or(EARLIER, |lease| EARLIER.min(lease.as_secs() / 2))),
        expires: now + request.lifetime.as_secs().max(1),
        limits: request.limits,
        scope: request.scope.clone(),
        lease: request.lease.map(|lease| lease.as_secs()),
        delegable: request.delegable,
        revision: 0,
        evidence,
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
        node: grant.node.map(|_| request.node.clone()),
        node_key: grant.node.map(B64),
        subject: B64(grant.subject),
        mode: request.mode.as_str().to_owned(),
        not_before: grant.not_before,
        expires: grant.expires,
        limits: GrantLimits {
            bytes: grant.limits.bytes,
            bytes_per_day: grant.limits.bytes_per_day,
            bits_per_second: grant.limits.bits_per_second,
            streams: grant.limits.streams,
        },
        grant: Blob(signed.encode()),
    }
}

#[cfg(test)]
#[path = "invite_tests.rs"]
mod tests;

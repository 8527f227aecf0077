//! Making grants: `exit invite`, and `grant create`, which is the same with everything to choose.

use super::Call;
use super::complete;
use super::output::{Look, View, when};
use super::scope::ScopeArgs;
use crate::config::{Label, time};
use crate::context::Context;
use crate::encoding::{base64, from_hex_array};
use crate::error::{Code, Error, Result};
use crate::exit::invite::{self as request, Transports};
use crate::ledger::MachineState;
use crate::token::{Mode, Way};
use clap::{ValueEnum, ValueHint};
use serde::Serialize;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How an invite may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeArg {
    /// The first device that accepts it owns it; the text is dead for everyone else then
    #[default]
    Once,
    /// For trying only; it cannot be accepted
    Try,
    /// Any number of devices may accept it
    Many,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Mode {
        match mode {
            ModeArg::Once => Mode::Once,
            ModeArg::Try => Mode::Try,
            ModeArg::Many => Mode::Many,
        }
    }
}

/// By which ways a friend may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TransportArg {
    /// TCP to the machine's address
    Direct,
    /// Its onion service
    Tor,
    /// TCP, and the onion service where that fails
    #[value(name = "direct,tor")]
    DirectAndTor,
}

impl From<TransportArg> for Transports {
    fn from(arg: TransportArg) -> Transports {
        match arg {
            TransportArg::Direct => Transports::Direct,
            TransportArg::Tor => Transports::Tor,
            TransportArg::DirectAndTor => Transports::DirectAndTor,
        }
    }
}

/// Make an invite that a friend can paste
///
/// A grant with the defaults of an invite: it works once and lasts a day unless --mode and --lifetime say otherwise. Whoever has
/// the text can use it until it is accepted, so send it by a way you trust. `grant revoke` takes it back.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Lend the exit `home` to anna for a day:\n    portdistrict exit invite --node home --for anna\n  \
                             For a month, at most 10 GiB and 20 Mbit/s:\n    \
                             portdistrict exit invite --node home --for bert --lifetime 30d --bytes 10G --rate 20M\n  \
                             As a QR code for a phone:\n    portdistrict exit invite --node home --for carla --qr\n  \
                             To an onion service that only invited friends can find:\n    \
                             portdistrict exit invite --node tower --for dora --restricted"
)]
pub(super) struct InviteArgs {
    #[command(flatten)]
    issue: IssueArgs,
}

/// Grant a friend the use of your exits, with everything to choose, and make the invite for it
///
/// As `exit invite`, but it lasts 30 days unless --lifetime says otherwise.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Working hours, two sites, a gigabyte a day:\n    \
                       portdistrict grant create --for dora --node home --hours 'Mon-Fri 09:00-17:00 +02:00' --allow '*.example.org:443' --allow 192.0.2.0/24 --bytes-per-day 1G\n  \
                       A friend may pass it on twice in a row, and it ends six hours after your last word:\n    \
                       portdistrict grant create --for emil --node home --delegable 2 --lease 6h")]
pub(super) struct CreateArgs {
    #[command(flatten)]
    issue: IssueArgs,
    /// Let it hold on every machine of yours; the invite leads to --node
    #[arg(long)]
    every_machine: bool,
}

/// What both take.
#[derive(clap::Args)]
struct IssueArgs {
    /// Machine to lend; may be left out if you have only one
    #[arg(long, value_name = "LABEL", add = complete::machines())]
    node: Option<Label>,
    /// Friend it is for, under the name you will know the grant by
    #[arg(long = "for", value_name = "NAME", value_hint = ValueHint::Other)]
    friend: Label,
    /// How long it lasts, as in 12h or 30d
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration, value_hint = ValueHint::Other)]
    lifetime: Option<Duration>,
    /// How it may be used
    #[arg(long, value_enum, value_name = "MODE", default_value_t, hide_default_value = true)]
    mode: ModeArg,
    #[command(flatten)]
    scope: ScopeArgs,
    /// For how long the machine serves it after it last heard from you: the worst case after a revocation that never arrives;
    /// as long as the grant unless given, at most 30d
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration, value_hint = ValueHint::Other)]
    lease: Option<Duration>,
    /// How deep the friend may pass it on: 0 to 3
    #[arg(long, value_name = "DEPTH", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u8).range(0..=3), value_hint = ValueHint::Other)]
    delegable: u8,
    /// Where the friend reaches the machine, if that differs from what is recorded; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = super::machine::address, value_hint = ValueHint::Hostname)]
    address: Vec<String>,
    /// Ways by which the friend may come: direct, tor, or direct,tor to try both; tor for an onion service
    /// unless given; one that is named is the only one by which the friend may come
    #[arg(long, value_name = "WAYS", value_enum)]
    transport: Option<TransportArg>,
    /// Let only holders of a key find the onion service; the key is in the invite, and the machine learns it now
    #[arg(long)]
    restricted: bool,
    /// What the machine must prove to the friend before anything passes: `image` for what it proved to you, or the digest of an
    /// image or launch measurement in hex
    #[arg(long, value_name = "image|HEX", value_hint = ValueHint::Other)]
    prove: Option<String>,
    /// Print a QR code too
    #[arg(long)]
    qr: bool,
    /// Show what would be granted, and grant nothing
    #[arg(long)]
    dry_run: bool,
}

/// An invite that was made.
#[derive(Serialize)]
struct Made {
    /// The line to paste.
    invite: String,
    /// Id of its grant.
    grant: String,
    #[serde(rename = "for")]
    friend: Label,
    node: Label,
    mode: &'static str,
    transport: &'static str,
    expires: u64,
    /// The text of the QR code.
    qr: String,
    #[serde(skip)]
    drawn: Option<String>,
}

impl View for Made {
    fn text(&self, _: &Look) -> String {
        match &self.drawn {
            Some(qr) => format!("{}\n\n{qr}", self.invite),
            None => self.invite.clone(),
        }
    }
}

/// The code in half blocks, two modules a character; the smallest correction keeps it within 80 columns.
pub(super) fn draw(text: &str) -> Result<String> {
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L)
        .map_err(|e| Error::new(Code::Failed, "the invite does not fit a QR code").cause(e).hint("make it without --qr"))?;
    // Terminals are dark: light modules are drawn, dark ones left away.
    let (dark, light) = (qrcode::render::unicode::Dense1x2::Light, qrcode::render::unicode::Dense1x2::Dark);
    Ok(code.render::<qrcode::render::unicode::Dense1x2>().dark_color(dark).light_color(light).build())
}

/// Runs `exit invite`.
pub(super) fn invite(call: &Call, args: InviteArgs) -> Result<()> {
    make(call, args.issue, DAY, false)
}

/// Runs `grant create`.
pub(super) fn create(call: &Call, args: CreateArgs) -> Result<()> {
    make(call, args.issue, 30 * DAY, args.every_machine)
}

/// The machine that is meant: the one that is named, or the only one.
fn node(cx: &Context, named: Option<Label>) -> Result<Label> {
    if let Some(label) = named {
        return Ok(label);
    }
    let mut machines = cx.ledger()?.machines()?;
    machines.retain(|machine| machine.state == MachineState::Claimed);
    match &machines[..] {
        [only] => Ok(only.label.clone()),
        [] => Err(Error::new(Code::Precondition, "you have no machine that could be lent yet")
            .hint("portdistrict machine deploy --on local --label home")),
        several => {
            let labels: Vec<&str> = several.iter().map(|machine| machine.label.as_str()).collect();
            Err(Error::new(Code::Usage, format!("which machine? You have {}", labels.join(", "))).hint(format!("--node {}", labels[0])))
        }
    }
}

fn make(call: &Call, args: IssueArgs, life: Duration, any_node: bool) -> Result<()> {
    let cx = call.context()?;
    let mode = Mode::from(args.mode);
    let transports = args.transport.map(Transports::from);
    let way = match transports {
        Some(Transports::Direct) => Some(Way::Direct),
        Some(Transports::Tor) => Some(Way::Tor),
        Some(Transports::DirectAndTor) | None => None,
    };
    let request = request::Request {
        node: node(&cx, args.node)?,
        name: args.friend,
        lifetime: args.lifetime.unwrap_or(life),
        mode,
        limits: args.scope.limits(),
        scope: args.scope.scope(way),
        lease: args.lease,
        delegable: args.delegable,
        any_node,
        addresses: args.address,
        transports,
        restricted: args.restricted,
        evidence: args.prove.as_deref().map(evidence).transpose()?,
    };
    if request.restricted && cx.ledger()?.machine(&request.node)?.detail.contains_key(crate::owner::SEED) {
        call.out.say("This machine forgets discovery keys when it restarts; the friend then needs a new invite.");
    }
    let made = call.block_on(request::invite(&cx, &request, args.dry_run))?;
    if args.dry_run {
        let would = format!("grant {} the use of {} until {}, mode {mode}", request.name, request.node, time::absolute(made.expires));
        return call.out.show(&super::machine::Steps { would: vec![would] });
    }
    let others = cx.ledger()?.grants_for(&request.name)?.into_iter().filter(|grant| grant.is_live(cx.now())).count();
    if others > 1 {
        call.out.say(format!(
            "{} has {} valid invites now; `portdistrict grant list` shows them, and `grant revoke ID` takes back one.",
            request.name, others
        ));
    }
    if made.is_only_for_here() {
        call.out.say("Only somebody on this computer can use it; for others give --address HOST:PORT.");
    }
    let drawn = if args.qr { Some(draw(&made.qr)?) } else { None };
    let how = match mode {
        Mode::Once => "the first device that accepts it owns it",
        Mode::Try => "for trying only",
        Mode::Many => "any number of devices may accept it",
    };
    call.out.say(format!(
        "Invite for {}, {how}; it ends {}. Send this line by a way you trust:",
        request.name,
        when(made.expires, cx.now())
    ));
    call.out.fence();
    call.out.show(&Made {
        invite: made.blob,
        grant: base64(&made.id),
        friend: request.name.clone(),
        node: request.node,
        mode: mode.as_str(),
        transport: made.transport.as_str(),
        expires: made.expires,
        qr: made.qr,
        drawn,
    })?;
    call.out.fence();
    call.out.say(format!("Take it back with: portdistrict grant revoke {}", request.name));
    Ok(())
}

/// What a friend may demand, as the owner names it.
fn evidence(text: &str) -> Result<request::Evidence> {
    if text == "image" {
        return Ok(request::Evidence::Proved);
    }
    let image = from_hex_array::<32>(text).and_then(|digest| digest.first_chunk().copied());
    let digest = image.or_else(|| from_hex_array::<48>(text).and_then(|digest| digest.first_chunk().copied()));
    digest.map(request::Evidence::Digest).ok_or_else(|| {
        Error::new(Code::Usage, format!("{text:?} is neither `image` nor the digest of an image or a launch measurement"))
            .hint("portdistrict exit invite … --prove image")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_code_fits_80_columns() {
        // 450 characters of a direct invite are at most 320 bytes, 480 characters in base45.
        let drawn = draw(&"A".repeat(500)).unwrap();
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    }
}

//! `grant narrow`: the holder of a grant passes it on.

use super::output::{Look, View, fields, when};
use super::scope::{self, ScopeArgs};
use super::{Call, complete, issue};
use crate::config::{Label, time};
use crate::context::Context;
use crate::encoding::base64;
use crate::error::Result;
use crate::exit::pass_on::{self, Request};
use crate::ledger::PassedOn;
use crate::token::{Caveat, Mode, Way};
use clap::{ValueEnum, ValueHint};
use serde::Serialize;
use std::time::Duration;

/// By which way whoever gets it may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WayArg {
    /// TCP to the machine's address
    Direct,
    /// Its onion service
    Tor,
}

/// Pass an exit that you accepted on to somebody, narrower, if its owner allows that
///
/// Nobody is asked: the machine works out by itself what you took away, and lets nobody have more than you. What is used of it
/// counts as yours, too. `grant revoke` takes it back; `grant list` shows it. The owner sees who it is for and how much was used.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Bert may use what you have, for a day, one gigabyte of it:\n    \
                       portdistrict grant narrow berlin --for bert --lifetime 1d --bytes 1G\n  \
                       One site only, and nobody further:\n    \
                       portdistrict grant narrow berlin --for carla --allow '*.example.org:443' --delegable 0")]
pub(super) struct NarrowArgs {
    /// Accepted exit to pass on
    #[arg(value_name = "EXIT", add = complete::exits())]
    exit: Label,
    /// Whom it is for, under the name you and the owner will know it by
    #[arg(long = "for", value_name = "NAME", value_hint = ValueHint::Other)]
    friend: Label,
    /// How long it lasts, as in 12h or 30d; as long as yours unless given
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration, value_hint = ValueHint::Other)]
    lifetime: Option<Duration>,
    /// How it may be used
    #[arg(long, value_enum, value_name = "MODE", default_value_t, hide_default_value = true)]
    mode: issue::ModeArg,
    #[command(flatten)]
    scope: ScopeArgs,
    /// The one way by which it may be used
    #[arg(long, value_enum, value_name = "WAY")]
    transport: Option<WayArg>,
    /// How deep it may be passed on: one less than yours unless given
    #[arg(long, value_name = "DEPTH", value_parser = clap::value_parser!(u8).range(0..=2), value_hint = ValueHint::Other)]
    delegable: Option<u8>,
    /// Print a QR code too
    #[arg(long)]
    qr: bool,
    /// Show what would be passed on, and pass nothing on
    #[arg(long)]
    dry_run: bool,
}

/// An invite that was made of one's own grant.
#[derive(Serialize)]
struct Narrowed {
    /// The line to paste.
    invite: String,
    /// Id of the new grant.
    grant: String,
    #[serde(rename = "for")]
    friend: Label,
    exit: Label,
    mode: &'static str,
    /// Unix seconds.
    expires: u64,
    /// How deep it may be passed on.
    delegable: u8,
    /// The text of the QR code.
    qr: String,
    #[serde(skip)]
    drawn: Option<String>,
}

impl View for Narrowed {
    fn text(&self, _: &Look) -> String {
        match &self.drawn {
            Some(qr) => format!("{}\n\n{qr}", self.invite),
            None => self.invite.clone(),
        }
    }
}

/// Runs `grant narrow`.
pub(super) fn narrow(call: &Call, args: NarrowArgs) -> Result<()> {
    let cx = call.context()?;
    let way = args.transport.map(|way| match way {
        WayArg::Direct => Way::Direct,
        WayArg::Tor => Way::Tor,
    });
    let request = Request {
        exit: args.exit,
        name: args.friend,
        lifetime: args.lifetime,
        mode: Mode::from(args.mode),
        limits: args.scope.limits(),
        scope: args.scope.scope(way),
        delegable: args.delegable,
    };
    let made = pass_on::pass_on(&cx, &request, args.dry_run)?;
    let ends = when(made.terms.expires, cx.now());
    if args.dry_run {
        let would =
            format!("let {} use {} until {}, mode {}", request.name, request.exit, time::absolute(made.terms.expires), made.terms.mode);
        return call.out.show(&super::machine::Steps { would: vec![would] });
    }
    let drawn = if args.qr { Some(issue::draw(&made.qr)?) } else { None };
    call.out.say(format!(
        "Invite for {} to what you have of {}; it ends {ends}. Send this line by a way you trust:",
        request.name, request.exit
    ));
    call.out.fence();
    call.out.show(&Narrowed {
        invite: made.blob,
        grant: base64(&made.id),
        friend: request.name.clone(),
        exit: request.exit,
        mode: made.terms.mode.as_str(),
        expires: made.terms.expires,
        delegable: made.terms.delegable,
        qr: made.qr,
        drawn,
    })?;
    call.out.fence();
    call.out.say(format!("Take it back with: portdistrict grant revoke {}", request.name));
    Ok(())
}

/// A grant that was made of another one, as it is recorded.
#[derive(Serialize)]
pub(super) struct Held {
    #[serde(flatten)]
    one: PassedOn,
    /// `passed on`, `revoked` or `expired`.
    state: &'static str,
    /// Whether the node is known to have heard that it was taken back.
    heard: bool,
    #[serde(skip)]
    now: u64,
}

impl Held {
    pub(super) fn of(cx: &Context, one: PassedOn) -> Result<Held> {
        let now = cx.now();
        let state = match (&one.revoked, one.expires.is_some_and(|at| at <= now)) {
            (Some(_), _) => "revoked",
            (None, true) => "expired",
            (None, false) => "passed on",
        };
        Ok(Held { state, heard: pass_on::has_heard(cx, &one)?, one, now })
    }
}

impl View for Held {
    fn text(&self, look: &Look) -> String {
        let caveat = self.one.caveat.as_ref().and_then(|bytes| Caveat::decode(bytes).ok());
        let mut text = fields(&[
            ("friend", look.bold(&self.one.name)),
            ("state", self.state.to_owned()),
            ("exit", self.one.exit.as_ref().map_or_else(|| "passed on by a friend".to_owned(), ToString::to_string)),
            ("made of", self.one.parent.to_string()),
            ("since", when(self.one.made_ms / 1000, self.now)),
            ("ends", self.one.expires.map(|at| when(at, self.now)).unwrap_or_default()),
            ("revoked", self.one.revoked.as_ref().map(|revoked| when(revoked.at, self.now)).unwrap_or_default()),
            ("id", self.one.id.to_string()),
        ]);
        if let Some(caveat) = caveat {
            text += &fields(&scope::rows(&caveat.scope));
        }
        if self.one.revoked.is_some() && !self.heard {
            text += &format!("{} the machine has not heard of it yet: portdistrict grant revoke --retry\n", look.warn("attention:"));
        }
        text
    }
}

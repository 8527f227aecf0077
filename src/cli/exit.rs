//! `exit …`: lend an exit to a friend, and use one that was lent.

use super::Call;
use super::attest::Judged;
use super::blob;
use super::complete;
use super::issue;
use super::output::{Look, View, fields, table, when};
use crate::attest::Rung;
use crate::config::{Label, time};
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::exit::try_::{self, News};
use crate::exit::tunnel::{Change, MAX_CIRCUITS, State};
use crate::exit::{accept, connect, health};
use crate::ledger::Exit;
use crate::token::{Chain, Invite};
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Lend an exit to a friend, or use one that was lent to you
#[derive(Subcommand)]
pub(super) enum ExitCommand {
    Invite(issue::InviteArgs),
    Try(TryArgs),
    Connect(ConnectArgs),
    Accept(AcceptArgs),
    List(ListArgs),
    Show(ShowArgs),
    Forget(ForgetArgs),
}

/// Use an invite right now, and leave nothing behind
///
/// Needs no identity and writes no file. Everything after -- runs through the exit, and its exit status is passed on. Without a
/// command the proxy stays open until Ctrl-C. The invite is not used up by it.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Fetch one page through the exit; the invite is in a file:\n    \
                             portdistrict exit try @invite.txt -- curl -s http://web.test/\n  The invite comes from a pipe:\n    \
                             cat invite.txt | portdistrict exit try - -- true")]
pub(super) struct TryArgs {
    /// The invite; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "BLOB", value_hint = ValueHint::Other)]
    blob: blob::Text,
    /// Open a browser with a throw-away profile
    #[arg(long, conflicts_with = "command")]
    browser: bool,
    /// Ask an outside service which address the world sees
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = health::IP_CHECK_URL, require_equals = true, value_hint = ValueHint::Url)]
    ip_check: Option<String>,
    /// Port of the local proxy; a free one unless given
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true, value_hint = ValueHint::Other)]
    port: u16,
    /// Sessions kept beside each other, each over Tor circuits of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1, hide_default_value = true, value_parser = circuits(), value_hint = ValueHint::Other)]
    circuits: u8,
    /// Rules that the node's evidence must meet, beside what the invite demands
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,
    /// Command to run through the exit
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Keep a tunnel to an exit, with a SOCKS5 and HTTP proxy on one local port, until Ctrl-C
///
/// Give an invite, which is accepted first, or the name of an exit that was accepted before. Lost connections are made anew.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Accept an invite and use it:\n    portdistrict exit connect @invite.txt\n  \
                             Use an exit that was accepted before, on a port of your choice:\n    portdistrict exit connect home --port 1081")]
pub(super) struct ConnectArgs {
    /// Name of an accepted exit, or an invite; `-` reads the invite from standard input, `@FILE` from a file
    #[arg(value_name = "NAME|BLOB", add = complete::exits())]
    what: blob::Text,
    /// Port of the local proxy
    #[arg(long, value_name = "PORT", default_value_t = connect::DEFAULT_PORT, value_hint = ValueHint::Other)]
    port: u16,
    /// Sessions kept beside each other, each over Tor circuits of its own: more speed, and no wait when one is lost
    #[arg(long, value_name = "COUNT", default_value_t = 1, hide_default_value = true, value_parser = circuits(), value_hint = ValueHint::Other)]
    circuits: u8,
}

/// How many sessions may be asked for.
fn circuits() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::try_from(MAX_CIRCUITS).unwrap_or(i64::MAX))
}

/// Accept an invite, so that this device owns it
///
/// From then on the text is useless to anyone else. `exit forget` removes the exit from this device again. A grant that its owner
/// signed again and exported is taken, too.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  From a file, under a name of your own:\n    portdistrict exit accept @invite.txt --as berlin")]
pub(super) struct AcceptArgs {
    /// The invite; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "BLOB", value_hint = ValueHint::Other)]
    blob: blob::Text,
    /// Name for the exit here, instead of the one its owner proposes
    #[arg(long = "as", value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<Label>,
}

/// List the exits that were accepted here
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Which exits can be used from here:\n    portdistrict exit list")]
pub(super) struct ListArgs {}

/// Show one exit that was accepted here
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Until when it lasts, and its key:\n    portdistrict exit show berlin")]
pub(super) struct ShowArgs {
    /// Exit to show
    #[arg(value_name = "NAME", add = complete::exits())]
    name: Label,
}

/// Remove an exit from this device
///
/// Its owner is not told. To use it again a new invite is needed.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  It has expired:\n    portdistrict exit forget berlin --yes")]
pub(super) struct ForgetArgs {
    /// Exit to forget
    #[arg(value_name = "NAME", add = complete::exits())]
    name: Label,
}

/// Runs one of the family; the status is that of a command that ran through the exit.
pub(super) fn run(call: &Call, command: ExitCommand) -> Result<u8> {
    match command {
        ExitCommand::Try(args) => return attempt(call, args),
        ExitCommand::Invite(args) => issue::invite(call, args),
        ExitCommand::Connect(args) => keep(call, &args),
        ExitCommand::Accept(args) => accept_invite(call, &args),
        ExitCommand::List(_) => list(call),
        ExitCommand::Show(args) => show(call, &args.name),
        ExitCommand::Forget(args) => forget(call, &args.name),
    }?;
    Ok(0)
}

/// The invite in a text, however it was bent on the way.
fn read(text: &blob::Text) -> Result<Invite> {
    Ok(Invite::from_blob(&text.read()?)?)
}

/// News of a tunnel, as a program reads it.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Retry { wait_s: u64, message: String },
    Connected { via: &'static str, address: String, node: String, proxy: SocketAddr, attestation: String, rung: &'static str },
    Healthy { round_trip_ms: u64 },
    Unhealthy { message: String },
    Outside { direct: Option<IpAddr>, tunnelled: Option<IpAddr> },
    OutsideUnknown { message: String },
    Denied { message: String },
    Reconnecting { wait_s: u64, why: Option<String> },
    Reconnected { via: &'static str, address: String, after_ms: u64 },
}

const ATTESTATION: &str = "none, key pinned on first use";

impl Event {
    fn of(news: &News<'_>) -> Option<Event> {
        Some(match news {
            News::Retry { wait, error } => {
                let why = error.causes().first().map_or(error.message(), String::as_str);
                Event::Retry { wait_s: *wait, message: why.to_owned() }
            }
            News::Connected { reached, node, proxy } => Event::Connected {
                via: reached.via.as_str(),
                address: reached.via.address(),
                node: node_id(node),
                proxy: *proxy,
                attestation: reached.verdict.as_ref().map_or_else(|| ATTESTATION.to_owned(), |verdict| verdict.line()),
                rung: reached.verdict.as_ref().map_or(Rung::PinnedKey, |verdict| verdict.rung).as_str(),
            },
            News::Health(Ok(time)) => Event::Healthy { round_trip_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) },
            News::Health(Err(error)) => Event::Unhealthy { message: error.message().to_owned() },
            News::Outside(Ok(seen)) => Event::Outside { direct: seen.direct, tunnelled: seen.tunnelled },
            News::Outside(Err(error)) => Event::OutsideUnknown { message: error.message().to_owned() },
            News::Changed(Change::Denied(sentence)) => Event::Denied { message: (*sentence).to_owned() },
            News::Changed(Change::State(State::Connecting { wait, why, .. })) => Event::Reconnecting { wait_s: *wait, why: why.clone() },
            News::Changed(Change::Back { reached, after }) => Event::Reconnected {
                via: reached.via.as_str(),
                address: reached.via.address(),
                after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            },
            // The error that follows says it; a session that stands comes as `Back`.
            News::Changed(Change::State(State::Refused(_) | State::Up(_))) => return None,
        })
    }
}

impl View for Event {
    fn text(&self, _: &Look) -> String {
        let seen = |address: &Option<IpAddr>| address.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
        match self {
            Event::Retry { wait_s, message } => format!("Not reached: {message}; trying again in {wait_s} s"),
            Event::Connected { via, address, node, proxy, attestation, .. } => {
                format!("Exit: {}\nAttestation: {attestation}: {node}\nProxy: socks5h://{proxy} and http://{proxy}", place(via, address))
            }
            Event::Healthy { round_trip_ms } => format!("Health: bytes pass, round trip {round_trip_ms} ms"),
            Event::Unhealthy { message } => format!("Health: {message}"),
            Event::Outside { direct, tunnelled } => format!("Address: {} directly, {} through the exit", seen(direct), seen(tunnelled)),
            Event::OutsideUnknown { message } => format!("Address: {message}"),
            Event::Denied { message } => message.clone(),
            Event::Reconnecting { wait_s, why } => {
                let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                format!("The exit is gone{why}; trying again in {wait_s} s")
            }
            #[expect(clippy::cast_precision_loss, reason = "tenths of a second are shown")]
            Event::Reconnected { via, address, after_ms } => {
                format!("Connected again after {:.1} s: {}", *after_ms as f64 / 1000.0, place(via, address))
            }
        }
    }
}

/// Where an exit was reached, and by which way.
fn place(via: &str, address: &str) -> String {
    if via == "tor" { format!("{address}, over Tor") } else { address.to_owned() }
}

/// Tells the news: to a person on stderr, to a program as lines on stdout, unless a command writes there.
fn tell(call: &Call, news: &News<'_>, stdout_is_free: bool) {
    let Some(event) = Event::of(news) else { return };
    if call.out.json() && stdout_is_free {
        // Nobody who reads is no reason to end the tunnel.
        let _ = call.out.item(&event);
    } else {
        call.out.say(event.text(&Look::PLAIN));
    }
    if let (News::Connected { reached, .. }, true) = (news, call.global.verbose > 0)
        && let Some(verdict) = &reached.verdict
    {
        call.out.say(Judged::of(verdict, true).text(&Look::PLAIN));
    }
    if let (Event::Connected { proxy, .. }, true) = (&event, stdout_is_free) {
        call.out.say(format!(
            "Point a browser at the SOCKS5 proxy {} port {}, or run: curl --proxy socks5h://{proxy} https://example.org/\nCtrl-C ends it.",
            proxy.ip(),
            proxy.port()
        ));
    }
}

fn attempt(call: &Call, args: TryArgs) -> Result<u8> {
    if let Some(name) = args.blob.as_label() {
        return Err(Error::new(Code::Usage, format!("`{name}` is no invite"))
            .hint(format!("if it is an exit that you accepted: portdistrict exit connect {name}")));
    }
    let invite = read(&args.blob)?;
    // The node could not tell its owner from a thief who found the text.
    if let Some(exit) = accepted_here(call, &invite) {
        return Err(Error::new(
            Code::Exists,
            format!("this invite was accepted here, as exit `{}`; its text is of no more use", exit.name),
        )
        .hint(format!("portdistrict exit connect {}", exit.name)));
    }
    let free = args.command.is_empty() && !args.browser;
    let request = try_::Request {
        port: args.port,
        command: args.command,
        circuits: usize::from(args.circuits),
        browser: args.browser,
        ip_check: args.ip_check,
        policy: args.policy,
    };
    // A friend may have no home at all; then there are no settings either.
    let settings = match (invite.transport.onion, call.context()) {
        (Some(_), Ok(cx)) => call.tor_settings(&cx)?,
        _ => call.tor_settings_by_flag(),
    };
    let progress = call.out.progress();
    call.block_on(try_::run(&invite, &request, settings, &*progress, &|news| tell(call, &news, free))).map_err(closed)
}

/// The exit that this home has from the same invite, if any. Looking needs no key and makes nothing.
fn accepted_here(call: &Call, invite: &Invite) -> Option<Exit> {
    let exits = call.context().ok()?.ledger_read_only().ok()?.exits().ok()?;
    let id = invite.grant.id();
    exits.into_iter().find(|exit| Chain::decode(&exit.signed).is_ok_and(|chain| chain.id() == id))
}

/// A friend without a home needs an invite, not `init`.
fn for_friends(error: Error) -> Error {
    if error.hint_text() == Some("portdistrict init") {
        Error::new(Code::Precondition, "no exit was accepted here yet").hint("with an invite: portdistrict exit accept BLOB")
    } else {
        error
    }
}

/// Ctrl-C is how these commands end.
fn closed(error: Error) -> Error {
    if error.code() == Code::Interrupted { Error::new(Code::Interrupted, "Closed; no connection of it is left.") } else { error }
}

fn keep(call: &Call, args: &ConnectArgs) -> Result<()> {
    let cx = call.context()?;
    let (tor, progress) = (call.tor(&cx)?, call.out.progress());
    call.block_on(async {
        let news = |news: News<'_>| tell(call, &news, true);
        let retry = |wait: u64, error: &Error| news(News::Retry { wait, error });
        let net = accept::Net { tor: &tor, progress: &*progress, retry: &retry };
        let request = connect::Request { port: args.port, circuits: usize::from(args.circuits), net };
        match args.what.as_label() {
            Some(name) => connect::connect(&cx, &cx.ledger().map_err(for_friends)?.exit(&name)?, &request, &news).await,
            None => connect::accept_and_connect(&cx, &read(&args.what)?, &request, &news).await,
        }
    })
    .map_err(closed)
}

/// An exit that was accepted here.
#[derive(Serialize)]
struct Accepted {
    name: Label,
    transport: String,
    addresses: Vec<String>,
    onion: Option<String>,
    node: String,
    attestation: &'static str,
    /// Whether it is bound to this device.
    bound: bool,
    expires: u64,
    accepted: u64,
    /// The proxy of a running `exit connect`.
    proxy: Option<SocketAddr>,
    #[serde(skip)]
    now: u64,
}

impl Accepted {
    fn of(exit: Exit, call: &Call) -> Result<Accepted> {
        let proxy = connect::running(&call.paths()?, &exit.name).map(|running| running.proxy);
        Ok(Accepted {
            name: exit.name,
            transport: exit.transport,
            addresses: exit.addresses,
            onion: exit.onion,
            node: node_id(&exit.node_key.0),
            attestation: ATTESTATION,
            bound: exit.bound,
            expires: exit.expires,
            accepted: exit.accepted_ms / 1000,
            proxy,
            now: time::now_s(),
        })
    }

    /// Where it is reached, in the order to try.
    fn places(&self) -> Vec<String> {
        self.addresses.iter().chain(&self.onion).cloned().collect()
    }

    fn state(&self) -> String {
        match (self.proxy, self.expires <= self.now) {
            (Some(proxy), _) => format!("connected on {proxy}"),
            (None, true) => "expired".to_owned(),
            (None, false) => "ready".to_owned(),
        }
    }
}

impl View for Accepted {
    fn text(&self, look: &Look) -> String {
        fields(&[
            ("exit", look.bold(&self.name)),
            ("state", self.state()),
            ("addresses", self.places().join(", ")),
            ("node", self.node.clone()),
            ("attestation", self.attestation.to_owned()),
            ("bound", if self.bound { "to this device".to_owned() } else { "no".to_owned() }),
            ("accepted", when(self.accepted, self.now)),
            ("ends", when(self.expires, self.now)),
        ])
    }
}

fn accept_invite(call: &Call, args: &AcceptArgs) -> Result<()> {
    let cx = call.context()?;
    let text = args.blob.read()?;
    let invite = match (Invite::from_blob(&text), Chain::from_blob(&text)) {
        (_, Ok(renewed)) => {
            let exit = accept::take_renewed(&cx, &renewed).map_err(for_friends)?;
            call.out.say(format!("Exit {} has the newest revision of its grant.", exit.name));
            return call.out.show(&Accepted::of(exit, call)?);
        }
        (invite, Err(_)) => invite?,
    };
    let (tor, progress) = (call.tor(&cx)?, call.out.progress());
    let retry = |wait: u64, error: &Error| tell(call, &News::Retry { wait, error }, false);
    let net = accept::Net { tor: &tor, progress: &*progress, retry: &retry };
    let exit = call.block_on(accept::accept(&cx, &invite, args.name.as_ref(), &net))?;
    call.out.say(format!("It is yours; the text is useless to anyone else now. Next: portdistrict exit connect {}", exit.name));
    call.out.show(&Accepted::of(exit, call)?)
}

/// All exits that were accepted here.
#[derive(Serialize)]
struct Exits {
    exits: Vec<Accepted>,
}

impl View for Exits {
    fn text(&self, look: &Look) -> String {
        if self.exits.is_empty() {
            return String::new();
        }
        let row = |exit: &Accepted| vec![exit.name.to_string(), exit.state(), exit.places().join(", "), when(exit.expires, exit.now)];
        table(look, &["NAME", "STATE", "ADDRESS", "ENDS"], &self.exits.iter().map(row).collect::<Vec<_>>())
    }
}

fn list(call: &Call) -> Result<()> {
    let exits = call.context()?.ledger_read_only().map_err(for_friends)?.exits()?;
    if exits.is_empty() {
        call.out.say("No exit was accepted here yet. With an invite: portdistrict exit accept BLOB");
    }
    call.out.show(&Exits { exits: exits.into_iter().map(|exit| Accepted::of(exit, call)).collect::<Result<_>>()? })
}

fn show(call: &Call, name: &Label) -> Result<()> {
    let exit = call.context()?.ledger_read_only().map_err(for_friends)?.exit(name)?;
    call.out.show(&Accepted::of(exit, call)?)
}

/// An exit that is no longer wanted here.
#[derive(Serialize)]
struct Forgotten {
    forgotten: Label,
}

impl View for Forgotten {
    fn text(&self, _: &Look) -> String {
        format!("Exit {} is forgotten.", self.forgotten)
    }
}

fn forget(call: &Call, name: &Label) -> Result<()> {
    let cx = call.context()?;
    cx.ledger().map_err(for_friends)?.exit(name)?;
    call.out.confirm(&format!("Forget `{name}`? A new invite is needed to use it again."))?;
    accept::forget(&cx, name)?;
    call.out.show(&Forgotten { forgotten: name.clone() })
}

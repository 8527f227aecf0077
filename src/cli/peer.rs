//! `peer …`: other identities, and how far they are believed.

use super::Call;
use super::complete;
use super::output::{Look, View, clean, fields, table, when};
use crate::config::Label;
use crate::context::Context;
use crate::encoding::{from_base64_array, short};
use crate::error::{Code, Error, Result};
use crate::ledger::{B64, Peer, PeerEvent, PeerState};
use crate::owner::peers::{self, Added, Compared};
use crate::owner::words::Words;
use crate::token::SignedIdentity;
use clap::{Subcommand, ValueEnum, ValueHint};
use serde::Serialize;

/// Know your friends by their keys, and say how far you believe them
#[derive(Subcommand)]
pub(super) enum PeerCommand {
    Add(AddArgs),
    Adopt(AdoptArgs),
    List(ListArgs),
    Show(ShowArgs),
    Verify(VerifyArgs),
    Trust(TrustArgs),
    Demote(DemoteArgs),
    Revoke(RevokeArgs),
    Forget(ForgetArgs),
}

/// Add somebody by the line that `identity export` printed on his side
///
/// The line proves that its sender holds the key, not who he is: `peer verify` does that. Adding a newer line of the same key brings
/// it up to date. A line whose key was rotated keeps what the old key had earned; any other key under a known name is refused.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  From a file, under the name that it proposes:\n    portdistrict peer add @anna.txt\n  \
                             Under a name of your own:\n    portdistrict peer add @bert.txt --as bertie\n\nJSON:\n  \
                             outcome (new, known, renewed, rotated), replaced (id of the key before), and the fields of `peer show`")]
pub(super) struct AddArgs {
    /// The line; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "BLOB", value_hint = ValueHint::Other)]
    blob: super::blob::Text,
    /// Name for the peer here, instead of the one in the line
    #[arg(long = "as", value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<Label>,
}

/// Add a key that you saw somewhere, without a line that proves that anybody holds it
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A key from a web page:\n    portdistrict peer adopt --name carol \
                             --key BBNCExj_80y9GMMHmHCYDT8CrjdS3sMPesFw_482tu8 --endpoint carol.example:4433")]
pub(super) struct AdoptArgs {
    /// Identity key in base64url, as `identity show` prints it
    #[arg(long, value_name = "KEY", value_hint = ValueHint::Other, allow_hyphen_values = true, value_parser = identity_key)]
    key: B64<32>,
    /// Where it was seen
    #[arg(long, value_name = "HOST:PORT", value_parser = super::machine::address, value_hint = ValueHint::Hostname)]
    endpoint: Option<String>,
    /// Name for the peer here
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    name: Label,
}

/// List the peers you know
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Everybody:\n    portdistrict peer list\n  Those you trust, for a script:\n    \
                             portdistrict peer list --state trusted --json\n\nJSON:\n  peers (the fields of `peer show`), faults (what cannot be read)")]
pub(super) struct ListArgs {
    /// Only those in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<StateArg>,
}

/// How far a peer is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArg {
    /// Its key is known, and nobody checked whose it is
    Seen,
    /// The same words were read on both sides
    Verified,
    /// You trust it
    Trusted,
    /// Its key is not believed any more
    Revoked,
}

impl From<StateArg> for PeerState {
    fn from(arg: StateArg) -> PeerState {
        match arg {
            StateArg::Seen => PeerState::Seen,
            StateArg::Verified => PeerState::Verified,
            StateArg::Trusted => PeerState::Trusted,
            StateArg::Revoked => PeerState::Revoked,
        }
    }
}

/// Show one peer: its keys, the words to compare, and everything that happened to it
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Who is anna?\n    portdistrict peer show anna\n\nJSON:\n  id, key, sealing, client, name, state, provenance, \
                             endpoint, issued, verified, added_ms, changed_ms, span, words, history (ms, event, body, span)"
)]
pub(super) struct ShowArgs {
    /// Peer to show
    #[arg(value_name = "NAME|ID", add = complete::peers())]
    peer: String,
}

/// Compare words with a peer, so that both know whose key it is
///
/// Call each other, or meet, and read the words aloud: both see the same ones exactly if nobody sits in between.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Both of you have compared them already:\n    portdistrict peer verify anna --yes\n  \
                             As a QR code that the other side scans:\n    portdistrict peer verify bert --qr --yes\n\nJSON:\n  the fields of `peer show`")]
pub(super) struct VerifyArgs {
    /// Peer to verify
    #[arg(value_name = "NAME|ID", add = complete::peers())]
    peer: String,
    /// Words that the other side read out, instead of being asked
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other)]
    words: Option<String>,
    /// What was scanned from the other side's QR code
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other, conflicts_with = "words")]
    scanned: Option<String>,
    /// Show the words as a QR code too
    #[arg(long)]
    qr: bool,
}

/// Trust a peer that was verified
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  After you have compared words:\n    portdistrict peer trust anna\n  \
                             Without, which the record will say for ever:\n    portdistrict peer trust bert --unverified")]
pub(super) struct TrustArgs {
    /// Peer to trust
    #[arg(value_name = "NAME|ID", add = complete::peers())]
    peer: String,
    /// Trust it although nobody checked whose key it is
    #[arg(long)]
    unverified: bool,
}

/// Trust a peer one step less: from trusted to verified, from verified to seen
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Take trust back; `peer trust` gives it again:\n    portdistrict peer demote anna")]
pub(super) struct DemoteArgs {
    /// Peer to trust less
    #[arg(value_name = "NAME|ID", add = complete::peers())]
    peer: String,
}

/// Believe a peer's key no more
///
/// Nothing raises it again until it is forgotten and added anew. Grants are another thing: `grant revoke` takes those back.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A stolen phone:\n    portdistrict peer revoke anna --reason 'phone stolen' --yes")]
pub(super) struct RevokeArgs {
    /// Peer to revoke
    #[arg(value_name = "NAME|ID", add = complete::peers())]
    peer: String,
    /// Why, for your own record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_hint = ValueHint::Other)]
    reason: String,
}

/// Take a peer off the list; what happened to it stays in the record
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  It began anew with another key:\n    portdistrict peer forget anna --yes")]
pub(super) struct ForgetArgs {
    /// Peer to forget
    #[arg(value_name = "NAME|ID", add = complete::peers())]
    peer: String,
}

fn identity_key(text: &str) -> Result<B64<32>> {
    from_base64_array(text).map(B64).ok_or_else(|| {
        Error::new(Code::Usage, "this is not a key of 32 bytes in base64url").hint("copy what `portdistrict identity show` calls key")
    })
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &PeerCommand) -> Result<()> {
    let cx = call.context()?;
    match command {
        PeerCommand::Add(args) => {
            let signed = SignedIdentity::from_blob(&args.blob.read()?).map_err(Error::from)?;
            add(call, &cx, &signed, args.name.as_ref())
        }
        PeerCommand::Adopt(args) => added(call, &cx, peers::adopt(&cx, &args.key.0, args.endpoint.as_deref(), &args.name)?),
        PeerCommand::List(args) => list(call, &cx, args.state.map(PeerState::from)),
        PeerCommand::Show(args) => {
            let ledger = cx.ledger()?;
            call.out.show(&Shown::of(&cx, ledger.peer(&args.peer)?)?)
        }
        PeerCommand::Verify(args) => verify(call, &cx, args),
        PeerCommand::Trust(args) => changed(call, &cx, peers::trust(&cx, &cx.ledger()?.peer(&args.peer)?, args.unverified)?),
        PeerCommand::Demote(args) => changed(call, &cx, peers::demote(&cx, &cx.ledger()?.peer(&args.peer)?)?),
        PeerCommand::Revoke(args) => revoke(call, &cx, args),
        PeerCommand::Forget(args) => forget(call, &cx, &args.peer),
    }
}

/// A peer, whole.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    peer: Peer,
    /// To compare with the other side.
    words: Vec<&'static str>,
    history: Vec<PeerEvent>,
    #[serde(skip)]
    now: u64,
}

impl Shown {
    fn of(cx: &Context, peer: Peer) -> Result<Shown> {
        Ok(Shown { words: peers::words(cx, &peer)?.list(), history: cx.ledger()?.peer_history(&peer.id)?, peer, now: cx.now() })
    }
}

impl View for Shown {
    fn text(&self, look: &Look) -> String {
        let Peer { name, id, key, sealing, endpoint, .. } = &self.peer;
        let mut text = fields(&[
            ("peer", look.bold(name)),
            ("state", state(*look, &self.peer)),
            ("id", id.clone()),
            ("key", key.to_string()),
            ("sealing key", sealing.map(|key| key.to_string()).unwrap_or_default()),
            ("seen at", endpoint.clone().unwrap_or_default()),
            ("words", self.words.join(" ")),
        ]);
        text += "history:\n";
        for event in &self.history {
            text += &format!("  {}  {}\n", when(event.ms / 1000, self.now), in_words(event));
        }
        text
    }
}

fn state(look: Look, peer: &Peer) -> String {
    let how = peer.verified.as_ref().map(|how| format!(" (compared by {how})")).unwrap_or_default();
    match peer.state {
        PeerState::Trusted if peer.verified.is_none() => format!("{} (never verified)", look.warn(peer.state)),
        PeerState::Verified | PeerState::Trusted => look.good(peer.state) + &how,
        PeerState::Seen => peer.state.to_string(),
        PeerState::Revoked => look.bad(peer.state),
    }
}

/// What happened, as a person says it.
fn in_words(event: &PeerEvent) -> String {
    let field = |name: &str| clean(event.body.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()).replace('\n', " ");
    let text = match event.event.as_str() {
        "added" => match (field("provenance").as_str(), event.body.get("succeeds").and_then(|old| old.get("id")?.as_str())) {
            ("rotated", Some(old)) => format!("took the place of {} by a rotation that both keys signed", clean(old)),
            ("adopted", _) => "adopted: its key was seen, and nothing proves that anybody holds it".to_owned(),
            (_, _) => "added from its own signed line".to_owned(),
        },
        "verified" => format!("verified by {}", field("how")),
        "trusted" if event.body.get("unverified").is_some() => "trusted without being verified".to_owned(),
        "demoted" => format!("demoted to {}", field("to")),
        "revoked" if !field("reason").is_empty() => format!("revoked: {}", field("reason")),
        "refused" => format!("another key came under its name and was refused: {}", field("found")),
        "succeeded" => format!("replaced by {}", field("id")),
        other => other.to_owned(),
    };
    format!("{text}  {}", short(&event.span.to_string()))
}

/// What adding came to.
#[derive(Serialize)]
struct WasAdded {
    outcome: &'static str,
    replaced: Option<String>,
    #[serde(flatten)]
    shown: Shown,
}

impl View for WasAdded {
    fn text(&self, look: &Look) -> String {
        self.shown.text(look)
    }
}

/// Adds a peer and shows what that came to.
pub(super) fn add(call: &Call, cx: &Context, signed: &SignedIdentity, name: Option<&Label>) -> Result<()> {
    added(call, cx, peers::add(cx, signed, name)?)
}

fn added(call: &Call, cx: &Context, (peer, outcome): (Peer, Added)) -> Result<()> {
    let name = peer.name.clone();
    call.out.say(match &outcome {
        Added::New => format!("`{name}` is known now. Check whose key it is: portdistrict peer verify {name}"),
        Added::Known => format!("`{name}` was known already; nothing was changed."),
        Added::Renewed => format!("`{name}` is up to date now."),
        Added::Rotated(old) => format!("`{name}` has a new key, signed for by the old one ({old}), and is believed as before."),
    });
    let word = outcome.as_str();
    let replaced = if let Added::Rotated(old) = outcome { Some(old) } else { None };
    call.out.show(&WasAdded { outcome: word, replaced, shown: Shown::of(cx, peer)? })
}

fn changed(call: &Call, cx: &Context, peer: Peer) -> Result<()> {
    call.out.show(&Shown::of(cx, peer)?)
}

/// All peers.
#[derive(Serialize)]
struct Listed {
    peers: Vec<Peer>,
    faults: Vec<String>,
    #[serde(skip)]
    now: u64,
}

impl View for Listed {
    fn text(&self, look: &Look) -> String {
        if self.peers.is_empty() {
            return String::new();
        }
        let row = |peer: &Peer| {
            let state =
                peer.state.to_string() + if peer.state == PeerState::Trusted && peer.verified.is_none() { " (unverified)" } else { "" };
            vec![peer.name.to_string(), state, peer.provenance.clone(), when(peer.changed_ms / 1000, self.now), peer.id.clone()]
        };
        table(look, &["PEER", "STATE", "CAME BY", "CHANGED", "ID"], &self.peers.iter().map(row).collect::<Vec<_>>())
    }
}

fn list(call: &Call, cx: &Context, state: Option<PeerState>) -> Result<()> {
    let all = cx.ledger_read_only()?.peers(state)?;
    if all.peers.is_empty() && all.faults.is_empty() {
        call.out.say("Nobody is known yet. Ask a friend for the line of `portdistrict identity export`, then: portdistrict peer add BLOB");
    }
    let faults = all.faults.clone();
    call.out.show(&Listed { peers: all.peers, faults: all.faults, now: cx.now() })?;
    let Some(first) = faults.first() else { return Ok(()) };
    let error = Error::new(Code::Ledger, format!("{} of the peers' record cannot be read", super::output::count(faults.len(), "part")));
    let error = faults.iter().skip(1).fold(error.because(first), Error::because);
    Err(error.hint("if a row is damaged: portdistrict ledger rebuild; if a span is: portdistrict ledger verify"))
}

fn verify(call: &Call, cx: &Context, args: &VerifyArgs) -> Result<()> {
    let peer = cx.ledger()?.peer(&args.peer)?;
    let words = peers::words(cx, &peer)?;
    let (said, how) = match (&args.words, &args.scanned) {
        (Some(said), _) => (Some(said), Compared::Words),
        (None, Some(said)) => (Some(said), Compared::Qr),
        (None, None) => (None, if args.qr { Compared::Qr } else { Compared::Words }),
    };
    if args.qr {
        call.out.say(super::issue::draw(&words.for_qr())?);
    }
    match said {
        Some(said) => peers::check_words(&peer, words, said)?,
        None => ask(call, &peer, words)?,
    }
    let peer = peers::verify(cx, &peer, how)?;
    call.out.say(format!("`{}` is verified. To trust it: portdistrict peer trust {}", peer.name, peer.name));
    changed(call, cx, peer)
}

fn ask(call: &Call, peer: &Peer, words: Words) -> Result<()> {
    let (first, second) = (words.list()[..5].join("  "), words.list()[5..].join("  "));
    call.out.say(format!("Read these words to each other:\n\n  {first}\n  {second}\n"));
    call.out.confirm(&format!("Does {} see exactly these words?", peer.name))
}

fn revoke(call: &Call, cx: &Context, args: &RevokeArgs) -> Result<()> {
    let peer = cx.ledger()?.peer(&args.peer)?;
    call.out.confirm(&format!("Never believe the key of {} again?", peer.name))?;
    let peer = peers::revoke(cx, &peer, &args.reason)?;
    if cx.ledger()?.grants_for(&peer.name)?.iter().any(|grant| grant.is_live(cx.now())) {
        call.out.say(format!("What was granted to {0} goes on; take it back with: portdistrict grant revoke {0}", peer.name));
    }
    changed(call, cx, peer)
}

/// A peer that is off the list.
#[derive(Serialize)]
struct Forgotten {
    forgotten: Label,
    id: String,
}

impl View for Forgotten {
    fn text(&self, look: &Look) -> String {
        format!("{} is forgotten: {}\n", look.bold(&self.forgotten), self.id)
    }
}

fn forget(call: &Call, cx: &Context, name: &str) -> Result<()> {
    let peer = cx.ledger()?.peer(name)?;
    call.out.confirm(&format!("Forget {}?", peer.name))?;
    peers::forget(cx, &peer)?;
    call.out.show(&Forgotten { forgotten: peer.name, id: peer.id })
}

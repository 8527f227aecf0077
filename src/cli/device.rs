//! `device …`: several devices of one owner.

use super::Call;
use super::complete;
use super::output::{Look, View, fields, table, when};
use crate::config::{Label, fs};
use crate::context::Context;
use crate::encoding::base64;
use crate::error::Result;
use crate::ledger::{B64, Device};
use crate::owner::devices::{self, Accepted};
use crate::owner::words::Words;
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use std::path::{Path, PathBuf};
use zeroize::Zeroize;

/// Let several devices of yours be one owner
#[derive(Subcommand)]
pub(super) enum DeviceCommand {
    Add(AddArgs),
    Init(InitArgs),
    Approve(ApproveArgs),
    Accept(AcceptArgs),
    Welcome(WelcomeArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make a one-time code with which a new device of yours can ask to join
///
/// It holds for ten minutes. Carry it to the new device, and run `device init` there.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  A code for your phone:\n    portdistrict device add --name phone > code.txt\n\nJSON:\n  code, expires"
)]
pub(super) struct AddArgs {
    /// What the device is to be called, instead of what it says itself
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<Label>,
}

/// On a new device: make its keys and answer a code
///
/// Needs a home without an identity. Carry the answer back, and run `device approve` there.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  The code is in a file:\n    portdistrict device add > code.txt\n    \
                             portdistrict --home ./phone device init --code @code.txt --name phone > answer.txt\n\nJSON:\n  answer, words")]
pub(super) struct InitArgs {
    /// The code; `-` reads it from standard input, `@FILE` from a file
    #[arg(long, value_name = "CODE", value_hint = ValueHint::Other)]
    code: super::blob::Text,
    /// What this device is called
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    name: Label,
}

/// Approve the answer of a new device, and make its welcome
///
/// Compare the words on both screens. The welcome is sealed to the new device and useless to anybody else; `device accept` takes it
/// there.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  You have compared the words:\n    portdistrict device approve @answer.txt --out welcome.txt --yes\n\n\
                             JSON:\n  welcome, name, key, words"
)]
pub(super) struct ApproveArgs {
    /// The answer; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "ANSWER", value_hint = ValueHint::Other)]
    answer: super::blob::Text,
    /// Write the welcome into this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

/// On a new device: take its welcome, and belong to the identity from now on
///
/// On a device that belongs already it takes an identity that was rotated elsewhere.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  The last step:\n    portdistrict --home ./laptop device accept @welcome.txt\n\nJSON:\n  \
                             outcome (joined, rotated, known), id, device")]
pub(super) struct AcceptArgs {
    /// The welcome; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "WELCOME", value_hint = ValueHint::Other)]
    welcome: super::blob::Text,
}

/// Make the welcome of an approved device anew: after it was lost, or after `identity rotate`
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Your phone needs the new identity:\n    portdistrict device welcome phone --out welcome.txt\n\nJSON:\n  welcome, name, key"
)]
pub(super) struct WelcomeArgs {
    /// Name or key of the device
    #[arg(value_name = "NAME|KEY", allow_hyphen_values = true, add = complete::devices())]
    device: String,
    /// Write it into this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

/// List your devices
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Which devices are yours:\n    portdistrict device list\n\nJSON:\n  devices (key, name, version, \
                             enrolment, since_ms, seen_ms, seq, revoked_at, reason, this)"
)]
pub(super) struct ListArgs {}

/// Take a device out of your identity
///
/// Nothing that it writes counts any more. It still knows the secret of your identity: only `identity rotate` makes that worthless.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  It was stolen:\n    portdistrict device revoke phone --reason stolen --yes\n\nJSON:\n  the fields of `device list`"
)]
pub(super) struct RevokeArgs {
    /// Name or key of the device
    #[arg(value_name = "NAME|KEY", allow_hyphen_values = true, add = complete::devices())]
    device: String,
    /// Why, for your own record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_hint = ValueHint::Other)]
    reason: String,
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: &DeviceCommand) -> Result<()> {
    let cx = call.context()?;
    match command {
        DeviceCommand::Add(args) => add(call, &cx, args.name.as_ref()),
        DeviceCommand::Init(args) => init(call, &cx, args),
        DeviceCommand::Approve(args) => approve(call, &cx, args),
        DeviceCommand::Accept(args) => accept(call, &cx, &args.welcome),
        DeviceCommand::Welcome(args) => welcome(call, &cx, args),
        DeviceCommand::List(_) => list(call, &cx),
        DeviceCommand::Revoke(args) => revoke(call, &cx, args),
    }
}

/// A code that was made.
#[derive(Serialize)]
struct Code {
    code: String,
    expires: u64,
}

impl Drop for Code {
    fn drop(&mut self) {
        self.code.zeroize();
    }
}

impl View for Code {
    fn text(&self, _: &Look) -> String {
        self.code.clone()
    }
}

fn add(call: &Call, cx: &Context, name: Option<&Label>) -> Result<()> {
    let made = devices::invite(cx, name)?;
    call.out.say(format!("It holds for one device; it ends {}. On that device:", when(made.expires, cx.now())));
    call.out.say("  portdistrict device init --code CODE --name NAME");
    call.out.show(&Code { code: made.blob.to_string(), expires: made.expires })
}

/// The words for both screens, in two rows.
fn say_words(call: &Call, words: Words) {
    let (first, second) = (words.list()[..5].join("  "), words.list()[5..].join("  "));
    call.out.say(format!("Both screens must show these words:\n\n  {first}\n  {second}\n"));
}

/// A new device's answer.
#[derive(Serialize)]
struct Answer {
    answer: String,
    words: Vec<&'static str>,
}

impl View for Answer {
    fn text(&self, _: &Look) -> String {
        self.answer.clone()
    }
}

fn init(call: &Call, cx: &Context, args: &InitArgs) -> Result<()> {
    let answered = devices::answer(cx, &args.code.read()?, &args.name)?;
    say_words(call, answered.words);
    call.out.say("On the device that made the code: portdistrict device approve ANSWER");
    call.out.show(&Answer { answer: answered.blob, words: answered.words.list() })
}

/// A welcome that was made.
#[derive(Serialize)]
struct Made {
    welcome: String,
    name: Label,
    key: String,
    words: Vec<&'static str>,
    #[serde(skip)]
    written: bool,
}

impl View for Made {
    fn text(&self, _: &Look) -> String {
        if self.written { String::new() } else { self.welcome.clone() }
    }
}

fn approve(call: &Call, cx: &Context, args: &ApproveArgs) -> Result<()> {
    let candidate = devices::examine(cx, &args.answer.read()?)?;
    let name = candidate.name.clone();
    if !candidate.again {
        say_words(call, candidate.words);
        call.out.confirm(&format!("Does `{name}` show the same words, and is it yours?"))?;
    }
    let welcome = devices::approve(cx, &candidate)?;
    hand_out(call, &welcome, args.out.as_deref(), &name)?;
    let (key, words) = (base64(&candidate.answer.device), candidate.words.list());
    call.out.show(&Made { welcome, name, key, words, written: args.out.is_some() })
}

fn welcome(call: &Call, cx: &Context, args: &WelcomeArgs) -> Result<()> {
    let device = cx.ledger()?.device(&args.device)?;
    let welcome = devices::welcome(cx, &device)?;
    let name = device.name.map_or_else(|| "device".parse(), Ok)?;
    hand_out(call, &welcome, args.out.as_deref(), &name)?;
    call.out.show(&Made { welcome, name, key: device.key.to_string(), words: Vec::new(), written: args.out.is_some() })
}

fn hand_out(call: &Call, welcome: &str, out: Option<&Path>, name: &Label) -> Result<()> {
    if let Some(file) = out {
        fs::write_private(file, format!("{welcome}\n").as_bytes())?;
        call.out.say(format!("The welcome of `{name}` is in {}.", file.display()));
    }
    call.out.say(format!("On `{name}`: portdistrict device accept WELCOME"));
    Ok(())
}

/// What a welcome did here.
#[derive(Serialize)]
struct Joined {
    outcome: &'static str,
    id: String,
    device: String,
}

impl View for Joined {
    fn text(&self, look: &Look) -> String {
        fields(&[("id", look.bold(&self.id)), ("device", self.device.clone())])
    }
}

fn accept(call: &Call, cx: &Context, text: &super::blob::Text) -> Result<()> {
    let outcome = devices::accept(cx, &text.read()?)?;
    let cx = call.context()?;
    let (outcome, said) = match outcome {
        Accepted::Joined => ("joined", "This device belongs to your identity now, with a record of its own."),
        Accepted::Rotated => ("rotated", "This device has your new identity now."),
        Accepted::Known => ("known", "It belonged already; nothing was changed."),
    };
    call.out.say(said);
    if outcome == "joined" {
        call.out.say("What your other device knows comes here with: portdistrict ledger export there, portdistrict ledger import here");
    }
    let keyring = cx.keyring()?;
    call.out.show(&Joined { outcome, id: keyring.node_id(), device: base64(&keyring.device_public()) })
}

/// A device, and whether it is this one.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    device: Device,
    this: bool,
    #[serde(skip)]
    now: u64,
}

impl Shown {
    fn row(&self) -> Vec<String> {
        let Device { key, name, version, since_ms, seen_ms, revoked_at, .. } = &self.device;
        let state = match (revoked_at, self.this) {
            (Some(_), _) => "revoked",
            (None, true) => "this one",
            (None, false) => "",
        };
        vec![
            name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            state.to_owned(),
            when(since_ms / 1000, self.now),
            seen_ms.map_or_else(|| "never".to_owned(), |ms| when(ms / 1000, self.now)),
            version.clone().unwrap_or_else(|| "-".to_owned()),
            key.to_string(),
        ]
    }
}

/// All devices.
#[derive(Serialize)]
struct Listed {
    devices: Vec<Shown>,
}

impl View for Listed {
    fn text(&self, look: &Look) -> String {
        let rows: Vec<_> = self.devices.iter().map(Shown::row).collect();
        table(look, &["DEVICE", "", "SINCE", "LAST WROTE", "VERSION", "KEY"], &rows)
    }
}

fn list(call: &Call, cx: &Context) -> Result<()> {
    let (own, now) = (B64(cx.keyring()?.device_public()), cx.now());
    let all = cx.ledger_read_only()?.devices()?;
    let shown = all.into_iter().map(|device| Shown { this: device.key == own, device, now });
    call.out.show(&Listed { devices: shown.collect() })
}

fn revoke(call: &Call, cx: &Context, args: &RevokeArgs) -> Result<()> {
    let device = cx.ledger()?.device(&args.device)?;
    call.out.confirm(&format!("Take `{}` out of your identity for ever?", args.device))?;
    let device = devices::revoke(cx, &device, &args.reason)?;
    call.out.warn("it still knows the secret of your identity; make that worthless: portdistrict identity rotate");
    call.out.show(&Listed { devices: vec![Shown { device, this: false, now: cx.now() }] })
}

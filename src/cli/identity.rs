//! `init` and `identity …`: who one is, and what opens the keyring.

use super::Call;
use super::output::{Look, View, count, fields};
use super::sight::Checks;
use crate::config::{KeySource, Label, Paths, Settings, fs};
use crate::context::{Context, Init};
use crate::encoding::{base64, node_id};
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Protection};
use crate::ledger::MachineState;
use crate::machine;
use crate::machine::attest::Demand;
use crate::machine::check::Check;
use crate::owner::identity::{certified, ledger_is_ours, other_devices, public_identity, rotations_hold, take_over};
use crate::owner::rotate;
use crate::progress::Progress;
use crate::token::blob::{self, Type};
use crate::token::{SecretIdentity, SignedIdentity};
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use zeroize::Zeroize;

/// Create your identity, the keyring that holds it, and an empty ledger
///
/// The keyring opens with a key file that lies beside it, so that nothing asks for a passphrase; `identity lock` changes that.
/// Running it again changes nothing.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Start here:\n    portdistrict init\n  Keep everything in one folder, to try things out:\n    \
                             portdistrict --home ./second init\n  With a passphrase instead of a key file:\n    \
                             portdistrict --home ./third --passphrase-file passphrase.txt init")]
pub(super) struct InitArgs {}

/// See, export and protect your identity
#[derive(Subcommand)]
pub(super) enum IdentityCommand {
    Show(ShowArgs),
    Lock(LockArgs),
    Unlock(UnlockArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Verify(VerifyArgs),
    Rotate(RotateArgs),
}

/// Show who you are
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  See your id and which folders are in use:\n    portdistrict identity show\n  The id alone, for a script:\n    \
                             portdistrict identity show --json"
)]
pub(super) struct ShowArgs {}

/// Protect the keyring with a passphrase, or with the desktop's keychain
///
/// The key file that opened it until now is removed. Every command that needs a key asks for the passphrase from then on, or
/// takes it from --passphrase-file or --passphrase-fd. With --keychain the key is in the desktop's keychain (Secret Service) and opens
/// as long as you are logged in. `identity unlock` undoes it. Nothing that was opened is kept between commands.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Read the new passphrase from a file instead of asking:\n    \
                             portdistrict identity lock --passphrase-file passphrase.txt")]
pub(super) struct LockArgs {
    /// Keep the key in the desktop's keychain
    #[arg(long)]
    keychain: bool,
}

/// Open the keyring with a key file again instead of a passphrase
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Give the passphrase by a file instead of typing it:\n    \
                             portdistrict identity unlock --passphrase-file passphrase.txt")]
pub(super) struct UnlockArgs {}

/// Print your public identity as one signed line
///
/// It holds public keys only. Whoever gets it can check with `identity verify` that it was not changed on the way, and know you by it
/// with `peer add`. With --secret it is the identity itself, for a backup: whoever has that line is you.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Send it to a friend:\n    portdistrict identity export --name anna > me.txt\n  \
                             A backup, for a safe:\n    umask 077 && portdistrict identity export --secret > secret.txt\n\nJSON:\n  id, blob, secret")]
pub(super) struct ExportArgs {
    /// Print the secret of your identity instead
    #[arg(long, conflicts_with_all = ["name", "qr"])]
    secret: bool,
    /// Print a QR code too
    #[arg(long)]
    qr: bool,
    /// How you are called, for the one who gets it
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<String>,
}

/// Take over an identity from a backup, or a friend's identity as a peer
///
/// The secret of an identity is taken where there is no identity yet: this becomes one more device of it, with an empty record. A
/// public identity is added as `peer add` does it.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  From the backup that `identity export --secret` made:\n    portdistrict identity export --secret > secret.txt\n    \
                             portdistrict --home ./restored identity import @secret.txt\n  A friend who rotated his key:\n    \
                             portdistrict identity import @anna.txt --as anna\n\nJSON:\n  the fields of `identity show` or of `peer add`"
)]
pub(super) struct ImportArgs {
    /// The line; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "BLOB", value_hint = ValueHint::Other)]
    blob: super::blob::Text,
    /// Name for the peer here, instead of the one in the line
    #[arg(long = "as", value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<Label>,
}

/// Replace your identity key; what you have goes on under the new one
///
/// The old key signs for the new one. Your machines take the new owner as soon as they are reached, friends as soon as they import
/// the line that is printed. What you granted under the old key ends on each machine when it learns of the new one. If it is
/// interrupted, running it again goes on.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See first what it would do:\n    portdistrict identity rotate --dry-run\n  A device was \
                             stolen:\n    portdistrict identity rotate --yes\n\nJSON:\n  old, new (ids), blob, resumed, machines (machine, problem), devices, carried (grants that go on)")]
pub(super) struct RotateArgs {
    /// How you are called, in the line for friends
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Check your own identity, or a signed one that you were sent
///
/// Without a line it checks that the keyring opens, that nobody else can read it, that the ledger belongs to it, and that this device
/// is certified.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  From a file, as it came out of a chat:\n    portdistrict identity export > me.txt\n    \
                             portdistrict identity verify @me.txt\n  From a pipe:\n    portdistrict identity export | portdistrict identity verify -\n  Your own:\n    portdistrict identity verify")]
pub(super) struct VerifyArgs {
    /// The line; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "BLOB", value_hint = ValueHint::Other)]
    blob: Option<super::blob::Text>,
}

/// Who one is.
#[derive(Serialize)]
pub(super) struct Who {
    /// The id people compare.
    pub(super) id: String,
    /// The Ed25519 identity key.
    key: String,
    /// The X25519 key to which others seal what is for you.
    sealing: String,
    /// The key of this device.
    device: String,
    /// Ids of identities that this one took the place of, oldest first.
    was: Vec<String>,
    /// Whether a rotation was interrupted.
    rotating: bool,
    /// `key-file`, `passphrase` or `keychain`.
    protection: &'static str,
    /// The folders in use, and why.
    home: String,
    /// Whether it was made just now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    created: bool,
}

impl Who {
    pub(super) fn of(keyring: &Keyring, paths: &Paths, created: bool) -> Result<Who> {
        Ok(Who {
            id: keyring.node_id(),
            key: base64(&keyring.identity_public()),
            sealing: base64(&keyring.sealing_public()),
            device: base64(&keyring.device_public()),
            was: keyring.retired.iter().map(|seed| node_id(&Keyring::public_of(seed))).collect(),
            rotating: keyring.next.is_some(),
            protection: match Keyring::exists(paths).then(|| Keyring::protection(paths)).transpose()? {
                Some(Protection::KeyFile) => "key-file",
                Some(Protection::Passphrase) => "passphrase",
                None => "environment",
            },
            home: paths.home_in_use(),
            created,
        })
    }
}

impl Who {
    /// The same, after a look at the settings: which key it is cannot be seen in the keyring.
    fn seen_with(mut self, cx: &Context) -> Result<Who> {
        if self.protection == "key-file" && cx.unlock()?.keychain().is_some() {
            self.protection = "keychain";
        }
        Ok(self)
    }
}

impl View for Who {
    fn text(&self, look: &Look) -> String {
        let opened = match self.protection {
            "passphrase" => "opens with a passphrase",
            "keychain" => "opens with a key in the keychain",
            "environment" => "comes from the environment, stored nowhere",
            _ => "opens with a key file",
        };
        fields(&[
            ("id", look.bold(&self.id)),
            ("key", self.key.clone()),
            ("device", self.device.clone()),
            ("was", self.was.join(", ")),
            ("rotation", if self.rotating { look.warn("interrupted; go on with: portdistrict identity rotate") } else { String::new() }),
            ("keyring", opened.to_owned()),
            ("home", self.home.clone()),
        ])
    }
}

pub(super) fn init(call: &Call) -> Result<()> {
    let cx = call.context()?;
    let created = cx.init()? == Init::Created;
    call.out.show(&Who::of(cx.keyring()?, cx.paths(), created)?)?;
    if let Some(user) = cx.paths().sudo_user() {
        call.out.warn(format!("this is the home of root, not of {user}, who called sudo"));
    }
    call.out.say(if created { "Your identity is ready." } else { "There was an identity already; nothing was changed." });
    call.out.say("Next: portdistrict machine deploy --on local --label home");
    Ok(())
}

pub(super) fn run(call: &Call, command: &IdentityCommand) -> Result<()> {
    let cx = call.context()?;
    match command {
        IdentityCommand::Show(_) => call.out.show(&Who::of(cx.keyring()?, cx.paths(), false)?.seen_with(&cx)?),
        IdentityCommand::Lock(LockArgs { keychain: true }) => lock_with_keychain(call, &cx),
        IdentityCommand::Lock(_) => {
            let unlock = cx.unlock()?;
            let keyring = Keyring::open(cx.paths(), &unlock)?;
            keyring.lock_with_passphrase(cx.paths(), &unlock, &unlock.new_passphrase()?)?;
            leave_keychain(call, &cx)?;
            call.out.say("The keyring opens with the passphrase only. Nobody can recover it for you.");
            call.out.show(&Who::of(&keyring, cx.paths(), false)?)
        }
        IdentityCommand::Unlock(_) => {
            let unlock = cx.unlock()?;
            let keyring = Keyring::open(cx.paths(), &unlock)?;
            keyring.unlock_to_keyfile(cx.paths(), &unlock)?;
            leave_keychain(call, &cx)?;
            call.out.say(format!("The keyring opens with the key file {}.", unlock.key_file(cx.paths()).display()));
            call.out.show(&Who::of(&keyring, cx.paths(), false)?)
        }
        IdentityCommand::Export(args) => export(call, &cx, args),
        IdentityCommand::Import(args) => import(call, &cx, args),
        IdentityCommand::Verify(VerifyArgs { blob: Some(blob) }) => verify(call, blob),
        IdentityCommand::Verify(VerifyArgs { blob: None }) => Checks::new(own_checks(&cx)).show(call),
        IdentityCommand::Rotate(args) => rotate(call, &cx, args),
    }
}

fn lock_with_keychain(call: &Call, cx: &Context) -> Result<()> {
    let unlock = cx.unlock()?;
    let keyring = Keyring::open(cx.paths(), &unlock)?;
    fs::ensure_private_dir(&cx.paths().config)?;
    // Both before anything is changed: whether the settings can be written, and whether there is a keychain.
    let settings = Settings::with_key_source(cx.paths(), KeySource::Keychain)?;
    keyring.lock_with_keychain(cx.paths(), &unlock, || fs::write_private(&cx.paths().settings_file(), settings.as_bytes()))?;
    call.out.say("The keyring opens with a key in the desktop's keychain. Nobody can recover it for you: keep a backup of your identity.");
    let cx = call.context()?;
    call.out.show(&Who::of(cx.keyring()?, cx.paths(), false)?.seen_with(&cx)?)
}

/// Where the key was in the keychain it is not needed there any more.
fn leave_keychain(call: &Call, cx: &Context) -> Result<()> {
    if cx.settings()?.keyring.source != KeySource::Keychain {
        return Ok(());
    }
    let settings = Settings::with_key_source(cx.paths(), KeySource::KeyFile)?;
    fs::write_private(&cx.paths().settings_file(), settings.as_bytes())?;
    if let Err(error) = Keyring::forget_keychain(cx.paths()) {
        call.out.warn(format!("the old key is still in the keychain, and opens nothing any more: {}", error.message()));
    }
    Ok(())
}

/// An identity as text: the public one, or its secret.
#[derive(Serialize)]
struct Exported {
    id: String,
    blob: String,
    secret: bool,
    #[serde(skip)]
    drawn: Option<String>,
}

impl View for Exported {
    fn text(&self, _: &Look) -> String {
        match &self.drawn {
            Some(qr) => format!("{}\n\n{qr}", self.blob),
            None => self.blob.clone(),
        }
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        self.blob.zeroize();
    }
}

fn export(call: &Call, cx: &Context, args: &ExportArgs) -> Result<()> {
    let keyring = cx.keyring()?;
    let id = keyring.node_id();
    if args.secret {
        call.out.say("Whoever has this line is you. Keep it where you keep what opens your house.");
        let blob = SecretIdentity::of(keyring).to_blob().to_string();
        return call.out.show(&Exported { id, blob, secret: true, drawn: None });
    }
    let signed = public_identity(cx, args.name.as_deref())?;
    let drawn = if args.qr { Some(super::issue::draw(&signed.to_qr())?) } else { None };
    call.out.show(&Exported { id, blob: signed.to_blob(), secret: false, drawn })
}

fn import(call: &Call, cx: &Context, args: &ImportArgs) -> Result<()> {
    let text = args.blob.read()?;
    let (found, _) = blob::read_one_of(&[Type::Identity, Type::Secret], &text).map_err(Error::from)?;
    if found == Type::Identity {
        let signed = SignedIdentity::from_blob(&text).map_err(Error::from)?;
        return super::peer::add(call, cx, &signed, args.name.as_ref());
    }
    let secret = SecretIdentity::from_blob(&text).map_err(Error::from)?;
    let created = take_over(cx, secret)?;
    call.out.say(if created { "This home has the identity now; its record begins here." } else { "This home has that identity already." });
    call.out.show(&Who::of(cx.keyring()?, cx.paths(), created)?)
}

/// What concerns the identity among the things that a doctor looks at, more closely.
fn own_checks(cx: &Context) -> Vec<Check> {
    let paths = cx.paths();
    let private = || {
        fs::check_private_dir(&paths.data)?;
        fs::check_private(&paths.ledger_file())?;
        if cx.unlock()?.carries() {
            return Ok(());
        }
        fs::check_private(&paths.keyring_file())?;
        match Keyring::protection(paths)? {
            Protection::KeyFile if cx.unlock()?.keychain().is_none() => fs::check_private(&cx.unlock()?.key_file(paths)),
            Protection::KeyFile | Protection::Passphrase => Ok(()),
        }
    };
    let of =
        |name: &str, result: Result<String>| result.map_or_else(|error| Check::failed(name, &error), |detail| Check::pass(name, detail));
    let mut checks = vec![of("permissions", private().map(|()| "nobody else can read keyring and ledger".to_owned()))];
    checks.push(of("keyring", cx.keyring().map(|keyring| format!("opens; you are {}", keyring.node_id()))));
    if cx.keyring().is_ok() {
        checks.push(of("ledger", ledger_is_ours(cx)));
        checks.push(of("device", certified(cx)));
        checks.push(of("rotations", rotations_hold(cx)));
    }
    checks
}

/// A command that leaves nothing half made, after whose end the context must be made anew.
fn rotate(call: &Call, cx: &Context, args: &RotateArgs) -> Result<()> {
    let ledger = cx.ledger()?;
    let devices: Vec<String> = other_devices(cx)?;
    let live = ledger.grants()?.iter().filter(|grant| grant.is_live(cx.now())).count();
    if args.dry_run {
        let mut would = vec!["make a new identity key, which the old one signs for, and certify your devices anew".to_owned()];
        would.extend(ledger.machines()?.iter().map(|machine| format!("tell machine {} its new owner", machine.label)));
        would.push(format!("sign {} anew", count(live, "grant")));
        return call.out.show(&super::machine::Steps { would });
    }
    call.out.confirm("Replace your identity key?")?;
    let unlock = cx.unlock()?.asked_once(cx.paths())?;
    let rotated = rotate::rotate(&Context::new(cx.paths().clone(), unlock.clone()))?;
    // The keyring that is open still holds the old one.
    let cx = Context::new(cx.paths().clone(), unlock);
    // Before the machines: each hears of its new owner and of what he grants in one visit.
    let carried = crate::exit::grants::carry_over(&cx)?;
    let machines = call.block_on(hand_over(&cx, &*call.out.progress()))?;
    for told in machines.iter().filter(|told| told.problem.is_some()) {
        call.out.warn(format!("{} was not reached; tell it later: portdistrict machine reconnect {}", told.machine, told.machine));
    }
    for device in &devices {
        call.out.say(format!("Your device `{device}` needs the new key: portdistrict device welcome {device}"));
    }
    if carried > 0 {
        call.out.say("What you granted goes on, signed by the new key; your friends need do nothing.");
    }
    call.out.say("Send this line to whoever knows you as a peer; the old key signs for the new one in it:");
    call.out.fence();
    call.out.show(&Rotation {
        old: node_id(&rotated.old),
        new: node_id(&rotated.new),
        blob: public_identity(&cx, args.name.as_deref())?.to_blob(),
        resumed: rotated.resumed,
        machines,
        devices,
        carried,
    })?;
    call.out.fence();
    Ok(())
}

/// Every claimed machine learns of its owner's new key, or says why not.
async fn hand_over(cx: &Context, progress: &dyn Progress) -> Result<Vec<Told>> {
    let mut all = Vec::new();
    for machine in cx.ledger()?.machines()?.into_iter().filter(|machine| machine.state == MachineState::Claimed) {
        let told = machine::reconnect(cx, &machine.label, &Demand::default(), progress).await;
        all.push(Told { machine: machine.label, problem: told.err().map(|error| error.message().to_owned()) });
    }
    Ok(all)
}

/// A machine that knows its new owner, or why not.
#[derive(Serialize)]
struct Told {
    machine: Label,
    problem: Option<String>,
}

/// What a rotation did.
#[derive(Serialize)]
struct Rotation {
    old: String,
    new: String,
    blob: String,
    resumed: bool,
    machines: Vec<Told>,
    devices: Vec<String>,
    carried: usize,
}

impl View for Rotation {
    fn text(&self, _: &Look) -> String {
        self.blob.clone()
    }
}

/// Somebody's identity whose signature holds.
#[derive(Serialize)]
struct Verified {
    id: String,
    key: String,
    name: Option<String>,
    issued: u64,
    #[serde(skip)]
    now: u64,
}

impl View for Verified {
    fn text(&self, look: &Look) -> String {
        fields(&[
            ("id", look.bold(&self.id)),
            ("name", self.name.clone().unwrap_or_default()),
            ("key", self.key.clone()),
            ("issued", super::output::when(self.issued, self.now)),
            ("signature", look.good("holds")),
        ])
    }
}

fn verify(call: &Call, blob: &super::blob::Text) -> Result<()> {
    let signed = SignedIdentity::from_blob(&blob.read()?).map_err(Error::from)?;
    let identity = signed.identity();
    call.out.show(&Verified {
        id: node_id(&identity.identity),
        key: base64(&identity.identity),
        name: identity.name.clone(),
        issued: identity.issued,
        now: crate::config::time::now_s(),
    })
}

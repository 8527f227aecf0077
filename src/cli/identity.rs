//! `init` and `identity …`: who one is, and what opens the keyring.

use super::Call;
use super::output::{Look, View, fields};
use crate::config::Paths;
use crate::context::Init;
use crate::encoding::{base64, node_id};
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Protection};
use crate::token::{Identity, SignedIdentity};
use clap::{Subcommand, ValueHint};
use serde::Serialize;

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
    Verify(VerifyArgs),
}

/// Show who you are
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  See your id and which folders are in use:\n    portdistrict identity show\n  The id alone, for a script:\n    \
                             portdistrict identity show --json"
)]
pub(super) struct ShowArgs {}

/// Protect the keyring with a passphrase
///
/// The key file that opened it until now is removed. Every command that needs a key asks for the passphrase from then on, or
/// takes it from --passphrase-file or --passphrase-fd. `identity unlock` undoes it.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Read the new passphrase from a file instead of asking:\n    \
                             portdistrict identity lock --passphrase-file passphrase.txt")]
pub(super) struct LockArgs {}

/// Open the keyring with a key file again instead of a passphrase
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Give the passphrase by a file instead of typing it:\n    \
                             portdistrict identity unlock --passphrase-file passphrase.txt")]
pub(super) struct UnlockArgs {}

/// Print your public identity as one signed line
///
/// It holds public keys only. Whoever gets it can check with `identity verify` that it was not changed on the way.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Send it to a friend:\n    portdistrict identity export --name anna > me.txt")]
pub(super) struct ExportArgs {
    /// How you are called, for the one who gets it
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    name: Option<String>,
}

/// Check a signed identity and show whose it is
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  From a file, as it came out of a chat:\n    portdistrict identity export > me.txt\n    \
                             portdistrict identity verify @me.txt\n  From a pipe:\n    portdistrict identity export | portdistrict identity verify -")]
pub(super) struct VerifyArgs {
    /// The line; `-` reads it from standard input, `@FILE` from a file
    #[arg(value_name = "BLOB", value_hint = ValueHint::Other)]
    blob: super::blob::Text,
}

/// Who one is.
#[derive(Serialize)]
pub(super) struct Who {
    /// The id people compare.
    pub(super) id: String,
    /// The Ed25519 identity key.
    key: String,
    /// The key of this device.
    device: String,
    /// `key-file` or `passphrase`.
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
            device: base64(&keyring.device_public()),
            protection: match Keyring::protection(paths)? {
                Protection::KeyFile => "key-file",
                Protection::Passphrase => "passphrase",
            },
            home: paths.home_in_use(),
            created,
        })
    }
}

impl View for Who {
    fn text(&self, look: &Look) -> String {
        let opened = if self.protection == "passphrase" { "with a passphrase" } else { "with a key file" };
        fields(&[
            ("id", look.bold(&self.id)),
            ("key", self.key.clone()),
            ("device", self.device.clone()),
            ("keyring", format!("opens {opened}")),
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
        IdentityCommand::Show(_) => call.out.show(&Who::of(cx.keyring()?, cx.paths(), false)?),
        IdentityCommand::Lock(_) => {
            let unlock = cx.unlock()?;
            let keyring = Keyring::open(cx.paths(), &unlock)?;
            keyring.lock_with_passphrase(cx.paths(), &unlock, &unlock.new_passphrase()?)?;
            call.out.say("The keyring opens with the passphrase only. Nobody can recover it for you.");
            call.out.show(&Who::of(&keyring, cx.paths(), false)?)
        }
        IdentityCommand::Unlock(_) => {
            let unlock = cx.unlock()?;
            let keyring = Keyring::open(cx.paths(), &unlock)?;
            keyring.unlock_to_keyfile(cx.paths(), &unlock)?;
            call.out.say(format!("The keyring opens with the key file {}.", unlock.key_file(cx.paths()).display()));
            call.out.show(&Who::of(&keyring, cx.paths(), false)?)
        }
        IdentityCommand::Export(args) => {
            let keyring = cx.keyring()?;
            let identity = Identity {
                identity: keyring.identity_public(),
                ecdh: crate::keyring::x25519_public(&keyring.identity.derive(crate::keyring::Purpose::IdentityEcdh)),
                name: args.name.clone(),
                issued: cx.now(),
                client: Some(keyring.client_noise_public()),
                rotations: Vec::new(),
            };
            call.out.show(&Exported { id: keyring.node_id(), blob: identity.sign(&keyring.identity_key()).to_blob() })
        }
        IdentityCommand::Verify(args) => verify(call, &args.blob),
    }
}

/// The public identity as text.
#[derive(Serialize)]
struct Exported {
    id: String,
    blob: String,
}

impl View for Exported {
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

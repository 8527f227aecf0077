//! The face: what can be typed, and how outcomes are shown. Decides nothing; each family of commands has its own file.
//!
//! Typed first, opened later: parsing touches no file of the home, so `--help`, `completions` and `man` work when everything
//! else is broken.

mod attest;
mod blob;
mod capability;
mod carry;
mod complete;
mod demo;
mod device;
mod doctor;
mod exit;
mod explain;
mod generate;
mod grant;
mod identity;
mod image;
mod issue;
mod ledger;
mod machine;
mod node;
pub mod output;
mod page;
mod pass_on;
mod peer;
mod policy;
mod progress;
mod provenance;
mod publish;
mod publish_hetzner;
mod scope;
mod sight;
mod status;
mod upgrade;
mod usage;
mod watch;

use crate::config::Paths;
use crate::config::time::parse_duration;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::exit::guard;
use crate::keyring::{AgeKeyFrom, PassphraseFrom, Terminal, Unlock};
use crate::tor::{Places, Role, Tor};
use clap::{CommandFactory, Parser, Subcommand, ValueHint};
use output::{Choice, Color, Output};
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How often a stream in which nothing happens looks whether anybody still reads it.
const LOOK_FOR_READER: Duration = Duration::from_millis(200);

/// Run exit nodes that can prove what they run, and lend them to friends with one line of text
///
/// Nouns come first, verbs second: `portdistrict exit invite`. Every command explains itself with --help and shows examples
/// there. Results go to stdout and everything else to stderr.
#[derive(Parser)]
#[command(
    name = "portdistrict",
    bin_name = "portdistrict",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_long_help = "EXIT STATUS:\n  0 done; 1 failed; 2 wrong usage; 3 not found; 4 refused (trust, policy, evidence);\n  5 could not reach or \
                       timed out; 6 a precondition is missing; 130 interrupted, after cleaning up.\n\nEXAMPLES:\n  Set up, run an exit on this \
                       machine, and lend it to a friend:\n    portdistrict init\n    portdistrict machine deploy --on local --label home\n    \
                       portdistrict machine claim home\n    portdistrict exit invite --node home --for anna"
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Keep everything under this folder instead of the XDG directories
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    home: Option<PathBuf>,
    /// Print one JSON document, or one a line for a stream
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell what happens inside; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// When to use colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, hide_default_value = true)]
    color: Color,
    /// After a refusal, say which rule made it and which entry of the ledger
    #[arg(long, global = true)]
    explain: bool,
    /// Answer questions with yes
    #[arg(long, short = 'y', global = true)]
    yes: bool,
    /// Give up after this long, as in 30s or 5m
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration, value_hint = ValueHint::Other)]
    timeout: Option<Duration>,
    /// File with Arti's own settings for Tor: other networks, pluggable transports
    #[arg(long, global = true, value_name = "FILE", env = "PORTDISTRICT_TOR_CONFIG", hide_env_values = true, value_hint = ValueHint::FilePath)]
    tor_config: Option<PathBuf>,
    /// File with the key that opens the keyring
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    key_file: Option<PathBuf>,
    /// File whose first line is the keyring's passphrase
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "key_file")]
    passphrase_file: Option<PathBuf>,
    /// Open descriptor whose first line is the keyring's passphrase
    #[arg(long, global = true, value_name = "FD", value_hint = ValueHint::Other, conflicts_with_all = ["key_file", "passphrase_file"])]
    passphrase_fd: Option<u32>,
    /// Open descriptor with the age key that opens the identity in PORTDISTRICT_KEYRING
    #[arg(long, global = true, value_name = "FD", value_hint = ValueHint::Other, hide_short_help = true)]
    identity_fd: Option<u32>,
}

#[derive(Subcommand)]
enum Command {
    Init(identity::InitArgs),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    #[command(subcommand)]
    Device(device::DeviceCommand),
    #[command(subcommand)]
    Peer(peer::PeerCommand),
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    #[command(subcommand)]
    Exit(exit::ExitCommand),
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    #[command(subcommand, hide = true)]
    Node(node::NodeCommand),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
    Version(generate::VersionArgs),
}

/// One call of the program: where to print, and what the global flags say.
pub(crate) struct Call {
    /// Where everything is printed.
    pub(crate) out: Output,
    global: Global,
}

impl Call {
    /// Runs asynchronous work to its end, to `--timeout` or to Ctrl-C; dropping the work is what cleans up.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        event_loop()?.block_on(async {
            let limit = self.global.timeout.unwrap_or(Duration::MAX);
            tokio::select! {
                // First, so that signals are heard from the beginning, whatever the work does at once.
                biased;
                end = interrupted() => Err(end),
                done = tokio::time::timeout(limit, work) => done.unwrap_or_else(|_| Err(timed_out(limit))),
            }
        })
    }

    /// As [`Call::block_on`] for what goes on until Ctrl-C; ends well when nobody reads the results any more.
    pub(crate) fn block_on_while_read(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let gone = async {
            while !self.out.reader_gone() {
                tokio::time::sleep(LOOK_FOR_READER).await;
            }
        };
        self.block_on(async {
            tokio::select! { done = work => done, () = gone => Ok(()) }
        })
    }

    /// Why it was refused, for a person; programs find the same in the JSON of the error.
    fn explain(&self, error: &Error) -> Option<String> {
        if self.out.json() { None } else { explain::explain(error, self.paths().ok().as_ref(), &self.out.look_of_errors()) }
    }

    /// The folders in use.
    pub(crate) fn paths(&self) -> Result<Paths> {
        Paths::find(self.global.home.as_deref())
    }

    /// Settings, keyring and ledger, each opened when first needed.
    pub(crate) fn context(&self) -> Result<Context> {
        Ok(Context::new(self.paths()?, self.unlock()))
    }

    /// What is set about Tor where there is no home.
    pub(crate) fn tor_settings_by_flag(&self) -> crate::tor::Settings {
        crate::tor::Settings { file: self.global.tor_config.clone(), bridges: Vec::new() }
    }

    /// The way into the Tor network for this home; nothing is started by asking.
    pub(crate) fn tor(&self, cx: &Context) -> Result<Arc<Tor>> {
        let places = Places { state: cx.paths().state.join("tor"), cache: cx.paths().cache.join("tor") };
        Ok(Tor::new(places, self.tor_settings(cx)?, Role::Client))
    }

    /// What is set about Tor: the flag, then `[tor]` in `config.toml`.
    pub(crate) fn tor_settings(&self, cx: &Context) -> Result<crate::tor::Settings> {
        let set = &cx.settings()?.tor;
        let file = self.global.tor_config.clone().or_else(|| set.config_file.clone());
        Ok(crate::tor::Settings { file, bridges: set.bridges.clone() })
    }

    /// What opens the keyring: flags, then the environment, then the person.
    fn unlock(&self) -> Unlock {
        let mut unlock = Unlock::from_env().with_prompt(Terminal);
        if let Some(path) = &self.global.key_file {
            unlock = unlock.with_key_file(path);
        }
        if let Some(path) = &self.global.passphrase_file {
            unlock = unlock.with_passphrase(PassphraseFrom::File(path.clone()));
        }
        if let Some(descriptor) = self.global.identity_fd {
            unlock = unlock.with_age_key(AgeKeyFrom::Descriptor(descriptor));
        }
        if let Some(descriptor) = self.global.passphrase_fd {
            unlock = unlock.with_passphrase(PassphraseFrom::Descriptor(descriptor));
        }
        unlock
    }
}

fn timed_out(limit: Duration) -> Error {
    let text = crate::config::time::duration(limit.as_secs());
    Error::new(Code::TimedOut, format!("not done after {text}, the time that --timeout allows"))
        .hint("allow more, for example --timeout 5m")
}

/// Ends when the user or the system asks the program to end.
async fn interrupted() -> Error {
    use tokio::signal::unix::{SignalKind, signal};
    let mut streams = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        match signal(kind) {
            Ok(stream) => streams.push(stream),
            Err(error) => return Error::new(Code::Failed, "cannot listen for Ctrl-C").cause(error),
        }
    }
    let [interrupt, terminate, hangup] = &mut streams[..] else { return std::future::pending().await };
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
    Error::new(Code::Interrupted, "Interrupted; everything half made was removed.")
}

/// Answers a shell that asks for completions, else parses, runs and turns the outcome into an exit status.
pub fn main() -> ExitCode {
    complete::answer();
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(done) = guard::answer(words.get(1..).unwrap_or_default()) {
        return finish(&Output::new(Choice::default()), done);
    }
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return usage::explain(&error, &words),
    };
    let Global { json, quiet, color, yes, .. } = cli.global;
    let call = Call { out: Output::new(Choice { json, quiet, color, yes }), global: cli.global };
    logging(call.global.verbose, color, matches!(cli.command, Command::Node(_)));
    let done = run(&call, cli.command);
    let explained = done.as_ref().err().filter(|_| call.global.explain).and_then(|error| call.explain(error));
    let code = finish(&call.out, done);
    explained.into_iter().for_each(|text| output::note(&text));
    code
}

/// The outcome as an exit status; an error is told first.
fn finish(out: &Output, done: Result<u8>) -> ExitCode {
    ExitCode::from(done.unwrap_or_else(|error| {
        // Whoever pressed Ctrl-C wants to know what became of it, not that it was an error.
        if error.code() == Code::Interrupted && !out.json() {
            out.say(error.message())
        } else {
            out.error(&error)
        }
        error.code().exit_code()
    }))
}

/// Most commands end with 0; those that run another program pass on its status.
fn run(call: &Call, command: Command) -> Result<u8> {
    match command {
        Command::Init(_) => identity::init(call),
        Command::Status(args) => status::run(call, &args),
        Command::Doctor(_) => doctor::run(call),
        Command::Demo(args) => demo::run(call, &args),
        Command::Exit(command) => return exit::run(call, command),
        Command::Grant(command) => grant::run(call, command),
        Command::Identity(command) => identity::run(call, &command),
        Command::Device(command) => device::run(call, &command),
        Command::Peer(command) => peer::run(call, &command),
        Command::Machine(command) => machine::run(call, command),
        Command::Policy(command) => policy::run(call, &command),
        Command::Ledger(command) => ledger::run(call, &command),
        Command::Node(command) => node::run(call, &command),
        Command::Completions(args) => generate::completions(call, &args),
        Command::Man(args) => generate::man(call, &args),
        Command::Version(_) => generate::version(call),
    }?;
    Ok(0)
}

fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Code::Failed, "cannot start the event loop").cause(e).hint("allow more open files: ulimit -n 1024"))
}

/// What happens inside, on stderr: off unless `-v` or RUST_LOG asks for it. A node listens to its onion service, too.
fn logging(verbose: u8, color: Color, node: bool) {
    let asked = std::env::var("RUST_LOG").ok().filter(|value| !value.is_empty());
    let filter = match (verbose, asked) {
        (_, Some(directives)) => Some(directives),
        (0, None) => None,
        (1, None) => Some("portdistrict=info".to_owned()),
        (2, None) => Some("portdistrict=debug".to_owned()),
        (_, None) => Some("portdistrict=trace".to_owned()),
    };
    if filter.is_none() && !node {
        return;
    }
    let shown = filter.map(|filter| {
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(color == Color::Always);
        lines.with_filter(tracing_subscriber::EnvFilter::new(filter))
    });
    let _ = tracing_subscriber::registry().with(shown).with(node.then(crate::tor::facts_layer)).try_init();
}

/// The whole definition, for completions, man pages and tests.
pub fn definition() -> clap::Command {
    let mut definition = Cli::command();
    definition.build();
    definition
}

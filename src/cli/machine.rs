//! `machine …`: the operator's exit machines.

use super::Call;
use super::complete;
use super::output::{Look, View, clean, fields, table};
use super::sight::{Checks, Sight, seed_in_words};
use crate::config::Label;
use crate::encoding::{node_id, short};
use crate::error::{Code, Error, Result};
use crate::machine::{self, Accel, CloudPlan, Kind, Order, TorOrder, VmPlan};
use crate::node::egress::Rule;
use crate::owner::ONION;
use crate::owner::metadata::OnFailure;
use crate::session::seed::Source;
use clap::{Subcommand, ValueHint};
use serde::Serialize;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;

/// What a virtual machine has unless told otherwise; enough for a node with Tor.
const MEMORY: u32 = 256;
const CPUS: u32 = 2;

fn providers() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(Kind::ALL.map(Kind::as_str))
}

/// Deploy exit machines, own them, watch them, remove them
#[derive(Subcommand)]
pub(super) enum MachineCommand {
    Build(super::image::BuildArgs),
    Predict(super::image::PredictArgs),
    Publish(super::publish::PublishArgs),
    Deploy(DeployArgs),
    Claim(ClaimArgs),
    Attest(super::attest::AttestArgs),
    Reconnect(ReconnectArgs),
    List(ListArgs),
    Show(ShowArgs),
    Logs(LogsArgs),
    Destroy(DestroyArgs),
    Doctor(DoctorArgs),
}

/// Deploy an exit machine
///
/// With `--on local` the machine is a process of this computer that lives on after the terminal is closed. Only you can claim it.
/// `machine destroy` undoes it.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A machine on this computer:\n    portdistrict machine deploy --on local --label home\n  \
                             See first what would be done:\n    portdistrict machine deploy --on local --label attic --dry-run\n  \
                             Let guests reach one web server in the house:\n    \
                             portdistrict machine deploy --on local --label cellar --allow 192.168.1.5:80\n  \
                             On a port that the router forwards, under the name that friends use:\n    \
                             portdistrict machine deploy --on local --label porch --port 4433 --address exit.example.org:4433\n  \
                             Behind any router, as an onion service:\n    \
                             portdistrict machine deploy --on local --label tower --tor\n  \
                             At Hetzner Cloud; see first what it costs:\n    \
                             portdistrict machine deploy --on hetzner --label elbe --dry-run\n  \
                             At Google, with its memory encrypted; see first what would be asked there:\n    \
                             portdistrict machine deploy --on gce --project my-project --zone europe-west4-a --label tulip --confidential \
                             --dry-run\n  \
                             A virtual machine, from the image that `machine build -o out` made:\n    \
                             portdistrict machine deploy --on qemu --image out --label vm\n  \
                             One that keeps its key to itself, in its TPM:\n    \
                             portdistrict machine deploy --on qemu --image out --label vault --tpm --seed sealed")]
pub(super) struct DeployArgs {
    /// Where to deploy
    #[arg(long, value_name = "PROVIDER", value_parser = providers())]
    on: String,
    /// Name for the machine
    #[arg(long, value_name = "LABEL", value_hint = ValueHint::Other)]
    label: Label,
    /// Address to listen on; every one of the machine unless given
    #[arg(long, value_name = "IP", value_hint = ValueHint::Other)]
    listen: Option<IpAddr>,
    /// Port to listen on; a free one unless given
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true, value_hint = ValueHint::Other)]
    port: u16,
    /// Where friends reach it, if that differs; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = address, value_hint = ValueHint::Hostname)]
    address: Vec<String>,
    /// Destination that guests may reach although it is private, as in 192.168.1.5:80 or 10.0.0.0/8; may be given several times
    #[arg(long, value_name = "RULE", value_parser = rule, value_hint = ValueHint::Other)]
    allow: Vec<String>,
    /// Write into the node's log where guests go
    #[arg(long)]
    log_destinations: bool,
    /// Let whoever comes first with the bootstrap key claim it
    #[arg(long)]
    claim_by_anyone: bool,
    /// Be an onion service, too: reachable without a public address, also behind any router
    #[arg(long)]
    tor: bool,
    /// Call it ready without a test connection through the Tor network
    #[arg(long, requires = "tor")]
    no_self_test: bool,
    /// File with the seed of its keys and onion address, so that a later deploy can have the same ones; made if missing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    seed_file: Option<PathBuf>,
    /// Where an image's seed comes from: you hand it over at each start, its TPM keeps it for this image, or its SEV-SNP processor
    /// derives it from the measured launch; owner unless given
    #[arg(long, value_name = "SOURCE", value_parser = clap::builder::PossibleValuesParser::new(Source::OF_IMAGES.map(Source::as_str)))]
    seed: Option<String>,
    /// Keep it running with a systemd unit of this user
    #[arg(long)]
    systemd: bool,
    /// Server to deploy to with --on ssh, as ssh takes it: root@server, or a name of its configuration
    #[arg(long, value_name = "HOST", value_parser = ssh_host, value_hint = ValueHint::Hostname)]
    host: Option<String>,
    #[command(flatten)]
    vm: VmArgs,
    #[command(flatten)]
    cloud: CloudArgs,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// How a cloud makes a machine.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of clouds (--on gce, --on hetzner)")]
struct CloudArgs {
    /// Project that pays, where the cloud has them
    #[arg(long, value_name = "PROJECT", value_hint = ValueHint::Other)]
    project: Option<String>,
    /// Where in the world: a zone of Google's, a location of Hetzner's
    #[arg(long, value_name = "ZONE", value_hint = ValueHint::Other)]
    zone: Option<String>,
    /// How large, in the cloud's words, as in n2d-standard-2 or cx23
    #[arg(long, value_name = "TYPE", value_hint = ValueHint::Other)]
    size: Option<String>,
    /// Encrypt its memory (SEV-SNP), and let its processor prove that
    #[arg(long)]
    confidential: bool,
    /// Keep its address when it is stopped
    #[arg(long)]
    static_address: bool,
}

/// How a virtual machine is made, with `--on qemu`.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of virtual machines (--on qemu)")]
struct VmArgs {
    /// Image to boot: the folder that `machine build` made; at a cloud, the name of a published one, the newest unless given
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    image: Option<PathBuf>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..=1_048_576), requires = "image", value_hint = ValueHint::Other)]
    memory: Option<u32>,
    /// Processors
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=255), requires = "image", value_hint = ValueHint::Other)]
    cpus: Option<u32>,
    /// What runs its instructions; auto takes the processor if that works here
    #[arg(long, value_name = "ACCEL", value_parser = clap::builder::PossibleValuesParser::new(Accel::ALL.map(Accel::as_str)), requires = "image")]
    accel: Option<String>,
    /// Give it a TPM, so that it can prove what it started
    #[arg(long, requires = "image")]
    tpm: bool,
    /// UEFI firmware (…CODE….fd, with …VARS….fd beside it); found unless given
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "image")]
    firmware: Option<PathBuf>,
    /// What it does when nothing can go on
    #[arg(long, value_name = "ACT", value_parser = clap::builder::PossibleValuesParser::new(["power-off", "reboot"]), requires = "image")]
    on_failure: Option<String>,
}

impl VmArgs {
    fn on_failure(&self) -> OnFailure {
        if self.on_failure.as_deref() == Some("reboot") { OnFailure::Reboot } else { OnFailure::PowerOff }
    }

    fn plan(self, on: Kind) -> Result<Option<VmPlan>> {
        let on_failure = self.on_failure();
        let image = match (on, self.image) {
            (Kind::Gce | Kind::Hetzner, _) | (Kind::Local | Kind::Ssh, None) => return Ok(None),
            (Kind::Local | Kind::Ssh, Some(_)) => {
                return Err(Error::new(Code::Usage, format!("--image is for virtual machines, and `--on {on}` is none"))
                    .hint("--on qemu --image FOLDER"));
            }
            (Kind::Qemu, Some(image)) => image,
            (Kind::Qemu, None) => {
                return Err(Error::new(Code::Usage, "a virtual machine needs an image to boot")
                    .hint("portdistrict machine build -o out && portdistrict machine deploy --on qemu --image out --label vm"));
            }
        };
        Ok(Some(VmPlan {
            image,
            memory: self.memory.unwrap_or(MEMORY),
            cpus: self.cpus.unwrap_or(CPUS),
            accel: Accel::ALL.into_iter().find(|accel| Some(accel.as_str()) == self.accel.as_deref()).unwrap_or_default(),
            tpm: self.tpm,
            firmware: self.firmware,
            on_failure,
        }))
    }
}

impl CloudArgs {
    fn plan(self, on: Kind, vm: &VmArgs) -> Result<Option<CloudPlan>> {
        if matches!(on, Kind::Gce | Kind::Hetzner) {
            let image = vm.image.as_ref().map(|name| name.display().to_string());
            let on_failure = vm.on_failure();
            let CloudArgs { project, zone, size, confidential, static_address } = self;
            return Ok(Some(CloudPlan { image, project, zone, size, confidential, static_address, on_failure }));
        }
        let given = [
            ("--project", self.project.is_some()),
            ("--zone", self.zone.is_some()),
            ("--size", self.size.is_some()),
            ("--confidential", self.confidential),
            ("--static-address", self.static_address),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::new(Code::Usage, format!("{name} is for clouds, and `--on {on}` is none")).hint("--on gce")),
            None => Ok(None),
        }
    }
}

/// A destination for ssh that it cannot take for an option or for words of a shell.
fn ssh_host(text: &str) -> Result<String> {
    let good = !text.is_empty()
        && !text.starts_with('-')
        && text.len() <= 255
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "@._-:[]%".contains(c));
    if good {
        return Ok(text.to_owned());
    }
    Err(Error::new(Code::Usage, format!("{text:?} is no server for ssh"))
        .hint("write it as root@server.example.org, or as a name of ~/.ssh/config"))
}

/// Take possession of a machine and pin its key
///
/// A machine with a TPM proves first that it runs the image it was deployed with; nothing is handed to one that does not. Nobody
/// else can claim it afterwards. Claiming it again finds it again and changes nothing.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  After a deploy:\n    portdistrict machine claim home")]
pub(super) struct ClaimArgs {
    /// Machine to claim
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
    #[command(flatten)]
    demand: super::attest::DemandArgs,
}

/// Find a machine again, for example after this computer was restarted
///
/// Starts it if it does not run, and checks that it still holds the key that was pinned when it was claimed.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  After a restart:\n    portdistrict machine reconnect home")]
pub(super) struct ReconnectArgs {
    /// Machine to find
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
    #[command(flatten)]
    demand: super::attest::DemandArgs,
}

/// List your machines
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See all machines and who uses them:\n    portdistrict machine list\n  For a program:\n    \
                             portdistrict machine list --json")]
pub(super) struct ListArgs {}

/// Show one machine: how it is now, who used it, and what is recorded
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Who uses it, and how much:\n    portdistrict machine show home")]
pub(super) struct ShowArgs {
    /// Machine to show
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
}

/// Print what a machine's node logged
///
/// The log names grants and reasons for refusals; where guests went is only in it if the machine was deployed with
/// --log-destinations. With --json the lines are printed as the node wrote them.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  The last lines:\n    portdistrict machine logs home --lines 50\n  Watch it until Ctrl-C:\n    \
                             portdistrict machine logs home --follow")]
pub(super) struct LogsArgs {
    /// Machine whose log to print
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
    /// Wait for more lines and print them as they come
    #[arg(long, short)]
    follow: bool,
    /// How many of the last lines to print
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 100, value_hint = ValueHint::Other)]
    lines: usize,
}

/// End a machine and remove everything that deploy made
///
/// This cannot be undone: its key is gone, and every invite to it is dead.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  See first what would be removed:\n    portdistrict machine destroy home --dry-run\n  \
                             Without being asked:\n    portdistrict machine destroy home --yes")]
pub(super) struct DestroyArgs {
    /// Machine to destroy
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Label,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Check what machines need, and say how to mend what is missing
///
/// Ends with status 6 if something fails.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Before the first deploy:\n    portdistrict machine doctor\n  When a machine does not answer:\n    \
                             portdistrict machine doctor home"
)]
pub(super) struct DoctorArgs {
    /// Machine to look at too
    #[arg(value_name = "LABEL", add = complete::machines())]
    label: Option<Label>,
    /// Provider whose needs to check
    #[arg(long, value_name = "PROVIDER", value_parser = providers(), default_value = "local")]
    on: String,
}

/// `host:port`, checked as far as that goes without asking the network.
pub(super) fn address(text: &str) -> Result<String> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host_is_good = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains(|c: char| c == ':' || c == '/' || c.is_whitespace()),
        };
        host_is_good && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if good {
        return Ok(text.to_owned());
    }
    Err(Error::new(Code::Usage, format!("{text:?} is not HOST:PORT")).hint("write it as exit.example.org:4433 or [2001:db8::1]:4433"))
}

/// A rule in the spelling the node uses.
pub(super) fn rule(text: &str) -> Result<String> {
    text.parse::<Rule>().map(|rule| rule.to_string())
}

/// Runs one of the family.
pub(super) fn run(call: &Call, command: MachineCommand) -> Result<()> {
    match command {
        MachineCommand::Build(args) => super::image::run_build(call, args),
        MachineCommand::Predict(args) => super::image::run_predict(call, args),
        MachineCommand::Publish(args) => super::publish::run(call, args),
        MachineCommand::Deploy(args) => deploy(call, args),
        MachineCommand::Claim(args) => claim(call, args),
        MachineCommand::Attest(args) => super::attest::run(call, args),
        MachineCommand::Reconnect(args) => reconnect(call, args),
        MachineCommand::List(_) => list(call),
        MachineCommand::Show(args) => show(call, &args.label),
        MachineCommand::Logs(args) => logs(call, &args),
        MachineCommand::Destroy(args) => destroy(call, &args),
        MachineCommand::Doctor(args) => {
            let cx = call.context()?;
            let checks = call.block_on(machine::doctor(&cx, args.on.parse()?, args.label.as_ref()))?;
            Checks::new(checks).show(call)
        }
    }
}

fn deploy(call: &Call, args: DeployArgs) -> Result<()> {
    let cx = call.context()?;
    let tor = match args.tor {
        true => Some(TorOrder { settings: call.tor_settings(&cx)?, self_test: !args.no_self_test }),
        false => None,
    };
    let on: Kind = args.on.parse()?;
    if args.host.is_some() != (on == Kind::Ssh) {
        return Err(Error::new(Code::Usage, "--host and --on ssh go together").hint("--on ssh --host root@server.example.org"));
    }
    let order = Order {
        on,
        label: args.label,
        listen: args.listen,
        port: args.port,
        addresses: args.address,
        allow: args.allow,
        log_destinations: args.log_destinations,
        claim_by_anyone: args.claim_by_anyone,
        service: args.systemd,
        source: args.seed.as_deref().map(str::parse).transpose()?,
        seed_file: args.seed_file,
        tor,
        cloud: args.cloud.plan(on, &args.vm)?,
        vm: args.vm.plan(on)?,
        host: args.host,
    };
    if args.dry_run {
        return call.out.show(&Steps { would: call.block_on(machine::describe(&cx, &order))? });
    }
    let progress = call.out.progress();
    let machine = match call.block_on(machine::deploy(&cx, &order, &*progress)) {
        Err(error) if matches!(error.code(), Code::Interrupted | Code::TimedOut) => return Err(give_up(call, &cx, &order.label, error)),
        done => done?,
    };
    let addresses = machine.detail.get("addresses").and_then(Value::as_array).into_iter().flatten();
    let addresses: Vec<String> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if !args.tor && args_are_private(&addresses) {
        call.out.say(
            "Friends outside your network cannot reach these addresses. If the router forwards a port, deploy with --port and --address; \
             with --tor it can be reached from everywhere.",
        );
    }
    call.out.say(format!("Next: portdistrict machine claim {}", machine.label));
    let onion = machine.detail.get(ONION).and_then(Value::as_str).map(str::to_owned);
    call.out.show(&Made { label: machine.label, provider: machine.provider, addresses, onion })
}

/// Removes what an interrupted deploy made elsewhere; interrupted again, it says what is left.
fn give_up(call: &Call, cx: &crate::context::Context, label: &Label, error: Error) -> Error {
    let progress = call.out.progress();
    match call.block_on(machine::undo(cx, label, &*progress)) {
        Ok(left) if left.is_empty() => error,
        Ok(left) => left.iter().fold(error, |error, left| error.because(left.to_string())),
        Err(_) => Error::new(error.code(), "Interrupted; what was made at the provider may still be there."),
    }
    .hint(format!("see what is left: portdistrict machine destroy {label} --dry-run"))
}

/// Whether every address is one that only this network knows.
fn args_are_private(addresses: &[String]) -> bool {
    use crate::node::egress::{Policy, Verdict};
    let outside = |text: &String| match text.parse::<std::net::SocketAddr>() {
        Ok(address) => matches!(Policy::default().check(address.ip(), address.port()), Verdict::Allowed),
        Err(_) => true,
    };
    !addresses.iter().any(outside)
}

/// What would be done.
#[derive(Serialize)]
pub(super) struct Steps {
    pub(super) would: Vec<String>,
}

impl View for Steps {
    fn text(&self, look: &Look) -> String {
        self.would.iter().map(|step| format!("{} {step}\n", look.dim("would"))).collect()
    }
}

/// A new machine.
#[derive(Serialize)]
struct Made {
    label: Label,
    provider: String,
    addresses: Vec<String>,
    onion: Option<String>,
}

impl View for Made {
    fn text(&self, look: &Look) -> String {
        let mut rows = vec![("machine", look.bold(&self.label)), ("on", self.provider.clone()), ("addresses", self.addresses.join(", "))];
        rows.extend(self.onion.clone().map(|onion| ("onion", onion)));
        fields(&rows)
    }
}

/// A machine that is ours.
#[derive(Serialize)]
struct Owned {
    label: Label,
    /// The id of the node's key, to compare by eye.
    node: String,
    version: String,
    seed_source: String,
    attestation: String,
    /// How far up the ladder of proof.
    rung: &'static str,
    /// It was ours before.
    again: bool,
}

impl View for Owned {
    fn text(&self, look: &Look) -> String {
        fields(&[
            ("machine", look.bold(&self.label)),
            ("node", self.node.clone()),
            ("version", clean(&self.version)),
            ("seed", seed_in_words(&self.seed_source)),
            ("attestation", self.attestation.clone()),
        ])
    }
}

fn claim(call: &Call, args: ClaimArgs) -> Result<()> {
    let cx = call.context()?;
    let progress = call.out.progress();
    let (label, demand) = (&args.label, args.demand.demand()?);
    let outcome = call.block_on(machine::claim(&cx, label, &demand, &*progress))?;
    if outcome.claimed.discovered {
        for line in machine::attest::to_record(&outcome.claimed.verdict) {
            call.out.say(format!("Accepted as found, on first use. To demand it from now on, write into a policy: {line}"));
        }
    }
    call.out.say(match outcome.claimed.again {
        true => format!("It was yours already. Next: portdistrict machine show {label}"),
        false => format!("It is yours. Next: portdistrict exit invite --node {label} --for FRIEND"),
    });
    call.out.show(&Owned {
        label: outcome.machine.label,
        node: node_id(&outcome.claimed.node),
        version: outcome.claimed.offer.version,
        seed_source: outcome.claimed.offer.seed_source,
        attestation: outcome.claimed.verdict.line(),
        rung: outcome.claimed.verdict.rung.as_str(),
        again: outcome.claimed.again,
    })
}

fn reconnect(call: &Call, args: ReconnectArgs) -> Result<()> {
    let cx = call.context()?;
    let progress = call.out.progress();
    let (label, demand) = (&args.label, args.demand.demand()?);
    let found = call.block_on(machine::reconnect(&cx, label, &demand, &*progress))?;
    call.out.say(if found.started { "It was not running; it is now." } else { "It is running." });
    let seen = call.block_on(async { Ok(machine::look(&cx, cx.ledger()?.machine(label)?).await) })?;
    call.out.show(&Sight::of(&cx, seen)?)
}

/// All machines.
#[derive(Serialize)]
struct Machines {
    machines: Vec<Sight>,
    /// Where what providers have differs from what is recorded.
    drift: Vec<machine::Drift>,
}

impl View for Machines {
    fn text(&self, look: &Look) -> String {
        let drift: String =
            self.drift.iter().map(|drift| format!("{} {}\n  hint: {}\n", look.bold(&drift.id), drift.what, drift.hint)).collect();
        if self.machines.is_empty() {
            return drift;
        }
        let row = |m: &Sight| {
            vec![
                m.label.to_string(),
                m.state.to_owned(),
                m.address.clone().unwrap_or_default(),
                m.use_in_words(),
                m.node.as_deref().map(short).unwrap_or_default(),
            ]
        };
        table(look, &["LABEL", "STATE", "ADDRESS", "USE", "NODE"], &self.machines.iter().map(row).collect::<Vec<_>>()) + &drift
    }
}

fn list(call: &Call) -> Result<()> {
    let cx = call.context()?;
    let (seen, drift) = call.block_on(async { tokio::try_join!(machine::look_at_all(&cx), machine::drift(&cx)) })?;
    if seen.is_empty() && drift.is_empty() {
        call.out.say("There is no machine yet. Make one: portdistrict machine deploy --on local --label home");
    }
    call.out.show(&Machines { machines: seen.into_iter().map(|seen| Sight::of(&cx, seen)).collect::<Result<_>>()?, drift })
}

fn show(call: &Call, label: &Label) -> Result<()> {
    let cx = call.context()?;
    let machine = cx.ledger()?.machine(label)?;
    let seen = call.block_on(async { Ok(machine::look(&cx, machine).await) })?;
    call.out.show(&Sight::of(&cx, seen)?)
}

fn logs(call: &Call, args: &LogsArgs) -> Result<()> {
    let cx = call.context()?;
    let json = call.out.json();
    let mut sink = |line: &str| {
        let text = if json { line.to_owned() } else { clean(&machine::message_of_log_line(line)) };
        call.out.raw((text + "\n").as_bytes())
    };
    call.block_on_while_read(machine::logs(&cx, &args.label, args.lines, args.follow, &mut sink))
}

fn destroy(call: &Call, args: &DestroyArgs) -> Result<()> {
    let cx = call.context()?;
    let would = machine::describe_destroy(&cx, &args.label)?;
    if args.dry_run {
        return call.out.show(&Steps { would });
    }
    call.out.confirm(&format!("Destroy `{}` for ever, with its key and its invites?", args.label))?;
    let progress = call.out.progress();
    call.block_on(machine::destroy(&cx, &args.label, &*progress))?;
    call.out.show(&Destroyed { destroyed: args.label.clone() })
}

/// A machine that is gone.
#[derive(Serialize)]
struct Destroyed {
    destroyed: Label,
}

impl View for Destroyed {
    fn text(&self, _: &Look) -> String {
        format!("Machine {} is gone.", self.destroyed)
    }
}

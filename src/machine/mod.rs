//! The operator's side of exit machines: deploy, claim, find again, look at, destroy.
//!
//! A provider makes and removes the machine; everything that must be remembered is a span in the ledger. What is on the
//! screen is no business of this module.

pub mod attest;
pub mod build;
pub mod capability;
pub mod check;
pub mod claim;
mod drift;
mod folder;
mod gce;
pub mod hetzner;
mod journal;
mod local;
pub mod logs;
mod node_files;
mod packages;
mod permit;
pub mod predict;
mod process;
pub mod provenance;
pub mod provider;
pub mod publish;
mod qemu;
mod seeds;
mod serial;
pub mod server;
mod service;
mod ssh;
mod tail;
mod tools;
pub mod watch;

pub use claim::Claimed;
pub use drift::{Drift, drift};
pub use journal::{Journal, Left};
pub use permit::tell as tell_policy;
pub use provider::{Accel, CloudPlan, Found, Kind, Plan, Power, Server, TorPlan, VmPlan};

use crate::attest::{Outcome, Rung, Verdict};
use crate::config::{Label, fs};
use crate::context::Context;
use crate::encoding::{base64, node_id};
use crate::error::{Code, Error, Result};
use crate::keyring::Seed;
use crate::ledger::kinds::{MachineClaimed, MachineDeployed, MachineDestroyed, MachineReconnected};
use crate::ledger::{B64, Machine};
use crate::owner::{self, Control, DEMAND, DIAL, IMAGE, ONION, ONION_RESTRICTED, SEED, SEED_SOURCE, dial_address, revocations};
use crate::policy::Asked;
use crate::progress::Progress;
use crate::proof;
use crate::session::messages::{MAX_ROTATIONS, OnionState, OnionStatus, Status};
use crate::session::seed::Source;
use crate::tor;
use check::Check;
use provider::{Provider, Site};
use seeds::{open_seed, read_seed, seal_seed, source, source_of};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long `list` and `status` wait for one machine.
const GLANCE: Duration = Duration::from_secs(3);

/// How long a node may take to begin anew with the seed that it was handed.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);
/// How long an onion service may take until a connection through the network reached it.
const ONION_PATIENCE: Duration = Duration::from_secs(180);
/// How often a node that begins is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What a person decides about a new machine.
pub struct Order {
    /// Where.
    pub on: Kind,
    /// Its name.
    pub label: Label,
    /// Address to listen on; every one if absent.
    pub listen: Option<IpAddr>,
    /// Port to listen on; 0 finds a free one.
    pub port: u16,
    /// `host:port` under which friends reach it.
    pub addresses: Vec<String>,
    /// Destinations allowed although the policy refuses them.
    pub allow: Vec<String>,
    /// Whether the node logs where its guests go.
    pub log_destinations: bool,
    /// Whether whoever comes first may claim it.
    pub claim_by_anyone: bool,
    /// Whether a service manager keeps it running.
    pub service: bool,
    /// Where its node's seed comes from; what is usual for the provider if absent.
    pub source: Option<Source>,
    /// File with the seed its node begins with; made if missing.
    pub seed_file: Option<PathBuf>,
    /// Whether it is an onion service, too.
    pub tor: Option<TorOrder>,
    /// The virtual machine, where it is one of this computer.
    pub vm: Option<VmPlan>,
    /// The virtual machine, where it is one of a cloud.
    pub cloud: Option<CloudPlan>,
    /// The server, where it is reached by SSH.
    pub host: Option<Server>,
}

/// What a person decides about a machine's onion service.
pub struct TorOrder {
    /// Arti's own settings and bridges.
    pub settings: tor::Settings,
    /// Ready only after a connection through the network.
    pub self_test: bool,
}

/// The plan for an order; refused if the label is taken.
pub fn plan(cx: &Context, order: &Order) -> Result<Plan> {
    if cx.ledger()?.machines()?.iter().any(|machine| machine.label == order.label) {
        return Err(Error::new(Code::Exists, format!("there is a machine `{}` already", order.label))
            .hint(format!("choose another label, or: portdistrict machine show {}", order.label)));
    }
    let source = source(order)?;
    let mut cover = [0; 32];
    getrandom::fill(&mut cover).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    Ok(Plan {
        label: order.label.clone(),
        dir: cx.paths().machine_dir(&order.label),
        owner: if order.claim_by_anyone { None } else { Some(cx.keyring()?.identity_public()) },
        cover,
        listen: order.listen,
        port: order.port,
        addresses: order.addresses.clone(),
        allow: order.allow.clone(),
        log_destinations: order.log_destinations,
        service: order.service,
        source,
        seed: order.seed_file.as_deref().map(read_seed).transpose()?.flatten(),
        tor: order.tor.as_ref().map(tor_plan).transpose()?,
        vm: order.vm.clone(),
        cloud: order.cloud.clone(),
        host: order.host.clone(),
    })
}

/// The settings travel with the machine: what is checked here is what it will use.
fn tor_plan(order: &TorOrder) -> Result<TorPlan> {
    order.settings.check()?;
    let settings_text = order.settings.file.as_deref().map(|file| fs::read(file, tor::MAX_SETTINGS)).transpose()?;
    Ok(TorPlan {
        settings_text: settings_text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        bridges: order.settings.bridges.clone(),
        self_test: order.self_test,
    })
}

/// What [`deploy`] would do, one sentence each.
pub async fn describe(cx: &Context, order: &Order) -> Result<Vec<String>> {
    let plan = plan(cx, order)?;
    permit::deploy(cx, order, Asked::DryRun)?;
    order.on.provider(cx).describe(&plan).await
}

/// Makes a machine and records it. Nothing is left behind if it fails or is dropped half way.
pub async fn deploy(cx: &Context, order: &Order, progress: &dyn Progress) -> Result<Machine> {
    // Before the label is looked up: of two, the second must neither make nor undo what the first one makes.
    let _lock = lock_label(cx, &order.label)?;
    let mut plan = plan(cx, order)?;
    permit::deploy(cx, order, Asked::InEarnest)?;
    if let (Some(file), None) = (&order.seed_file, &plan.seed) {
        // Written before it is used: an address that was handed out must be one that can be had again.
        let seed = Seed::random()?;
        fs::write_private(file, Zeroizing::new(base64(seed.expose())).as_bytes())?;
        plan.seed = Some(Zeroizing::new(*seed.expose()));
    }
    let mut detail = Map::new();
    if plan.source == Source::Owner {
        let seed = plan.seed.get_or_insert(Zeroizing::new(*Seed::random()?.expose()));
        detail.insert(SEED.to_owned(), seal_seed(cx, seed)?.into());
    }
    if plan.source.is_of_hardware() {
        detail.insert(SEED_SOURCE.to_owned(), plan.source.as_str().into());
    }
    let provider = order.on.provider(cx);
    let made = match provider.deploy(&plan, progress).await {
        Ok(made) => made,
        Err(error) => return Err(after_undoing(cx, &plan.label, error, progress).await),
    };
    detail.insert(DIAL.to_owned(), made.dial.into());
    detail.insert("addresses".to_owned(), made.addresses.clone().into());
    if let Some(image) = made.image {
        detail.insert(IMAGE.to_owned(), image.into());
    }
    if made.demand > Rung::Nothing {
        detail.insert(DEMAND.to_owned(), made.demand.as_str().into());
    }
    if let Some(onion) = made.onion {
        detail.insert(ONION.to_owned(), onion.address.to_string().into());
        detail.insert(ONION_RESTRICTED.to_owned(), onion.restricted.to_string().into());
    }
    let recorded = cx.record(&MachineDeployed {
        label: plan.label.clone(),
        provider: order.on.as_str().to_owned(),
        address: made.addresses.first().cloned(),
        node_key: None,
        owner: B64(cx.keyring()?.identity_public()),
        cover: Some(B64(plan.cover)),
        dir: Some(plan.dir.display().to_string()),
        detail,
    });
    if let Err(error) = recorded {
        provider.destroy(&Site { label: plan.label.clone(), dir: plan.dir.clone() }).await?;
        return Err(error);
    }
    cx.ledger()?.machine(&plan.label)
}

/// Held while a machine of this name is made.
fn lock_label(cx: &Context, label: &Label) -> Result<fs::Lock> {
    let folder = cx.paths().machines_dir();
    fs::ensure_private_dir(&folder)?;
    fs::try_lock(&folder.join(format!("{label}.lock")))?.ok_or_else(|| {
        Error::new(Code::Exists, format!("another command makes a machine `{label}` just now"))
            .hint(format!("wait for it, then: portdistrict machine show {label}"))
    })
}

/// Removes what a failed or interrupted deploy made elsewhere. What could not be removed stays recorded, and is named.
pub async fn undo(cx: &Context, label: &Label, progress: &dyn Progress) -> Result<Vec<Left>> {
    journal::undo(&Journal::of_machine(cx, label), progress).await
}

async fn after_undoing(cx: &Context, label: &Label, error: Error, progress: &dyn Progress) -> Error {
    match undo(cx, label, progress).await {
        Ok(left) if left.is_empty() => error,
        Ok(left) => left.iter().fold(error, |error, left| error.because(left.to_string())).hint(retry_destroy(label)),
        Err(also) => error.because(format!("what it made may still be there: {also}")).hint(retry_destroy(label)),
    }
}

fn retry_destroy(label: &Label) -> String {
    format!("remove what is left: portdistrict machine destroy {label} --yes")
}

/// What [`claim()`] did.
pub struct ClaimOutcome {
    /// The machine as it is recorded now.
    pub machine: Machine,
    /// What the node said of itself.
    pub claimed: Claimed,
}

/// Takes possession of a machine that proves what is demanded of it, and pins its key; a second time it finds the machine again.
pub async fn claim(cx: &Context, label: &Label, demand: &attest::Demand, progress: &dyn Progress) -> Result<ClaimOutcome> {
    let mut machine = cx.ledger()?.machine(label)?;
    let cover = machine.cover.ok_or_else(|| {
        Error::new(Code::Precondition, format!("the bootstrap key of machine `{label}` is not known here"))
            .hint(format!("portdistrict machine reconnect {label}"))
    })?;
    if let Some((provider, site)) = place(cx, &machine) {
        provider.start(&site, progress).await?;
        machine = cx.ledger()?.machine(label)?;
    }
    let seed = open_seed(cx, &machine)?;
    let claimed = possess(cx, &machine, &cover, seed.as_ref(), demand, progress).await?;
    match machine.node_key {
        Some(B64(pinned)) if pinned != claimed.node => return Err(changed_key(label, &pinned, &claimed.node)),
        Some(_) => {
            cx.record(&MachineReconnected { label: label.clone(), address: None, node_key: None })?;
        }
        None => {
            cx.record(&MachineClaimed {
                label: label.clone(),
                node_key: B64(claimed.node),
                address: None,
                seed_source: claimed.offer.seed_source.clone(),
                evidence: claimed.verdict.kind.to_owned(),
            })?;
        }
    }
    record_proof(cx, label, &claimed)?;
    let machine = cx.ledger()?.machine(label)?;
    if source_of(&machine) != Source::Local || succeeded(cx, &machine) {
        settle(cx, &machine, progress).await?;
    }
    Ok(ClaimOutcome { machine, claimed })
}

/// A machine that shows nothing, and of which nothing was demanded, gave nothing to verify.
fn record_proof(cx: &Context, label: &Label, claimed: &Claimed) -> Result<()> {
    if claimed.verdict.kind == "none" {
        return Ok(());
    }
    proof::record(cx, label, claimed.node, &claimed.verdict, claimed.discovered)
}

/// The conversation of a claim. What was not proved is recorded as refused, and nothing was handed over.
async fn possess(
    cx: &Context,
    machine: &Machine,
    cover: &B64<32>,
    seed: Option<&Seed>,
    demand: &attest::Demand,
    progress: &dyn Progress,
) -> Result<Claimed> {
    let label = &machine.label;
    let terms = attest::terms(cx, machine, demand)?;
    let permit = |verdict: &Verdict| permit::claim(cx, label, verdict);
    let rotations = cx.ledger()?.rotations()?;
    // The newest ones: a machine that was not visited for longer than that is one of an identity that nobody has any more.
    let rotations = &rotations[rotations.len().saturating_sub(MAX_ROTATIONS)..];
    let (address, source) = (dial_address(machine)?, source_of(machine));
    let target = claim::Target { address, cover: &cover.0, label, source, seed, permit: &permit, rotations };
    match claim::claim(&target, terms, demand.discover, cx.keyring()?, progress).await {
        Ok(claimed) => Ok(claimed),
        Err(claim::Failure::Error(error)) => Err(error),
        Err(claim::Failure::Unproved(node, verdict)) => {
            // Before it has its seed it answers with a key that it forgets; the machine is known by the pinned one.
            proof::record(cx, label, machine.node_key.map_or(node, |B64(pinned)| pinned), &verdict, false)?;
            let hint = format!("see why: portdistrict machine logs {label}; to start over: portdistrict machine destroy {label}");
            Err(proof::refusal(label.as_str(), &verdict, hint))
        }
    }
}

/// Waits until a node that was handed its seed has begun anew with it, and can be reached by every way that it offers.
async fn settle(cx: &Context, machine: &Machine, progress: &dyn Progress) -> Result<Status> {
    let mut step = Some(progress.step("wait for the node"));
    let mut deadline = Instant::now() + SETTLE_PATIENCE;
    let mut publishing = false;
    let mut told = false;
    // One session for as long as it lasts: the node logs each.
    let mut control = None;
    loop {
        let asked = ask_again(cx, machine, &mut control).await;
        if asked.is_ok() && !told {
            // It has forgotten who was cut off; nothing else may come first.
            revocations::push(cx, machine).await?;
            told = true;
        }
        match asked {
            Ok(status) if status.tor_off || status.onion.as_ref().is_none_or(|onion| onion.state.is_reachable()) => {
                step.into_iter().for_each(crate::progress::Step::done);
                return Ok(status);
            }
            Ok(status) => {
                if !publishing {
                    step.take().into_iter().for_each(crate::progress::Step::done);
                    step = Some(progress.step("publish the onion service"));
                    (publishing, deadline) = (true, Instant::now() + ONION_PATIENCE);
                }
                if let (Some(step), Some(onion)) = (&step, &status.onion) {
                    step.note(&onion.stage());
                }
                if Instant::now() > deadline {
                    return Err(onion_late(&machine.label, status.onion.and_then(|onion| onion.reason)));
                }
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The node's state, over the session that is open, or over a new one.
async fn ask_again(cx: &Context, machine: &Machine, control: &mut Option<Control>) -> Result<Status> {
    let open = match control.take() {
        Some(open) => open,
        None => Control::open(cx, machine).await?,
    };
    let status = open.status().await?;
    *control = Some(open);
    Ok(status)
}

/// An onion service that nobody reaches; what it said last is the best explanation there is.
pub(crate) fn onion_late(label: &Label, said: Option<String>) -> Error {
    let error = Error::new(
        Code::TimedOut,
        format!("the onion service of `{label}` could not be reached within {} seconds", ONION_PATIENCE.as_secs()),
    );
    said.into_iter()
        .fold(error, Error::because)
        .hint("if Tor is blocked where the machine stands, give it bridges: [tor] bridges = [\"…\"] in config.toml")
}

fn changed_key(label: &Label, pinned: &[u8; 32], found: &[u8; 32]) -> Error {
    Error::new(Code::Refused, format!("machine `{label}` has another key than when it was claimed; nothing was changed"))
        .because(format!("pinned {}, found {}", node_id(pinned), node_id(found)))
        .because("its state folder was replaced, or another node answers there")
        .hint(format!("find out why first; to start over: portdistrict machine destroy {label}"))
}

/// Whether the machine was deployed under an identity that was rotated since.
fn succeeded(cx: &Context, machine: &Machine) -> bool {
    cx.keyring().is_ok_and(|keyring| keyring.identity_public() != machine.owner.0 && keyring.seed_of(&machine.owner.0).is_some())
}

/// What [`reconnect`] found.
pub struct Reconnected {
    /// Whether the machine had to be started.
    pub started: bool,
    /// How it is now.
    pub status: Status,
}

/// Finds a claimed machine again, starts it if it does not run, and checks that it still holds the pinned key.
pub async fn reconnect(cx: &Context, label: &Label, demand: &attest::Demand, progress: &dyn Progress) -> Result<Reconnected> {
    let mut machine = cx.ledger()?.machine(label)?;
    let mut started = false;
    if let Some((provider, site)) = place(cx, &machine) {
        started = provider.start(&site, progress).await?;
        // It may have another address since.
        machine = cx.ledger()?.machine(label)?;
    }
    if machine.node_key.is_none() {
        return Err(owner::not_claimed(label));
    }
    let status = match machine.cover.filter(|_| source_of(&machine) != Source::Local) {
        Some(cover) => {
            // It may have begun anew and forgotten everything: who owns it, and perhaps who it is.
            let seed = open_seed(cx, &machine)?;
            let claimed = possess(cx, &machine, &cover, seed.as_ref(), demand, progress).await?;
            if let Some(B64(pinned)) = machine.node_key.filter(|key| key.0 != claimed.node) {
                return Err(changed_key(label, &pinned, &claimed.node));
            }
            record_proof(cx, label, &claimed)?;
            settle(cx, &machine, progress).await?
        }
        None => {
            if let Some(cover) = machine.cover.filter(|_| succeeded(cx, &machine)) {
                // It may know the identity of before: it hears of the rotation first.
                let claimed = possess(cx, &machine, &cover, None, demand, progress).await?;
                if let Some(B64(pinned)) = machine.node_key.filter(|key| key.0 != claimed.node) {
                    return Err(changed_key(label, &pinned, &claimed.node));
                }
                settle(cx, &machine, progress).await?;
            }
            let step = progress.step("ask the node");
            let status = Control::open(cx, &machine).await?.status().await?;
            step.done();
            if demand.says_something() {
                let attested = attest::attest(cx, label, demand, progress).await?;
                if attested.verdict.outcome != Outcome::Verified {
                    return Err(proof::refusal(
                        label.as_str(),
                        &attested.verdict,
                        format!("portdistrict machine attest {label} --explain"),
                    ));
                }
            }
            status
        }
    };
    // It may have been away when friends were cut off.
    revocations::push(cx, &machine).await?;
    cx.record(&MachineReconnected { label: label.clone(), address: None, node_key: None })?;
    Ok(Reconnected { started, status })
}

/// A machine as recorded, as its provider sees it, and as it says of itself.
pub struct Seen {
    /// From the ledger.
    pub machine: Machine,
    /// From its provider.
    pub power: Power,
    /// Its process on this computer, if it is one and runs.
    pub pid: Option<i32>,
    /// From the node; an error says why it cannot be asked.
    pub live: Result<Status>,
}

/// Looks at one machine, waiting at most a moment.
pub async fn look(cx: &Context, machine: Machine) -> Seen {
    let (power, pid) = from_outside(cx, &machine).await;
    let live = glance(&machine.label, power, async { Control::open(cx, &machine).await?.status().await }).await;
    Seen { machine, power, pid, live }
}

/// How its provider sees it, and its process if it is one on this computer.
async fn from_outside(cx: &Context, machine: &Machine) -> (Power, Option<i32>) {
    match place(cx, machine) {
        Some((provider, site)) => (provider.power(&site).await.unwrap_or(Power::Off), provider.pid(&site)),
        None => (Power::On, None),
    }
}

/// Asks a node that its provider sees running, waiting at most a moment.
async fn glance<T>(label: &Label, power: Power, ask: impl Future<Output = Result<T>>) -> Result<T> {
    match power {
        Power::On => tokio::time::timeout(GLANCE, ask).await.unwrap_or_else(|_| {
            Err(Error::new(Code::TimedOut, format!("machine `{label}` did not answer within {} seconds", GLANCE.as_secs()))
                .hint(format!("portdistrict machine logs {label}")))
        }),
        Power::Booting => Err(Error::new(Code::Unreachable, format!("machine `{label}` is not up yet"))
            .hint(format!("portdistrict machine logs {label} --follow"))),
        Power::Off => Err(Error::new(Code::Unreachable, format!("machine `{label}` does not run"))
            .hint(format!("portdistrict machine reconnect {label}"))),
        Power::Gone => Err(Error::new(Code::NotFound, format!("the files of machine `{label}` are gone"))
            .hint(format!("portdistrict machine destroy {label} --yes"))),
    }
}

/// Looks at every machine at the same time.
pub async fn look_at_all(cx: &Context) -> Result<Vec<Seen>> {
    let mut waiting: Vec<_> = cx.ledger()?.machines()?.into_iter().map(|machine| Box::pin(look(cx, machine))).collect();
    let mut seen: Vec<Option<Seen>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|task| {
        for (slot, work) in seen.iter_mut().zip(&mut waiting) {
            if slot.is_none()
                && let std::task::Poll::Ready(done) = work.as_mut().poll(task)
            {
                *slot = Some(done);
            }
        }
        if seen.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    Ok(seen.into_iter().flatten().collect())
}

/// Labels of which there are files but no record: a deploy was killed half way.
pub fn leftovers(cx: &Context) -> Result<Vec<Label>> {
    let known = cx.ledger()?.machines()?;
    let Ok(folder) = std::fs::read_dir(cx.paths().machines_dir()) else { return Ok(Vec::new()) };
    let labels = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut left: Vec<Label> = labels.filter(|label| !known.iter().any(|machine| machine.label == *label)).collect();
    left.sort();
    Ok(left)
}

/// What [`destroy`] would do, one sentence each.
pub fn describe_destroy(cx: &Context, label: &Label) -> Result<Vec<String>> {
    let (dir, elsewhere) = (cx.paths().machine_dir(label), Journal::of_machine(cx, label).open()?);
    if !dir.exists() && elsewhere.is_empty() {
        cx.ledger()?.machine(label)?;
    }
    let mut steps = vec!["end the node, and with it every guest's streams".to_owned()];
    steps.extend(elsewhere.iter().rev().map(|resource| format!("remove {}", journal::in_words(resource))));
    if dir.exists() {
        steps.push(format!("remove {} with the node's key: its invites are dead for ever", dir.display()));
    }
    Ok(steps)
}

/// Forgets what a machine has at a place that is gone for good, after a last attempt to remove it; returns what may still be there.
pub async fn forget(cx: &Context, label: &Label, progress: &dyn Progress) -> Result<Vec<Left>> {
    let left = undo(cx, label, progress).await?;
    let journal = Journal::of_machine(cx, label);
    left.iter().try_for_each(|left| journal.removed(&left.resource))?;
    Ok(left)
}

/// Ends a machine and removes everything that deploy made, also what a killed deploy left without a record.
pub async fn destroy(cx: &Context, label: &Label, progress: &dyn Progress) -> Result<()> {
    let recorded = cx.ledger()?.machine(label);
    let left = undo(cx, label, progress).await?;
    if !left.is_empty() {
        let error = Error::new(Code::Failed, format!("machine `{label}` could not be removed altogether"));
        return Err(left.iter().fold(error, |error, left| error.because(left.to_string())).hint(retry_destroy(label)));
    }
    match recorded {
        Ok(machine) => {
            let (provider, site) = known_place(cx, &machine)?;
            provider.destroy(&site).await?;
            cx.record(&MachineDestroyed { label: label.clone() }).map(|_| ())
        }
        Err(error) => {
            let dir = cx.paths().machine_dir(label);
            if error.code() != Code::NotFound {
                return Err(error);
            }
            if !dir.exists() {
                return Ok(());
            }
            kind_of(&dir).provider(cx).destroy(&Site { label: label.clone(), dir }).await
        }
    }
}

/// Whose folder it is, where no record says so.
fn kind_of(dir: &Path) -> Kind {
    if qemu::is_here(dir) { Kind::Qemu } else { Kind::Local }
}

/// What a provider needs, and how one machine is.
pub async fn doctor(cx: &Context, on: Kind, label: Option<&Label>) -> Result<Vec<Check>> {
    let Some(label) = label else {
        let mut checks = on.provider(cx).doctor(None).await?;
        if on.keeps_no_seed() {
            checks.extend(packages::checks(cx.paths()));
        }
        return Ok(checks);
    };
    let machine = cx.ledger()?.machine(label)?;
    let (provider, site) = known_place(cx, &machine)?;
    let mut checks = provider.doctor(Some(&site)).await?;
    match look(cx, machine).await.live {
        Ok(status) => {
            checks.push(check_clock(status.now, cx.now()));
            checks.push(Check::pass("control", format!("answers its owner, version {}", status.version)));
            checks.extend(status.onion.as_ref().filter(|_| !status.tor_off).map(check_onion));
        }
        Err(error) => checks.push(Check::failed("control", &error)),
    }
    Ok(checks)
}

/// Handshakes carry the time: clocks far apart cannot talk.
fn check_clock(theirs: u64, ours: u64) -> Check {
    match theirs.abs_diff(ours) {
        0..=60 => Check::pass("clock", "agrees with this computer's"),
        apart => Check::fail(
            "clock",
            format!("{apart} seconds apart from this computer's"),
            "switch on time synchronisation on both: timedatectl set-ntp true",
        ),
    }
}

fn check_onion(onion: &OnionStatus) -> Check {
    let reason = onion.reason.clone().unwrap_or_default();
    let state = onion.state.as_str();
    match onion.state {
        OnionState::Ready => Check::pass("onion", "a connection through the Tor network reached it"),
        OnionState::Joining => Check::fail(
            "onion",
            format!("{state}, {} %: {reason}", onion.percent),
            "if Tor is blocked where the machine stands, deploy it with bridges: [tor] bridges = [\"…\"] in config.toml",
        ),
        OnionState::Publishing | OnionState::Degraded | OnionState::Unreachable => {
            Check::fail("onion", format!("{state}: {reason}"), "it mends itself as far as it can; wait a minute, then look again")
        }
    }
}

/// The provider of a machine and what it must know; none for machines that another version recorded.
fn place<'c>(cx: &'c Context, machine: &Machine) -> Option<(Box<dyn Provider + 'c>, Site)> {
    let kind: Kind = machine.provider.parse().ok()?;
    Some((kind.provider(cx), Site { label: machine.label.clone(), dir: cx.paths().machine_dir(&machine.label) }))
}

fn known_place<'c>(cx: &'c Context, machine: &Machine) -> Result<(Box<dyn Provider + 'c>, Site)> {
    place(cx, machine).ok_or_else(|| {
        Error::new(Code::Failed, format!("machine `{}` is on `{}`, which this version does not know", machine.label, machine.provider))
            .hint("upgrade portdistrict")
    })
}

/// A line of a node's log in words: `12:03:04 session.refused grant=7QK2 reason=grant-expired`.
pub fn message_of_log_line(line: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return line.to_owned() };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let head = ["time", "event"].iter().filter_map(|name| fields.get(*name)).map(plain);
    let rest = fields
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "time" | "event"))
        .map(|(name, value)| format!("{name}={}", plain(value)));
    head.chain(rest).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_read_as_words() {
        let line = r#"{"time":"2026-05-03T14:00:00Z","event":"session.refused","reason":"grant-expired","port":7}"#;
        assert_eq!(message_of_log_line(line), "2026-05-03T14:00:00Z session.refused port=7 reason=grant-expired");
        assert_eq!(message_of_log_line("thread panicked"), "thread panicked");
    }

    #[test]
    fn clocks_may_differ_by_a_minute() {
        use check::Outcome;
        assert_eq!(check_clock(1000, 1060).outcome, Outcome::Pass);
        assert_eq!(check_clock(1000, 1061).outcome, Outcome::Fail);
        assert_eq!(check_clock(1061, 1000).outcome, Outcome::Fail);
    }
}

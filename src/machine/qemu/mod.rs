//! Virtual machines on this computer: an image under QEMU, detached, with a forwarded port and its serial console in a file.

mod accel;
mod command;
mod disk;
mod serial;

use super::check::Check;
use super::folder::Folder;
use super::local::{addresses, check_folder, check_process, choose_address, dial_address, host};
use super::process::Process;
use super::provider::{Deployed, Job, LineSink, Onions, Plan, Power, Provider, Site, VmPlan};
use super::{tail, tools};
use crate::config::fs::{read, write_private};
use crate::config::time::now_s;
use crate::encoding::base64;
use crate::error::{Code, Error, Result};
use crate::keyring::{Purpose, Seed};
use crate::owner::metadata::{self, Metadata, OnFailure};
use crate::progress::{Progress, Step};
use crate::tor::onion_address;
use command::{Firmware, Vm};
use serial::Serial;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a machine may take until its node listens. Emulated on a busy computer it takes a minute.
const BOOT_PATIENCE: Duration = Duration::from_secs(240);
/// How long QEMU may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How often the console is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The oldest QEMU that knows all that is asked of it.
const OLDEST_QEMU: u32 = 6;

/// The files of one machine.
struct Files {
    vm: PathBuf,
    metadata: PathBuf,
    disk: PathBuf,
    vars: PathBuf,
    serial: PathBuf,
    pid: PathBuf,
    process: PathBuf,
    tpm_process: PathBuf,
}

impl Files {
    fn of(dir: &Path) -> Files {
        Files {
            vm: dir.join(command::VM),
            metadata: dir.join(command::METADATA),
            disk: dir.join(command::DISK),
            vars: dir.join(command::VARS),
            serial: dir.join(command::SERIAL),
            pid: dir.join(command::PID),
            process: dir.join("process.json"),
            tpm_process: dir.join("tpm.json"),
        }
    }
}

/// Whether a folder is one of this provider's.
pub(super) fn is_here(dir: &Path) -> bool {
    Files::of(dir).vm.exists()
}

/// The provider.
pub(super) struct Qemu;

impl Provider for Qemu {
    fn describe(&self, plan: &Plan) -> Result<Vec<String>> {
        let vm = vm_of(plan)?;
        let listen = forwarded(plan)?;
        let image = disk::find(&vm.image)?;
        let port = if plan.port == 0 { "a free port".to_owned() } else { format!("port {}", plan.port) };
        let mut steps = vec![
            format!("make the folder {}", plan.dir.display()),
            format!("copy the image {} into it, and check its digest", image.disk.display()),
            format!("start QEMU with {} MiB of memory and {} of {}", vm.memory, plural(vm.cpus, "processor"), "this computer"),
            format!("forward {port} of {} to it", listen.ip()),
            format!("give friends the address {}", addresses(plan, listen).iter().map(|a| host(a)).collect::<Vec<_>>().join(", ")),
            "let nobody but you claim it".to_owned(),
        ];
        if vm.tpm {
            steps.push("give it a TPM, emulated by swtpm".to_owned());
        }
        if plan.tor.is_some() {
            steps.push("publish an onion service once it is claimed".to_owned());
        }
        Ok(steps)
    }

    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed> {
        Box::pin(async move {
            let vm = vm_of(plan)?;
            let tools = command::Tools::find(vm.tpm)?;
            let version = command::version(&tools.qemu)?;
            if version.0 < OLDEST_QEMU {
                return Err(too_old(version));
            }
            let firmware = Firmware::find(vm.firmware.as_deref())?;
            let listen = forwarded(plan)?;
            let step = progress.step("copy the image");
            let folder = Folder::create(&plan.label, &plan.dir)?;
            let files = Files::of(&plan.dir);
            disk::copy(&disk::find(&vm.image)?, &files.disk, &*step)?;
            step.done();
            let accel = accel::choose(vm.accel, &tools.qemu, &plan.dir)?;
            write_private(&files.metadata, &metadata_of(plan, vm)?.to_json()?)?;
            firmware.copy_variables(&files.vars)?;
            Vm {
                label: plan.label.clone(),
                memory: vm.memory,
                cpus: vm.cpus,
                accel: accel.to_owned(),
                tpm: vm.tpm,
                reboots: vm.on_failure == OnFailure::Reboot,
                firmware: firmware.code,
                listen,
                guest_port: metadata::PORT,
            }
            .save(&files.vm)?;
            let site = Site { label: plan.label.clone(), dir: plan.dir.clone() };
            let mut running = Unfinished(Some(&site));
            boot(&site, progress).await?;
            running.0 = None;
            folder.keep();
            let onion = plan.tor.as_ref().and(plan.seed.as_ref()).map(|seed| onions(seed));
            Ok(Deployed { dial: dial_address(listen).to_string(), addresses: addresses(plan, listen), onion })
        })
    }

    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool> {
        Box::pin(async move {
            match self.power(site).await? {
                Power::On => Ok(false),
                Power::Booting => wait(site, 0, progress.step("boot the machine")).await.map(|()| false),
                Power::Gone => Err(gone(site)),
                Power::Off => boot(site, progress).await.map(|()| true),
            }
        })
    }

    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let files = Files::of(&site.dir);
            for process in [process(site), Process::load(&files.tpm_process)?].into_iter().flatten() {
                process.end(END_PATIENCE).await?;
            }
            Ok(())
        })
    }

    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power> {
        Box::pin(async move {
            if !is_here(&site.dir) {
                return Ok(Power::Gone);
            }
            Ok(match process(site).is_some_and(|process| process.is_running()) {
                false => Power::Off,
                true if Serial::read(&Files::of(&site.dir).serial, 0).is_ready() => Power::On,
                true => Power::Booting,
            })
        })
    }

    fn pid(&self, site: &Site) -> Option<i32> {
        process(site).filter(Process::is_running).map(|process| process.pid)
    }

    fn logs<'a>(&'a self, site: &'a Site, lines: usize, follow: bool, sink: LineSink<'a>) -> Job<'a, ()> {
        Box::pin(async move {
            let mut clean = |line: &str| match serial::words(line) {
                Some(words) => sink(&words),
                None => Ok(true),
            };
            tail::tail(&Files::of(&site.dir).serial, lines, follow, &mut clean).await
        })
    }

    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            self.stop(site).await?;
            super::folder::remove(&site.dir)
        })
    }

    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>> {
        Box::pin(async move {
            let mut checks = vec![check_qemu(), check_firmware(), check_tpm(), check_kvm()];
            if let Some(site) = site {
                checks.push(check_folder(site));
                checks.push(check_process(self.power(site).await, site));
            }
            Ok(checks)
        })
    }
}

fn plural(n: u32, noun: &str) -> String {
    if n == 1 { format!("{n} {noun}") } else { format!("{n} {noun}s") }
}

fn vm_of(plan: &Plan) -> Result<&VmPlan> {
    let vm = plan.vm.as_ref().ok_or_else(|| {
        Error::new(Code::Usage, "a virtual machine needs an image")
            .hint("portdistrict machine build -o out && portdistrict machine deploy --on qemu --image out --label vm")
    })?;
    if plan.owner.is_none() {
        return Err(
            Error::new(Code::Usage, "an image is claimed by the one who deployed it, and nobody else").hint("leave --claim-by-anyone away")
        );
    }
    Ok(vm)
}

/// The address and port of this computer that lead to the machine; QEMU's own network forwards IPv4 only.
fn forwarded(plan: &Plan) -> Result<SocketAddr> {
    match plan.listen {
        Some(IpAddr::V6(ip)) => Err(Error::new(Code::Usage, format!("QEMU's network cannot forward the IPv6 address {ip}"))
            .hint("name an IPv4 address, or leave --listen away")),
        other => choose_address(Some(other.unwrap_or(Ipv4Addr::UNSPECIFIED.into())), plan.port),
    }
}

fn metadata_of(plan: &Plan, vm: &VmPlan) -> Result<Metadata> {
    let owner = plan
        .owner
        .ok_or_else(|| Error::new(Code::Usage, "a machine that boots an image needs an owner").hint("leave --claim-by-anyone away"))?;
    let tor = plan.tor.as_ref().map(|tor| metadata::Tor {
        settings: tor.settings_text.clone(),
        bridges: tor.bridges.clone(),
        self_test: tor.self_test,
    });
    Ok(Metadata {
        portdistrict: metadata::VERSION,
        label: plan.label.clone(),
        owner: base64(&owner),
        cover: base64(&plan.cover),
        made_at: now_s(),
        port: metadata::PORT,
        allow: plan.allow.clone(),
        name_servers: Vec::new(),
        log_destinations: plan.log_destinations,
        tor,
        on_failure: vm.on_failure,
    })
}

fn onions(seed: &[u8; 32]) -> Onions {
    let seed = Seed::from_bytes(seed);
    Onions {
        address: onion_address(&seed.derive(Purpose::NodeOnion)),
        restricted: onion_address(&seed.derive(Purpose::NodeOnionRestricted)),
    }
}

/// The machine's process; that of a deploy that was killed is known by the file that QEMU itself wrote.
fn process(site: &Site) -> Option<Process> {
    let files = Files::of(&site.dir);
    if let Ok(Some(process)) = Process::load(&files.process) {
        return Some(process);
    }
    let pid = String::from_utf8(read(&files.pid, 64).ok()?).ok()?.trim().parse().ok()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let name = command::name(&site.label);
    arguments.split(|byte| *byte == 0).any(|word| word == name.as_bytes()).then(|| Process::of(pid).ok()).flatten()
}

/// What runs is ended again unless the deploy finishes.
struct Unfinished<'a>(Option<&'a Site>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Some(site) = self.0 else { return };
        let tpm = Process::load(&Files::of(&site.dir).tpm_process).ok().flatten();
        for process in [process(site), tpm].into_iter().flatten() {
            process.kill();
        }
    }
}

/// Starts QEMU and waits until the node says that it is ready.
async fn boot(site: &Site, progress: &dyn Progress) -> Result<()> {
    let files = Files::of(&site.dir);
    let vm = Vm::load(&files.vm)?;
    let tools = command::Tools::find(vm.tpm)?;
    let step = progress.step("boot the machine");
    let seen = std::fs::metadata(&files.serial).map_or(0, |found| found.len());
    for old in [&files.process, &files.tpm_process, &files.pid] {
        let _ = std::fs::remove_file(old);
    }
    if vm.tpm {
        command::start_tpm(&tools, &site.dir)?.save(&files.tpm_process)?;
    }
    command::start(&tools, &vm, &site.dir)?.save(&files.process)?;
    wait(site, seen, step).await
}

/// Waits for the node's word on the console, from `seen` on; for the end of the process; or for the end of patience.
async fn wait(site: &Site, seen: u64, step: Box<dyn Step>) -> Result<()> {
    let files = Files::of(&site.dir);
    let deadline = Instant::now() + BOOT_PATIENCE;
    let mut last = None;
    loop {
        let running = process(site).is_some_and(|process| process.is_running());
        let serial = Serial::read(&files.serial, seen);
        if serial.is_ready() {
            step.done();
            return Ok(());
        }
        if let Some(why) = serial.failure() {
            settle_down(site, deadline).await;
            return Err(Error::new(Code::Failed, format!("the machine `{}` cannot go on: {why}", site.label))
                .hint(format!("portdistrict machine logs {}", site.label)));
        }
        if !running {
            return Err(not_ready(site, &serial, "it ended", Code::Failed));
        }
        if Instant::now() > deadline {
            return Err(not_ready(site, &serial, &format!("it said nothing for {} seconds", BOOT_PATIENCE.as_secs()), Code::TimedOut));
        }
        let stage = serial.stage();
        if last != Some(stage) {
            step.note(stage);
            last = Some(stage);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A machine that cannot go on powers itself off; one that would begin anew, or hangs in its firmware, is left running.
async fn settle_down(site: &Site, deadline: Instant) {
    let deadline = deadline.min(Instant::now() + END_PATIENCE);
    while Instant::now() < deadline && process(site).is_some_and(|process| process.is_running()) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the console said last is the best explanation there is.
fn not_ready(site: &Site, serial: &Serial, why: &str, code: Code) -> Error {
    let error = Error::new(code, format!("the machine `{}` did not get ready: {why}", site.label));
    let (complaint, hint) = command::complaint(&site.dir);
    let error = serial.last_lines(3).into_iter().chain(complaint).fold(error, Error::because);
    error.hint(hint.unwrap_or("portdistrict machine doctor --on qemu"))
}

fn gone(site: &Site) -> Error {
    Error::new(Code::NotFound, format!("the files of machine `{}` are gone: {}", site.label, site.dir.display()))
        .hint(format!("portdistrict machine destroy {} --yes", site.label))
}

fn check_qemu() -> Check {
    match command::Tools::find(false).and_then(|tools| command::version(&tools.qemu)) {
        Ok(version) if version.0 >= OLDEST_QEMU => Check::pass("qemu", format!("version {}.{}", version.0, version.1)),
        Ok(version) => Check::failed("qemu", &too_old(version)),
        Err(error) => Check::failed("qemu", &error),
    }
}

/// A QEMU that does not know all that is asked of it.
fn too_old((major, minor): (u32, u32)) -> Error {
    Error::new(Code::Precondition, format!("QEMU {major}.{minor} is too old")).hint(format!("install QEMU {OLDEST_QEMU}.0 or later"))
}

fn check_firmware() -> Check {
    match Firmware::find(None) {
        Ok(firmware) => Check::pass("firmware", firmware.code.display().to_string()),
        Err(error) => Check::failed("firmware", &error),
    }
}

fn check_tpm() -> Check {
    match tools::find("swtpm") {
        Some(path) => Check::pass("swtpm", path.display().to_string()),
        None => Check::skip("swtpm", "not installed; only --tpm needs it: apt-get install swtpm"),
    }
}

fn check_kvm() -> Check {
    let works = tools::find("qemu-system-x86_64").is_some_and(|qemu| accel::kvm_works(&qemu, &std::env::temp_dir()));
    match works {
        true => Check::pass("kvm", "the processor runs virtual machines"),
        false => Check::skip("kvm", "not usable here; machines are emulated, which is slow"),
    }
}

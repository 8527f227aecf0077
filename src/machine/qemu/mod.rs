//! Virtual machines on this computer: an image under QEMU, detached, with a forwarded port and its serial console in a file.

mod accel;
mod command;
mod disk;
mod run;
mod tpm;

use super::check::Check;
use super::folder::Folder;
use super::local::{addresses, check_folder, check_process, choose_address, dial_address, host};
use super::provider::{Deployed, Expectation, Job, LineSink, Onions, Plan, Power, Provider, Site, VmPlan};
use super::{serial, tail, tools};
use crate::attest::Rung;
use crate::config::fs::{read, write_private};
use crate::error::{Code, Error, Result};
use crate::image::Manifest;
use crate::keyring::{Purpose, Seed};
use crate::owner::metadata::{self, Metadata, OnFailure};
use crate::progress::Progress;
use crate::session::seed::Source;
use crate::tor::onion_address;
use command::{Firmware, Vm};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A certificate is 2 KiB.
const MAX_ROOT: usize = 64 * 1024;
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
    tpm_root: PathBuf,
    image: PathBuf,
    start: PathBuf,
    lock: PathBuf,
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
            tpm_root: dir.join(tpm::ROOT),
            image: dir.join("image.json"),
            start: dir.join("start.json"),
            lock: dir.join("lock"),
        }
    }
}

/// Whether a folder is one of this provider's.
pub(super) fn is_here(dir: &Path) -> bool {
    Files::of(dir).vm.exists()
}

/// The provider.
pub(super) struct Qemu;

/// The description of the image that a machine would start.
pub(super) fn image_of(vm: &VmPlan) -> Result<Manifest> {
    disk::find(&vm.image).map(|found| found.manifest)
}

/// An image by its folder, its `image.json` or its disk: where its disk is, and what it is.
pub(super) fn find_image(image: &Path) -> Result<(PathBuf, Manifest)> {
    disk::find(image).map(|found| (found.disk, found.manifest))
}

/// What [`Qemu::deploy`] would do.
fn steps(plan: &Plan) -> Result<Vec<String>> {
    let vm = vm_of(plan)?;
    let listen = forwarded(plan)?;
    let image = disk::find(&vm.image)?;
    check_seed(plan, &image.manifest)?;
    let port = if plan.port == 0 { "a free port".to_owned() } else { format!("port {}", plan.port) };
    let mut steps = vec![
        format!("make the folder {}", plan.dir.display()),
        format!("copy the image {} into it, and check its digest", image.disk.display()),
        format!("start QEMU with {} MiB of memory and {} of this computer's processors", vm.memory, vm.cpus),
        format!("forward {port} of {} to it", listen.ip()),
        format!("give friends the address {}", addresses(plan, listen).iter().map(|a| host(a)).collect::<Vec<_>>().join(", ")),
        "let nobody but you claim it".to_owned(),
    ];
    if vm.tpm {
        steps.push("give it a TPM, emulated by swtpm, with a certificate of its own".to_owned());
    }
    if plan.source.is_of_hardware() {
        steps.push(format!("let its hardware keep its seed ({}): known to {}", plan.source, plan.source.known_to()));
    }
    if plan.tor.is_some() {
        steps.push("publish an onion service once it is claimed".to_owned());
    }
    Ok(steps)
}

impl Provider for Qemu {
    fn describe<'a>(&'a self, plan: &'a Plan) -> Job<'a, Vec<String>> {
        Box::pin(async move { steps(plan) })
    }

    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed> {
        Box::pin(async move {
            let vm = vm_of(plan)?;
            let image = disk::find(&vm.image)?;
            check_seed(plan, &image.manifest)?;
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
            let (manifest, to) = (image.manifest.clone(), files.disk.clone());
            // On a thread of its own, so that Ctrl-C is heard meanwhile.
            let copy = tokio::task::spawn_blocking(move || disk::copy(&image, &to, &*step).map(|()| step.done()));
            copy.await.map_err(|error| Error::new(Code::Failed, "cannot copy the image").cause(error).hint("run the command again"))??;
            let accel = accel::choose(vm.accel, &tools.qemu, &plan.dir)?;
            write_private(&files.metadata, &metadata_of(plan, vm, &manifest)?.to_json()?)?;
            firmware.copy_variables(&files.vars)?;
            write_private(&files.image, &manifest.to_json()?)?;
            if vm.tpm {
                tpm::make(&tools, &plan.dir)?;
            }
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
            run::boot(&site, progress).await?;
            folder.keep();
            let onion = plan.tor.as_ref().and(plan.seed.as_ref()).map(|seed| onions(seed));
            let demand = match plan.source {
                Source::Measured => Rung::ImageByHardware,
                _ if vm.tpm => Rung::ImageByTpm,
                _ => Rung::Nothing,
            };
            Ok(Deployed {
                dial: dial_address(listen).to_string(),
                addresses: addresses(plan, listen),
                onion,
                image: Some(manifest.uki_authenticode),
                demand,
            })
        })
    }

    fn expectation(&self, site: &Site) -> Result<Expectation> {
        let files = Files::of(&site.dir);
        let image = files.image.exists().then(|| {
            let bytes = read(&files.image, Manifest::MAX)?;
            Manifest::parse(&files.image.display().to_string(), &bytes)
        });
        let tpm_roots = files.tpm_root.exists().then(|| read(&files.tpm_root, MAX_ROOT)).transpose()?.into_iter().collect();
        Ok(Expectation { image: image.transpose()?, tpm_roots, tpm_keys: Vec::new() })
    }

    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool> {
        Box::pin(async move {
            match self.power(site).await? {
                Power::On => Ok(false),
                Power::Booting => run::wait(site, progress.step("boot the machine")).await.map(|()| false),
                Power::Gone => Err(gone(site)),
                Power::Off => run::boot(site, progress).await,
            }
        })
    }

    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let _lock = run::lock(site).await?;
            run::end(site).await
        })
    }

    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power> {
        Box::pin(async move {
            if !is_here(&site.dir) {
                return Ok(Power::Gone);
            }
            Ok(match run::process(site) {
                None => Power::Off,
                Some(_) if run::is_ready(site) => Power::On,
                Some(_) => Power::Booting,
            })
        })
    }

    fn pid(&self, site: &Site) -> Option<i32> {
        run::process(site).map(|process| process.pid)
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
            if !site.dir.exists() {
                return Ok(());
            }
            // Held until the folder is gone: nobody starts what is being removed.
            let _lock = run::lock(site).await?;
            run::end(site).await?;
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
    if plan.service {
        return Err(Error::new(Code::Usage, "a virtual machine cannot be a systemd unit in this version")
            .hint("leave --systemd away; after a restart of this computer: portdistrict machine reconnect LABEL"));
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

fn metadata_of(plan: &Plan, vm: &VmPlan, manifest: &Manifest) -> Result<Metadata> {
    Ok(Metadata {
        launch: match plan.source {
            Source::Measured => manifest.launches_of_image().map(|launch| launch.digest.clone()).collect(),
            _ => Vec::new(),
        },
        ..plan.metadata(metadata::PORT, vm.on_failure)?
    })
}

/// A seed of the machine's hardware needs that hardware.
fn check_seed(plan: &Plan, manifest: &Manifest) -> Result<()> {
    match plan.source {
        Source::Sealed if !plan.vm.as_ref().is_some_and(|vm| vm.tpm) => {
            Err(Error::new(Code::Usage, "a seed that is sealed is in a TPM, and the machine would have none").hint("add --tpm"))
        }
        Source::Measured if manifest.launches_of_image().next().is_none() => Err(Error::new(
            Code::Precondition,
            "a seed that is measured needs launch measurements that cover the image, and image.json has none",
        )
        .because("under the firmware alone, any machine with that firmware on the same processor would have the same seed")
        .hint("build the image with --ovmf and a firmware that checks kernels by their hash, or take --seed sealed")),
        _ => Ok(()),
    }
}

pub(super) fn onions(seed: &[u8; 32]) -> Onions {
    let seed = Seed::from_bytes(seed);
    Onions {
        address: onion_address(&seed.derive(Purpose::NodeOnion)),
        restricted: onion_address(&seed.derive(Purpose::NodeOnionRestricted)),
    }
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
    match tools::find("swtpm").filter(|_| tools::find("swtpm_setup").is_some()) {
        Some(path) => Check::pass("swtpm", path.display().to_string()),
        None => Check::skip("swtpm", "not installed; only --tpm needs it: apt-get install swtpm swtpm-tools"),
    }
}

fn check_kvm() -> Check {
    let works = tools::find("qemu-system-x86_64").is_some_and(|qemu| accel::kvm_works_here(&qemu));
    match works {
        true => Check::pass("kvm", "the processor runs virtual machines"),
        false => Check::skip("kvm", "not usable here; machines are emulated, which is slow"),
    }
}

//! The programs of a virtual machine, and their arguments. They run in the machine's folder and name its files without folders:
//! no path is too long for a socket, none has a comma that QEMU would read as its own.

use super::super::process::Process;
use crate::config::{Label, fs};
use crate::error::{Code, Doing, Error, Result};
use crate::machine::tools;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names within the machine's folder.
pub(super) const VM: &str = "vm.json";
pub(super) const METADATA: &str = "metadata.json";
pub(super) const DISK: &str = "disk.raw";
pub(super) const VARS: &str = "vars.fd";
pub(super) const SERIAL: &str = "serial.log";
pub(super) const PID: &str = "qemu.pid";
const SAID: &str = "qemu.out";

/// Where distributions put UEFI firmware: code, and variables to begin with.
const FIRMWARE: [(&str, &str); 5] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
];
/// Firmware is a few MiB.
const MAX_FIRMWARE: usize = 64 * 1024 * 1024;
/// Far above what the settings need.
const MAX_VM: usize = 64 * 1024;

/// How a machine was made, so that it can be started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vm {
    /// Its name.
    pub(super) label: Label,
    /// Memory in MiB.
    pub(super) memory: u32,
    /// Processors.
    pub(super) cpus: u32,
    /// `kvm` or `tcg`.
    pub(super) accel: String,
    /// Has a TPM.
    pub(super) tpm: bool,
    /// Begins anew by itself when nothing can go on.
    pub(super) reboots: bool,
    /// The firmware's code.
    pub(super) firmware: PathBuf,
    /// Address and port of this computer that lead to it.
    pub(super) listen: SocketAddr,
    /// The port that its node listens on.
    pub(super) guest_port: u16,
}

impl Vm {
    /// Remembers it in a file.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::new(Code::Failed, "cannot write down the machine").cause(error).hint("run the command again"))?;
        fs::write_private(path, &bytes)
    }

    /// Reads what [`Vm::save`] wrote.
    pub(super) fn load(path: &Path) -> Result<Vm> {
        serde_json::from_slice(&fs::read(path, MAX_VM)?).map_err(|error| {
            Error::new(Code::Io, format!("{} is damaged", path.display())).cause(error).hint("destroy the machine and deploy it again")
        })
    }
}

/// The programs.
pub(super) struct Tools {
    /// The emulator.
    pub(super) qemu: PathBuf,
    tpm: Option<TpmTools>,
}

/// The programs that make and run a TPM.
struct TpmTools {
    swtpm: PathBuf,
    setup: PathBuf,
    localca: PathBuf,
}

impl Tools {
    /// Finds them; the TPM's only if it is wanted.
    pub(super) fn find(tpm: bool) -> Result<Tools> {
        let need = |name: &str, package: &str| {
            tools::find(name).ok_or_else(|| {
                Error::new(Code::Precondition, format!("{name} is not installed")).hint(format!("apt-get install {package}"))
            })
        };
        let tpm = tpm.then(|| {
            Ok::<_, Error>(TpmTools {
                swtpm: need("swtpm", "swtpm swtpm-tools")?,
                setup: need("swtpm_setup", "swtpm-tools")?,
                localca: need("swtpm_localca", "swtpm-tools")?,
            })
        });
        Ok(Tools { qemu: need("qemu-system-x86_64", "qemu-system-x86 ovmf")?, tpm: tpm.transpose()? })
    }

    /// What runs a TPM.
    pub(super) fn swtpm(&self) -> Result<&Path> {
        self.tpm_tools().map(|tools| tools.swtpm.as_path())
    }

    /// What makes a TPM, and what certifies its keys.
    pub(super) fn tpm_makers(&self) -> Result<(&Path, &Path)> {
        self.tpm_tools().map(|tools| (tools.setup.as_path(), tools.localca.as_path()))
    }

    fn tpm_tools(&self) -> Result<&TpmTools> {
        let missing = || Error::new(Code::Precondition, "swtpm is not installed").hint("apt-get install swtpm swtpm-tools");
        self.tpm.as_ref().ok_or_else(missing)
    }
}

/// UEFI firmware.
pub(super) struct Firmware {
    /// Its code, never written to.
    pub(super) code: PathBuf,
    variables: PathBuf,
}

impl Firmware {
    /// As named (its variables lie beside it), else where distributions put it.
    pub(super) fn find(named: Option<&Path>) -> Result<Firmware> {
        let known = FIRMWARE.map(|(code, variables)| Firmware { code: code.into(), variables: variables.into() });
        let beside = named.map(|code| {
            let name = code.file_name().unwrap_or_default().to_string_lossy().replace("CODE", "VARS").replace("code", "vars");
            Firmware { code: code.to_owned(), variables: code.with_file_name(name) }
        });
        let there = |firmware: &Firmware| firmware.code.is_file() && firmware.variables.is_file() && firmware.code != firmware.variables;
        match beside {
            Some(firmware) if there(&firmware) => Ok(firmware),
            Some(firmware) => Err(Error::new(
                Code::NotFound,
                format!("there is no firmware {} with {} beside it", firmware.code.display(), firmware.variables.display()),
            )
            .hint("name the file with CODE in its name; the one with VARS must lie in the same folder")),
            None => known.into_iter().find(there).ok_or_else(|| {
                Error::new(Code::Precondition, "there is no UEFI firmware for virtual machines").hint("apt-get install ovmf")
            }),
        }
    }

    /// A machine's own variables.
    pub(super) fn copy_variables(&self, to: &Path) -> Result<()> {
        fs::write_private(to, &fs::read(&self.variables, MAX_FIRMWARE)?)
    }
}

/// The name under which a machine's process can be found among all.
pub(super) fn name(label: &Label) -> String {
    format!("portdistrict-{label}")
}

/// Major and minor version.
pub(super) fn version(qemu: &Path) -> Result<(u32, u32)> {
    let output = Command::new(qemu).arg("--version").env_clear().stdin(Stdio::null()).output().doing("run", qemu.display())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse().ok());
    parts.next().zip(parts.next()).ok_or_else(|| {
        Error::new(Code::Failed, format!("{} does not say its version", qemu.display())).hint("apt-get install qemu-system-x86")
    })
}

/// Starts QEMU in the background, in a process group of its own. (Its own way into the background does not go with its sandbox.)
pub(super) fn start(tools: &Tools, vm: &Vm, dir: &Path) -> Result<Process> {
    let said = File::create(dir.join(SAID)).doing("write", dir.join(SAID).display())?;
    let mut command = Command::new(&tools.qemu);
    command.current_dir(dir).args(arguments(vm)).env_clear().process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    let child = command.spawn().doing("run", tools.qemu.display())?;
    Process::of(child.id())
}

/// What QEMU said before it ended, and what to do about it.
pub(super) fn complaint(dir: &Path) -> (Vec<String>, Option<&'static str>) {
    let text = std::fs::read_to_string(dir.join(SAID)).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.contains("warning:")).take(3).map(str::to_owned).collect();
    let port = text.contains("Could not set up host forwarding rule");
    (lines, port.then_some("another program uses this port now: deploy with another --port"))
}

fn arguments(vm: &Vm) -> Vec<String> {
    // With a thread for each processor, emulation may show one of them a half patched instruction, which ends a kernel in panic.
    let (cpu, accel) = if vm.accel == "kvm" { ("host", "kvm") } else { ("max", "tcg,thread=single") };
    let mut words: Vec<String> = Vec::new();
    let mut add = |some: &[&str]| words.extend(some.iter().map(|word| (*word).to_owned()));
    add(&["-name", &name(&vm.label), "-nodefaults", "-no-user-config", "-display", "none", "-pidfile", PID]);
    // What the guest might take over has no business with this computer.
    add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    add(&["-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", &vm.cpus.to_string(), "-m", &vm.memory.to_string()]);
    let code = vm.firmware.display().to_string().replace(',', ",,");
    add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}")]);
    add(&["-drive", &format!("if=pflash,unit=1,format=raw,file={VARS}")]);
    add(&["-drive", &format!("if=none,id=disk,format=raw,readonly=on,file={DISK}"), "-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    add(&["-netdev", &format!("user,id=net,hostfwd=tcp:{}:{}-:{}", vm.listen.ip(), vm.listen.port(), vm.guest_port)]);
    add(&["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci", "-device", "i6300esb"]);
    add(&["-chardev", &format!("file,id=serial,path={SERIAL},append=on"), "-serial", "chardev:serial"]);
    add(&["-fw_cfg", &format!("name=opt/portdistrict/config,file={METADATA}")]);
    if !vm.reboots {
        add(&["-no-reboot"]);
    }
    if vm.tpm {
        add(&[
            "-chardev",
            &format!("socket,id=tpm,path={}", super::tpm::SOCKET),
            "-tpmdev",
            "emulator,id=tpm0,chardev=tpm",
            "-device",
            "tpm-crb,tpmdev=tpm0",
        ]);
    }
    words
}

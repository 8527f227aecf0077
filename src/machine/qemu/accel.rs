//! Whether the processor can run a virtual machine here. A `/dev/kvm` that opens proves nothing: on some computers the machine is
//! made and then hangs in its firmware. So one is run that boots, by QEMU's own firmware, into a few instructions, with a deadline.

use crate::error::{Code, Error, Result};
use crate::keyring;
use crate::machine::provider::Accel;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A machine that ends itself does so in a few hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// A boot sector, and the mark at its end.
const SECTOR: usize = 512;
const MARK: [u8; 2] = [0x55, 0xaa];
/// `mov al, 16; out 0xf4, al; hlt; jmp $`: tells the exit device to end the machine.
const END_MACHINE: [u8; 7] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfe];
/// The exit device turns 16 into this status: twice the value and one.
const STATUS: i32 = 33;

/// What QEMU is to use; `folder` is for a file of the trial.
pub(super) fn choose(wanted: Accel, qemu: &Path, folder: &Path) -> Result<&'static str> {
    match wanted {
        Accel::Tcg => Ok("tcg"),
        Accel::Auto => Ok(if kvm_works(qemu, folder) { "kvm" } else { "tcg" }),
        Accel::Kvm if kvm_works(qemu, folder) => Ok("kvm"),
        Accel::Kvm => Err(Error::new(Code::Precondition, "this computer's processor cannot run virtual machines here")
            .because("a trial machine under /dev/kvm did not end within three seconds")
            .hint("leave --accel away: it works without, only slower")),
    }
}

/// Runs the trial in a folder of its own, which nobody else can enter.
pub(super) fn kvm_works_here(qemu: &Path) -> bool {
    let mut unique = [0; 16];
    if getrandom::fill(&mut unique).is_err() {
        return false;
    }
    let folder = std::env::temp_dir().join(format!("portdistrict-trial-{}", crate::encoding::hex(&unique)));
    let made = DirBuilder::new().mode(0o700).create(&folder);
    let works = made.is_ok() && kvm_works(qemu, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    works
}

/// Runs the trial; the folder is this program's own.
fn kvm_works(qemu: &Path, folder: &Path) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let disk = folder.join("trial.raw");
    let works = std::fs::write(&disk, boot_sector()).is_ok() && ends_itself(qemu, &["-accel", "kvm", "-cpu", "host"], folder);
    let _ = std::fs::remove_file(&disk);
    works
}

fn boot_sector() -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    sector[..END_MACHINE.len()].copy_from_slice(&END_MACHINE);
    sector[SECTOR - MARK.len()..].copy_from_slice(&MARK);
    sector
}

fn ends_itself(qemu: &Path, accel: &[&str], folder: &Path) -> bool {
    let mut command = Command::new(qemu);
    command.env_remove(keyring::VARIABLE);
    command.args(accel).args(["-machine", "pc", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive", "file=trial.raw,format=raw,if=floppy"]);
    let child = command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else { return false };
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code() == Some(STATUS);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tools;

    #[test]
    fn the_trial_machine_ends_itself() {
        let Some(qemu) = tools::find("qemu-system-x86_64") else { return };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("trial.raw"), boot_sector()).unwrap();
        // Emulated, it must work wherever QEMU does; that shows the trial itself to be sound.
        assert!(ends_itself(&qemu, &["-accel", "tcg"], dir.path()));
        std::fs::write(dir.path().join("trial.raw"), [0; SECTOR]).unwrap();
        assert!(!ends_itself(&qemu, &["-accel", "tcg"], dir.path()), "a machine that does nothing must not count as one that works");
    }
}

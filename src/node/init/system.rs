//! What a kernel leaves to user space: file systems, drivers, limits, clock, randomness.

use crate::config::time;
use crate::error::{Code, Doing, Error, Result};
use crate::node::log::Log;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_settime};
use std::ffi::CStr;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// Type, place and options of each file system that a node cannot do without.
const FILE_SYSTEMS: [(&str, &str, &CStr); 4] =
    [("proc", "/proc", c""), ("sysfs", "/sys", c""), ("devtmpfs", "/dev", c""), ("tmpfs", "/run", c"mode=0700")];
/// The same of those that come with a driver, and tell of the machine's security.
const WITH_DRIVERS: [(&str, &str, &CStr); 2] = [("securityfs", "/sys/kernel/security", c""), ("configfs", "/sys/kernel/config", c"")];
/// Less memory than this and a node would die of it later, without a word.
const LEAST_MEMORY: u64 = 56 * 1024 * 1024;
/// Descriptors that the node may have open.
const DESCRIPTORS: u64 = 512 * 1024;
/// How long the kernel may take to gather randomness.
const ENTROPY_PATIENCE: Duration = Duration::from_secs(60);
/// Where the kernel shows a TPM's registers.
const REGISTERS: &str = "/sys/class/tpm/tpm0/pcr-sha256";
/// Those that say what was started.
const SHOWN: [u8; 4] = [4, 7, 9, 11];

/// Mounts the kernel's own file systems, and one in memory for what the node keeps.
pub(super) fn mount() -> Result<()> {
    for (kind, target, options) in FILE_SYSTEMS {
        let devices = if kind == "devtmpfs" { MountFlags::empty() } else { MountFlags::NODEV };
        match rustix::mount::mount(kind, target, kind, MountFlags::NOSUID | MountFlags::NOEXEC | devices, options) {
            // The kernel may have mounted it itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(std::io::Error::from(error)).doing("mount", target),
        }
    }
    // What this program makes is its own.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

/// Mounts what only some machines have.
pub(super) fn mount_with_drivers() {
    for (kind, target, options) in WITH_DRIVERS {
        let _ = rustix::mount::mount(kind, target, kind, MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV, options);
    }
}

/// Loads every driver of the image in the order of their names, which is that of their needs. One that finds no hardware is no failure.
pub(super) fn load_modules(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    for path in files {
        let file = File::open(&path).doing("open", path.display())?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST | Errno::NODEV) => {}
            Err(error) => {
                return Err(Error::new(Code::Failed, format!("the kernel does not take the module {}", path.display()))
                    .cause(std::io::Error::from(error)));
            }
        }
        // Its copy in memory has served.
        let _ = std::fs::remove_file(&path);
    }
    Ok(())
}

/// Refuses to begin with too little memory.
pub(super) fn check_memory() -> Result<()> {
    let (total, free) = memory();
    if free < LEAST_MEMORY {
        return Err(Error::new(
            Code::Precondition,
            format!("{} MiB of memory are left of {} MiB: a node needs {} MiB", free >> 20, total >> 20, LEAST_MEMORY >> 20),
        )
        .hint("give the machine 256 MiB"));
    }
    Ok(())
}

/// Bytes of memory: all that the kernel has to give, and what is left of it.
pub(super) fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| amount(&text, name).unwrap_or_default();
    (field("MemTotal:"), field("MemAvailable:"))
}

/// Bytes of one line of `/proc/meminfo`.
fn amount(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// As the first process this one may raise its own limits.
pub(super) fn raise_limits() {
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) });
}

/// What a TPM holds of this start; nothing without one.
pub(super) fn platform_registers() -> Vec<(u8, String)> {
    let read = |index: u8| {
        let text = std::fs::read_to_string(format!("{REGISTERS}/{index}")).ok()?;
        Some((index, text.trim().to_ascii_lowercase()))
    };
    SHOWN.into_iter().filter_map(read).collect()
}

/// Handshakes carry the time, so a clock that is behind the deploy is set to it: hours too late is better than years.
pub(super) fn set_clock(made_at: u64, log: &Log) -> Result<()> {
    let now = time::now_s();
    if now >= made_at {
        return Ok(());
    }
    let to = Timespec { tv_sec: i64::try_from(made_at).unwrap_or(i64::MAX), tv_nsec: 0 };
    clock_settime(ClockId::Realtime, to).map_err(std::io::Error::from).doing("set", "the clock")?;
    log.event("clock.set").with("from", time::rfc3339(now)).with("to", time::rfc3339(made_at)).write();
    Ok(())
}

/// Keys are made next; the kernel says when it can give randomness.
pub(super) fn wait_for_entropy() -> Result<()> {
    let deadline = Instant::now() + ENTROPY_PATIENCE;
    while getrandom(&mut [0u8; 1], GetRandomFlags::NONBLOCK).is_err() {
        if Instant::now() > deadline {
            return Err(Error::new(Code::TimedOut, format!("the kernel has no randomness after {} seconds", ENTROPY_PATIENCE.as_secs()))
                .hint("give the machine a virtio-rng device, or a processor with RDRAND"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:  10 kB\nMemAvailable:     8 kB\n";
        assert_eq!((amount(text, "MemAvailable:"), amount(text, "MemFree:")), (Some(8192), None));
        assert!(memory().0 > memory().1 && memory().1 > 0);
    }

    #[test]
    fn a_right_clock_is_left_alone() {
        set_clock(1, &Log::in_memory()).unwrap();
    }

    #[test]
    fn randomness_is_there_already() {
        wait_for_entropy().unwrap();
    }
}

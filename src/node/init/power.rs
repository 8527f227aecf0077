//! The end of a machine: by its button, by its watchdog, by its own decision.

use crate::owner::metadata::OnFailure;
use crate::owner::ready;
use rustix::process::{Signal, WaitOptions, getpid, kill_process, wait};
use rustix::system::{RebootCommand, reboot};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of one `struct input_event` on a 64-bit machine (Linux: input/input.rst): 16 of time, then type, code, value.
const EVENT: usize = 24;
/// `EV_KEY`, `KEY_POWER`, pressed (Linux: input-event-codes.h).
const POWER_PRESSED: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];
/// How often the watchdog is told that all is well; its own patience is 30 s or more.
const BEAT: Duration = Duration::from_secs(10);
/// How long the console gets to pass on the last lines.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// A machine that fails at once does not begin anew more often than this.
const REBOOT_EVERY: Duration = Duration::from_secs(60);
/// One that ran well for long begins anew after this.
const REBOOT_AFTER: Duration = Duration::from_secs(5);

/// Powers the machine off.
pub(super) fn off() -> ! {
    finish(RebootCommand::PowerOff)
}

/// Whether the owner wants a machine that cannot go on to begin anew.
static REBOOTS: AtomicBool = AtomicBool::new(false);

/// Notes what the owner decided for when nothing can go on.
pub(super) fn decide(on_failure: OnFailure) {
    REBOOTS.store(on_failure == OnFailure::Reboot, Ordering::Relaxed);
}

/// Does what the owner decided for when nothing can go on.
pub(super) fn end() -> ! {
    match REBOOTS.load(Ordering::Relaxed) {
        false => off(),
        true => {
            let up = Duration::from_secs(rustix::system::sysinfo().uptime.unsigned_abs());
            std::thread::sleep(REBOOT_EVERY.saturating_sub(up).max(REBOOT_AFTER));
            finish(RebootCommand::Restart)
        }
    }
}

fn finish(command: RebootCommand) -> ! {
    std::thread::sleep(LAST_WORDS);
    let _ = reboot(command);
    // Nothing is left to do if the kernel refuses; the first process must not return.
    loop {
        std::thread::park();
    }
}

/// Ends the node, and with it the machine, when the power button is pressed.
pub(super) fn watch_button() {
    let Ok(folder) = std::fs::read_dir("/dev/input") else { return };
    for entry in folder.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("event")) {
        let Ok(mut events) = File::open(entry.path()) else { continue };
        background("button", move || {
            let mut event = [0; EVENT];
            while events.read_exact(&mut event).is_ok() {
                if event[16..] == POWER_PRESSED {
                    let _ = kill_process(getpid(), Signal::TERM);
                }
            }
        });
    }
}

/// Tells the hardware's watchdog that all is well for as long as the node answers on its own socket, and buries whoever was orphaned.
pub(super) fn watch_over(state_dir: PathBuf) {
    let mut watchdog = File::options().write(true).open("/dev/watchdog").ok();
    background("watchdog", move || {
        loop {
            if is_alive(&state_dir)
                && let Some(watchdog) = &mut watchdog
            {
                let _ = watchdog.write_all(b"\0");
            }
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            std::thread::sleep(BEAT);
        }
    });
}

/// A node that begins has no socket yet: what does not answer is dead, what is not there is not born.
fn is_alive(state_dir: &Path) -> bool {
    !state_dir.join(ready::SOCKET).exists() || ready::ask(state_dir).is_ok()
}

fn background(name: &str, work: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new().name(name.to_owned()).spawn(work);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_press_has_the_kernels_layout() {
        // struct timeval, __u16 type, __u16 code, __s32 value.
        assert_eq!(EVENT, 16 + POWER_PRESSED.len());
        assert_eq!(POWER_PRESSED, [1u16.to_le_bytes(), 116u16.to_le_bytes(), [1, 0], [0, 0]].concat()[..]);
    }
}

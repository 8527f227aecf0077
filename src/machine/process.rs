//! A detached process, known by its pid, its start time and the boot it belongs to, so that a recycled pid is never touched.

use crate::config::fs::{read, write_private};
use crate::error::{Code, Doing, Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// Field 22 of `/proc/PID/stat` counted from the one after the command name, which may hold spaces (proc(5)).
const START_TIME: usize = 19;

/// Which process it is, for as long as the machine does not restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    /// Process id.
    pub(super) pid: i32,
    /// Clock ticks between boot and its start.
    pub(super) started: u64,
    /// The boot it was started in: ticks start anew with each.
    pub(super) boot: String,
}

impl Process {
    /// Looks up a process that is running now.
    pub(super) fn of(pid: u32) -> Result<Process> {
        let pid = i32::try_from(pid).map_err(|e| Error::new(Code::Failed, format!("{pid} is no process id")).cause(e))?;
        let started = start_time(pid).ok_or_else(|| Error::new(Code::Failed, format!("process {pid} ended as soon as it had started")))?;
        Ok(Process { pid, started, boot: boot_id()? })
    }

    /// Reads what [`Process::save`] wrote; `None` if nothing was.
    pub(super) fn load(path: &Path) -> Result<Option<Process>> {
        let bytes = match read(path, 1024) {
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            other => other?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::new(Code::Io, format!("{} is damaged", path.display())).cause(e).hint("end the node by hand, then remove this file")
        })
    }

    /// Remembers the process in a file.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::new(Code::Failed, "cannot write down a process").cause(e))?;
        write_private(path, &bytes)
    }

    /// Whether this very process is still running.
    pub(super) fn is_running(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot) && start_time(self.pid) == Some(self.started)
    }

    /// Asks it to end, and kills it when it has not after `patience`. It is gone when this returns.
    pub(super) async fn end(&self, patience: Duration) -> Result<()> {
        for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(5))] {
            if !self.signal(signal)? {
                return Ok(());
            }
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if !self.is_running() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Err(Error::new(Code::Failed, format!("process {} does not end, not even when killed", self.pid))
            .hint(format!("see what it waits for: cat /proc/{}/wchan", self.pid)))
    }

    /// Kills it without waiting, for clean-up that cannot wait.
    pub(super) fn kill(&self) {
        let _ = self.signal(Signal::KILL);
    }

    /// Signals this very process; false if it is gone. The descriptor is taken before the start time is compared, so the pid
    /// cannot pass to another process in between.
    fn signal(&self, signal: Signal) -> Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
        if !self.is_running() {
            return Ok(false);
        }
        match pidfd_send_signal(descriptor, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(std::io::Error::from(error)).doing("signal process", self.pid),
        }
    }
}

/// When a process started; `None` if there is none or it is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(START_TIME - 1)?.parse().ok()
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path).map(|id| id.trim().to_owned()).doing("read", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> std::process::Child {
        std::process::Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[tokio::test]
    async fn ends_what_it_knows() {
        let mut child = sleeper();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_running());
        process.end(Duration::from_secs(5)).await.unwrap();
        assert!(!process.is_running());
        child.wait().unwrap();
        process.end(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn never_touches_a_recycled_pid() {
        let mut child = sleeper();
        let mut other = Process::of(child.id()).unwrap();
        other.started -= 1;
        assert!(!other.is_running());
        other.end(Duration::from_secs(1)).await.unwrap();
        let mut before_restart = Process::of(child.id()).unwrap();
        before_restart.boot = "another boot".to_owned();
        before_restart.end(Duration::from_secs(1)).await.unwrap();
        assert!(child.try_wait().unwrap().is_none(), "an innocent process was ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn is_remembered_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.json");
        assert_eq!(Process::load(&path).unwrap(), None);
        let me = Process::of(std::process::id()).unwrap();
        me.save(&path).unwrap();
        assert_eq!(Process::load(&path).unwrap(), Some(me));
        std::fs::write(&path, "{").unwrap();
        assert!(Process::load(&path).is_err());
    }
}

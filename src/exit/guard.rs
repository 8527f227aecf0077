//! Runs a command so that nothing of it outlives `try`, not even after `kill -9`.
//!
//! The guard is this very program, started again. It becomes the reaper of whatever the command leaves behind, asks the
//! kernel for a signal at its parent's death, and at the end kills every descendant and removes throw-away folders.

use crate::error::{Code, Doing, Error, Result};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_child_subreaper, set_parent_process_death_signal, waitpid,
};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// The hidden verb that starts a guard.
pub const VERB: &str = "__guard";
/// How long descendants may take to disappear after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a guard is told on its command line.
#[derive(Debug)]
pub struct Watch {
    /// The process whose end ends everything.
    pub parent: u32,
    /// Folders to remove at the end.
    pub remove: Vec<PathBuf>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// Starts `command` under a guard. Dropping the child ends the guard and with it all that the command started.
pub fn spawn(command: &[OsString], variables: &[(String, String)], remove: &[PathBuf]) -> Result<Child> {
    // Without /proc (an empty root) the program's own name is the best that is known.
    let program = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
    let program =
        program.ok_or_else(|| Error::new(Code::Precondition, "this program cannot find itself").hint("call it by its full path"))?;
    let mut guard = Command::new(&program);
    guard.arg(VERB).arg("--parent").arg(std::process::id().to_string());
    for folder in remove {
        guard.arg("--remove").arg(folder);
    }
    guard.arg("--").args(command).envs(variables.iter().map(|(k, v)| (k, v)));
    guard.spawn().doing("start", program.display())
}

/// Asks a guard to end: it kills what it started and removes its folders.
pub async fn end(mut guard: Child) {
    if let Some(pid) = guard.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = tokio::time::timeout(KILL_TIMEOUT + Duration::from_secs(1), guard.wait()).await;
}

/// The guard's own life; returns the status to exit with.
pub async fn run(watch: Watch) -> Result<u8> {
    let failed = |e: rustix::io::Errno| Error::new(Code::Failed, "cannot guard the command").cause(e);
    set_child_subreaper(Some(getpid())).map_err(failed)?;
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).doing("watch", "signals")?;
    let mut hangup = signal(SignalKind::hangup()).doing("watch", "signals")?;
    // Ctrl-C is for the command, which shares the terminal: it decides what it means.
    let _interrupt = signal(SignalKind::interrupt()).doing("watch", "signals")?;
    let orphaned = || getppid().is_none_or(|pid| pid.as_raw_pid().cast_unsigned() != watch.parent);
    let result =
        if orphaned() { Ok(Code::Interrupted.exit_code()) } else { run_command(&watch.command, &mut terminate, &mut hangup).await };
    kill_descendants();
    for folder in &watch.remove {
        let _ = std::fs::remove_dir_all(folder);
    }
    result
}

async fn run_command(
    command: &[OsString],
    terminate: &mut tokio::signal::unix::Signal,
    hangup: &mut tokio::signal::unix::Signal,
) -> Result<u8> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| Error::new(Code::Usage, "no command to run").hint("give one after --"))?;
    let mut child = Command::new(program).args(arguments).spawn().map_err(|error| {
        let name = program.to_string_lossy();
        match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(Code::NotFound, format!("there is no command `{name}` here"))
                .hint("check its spelling, or give its full path after --"),
            _ => Error::new(Code::Failed, format!("cannot run `{name}`")).cause(error).hint("check that it may be executed"),
        }
    })?;
    tokio::select! {
        status = child.wait() => Ok(status_code(status.doing("wait for", program.to_string_lossy())?)),
        _ = terminate.recv() => Ok(Code::Interrupted.exit_code()),
        _ = hangup.recv() => Ok(Code::Interrupted.exit_code()),
    }
}

/// What a shell would report: the exit status, or 128 and the signal's number.
pub fn status_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// Kills children until there are none: those of a killed child become ours, because we are the subreaper.
fn kill_descendants() {
    let begun = Instant::now();
    while begun.elapsed() < KILL_TIMEOUT {
        while matches!(waitpid(None, WaitOptions::NOHANG), Ok(Some(_))) {}
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn children() -> Vec<Pid> {
    let me = getpid().as_raw_pid();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent_of(*pid) == Some(me))
        .filter_map(Pid::from_raw)
        .collect()
}

/// The fourth field of `/proc/PID/stat`; the second may hold anything but ends with the last parenthesis.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

//! Runs a command so that nothing of it outlives `try`, not even after `kill -9`.
//!
//! The guard is this very program, started again. It becomes the reaper of whatever the command leaves behind, asks the
//! kernel for a signal at its parent's death, and at the end kills every descendant and removes its scratch folder.

use crate::config::fs::{ensure_private_dir, write_private};
use crate::error::{Code, Doing, Error, Result};
use crate::keyring;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_child_subreaper, set_parent_process_death_signal, wait,
};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// The hidden verb that starts a guard.
pub const VERB: &str = "__guard";
/// How long descendants may take to disappear after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a parent waits for the guard to have cleaned up.
const END_TIMEOUT: Duration = Duration::from_secs(6);

/// A folder that exists as long as the command, with one file in it if that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Where; must not exist yet.
    pub folder: PathBuf,
    /// Name and content of a file that the command finds there.
    pub file: Option<(String, String)>,
}

/// What a guard is told on its command line.
#[derive(Debug, PartialEq, Eq)]
struct Watch {
    /// The process whose end ends everything.
    parent: i32,
    scratch: Option<Scratch>,
    command: Vec<OsString>,
}

impl Watch {
    fn to_arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![VERB.into(), self.parent.to_string().into()];
        if let Some(scratch) = &self.scratch {
            words.extend(["--scratch".into(), scratch.folder.clone().into_os_string()]);
            if let Some((name, content)) = &scratch.file {
                words.extend(["--file".into(), name.into(), content.into()]);
            }
        }
        words.push("--".into());
        words.extend(self.command.iter().cloned());
        words
    }

    /// Reads the words after the program's name; `None` if they are not for a guard.
    fn from_arguments(words: &[OsString]) -> Option<Result<Watch>> {
        let (verb, rest) = words.split_first()?;
        (verb == VERB).then(|| Self::parse(rest).ok_or_else(|| Error::new(Code::Usage, format!("{VERB} is for portdistrict itself"))))
    }

    fn parse(words: &[OsString]) -> Option<Watch> {
        let mut words = words.iter();
        let parent = words.next()?.to_str()?.parse().ok()?;
        let mut scratch: Option<Scratch> = None;
        loop {
            match words.next()?.to_str()? {
                "--" => return Some(Watch { parent, scratch, command: words.cloned().collect() }),
                "--scratch" => scratch = Some(Scratch { folder: words.next()?.into(), file: None }),
                "--file" => {
                    let text = |word: &OsString| word.to_str().map(str::to_owned);
                    scratch.as_mut()?.file = Some((text(words.next()?)?, text(words.next()?)?));
                }
                _ => return None,
            }
        }
    }
}

/// A command that runs under a guard. Dropping it ends the command, all its descendants and the scratch folder.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts a command; without one the guard only waits, and removes the scratch folder at the end.
    pub fn start(command: &[OsString], variables: &[(String, String)], scratch: Option<Scratch>) -> Result<Guarded> {
        // Without /proc (an empty root) the program's own name is the best that is known.
        let program = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
        let program = program
            .ok_or_else(|| Error::new(Code::Precondition, "this program cannot find itself").hint("call portdistrict by its full path"))?;
        Self::start_with(program.as_os_str(), command, variables, scratch)
    }

    fn start_with(program: &OsStr, command: &[OsString], variables: &[(String, String)], scratch: Option<Scratch>) -> Result<Guarded> {
        let watch = Watch { parent: getpid().as_raw_pid(), scratch, command: command.to_vec() };
        let mut guard = Command::new(program);
        guard.env_remove(keyring::VARIABLE).args(watch.to_arguments()).envs(variables.iter().map(|(name, value)| (name, value)));
        Ok(Guarded(guard.spawn().doing("start", program.to_string_lossy())?))
    }

    /// Waits for the command and returns the status to exit with.
    pub async fn wait(&mut self) -> Result<u8> {
        Ok(status_code(self.0.wait().await.doing("wait for", "the command")?))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The guard hears of our end anyway; asking makes it sooner and lets us wait until everything is gone.
        if let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
            let begun = Instant::now();
            while begun.elapsed() < END_TIMEOUT && matches!(self.0.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Runs as a guard if the command line (without the program's name) says so; the result is the status to exit with.
pub fn answer(words: &[OsString]) -> Option<Result<u8>> {
    let watch = match Watch::from_arguments(words)? {
        Ok(watch) => watch,
        Err(error) => return Some(Err(error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start", "the event loop");
    Some(runtime.and_then(|runtime| runtime.block_on(run(watch))))
}

async fn run(watch: Watch) -> Result<u8> {
    let failed = |e: rustix::io::Errno| Error::new(Code::Failed, "cannot guard the command").cause(e);
    set_child_subreaper(Some(getpid())).map_err(failed)?;
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
    let mut ends = Ends::listen()?;
    // If the parent ended before the kernel knew that we want to hear of it, nobody will tell us.
    if getppid().map(Pid::as_raw_pid) != Some(watch.parent) {
        remove(&watch);
        return Ok(Code::Interrupted.exit_code());
    }
    let result = match watch.scratch.as_ref().map_or(Ok(()), make) {
        Ok(()) if watch.command.is_empty() => {
            ends.come().await;
            Ok(0)
        }
        Ok(()) => run_command(&watch.command, &mut ends).await,
        Err(error) => Err(error),
    };
    kill_descendants();
    remove(&watch);
    result
}

fn remove(watch: &Watch) {
    if let Some(scratch) = &watch.scratch {
        let _ = std::fs::remove_dir_all(&scratch.folder);
    }
}

/// The signals that end a guard. Those of the keyboard are for the command, which shares the terminal: it decides what
/// they mean, and its end is ours.
struct Ends {
    terminate: Stream,
    hangup: Stream,
    _keyboard: [Stream; 2],
}

impl Ends {
    fn listen() -> Result<Ends> {
        let listen = |kind| signal(kind).doing("listen for", "signals");
        Ok(Ends {
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            _keyboard: [listen(SignalKind::interrupt())?, listen(SignalKind::quit())?],
        })
    }

    async fn come(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.hangup.recv() => {} }
    }
}

fn make(scratch: &Scratch) -> Result<()> {
    ensure_private_dir(&scratch.folder)?;
    match &scratch.file {
        Some((name, content)) => write_private(&scratch.folder.join(name), content.as_bytes()),
        None => Ok(()),
    }
}

async fn run_command(command: &[OsString], ends: &mut Ends) -> Result<u8> {
    let Some((program, arguments)) = command.split_first() else { return Ok(0) };
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
        () = ends.come() => Ok(Code::Interrupted.exit_code()),
    }
}

/// What a shell would report: the exit status, or 128 and the signal's number.
fn status_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// Kills children until there are none: those of a killed child become ours, because we are the subreaper.
fn kill_descendants() {
    let begun = Instant::now();
    while begun.elapsed() < KILL_TIMEOUT {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_reads_back_from_its_arguments() {
        let command = vec!["sh".into(), "--".into(), "--scratch".into()];
        let file = Some(("user.js".to_owned(), "a\nb".to_owned()));
        for scratch in [None, Some(Scratch { folder: "/x y".into(), file: None }), Some(Scratch { folder: "/z".into(), file })] {
            let watch = Watch { parent: 7, scratch, command: command.clone() };
            assert_eq!(Watch::from_arguments(&watch.to_arguments()).unwrap().unwrap(), watch);
        }
    }

    #[test]
    fn other_words_are_not_for_a_guard_and_odd_ones_are_refused() {
        let read = |words: &[&str]| Watch::from_arguments(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(read(&[]).is_none());
        assert!(read(&["exit", "try"]).is_none());
        for odd in [&[VERB][..], &[VERB, "x", "--"], &[VERB, "1"], &[VERB, "1", "--file", "a", "b", "--"], &[VERB, "1", "--other", "--"]] {
            assert!(read(odd).unwrap().is_err(), "{odd:?}");
        }
    }

    #[test]
    fn the_parent_of_a_process_is_found_behind_any_name() {
        assert_eq!(parent_of(getpid().as_raw_pid()), getppid().map(Pid::as_raw_pid));
        assert_eq!(parent_of(i32::MAX), None);
    }
}

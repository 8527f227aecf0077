//! A machine's processes: started once, found again, ended whole.

use super::Files;
use super::command::{self, Vm};

use super::tpm;
use crate::config::fs::{self, Lock, read, write_private};
use crate::error::{Code, Error, Result};
use crate::machine::process::Process;
use crate::machine::provider::Site;
use crate::machine::serial::Serial;
use crate::progress::{Progress, Step};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long a machine may take until its node listens. Emulated on a busy computer it takes a minute.
const BOOT_PATIENCE: Duration = Duration::from_secs(240);
/// How long QEMU may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How often the console is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long another command may start or end the same machine.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// A console longer than this is begun anew: a machine must not fill the disk by talking.
const MAX_CONSOLE: u64 = 64 * 1024 * 1024;

/// What is remembered of the present start.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Start {
    /// Where in the console it begins.
    offset: u64,
    /// Whether the node has said that it is ready.
    ready: bool,
}

impl Start {
    fn load(files: &Files) -> Start {
        read(&files.start, 1024).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn save(self, files: &Files) -> Result<()> {
        let bytes = serde_json::to_vec(&self)
            .map_err(|error| Error::new(Code::Failed, "cannot write down a start").cause(error).hint("run the command again"))?;
        write_private(&files.start, &bytes)
    }
}

/// Whether the node has said since the present start that it is ready. Also keeps the console from growing for ever.
pub(super) fn is_ready(site: &Site) -> bool {
    let files = Files::of(&site.dir);
    let start = Start::load(&files);
    if start.ready {
        if std::fs::metadata(&files.serial).is_ok_and(|found| found.len() > MAX_CONSOLE) {
            // QEMU appends, so it goes on at the new end.
            let _ = std::fs::File::options().write(true).open(&files.serial).and_then(|file| file.set_len(0));
        }
        return true;
    }
    let ready = Serial::read(&files.serial, start.offset).is_ready();
    if ready {
        let _ = Start { ready, ..start }.save(&files);
    }
    ready
}

/// One command at a time starts or ends a machine.
pub(super) async fn lock(site: &Site) -> Result<Lock> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        if let Some(lock) = fs::try_lock(&Files::of(&site.dir).lock)? {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            return Err(Error::new(Code::TimedOut, format!("another command starts or ends the machine `{}`", site.label))
                .hint(format!("wait for it, then: portdistrict machine show {}", site.label)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The machine's process, if it runs; one that nobody could write down is known by the file that QEMU itself wrote.
pub(super) fn process(site: &Site) -> Option<Process> {
    let files = Files::of(&site.dir);
    if let Some(process) = Process::load(&files.process).ok().flatten().filter(Process::is_running) {
        return Some(process);
    }
    let pid = String::from_utf8(read(&files.pid, 64).ok()?).ok()?.trim().parse().ok()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let name = command::name(&site.label);
    arguments.split(|byte| *byte == 0).any(|word| word == name.as_bytes()).then(|| Process::of(pid).ok()).flatten()
}

fn tpm_process(site: &Site) -> Option<Process> {
    Process::load(&Files::of(&site.dir).tpm_process).ok().flatten().filter(Process::is_running)
}

/// Ends all processes of a machine.
pub(super) async fn end(site: &Site) -> Result<()> {
    for process in [process(site), tpm_process(site)].into_iter().flatten() {
        process.end(END_PATIENCE).await?;
    }
    Ok(())
}

/// What was started here is ended again unless the node gets ready.
struct Unfinished<'a>(Option<&'a Site>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Some(site) = self.0 else { return };
        for process in [process(site), tpm_process(site)].into_iter().flatten() {
            process.kill();
        }
    }
}

/// Starts the machine unless somebody else just has, and waits until the node says that it is ready. True if it was started here.
pub(super) async fn boot(site: &Site, progress: &dyn Progress) -> Result<bool> {
    let step = progress.step("boot the machine");
    let lock = lock(site).await?;
    if process(site).is_some() {
        drop(lock);
        return wait(site, step).await.map(|()| false);
    }
    let files = Files::of(&site.dir);
    let vm = Vm::load(&files.vm)?;
    let tools = command::Tools::find(vm.tpm)?;
    // A TPM whose machine never came.
    end(site).await?;
    for old in [&files.process, &files.tpm_process, &files.pid] {
        let _ = std::fs::remove_file(old);
    }
    let offset = std::fs::metadata(&files.serial).map_or(0, |found| found.len());
    Start { offset, ready: false }.save(&files)?;
    let mut unfinished = Unfinished(Some(site));
    if vm.tpm {
        tpm::start(&tools, &site.dir)?.save(&files.tpm_process)?;
    }
    command::start(&tools, &vm, &site.dir)?.save(&files.process)?;
    drop(lock);
    wait(site, step).await?;
    unfinished.0 = None;
    Ok(true)
}

/// Waits for the node's word on the console; for the end of the process; or for the end of patience.
pub(super) async fn wait(site: &Site, step: Box<dyn Step>) -> Result<()> {
    let files = Files::of(&site.dir);
    let offset = Start::load(&files).offset;
    let deadline = Instant::now() + BOOT_PATIENCE;
    let mut last = None;
    loop {
        let running = process(site).is_some();
        if is_ready(site) {
            step.done();
            return Ok(());
        }
        let serial = Serial::read(&files.serial, offset);
        if let Some(why) = serial.failure() {
            settle_down(site, deadline).await;
            return Err(Error::new(Code::Failed, format!("the machine `{}` cannot go on: {why}", site.label))
                .hint(serial.mark("HINT").map_or_else(|| format!("portdistrict machine logs {}", site.label), str::to_owned)));
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

/// A machine that cannot go on powers itself off, or hangs in its firmware.
async fn settle_down(site: &Site, deadline: Instant) {
    let deadline = deadline.min(Instant::now() + END_PATIENCE);
    while Instant::now() < deadline && process(site).is_some() {
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

//! `doctor`: everything that can be wrong with this home and its machines, each with what mends it.

use super::Call;
use super::sight::Checks;
use crate::config::{Paths, bytes, fs};
use crate::context::Context;
use crate::error::{Code, Result};
use crate::keyring::{Keyring, Protection};
use crate::ledger::{Filter, verify_file};
use crate::machine::check::Check;
use crate::machine::{self, Kind};
use std::path::Path;

/// Less than this and writes will soon fail.
const LITTLE_SPACE: u64 = 64 * 1024 * 1024;
/// A clock further back than the newest record by this much is wrong.
const CLOCK_SLACK_MS: u64 = 60_000;

/// Check this home and all machines, and say how to mend what is wrong
///
/// Ends with status 6 if something fails. Changes nothing.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  When anything does not work:\n    portdistrict doctor")]
pub(super) struct DoctorArgs {}

pub(super) fn run(call: &Call) -> Result<()> {
    let cx = call.context()?;
    let mut checks = home(&cx);
    checks.push(of("tor", call.tor_settings(&cx).and_then(|settings| settings.check().map(|()| settings)).map(|settings| tor(&settings))));
    checks.extend(call.block_on(machine::doctor(&cx, Kind::Local, None))?);
    let machines = cx.ledger_read_only().and_then(|ledger| ledger.machines()).unwrap_or_default();
    for machine in machines {
        let label = machine.label;
        let found = call.block_on(machine::doctor(&cx, Kind::Local, Some(&label)))?;
        // The provider's own needs were checked above, once.
        let own = found.into_iter().filter(|check| matches!(check.name.as_str(), "folder" | "process" | "clock" | "control" | "onion"));
        checks.extend(own.map(|check| Check { name: format!("{label}: {}", check.name), ..check }));
    }
    Checks::new(checks).show(call)
}

/// The home: folders, settings, keyring, ledger, disk, clock.
fn home(cx: &Context) -> Vec<Check> {
    let paths = cx.paths();
    let mut checks = vec![Check::pass("home", paths.home_in_use())];
    if let Some(user) = paths.sudo_user() {
        checks.push(Check::fail(
            "sudo",
            format!("the home in use is root's, not that of {user}"),
            "run it without sudo, or name the home: --home DIR",
        ));
    }
    if !cx.has_keyring() {
        checks.push(Check::fail("identity", "there is none yet", "portdistrict init"));
        return checks;
    }
    checks.push(folders(paths));
    checks.push(of("settings", cx.settings().map(|_| paths.settings_file().display().to_string())));
    checks.push(keyring(cx));
    checks.push(ledger(paths));
    checks.push(disk(&paths.data));
    checks.push(clock(cx));
    checks
}

fn of(name: &str, result: Result<String>) -> Check {
    result.map_or_else(|error| Check::failed(name, &error), |detail| Check::pass(name, detail))
}

/// Which settings Tor would be started with.
fn tor(settings: &crate::tor::Settings) -> String {
    let file = settings.file.as_ref().map_or_else(|| "its own settings".to_owned(), |file| format!("settings from {}", file.display()));
    match settings.bridges.len() {
        0 => format!("{file}, no bridges"),
        n => format!("{file}, {}", super::output::count(n, "bridge")),
    }
}

fn folders(paths: &Paths) -> Check {
    let all = [&paths.config, &paths.data, &paths.state, &paths.cache];
    let wrong = all.into_iter().filter_map(|folder| fs::check_private_dir(folder).err()).find(|error| error.code() != Code::NotFound);
    wrong.map_or_else(|| Check::pass("folders", "nobody else can look into them"), |error| Check::failed("folders", &error))
}

fn keyring(cx: &Context) -> Check {
    if cx.unlock().is_ok_and(|unlock| unlock.carries()) {
        return of("keyring", cx.keyring().map(|keyring| format!("carried by the environment; you are {}", keyring.node_id())));
    }
    match Keyring::protection(cx.paths()) {
        // Asking for the passphrase is not worth a diagnosis.
        Ok(Protection::Passphrase) => Check::skip("keyring", "opens with a passphrase, which is not asked for here"),
        Ok(Protection::KeyFile) => of("keyring", cx.keyring().map(|keyring| format!("opens; you are {}", keyring.node_id()))),
        Err(error) => Check::failed("keyring", &error),
    }
}

fn ledger(paths: &Paths) -> Check {
    match verify_file(&paths.ledger_file(), false) {
        Ok(report) if report.is_ok() => Check::pass("ledger", format!("{} entries hold", report.spans)),
        Ok(report) => {
            let what = report
                .broken
                .map(|broken| broken.to_string())
                .or(report.schema.into_iter().next())
                .or(report.projections.into_iter().next());
            Check::fail("ledger", what.unwrap_or_default(), "portdistrict ledger verify")
        }
        Err(error) => Check::failed("ledger", &error),
    }
}

fn disk(folder: &Path) -> Check {
    match rustix::fs::statvfs(folder) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
            match (read_only, free) {
                (true, _) => {
                    Check::fail("disk", format!("{} is on a read-only disk", folder.display()), "choose a writable place with --home DIR")
                }
                (false, free) if free < LITTLE_SPACE => {
                    Check::fail("disk", format!("only {} free for {}", bytes(free), folder.display()), "free some space on this disk")
                }
                (false, free) => Check::pass("disk", format!("{} free", bytes(free))),
            }
        }
        Err(error) => Check::fail("disk", format!("cannot ask about {}: {error}", folder.display()), "check that the folder exists"),
    }
}

/// The newest record must not lie in the future.
fn clock(cx: &Context) -> Check {
    let newest = cx.ledger_read_only().and_then(|ledger| ledger.log(&Filter { limit: Some(1), ..Filter::default() }));
    let newest = newest.ok().and_then(|entries| entries.last().map(|entry| entry.span.hlc.ms));
    match newest {
        Some(ms) if ms > cx.now() * 1000 + CLOCK_SLACK_MS => Check::fail(
            "this clock",
            format!("behind the newest record, which was made {}", crate::config::time::relative(ms / 1000, cx.now())),
            "set the clock: timedatectl set-ntp true",
        ),
        Some(_) => Check::pass("this clock", "after the newest record"),
        None => Check::skip("this clock", "there is no record to compare it with"),
    }
}

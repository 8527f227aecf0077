//! A new program for a machine in its place: beside the old one, tried within a budget, and taken back if it does not get ready.

use super::program::Program;
use super::unit::{self, Unit};
use super::{PORT, SHORT, Ssh, TOR, Waiting, call_of, connect, look, owner_of, remove, send, share};
use crate::config::Label;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::Resource;
use crate::machine::journal::Journal;
use crate::machine::ssh::link::Link;
use crate::progress::Progress;
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// Name of the program before, by its digest.
    pub before: String,
    /// Name of the program now.
    pub now: String,
}

/// What [`upgrade`] would do, one sentence each.
pub(crate) fn describe(cx: &Context, label: &Label, program: Option<&Path>) -> Result<Vec<String>> {
    let resource = Ssh::new(cx).unit_of(label)?;
    let program = Program::open(program)?;
    Ok(vec![
        format!("send this program ({} MiB, sha256 {}) to {}, unless it is there", program.size >> 20, program.digest, resource.place),
        format!("stop {}, and keep a copy of its node's memory", unit::name(label)),
        format!("write {}:\n{}", unit::path(label), unit_of(label, &resource, &program).text().trim_end()),
        "start it; if its node does not get ready, put back the old unit, program and memory, and start that".to_owned(),
        "remove the program that is not used any more".to_owned(),
    ])
}

/// Gives a machine a new program. If its node does not get ready within `budget`, it runs the old one again when this fails.
pub(crate) async fn upgrade(
    cx: &Context,
    label: &Label,
    program: Option<&Path>,
    budget: Option<Duration>,
    progress: &dyn Progress,
) -> Result<Upgraded> {
    let resource = Ssh::new(cx).unit_of(label)?;
    let (target, program) = (resource.place.parse()?, Program::open(program)?);
    let (link, _) = connect(&target, None, "").await?;
    let step = progress.step("look at the server");
    let facts = look(&link, Some(&program), label.as_str(), owner_of(&resource)).await?;
    facts.refuse(&target, &program, cx.now())?;
    step.done();

    let journal = Journal::of_machine(cx, label);
    let new = share(&journal, target.as_str(), label, program.name());
    journal.intend(&new)?;
    if !facts.has_program {
        send(&link, &program, label, progress).await?;
    }
    journal.made(&new, Map::new())?;

    let budget = budget.map_or(unit::patience(is_onion(&resource)), |budget| budget.as_secs().max(1));
    let reply = replace(&link, label, &resource, &program, budget, progress).await?;
    let before = reply.get("before").unwrap_or_default().to_owned();
    if reply.get("upgraded") != Some("yes") {
        if before != program.name() {
            forget(&journal, &link, label, &resource, &new).await?;
        }
        return Err(taken_back(label, &reply));
    }
    for old in journal.open()?.iter().filter(|resource| resource.what == super::PROGRAM && resource.id() != new.id()) {
        forget(&journal, &link, label, &resource, old).await?;
    }
    Ok(Upgraded { before, now: program.name().to_owned() })
}

/// The exchange itself: one call, which the server brings to an end also when nobody listens any more.
async fn replace(
    link: &Link,
    label: &Label,
    resource: &Resource,
    program: &Program,
    budget: u64,
    progress: &dyn Progress,
) -> Result<super::Reply> {
    let call = call_of("upgrade", label, resource).with("budget", &budget.to_string());
    let call = call.with("unit_text", &unit_of(label, resource, program).text());
    let waiting = Waiting::new(progress);
    // The new program has its time, and then the old one.
    let patience = Duration::from_secs(budget * 2) + SHORT;
    let reply = link.run_with(&call, label.as_str(), patience, None, &mut |name, value| waiting.hear(name, value)).await?;
    if reply.get("upgraded") == Some("yes") {
        waiting.done();
    }
    Ok(reply)
}

/// A program that this machine does not run: it goes, unless another machine runs it.
async fn forget(journal: &Journal<'_>, link: &Link, label: &Label, unit: &Resource, program: &Resource) -> Result<()> {
    let name = program.name.rsplit('/').next().unwrap_or_default();
    remove(link, call_of("remove", label, unit), label, super::PROGRAM, name).await?;
    journal.removed(program)
}

fn unit_of<'a>(label: &'a Label, resource: &'a Resource, program: &'a Program) -> Unit<'a> {
    let port = resource.detail.get(PORT).and_then(Value::as_u64).and_then(|port| port.try_into().ok()).unwrap_or(0);
    Unit { label, owner: owner_of(resource), program: program.name(), port, tor: is_onion(resource) }
}

fn is_onion(resource: &Resource) -> bool {
    resource.detail.get(TOR).is_some_and(|tor| tor == true)
}

fn taken_back(label: &Label, reply: &super::Reply) -> Error {
    let why = reply.get("upgraded").and_then(|text| text.strip_prefix("no ")).unwrap_or("it did not get ready");
    let back = match reply.get("back") {
        Some("running") => "the old program runs again",
        _ => "and the old program does not run either",
    };
    let error = Error::new(Code::Failed, format!("the new program of `{label}` did not get ready ({why}); {back}"));
    let error = reply.all("log").fold(error, |error, line| error.because(crate::machine::message_of_log_line(line)));
    error.hint(format!("portdistrict machine logs {label}"))
}

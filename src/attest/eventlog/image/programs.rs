//! The programs that firmware started, as it measured them into PCR 4: their Authenticode digests, and what it did around them.

use super::{Expected, Finding, PROGRAMS, Value, extended};
use crate::attest::eventlog::{Content, Event, EventType, Sha256Value, content};

/// What firmware does for an image that it starts by the first boot entry (TCG PC Client Platform Firmware Profile 1.06).
const STEPS: [&str; 2] = ["Calling EFI Application from Boot Option", "separator"];

/// One line for the firmware's steps, for the boot program, for its kernel, and for each other program.
pub(super) fn findings(events: &[Event], expected: &Expected, secure_boot: Option<bool>) -> Vec<Finding> {
    let is_program = |event: &&Event| {
        let kinds = [EventType::EfiBootServicesApplication, EventType::EfiBootServicesDriver, EventType::EfiRuntimeServicesDriver];
        kinds.contains(&event.kind) || [expected.uki_authenticode, expected.kernel_authenticode].contains(&event.sha256)
    };
    let (programs, others): (Vec<&Event>, Vec<&Event>) = extended(events, PROGRAMS).partition(is_program);
    let roles = Roles::of(&programs, expected);
    let mut findings = vec![
        Finding::of_digests(PROGRAMS, "the boot program", roles.uki.map(|event| &event.sha256), Some(&expected.uki_authenticode)),
        kernel(roles.kernel, &expected.kernel_authenticode, secure_boot),
    ];
    findings.extend(roles.before.iter().map(|event| Finding::unwanted(PROGRAMS, "another program was started before it", said(event))));
    findings.extend(roles.after.iter().map(|event| Finding::unwanted(PROGRAMS, "another program was started after it", said(event))));
    findings.push(steps(&others));
    findings
}

/// Which program is which.
struct Roles<'a> {
    before: Vec<&'a Event>,
    uki: Option<&'a Event>,
    kernel: Option<&'a Event>,
    after: Vec<&'a Event>,
}

impl<'a> Roles<'a> {
    /// The boot program and its kernel are the last two, unless a digest says better.
    fn of(programs: &[&'a Event], expected: &Expected) -> Roles<'a> {
        let place = |programs: &[&Event], digest: &Sha256Value| programs.iter().position(|event| event.sha256 == *digest);
        let kernel = place(programs, &expected.kernel_authenticode);
        let split = match (place(programs, &expected.uki_authenticode), kernel) {
            (Some(uki), _) => uki,
            (None, Some(kernel)) => kernel.saturating_sub(1),
            (None, None) => programs.len().saturating_sub(2),
        };
        let (before, rest) = programs.split_at(split);
        let (uki, mut after) = match rest.split_first() {
            // The kernel alone: there was no boot program.
            Some(_) if kernel == Some(split) => (None, rest.to_vec()),
            Some((uki, after)) => (Some(*uki), after.to_vec()),
            None => (None, Vec::new()),
        };
        let at = place(&after, &expected.kernel_authenticode).unwrap_or_default();
        let kernel = (at < after.len()).then(|| after.remove(at));
        Roles { before: before.to_vec(), uki, kernel, after }
    }
}

/// The kernel's own Authenticode digest. Under Secure Boot the stub of systemd 252 starts its kernel around the firmware's checks, which
/// are also what measures; PCR 4 then lacks the kernel.
fn kernel(found: Option<&Event>, wanted: &Sha256Value, secure_boot: Option<bool>) -> Finding {
    let mut finding = Finding::of_digests(PROGRAMS, "the kernel, as a program of its own,", found.map(|event| &event.sha256), Some(wanted));
    if found.is_none() && secure_boot == Some(true) {
        finding.found = Some(Value::Text("not measured (Secure Boot is on)".to_owned()));
    }
    finding
}

/// What the firmware did besides starting programs.
fn steps(others: &[&Event]) -> Finding {
    let step = |event: &&Event| match content(event) {
        Ok(Content::Action(action)) => action,
        Ok(Content::Separator(true)) => STEPS[1].to_owned(),
        _ => format!("an event {}", event.kind),
    };
    let found: Vec<String> = others.iter().map(step).collect();
    let ok = found == STEPS;
    let text = |steps: &[String]| Some(Value::Text(format!("\"{}\"", super::super::data::clean(&steps.join(", ")))));
    let wanted = text(&STEPS.map(str::to_owned));
    Finding { pcr: PROGRAMS, component: "what the firmware did before".to_owned(), found: text(&found), wanted, ok }
}

fn said(event: &Event) -> Value {
    match content(event) {
        Ok(Content::Program(path)) => Value::Said(event.sha256, path),
        _ => Value::Digest(event.sha256),
    }
}

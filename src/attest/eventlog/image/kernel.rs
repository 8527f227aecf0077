//! What the kernel itself measured into PCR 9 before it ran: the command line and the initrd that it got.
//!
//! Linux 6.12 measures both when it is started as an EFI program: the command line as UTF-16 with a zero at its end, then the initrd
//! as the stub hands it over. That is the image's `.initrd` unless the stub has added files from outside. The log's words for the two are
//! not covered by their digests, so the digests decide, and words only tell which of them differs.

use super::{Expected, Finding, KERNEL, Value, extended};
use crate::attest::eventlog::data::utf16;
use crate::attest::eventlog::{Content, Event, Sha256Value, content, extend, sha256};

/// What the kernel measures, in its order.
struct Wanted {
    component: &'static str,
    label: Content,
    digest: Sha256Value,
}

fn wanted(expected: &Expected) -> Option<[Wanted; 2]> {
    let initrd = expected.sections.iter().find(|(name, ..)| name == ".initrd").map(|(_, digest, _)| *digest)?;
    let command_line = sha256(&utf16(&format!("{}\0", expected.command_line)));
    Some([
        Wanted { component: "the command line that the kernel got", label: Content::LoadOptions, digest: command_line },
        Wanted { component: "the initrd that the kernel got", label: Content::Initrd, digest: initrd },
    ])
}

/// PCR 9 as the image makes it; none for images without an initrd.
pub(super) fn register(expected: &Expected) -> Option<Sha256Value> {
    Some(wanted(expected)?.iter().fold([0; 32], |register, wanted| extend(&register, &wanted.digest)))
}

/// One line for each of the two, and for whatever else is there.
pub(super) fn findings(events: &[Event], expected: &Expected) -> Vec<Finding> {
    let Some(wanted) = wanted(expected) else { return Vec::new() };
    let mut left: Vec<&Event> = extended(events, KERNEL).collect();
    let mut take = |fits: &dyn Fn(&Event) -> bool| left.iter().position(|event| fits(event)).map(|index| left.remove(index).sha256);
    // First what is right, so that a wrong word in the log cannot take it away.
    let right = [0, 1].map(|index| take(&|event| event.sha256 == wanted[index].digest));
    let found = [0, 1].map(|index: usize| right[index].or_else(|| take(&|event| content(event).is_ok_and(|it| it == wanted[index].label))));
    let mut findings: Vec<Finding> = wanted
        .iter()
        .zip(&found)
        .map(|(wanted, found)| Finding::of_digests(KERNEL, wanted.component, found.as_ref(), Some(&wanted.digest)))
        .collect();
    findings.extend(
        left.into_iter().map(|event| Finding::unwanted(KERNEL, "something else was handed to the kernel", Value::Digest(event.sha256))),
    );
    findings
}

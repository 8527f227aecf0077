//! The parts of the boot program, as its stub measured them into PCR 11 (systemd-stub(7)): for each section its name, then its contents.
//!
//! What the log calls a section is not proved, but its name is measured, too: with a zero byte behind it. So sections are known by the
//! digests of their names.

use super::{Expected, Finding, SECTIONS, Value, extended};
use crate::attest::eventlog::{Content, Event, Sha256Value, content, extend, sha256};
use std::collections::BTreeMap;

/// Sections that stubs measure, in their order; older stubs know fewer (systemd's src/fundamental: 252 to 257).
const ORDER: [&str; 10] = [".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"];

/// A section as it was measured: its name and the digest of its contents.
type Measured = (String, Sha256Value);

/// One line for each section, wanted or not.
pub(super) fn findings(events: &[Event], expected: &Expected) -> Vec<Finding> {
    let (measured, unknown) = measured(events, expected);
    let wanted = wanted(expected);
    let mut findings = Vec::new();
    for (name, digest) in &wanted {
        let found = measured.iter().find(|(measured, _)| measured == name).map(|(_, digest)| digest);
        findings.push(Finding::of_digests(SECTIONS, component(name), found, Some(digest)));
    }
    for (index, (name, digest)) in measured.iter().enumerate() {
        if !wanted.iter().any(|(wanted, _)| wanted == name) {
            findings.push(Finding::unwanted(
                SECTIONS,
                format!("{} is there, which the image does not have", component(name)),
                Value::Digest(*digest),
            ));
        } else if measured[..index].iter().any(|(earlier, _)| earlier == name) {
            findings.push(Finding::unwanted(SECTIONS, format!("{} was measured again", component(name)), Value::Digest(*digest)));
        }
    }
    findings.extend(unknown.iter().map(|event| Finding::unwanted(SECTIONS, "something that is no section was measured", said(event))));
    if findings.iter().all(|finding| finding.ok) {
        findings.extend(order(&measured, &wanted));
    }
    findings
}

/// Sections of the image that its stub does not measure.
pub(super) fn unmeasured(expected: &Expected) -> Vec<&str> {
    let wanted = wanted(expected);
    expected.sections.iter().map(|(name, ..)| name.as_str()).filter(|name| !wanted.iter().any(|(wanted, _)| wanted == name)).collect()
}

/// A section in plain words.
fn component(name: &str) -> String {
    let words = match name {
        ".linux" => "the kernel",
        ".initrd" => "the programs inside (initrd)",
        ".cmdline" => "the command line",
        ".osrel" => "the description",
        ".uname" => "the kernel's release",
        ".ucode" => "the processor's microcode",
        ".splash" => "the picture",
        ".dtb" => "the table of devices",
        ".sbat" => "the list of revoked generations",
        ".pcrpkey" => "the key for predicted registers",
        _ => return format!("the section {name}"),
    };
    words.to_owned()
}

/// The sections that were measured, and what was measured between them.
fn measured<'a>(events: &'a [Event], expected: &Expected) -> (Vec<Measured>, Vec<&'a Event>) {
    let mut names: BTreeMap<Sha256Value, &str> = ORDER.into_iter().map(|name| (name_digest(name), name)).collect();
    names.extend(expected.sections.iter().map(|(name, ..)| (name_digest(name), name.as_str())));
    let (mut sections, mut unknown) = (Vec::new(), Vec::new());
    let mut events = extended(events, SECTIONS);
    while let Some(event) = events.next() {
        let name = names.get(&event.sha256).map(|name| (*name).to_owned()).or_else(|| proved_label(event));
        match name.and_then(|name| Some((name, events.next()?.sha256))) {
            Some(section) => sections.push(section),
            None => unknown.push(event),
        }
    }
    (sections, unknown)
}

fn name_digest(name: &str) -> Sha256Value {
    sha256(&[name.as_bytes(), b"\0"].concat())
}

/// The log's own word for a section, if that is what was measured.
fn proved_label(event: &Event) -> Option<String> {
    match content(event) {
        Ok(Content::Label(label)) if name_digest(&label) == event.sha256 => Some(label),
        _ => None,
    }
}

fn said(event: &Event) -> Value {
    match content(event) {
        Ok(Content::Label(label)) => Value::Said(event.sha256, label),
        _ => Value::Digest(event.sha256),
    }
}

/// All parts are right, so their order is all that can be wrong.
fn order(measured: &[Measured], wanted: &[Measured]) -> Option<Finding> {
    let names = |sections: &[Measured]| Value::Text(sections.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "));
    let (found, wanted, ok) = (names(measured), names(wanted), measured == wanted);
    Some(Finding { pcr: SECTIONS, component: "the order of the parts".to_owned(), found: Some(found), wanted: Some(wanted), ok })
}

/// The sections that the image's stub measures, in its order: those that explain the register that is expected. Nothing else tells which
/// of them a stub knows. If none do, the description contradicts itself, and all are wanted.
fn wanted(expected: &Expected) -> Vec<Measured> {
    let section =
        |name: &&str| expected.sections.iter().find(|(section, ..)| section == name).map(|(name, digest, _)| (name.clone(), *digest));
    let all: Vec<Measured> = ORDER.iter().filter_map(section).collect();
    let subset = |mask: u32| all.iter().enumerate().filter(move |(index, _)| mask & (1 << index) != 0).map(|(_, section)| section);
    let target = expected.pcr.get(&SECTIONS);
    let explains = |mask: &u32| {
        let register = subset(*mask).fold([0; 32], |register, (name, digest)| extend(&extend(&register, &name_digest(name)), digest));
        Some(&register) == target
    };
    // At most 2^10 masks. The newest stubs know most, so all sections are tried first.
    let whole = (1u32 << all.len()) - 1;
    let mask = (0..=whole).rev().find(explains).unwrap_or(whole);
    subset(mask).cloned().collect()
}

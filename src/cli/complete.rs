//! Values that a shell completes: asked of the ledger, read-only, never failing, never prompting.

use crate::config::Paths;
use crate::ledger::Ledger;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Answers and exits if a shell asks (variable `COMPLETE`); costs one look at the environment otherwise.
pub(super) fn answer() {
    CompleteEnv::with_factory(super::definition).complete();
}

/// The labels of machines, with their addresses.
pub(super) fn machines() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let rows = ledger().and_then(|ledger| ledger.machines().ok()).unwrap_or_default();
        rows.into_iter().map(|machine| candidate(machine.label.as_str(), machine.address.unwrap_or(machine.provider))).collect()
    })
}

/// The images that were published from here.
pub(super) fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let rows = ledger().and_then(|ledger| ledger.resources("image/").ok()).unwrap_or_default();
        rows.into_iter().filter(|row| row.what == "image").map(|row| candidate(&row.name, row.place)).collect()
    })
}

/// The friends who hold grants, each once, and those to whom grants were passed on.
pub(super) fn grants() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let mut rows = ledger().and_then(|ledger| ledger.grants().ok()).unwrap_or_default();
        rows.retain(|grant| grant.revoked.is_none());
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows.dedup_by(|a, b| a.name == b.name);
        let node = |grant: &crate::ledger::GrantRow| grant.node.as_ref().map_or_else(|| "any machine".to_owned(), ToString::to_string);
        let mut passed_on = ledger().and_then(|ledger| ledger.passed_on().ok()).unwrap_or_default();
        passed_on.retain(|one| one.revoked.is_none() && rows.iter().all(|grant| grant.name != one.name));
        let passed_on = passed_on.iter().map(|one| candidate(one.name.as_str(), "passed on".to_owned()));
        rows.iter().map(|grant| candidate(grant.name.as_str(), node(grant))).chain(passed_on).collect()
    })
}

/// The exits that were accepted here.
pub(super) fn exits() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let rows = ledger().and_then(|ledger| ledger.exits().ok()).unwrap_or_default();
        rows.into_iter().map(|exit| candidate(exit.name.as_str(), exit.addresses.join(", "))).collect()
    })
}

/// The owner's devices that were not revoked.
pub(super) fn devices() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let rows = ledger().and_then(|ledger| ledger.devices().ok()).unwrap_or_default();
        let live = rows.into_iter().filter(|device| device.revoked_at.is_none());
        live.filter_map(|device| Some(candidate(device.name?.as_str(), device.key.to_string()))).collect()
    })
}

/// The peers whose names begin with what was typed; of ten thousand the others are not even read.
pub(super) fn peers() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let Some(typed) = typed.to_str() else { return Vec::new() };
        let rows = ledger().and_then(|ledger| ledger.peer_names(typed).ok()).unwrap_or_default();
        rows.into_iter().map(|(name, state)| candidate(&name, state)).collect()
    })
}

/// Kinds of spans.
pub(super) fn kinds() -> ArgValueCandidates {
    ArgValueCandidates::new(|| crate::ledger::kinds::KNOWN.iter().map(CompletionCandidate::new).collect())
}

/// What the newest spans are about.
pub(super) fn keys() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let filter = crate::ledger::Filter { limit: Some(200), ..Default::default() };
        let entries = ledger().and_then(|ledger| ledger.log(&filter).ok()).unwrap_or_default();
        let keys: std::collections::BTreeSet<String> = entries.iter().filter_map(crate::ledger::Entry::key).collect();
        keys.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// Ids of the newest spans, newest first.
pub(super) fn spans() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let filter = crate::ledger::Filter { limit: Some(50), ..Default::default() };
        let entries = ledger().and_then(|ledger| ledger.log(&filter).ok()).unwrap_or_default();
        let one = |(order, entry): (usize, &crate::ledger::Entry)| {
            candidate(&entry.id.to_string(), entry.span.kind.clone()).display_order(Some(order))
        };
        entries.iter().rev().enumerate().map(one).collect()
    })
}

fn candidate(value: &str, help: String) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.into()))
}

/// The ledger of the home that the unfinished command line names.
fn ledger() -> Option<Ledger> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let paths = Paths::find(home(&words).as_deref()).ok()?;
    Ledger::open_read_only(&paths.ledger_file()).ok()
}

/// `--home DIR` or `--home=DIR` on the line being completed, which comes after the first `--`.
fn home(words: &[OsString]) -> Option<PathBuf> {
    let mut words = words.iter().skip_while(|word| *word != "--").skip(1);
    while let Some(word) = words.next() {
        if word == "--home" {
            return words.next().map(PathBuf::from);
        }
        if let Some(dir) = word.to_str().and_then(|word| word.strip_prefix("--home=")) {
            return Some(dir.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_on_the_line_is_used() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(home(&words("portdistrict -- portdistrict --home /x machine show")), Some("/x".into()));
        assert_eq!(home(&words("portdistrict -- portdistrict --home=/y machine")), Some("/y".into()));
        assert_eq!(home(&words("portdistrict --home /z -- portdistrict machine")), None);
        assert_eq!(home(&words("portdistrict -- portdistrict --home")), None);
    }
}

//! What the stub took from outside the boot program: another command line and credentials (PCR 12), extensions (PCR 13).

use super::{Finding, Value, extended, meaning};
use crate::attest::eventlog::data::utf16;
use crate::attest::eventlog::{Content, Event, content, sha256};

/// One line for each thing that was added, or one that says that nothing was.
pub(super) fn findings(events: &[Event], pcr: u8) -> Vec<Finding> {
    let added: Vec<Finding> =
        extended(events, pcr).map(|event| Finding::unwanted(pcr, "something was added from outside the image", what(event))).collect();
    if added.is_empty() {
        return vec![Finding { pcr, component: meaning(pcr).to_owned(), found: None, wanted: None, ok: true }];
    }
    added
}

/// The stub measures a command line as it logs it, so that one is proved; of files it logs only a word.
fn what(event: &Event) -> Value {
    match content(event) {
        Ok(Content::Label(label)) if sha256(&utf16(&format!("{label}\0"))) == event.sha256 => Value::Text(format!("\"{label}\"")),
        Ok(Content::Label(label)) => Value::Said(event.sha256, label),
        _ => Value::Digest(event.sha256),
    }
}

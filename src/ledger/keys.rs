//! What a span is about: its key, a noun and a name. Of several spans about one key, every device takes the same for the last.

use super::kinds::{self, Body};
use super::log::Entry;
use super::span::Span;
use serde_json::Value;
use std::cmp::Ordering;

/// The key of the owner's policy.
const POLICY: &str = "policy/owner";

/// For a kind, or the noun of kinds: the noun of the key, and the member of the body that names one. The first that fits counts.
const NAMED_BY: [(&str, &str, &str); 15] = [
    (kinds::IdentityRotated::KIND, "identity", "old"),
    (kinds::DeviceInvited::KIND, "code", "id"),
    (kinds::RulesDelivered::KIND, "rules", "node_key"),
    ("device", "device", "device"),
    ("revocation", "grant", "id"),
    ("renewal", "grant", "id"),
    ("lease", "lease", "node_key"),
    ("machine", "machine", "label"),
    ("grant", "grant", "id"),
    ("exit", "exit", "name"),
    ("evidence", "evidence", "node_key"),
    ("node", "node", "address"),
    ("group", "group", "name"),
    ("peer", "peer", "id"),
    ("resource", "resource", "id"),
];

/// The key of a span, as in `machine/home`; none if it is about nothing that can be named. A kind that this version does not know
/// is named by its member `id`.
pub(super) fn of(span: &Span) -> Option<String> {
    let kind = span.kind.as_str();
    match kind {
        // What a device says of itself is no other device's word.
        kinds::IdentityCreated::KIND | kinds::DeviceDescribed::KIND => return Some(format!("chain/{}", span.author)),
        // Each policy replaces the one before it, so there is one key.
        kinds::PolicySet::KIND => return Some(POLICY.to_owned()),
        _ => {}
    }
    let (noun, _) = kind.split_once('.')?;
    let known = NAMED_BY.iter().find(|(of, _, _)| *of == noun || *of == kind);
    let (noun, member) = known.map_or((noun, "id"), |(_, noun, member)| (noun, member));
    Some(format!("{noun}/{}", span.body.get(member)?.as_str()?))
}

/// Which of two spans about one key counts, if neither knew of the other: the greater one. Mostly that is the later word.
pub(super) fn weigh(one: &Entry, other: &Entry) -> Ordering {
    let later = one.order().cmp(&other.order());
    let text = |entry: &Entry| entry.span.body.get("new").and_then(Value::as_str).map(str::to_owned);
    match (one.span.kind.as_str(), other.span.kind.as_str()) {
        // Of two policies with one number the earlier one stays; of two rotations of one key, the one with the lesser new key.
        (kinds::PolicySet::KIND, kinds::PolicySet::KIND) => {
            let number = |entry: &Entry| entry.span.body.get("number").and_then(Value::as_u64);
            number(one).cmp(&number(other)).then(later.reverse())
        }
        (kinds::IdentityRotated::KIND, kinds::IdentityRotated::KIND) => text(other).cmp(&text(one)).then(later.reverse()),
        _ => later,
    }
}

/// What indexes hold of a key.
pub(super) fn digest(key: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
    short
}

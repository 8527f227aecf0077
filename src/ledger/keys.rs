//! What a span is about: its key, a noun and a name. Of several spans about one key, every device takes the same for the last.

use serde_json::{Map, Value};

/// For each noun of a kind: the noun of the key, and the member of the body that names one.
const NAMED_BY: [(&str, &str, &str); 9] = [
    ("identity", "device", "device"),
    ("device", "device", "device"),
    ("machine", "machine", "label"),
    ("grant", "grant", "id"),
    ("exit", "exit", "name"),
    ("evidence", "evidence", "node_key"),
    ("node", "node", "address"),
    ("group", "group", "name"),
    ("peer", "peer", "id"),
];

/// The key of a span, as in `machine/home`; none if it is about nothing that can be named. A kind that this version does not know
/// is named by its member `id`.
pub(super) fn of(kind: &str, body: &Map<String, Value>) -> Option<String> {
    let (noun, _) = kind.split_once('.')?;
    let known = NAMED_BY.iter().find(|(of, _, _)| *of == noun);
    let (noun, member) = known.map_or((noun, "id"), |(_, noun, member)| (noun, member));
    Some(format!("{noun}/{}", body.get(member)?.as_str()?))
}

/// What indexes hold of a key.
pub(super) fn digest(key: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
    short
}

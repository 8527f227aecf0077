//! What peers' spans come to, in any order, damaged, and by the thousand.

use super::*;
use crate::ledger::hlc::Hlc;
use crate::ledger::project;
use proptest::prelude::*;
use serde_json::json;

fn span(kind: &str, ms: u64, body: Value) -> Span {
    let Value::Object(body) = body else { panic!("a body is an object") };
    Span { v: 1, author: B64([1; 32]), seq: ms, prev: None, deps: Vec::new(), hlc: Hlc { ms, n: 0 }, kind: kind.to_owned(), body }
}

fn key(n: u8) -> ([u8; 32], String) {
    ([n; 32], node_id(&[n; 32]))
}

fn addition(n: u8, name: &str) -> Value {
    let (key, id) = key(n);
    json!({"id": id, "key": B64(key), "name": name, "provenance": "blob"})
}

/// One life: two peers, one of which rotates its key, is demoted, refused once, and one that is forgotten and comes back.
fn life() -> Vec<Span> {
    let ((_, anna), (_, new), (_, bert)) = (key(1), key(2), key(3));
    let mut rotated = addition(2, "anna");
    rotated["provenance"] = json!("rotated");
    rotated["succeeds"] = json!({"id": anna, "state": "trusted", "verified": "words", "rotations": []});
    let list = [
        ("peer.added", addition(1, "anna")),
        ("peer.verified", json!({"id": anna, "how": "words"})),
        ("peer.trusted", json!({"id": anna})),
        ("peer.added", addition(3, "bert")),
        ("peer.refused", json!({"id": anna, "found": B64([9; 32])})),
        ("peer.added", rotated),
        ("peer.forgotten", json!({"id": bert})),
        ("peer.demoted", json!({"id": new, "to": "verified"})),
        ("peer.added", addition(3, "bertie")),
        ("peer.revoked", json!({"id": bert, "reason": "lost"})),
        ("peer.trusted", json!({"id": bert})),
        ("peer.later", json!({"id": bert})),
    ];
    list.into_iter().enumerate().map(|(n, (kind, body))| span(kind, n as u64 + 1, body)).collect()
}

fn tables(spans: &[Span]) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    project::create(&conn).unwrap();
    for span in spans {
        apply(&conn, &B64([span.seq as u8; 32]).to_string(), span).unwrap();
    }
    conn
}

fn dump(conn: &Connection) -> Vec<String> {
    let mut all = Vec::new();
    for (table, columns) in [("peers", 13), ("peer_events", 7), ("peer_faults", 2)] {
        let mut statement = conn.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let row = |row: &Row<'_>| (0..columns).map(|n| row.get::<_, rusqlite::types::Value>(n)).collect::<rusqlite::Result<Vec<_>>>();
        all.extend(statement.query_map([], row).unwrap().map(|row| format!("{table} {:?}", row.unwrap())));
    }
    all
}

#[test]
fn states_follow_from_what_happened() {
    let conn = tables(&life());
    let mut statement = conn.prepare(&format!("{COLUMNS} ORDER BY name")).unwrap();
    let found: Vec<Peer> = statement.query_map([], peer).unwrap().map(Result::unwrap).collect();
    let said: Vec<_> = found.iter().map(|peer| (peer.name.as_str(), peer.state, peer.provenance.as_str())).collect();
    assert_eq!(said, [("anna", PeerState::Verified, "rotated"), ("bertie", PeerState::Revoked, "blob")]);
    assert_eq!((found[0].id.as_str(), found[0].verified.as_deref()), (key(2).1.as_str(), Some("words")));
    assert_eq!((found[0].added_ms, found[0].changed_ms), (6, 8));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Two devices that hear of the same spans in another order say the same.
    #[test]
    fn the_order_of_arrival_does_not_matter(order in Just(life()).prop_shuffle()) {
        prop_assert_eq!(dump(&tables(&order)), dump(&tables(&life())));
    }
}

#[test]
fn a_span_that_says_nothing_sensible_is_a_fault() {
    let mut mixed = addition(1, "anna");
    mixed["id"] = json!(key(2).1);
    let conn = tables(&[
        span("peer.added", 1, mixed),
        span("peer.verified", 2, json!({"how": "words"})),
        span("peer.added", 3, json!({"id": "x", "key": "short", "name": "anna", "provenance": "blob"})),
    ]);
    assert_eq!(dump(&conn).iter().filter(|row| row.starts_with("peer_faults")).count(), 3, "{:?}", dump(&conn));
    assert_eq!(dump(&conn).len(), 3);
}

//! The tail and the indexes: what moves from one to the other is found as before, and what was tampered with is named.

use super::merge;
use crate::ledger::tests::Home;
use crate::ledger::{Filter, verify_file};
use rusqlite::Connection;
use serde_json::json;

#[test]
fn what_leaves_the_tail_is_found_as_before() {
    let home = Home::filled();
    let ledger = home.ledger();
    let log = ledger.log(&Filter::default()).unwrap();
    let about = Filter { key: Some("machine/home".into()), ..Filter::default() };
    assert_eq!((ledger.log(&about).unwrap().len(), ledger.inspect("machine/home").unwrap().paths[0].len()), (2, 2));
    merge(&ledger.conn()).unwrap();
    ledger.append(&home.key(), "machine.reconnected", json!({"label": "home", "address": "10.0.0.1:1"})).unwrap();
    for entry in &log {
        let id = entry.id.to_string();
        assert_eq!((ledger.show(&id).unwrap().pos, ledger.show(&id[..9]).unwrap().pos), (entry.pos, entry.pos));
    }
    assert_eq!((ledger.log(&about).unwrap().len(), ledger.inspect("machine/home").unwrap().paths[0].len()), (3, 3));
    let report = ledger.verify().unwrap();
    assert!(report.is_ok(), "{report:?}");
}

#[test]
fn an_index_that_says_something_else_is_named_and_made_again() {
    for (change, named) in [
        ("UPDATE recent SET key = zeroblob(16) WHERE pos = 3", &["keys"][..]),
        ("UPDATE recent SET id = 'AAAAAAAA' WHERE pos = 3", &["ids"]),
        ("DELETE FROM recent WHERE pos = 3", &["ids", "keys"]),
        ("INSERT INTO ids VALUES ('AAAAAAAA', 3)", &["ids"]),
        ("DROP TABLE ids", &["recent", "ids", "keys"]),
    ] {
        let home = Home::filled();
        Connection::open(home.path()).unwrap().execute_batch(change).unwrap();
        let report = verify_file(&home.path(), true).unwrap();
        assert!(report.broken.is_none() && report.projections == named, "{change}: {report:?}");
        let ledger = home.ledger();
        ledger.rebuild().unwrap();
        assert!(ledger.verify().unwrap().is_ok(), "{change}");
    }
}

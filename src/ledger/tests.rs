//! The ledger through its whole life: appended, read, raced, tampered with, damaged, full and read-only.

use super::*;
use crate::config::{Label, time};
use crate::error::Code;
use crate::keyring::{Keyring, Purpose, Seed};
use ed25519_dalek::SigningKey;
use kinds::{IdentityCreated, MachineClaimed, MachineDeployed, MachineDestroyed};
use rusqlite::types::Value as Sql;
use serde_json::json;
use serde_json::{Map, Value};

pub(super) struct Home {
    pub(super) dir: tempfile::TempDir,
    pub(super) keyring: Keyring,
}

pub(super) fn keyring(identity: u8, device: u8) -> Keyring {
    Keyring::of(Seed::from_bytes(&[identity; 32]), Seed::from_bytes(&[device; 32]))
}

pub(super) fn begin(keyring: &Keyring) -> IdentityCreated {
    IdentityCreated {
        identity: B64(keyring.identity_public()),
        device: B64(keyring.device_public()),
        cert: B64(keyring.device_certificate()),
    }
}

impl Home {
    pub(super) fn new() -> Home {
        let home = Home { dir: tempfile::tempdir().unwrap(), keyring: keyring(1, 2) };
        home.ledger().record(&home.key(), &begin(&home.keyring)).unwrap();
        home
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("ledger.db")
    }

    pub(super) fn ledger(&self) -> Ledger {
        Ledger::open(&self.path()).unwrap()
    }

    pub(super) fn key(&self) -> SigningKey {
        self.keyring.device_key()
    }

    /// A ledger with a few spans of several kinds.
    pub(super) fn filled() -> Home {
        let home = Home::new();
        let ledger = home.ledger();
        ledger.record(&home.key(), &deployed("home")).unwrap();
        ledger.record(&home.key(), &claimed("home")).unwrap();
        ledger.append(&home.key(), "grant.issued", grant(1, "anna")).unwrap();
        ledger.append(&home.key(), "grant.revoked", json!({"id": B64([1; 8]), "at": 5, "reason": "moved out"})).unwrap();
        ledger.append(&home.key(), "future.thing-done", json!({"deep": [1, {"x": null}]})).unwrap();
        home
    }

    /// Changes the database behind the ledger's back, as somebody with a SQLite shell can.
    pub(super) fn tamper(&self, sql: &str) {
        let conn = Connection::open(self.path()).unwrap();
        let triggers = || store::SCHEMA.iter().filter(|(_, sql)| sql.starts_with("CREATE TRIGGER"));
        for (name, _) in triggers() {
            conn.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
        }
        conn.execute_batch(sql).unwrap();
        for (_, sql) in triggers() {
            conn.execute_batch(sql).unwrap();
        }
    }

    pub(super) fn broken(&self) -> Broken {
        let report = verify_file(&self.path(), true).unwrap();
        assert!(!report.is_ok());
        report.broken.clone().unwrap_or_else(|| panic!("no span was named: {report:?}"))
    }
}

pub(super) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub(super) fn deployed(name: &str) -> MachineDeployed {
    MachineDeployed {
        label: label(name),
        provider: "local".into(),
        address: Some("127.0.0.1:4000".into()),
        node_key: None,
        owner: B64([9; 32]),
        cover: Some(B64([8; 32])),
        dir: Some("/state/machines/home".into()),
        detail: Map::new(),
    }
}

pub(super) fn claimed(name: &str) -> MachineClaimed {
    MachineClaimed { label: label(name), node_key: B64([7; 32]), address: None, seed_source: "local".into(), evidence: "none".into() }
}

pub(super) fn grant(id: u8, name: &str) -> Value {
    json!({
        "id": B64([id; 8]), "name": name, "node": "home", "node_key": B64([7; 32]), "subject": B64([6; 32]), "mode": "once",
        "not_before": 10, "expires": 20, "limits": {"bytes": 1000}, "grant": "AAAA"
    })
}

#[test]
fn spans_come_back_as_they_were_written() {
    let home = Home::new();
    let id = home.ledger().append(&home.key(), "note.made", json!({"text": "grüße"})).unwrap();
    let ledger = Ledger::open_read_only(&home.path()).unwrap();
    let entry = ledger.show(&id.to_string()).unwrap();
    assert_eq!((entry.pos, entry.span.seq, entry.id), (2, 1, id));
    assert_eq!(entry.span.body["text"], "grüße");
    assert_eq!(id_of(&entry.bytes), id);
    assert!(span::signed(&entry.span.author, &id, &entry.signature.0));
    let report = ledger.verify().unwrap();
    assert!(report.is_ok() && report.spans == 2, "{report:?}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(home.path()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_chain_begins_with_its_certificate_once() {
    let home = Home::new();
    let ledger = home.ledger();
    let stranger = keyring(1, 3);
    assert_eq!(ledger.append(&stranger.device_key(), "note.made", json!({})).unwrap_err().code(), Code::Precondition);
    assert_eq!(ledger.record(&home.key(), &begin(&home.keyring)).unwrap_err().code(), Code::Exists);
    let mut forged = begin(&stranger);
    forged.cert = B64([0; 64]);
    assert_eq!(ledger.record(&stranger.device_key(), &forged).unwrap_err().code(), Code::Failed);
    assert!(ledger.has_author(&home.keyring.device_public()).unwrap());
    assert!(!ledger.has_author(&stranger.device_public()).unwrap());
}

#[test]
fn a_second_device_builds_on_the_heads_it_knows() {
    let home = Home::new();
    let ledger = home.ledger();
    let second = keyring(1, 3);
    let first_tip = ledger.append(&home.key(), "note.made", json!({})).unwrap();
    ledger.record(&second.device_key(), &begin(&second)).unwrap();
    let theirs = ledger.append(&second.device_key(), "note.made", json!({})).unwrap();
    let ours = ledger.append(&home.key(), "note.made", json!({})).unwrap();
    let log = ledger.log(&Filter::default()).unwrap();
    assert_eq!(log[2].span.deps, [first_tip]);
    assert_eq!(log[3].span.deps, []);
    assert_eq!((log[4].span.prev, log[4].span.deps.as_slice()), (Some(first_tip), &[theirs][..]));
    assert_eq!(log[4].id, ours);
    assert!(ledger.verify().unwrap().is_ok());

    let other = keyring(5, 6);
    ledger.record(&other.device_key(), &begin(&other)).unwrap();
    assert!(home.broken().what.contains("another identity"));
}

#[test]
fn raw_sql_cannot_change_remove_or_replace_a_span() {
    let home = Home::filled();
    let conn = Connection::open(home.path()).unwrap();
    for sql in [
        "UPDATE spans SET kind = 'x.y' WHERE pos = 1",
        "UPDATE spans SET bytes = bytes",
        "DELETE FROM spans",
        "DELETE FROM spans WHERE pos = 3",
        "INSERT OR REPLACE INTO spans SELECT * FROM spans WHERE pos = 2",
        "REPLACE INTO spans SELECT 99, id, 'a', 99, kind, ms, n, bytes, signature FROM spans WHERE pos = 2",
        "INSERT OR REPLACE INTO spans SELECT 99, 'x', author, seq, kind, ms, n, bytes, signature FROM spans WHERE pos = 2",
    ] {
        let error = conn.execute_batch(sql).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    assert!(home.ledger().verify().unwrap().is_ok());
}

#[test]
fn verify_names_the_span_whose_column_was_changed() {
    for (change, words) in [
        ("id = 'x'", "do not have its id"),
        ("author = 'x'", "column author"),
        ("seq = 77", "column seq"),
        ("kind = 'grant.renewed'", "column kind"),
        ("ms = ms + 1", "column ms"),
        ("n = n + 1", "column n "),
        ("bytes = zeroblob(9)", "do not have its id"),
        ("signature = zeroblob(64)", "signature does not hold"),
        ("signature = zeroblob(3)", "64 bytes"),
        ("pos = 50", "missing"),
    ] {
        let home = Home::filled();
        home.tamper(&format!("UPDATE spans SET {change} WHERE pos = 4"));
        let broken = home.broken();
        assert!(broken.what.contains(words), "{change}: {broken:?}");
        assert_eq!(broken.pos, Some(if change.starts_with("pos") { 5 } else { 4 }), "{change}");
    }
}

#[test]
fn verify_sees_through_a_forger_who_hashes_again() {
    let home = Home::filled();
    let entry = &home.ledger().log(&Filter::default()).unwrap()[3];
    let mut forged = entry.span.clone();
    forged.body.insert("name".into(), "berta".into());
    let bytes = forged.encode().unwrap();
    home.tamper(&format!("UPDATE spans SET bytes = x'{}', id = '{}' WHERE pos = 4", crate::encoding::hex(&bytes), id_of(&bytes)));
    assert!(home.broken().what.contains("signature"), "{:?}", home.broken());

    // Even the device's own key cannot rewrite the past without breaking what comes after.
    let signature = span::sign(&home.key(), &id_of(&bytes));
    home.tamper(&format!("UPDATE spans SET signature = x'{}' WHERE pos = 4", crate::encoding::hex(&signature)));
    let broken = home.broken();
    assert_eq!(broken.pos, Some(5));
    assert!(broken.what.contains("previous span"), "{broken:?}");
}

#[test]
fn verify_misses_removed_spans_and_append_refuses_to_go_on() {
    let home = Home::filled();
    home.tamper("DELETE FROM spans WHERE pos = 2");
    assert!(home.broken().what.contains("span 2 is missing"));

    let home = Home::filled();
    home.tamper("DELETE FROM spans WHERE pos = 6");
    assert!(home.broken().what.contains("ends at span 5"));
    let error = home.ledger().append(&home.key(), "note.made", json!({})).unwrap_err();
    assert_eq!(error.code(), Code::Ledger);
    assert!(error.message().contains("lost spans"));
}

#[test]
fn verify_reports_missing_triggers_and_projections_that_disagree() {
    let home = Home::filled();
    Connection::open(home.path()).unwrap().execute_batch("DROP TRIGGER spans_no_update").unwrap();
    assert_eq!(home.ledger().verify().unwrap().schema, ["spans_no_update"]);

    let home = Home::filled();
    let sql = "UPDATE machines SET address = 'evil:1'; DELETE FROM grants;";
    Connection::open(home.path()).unwrap().execute_batch(sql).unwrap();
    let ledger = home.ledger();
    let report = ledger.verify().unwrap();
    assert!(report.broken.is_none());
    assert_eq!(report.projections, ["machines", "grants"]);
    assert_eq!(ledger.rebuild().unwrap(), 6);
    assert!(ledger.verify().unwrap().is_ok());
    assert_eq!(ledger.machine(&label("home")).unwrap().address.as_deref(), Some("127.0.0.1:4000"));
}

#[test]
fn projections_answer_what_the_spans_say() {
    let home = Home::filled();
    let ledger = home.ledger();
    let machine = ledger.machine(&label("home")).unwrap();
    assert_eq!(machine.state, MachineState::Claimed);
    assert_eq!((machine.node_key, machine.cover), (Some(B64([7; 32])), Some(B64([8; 32]))));
    assert_eq!(ledger.machine(&label("other")).unwrap_err().code(), Code::NotFound);

    let grant = ledger.grant("anna").unwrap();
    assert_eq!(grant.revoked.as_ref().map(|r| (r.at, r.reason.as_str())), Some((5, "moved out")));
    assert!(!grant.is_live(15));
    ledger.append(&home.key(), "grant.issued", self::grant(2, "anna")).unwrap();
    assert_eq!(ledger.grant("anna").unwrap().id, B64([2; 8]));
    assert_eq!(ledger.grant(&B64([1; 8]).to_string()).unwrap().id, B64([1; 8]));
    assert_eq!(ledger.grants_for(&label("anna")).unwrap().len(), 2);
    for (node, count, last) in [("home", 3, 100), ("home", 2, 90), ("shed", 1, 50)] {
        ledger.append(&home.key(), "grant.reused", json!({"id": B64([2; 8]), "node": node, "count": count, "last": last})).unwrap();
    }
    let grant = ledger.grant("anna").unwrap();
    assert_eq!(grant.reused, Some(Reuse { count: 4, last: 100 }));
    assert_eq!(grant.limits.bytes, Some(1000));
    assert!(grant.is_live(19) && !grant.is_live(20));

    let exit = |key: u8| {
        json!({"name": "annas", "transport": "direct", "addresses": ["a:1", "b:2"], "node_key": B64([key; 32]), "grant": "AAAA",
            "bound": true, "expires": 20})
    };
    ledger.append(&home.key(), "exit.accepted", exit(1)).unwrap();
    ledger.append(&home.key(), "exit.accepted", exit(1)).unwrap();
    assert_eq!(ledger.append(&home.key(), "exit.accepted", exit(2)).unwrap_err().code(), Code::Exists);
    assert_eq!(ledger.exit(&label("annas")).unwrap().addresses, ["a:1", "b:2"]);
    ledger.append(&home.key(), "exit.forgotten", json!({"name": "annas"})).unwrap();
    assert!(ledger.exits().unwrap().is_empty());
    ledger.append(&home.key(), "node.pinned", json!({"address": "a:1", "node_key": B64([4; 32])})).unwrap();
    assert_eq!(ledger.pinned("a:1").unwrap(), Some(B64([4; 32])));
    ledger.record(&home.key(), &MachineDestroyed { label: label("home") }).unwrap();
    assert!(ledger.machines().unwrap().is_empty());
    assert!(ledger.verify().unwrap().is_ok());
}

#[test]
fn two_deploys_of_one_label_at_once_leave_one() {
    let home = Home::new();
    let results: Vec<Result<SpanId>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| home.ledger().record(&home.key(), &deployed("home")))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!((error.code(), error.hint_text()), (Code::Exists, Some("portdistrict machine show home")));
    }
    let error = home.ledger().record(&home.key(), &claimed("shed")).unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[test]
fn two_connections_append_at_once_and_both_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let keyring = keyring(1, 2);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (path, keyring) = (&path, &keyring);
            scope.spawn(move || {
                // Both also race to make the file and to begin the chain; one of them finds it begun.
                let ledger = Ledger::open(path).unwrap();
                let _ = ledger.record(&keyring.device_key(), &begin(keyring));
                for n in 0..200 {
                    ledger.append(&keyring.device_key(), "note.made", json!({"writer": writer, "n": n})).unwrap();
                }
            });
        }
    });
    let report = verify_file(&path, true).unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.spans, 401);
}

#[test]
fn unknown_kinds_are_kept_and_ignored() {
    let home = Home::filled();
    let found = home.ledger().log(&Filter { kind: Some("future.*".into()), ..Filter::default() }).unwrap();
    assert_eq!(found[0].span.body["deep"], json!([1, {"x": null}]));
}

#[test]
fn bad_bodies_are_refused_and_leave_nothing() {
    let home = Home::new();
    let ledger = home.ledger();
    for (kind, body) in [
        ("machine.destroyed", json!({})),
        ("machine.destroyed", json!({"label": "../x"})),
        ("note.made", json!([])),
        ("note.made", json!({"x": 0.5})),
        ("note.made", json!({"x": "y".repeat(MAX_SPAN)})),
        ("Note", json!({})),
    ] {
        assert!(ledger.append(&home.key(), kind, body).is_err(), "{kind}");
    }
    assert_eq!(ledger.verify().unwrap().spans, 1);
}

#[test]
fn the_log_filters_by_kind_time_and_number() {
    let home = Home::new();
    let ledger = home.ledger();
    let start = time::now_ms() + 10_000;
    for n in 0..5u64 {
        let body = [("n".to_owned(), n.into())].into_iter().collect();
        ledger.append_at(&home.key(), if n % 2 == 0 { "even.seen" } else { "odd.seen" }, body, start + n * 1000).unwrap();
    }
    let numbers = |filter: &Filter| -> Vec<u64> { ledger.log(filter).unwrap().iter().filter_map(|e| e.span.body["n"].as_u64()).collect() };
    assert_eq!(numbers(&Filter { kind: Some("even.*".into()), ..Filter::default() }), [0, 2, 4]);
    assert_eq!(numbers(&Filter { limit: Some(2), ..Filter::default() }), [3, 4]);
    assert_eq!(numbers(&Filter { since: Some(start.div_ceil(1000) + 3), ..Filter::default() }).last(), Some(&4));
    assert!(ledger.log(&Filter { kind: Some("none".into()), ..Filter::default() }).unwrap().is_empty());
}

#[test]
fn a_span_is_found_by_a_unique_beginning_of_its_id() {
    let home = Home::filled();
    let ledger = home.ledger();
    let id = ledger.log(&Filter::default()).unwrap()[2].id.to_string();
    assert_eq!(ledger.show(&id[..10]).unwrap().pos, 3);
    for (bad, code) in [("", Code::Usage), ("a'b", Code::Usage), ("%", Code::Usage), ("AAAAAAAAAAAA", Code::NotFound)] {
        assert_eq!(ledger.show(bad).unwrap_err().code(), code, "{bad}");
    }
    for n in 0..80 {
        ledger.append(&home.key(), "note.made", json!({"n": n})).unwrap();
    }
    let ambiguous = ledger
        .log(&Filter::default())
        .unwrap()
        .iter()
        .map(|e| e.id.to_string())
        .any(|id| ledger.show(&id[..1]).is_err_and(|error| error.code() == Code::Usage));
    assert!(ambiguous);
}

#[test]
fn a_follower_sees_each_new_span_once() {
    let home = Home::filled();
    let ledger = home.ledger();
    let mut follower = ledger.follow(Filter { kind: Some("note.*".into()), ..Filter::default() }).unwrap();
    assert!(follower.poll().unwrap().is_empty());
    let id = ledger.append(&home.key(), "note.made", json!({})).unwrap();
    ledger.append(&home.key(), "other.made", json!({})).unwrap();
    assert_eq!(follower.poll().unwrap().iter().map(|e| e.id).collect::<Vec<_>>(), [id]);
    assert!(follower.poll().unwrap().is_empty());
    let id = home.ledger().append(&home.key(), "note.made", json!({})).unwrap();
    assert_eq!(follower.poll().unwrap()[0].id, id);
}

#[test]
fn a_clock_that_runs_back_keeps_the_order_and_one_a_day_ahead_is_refused() {
    let home = Home::new();
    let ledger = home.ledger();
    let now = time::now_ms();
    for offset in [0, 3_600_000, 0, 5] {
        ledger.append_at(&home.key(), "note.made", Map::new(), now + offset).unwrap();
    }
    let log = ledger.log(&Filter::default()).unwrap();
    assert!(log.is_sorted_by(|a, b| a.span.hlc < b.span.hlc));
    assert!(ledger.verify().unwrap().is_ok());
    let error = ledger.append_at(&home.key(), "note.made", Map::new(), now - MAX_AHEAD_MS).unwrap_err();
    assert_eq!(error.code(), Code::Precondition);
}

#[test]
fn other_files_and_other_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    assert_eq!(Ledger::open_read_only(&path).unwrap_err().code(), Code::Precondition);

    crate::config::fs::write_private(&path, &[b'x'; 5000]).unwrap();
    let error = Ledger::open(&path).unwrap_err();
    assert_eq!(error.code(), Code::Ledger);
    assert!(verify_file(&path, true).unwrap().broken.is_some());

    crate::config::fs::write_private(&path, b"").unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    assert!(Ledger::open(&path).unwrap_err().message().contains("is no ledger"));

    let home = Home::new();
    Connection::open(home.path()).unwrap().execute_batch("PRAGMA user_version = 4").unwrap();
    for error in [Ledger::open(&home.path()).unwrap_err(), Ledger::open_read_only(&home.path()).unwrap_err()] {
        assert!(error.message().contains("version 4"));
        assert_eq!(error.hint_text(), Some("upgrade portdistrict"));
    }
}

#[test]
fn projections_of_another_version_are_rebuilt_when_opened() {
    let home = Home::filled();
    Connection::open(home.path()).unwrap().execute_batch("UPDATE projection SET version = 0; DROP TABLE machines").unwrap();
    assert_eq!(home.ledger().machines().unwrap().len(), 1);
    Connection::open(home.path()).unwrap().execute_batch("DROP TABLE projection").unwrap();
    assert!(home.ledger().verify().unwrap().is_ok());
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_half_made() {
    let home = Home::filled();
    let ledger = home.ledger();
    let pages: i64 = ledger.conn().pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    ledger.conn().pragma_update(None, "max_page_count", pages).unwrap();
    let big = json!({"text": "x".repeat(40_000)});
    let error = ledger.append(&home.key(), "note.made", big.clone()).unwrap_err();
    assert_eq!(error.code(), Code::Io, "{error:?}");
    assert!(error.hint_text().unwrap().contains("space"));
    assert!(ledger.verify().unwrap().is_ok());
    ledger.conn().pragma_update(None, "max_page_count", 1_000_000).unwrap();
    ledger.append(&home.key(), "note.made", big).unwrap();
    assert_eq!(ledger.verify().unwrap().spans, 7);
}

#[test]
fn a_ledger_opened_for_reading_cannot_be_changed() {
    let home = Home::filled();
    let ledger = Ledger::open_read_only(&home.path()).unwrap();
    for error in [ledger.append(&home.key(), "note.made", json!({})).unwrap_err(), ledger.rebuild().unwrap_err()] {
        assert_eq!(error.code(), Code::Io, "{error:?}");
        assert!(error.hint_text().unwrap().contains("writable"));
    }
}

#[test]
fn looser_permissions_are_refused() {
    let home = Home::filled();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(Ledger::open(&home.path()).unwrap_err().code(), Code::Permissions);
    assert_eq!(Ledger::open_read_only(&home.path()).unwrap_err().code(), Code::Permissions);
}

/// A byte of the file changed by hand, inside the bytes of one span.
#[test]
fn a_flipped_byte_in_a_span_names_that_span() {
    let home = Home::filled();
    let log = home.ledger().log(&Filter::default()).unwrap();
    let good = std::fs::read(home.path()).unwrap();
    for entry in &log {
        let at = good.windows(entry.bytes.len()).position(|w| w == entry.bytes).unwrap() + entry.bytes.len() / 2;
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        std::fs::write(home.path(), &bad).unwrap();
        let broken = home.broken();
        assert_eq!(broken.pos, Some(entry.pos), "{broken:?}");
        assert_eq!(broken.id, Some(entry.id.to_string()));
    }
}

/// Any byte of the file: never a panic, and never another content taken for the right one.
#[test]
fn no_flipped_byte_goes_unseen_where_it_matters() {
    let home = Home::filled();
    let expected = home.ledger().log(&Filter::default()).unwrap();
    let good = std::fs::read(home.path()).unwrap();
    let mut found = 0;
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(home.path(), &bad).unwrap();
        let report = verify_file(&home.path(), true).unwrap();
        if report.is_ok() {
            let ledger = Ledger::open_read_only(&home.path()).unwrap();
            let log = ledger.log(&Filter::default()).unwrap();
            assert!(log.iter().zip(&expected).all(|(a, b)| a.bytes == b.bytes && a.id == b.id), "byte {at}");
        } else {
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn a_cut_off_file_is_reported_not_panicked_over() {
    let home = Home::filled();
    let good = std::fs::read(home.path()).unwrap();
    for keep in [0, 1, 50, 100, 4095, 4096, 5000, good.len() / 2, good.len() - 4096] {
        std::fs::write(home.path(), &good[..keep]).unwrap();
        let report = verify_file(&home.path(), true).unwrap();
        assert!(!report.is_ok(), "{keep} bytes: {report:?}");
    }
}

#[test]
fn what_sqlite_stores_is_what_the_format_says() {
    let home = Home::new();
    let conn = Connection::open(home.path()).unwrap();
    let row: Vec<Sql> = conn
        .query_row("SELECT id, author, kind FROM spans", [], |row| (0..3).map(|i| row.get(i)).collect::<rusqlite::Result<_>>())
        .unwrap();
    let author = B64(Seed::from_bytes(&[2; 32]).signing_key(Purpose::DeviceSign).verifying_key().to_bytes());
    assert_eq!(row[1], Sql::Text(author.to_string()));
    assert_eq!(row[2], Sql::Text("identity.created".into()));
}

fn judged(outcome: &str, rung: &str) -> kinds::EvidenceJudged {
    kinds::EvidenceJudged {
        node_key: B64([7; 32]),
        name: label("home"),
        outcome: outcome.into(),
        rung: rung.into(),
        evidence_kind: "tpm".into(),
        reason: (outcome == "refused").then(|| "image_mismatch".into()),
        evidence: "00".into(),
        image: (outcome == "verified").then(|| "aa".into()),
        measurement: None,
        endorsement: None,
        discovered: false,
    }
}

#[test]
fn what_a_node_proved_earns_a_point_once_and_a_refusal_takes_nothing() {
    let home = Home::new();
    let ledger = home.ledger();
    let judge = |outcome, rung| ledger.record(&home.key(), &judged(outcome, rung)).map(drop).unwrap();
    let points = || ledger.proof(&[7; 32]).unwrap().unwrap().points;
    judge("refused", "pinned-key");
    assert_eq!((points(), ledger.proved(&[7; 32]).unwrap().is_none()), (0, true), "a refusal earns nothing and proves nothing");
    for _ in 0..3 {
        judge("verified", "image-by-tpm");
        assert_eq!(points(), 1, "the same again earns nothing");
    }
    judge("refused", "pinned-key");
    let (last, proved) = (ledger.proof(&[7; 32]).unwrap().unwrap(), ledger.proved(&[7; 32]).unwrap().unwrap());
    assert_eq!((last.outcome.as_str(), last.reason.as_deref()), ("refused", Some("image_mismatch")));
    assert_eq!((proved.rung.as_str(), proved.image.as_deref(), proved.points), ("image-by-tpm", Some("aa"), 1));
    judge("verified", "image-by-hardware");
    assert_eq!(points(), 2);
    assert!(ledger.proof(&[8; 32]).unwrap().is_none());
    // Read anew from the spans, it is the same.
    ledger.rebuild().unwrap();
    assert_eq!(points(), 2);
}

//! Several devices that write about the same things: every order of arrival gives the same tables, and conflicts are told.

use super::project::{self, TABLES};
use super::tests::{Home, begin, claimed, deployed, grant, keyring, label};
use super::*;
use crate::keyring::Keyring;
use crate::token::Rotation;
use kinds::MachineDestroyed;
use proptest::prelude::*;
use serde_json::json;

/// A device of one owner with a ledger of its own.
pub(super) struct Device {
    dir: tempfile::TempDir,
    pub(super) keyring: Keyring,
}

impl Device {
    pub(super) fn new(number: u8) -> Device {
        let device = Device { dir: tempfile::tempdir().unwrap(), keyring: keyring(1, number) };
        device.ledger().record(&device.keyring.device_key(), &begin(&device.keyring)).unwrap();
        device
    }

    pub(super) fn ledger(&self) -> Ledger {
        Ledger::open(&self.dir.path().join("ledger.db")).unwrap()
    }

    pub(super) fn hears(&self, other: &Device) -> Imported {
        let mut lines = Vec::new();
        other.ledger().export(&Audience::Devices, &mut lines).unwrap();
        self.ledger().import(lines.as_slice(), Some(self.keyring.device_public()), false).unwrap()
    }

    pub(super) fn writes(&self, kind: &str, body: serde_json::Value) -> SpanId {
        self.ledger().append(&self.keyring.device_key(), kind, body).unwrap()
    }
}

/// What the tables say, but for where spans stand.
fn dump(conn: &Connection) -> Vec<String> {
    let rows = |table: &project::Table| {
        let mut statement = conn.prepare(table.dump).unwrap();
        let columns = statement.column_count();
        let row =
            |row: &rusqlite::Row<'_>| (0..columns).map(|i| row.get::<_, rusqlite::types::Value>(i)).collect::<rusqlite::Result<Vec<_>>>();
        let rows: Vec<_> = statement.query_map([], row).unwrap().map(Result::unwrap).collect();
        format!("{}: {rows:?}", table.name)
    };
    TABLES.iter().map(rows).collect()
}

/// A rotation of the owner's identity to one of a few keys.
pub(super) fn rotated(device: &Keyring, to: u8) -> kinds::IdentityRotated {
    let next = keyring(100 + to, 2).identity_key();
    let statement = Rotation::sign(&device.identity_key(), &next, 1_800_000_000);
    let cert = crate::keyring::sign(&next, crate::keyring::DEVICE, &device.device_public());
    kinds::IdentityRotated {
        old: B64(statement.rotation().old),
        new: B64(statement.rotation().new),
        statement: kinds::Blob(statement.encode()),
        devices: vec![kinds::Certified { device: B64(device.device_public()), cert: B64(cert) }],
    }
}

/// A policy after the newest one that is here; every third lets only its author go on.
fn policy(device: &Device, n: u8) -> serde_json::Value {
    let number = device.ledger().policies().unwrap().first().map_or(1, |last| last.number + 1);
    let editors = if n.is_multiple_of(3) { vec![B64(device.keyring.device_public())] } else { Vec::new() };
    json!({"number": number, "policy": {"version": 1, "editors": editors, "by": n}})
}

/// What two devices might say of a friend, who might have taken another key.
fn peer(n: u8) -> (&'static str, serde_json::Value) {
    let (key, other) = (B64([n % 3; 32]), [(n % 3 + 1) % 3; 32]);
    let id = crate::encoding::node_id(&key.0);
    let mut added = json!({"id": id, "key": key, "name": format!("anna{}", n % 3), "provenance": "blob"});
    match n / 3 % 8 {
        0 | 1 => ("peer.added", added),
        2 => {
            added["succeeds"] = json!({"id": crate::encoding::node_id(&other), "state": "seen", "rotations": []});
            ("peer.added", added)
        }
        3 => ("peer.verified", json!({"id": id, "how": "words"})),
        4 => ("peer.trusted", json!({"id": id})),
        5 => ("peer.demoted", json!({"id": id, "to": "seen"})),
        6 => ("peer.forgotten", json!({"id": id})),
        _ => ("peer.revoked", json!({"id": id, "reason": format!("{n}")})),
    }
}

/// Something that a device might do; what the ledger refuses it does not do.
fn act(device: &Device, choice: u16) {
    let (ledger, key) = (device.ledger(), device.keyring.device_key());
    let n = (choice / 24) as u8;
    let name = if n & 1 == 0 { "home" } else { "shed" };
    let (id, other, node) = (B64([n % 4; 8]), B64([8 + n % 4; 8]), B64([n % 2; 32]));
    let stranger = B64([200 + n % 3; 32]);
    let _ = match choice % 26 {
        0 => ledger.record(&key, &deployed(name)),
        1 => ledger.record(&key, &claimed(name)),
        2 => ledger.record(&key, &MachineDestroyed { label: label(name) }),
        3 | 4 => ledger.append(&key, "grant.issued", grant(n % 4, "anna")),
        5 => ledger.append(&key, "grant.revoked", json!({"id": id, "at": n, "reason": name})),
        6 => ledger.append(&key, "node.pinned", json!({"address": name, "node_key": B64([n; 32])})),
        7 => ledger.append(&key, "grant.reused", json!({"id": id, "count": n, "last": n})),
        8 => ledger.append(&key, "machine.reconnected", json!({"label": name, "address": format!("10.0.0.{n}:1")})),
        9 => ledger.append(&key, "grant.renewed", json!({"id": id, "revision": 1 + n / 4 % 4, "expires": n, "grant": "AAAA"})),
        10 => ledger.append(&key, "grant.delegated", json!({"id": other, "parent": id, "name": name, "node_key": node})),
        11 => ledger.append(&key, "grant.revoked", json!({"id": other, "at": n, "reason": name})),
        12 => ledger.append(&key, "revocation.delivered", json!({"id": id, "node": name, "node_key": node})),
        13 => ledger.append(&key, "renewal.delivered", json!({"id": id, "revision": n % 5, "node": name, "node_key": node})),
        14 => ledger.append(&key, "lease.stated", json!({"node": name, "node_key": node, "at": n % 8, "statement": B64([n; 8])})),
        15 | 16 => ledger.append(&key, "policy.set", policy(device, n)),
        17 => ledger.append(&key, "rules.delivered", json!({"number": n, "node": name, "node_key": node})),
        18 | 19 => {
            let (kind, body) = peer(n);
            ledger.append(&key, kind, body)
        }
        20 => ledger.append(&key, "device.described", json!({"name": name, "version": format!("{n}")})),
        21 => ledger.append(&key, "device.invited", json!({"id": id, "hash": B64([n; 32]), "expires": n})),
        22 => ledger.append(
            &key,
            "device.approved",
            json!({"code": id, "device": stranger, "enrolment": B64([n; 32]), "name": name, "cert": B64([n; 64])}),
        ),
        23 => ledger.append(&key, "machine.disabled", json!({"label": name, "capability": if n & 1 == 0 { "exit" } else { "tor" }})),
        24 => ledger.append(&key, "machine.enabled", json!({"label": name, "capability": if n & 1 == 0 { "exit" } else { "tor" }})),
        _ if n & 1 == 0 => ledger.record(&key, &rotated(&device.keyring, n / 2 % 3)),
        _ => ledger.append(&key, "device.revoked", json!({"device": stranger, "at": n, "last": n % 7, "reason": name})),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Devices write and hear of each other at random; then their spans arrive somewhere in a random order in which each stands
    /// after what it builds on, in random portions.
    #[test]
    fn tables_do_not_depend_on_the_order_of_arrival(
        steps in proptest::collection::vec((0usize..3, any::<u16>(), 0usize..9), 10..60),
        picks in proptest::collection::vec(any::<u16>(), 64),
    ) {
        let devices: Vec<Device> = (2..5).map(Device::new).collect();
        for (who, choice, other) in steps {
            if other < 3 && other != who { drop(devices[who].hears(&devices[other])) } else { act(&devices[who], choice) }
        }
        devices[0].hears(&devices[1]);
        devices[0].hears(&devices[2]);
        let all = devices[0].ledger().log(&Filter::default()).unwrap();
        let conn = Connection::open_in_memory().unwrap();
        for (_, sql) in store::SCHEMA {
            conn.execute_batch(sql).unwrap();
        }
        project::rebuild(&conn, None).unwrap();
        let (mut waiting, mut there, mut turn) = (all, std::collections::HashSet::new(), 0);
        while !waiting.is_empty() {
            let ready: Vec<usize> = (0..waiting.len())
                .filter(|at| waiting[*at].span.deps.iter().chain(&waiting[*at].span.prev).all(|id| there.contains(id)))
                .collect();
            let pick = usize::from(picks[turn % picks.len()]);
            let entry = waiting.remove(ready[pick % ready.len()]);
            turn += 1;
            append::insert(&conn, turn as i64, &entry.id.to_string(), &entry.span, &entry.bytes, &entry.signature.0).unwrap();
            there.insert(entry.id);
            if pick % 3 == 0 {
                project::advance(&conn).unwrap();
            }
        }
        project::advance(&conn).unwrap();
        let found = dump(&conn);
        prop_assert_eq!(&found, &dump(&devices[0].ledger().conn()));
        project::rebuild(&conn, None).unwrap();
        prop_assert_eq!(&found, &dump(&conn));
        for device in &devices {
            prop_assert!(device.ledger().verify().unwrap().is_ok());
        }
        // When all have heard all, all say the same.
        for device in &devices[1..] {
            device.hears(&devices[0]);
            prop_assert_eq!(&found, &dump(&device.ledger().conn()));
        }
    }
}

fn pin(key: u8) -> serde_json::Value {
    json!({"address": "a:1", "node_key": B64([key; 32])})
}

#[test]
fn two_devices_that_do_not_know_of_each_other_make_a_conflict_and_the_later_word_counts() {
    let (one, two) = (Device::new(2), Device::new(3));
    let old = one.writes("node.pinned", pin(1));
    two.hears(&one);
    let first = one.writes("node.pinned", pin(2));
    let second = two.writes("node.pinned", pin(3));
    one.hears(&two);
    two.hears(&one);
    for device in [&one, &two] {
        let ledger = device.ledger();
        let found = ledger.inspect("node/a:1").unwrap();
        assert_eq!(found.heads.iter().map(|head| head.id).collect::<Vec<_>>(), [first, second]);
        assert_eq!((found.winner().unwrap().id, found.ancestor.as_ref().unwrap().id), (second, old));
        assert_eq!(found.paths, [[first], [second]]);
        assert_eq!(ledger.pinned("a:1").unwrap(), Some(B64([3; 32])));
        let rival = |id: SpanId| ledger.rivals(&ledger.show(&id.to_string()).unwrap(), &Audience::ThisDevice).unwrap();
        assert!(rival(old).is_empty());
        assert!(matches!(rival(first).as_slice(), [other] if other.entry.id == second && other.wins));
        assert!(matches!(rival(second).as_slice(), [other] if other.entry.id == first && !other.wins));
    }
    // A word that knows both ends it.
    let last = one.writes("node.pinned", pin(4));
    two.hears(&one);
    let found = two.ledger().inspect("node/a:1").unwrap();
    assert_eq!(found.heads.iter().map(|head| head.id).collect::<Vec<_>>(), [last]);
    assert_eq!(found.paths, [[old, first, second, last]]);
    assert_eq!(two.ledger().inspect("node/b:1").unwrap_err().code(), crate::error::Code::NotFound);
}

#[test]
fn where_the_earlier_or_the_lesser_word_counts_it_is_named_on_both_devices() {
    let (one, two) = (Device::new(2), Device::new(3));
    let set = |device: &Device, n: u8| device.writes("policy.set", json!({"number": 1, "policy": {"version": 1, "by": n}}));
    let (first, _) = (set(&one, 1), set(&two, 2));
    let (at_one, at_two) = (rotated(&one.keyring, 1), rotated(&two.keyring, 2));
    let lesser = if at_one.new.to_string() < at_two.new.to_string() { at_one.new } else { at_two.new };
    one.ledger().record(&one.keyring.device_key(), &at_one).unwrap();
    two.ledger().record(&two.keyring.device_key(), &at_two).unwrap();
    one.hears(&two);
    two.hears(&one);
    for device in [&one, &two] {
        let ledger = device.ledger();
        let found = ledger.inspect("policy/owner").unwrap();
        assert_eq!((found.heads.len(), found.winner().unwrap().id), (2, first));
        assert_eq!(ledger.policies().unwrap().iter().map(|policy| policy.span).collect::<Vec<_>>(), [first]);
        let rival = ledger.rivals(&ledger.show(&first.to_string()).unwrap(), &Audience::ThisDevice).unwrap();
        assert!(matches!(rival.as_slice(), [other] if !other.wins));
        let found = ledger.inspect(&format!("identity/{}", B64(one.keyring.identity_public()))).unwrap();
        assert_eq!(found.winner().unwrap().span.body["new"], json!(lesser));
        assert_eq!(ledger.current_identity().unwrap(), Some(lesser));
    }
}

#[test]
fn a_policy_without_the_one_before_it_does_not_count() {
    let one = Device::new(2);
    let conn = Connection::open_in_memory().unwrap();
    for (_, sql) in store::SCHEMA {
        conn.execute_batch(sql).unwrap();
    }
    // A device that wrote it past its own checks.
    let template = one.ledger().log(&Filter::default()).unwrap().remove(0);
    let serde_json::Value::Object(body) = json!({"number": 7, "policy": {"version": 1}}) else { panic!("it is an object") };
    let span = Span { kind: "policy.set".to_owned(), body, ..template.span };
    append::insert(&conn, 1, &template.id.to_string(), &span, &span.encode().unwrap(), &template.signature.0).unwrap();
    project::rebuild(&conn, None).unwrap();
    assert_eq!(conn.query_row("SELECT count(*) FROM policies", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn what_one_device_says_alone_is_no_conflict() {
    let home = Home::filled();
    let ledger = home.ledger();
    for entry in ledger.log(&Filter::default()).unwrap() {
        assert!(ledger.rivals(&entry, &Audience::ThisDevice).unwrap().is_empty());
    }
    let found = ledger.inspect("machine/home").unwrap();
    assert_eq!((found.heads.len(), found.paths[0].len(), found.ancestor.is_none()), (1, 2, true));
}

#[test]
fn a_batch_is_recorded_whole_or_not_at_all() {
    let home = Home::new();
    let ledger = home.ledger();
    let drafts = |n: u32| (0..n).map(|n| Draft::new("note.made", json!({ "n": n })).unwrap());
    let ids = ledger.record_batch(&home.key(), drafts(100).collect()).unwrap();
    let log = ledger.log(&Filter::default()).unwrap();
    assert_eq!(log[1..].iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
    let one_bad = drafts(50).chain([Draft::of(&MachineDestroyed { label: label("none") }).unwrap()]).chain(drafts(50)).collect();
    assert!(ledger.record_batch(&home.key(), one_bad).is_err());
    // Later spans of a batch see what earlier ones did.
    let both = vec![Draft::of(&deployed("home")).unwrap(), Draft::of(&claimed("home")).unwrap()];
    ledger.record_batch(&home.key(), both).unwrap();
    assert!(ledger.record_batch(&home.key(), Vec::new()).unwrap().is_empty());
    let report = ledger.verify().unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.spans, 103);
}

//! What an invite says, and when there is none.

use super::super::testing::{home, invite, node_key, own, request};
use super::*;
use crate::ledger::kinds::MachineDestroyed;

fn error<T>(result: Result<T>) -> Error {
    result.err().expect("it should have failed")
}

#[test]
fn an_invite_says_what_was_recorded() {
    let (_dir, cx) = home();
    own(&cx, "berlin", "192.0.2.7:8443");
    let limits = Limits { bytes: Some(10 << 30), bits_per_second: Some(20_000_000), streams: Some(64), ..Limits::default() };
    let wanted =
        Request { limits, scope: Scope { allow: vec!["0.0.0.0/0:443".to_owned()], ..Scope::default() }, ..request("berlin", "anna") };
    let invited = invite(&cx, &wanted, false).unwrap();
    assert!(invited.blob.len() <= 450, "{} characters", invited.blob.len());
    let read = Invite::from_blob(&invited.blob).unwrap();
    let grant = read.grant.root().grant();
    assert_eq!((read.node, read.name, grant.mode, grant.limits), (node_key(), Some("berlin".parse().unwrap()), Mode::Once, limits));
    assert_eq!(grant.scope, wanted.scope);
    assert_eq!(read.transport, Transport::direct(vec!["192.0.2.7:8443".to_owned()]));
    assert_eq!(grant.expires - grant.not_before, 86_400 + EARLIER);
    let known = cx.ledger().unwrap().grant("anna").unwrap();
    assert_eq!((known.id.0, known.expires, known.signed), (invited.id, invited.expires, read.grant.encode()));
    assert!(!invited.is_only_for_here());
}

#[test]
fn a_dry_run_records_nothing() {
    let (_dir, cx) = home();
    own(&cx, "home", "127.0.0.1:8443");
    assert!(invite(&cx, &request("home", "anna"), true).unwrap().is_only_for_here());
    assert!(cx.ledger().unwrap().grants().unwrap().is_empty());
}

#[test]
fn the_bounds_of_a_lifetime_hold() {
    let (_dir, cx) = home();
    own(&cx, "home", "127.0.0.1:8443");
    let lasting = |lifetime| invite(&cx, &Request { lifetime, ..request("home", "anna") }, true);
    assert_eq!(error(lasting(Duration::ZERO)).code(), Code::Usage);
    assert!(lasting(Duration::from_secs(1)).is_ok());
    assert!(lasting(LONGEST).is_ok());
    assert_eq!(error(lasting(LONGEST + Duration::from_secs(1))).code(), Code::Usage);
}

#[test]
fn a_machine_that_is_unknown_unclaimed_or_gone_cannot_be_lent() {
    let (_dir, cx) = home();
    let unknown = error(invite(&cx, &request("home", "anna"), false));
    assert_eq!((unknown.code(), unknown.hint_text()), (Code::NotFound, Some("portdistrict machine list")));
    own(&cx, "home", "127.0.0.1:8443");
    cx.record(&MachineDestroyed { label: "home".parse().unwrap() }).unwrap();
    assert_eq!(error(invite(&cx, &request("home", "anna"), false)).code(), Code::NotFound);
    let deployed = crate::ledger::kinds::MachineDeployed {
        label: "home".parse().unwrap(),
        provider: "local".to_owned(),
        address: Some("127.0.0.1:1".to_owned()),
        node_key: None,
        owner: B64(cx.keyring().unwrap().identity_public()),
        cover: None,
        dir: None,
        detail: serde_json::Map::new(),
    };
    cx.record(&deployed).unwrap();
    let unclaimed = error(invite(&cx, &request("home", "anna"), false));
    assert_eq!((unclaimed.code(), unclaimed.hint_text()), (Code::Precondition, Some("portdistrict machine claim home")));
}

#[test]
fn what_nobody_could_read_is_not_granted() {
    let (_dir, cx) = home();
    own(&cx, "home", "127.0.0.1:8443");
    for wanted in [
        Request { scope: Scope { allow: vec!["::/0".to_owned(); 17], ..Scope::default() }, ..request("home", "anna") },
        Request {
            scope: Scope { deny: vec![format!("{}.{}.{}", "a".repeat(60), "b".repeat(60), "c".repeat(8))], ..Scope::default() },
            ..request("home", "anna")
        },
        Request { addresses: vec!["exit.example.org".to_owned()], ..request("home", "anna") },
        Request { addresses: (1..6).map(|n| format!("192.0.2.{n}:1")).collect(), ..request("home", "anna") },
    ] {
        assert_eq!(error(invite(&cx, &wanted, false)).code(), Code::Usage, "{wanted:?}");
    }
    assert!(cx.ledger().unwrap().grants().unwrap().is_empty());
    let named = Request { addresses: vec!["exit.example.org:8443".to_owned()], ..request("home", "anna") };
    assert!(!invite(&cx, &named, false).unwrap().is_only_for_here());
}

//! Taking back what was lent, with and without a node that listens.

use super::super::testing::{FakeNode, home, invite, own, request};
use super::*;
use crate::error::Code;
use crate::session::messages::GrantStatus;
use crate::token::SignedRevocation;

#[tokio::test]
async fn a_revocation_is_recorded_and_the_node_hears_it() {
    let node = FakeNode::start().await;
    let (_dir, cx) = home();
    own(&cx, "home", &node.address.to_string());
    let first = invite(&cx, &request("home", "anna"), false).unwrap();
    let second = invite(&cx, &request("home", "anna"), false).unwrap();
    invite(&cx, &request("home", "bert"), false).unwrap();
    let outcome = revoke(&cx, "anna", "moved away").await.unwrap();
    assert!(!outcome.already);
    let mut ids: Vec<_> = outcome.grants.iter().map(|grant| grant.id.0).collect();
    ids.sort_unstable();
    let mut expected = vec![first.id, second.id];
    expected.sort_unstable();
    assert_eq!(ids, expected, "everything anna had, and nothing of bert's");
    assert!(outcome.grants.iter().all(|grant| grant.revoked.as_ref().is_some_and(|revoked| revoked.reason == "moved away")));
    assert_eq!((outcome.told.len(), outcome.told[0].heard.as_ref().unwrap().accepted), (1, 2));
    let owner = cx.keyring().unwrap().identity_public();
    for bytes in &node.desk.lock().unwrap().revoked {
        let signed = SignedRevocation::decode(bytes).unwrap();
        assert!(signed.verify(&owner) && matches!(signed.revocation().target, Target::Grant(id) if ids.contains(&id)));
    }

    // Again is harmless: nothing new is recorded, and the node is told once more.
    let again = revoke(&cx, "anna", "").await.unwrap();
    assert!(again.already && again.told[0].heard.is_ok());
    assert_eq!(again.grants[0].revoked.as_ref().unwrap().reason, "moved away");
    assert_eq!(revoke(&cx, "carla", "").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn one_of_several_is_named_by_its_id() {
    let node = FakeNode::start().await;
    let (_dir, cx) = home();
    own(&cx, "home", &node.address.to_string());
    let keep = invite(&cx, &request("home", "anna"), false).unwrap();
    let end = invite(&cx, &request("home", "anna"), false).unwrap();
    let outcome = revoke(&cx, &B64(end.id).to_string(), "").await.unwrap();
    assert_eq!(outcome.grants.len(), 1);
    assert!(cx.ledger().unwrap().grant(&B64(keep.id).to_string()).unwrap().is_live(cx.now()));
}

#[tokio::test]
async fn a_node_that_is_away_hears_it_later() {
    let node = FakeNode::start().await;
    let (_dir, cx) = home();
    own(&cx, "home", &node.address.to_string());
    invite(&cx, &request("home", "anna"), false).unwrap();
    let address = node.address;
    drop(node);
    let outcome = revoke(&cx, "anna", "").await.unwrap();
    assert_eq!(outcome.told[0].heard.as_ref().unwrap_err().code(), Code::Unreachable);
    assert!(cx.ledger().unwrap().grant("anna").unwrap().revoked.is_some(), "recorded all the same");
    let node = FakeNode::start_at(address).await;
    assert_eq!(push(&cx, &cx.ledger().unwrap().machine(&"home".parse().unwrap()).unwrap()).await.unwrap().accepted, 1);
    assert_eq!(node.desk.lock().unwrap().revoked.len(), 1);
}

#[tokio::test]
async fn links_tried_from_elsewhere_are_remembered_once() {
    let (_dir, cx) = home();
    own(&cx, "home", "127.0.0.1:1");
    let id = invite(&cx, &request("home", "anna"), false).unwrap().id;
    let machine = cx.ledger().unwrap().machine(&"home".parse().unwrap()).unwrap();
    let status = |reuse| Status {
        version: String::new(),
        label: "home".to_owned(),
        node: [0; 32],
        owner: None,
        seed_source: "local".to_owned(),
        started: 0,
        now: 0,
        sessions: 0,
        streams: 0,
        draining: false,
        allow: Vec::new(),
        onion: None,
        heard: 0,
        exit_off: false,
        tor_off: false,
        grants: vec![
            GrantStatus { id, reuse, last_reuse: Some(7), ..GrantStatus::default() },
            GrantStatus { id: [9; 8], reuse: 5, ..GrantStatus::default() },
        ],
    };
    for (reuse, news) in [(0, 0), (2, 1), (2, 0), (3, 1)] {
        assert_eq!(note_news(&cx, &machine, &status(reuse)).unwrap().len(), news, "{reuse}");
    }
    let known = cx.ledger().unwrap().grant("anna").unwrap().reused.unwrap();
    assert_eq!((known.count, known.last), (3, 7));
}

//! A friend's device and the invites it is given.

use super::super::invite::Request;
use super::super::testing::{FakeNode, accept, claim, home, invite, no_tor, own, request};
use super::*;
use crate::config::Paths;
use crate::keyring::Unlock;
use crate::trust::Refusal;

fn made(cx: &Context, request: &Request) -> Invite {
    Invite::from_blob(&invite(cx, request, false).unwrap().blob).unwrap()
}

#[tokio::test]
async fn accepting_binds_to_this_device_and_makes_a_home_where_there_is_none() {
    let node = FakeNode::start().await;
    let (_dir, owner) = home();
    own(&owner, "berlin", &node.address.to_string());
    let line = made(&owner, &request("berlin", "anna"));
    let dir = tempfile::tempdir().unwrap();
    let friend = Context::new(Paths::find(Some(&dir.path().join("new"))).unwrap(), Unlock::default());
    let exit = accept(&friend, &line, None).await.unwrap();
    assert_eq!((exit.name.as_str(), exit.bound, exit.node_key.0), ("berlin", true, node.way().node));
    let device = friend.keyring().unwrap().client_noise_public();
    let (client, hello) = node.desk.lock().unwrap().hellos[0].clone();
    assert_eq!((client, hello.bind), (line.grant.root().grant().subject, Some(device)));
    assert_eq!(friend.ledger().unwrap().pinned(&node.address.to_string()).unwrap(), Some(B64(node.way().node)));
    assert!(friend.ledger().unwrap().verify().unwrap().is_ok());

    // Once more, and from then on as the device itself.
    let again = accept(&friend, &line, Some(&"other".parse().unwrap())).await.unwrap();
    assert_eq!(again.name.as_str(), "berlin");
    assert_eq!(node.desk.lock().unwrap().hellos.len(), 1);
    way(&exit, friend.keyring().unwrap(), &no_tor()).unwrap().reach().await.unwrap();
    assert_eq!(node.desk.lock().unwrap().hellos[1].0, device);
}

#[tokio::test]
async fn a_refusal_is_told_in_words_and_records_nothing() {
    let node = FakeNode::start().await;
    let (_dir, owner) = home();
    own(&owner, "berlin", &node.address.to_string());
    let line = made(&owner, &request("berlin", "anna"));
    let (_dir, friend) = home();
    for refusal in Refusal::ALL {
        node.desk.lock().unwrap().refuse = Some(refusal);
        let error = accept(&friend, &line, None).await.unwrap_err();
        assert_eq!(error.code(), Code::Refused);
        assert_eq!(error.message(), refusal.for_friend("exit `berlin`"));
        assert!(error.causes().iter().any(|cause| cause.contains(refusal.as_str())), "{error:?}");
    }
    assert!(friend.ledger().unwrap().exits().unwrap().is_empty());
    node.stop();
    assert_eq!(accept(&friend, &line, None).await.unwrap_err().code(), Code::Unreachable);
}

#[tokio::test]
async fn an_invite_for_trying_cannot_be_kept() {
    let (_dir, owner) = home();
    own(&owner, "berlin", "127.0.0.1:1");
    let line = made(&owner, &Request { mode: Mode::Try, ..request("berlin", "anna") });
    let error = accept(&owner, &line, None).await.unwrap_err();
    assert_eq!((error.code(), error.hint_text()), (Code::Refused, Some("portdistrict exit try BLOB")));
}

#[tokio::test]
async fn names_never_collide() {
    let node = FakeNode::start().await;
    let (_dir, owner) = home();
    own(&owner, "berlin", &node.address.to_string());
    let (_dir, friend) = home();
    let long: Label = "x".repeat(32).parse().unwrap();
    for (wanted, name) in [(None, "berlin"), (None, "berlin-2"), (Some(&long), long.as_str())] {
        let line = made(&owner, &request("berlin", "anna"));
        assert_eq!(accept(&friend, &line, wanted).await.unwrap().name.as_str(), name);
    }
    let error = accept(&friend, &made(&owner, &request("berlin", "anna")), Some(&long)).await.unwrap_err();
    assert_eq!(error.code(), Code::Exists);
}

#[tokio::test]
async fn a_changed_key_at_a_known_address_is_refused_until_the_exit_is_forgotten() {
    let node = FakeNode::start().await;
    let (_dir, owner) = home();
    own(&owner, "berlin", &node.address.to_string());
    let (_dir, friend) = home();
    let old = made(&owner, &request("berlin", "anna"));
    accept(&friend, &old, None).await.unwrap();
    // The machine is set up anew: same address, another key.
    claim(&owner, &"berlin".parse().unwrap(), [9; 32]);
    let new = made(&owner, &request("berlin", "anna"));
    let error = accept(&friend, &new, None).await.unwrap_err();
    assert_eq!(error.code(), Code::Refused);
    assert!(error.message().contains("exit `berlin`") && error.hint_text().unwrap().contains("exit forget berlin"), "{error:?}");
    assert_eq!(node.desk.lock().unwrap().hellos.len(), 1, "nobody is asked before the user knows");
    forget(&friend, &"berlin".parse().unwrap()).unwrap();
    // The fake node does not have that key, so it stays silent; but it is asked now.
    assert_eq!(check_pins(&friend, &[node.address.to_string()], &[9; 32]).map_err(|e| e.code()), Ok(()));
    assert_eq!(forget(&friend, &"berlin".parse().unwrap()).unwrap_err().code(), Code::NotFound);
}

//! The owner's rules on a running node: signed, newest only, over restarts, for what was passed on too.

use super::{Place, ask, echo_server, grant, open, owner};
use crate::session::messages::{ControlRequest, ExitReply, Nothing, Reply};
use crate::token::{Limits, Rule, Rules};
use ed25519_dalek::SigningKey;

fn refusing(number: u64, at: u64, grants: Option<Vec<[u8; 8]>>, to: &str) -> Rules {
    let rule = Rule { grants, to: vec![to.parse().unwrap()], allow: false };
    Rules { number, at, rules: vec![rule], ..Rules::default() }
}

async fn tell(place: &Place, rules: Rules, key: &SigningKey) -> Reply<Nothing> {
    ask(&place.visit().await, ControlRequest::Rules(rules.sign(key).unwrap().encode())).await
}

#[tokio::test]
async fn rules_hold_at_once_and_over_a_restart_and_never_go_back() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    let reply = |friend| async move { open(friend, "127.0.0.1", server.port()).await.0 };
    assert_eq!(reply(&friend).await, ExitReply::Open);
    // About the grant of somebody else.
    assert_eq!(tell(&place, refusing(1, 1, Some(vec![[9; 8]]), "*"), &owner()).await, Reply::Done(Nothing));
    assert_eq!(reply(&friend).await, ExitReply::Open);
    let mine = Some(vec![grant(1).id]);
    assert_eq!(tell(&place, refusing(2, 1, mine, "127.0.0.0/8"), &owner()).await, Reply::Done(Nothing));
    assert_eq!(reply(&friend).await, ExitReply::NotAllowed);
    // An older one, kept by somebody and sent again, lifts nothing.
    assert_eq!(tell(&place, refusing(1, 9, Some(vec![[9; 8]]), "*"), &owner()).await, Reply::Done(Nothing));
    assert_eq!(reply(&friend).await, ExitReply::NotAllowed);
    place.start();
    let friend = place.friend(Limits::default()).await;
    assert_eq!(reply(&friend).await, ExitReply::NotAllowed);
    assert!(place.log().contains("\"reason\":\"policy\""), "{}", place.log());
    // The same policy, made anew for other grants.
    assert_eq!(tell(&place, refusing(2, 2, Some(vec![[9; 8]]), "*"), &owner()).await, Reply::Done(Nothing));
    assert_eq!(reply(&friend).await, ExitReply::Open);
}

#[tokio::test]
async fn rules_that_the_owner_did_not_sign_are_refused_and_change_nothing() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let refused = tell(&place, refusing(5, 5, None, "*"), &stranger).await;
    assert!(matches!(&refused, Reply::Failed { code, .. } if code == "refused"), "{refused:?}");
    let friend = place.friend(Limits::default()).await;
    assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::Open);
    // Nor does a node begin with what something else wrote into its memory.
    tell(&place, refusing(1, 1, None, "*:25"), &owner()).await;
    place.node = None;
    let forged = refusing(9, 9, None, "*:26").sign(&stranger).unwrap().encode();
    let db = rusqlite::Connection::open(place.dir.path().join("state/node.db")).unwrap();
    db.execute("UPDATE node SET rules = ?1", [forged]).unwrap();
    drop(db);
    let error = place.begin().err().unwrap();
    assert!(error.message().contains("not what its owner signed"), "{error:?}");
}

//! What local programs see while a node goes and comes.

use super::super::testing::{FakeNode, origin};
use super::*;
use tokio::io::AsyncWriteExt;

async fn tunnel(node: &FakeNode) -> Arc<Tunnel> {
    let way = node.way();
    let reached = way.reach().await.unwrap();
    Tunnel::keep(way, reached, 1)
}

async fn until(tunnel: &Tunnel, condition: impl FnMut(&State) -> bool) {
    let mut state = tunnel.state();
    tokio::time::timeout(Duration::from_secs(20), state.wait_for(condition)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_waits_for_the_node_to_come_back() {
    let node = FakeNode::start().await;
    let tunnel = tunnel(&node).await;
    let origin = origin().await;
    let address = node.address;
    drop(node);
    until(&tunnel, |state| matches!(state, State::Connecting { .. })).await;
    let waiting = tokio::spawn({
        let tunnel = tunnel.clone();
        async move { tunnel.dial("a.invalid", origin.port(), b"back", true).await }
    });
    let again = FakeNode::start_at(address).await;
    let mut stream = waiting.await.unwrap().unwrap().stream;
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"BACK");
    assert_eq!(again.desk.lock().unwrap().sessions.len(), 1);
}

#[tokio::test]
async fn open_streams_fail_when_the_node_dies_and_the_reason_is_told() {
    let node = FakeNode::start().await;
    let tunnel = tunnel(&node).await;
    let origin = origin().await;
    let mut stream = tunnel.dial("a.invalid", origin.port(), b"", true).await.unwrap().stream;
    node.stop();
    assert!(stream.read_u8().await.is_err());
    until(&tunnel, |state| matches!(state, State::Connecting { attempt: 2.., why: Some(why), .. } if why.contains("nothing listens")))
        .await;
}

#[tokio::test]
async fn a_revoked_friend_is_told_and_not_tried_again() {
    let node = FakeNode::start().await;
    let tunnel = tunnel(&node).await;
    node.desk.lock().unwrap().refuse = Some(Refusal::GrantRevoked);
    node.desk.lock().unwrap().sessions[0].close();
    let error = tunnel.follow(|_| ()).await;
    assert_eq!(error.code(), Code::Refused);
    assert!(error.message().contains("exit `home`") && error.message().contains("taken this invite back"), "{error}");
    let refused = tunnel.dial("a.invalid", 80, b"", true).await.unwrap_err();
    assert_eq!(refused.reply, ExitReply::NotAllowed);
    assert!(refused.sentence.contains("taken this invite back"), "{}", refused.sentence);
}

#[tokio::test]
async fn a_node_that_hangs_up_at_once_is_asked_ever_more_seldom() {
    let node = FakeNode::start().await;
    let tunnel = tunnel(&node).await;
    let mut state = tunnel.state();
    let mut waits = Vec::new();
    while waits.len() < 3 {
        for session in node.desk.lock().unwrap().sessions.drain(..) {
            session.close();
        }
        if tokio::time::timeout(Duration::from_millis(50), state.changed()).await.is_ok()
            && let State::Connecting { wait, .. } = *state.borrow_and_update()
        {
            waits.push(wait);
        }
    }
    assert_eq!(waits, [0, 1, 2]);
}

#[tokio::test]
async fn names_that_no_node_can_take_are_refused_here() {
    let node = FakeNode::start().await;
    let tunnel = tunnel(&node).await;
    for bad in [String::new(), "a".repeat(MAX_HOST + 1)] {
        assert_eq!(tunnel.dial(&bad, 80, b"", true).await.unwrap_err().reply, ExitReply::HostUnreachable);
    }
    assert!(node.desk.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn the_echo_measures_a_round_trip() {
    let node = FakeNode::start().await;
    let reached = node.way().reach().await.unwrap();
    assert!(super::super::health::echo(&reached.session).await.unwrap() < Duration::from_secs(5));
    node.stop();
    assert_eq!(super::super::health::echo(&reached.session).await.unwrap_err().code(), Code::Unreachable);
}

#[tokio::test]
async fn what_the_owner_does_not_allow_is_told_once() {
    let node = FakeNode::start().await;
    let tunnel = tunnel(&node).await;
    let told = std::cell::RefCell::new(Vec::new());
    let asking = async {
        for (host, port) in [("2.reply.test", 80), ("2.reply.test", 80), ("5.reply.test", 80), ("2.reply.test", 81), ("240.reply.test", 80)]
        {
            tunnel.dial(host, port, b"", true).await.unwrap_err();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let tell = |change: Change<'_>| match change {
        Change::Denied(sentence) => told.borrow_mut().push(sentence.to_owned()),
        Change::State(state) => panic!("{state:?}"),
        Change::Back { .. } => panic!("it never went away"),
    };
    tokio::select! { error = tunnel.follow(tell) => panic!("{error}"), () = asking => {} }
    let told = told.into_inner();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("does not let guests go to 2.reply.test:80") && told[2].contains("used up"), "{told:?}");

    tunnel.dial("2.reply.test", 82, b"", true).await.unwrap_err();
    let last = std::cell::RefCell::new(0);
    tunnel.last_denials(|_| *last.borrow_mut() += 1);
    assert_eq!(last.into_inner(), 1);
}

//! Two at once, a port that is taken, and what others see.

use super::super::testing::{FakeNode, accept, home, invite, no_tor, own, request};
use super::*;
use crate::progress::Silent;
use crate::token::Invite;
use crate::tor::Tor;
use crate::trust::Refusal;
use std::sync::{Arc, Mutex};

async fn accepted(cx: &Context, node: &FakeNode) -> Exit {
    own(cx, "home", &node.address.to_string());
    let blob = invite(cx, &request("home", "anna"), false).unwrap().blob;
    accept(cx, &Invite::from_blob(&blob).unwrap(), None).await.unwrap()
}

fn asked(tor: &Arc<Tor>, port: u16) -> Request<'_> {
    Request { port, circuits: 1, net: accept::Net { tor, progress: &Silent, retry: &|_, _| () } }
}

#[tokio::test]
async fn a_connected_exit_is_seen_until_it_ends_and_cannot_be_connected_twice() {
    let node = FakeNode::start().await;
    let (_dir, cx) = home();
    let (exit, tor) = (accepted(&cx, &node).await, no_tor());
    assert!(list(&cx).unwrap()[0].running.is_none());
    let proxy = Mutex::new(None);
    let tell = |news: News<'_>| {
        if let News::Connected { proxy: address, .. } = news {
            *proxy.lock().unwrap() = Some(address);
        }
    };
    {
        let asked_first = asked(&tor, 0);
        let first = connect(&cx, &exit, &asked_first, &tell);
        let second = async {
            while proxy.lock().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let seen = list(&cx).unwrap().remove(0).running.unwrap();
            assert_eq!((Some(seen.proxy), seen.pid, seen.up), (*proxy.lock().unwrap(), std::process::id(), true));
            let error = connect(&cx, &exit, &asked(&tor, 0), &|_| ()).await.unwrap_err();
            assert_eq!(error.code(), Code::Exists);
            assert!(error.message().contains(&seen.proxy.to_string()), "{error}");
            node.stop();
            while list(&cx).unwrap()[0].running.as_ref().unwrap().up {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! { ended = first => panic!("{ended:?}"), () = second => {} }
    }
    assert!(list(&cx).unwrap()[0].running.is_none());
    assert_eq!(std::fs::read_dir(cx.paths().state.join("exits")).unwrap().count(), 1, "only the lock is left");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let node = FakeNode::start().await;
    let (_dir, cx) = home();
    let (exit, tor) = (accepted(&cx, &node).await, no_tor());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = connect(&cx, &exit, &asked(&tor, port), &|_| ()).await.unwrap_err();
    assert!(error.message().contains(&port.to_string()) && error.hint_text().unwrap().contains("another port"), "{error:?}");
}

#[tokio::test]
async fn a_revoked_grant_ends_it_with_the_friend_s_sentence() {
    let node = FakeNode::start().await;
    let (_dir, cx) = home();
    let (exit, tor) = (accepted(&cx, &node).await, no_tor());
    let tell = |news: News<'_>| {
        if let News::Health(health) = news {
            assert!(health.is_ok());
            let mut desk = node.desk.lock().unwrap();
            desk.refuse = Some(Refusal::GrantRevoked);
            desk.sessions.iter().for_each(crate::session::Session::close);
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(20), connect(&cx, &exit, &asked(&tor, 0), &tell)).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Refused, Refusal::GrantRevoked.for_friend("exit `home`").as_str()));
}

//! What the owner switches off on a running node: at once, over restarts, and never undone by an older word.

use super::{FRIEND, Place, ask, echo_server, grant, open, refusal};
use crate::session::messages::{ControlRequest, ExitReply, Reply, Status, Switch, Switched, Switches};
use crate::token::Limits;
use crate::trust::Refusal;
use std::time::Duration;

fn word(at: u64, off: bool) -> Switch {
    Switch { edition: (at, 0), off }
}

async fn say(place: &Place, switches: Switches) -> Switched {
    match ask(&place.visit().await, ControlRequest::Switch(switches)).await {
        Reply::Done(switched) => switched,
        Reply::Failed { code, text } => panic!("{code}: {text}"),
    }
}

async fn say_of_exit(place: &Place, at: u64, off: bool) -> Switched {
    say(place, Switches { exit: word(at, off), tor: Switch::default() }).await
}

#[tokio::test]
async fn an_exit_that_is_off_ends_sessions_at_once_and_stays_off_until_a_later_word() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let friend = place.friend(Limits::default()).await;
    assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::Open);
    let said = say_of_exit(&place, 10, true).await;
    assert_eq!((said.now.exit, said.closed), (word(10, true), 1));
    let ended = tokio::time::timeout(Duration::from_secs(5), friend.closed()).await;
    assert!(ended.is_ok(), "the friend is still inside");
    assert_eq!(refusal(place.connect(&FRIEND, grant(1), None).await), Refusal::SwitchedOff);

    // Neither the same word again nor an older one, nor one about something else, lets anybody in.
    for (at, off) in [(10, false), (9, false)] {
        assert_eq!(say_of_exit(&place, at, off).await.now.exit, word(10, true));
    }
    let other = Switches { exit: Switch::default(), tor: word(99, true) };
    let both = Switches { exit: word(10, true), tor: word(99, true) };
    assert_eq!(say(&place, other).await.now, both);
    place.start();
    assert_eq!(refusal(place.connect(&FRIEND, grant(1), None).await), Refusal::SwitchedOff);
    let Reply::Done(status) = ask::<Status>(&place.visit().await, ControlRequest::Status).await else { panic!("no status") };
    assert!(status.exit_off && status.tor_off);

    assert_eq!(say_of_exit(&place, 11, false).await.now, Switches { exit: word(11, false), ..both });
    let friend = place.friend(Limits::default()).await;
    assert_eq!(open(&friend, "127.0.0.1", server.port()).await.0, ExitReply::Open);
    assert!(place.log().contains("switched-off") && place.log().contains("\"event\":\"switched\""), "{}", place.log());
}

#[tokio::test]
async fn only_the_owner_switches() {
    let place = Place::claimed(|_| {}).await;
    let friend = place.friend(Limits::default()).await;
    let off = Switches { exit: word(1, true), tor: word(1, true) };
    let refused = ask::<Switched>(&friend, ControlRequest::Switch(off)).await;
    assert!(matches!(&refused, Reply::Failed { code, .. } if code == "refused"), "{refused:?}");
    assert_eq!(say(&place, Switches::default()).await.now, Switches::default());
}

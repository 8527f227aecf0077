//! What Arti does for an onion service and tells only its log: descriptors handed to directories, introduction points that
//! hold.
//!
//! Arti has no other way to learn these. A layer of `tracing` listens to exactly the events that matter; the test on the
//! private network fails if a new version of Arti words them differently. They are shown, and they can hold back "ready";
//! "ready" itself rests on a connection that was made.

use crate::config::time::now_s;
use std::collections::{HashMap, HashSet};
use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const PUBLISHER: &str = "tor_hsservice::publish::reactor";
const POINTS: &str = "tor_hsservice::ipt_mgr";

/// What is known of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Directories that shall have the descriptor.
    pub wanted: HashSet<String>,
    /// Directories that have it as it is now.
    pub uploaded: HashSet<String>,
    /// Unix seconds of the last upload.
    pub uploaded_at: Option<u64>,
    /// Introduction points that hold.
    pub introduction_points: usize,
    /// What is uploaded names introduction points that are no longer the ones.
    outdated: bool,
}

type Books = HashMap<String, watch::Sender<Facts>>;
static BOOKS: LazyLock<Mutex<Books>> = LazyLock::new(Mutex::default);

/// The facts of a service that is about to be launched; what was known of an earlier one is forgotten.
pub(super) fn begin(nickname: &str) -> watch::Receiver<Facts> {
    let mut books = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    let book = books.entry(nickname.to_owned()).or_default();
    book.send_replace(Facts::default());
    book.subscribe()
}

/// The listener; part of the process's subscriber wherever a node runs.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let of_interest = |meta: &Metadata<'_>| match meta.target() {
        PUBLISHER => true,
        POINTS => *meta.level() <= Level::DEBUG,
        _ => false,
    };
    Listener.with_filter(filter_fn(of_interest).with_max_level_hint(Level::TRACE))
}

struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        match event.metadata().target() {
            PUBLISHER => said.of_publisher(),
            _ => said.of_points(),
        }
    }
}

/// The fields of an event that are looked at.
#[derive(Default)]
struct Said {
    message: String,
    nickname: String,
    directory: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let slot = match field.name() {
            "message" => &mut self.message,
            "nickname" => &mut self.nickname,
            "hsdir_rsa_id" => &mut self.directory,
            _ => return,
        };
        let _ = write!(slot, "{value:?}");
    }
}

impl Said {
    fn of_publisher(self) {
        match self.message.as_str() {
            "starting descriptor upload" => note(&self.nickname, |facts| {
                if std::mem::take(&mut facts.outdated) {
                    // Directories change with the days; those of earlier descriptors no longer count either.
                    facts.uploaded.clear();
                    facts.wanted.clear();
                }
                facts.wanted.insert(self.directory);
            }),
            "successfully uploaded descriptor to HSDir" => note(&self.nickname, |facts| {
                facts.uploaded.insert(self.directory);
                facts.uploaded_at = Some(now_s());
            }),
            "the introduction points have changed" => note(&self.nickname, |facts| facts.outdated = true),
            _ => {}
        }
    }

    /// `HS service NICKNAME: 3 good IPTs, …` or `HS service NICKNAME: no good IPTs`.
    fn of_points(self) {
        let Some((nickname, rest)) = self.message.strip_prefix("HS service ").and_then(|rest| rest.split_once(": ")) else { return };
        let Some((count, what)) = rest.split_once(' ') else { return };
        let count = if count == "no" { Some(0) } else { count.parse().ok() };
        if let (Some(count), true) = (count, what.starts_with("good IPTs")) {
            note(nickname, |facts| facts.introduction_points = count);
        }
    }
}

fn note(nickname: &str, change: impl FnOnce(&mut Facts)) {
    let books = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = books.get(nickname) {
        sender.send_if_modified(|facts| {
            let before = facts.clone();
            change(facts);
            *facts != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted() {
        let facts = begin("a-service");
        let say = |message: &str| Said { message: message.to_owned(), ..Said::default() }.of_points();
        say("HS service a-service: 2 good IPTs, < target 3, publishing what we have");
        assert_eq!(facts.borrow().introduction_points, 2);
        say("HS service a-service: no good IPTs");
        assert_eq!(facts.borrow().introduction_points, 0);
        say("HS service a-service: choosing new IPT relay x");
        say("HS service b: 3 good IPTs, >= target 3, publishing");
        assert_eq!(facts.borrow().introduction_points, 0);
    }

    #[test]
    fn an_upload_counts_until_the_introduction_points_change() {
        let facts = begin("b-service");
        let say = |message: &str, directory: &str| {
            Said { message: message.to_owned(), nickname: "b-service".to_owned(), directory: directory.to_owned() }.of_publisher();
        };
        say("starting descriptor upload", "x");
        say("starting descriptor upload", "y");
        say("successfully uploaded descriptor to HSDir", "x");
        assert_eq!((facts.borrow().wanted.len(), facts.borrow().uploaded.len()), (2, 1));
        say("the introduction points have changed", "");
        assert_eq!(facts.borrow().uploaded.len(), 1, "what they have serves until there is something newer");
        say("starting descriptor upload", "z");
        assert_eq!((facts.borrow().wanted.len(), facts.borrow().uploaded.len()), (1, 0));
    }
}

//! Lines on the serial console that programs wait for: `PORTDISTRICT_NAME=value`, each printed when it is true.

use std::io::Write;

/// How far a machine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The kernel has started this program.
    Booting,
    /// It waits for its owner.
    Ready,
    /// It has an owner, and friends can come.
    Claimed,
    /// It was told to end.
    Off,
    /// Nothing can go on.
    Failed,
}

impl State {
    /// The value of `PORTDISTRICT_STATE`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            State::Booting => "booting",
            State::Ready => "ready",
            State::Claimed => "claimed",
            State::Off => "off",
            State::Failed => "failed",
        }
    }
}

/// Prints one line; a console that nobody reads must not hold anything up.
pub(super) fn mark(name: &str, value: &str) {
    let value = value.replace(['\n', '\r'], " ");
    let mut out = std::io::stdout().lock();
    // On a line of its own, whatever the firmware left there.
    let _ = write!(out, "\nPORTDISTRICT_{name}={value}\n").and_then(|()| out.flush());
}

/// Says why nothing can go on, and what to do if that is known.
pub(super) fn fail(why: &str, causes: &[String], hint: Option<&str>) {
    let words = std::iter::once(why).chain(causes.iter().map(String::as_str)).collect::<Vec<_>>().join(": ");
    mark("FAILURE", &words);
    if let Some(hint) = hint {
        mark("HINT", hint);
    }
    mark("STATE", State::Failed.as_str());
}

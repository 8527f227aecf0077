//! A machine's serial console, which Google keeps the last MiB of: read on from where it was read to.

use crate::error::{Code, Error, Result};
use crate::google::compute::{Call, SerialOutput, Spot, State, Thing};
use crate::google::{Api, Failure};
use crate::machine::provider::LineSink;
use crate::machine::serial::{Serial, words};
use crate::progress::Step;
use std::time::{Duration, Instant};

/// How long a machine may take from its first instruction to its node's word.
const BOOT_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Between two looks: soon at first, then as often as a person would.
const SOONEST: Duration = Duration::from_millis(250);
const LATEST: Duration = Duration::from_secs(3);
/// So much of a start is kept; a node's first word comes long before.
const WINDOW: usize = 1024 * 1024;

/// A console that is being read.
pub(super) struct Console<'a> {
    api: &'a Api,
    spot: &'a Spot,
    name: &'a str,
    next: u64,
}

impl<'a> Console<'a> {
    /// From a byte on; 0 is the oldest that Google still has.
    pub(super) fn new(api: &'a Api, spot: &'a Spot, name: &'a str, next: u64) -> Console<'a> {
        Console { api, spot, name, next }
    }

    /// What was printed since; nothing if the machine is too young to have a console.
    pub(super) async fn read(&mut self) -> Result<String> {
        let call = Call::serial(self.spot, self.name, self.next);
        let output: SerialOutput = match self.api.ask(&call).await {
            Ok(output) => output,
            Err(Failure::Refused(refusal)) if refusal.is_early() => return Ok(String::new()),
            Err(failure) => return Err(failure.into_error(&format!("show the console of {}", self.name), self.spot.project())),
        };
        let next = output.next.parse().unwrap_or(self.next);
        // A machine that was started anew may have a new console: that is read from its beginning.
        self.next = if next < self.next { 0 } else { next };
        Ok(output.contents)
    }

    /// Where the next reading begins.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Waits for the node's word that it is ready; for its word that it cannot go on; for the end of the machine, or of patience.
    pub(super) async fn wait_for_node(&mut self, step: &dyn Step) -> Result<()> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        let (mut said, mut pause, mut last) = (String::new(), SOONEST, None);
        loop {
            said.push_str(&self.read().await?);
            forget_the_oldest(&mut said);
            let serial = Serial::of(said);
            if serial.is_ready() {
                return Ok(());
            }
            if let Some(why) = serial.failure() {
                return Err(Error::new(Code::Failed, format!("the machine {} cannot go on: {why}", self.name))
                    .hint(serial.mark("HINT").map_or_else(|| self.show(), str::to_owned)));
            }
            if Instant::now() > deadline {
                return Err(self.not_ready(
                    &serial,
                    &format!("its node was not up after {} minutes", BOOT_PATIENCE.as_secs() / 60),
                    Code::TimedOut,
                ));
            }
            if self.has_ended().await? {
                return Err(self.not_ready(&serial, "it ended", Code::Failed));
            }
            let stage = serial.stage();
            if last != Some(stage) {
                step.note(stage);
                (last, pause) = (Some(stage), SOONEST);
            }
            said = serial.into_text();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LATEST);
        }
    }

    /// Whether Google says that it does not run.
    async fn has_ended(&self) -> Result<bool> {
        match self.api.ask::<Thing>(&Call::get(self.spot, self.name)).await {
            Ok(thing) => Ok(thing.state() == State::Stopped),
            // A young machine may not be seen everywhere yet; one that is gone has no console either, which tells.
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(false),
            Err(failure) => Err(failure.into_error(&format!("show the instance {}", self.name), self.spot.project())),
        }
    }

    /// What the console said last is the best explanation there is.
    fn not_ready(&self, serial: &Serial, why: &str, code: Code) -> Error {
        let error = Error::new(code, format!("the machine {} did not get ready: {why}", self.name));
        serial.last_lines(3).into_iter().fold(error, Error::because).hint(self.show())
    }

    fn show(&self) -> String {
        "is the image one that `portdistrict machine publish` made? portdistrict machine doctor --on gce".to_owned()
    }

    /// Passes on its last lines, then, if asked, the following ones until the sink has enough.
    pub(super) async fn tail(&mut self, lines: usize, follow: bool, sink: LineSink<'_>) -> Result<()> {
        let mut rest = self.read().await?;
        if !follow && !rest.ends_with('\n') {
            rest.push('\n');
        }
        let whole = take_lines(&mut rest);
        for line in &whole[whole.len().saturating_sub(lines)..] {
            if !sink(line)? {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        let mut pause = SOONEST;
        loop {
            tokio::time::sleep(pause).await;
            let more = self.read().await?;
            pause = if more.is_empty() { (pause * 2).min(LATEST) } else { SOONEST };
            rest.push_str(&more);
            for line in take_lines(&mut rest) {
                if !sink(&line)? {
                    return Ok(());
                }
            }
        }
    }
}

/// A console that goes on and on must not fill the memory.
fn forget_the_oldest(text: &mut String) {
    if text.len() > WINDOW {
        let cut = (text.len() - WINDOW..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        text.drain(..cut);
    }
}

/// The complete lines so far, as a person can read them; an unfinished one waits for its end.
fn take_lines(text: &mut String) -> Vec<String> {
    forget_the_oldest(text);
    let Some(end) = text.rfind('\n') else { return Vec::new() };
    let whole: String = text.drain(..=end).collect();
    whole.lines().filter_map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_lines_wait_and_old_ones_are_forgotten() {
        let mut text = "one\r\n\u{1b}[2J\ntwo\nthr".to_owned();
        assert_eq!(take_lines(&mut text), ["one", "two"]);
        assert_eq!(text, "thr");
        let mut long = format!("é{}", "a".repeat(WINDOW));
        forget_the_oldest(&mut long);
        assert_eq!(long.len(), WINDOW);
    }
}

//! How long work looks: spinners and bars on a terminal, one line per finished step in a pipe.

use super::output::note;
use crate::progress::{Progress, Step};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Steps as lines that move.
pub(super) struct Bars {
    all: MultiProgress,
}

impl Bars {
    /// Draws on stderr.
    pub(super) fn new() -> Bars {
        Bars { all: MultiProgress::new() }
    }
}

/// A template that a test has parsed; should it ever not parse, the plain style serves.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

const WAITING: &str = "{spinner} {prefix} {msg:.dim} {elapsed:.dim}";
const MOVING: &str = "{spinner} {prefix} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";

impl Progress for Bars {
    fn step(&self, name: &str) -> Box<dyn Step> {
        let bar = self.all.add(ProgressBar::new_spinner()).with_style(style(WAITING)).with_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Box::new(BarStep { bar, all: self.all.clone(), name: name.to_owned(), start: Instant::now(), done: false })
    }
}

/// One moving line; it goes when the step ends, and a finished step leaves a plain line.
struct BarStep {
    bar: ProgressBar,
    all: MultiProgress,
    name: String,
    start: Instant,
    done: bool,
}

impl Step for BarStep {
    fn note(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn bytes(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            self.bar.set_style(style(MOVING));
        }
        self.bar.set_position(done);
    }

    fn done(mut self: Box<Self>) {
        self.done = true;
    }
}

impl Drop for BarStep {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if self.done {
            let line = finished(&self.name, self.start.elapsed());
            self.all.suspend(|| note(&line));
        }
    }
}

/// Steps as lines of a log: nothing until one is done.
pub(super) struct Lines;

impl Progress for Lines {
    fn step(&self, name: &str) -> Box<dyn Step> {
        Box::new(LineStep { name: name.to_owned(), start: Instant::now() })
    }
}

struct LineStep {
    name: String,
    start: Instant,
}

impl Step for LineStep {
    fn note(&self, _text: &str) {}
    fn bytes(&self, _done: u64, _total: u64) {}
    fn done(self: Box<Self>) {
        note(&finished(&self.name, self.start.elapsed()));
    }
}

/// `start the node: done in 0.3 s`
fn finished(name: &str, took: Duration) -> String {
    format!("{name}: done in {:.1} s\n", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_parse() {
        for template in [WAITING, MOVING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_finished_step_says_how_long_it_took() {
        assert_eq!(finished("start the node", Duration::from_millis(340)), "start the node: done in 0.3 s\n");
    }
}

//! Rates from counters that are read now and then, and the row of bars that shows how they went.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples that are kept.
const KEPT: usize = 60;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Two readings that follow each other faster say nothing about the rate.
const SHORTEST: Duration = Duration::from_millis(50);

/// How two counters grow.
#[derive(Default)]
pub(super) struct Trend {
    last: Option<(Instant, u64, u64)>,
    /// Bits a second since the last reading but one.
    pub(super) up: u64,
    /// The same in the other direction.
    pub(super) down: u64,
    samples: VecDeque<u64>,
}

impl Trend {
    /// Takes in a reading of both counters, in bytes. A counter that went back begins anew.
    pub(super) fn read(&mut self, at: Instant, up: u64, down: u64) {
        if let Some((before, up_before, down_before)) = self.last {
            let passed = at.saturating_duration_since(before);
            if passed < SHORTEST {
                return;
            }
            let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 * 8.0 / passed.as_secs_f64()).round() as u64;
            (self.up, self.down) = (rate(up, up_before), rate(down, down_before));
            self.sample(self.up.saturating_add(self.down));
        }
        self.last = Some((at, up, down));
    }

    /// Nothing could be read: nothing moves, as far as anybody knows.
    pub(super) fn miss(&mut self) {
        (self.last, self.up, self.down) = (None, 0, 0);
        self.sample(0);
    }

    fn sample(&mut self, rate: u64) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(rate);
    }

    /// Bits a second in both directions together, the newest last.
    pub(super) fn samples(&self) -> Vec<u64> {
        self.samples.iter().copied().collect()
    }
}

/// The newest samples as bars, the highest of them as high as a bar gets; `width` wide, filled from the right.
pub(super) fn bars(samples: &[u64], width: usize) -> String {
    let shown = &samples[samples.len().saturating_sub(width)..];
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let bar = |&sample: &u64| {
        let level = (u128::from(sample) * (LEVELS.len() as u128 - 1)).div_ceil(u128::from(most));
        LEVELS[usize::try_from(level).unwrap_or(0).min(LEVELS.len() - 1)]
    };
    " ".repeat(width - shown.len()) + &shown.iter().map(bar).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut trend = Trend::default();
        trend.read(after(0), 1000, 5000);
        assert_eq!((trend.up, trend.down, trend.samples().len()), (0, 0, 0));
        trend.read(after(2), 2000, 5000);
        assert_eq!((trend.up, trend.down), (4000, 0));
        trend.read(after(2), 9000, 9000);
        assert_eq!(trend.up, 4000, "no time has passed");
        trend.read(after(4), 0, 0);
        assert_eq!((trend.up, trend.down), (0, 0), "a counter that went back");
        trend.miss();
        trend.read(after(9), 1_000_000, 0);
        assert_eq!((trend.up, trend.samples()), (0, vec![4000, 0, 0]));
        (0..200).for_each(|n| trend.read(after(10 + n), 0, 0));
        assert_eq!(trend.samples().len(), KEPT);
    }

    #[test]
    fn bars_show_the_newest_and_what_little_there_was() {
        assert_eq!(bars(&[], 3), "   ");
        assert_eq!(bars(&[0, 0], 3), " ▁▁");
        assert_eq!(bars(&[9, 0, 1, 1_000_000], 3), "▁▂█");
        assert_eq!(bars(&[u64::MAX, u64::MAX / 2], 2), "█▅");
        assert_eq!(bars(&[7], 1), "█");
    }
}

//! Hybrid logical clock (Kulkarni et al. 2014): wall-clock milliseconds that never run back, and a counter within them.

use crate::config::time;
use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// How far ahead of this computer's clock a span may be.
pub const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// An instant that orders spans on every device alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hlc {
    /// Unix milliseconds, as the author's clock showed or later.
    pub ms: u64,
    /// Counts spans within one such millisecond.
    pub n: u64,
}

impl Hlc {
    /// The instant after `last` when the clock shows `now_ms`. A clock that ran back, even by hours, only moves the counter.
    ///
    /// If the newest span is more than 24 hours ahead, one of the two clocks is so wrong that grants would get wrong dates.
    pub fn after(last: Option<Hlc>, now_ms: u64) -> Result<Hlc> {
        let Some(last) = last else { return Ok(Hlc { ms: now_ms, n: 0 }) };
        if last.is_too_far_ahead(now_ms) {
            let (newest, now) = (time::absolute(last.ms / 1000), time::absolute(now_ms / 1000));
            return Err(Error::new(
                Code::Precondition,
                format!("the clock of this computer shows {now}, but the newest span is of {newest}"),
            )
            .because("a span more than 24 hours ahead is refused")
            .hint("set the clock: sudo timedatectl set-ntp true"));
        }
        Ok(if now_ms > last.ms { Hlc { ms: now_ms, n: 0 } } else { Hlc { ms: last.ms, n: last.n + 1 } })
    }

    /// Whether this is more than 24 hours ahead of a clock that shows `now_ms`.
    pub fn is_too_far_ahead(self, now_ms: u64) -> bool {
        self.ms > now_ms.saturating_add(MAX_AHEAD_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_777_816_800_000;

    #[test]
    fn time_moves_on_when_the_clock_stands_still_or_runs_back() {
        let mut last = Hlc::after(None, NOW).unwrap();
        for now in [NOW, NOW, NOW + 1, NOW + 1, NOW - HOUR, NOW - 23 * HOUR, NOW + 2] {
            let next = Hlc::after(Some(last), now).unwrap();
            assert!(next > last);
            last = next;
        }
        assert_eq!(last, Hlc { ms: NOW + 2, n: 0 });
    }

    #[test]
    fn a_day_ahead_is_the_bound() {
        let last = Some(Hlc { ms: NOW, n: 0 });
        assert!(Hlc::after(last, NOW - MAX_AHEAD_MS).is_ok());
        let error = Hlc::after(last, NOW - MAX_AHEAD_MS - 1).unwrap_err();
        assert_eq!(error.code(), Code::Precondition);
        assert!(error.hint_text().is_some());
    }
}

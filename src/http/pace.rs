//! How often something is tried again, and after which pauses (full jitter, as in AWS's «Exponential Backoff And Jitter»).

use crate::config::HttpSettings;
use std::time::Duration;

/// The longest pause that is chosen here.
const LONGEST: Duration = Duration::from_secs(32);
/// The longest pause that the other side may ask for; beyond it the answer is taken as it is.
const LONGEST_ASKED: Duration = Duration::from_secs(120);

/// Counts attempts.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    pause: Duration,
}

impl Pace {
    pub(super) fn new(settings: &HttpSettings) -> Pace {
        Pace { left: settings.attempts.saturating_sub(1), pause: settings.pause }
    }

    /// The pause before the next attempt, none if there is no more. `asked` is what the other side asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let most = self.pause.min(LONGEST);
        self.pause = (self.pause * 2).min(LONGEST);
        let jitter = most.mul_f64(share());
        match asked {
            Some(asked) if asked > LONGEST_ASKED => None,
            // Never before it; and not everybody at the same moment.
            Some(asked) => Some(asked + jitter),
            None => Some(jitter),
        }
    }
}

/// Between 0 and 1; without randomness always the whole.
fn share() -> f64 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_or(1.0, |()| f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(attempts: u32) -> HttpSettings {
        HttpSettings { attempts, pause: Duration::from_secs(1), ..HttpSettings::default() }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let mut pace = Pace::new(&settings(9));
        let bounds = [1, 2, 4, 8, 16, 32, 32, 32].map(Duration::from_secs);
        assert!(bounds.into_iter().all(|most| pace.next(None).unwrap() <= most));
        assert_eq!(pace.next(None), None);
        assert_eq!(Pace::new(&settings(1)).next(None), None);
        assert_eq!(Pace::new(&settings(0)).next(None), None);
    }

    #[test]
    fn what_the_other_side_asks_for_is_kept_within_reason() {
        let pause = Pace::new(&settings(2)).next(Some(Duration::from_secs(7))).unwrap();
        assert!((7.0..=8.0).contains(&pause.as_secs_f64()));
        assert_eq!(Pace::new(&settings(2)).next(Some(Duration::from_secs(121))), None);
    }
}

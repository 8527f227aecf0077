//! The hours of the week in which a grant holds, in minutes of the week in UTC.
//!
//! Whoever writes `09:00-17:00 +02:00` means a fixed distance from UTC, so the shift is made once, where it is read, and
//! a node compares numbers. Daylight saving is not followed.

use crate::encoding::cbor::Value;
use crate::error::{Code, Error};
use std::fmt;
use std::str::FromStr;

const DAY: u16 = 24 * 60;
const WEEK: u16 = 7 * DAY;
/// 1970-01-01 was a Thursday; weeks begin on Monday here.
const FIRST_DAY: u64 = 3;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Parts of a week, sorted, apart from each other; none means never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window(Vec<(u16, u16)>);

impl Window {
    /// Most parts in a window that travels.
    pub const MAX_PARTS: usize = 32;
    pub(super) const MAX_NUMBERS: usize = 2 * Self::MAX_PARTS;

    /// Joins parts of a week, `start..end` in minutes; one that ends before it starts goes on over the end of the week.
    fn of(parts: impl IntoIterator<Item = (u16, u16)>) -> Window {
        let mut open = Vec::new();
        for (start, end) in parts {
            match (start % WEEK, end % WEEK) {
                (start, end) if start < end => open.push((start, end)),
                (start, end) => open.extend([(start, WEEK), (0, end)]),
            }
        }
        open.retain(|(start, end)| start < end);
        open.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (start, end) in open {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        Window(joined)
    }

    /// What lies in both.
    #[must_use]
    pub fn meet(&self, other: &Window) -> Window {
        let both = |a: &(u16, u16)| other.0.iter().map(|b| (a.0.max(b.0), a.1.min(b.1))).collect::<Vec<_>>();
        let parts = self.0.iter().flat_map(both).filter(|(start, end)| start < end);
        Window(parts.collect())
    }

    /// Whether all of it lies in `other`.
    pub fn is_within(&self, other: &Window) -> bool {
        self.0.iter().all(|a| other.0.iter().any(|b| b.0 <= a.0 && a.1 <= b.1))
    }

    /// When the part that holds at this Unix time ends, in Unix seconds; `None` if it does not hold then.
    pub fn open_until(&self, at: u64) -> Option<u64> {
        let minute = u16::try_from((at / 60 + FIRST_DAY * u64::from(DAY)) % u64::from(WEEK)).unwrap_or_default();
        let part = |minute| self.0.iter().find(|(start, end)| (*start..*end).contains(&minute));
        let (_, end) = *part(minute)?;
        let mut left = u64::from(end - minute);
        if end == WEEK
            && let Some((_, next)) = part(0)
        {
            if *next == WEEK {
                return Some(u64::MAX);
            }
            left += u64::from(*next);
        }
        Some((at / 60).saturating_add(left).saturating_mul(60))
    }

    pub(super) fn to_value(&self) -> Vec<u64> {
        self.0.iter().flat_map(|(start, end)| [u64::from(*start), u64::from(*end)]).collect()
    }

    /// Only the one spelling of a window that holds at some time.
    pub(super) fn from_values(values: &[Value]) -> Option<Window> {
        let number = |value: &Value| match value {
            Value::Uint(n) => u16::try_from(*n).ok().filter(|n| *n <= WEEK),
            _ => None,
        };
        let numbers = values.iter().map(number).collect::<Option<Vec<u16>>>()?;
        let (parts, rest) = numbers.as_chunks::<2>();
        let rising = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        (rest.is_empty() && !parts.is_empty() && rising).then(|| Window(parts.iter().map(|[start, end]| (*start, *end)).collect()))
    }
}

/// By day, in UTC: `Mon-Fri 07:00-15:00, Sat 00:00-24:00 UTC`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let of_day = |day: u16| {
            let (from, to) = (day * DAY, (day + 1) * DAY);
            let parts = self.0.iter().map(|(start, end)| ((*start).max(from), (*end).min(to)));
            parts.filter(|(start, end)| start < end).map(|(start, end)| (start - from, end - from)).collect::<Vec<_>>()
        };
        let mut words: Vec<String> = Vec::new();
        let mut day = 0;
        while day < 7 {
            let parts = of_day(day);
            let last = (day..7).take_while(|next| of_day(*next) == parts).last().unwrap_or(day);
            let days = match last - day {
                0 => DAYS[usize::from(day)].to_owned(),
                6 => "daily".to_owned(),
                _ => format!("{}-{}", DAYS[usize::from(day)], DAYS[usize::from(last)]),
            };
            words.extend(parts.iter().map(|(start, end)| format!("{days} {}-{}", clock(*start), clock(*end))));
            day = last + 1;
        }
        if words.is_empty() { f.write_str("never") } else { write!(f, "{} UTC", words.join(", ")) }
    }
}

/// `[DAYS ]HH:MM-HH:MM[ ±HH:MM]`, several with commas; DAYS as in `Mon`, `Mon-Fri` or `daily`.
impl FromStr for Window {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::new(Code::Usage, format!("{text:?} are no hours of the week"))
                .hint("write 'Mon-Fri 09:00-17:00', '22:00-06:00' or 'Sat 10:00-12:00 +02:00', several with commas")
        };
        let parts: Vec<_> = text.split(',').map(span).collect::<Option<Vec<_>>>().ok_or_else(bad)?.concat();
        let window = Window::of(parts);
        if window.0.is_empty() || window.0.len() > Self::MAX_PARTS { Err(bad()) } else { Ok(window) }
    }
}

/// One group of days with its hours, as parts of the week in UTC.
fn span(text: &str) -> Option<Vec<(u16, u16)>> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let shift = match words.last()?.strip_prefix("UTC").unwrap_or(words.last()?) {
        "" => 0,
        offset if offset.starts_with(['+', '-']) => {
            let minutes = i32::from(minute(&offset[1..]).filter(|minutes| *minutes <= 14 * 60)?);
            if offset.starts_with('-') { minutes } else { -minutes }
        }
        _ => i32::MAX,
    };
    let shift = if shift == i32::MAX {
        0
    } else {
        words.pop();
        shift
    };
    let (days, hours) = match words[..] {
        [hours] => ("daily", hours),
        [days, hours] => (days, hours),
        _ => return None,
    };
    let (start, end) = hours.split_once('-')?;
    let (start, end) = (minute(start)?, minute(end)?);
    let length = if start < end { end - start } else { end + DAY - start };
    if length == 0 || start >= DAY {
        return None;
    }
    let part = |day: u16| {
        let from = (i32::from(day * DAY + start) + shift).rem_euclid(i32::from(WEEK));
        let from = u16::try_from(from).unwrap_or_default();
        (from, from + length)
    };
    Some(days_of(days)?.into_iter().map(part).collect())
}

/// `HH:MM` or `HH`, up to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':').unwrap_or((text, "0"));
    let number = |digits: &str| (digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse::<u16>().ok())?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

fn days_of(text: &str) -> Option<Vec<u16>> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).and_then(|n| u16::try_from(n).ok());
    if text.eq_ignore_ascii_case("daily") {
        return Some((0..7).collect());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    // Sat-Mon goes on over the end of the week.
    let count = (last + 7 - first) % 7 + 1;
    Some((0..count).map(|n| (first + n) % 7).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    /// Monday 2026-05-04 00:00 UTC.
    const MONDAY: u64 = 1_777_852_800;

    #[test]
    fn hours_are_read_and_shown_in_utc() {
        for (text, shown) in [
            ("Mon-Fri 09:00-17:00", "Mon-Fri 09:00-17:00 UTC"),
            ("mon-fri 9-17 +02:00", "Mon-Fri 07:00-15:00 UTC"),
            ("Sat 10:00-12:00 UTC,Sun 10:00-12:00", "Sat-Sun 10:00-12:00 UTC"),
            ("22:00-06:00", "daily 00:00-06:00, daily 22:00-24:00 UTC"),
            ("Mon 00:00-24:00", "Mon 00:00-24:00 UTC"),
            ("Mon 01:00-03:00 UTC+02:00", "Mon 00:00-01:00, Sun 23:00-24:00 UTC"),
            ("daily 00:00-24:00", "daily 00:00-24:00 UTC"),
        ] {
            assert_eq!(window(text).to_string(), shown, "{text}");
            assert_eq!(window(&shown.replace(" UTC", "")), window(text));
        }
        for text in ["", "Mon", "Mon 9", "Mon 9-25", "Foo 9-17", "9:60-10", "Mon 24:00-24:00", "9-17 +15:00", "Mon 9-17 x y", "Mon -9-17"] {
            assert_eq!(text.parse::<Window>().unwrap_err().code(), Code::Usage, "{text}");
        }
    }

    #[test]
    fn a_window_says_until_when_it_is_open() {
        let office = window("Mon-Fri 09:00-17:00");
        assert_eq!(office.open_until(MONDAY + 9 * 3600), Some(MONDAY + 17 * 3600));
        assert_eq!(office.open_until(MONDAY + 17 * 3600 - 1), Some(MONDAY + 17 * 3600));
        assert_eq!(office.open_until(MONDAY + 9 * 3600 - 1), None);
        assert_eq!(office.open_until(MONDAY + 17 * 3600), None);
        assert_eq!(office.open_until(MONDAY - 1), None);
        // Over the end of the week.
        let night = window("Sun 22:00-06:00");
        assert_eq!(night.open_until(MONDAY - 3600), Some(MONDAY + 6 * 3600));
        assert_eq!(window("daily 00:00-24:00").open_until(MONDAY), Some(u64::MAX));
    }

    fn any_window() -> impl Strategy<Value = Window> {
        proptest::collection::vec((0..WEEK, 1..WEEK), 1..6)
            .prop_map(|parts| Window::of(parts.into_iter().map(|(start, length)| (start, start + length))))
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(window in any_window()) {
            let values: Vec<Value> = window.to_value().into_iter().map(Value::Uint).collect();
            prop_assert_eq!(Window::from_values(&values), Some(window));
        }

        #[test]
        fn a_meet_holds_exactly_when_both_do(a in any_window(), b in any_window(), at in 0u64..4_000_000_000) {
            let both = a.meet(&b);
            prop_assert!(both.is_within(&a) && both.is_within(&b));
            prop_assert_eq!(both.open_until(at).is_some(), a.open_until(at).is_some() && b.open_until(at).is_some());
        }
    }
}

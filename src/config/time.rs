//! Instants and durations as people write and read them. Times are Unix seconds; what decides takes `now` as a parameter.

use crate::error::{Code, Error, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than anything sensible, short enough that sums with Unix time stay below 2^53 milliseconds.
const MAX_DURATION: u64 = 100 * 366 * DAY;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// Unix seconds by the system clock.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

/// Unix milliseconds by the system clock; 0 if the clock stands before 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Reads `90s`, `30m`, `24h`, `7d`, `2w` and sums such as `1d12h`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = |why: &str| Error::new(Code::Usage, format!("{text:?} is not a duration: {why}")).hint("write 90s, 30m, 24h, 7d or 1d12h");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad("it is empty"));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| bad("the unit is missing"))?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad("it needs a whole number before each unit"))?;
        let mut chars = rest[digits..].chars();
        let unit = match chars.next() {
            Some('s') => 1,
            Some('m') => MINUTE,
            Some('h') => HOUR,
            Some('d') => DAY,
            Some('w') => WEEK,
            _ => return Err(bad("units are s, m, h, d and w")),
        };
        total = number
            .checked_mul(unit)
            .and_then(|n| n.checked_add(total))
            .filter(|n| *n <= MAX_DURATION)
            .ok_or_else(|| bad("it is too long"))?;
        rest = chars.as_str();
    }
    Ok(Duration::from_secs(total))
}

/// A duration in its largest unit: `45 seconds`, `3 minutes`, `2 hours`, `5 days`; rounded down.
pub fn duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..MINUTE => (seconds, "second"),
        MINUTE..HOUR => (nearest(seconds, MINUTE), "minute"),
        HOUR..172_800 => (nearest(seconds, HOUR), "hour"),
        _ => (nearest(seconds, DAY), "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

fn nearest(seconds: u64, unit: u64) -> u64 {
    seconds.saturating_add(unit / 2) / unit
}

/// How far `ts` is from `now`: `3 minutes ago`, `in 2 hours`, `just now`.
pub fn relative(ts: u64, now: u64) -> String {
    match ts.cmp(&now) {
        std::cmp::Ordering::Equal => "just now".to_owned(),
        std::cmp::Ordering::Less => format!("{} ago", duration(now - ts)),
        std::cmp::Ordering::Greater => format!("in {}", duration(ts - now)),
    }
}

/// Date and time in the zone of this computer: `2026-05-03 14:00 CEST`.
pub fn absolute(ts: u64) -> String {
    absolute_in(ts, TimeZone::system())
}

fn absolute_in(ts: u64, zone: TimeZone) -> String {
    match i64::try_from(ts).ok().and_then(|s| Timestamp::from_second(s).ok()) {
        Some(stamp) => stamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string(),
        None => format!("{ts} seconds after 1970"),
    }
}

/// The time of day in the zone of this computer, `14:00:05`; the date, if it is not of the last 24 hours.
pub fn clock(ts: u64, now: u64) -> String {
    let stamp = i64::try_from(ts).ok().and_then(|s| Timestamp::from_second(s).ok()).map(|stamp| stamp.to_zoned(TimeZone::system()));
    let form = if ts <= now && now - ts < DAY { "%H:%M:%S" } else { "%Y-%m-%d" };
    stamp.map_or_else(|| "never".to_owned(), |stamp| stamp.strftime(form).to_string())
}

/// A day of UTC, counted from 1970: `3 May`.
pub fn day(day: u64) -> String {
    let stamp = day.checked_mul(DAY).and_then(|s| i64::try_from(s).ok()).and_then(|s| Timestamp::from_second(s).ok());
    stamp.map_or_else(|| format!("day {day}"), |stamp| stamp.to_zoned(TimeZone::UTC).strftime("%-d %b").to_string())
}

/// The instant for programs: RFC 3339 in UTC, to the second.
pub fn rfc3339(ts: u64) -> String {
    match i64::try_from(ts).ok().and_then(|s| Timestamp::from_second(s).ok()) {
        Some(stamp) => stamp.to_string(),
        None => ts.to_string(),
    }
}

/// Reads a point in time: RFC 3339, a date, or how long ago (`2h`).
pub fn parse_since(text: &str, now: u64) -> Result<u64> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(now.saturating_sub(ago.as_secs()));
    }
    let at = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<jiff::civil::Date>().ok()?.to_zoned(TimeZone::system()).ok().map(|z| z.timestamp()))
        .and_then(|t| u64::try_from(t.as_second()).ok());
    at.ok_or_else(|| {
        Error::new(Code::Usage, format!("{text:?} is not a point in time")).hint("write 2h, 7d, 2026-05-03 or 2026-05-03T14:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_or_say_why() {
        for (text, seconds) in [("24h", 86_400), ("7d", 604_800), ("30m", 1800), ("90s", 90), ("1d12h", 129_600), (" 2w ", 1_209_600)] {
            assert_eq!(parse_duration(text).unwrap().as_secs(), seconds);
        }
        for text in ["", "24", "h", "-1h", "1.5h", "1y", "24 h", "99999999999999999999h", "36601d", "1hü"] {
            assert_eq!(parse_duration(text).unwrap_err().code(), Code::Usage, "{text}");
        }
    }

    #[test]
    fn distances_read_well() {
        let now = 1_000_000;
        assert_eq!(relative(now, now), "just now");
        assert_eq!(relative(now - 1, now), "1 second ago");
        assert_eq!(relative(now - 180, now), "3 minutes ago");
        assert_eq!(relative(now + 7200, now), "in 2 hours");
        assert_eq!(relative(now + 86_400, now), "in 24 hours");
        assert_eq!(relative(now + 86_399, now), "in 24 hours");
        assert_eq!(relative(now - 100, now), "2 minutes ago");
        assert_eq!(relative(now + 5 * DAY, now), "in 5 days");
    }

    #[test]
    fn instants_read_well_and_never_panic() {
        assert_eq!(absolute_in(1_777_816_800, TimeZone::UTC), "2026-05-03 14:00 UTC");
        assert_eq!(rfc3339(1_777_816_800), "2026-05-03T14:00:00Z");
        assert!(absolute(u64::MAX).contains("1970"));
        assert_eq!((day(20_576), day(u64::MAX)), ("3 May".to_owned(), format!("day {}", u64::MAX)));
        assert_eq!((clock(u64::MAX, 0), clock(0, 1_777_816_800)[..4].to_owned()), ("never".to_owned(), "1970".to_owned()));
        assert_eq!(parse_since("2h", 10_000).unwrap(), 2_800);
        assert_eq!(parse_since("2026-05-03T14:00:00Z", 0).unwrap(), 1_777_816_800);
        assert!(parse_since("2026-05-03", 0).is_ok());
        assert!(parse_since("yesterday-ish", 0).is_err());
    }
}

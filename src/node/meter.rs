//! What a grant uses, across all its sessions: bytes, rate and streams, counted once a chunk without a lock.

use crate::session::{Meter, Pace};
use crate::token::{Limits, Way};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a bucket lets through at once, as time at the full rate.
const BURST: Duration = Duration::from_millis(250);
/// Nobody waits longer for one chunk, whatever the rate: the clock's arithmetic ends somewhere.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);
const UNLIMITED: u64 = u64::MAX;
/// Days of which the use is remembered, today not counted.
pub const PAST_DAYS: usize = 30;
/// Seconds of a day in UTC.
const DAY: u64 = 24 * 3600;

/// A token bucket as one number: the moment at which all that was taken is paid for (virtual scheduling, as in GCRA).
#[derive(Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `bytes`, and says how long to wait for it.
    fn take(&self, bytes: usize, bits_per_second: u64, now: Duration) -> Duration {
        let cost = (bytes as u128) * 8 * 1_000_000_000 / u128::from(bits_per_second.max(1));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX / 4);
        let now = now.as_nanos() as u64;
        let floor = now.saturating_sub(BURST.as_nanos() as u64);
        let paid = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(at.max(floor).saturating_add(cost)));
        let until = paid.unwrap_or(floor).max(floor).saturating_add(cost);
        Duration::from_nanos(until.saturating_sub(now)).min(LONGEST_WAIT)
    }
}

/// Counts for one grant; shared by its sessions and streams.
pub struct GrantMeter {
    began: Instant,
    /// From the guest to destinations.
    up: AtomicU64,
    /// From destinations to the guest.
    down: AtomicU64,
    streams: AtomicU32,
    sessions: AtomicU32,
    /// The day that is counted, in days since 1970, and what had been used before it began.
    day: AtomicU64,
    before_today: AtomicU64,
    past: Mutex<Vec<(u64, u64)>>,
    byte_limit: AtomicU64,
    day_limit: AtomicU64,
    rate: AtomicU64,
    stream_limit: AtomicU64,
    up_bucket: Bucket,
    down_bucket: Bucket,
    /// What of these was asked for already, see [`GrantMeter::take_moved`].
    told_up: AtomicU64,
    told_down: AtomicU64,
    last_used: AtomicU64,
    last_way: AtomicU64,
    dirty: AtomicBool,
}

/// What a meter remembers over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes from the guest to destinations.
    pub up: u64,
    /// Bytes from destinations to the guest.
    pub down: u64,
    /// Unix seconds of the last use.
    pub last_used: Option<u64>,
    /// By which way the guest came then.
    pub last_way: Option<Way>,
    /// Day since 1970 (UTC) and bytes both ways, the oldest day first; the last one may be today.
    pub days: Vec<(u64, u64)>,
}

impl GrantMeter {
    /// Goes on from what was used before.
    pub fn new(usage: Usage) -> Self {
        let Usage { up, down, last_used, last_way, mut days } = usage;
        let (day, today) = days.pop().unwrap_or_default();
        GrantMeter {
            began: Instant::now(),
            up: up.into(),
            down: down.into(),
            streams: AtomicU32::new(0),
            sessions: AtomicU32::new(0),
            day: day.into(),
            before_today: up.saturating_add(down).saturating_sub(today).into(),
            past: Mutex::new(days),
            byte_limit: UNLIMITED.into(),
            day_limit: UNLIMITED.into(),
            rate: UNLIMITED.into(),
            stream_limit: UNLIMITED.into(),
            up_bucket: Bucket::default(),
            down_bucket: Bucket::default(),
            told_up: up.into(),
            told_down: down.into(),
            last_used: last_used.unwrap_or(0).into(),
            last_way: last_way.map_or(0, Way::number).into(),
            dirty: AtomicBool::new(false),
        }
    }

    /// Sets the limits of the grant, as its newest revision has them.
    pub fn set_limits(&self, limits: &Limits) {
        self.byte_limit.store(limits.bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.day_limit.store(limits.bytes_per_day.unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.rate.store(limits.bits_per_second.unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.stream_limit.store(limits.streams.map_or(UNLIMITED, u64::from), Ordering::Relaxed);
    }

    /// Bytes in both directions together.
    pub fn used(&self) -> u64 {
        self.up.load(Ordering::Relaxed).saturating_add(self.down.load(Ordering::Relaxed))
    }

    /// The same, since the day began.
    pub fn used_today(&self) -> u64 {
        self.used().saturating_sub(self.before_today.load(Ordering::Relaxed))
    }

    /// All that is remembered.
    pub fn usage(&self) -> Usage {
        let mut days = self.past().clone();
        let today = (self.day.load(Ordering::Relaxed), self.used_today());
        if today.1 > 0 {
            days.push(today);
        }
        let last = self.last_used.load(Ordering::Relaxed);
        Usage {
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            last_used: (last > 0).then_some(last),
            last_way: Way::from_number(self.last_way.load(Ordering::Relaxed)),
            days,
        }
    }

    fn past(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u64)>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new day if there is one at this time. A clock that goes back never brings a day back.
    pub fn roll(&self, now: u64) {
        let today = now / DAY;
        if today <= self.day.load(Ordering::Relaxed) {
            return;
        }
        let mut past = self.past();
        let (day, used) = (self.day.swap(today, Ordering::Relaxed), self.used_today());
        if used > 0 {
            past.push((day, used));
        }
        past.retain(|(day, _)| day + PAST_DAYS as u64 >= today);
        self.before_today.fetch_add(used, Ordering::Relaxed);
    }

    /// Bytes up and down since this was asked last; each is told once, whoever asks.
    pub fn take_moved(&self) -> (u64, u64) {
        let since = |total: &AtomicU64, told: &AtomicU64| {
            let total = total.load(Ordering::Relaxed);
            total.saturating_sub(told.fetch_max(total, Ordering::Relaxed))
        };
        (since(&self.up, &self.told_up), since(&self.down, &self.told_down))
    }

    /// Whether the bytes are used up, in all or for today.
    pub fn exhausted(&self) -> bool {
        self.used() >= self.byte_limit.load(Ordering::Relaxed) || self.exhausted_today()
    }

    /// Whether those of the day are.
    pub fn exhausted_today(&self) -> bool {
        self.used_today() >= self.day_limit.load(Ordering::Relaxed)
    }

    /// Notes a use at this time, by this way.
    pub fn touch(&self, now: u64, way: Way) {
        self.roll(now);
        self.last_used.fetch_max(now, Ordering::Relaxed);
        self.last_way.store(way.number(), Ordering::Relaxed);
        self.dirty.store(true, Ordering::Relaxed);
    }

    /// Whether there is something new to write; asking takes the mark away.
    pub fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::Relaxed)
    }

    /// Marks it for writing again, after a write failed.
    pub fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::Relaxed);
    }

    /// Sessions open now.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts a session until the guard is dropped.
    pub fn session(self: &Arc<Self>) -> Guard {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Guard { meter: self.clone(), what: What::Session }
    }

    /// Counts a stream until the guard is dropped; `None` if there are as many as the grant allows, or no bytes are left.
    pub fn stream(self: &Arc<Self>) -> Option<Guard> {
        let limit = self.stream_limit.load(Ordering::Relaxed);
        let taken = self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (u64::from(n) < limit).then_some(n + 1));
        taken.ok()?;
        let guard = Guard { meter: self.clone(), what: What::Stream };
        if self.exhausted() { None } else { Some(guard) }
    }

    fn count(&self, counter: &AtomicU64, bucket: &Bucket, n: usize) -> Pace {
        counter.fetch_add(n as u64, Ordering::Relaxed);
        self.dirty.store(true, Ordering::Relaxed);
        if self.exhausted() {
            return Pace::Stop;
        }
        match self.rate.load(Ordering::Relaxed) {
            UNLIMITED => Pace::Go,
            rate => match bucket.take(n, rate, self.began.elapsed() + BURST) {
                Duration::ZERO => Pace::Go,
                wait => Pace::Wait(wait),
            },
        }
    }
}

impl Meter for GrantMeter {
    fn sent(&self, n: usize) -> Pace {
        self.count(&self.down, &self.down_bucket, n)
    }

    fn received(&self, n: usize) -> Pace {
        self.count(&self.up, &self.up_bucket, n)
    }
}

/// The meters of a grant and of all above it: what is used of one counts for each.
#[derive(Clone)]
pub struct Meters(pub Arc<[Arc<GrantMeter>]>);

impl Meters {
    /// Whether no bytes are left at one of the levels.
    pub fn exhausted(&self) -> bool {
        self.0.iter().any(|meter| meter.exhausted())
    }

    /// Whether those of the day are used up at one of the levels.
    pub fn exhausted_today(&self) -> bool {
        self.0.iter().any(|meter| meter.exhausted_today())
    }

    /// Counts a session at each level until the guards are dropped.
    pub fn session(&self) -> Vec<Guard> {
        self.0.iter().map(GrantMeter::session).collect()
    }

    /// Counts a stream at each level until the guards are dropped; `None` if one of them has no room or no bytes left.
    pub fn stream(&self) -> Option<Vec<Guard>> {
        self.0.iter().map(GrantMeter::stream).collect()
    }

    fn count(&self, one: impl Fn(&GrantMeter) -> Pace) -> Pace {
        let slower = |a, b| match (a, b) {
            (Pace::Stop, _) | (_, Pace::Stop) => Pace::Stop,
            (Pace::Wait(a), Pace::Wait(b)) => Pace::Wait(a.max(b)),
            (Pace::Go, other) | (other, Pace::Go) => other,
        };
        self.0.iter().map(|meter| one(meter)).fold(Pace::Go, slower)
    }
}

impl Meter for Meters {
    fn sent(&self, n: usize) -> Pace {
        self.count(|meter| meter.sent(n))
    }

    fn received(&self, n: usize) -> Pace {
        self.count(|meter| meter.received(n))
    }
}

#[derive(Clone, Copy)]
enum What {
    Session,
    Stream,
}

/// Something that counts while it lives.
pub struct Guard {
    meter: Arc<GrantMeter>,
    what: What,
}

impl Drop for Guard {
    fn drop(&mut self) {
        match self.what {
            What::Session => &self.meter.sessions,
            What::Stream => &self.meter.streams,
        }
        .fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(limits: Limits) -> Arc<GrantMeter> {
        let meter = GrantMeter::new(Usage::default());
        meter.set_limits(&limits);
        Arc::new(meter)
    }

    #[test]
    fn bytes_stop_at_the_limit_and_one_beside_it_does_not() {
        let meter = limited(Limits { bytes: Some(1000), ..Limits::default() });
        assert_eq!((meter.sent(400), meter.received(599)), (Pace::Go, Pace::Go));
        assert!(!meter.exhausted() && meter.stream().is_some());
        assert_eq!(meter.sent(1), Pace::Stop);
        assert!(meter.exhausted() && meter.stream().is_none());
        assert_eq!(meter.usage(), Usage { up: 599, down: 401, days: vec![(0, 1000)], ..Usage::default() });
        assert_eq!((meter.take_moved(), meter.take_moved()), ((599, 401), (0, 0)));
        assert_eq!(GrantMeter::new(Usage { up: 5, down: 6, ..Usage::default() }).take_moved(), (0, 0));
        assert!(meter.take_dirty() && !meter.take_dirty());
        // The refused stream is not counted.
        meter.set_limits(&Limits { streams: Some(1), ..Limits::default() });
        assert!(meter.stream().is_some());
    }

    #[test]
    fn a_day_ends_at_midnight_and_outlives_a_restart() {
        let limits = Limits { bytes_per_day: Some(100), ..Limits::default() };
        let meter = limited(limits);
        meter.touch(5 * DAY, Way::Tor);
        assert_eq!(meter.sent(60), Pace::Go);
        let again = GrantMeter::new(meter.usage());
        again.set_limits(&limits);
        again.touch(6 * DAY - 1, Way::Direct);
        assert_eq!((again.used_today(), again.sent(40)), (60, Pace::Stop));
        assert!(again.exhausted_today());
        // Neither a clock that goes back nor the same day gives anything back.
        again.roll(4 * DAY);
        assert!(again.exhausted_today());
        again.roll(6 * DAY);
        assert_eq!((again.used_today(), again.received(1)), (0, Pace::Go));
        assert_eq!(again.usage().days, [(5, 100), (6, 1)]);
        again.roll(60 * DAY);
        assert_eq!(again.usage().days, []);
        assert_eq!(again.usage().last_way, Some(Way::Direct));
    }

    #[test]
    fn what_is_used_counts_at_each_level() {
        let (above, below) = (limited(Limits { bytes: Some(10), streams: Some(1), ..Limits::default() }), limited(Limits::default()));
        let both = Meters([above.clone(), below.clone()].into());
        let stream = both.stream().unwrap();
        assert!(both.stream().is_none() && above.stream().is_none());
        assert_eq!(both.sent(9), Pace::Go);
        assert_eq!((both.received(1), below.used(), above.used()), (Pace::Stop, 10, 10));
        drop(stream);
        assert!(below.stream().is_some(), "what was refused above is given back below");
    }

    #[test]
    fn streams_are_counted_while_they_live() {
        let meter = limited(Limits { streams: Some(2), ..Limits::default() });
        let first = meter.stream().unwrap();
        let _second = meter.stream().unwrap();
        assert!(meter.stream().is_none());
        drop(first);
        assert!(meter.stream().is_some());
        assert!(limited(Limits { streams: Some(0), ..Limits::default() }).stream().is_none());
        let session = meter.session();
        assert_eq!(meter.sessions(), 1);
        drop(session);
        assert_eq!(meter.sessions(), 0);
    }

    #[test]
    fn the_rate_holds_over_time_after_a_burst() {
        let bucket = Bucket::default();
        // 8 Mbit/s is a megabyte a second: a chunk of 64 KiB costs 65 ms.
        let rate = 8_000_000;
        let mut now = Duration::from_secs(100);
        let start = now;
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            let wait = bucket.take(65_536, rate, now);
            waited += wait;
            now += wait;
        }
        let ideal = Duration::from_micros(65_536 * 100);
        assert!(now - start + BURST >= ideal && now - start <= ideal, "{:?}", now - start);
        assert!(waited > Duration::ZERO);
        // After a rest there is a burst again, and no more than that.
        now += Duration::from_secs(60);
        assert_eq!(bucket.take(200_000, rate, now), Duration::ZERO);
        assert!(bucket.take(200_000, rate, now) > Duration::from_millis(100));
        // A tiny rate never stalls one chunk for longer than it must, nor overflows.
        assert_eq!(Bucket::default().take(usize::MAX, 1, now), LONGEST_WAIT);
    }
}

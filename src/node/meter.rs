//! What a grant uses, across all its sessions: bytes, rate and streams, counted once a chunk without a lock.

use crate::session::{Meter, Pace};
use crate::token::Limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much a bucket lets through at once, as time at the full rate.
const BURST: Duration = Duration::from_millis(250);
/// Nobody waits longer for one chunk, whatever the rate: the clock's arithmetic ends somewhere.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);
const UNLIMITED: u64 = u64::MAX;

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
    byte_limit: AtomicU64,
    rate: AtomicU64,
    stream_limit: AtomicU64,
    up_bucket: Bucket,
    down_bucket: Bucket,
    /// What of these was asked for already, see [`GrantMeter::take_moved`].
    told_up: AtomicU64,
    told_down: AtomicU64,
    last_used: AtomicU64,
    dirty: AtomicBool,
}

impl GrantMeter {
    /// Goes on from what was used before.
    pub fn new(up: u64, down: u64, last_used: Option<u64>) -> Self {
        GrantMeter {
            began: Instant::now(),
            up: up.into(),
            down: down.into(),
            streams: AtomicU32::new(0),
            sessions: AtomicU32::new(0),
            byte_limit: UNLIMITED.into(),
            rate: UNLIMITED.into(),
            stream_limit: UNLIMITED.into(),
            up_bucket: Bucket::default(),
            down_bucket: Bucket::default(),
            told_up: up.into(),
            told_down: down.into(),
            last_used: last_used.unwrap_or(0).into(),
            dirty: AtomicBool::new(false),
        }
    }

    /// Sets the limits of the signed grant; the same id always carries the same ones, since the id is signed with them.
    pub fn set_limits(&self, limits: &Limits) {
        self.byte_limit.store(limits.bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.rate.store(limits.bits_per_second.unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.stream_limit.store(limits.streams.map_or(UNLIMITED, u64::from), Ordering::Relaxed);
    }

    /// Bytes in both directions together.
    pub fn used(&self) -> u64 {
        self.up.load(Ordering::Relaxed).saturating_add(self.down.load(Ordering::Relaxed))
    }

    /// Bytes up, bytes down, last use.
    pub fn totals(&self) -> (u64, u64, Option<u64>) {
        let last = self.last_used.load(Ordering::Relaxed);
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed), (last > 0).then_some(last))
    }

    /// Bytes up and down since this was asked last; each is told once, whoever asks.
    pub fn take_moved(&self) -> (u64, u64) {
        let (up, down, _) = self.totals();
        let since = |total: u64, told: &AtomicU64| total.saturating_sub(told.fetch_max(total, Ordering::Relaxed));
        (since(up, &self.told_up), since(down, &self.told_down))
    }

    /// Whether the bytes are used up.
    pub fn exhausted(&self) -> bool {
        self.used() >= self.byte_limit.load(Ordering::Relaxed)
    }

    /// Notes a use at this time.
    pub fn touch(&self, now: u64) {
        self.last_used.fetch_max(now, Ordering::Relaxed);
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
        let meter = GrantMeter::new(0, 0, None);
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
        assert_eq!(meter.totals(), (599, 401, None));
        assert_eq!((meter.take_moved(), meter.take_moved()), ((599, 401), (0, 0)));
        assert_eq!(GrantMeter::new(5, 6, None).take_moved(), (0, 0));
        assert!(meter.take_dirty() && !meter.take_dirty());
        // The refused stream is not counted.
        meter.set_limits(&Limits { streams: Some(1), ..Limits::default() });
        assert!(meter.stream().is_some());
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

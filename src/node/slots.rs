//! How many connections of one kind may wait, in all and from one source, so that strangers cannot use a node up.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::AbortHandle;

/// Whom a connection is counted for: an IPv4 address, or a /64, since that is what one subscriber gets in IPv6.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

/// A bounded set of waiting connections.
pub(super) struct Slots {
    max: usize,
    max_per_source: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// In the order in which they came.
    waiting: BTreeMap<u64, (IpAddr, Option<AbortHandle>)>,
    /// The numbers of each source, oldest first.
    sources: HashMap<IpAddr, BTreeMap<u64, ()>>,
}

/// A place in the set, given back when dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
}

impl Slots {
    /// At most `max` in all and `max_per_source` from one source; at least one each.
    pub(super) fn new(max: usize, max_per_source: usize) -> Arc<Self> {
        Arc::new(Slots { max: max.max(1), max_per_source: max_per_source.max(1), inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; the oldest of this source, or of all, is aborted if there is none. A silent crowd thus never keeps out
    /// a friend who speaks at once.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Slot {
        let source = source_of(ip);
        let mut inner = self.lock();
        let crowded = inner.sources.get(&source).filter(|mine| mine.len() >= self.max_per_source);
        let oldest_here = crowded.and_then(|mine| mine.keys().next().copied());
        let oldest = || inner.waiting.keys().next().copied().filter(|_| inner.waiting.len() >= self.max);
        if let Some(number) = oldest_here.or_else(oldest) {
            inner.remove(number, true);
        }
        self.take(&mut inner, source)
    }

    /// Makes room by aborting the oldest, when the process has no descriptors left.
    pub(super) fn evict_oldest(&self) {
        let mut inner = self.lock();
        if let Some(number) = inner.waiting.keys().next().copied() {
            inner.remove(number, true);
        }
    }

    fn take(self: &Arc<Self>, inner: &mut Inner, source: IpAddr) -> Slot {
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, (source, None));
        inner.sources.entry(source).or_default().insert(number, ());
        Slot { slots: self.clone(), number }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().waiting.len()
    }
}

impl Inner {
    fn remove(&mut self, number: u64, abort: bool) {
        let Some((source, handle)) = self.waiting.remove(&number) else { return };
        if let Some(mine) = self.sources.get_mut(&source) {
            mine.remove(&number);
            if mine.is_empty() {
                self.sources.remove(&source);
            }
        }
        if let Some(handle) = handle.filter(|_| abort) {
            handle.abort();
        }
    }
}

impl Slot {
    /// Number of the place, for [`Slots::arm`].
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Slots {
    /// Says which task to abort when the place is needed; at once, if it was taken away already.
    pub(super) fn arm(&self, number: u64, handle: AbortHandle) {
        match self.lock().waiting.get_mut(&number) {
            Some((_, armed)) => *armed = Some(handle),
            None => handle.abort(),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().remove(self.number, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_oldest_of_a_crowd_makes_room() {
        let slots = Slots::new(3, 2);
        let mut tasks = Vec::new();
        let mut join = |source: &str| {
            let slot = slots.enter(ip(source));
            let number = slot.number();
            let task = tokio::spawn(async move {
                let _slot = slot;
                std::future::pending::<()>().await
            });
            slots.arm(number, task.abort_handle());
            tasks.push(task);
        };
        join("10.0.0.1");
        join("::ffff:10.0.0.1");
        join("10.0.0.1");
        join("2001:db8::1");
        join("2001:db8::2");
        for gone in [0, 1] {
            assert!((&mut tasks[gone]).await.unwrap_err().is_cancelled());
        }
        assert!(tasks[2..].iter().all(|task| !task.is_finished()));
        assert_eq!(slots.len(), 3);
        slots.evict_oldest();
        assert!((&mut tasks[2]).await.unwrap_err().is_cancelled());
        assert_eq!(slots.len(), 2);
    }

    #[tokio::test]
    async fn a_place_taken_away_before_its_task_is_known_still_ends_it() {
        let slots = Slots::new(1, 1);
        let first = slots.enter(ip("10.0.0.1"));
        let _second = slots.enter(ip("10.0.0.2"));
        let task = tokio::spawn(std::future::pending::<()>());
        slots.arm(first.number(), task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[test]
    fn one_subscriber_in_ipv6_is_a_slash_64() {
        assert_eq!(source_of(ip("2001:db8::1")), source_of(ip("2001:db8::ffff")));
        assert_ne!(source_of(ip("2001:db8::1")), source_of(ip("2001:db8:0:1::1")));
        assert_eq!(source_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}

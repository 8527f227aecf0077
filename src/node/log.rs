//! The node's log: JSON lines that name the grant and the reason, and never a destination unless the owner asked for it.
//!
//! Lines go to a ring that the owner can read through the control stream, and to a sink (standard error) through a
//! thread of its own: a full pipe loses lines, it never holds up a guest.

use crate::config::time;
use crate::encoding::base64;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Lines that the owner can read back.
const RING: usize = 1000;
/// Lines that may wait for the sink.
const QUEUE: usize = 4096;

/// A shared log; clones write to the same one.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    destinations: bool,
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
    sink: Option<SyncSender<String>>,
    lost: AtomicU64,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<String>,
    last: u64,
}

/// One line under construction; written by [`Line::write`].
#[must_use]
pub struct Line<'a> {
    log: &'a Log,
    fields: Map<String, Value>,
}

impl Log {
    /// A log that is only kept in memory.
    pub fn in_memory() -> Self {
        Self::build(false, None)
    }

    /// A log that is also written to `sink`; `destinations` as in the configuration.
    pub fn to(mut sink: impl Write + Send + 'static, destinations: bool) -> Self {
        let (sender, receiver) = sync_channel::<String>(QUEUE);
        // Ends with the last clone of the log. A sink that fails (nobody reads the pipe) must not end the node.
        std::thread::spawn(move || {
            for line in receiver {
                let _ = sink.write_all(line.as_bytes()).and_then(|()| sink.flush());
            }
        });
        Self::build(destinations, Some(sender))
    }

    fn build(destinations: bool, sink: Option<SyncSender<String>>) -> Self {
        let (last, _) = watch::channel(0);
        Log(Arc::new(Inner { destinations, ring: Mutex::default(), last, sink, lost: AtomicU64::new(0) }))
    }

    /// Begins a line; `event` is a stable name such as `session.refused`.
    pub fn event(&self, event: &'static str) -> Line<'_> {
        let mut fields = Map::new();
        fields.insert("time".into(), time::rfc3339(time::now_s()).into());
        fields.insert("event".into(), event.into());
        Line { log: self, fields }
    }

    /// Lines with a number above `after`, at most `count`, the newest; and the number of the last one.
    pub fn after(&self, after: u64, count: usize) -> (u64, Vec<String>) {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = usize::try_from(ring.last.saturating_sub(after)).unwrap_or(usize::MAX).min(ring.lines.len()).min(count);
        (ring.last, ring.lines.iter().skip(ring.lines.len() - fresh).cloned().collect())
    }

    /// Waits until there is a line with a number above `after`.
    pub async fn wait(&self, after: u64) {
        let mut last = self.0.last.subscribe();
        let _ = last.wait_for(|last| *last > after).await;
    }

    fn push(&self, mut fields: Map<String, Value>) {
        let lost = self.0.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            fields.insert("lines_lost_before".into(), lost.into());
        }
        let line = Value::Object(fields).to_string();
        if let Some(sink) = &self.0.sink
            && sink.try_send(format!("{line}\n")).is_err()
        {
            self.0.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.lines.len() == RING {
            ring.lines.pop_front();
        }
        ring.lines.push_back(line);
        ring.last += 1;
        self.0.last.send_replace(ring.last);
    }
}

impl Line<'_> {
    /// Adds a field.
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.fields.insert(key.into(), value.into());
        self
    }

    /// Adds the grant in the form that `grant list` shows.
    pub fn grant(self, id: &[u8; 8]) -> Self {
        self.with("grant", base64(id))
    }

    /// Adds where a guest wants to go, only if the owner asked for that.
    pub fn destination(self, host: &str, port: u16) -> Self {
        if self.log.0.destinations { self.with("host", host).with("port", port) } else { self }
    }

    /// Writes the line.
    pub fn write(self) {
        self.log.push(self.fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_destination_is_written_only_when_asked_for() {
        for asked in [false, true] {
            let sink = Sink::default();
            let log = Log::to(sink.clone(), asked);
            log.event("stream.refused").grant(&[1; 8]).with("reason", "private").destination("secret.example", 80).write();
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            while sink.0.lock().unwrap().is_empty() && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            let line: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&line["event"], &line["reason"]), (&"stream.refused".into(), &"private".into()));
            assert_eq!(text.contains("secret.example"), asked);
            assert_eq!(line["grant"], base64(&[1; 8]));
        }
    }

    #[tokio::test]
    async fn the_ring_keeps_the_last_thousand_and_wakes_a_reader() {
        let log = Log::in_memory();
        for n in 0..RING + 5 {
            log.event("x").with("n", n).write();
        }
        let (last, lines) = log.after(0, usize::MAX);
        assert_eq!((last as usize, lines.len()), (RING + 5, RING));
        assert!(lines[0].contains("\"n\":5"));
        assert_eq!(log.after(last, 10).1.len(), 0);
        assert_eq!(log.after(last - 3, 10).1.len(), 3);
        assert_eq!(log.after(last - 3, 2).1.len(), 2);
        assert_eq!(log.after(u64::MAX, 10).1.len(), 0);
        let waiting = tokio::spawn({
            let log = log.clone();
            async move { log.wait(last).await }
        });
        tokio::task::yield_now().await;
        log.event("y").write();
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
}

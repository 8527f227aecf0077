//! The engine: many streams over one encrypted connection, in the frame format of yamux (hashicorp/yamux spec.md).
//!
//! Why not the `yamux` crate: it copies each byte several times and hands it between tasks, and by its default a
//! peer may make us buffer 256 KiB for each of its streams. Here bytes are read from a socket straight into the frame
//! that is then encrypted in place, and what is received is decrypted in place; unread data is bounded for the whole
//! session. The wire format is unchanged, which a test against the crate shows. One addition makes that possible: an
//! encrypted frame holds whole yamux frames.
//!
//! One task, the driver, owns the connection. Streams share the state under a lock that is never held across an await.

use super::BoxedIo;
use super::cover::{Cover, CoverKey};
use super::frame::{FrameKeys, LENGTH_LEN, MAX_PLAINTEXT, Opener, Sealer, TAG_LEN};
use super::stream::{Stream, StreamState};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a yamux header.
pub(crate) const HEADER_LEN: usize = 12;
/// A stream's first receive window, fixed by yamux.
pub(crate) const INITIAL_WINDOW: u32 = 256 * 1024;
/// What a window may grow to: the bandwidth-delay product of 1 Gbit/s over 100 ms, with room.
pub(crate) const MAX_WINDOW: u32 = 16 * 1024 * 1024;
/// Sum of all windows beyond their first 256 KiB.
const GROWTH_BUDGET: u64 = 64 * 1024 * 1024;
/// Unread bytes of a session beyond which its connection is not read any more.
const UNREAD_LIMIT: usize = 96 * 1024 * 1024;
/// The same for all sessions of this process together; beyond it each session may hold only a little.
const UNREAD_BUDGET: usize = 512 * 1024 * 1024;
const UNREAD_CROWDED: usize = 64 * 1024;
/// Received and not yet passed on, in all sessions of this process.
static UNREAD_IN_ALL: AtomicUsize = AtomicUsize::new(0);
/// Streams that may wait to be accepted, and that may be open at all.
const MAX_STREAMS: usize = 8192;
/// Sealed bytes that may wait for the connection.
const OUT_CAPACITY: usize = 256 * 1024;
/// Longest first flight of a stream: a request, not a transfer.
const MAX_FIRST: usize = 32 * 1024;
/// Smallest room worth starting a data frame for.
const MIN_ROOM: usize = LENGTH_LEN + HEADER_LEN + TAG_LEN + 2048;
/// Bytes read from the connection at once.
const SCRATCH: usize = 256 * 1024;
/// A client's sign of life, and how long it waits for the answer.
const KEEPALIVE: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;
const SYN: u16 = 1;
pub(crate) const ACK: u16 = 2;
pub(crate) const FIN: u16 = 4;
pub(crate) const RST: u16 = 8;

fn header(kind: u8, flags: u16, stream: u32, length: u32) -> [u8; HEADER_LEN] {
    let mut h = [0; HEADER_LEN];
    h[1] = kind;
    h[2..4].copy_from_slice(&flags.to_be_bytes());
    h[4..8].copy_from_slice(&stream.to_be_bytes());
    h[8..].copy_from_slice(&length.to_be_bytes());
    h
}

fn protocol(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

thread_local! {
    /// Where a connection is read into; what is left of an unfinished frame moves to its session.
    static SCRATCH_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Buffers for sealed bytes: a session holds one only while it has something to send.
    static OUT_POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Sealed bytes between `start` and `end`.
#[derive(Default)]
struct Out {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Out {
    /// Room for a frame of up to `want` bytes behind `end`; borrows a buffer when there is none.
    fn room(&mut self, want: usize) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = OUT_POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; OUT_CAPACITY]);
        }
        if self.buffer.len() - self.end < want && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let end = self.end;
        let room = (self.buffer.len() - end).min(want);
        &mut self.buffer[end..end + room]
    }

    fn consumed(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            let buffer = std::mem::take(&mut self.buffer);
            OUT_POOL.with_borrow_mut(|pool| {
                if pool.len() < 4 {
                    pool.push(buffer)
                }
            });
        }
    }

    fn free(&self) -> usize {
        OUT_CAPACITY - (self.end - self.start)
    }
}

/// All that streams and driver share.
pub(crate) struct Shared {
    sealer: Sealer,
    out: Out,
    /// Headers that found no room; bounded because each answers one event of a bounded kind.
    control: VecDeque<[u8; HEADER_LEN]>,
    pub(crate) streams: HashMap<u32, StreamState>,
    next_id: u32,
    client: bool,
    incoming: VecDeque<u32>,
    accept_waker: Option<Waker>,
    driver_waker: Option<Waker>,
    room_waiters: VecDeque<Waker>,
    /// Whether reading rests until what was read is passed on.
    resting: bool,
    close_waiters: Vec<Waker>,
    /// Set once: the session is over, with the reason.
    closed: Option<io::ErrorKind>,
    pub(crate) unread: usize,
    growth: u64,
    pub(crate) rtt: Option<Duration>,
    ping: Option<(u32, Instant)>,
    pings: u32,
    /// Whether anything came since the last beat.
    heard: bool,
    silent_beats: u8,
}

/// A session; clones are handles to the same one. It ends by [`Session::close`] or with its connection.
#[derive(Clone)]
pub struct Session(Arc<Mutex<Shared>>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts the driver on the current tokio runtime.
    pub(crate) fn start(io: BoxedIo, cover: Cover, keys: &FrameKeys, client: bool, rtt: Option<Duration>) -> Session {
        let (send, receive) = if client { (&keys.to_node, &keys.to_client) } else { (&keys.to_client, &keys.to_node) };
        let (send_mask, receive_mask) = if client { (cover.to_node, cover.to_client) } else { (cover.to_client, cover.to_node) };
        // A 32-byte key is always valid for AES-256.
        let (Ok(sealer), Ok(opener)) = (Sealer::new(send, send_mask), Opener::new(receive, receive_mask)) else {
            unreachable!("AES-256 takes any 32 bytes as a key")
        };
        let session = Session(Arc::new(Mutex::new(Shared {
            sealer,
            out: Out::default(),
            control: VecDeque::new(),
            streams: HashMap::new(),
            next_id: if client { 1 } else { 2 },
            client,
            incoming: VecDeque::new(),
            accept_waker: None,
            driver_waker: None,
            room_waiters: VecDeque::new(),
            resting: false,
            close_waiters: Vec::new(),
            closed: None,
            unread: 0,
            growth: 0,
            rtt,
            ping: None,
            pings: 0,
            heard: true,
            silent_beats: 0,
        })));
        tokio::spawn(Driver { io, opener, session: session.clone(), partial: Vec::new(), length: None, shutting: false }.run());
        session
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream; `first` (at most 32 KiB) travels in the same flight. Waits while the connection is congested.
    pub async fn open(&self, first: &[u8]) -> io::Result<Stream> {
        let id = std::future::poll_fn(|cx| self.lock().poll_open(cx, first)).await?;
        Ok(Stream::new(self.clone(), id))
    }

    /// The next stream that the other side opened; `None` when the session is over.
    pub async fn accept(&self) -> Option<Stream> {
        std::future::poll_fn(|cx| {
            let mut shared = self.lock();
            if let Some(id) = shared.incoming.pop_front() {
                return Poll::Ready(Some(Stream::new(self.clone(), id)));
            }
            if shared.closed.is_some() {
                return Poll::Ready(None);
            }
            shared.accept_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends the session now; its streams fail with `ConnectionAborted`.
    pub fn close(&self) {
        self.lock().shut(io::ErrorKind::ConnectionAborted);
    }

    /// Waits until the session is over, for whatever reason.
    pub async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.lock();
            if shared.closed.is_some() {
                return Poll::Ready(());
            }
            shared.close_waiters.retain(|w| !w.will_wake(cx.waker()));
            shared.close_waiters.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// The last measured round trip.
    pub fn rtt(&self) -> Option<Duration> {
        self.lock().rtt
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.lock().streams.len()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        UNREAD_IN_ALL.fetch_sub(self.unread, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn check_open(&self) -> io::Result<()> {
        match self.closed {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver_waker.take() {
            waker.wake();
        }
    }

    fn shut(&mut self, kind: io::ErrorKind) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(kind);
        self.wake_driver();
        let mut wakers: Vec<Waker> =
            self.room_waiters.drain(..).chain(self.close_waiters.drain(..)).chain(self.accept_waker.take()).collect();
        for stream in self.streams.values_mut() {
            wakers.extend(stream.read_waker.take());
            wakers.extend(stream.write_waker.take());
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn poll_open(&mut self, cx: &mut Context<'_>, first: &[u8]) -> Poll<io::Result<u32>> {
        self.check_open()?;
        if first.len() > MAX_FIRST {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, "the first flight of a stream is too long")));
        }
        if self.streams.len() >= MAX_STREAMS {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many streams in this session")));
        }
        if self.out.free() < MIN_ROOM + first.len() {
            self.wait_for_room(cx);
            return Poll::Pending;
        }
        let id = self.next_id;
        self.next_id = id.checked_add(2).ok_or_else(|| protocol("all stream numbers of this session are used"))?;
        let mut state = StreamState::new();
        state.send_window -= first.len() as u32;
        self.seal_data(id, SYN, first.len(), |buffer| {
            buffer.copy_from_slice(first);
            Ok(first.len())
        })?;
        self.streams.insert(id, state);
        Poll::Ready(Ok(id))
    }

    fn wait_for_room(&mut self, cx: &Context<'_>) {
        if self.room_waiters.back().is_some_and(|last| last.will_wake(cx.waker())) {
            return;
        }
        // Tasks that are woken for other reasons come here again and again; more than two entries for each are repetitions.
        if self.room_waiters.len() > 2 * self.streams.len() + 16 {
            self.room_waiters.drain(..).for_each(Waker::wake);
        }
        self.room_waiters.push_back(cx.waker().clone());
    }

    /// Seals one data frame whose payload `fill` writes; nothing is sent if `fill` fails or gives nothing.
    fn seal_data(&mut self, id: u32, flags: u16, max: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        self.announce_if_due()?;
        let overhead = LENGTH_LEN + HEADER_LEN + TAG_LEN;
        let room = self.out.room(overhead + max.min(MAX_PLAINTEXT - HEADER_LEN));
        let payload = room.len() - TAG_LEN;
        let n = fill(&mut room[LENGTH_LEN + HEADER_LEN..payload])?;
        if n == 0 && flags == 0 {
            return Ok(0);
        }
        room[LENGTH_LEN..LENGTH_LEN + HEADER_LEN].copy_from_slice(&header(DATA, flags, id, n as u32));
        self.sealer.seal(&mut room[..overhead + n])?;
        self.out.end += overhead + n;
        self.wake_driver();
        Ok(n)
    }

    fn announce_if_due(&mut self) -> io::Result<()> {
        if self.sealer.rekey_due() {
            let mut frame = [0; LENGTH_LEN + TAG_LEN];
            self.sealer.announce(&mut frame)?;
            self.out.room(frame.len()).copy_from_slice(&frame);
            self.out.end += frame.len();
        }
        Ok(())
    }

    /// Queues a frame without payload.
    pub(crate) fn send_control(&mut self, kind_is_data: bool, flags: u16, id: u32, length: u32) {
        self.control.push_back(header(if kind_is_data { DATA } else { WINDOW_UPDATE }, flags, id, length));
        self.wake_driver();
    }

    /// Moves waiting headers into the out buffer while there is room.
    fn flush_control(&mut self) -> io::Result<()> {
        let size = LENGTH_LEN + HEADER_LEN + TAG_LEN;
        while !self.control.is_empty() && self.out.free() >= 2 * size {
            self.announce_if_due()?;
            // As many headers as fit into one encrypted frame: a burst of window updates costs one seal.
            let fit = ((self.out.free() - LENGTH_LEN - TAG_LEN) / HEADER_LEN).min(256).min(self.control.len());
            let total = LENGTH_LEN + fit * HEADER_LEN + TAG_LEN;
            let room = self.out.room(total);
            for (slot, header) in room[LENGTH_LEN..].chunks_exact_mut(HEADER_LEN).zip(self.control.drain(..fit)) {
                slot.copy_from_slice(&header);
            }
            self.sealer.seal(&mut room[..total])?;
            self.out.end += total;
        }
        Ok(())
    }

    /// Sends what `fill` writes on stream `id` as one frame, as far as its window and the out buffer allow.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        id: u32,
        max: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.check_open()?;
        let free = self.out.free();
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        stream.check_writable()?;
        if stream.send_window == 0 {
            stream.write_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if free < MIN_ROOM {
            self.wait_for_room(cx);
            return Poll::Pending;
        }
        let max = max.min(stream.send_window as usize).min(free - LENGTH_LEN - HEADER_LEN - TAG_LEN);
        let flags = stream.take_flags();
        let sent = self.seal_data(id, flags, max, fill);
        if let Some(stream) = self.streams.get_mut(&id) {
            match &sent {
                Ok(n) => stream.send_window -= *n as u32,
                Err(_) => stream.restore_flags(flags),
            }
        }
        Poll::Ready(sent)
    }

    /// Gives back window for `n` bytes that the application took.
    pub(crate) fn credit(&mut self, id: u32, n: usize) {
        self.count_read(n);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(update) = stream.credit(n as u32, self.rtt, &mut self.growth, GROWTH_BUDGET) {
            self.send_control(false, 0, id, update);
            // Windows grow only where the round trip is known.
            if self.rtt.is_none() {
                self.send_ping();
            }
        }
    }

    fn count_unread(&mut self, n: usize) {
        self.unread += n;
        UNREAD_IN_ALL.fetch_add(n, Ordering::Relaxed);
    }

    fn count_read(&mut self, n: usize) {
        self.unread -= n;
        UNREAD_IN_ALL.fetch_sub(n, Ordering::Relaxed);
        if self.resting && !self.has_too_much() {
            self.resting = false;
            self.wake_driver();
        }
    }

    /// Whether so much waits to be passed on that no more is taken in: a lot for one session, or, when all sessions of
    /// this process together hold a lot, even a little.
    fn has_too_much(&self) -> bool {
        let crowded = UNREAD_IN_ALL.load(Ordering::Relaxed) > UNREAD_BUDGET;
        self.unread > if crowded { UNREAD_CROWDED } else { UNREAD_LIMIT }
    }

    /// Asks for a sign of life, unless one is asked for already.
    fn send_ping(&mut self) {
        if self.ping.is_none() {
            self.pings = self.pings.wrapping_add(1);
            self.ping = Some((self.pings, Instant::now()));
            self.control.push_back(header(PING, SYN, 0, self.pings));
            self.wake_driver();
        }
    }

    /// Every 20 s. The client asks for a sign of life; either side gives up after two beats in silence.
    fn beat(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.heard) {
            self.silent_beats = 0;
        } else {
            self.silent_beats += 1;
            if self.silent_beats >= 2 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        if self.client {
            self.send_ping();
        }
        Ok(())
    }

    /// Forgets a stream whose handle is gone, telling the other side if it still thinks otherwise.
    pub(crate) fn forget(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.count_read(stream.unread());
        self.growth -= u64::from(stream.grown());
        if !stream.is_finished() && self.closed.is_none() {
            self.send_control(false, RST, id, 0);
        }
    }

    /// Takes in one decrypted frame: whole yamux frames, one after another.
    fn receive(&mut self, mut plain: &[u8]) -> io::Result<()> {
        while !plain.is_empty() {
            let (head, rest) = plain.split_at_checked(HEADER_LEN).ok_or_else(|| protocol("half a yamux header"))?;
            let number = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
            let (flags, id, length) = (u16::from_be_bytes([head[2], head[3]]), number(4), number(8));
            if head[0] != 0 {
                return Err(protocol("an unknown yamux version"));
            }
            plain = rest;
            match head[1] {
                DATA => {
                    let (data, rest) = plain.split_at_checked(length as usize).ok_or_else(|| protocol("a yamux frame cut in two"))?;
                    plain = rest;
                    self.receive_stream(flags, id, data, 0)?;
                }
                WINDOW_UPDATE => self.receive_stream(flags, id, &[], length)?,
                PING => self.receive_ping(flags, length)?,
                GO_AWAY => self.shut(io::ErrorKind::ConnectionAborted),
                _ => return Err(protocol("an unknown yamux frame")),
            }
        }
        Ok(())
    }

    fn receive_stream(&mut self, flags: u16, id: u32, data: &[u8], window: u32) -> io::Result<()> {
        if flags & SYN != 0 {
            self.receive_syn(id)?;
        }
        // Frames for a stream that was reset or dropped on this side may still be under way: they are not an error.
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.receive(flags, data, window)?;
        self.count_unread(data.len());
        Ok(())
    }

    fn receive_syn(&mut self, id: u32) -> io::Result<()> {
        let theirs = (id % 2 == 1) != self.client && id != 0;
        if !theirs || self.streams.contains_key(&id) {
            return Err(protocol("a stream number that is taken or not theirs"));
        }
        if self.streams.len() >= MAX_STREAMS {
            // Refusals pile up only as long as the other side does not read them.
            if self.control.len() > 2 * MAX_STREAMS {
                return Err(protocol("more streams than refusals it reads"));
            }
            self.send_control(false, RST, id, 0);
            return Ok(());
        }
        let mut state = StreamState::new();
        state.acknowledge();
        self.streams.insert(id, state);
        self.incoming.push_back(id);
        if let Some(waker) = self.accept_waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn receive_ping(&mut self, flags: u16, value: u32) -> io::Result<()> {
        if flags & SYN != 0 {
            // Unread answers pile up only as long as the other side does not read; 64 of them are no accident.
            if self.control.iter().filter(|h| h[1] == PING).count() >= 64 {
                return Err(protocol("more pings than answers it reads"));
            }
            self.control.push_back(header(PING, ACK, 0, value));
        } else if let Some((_, sent)) = self.ping.take_if(|(expected, _)| *expected == value) {
            self.rtt = Some(sent.elapsed());
        }
        Ok(())
    }
}

/// Lets a fresh session take in the plaintext of a frame; for the fuzz target of that name.
pub(crate) fn take_in_frames(plain: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    runtime.block_on(async {
        let (io, _far) = tokio::io::duplex(64);
        let keys = FrameKeys { to_node: [1; 32].into(), to_client: [2; 32].into() };
        let session = Session::start(Box::new(io), Cover::derive(&CoverKey::from_bytes([3; 32]), &[4; 32]), &keys, false, None);
        let mut shared = session.lock();
        let _ = shared.receive(plain);
        let held: usize = shared.streams.values().map(StreamState::unread).sum();
        assert_eq!(shared.unread, held);
    });
}

/// Owns the connection: writes what is sealed, reads and opens what comes.
struct Driver {
    io: BoxedIo,
    opener: Opener,
    session: Session,
    /// The beginning of a frame whose rest has not come yet.
    partial: Vec<u8>,
    /// Its length, unmasked.
    length: Option<usize>,
    shutting: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + KEEPALIVE, KEEPALIVE);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let result = std::future::poll_fn(|cx| {
            while beat.poll_tick(cx).is_ready() {
                if let Err(error) = self.session.lock().beat() {
                    return Poll::Ready(Err(error));
                }
            }
            self.poll(cx)
        })
        .await;
        let kind = result.err().map_or(io::ErrorKind::ConnectionAborted, |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::ErrorKind::ConnectionReset,
            kind => kind,
        });
        self.session.lock().shut(kind);
        // The socket closes with the driver; a farewell that a dead peer does not take must not hold it.
        let _ = tokio::time::timeout(Duration::from_millis(200), std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx))).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.lock().driver_waker = Some(cx.waker().clone());
        // Reading first: what comes in may queue answers, which the writing below then takes along. The number of
        // rounds is bounded so that the tasks that consume the data get their turn.
        for _ in 0..4 {
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    ready!(self.poll_write(cx))?;
                    return if self.shutting { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
            }
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(error));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.session.lock();
        self.shutting = shared.closed.is_some();
        loop {
            shared.flush_control()?;
            let Shared { out, room_waiters, .. } = &mut *shared;
            if out.start == out.end {
                return Pin::new(&mut self.io).poll_flush(cx);
            }
            let n = match Pin::new(&mut self.io).poll_write(cx, &out.buffer[out.start..out.end]) {
                Poll::Ready(result) => result?,
                // A peer that does not read must not keep a session alive that is over.
                Poll::Pending if self.shutting => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.consumed(n);
            if out.free() >= MIN_ROOM {
                room_waiters.drain(..).for_each(Waker::wake);
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shutting {
            return Poll::Pending;
        }
        {
            let mut shared = self.session.lock();
            shared.resting = shared.has_too_much();
            if shared.resting {
                return Poll::Pending;
            }
        }
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(SCRATCH, 0);
            }
            let kept = self.partial.len();
            let mut buffer = ReadBuf::new(&mut scratch[kept..]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            let n = buffer.filled().len();
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            scratch[..kept].copy_from_slice(&self.partial);
            self.partial = Vec::new();
            self.open_frames(&mut scratch[..kept + n])?;
            Poll::Ready(Ok(()))
        })
    }

    fn open_frames(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        let mut shared = self.session.lock();
        shared.heard = true;
        loop {
            // `length` is known from an earlier read if the frame did not come whole: a mask is used only once.
            if self.length.is_none() && bytes.len() >= LENGTH_LEN {
                self.length = Some(self.opener.length([bytes[0], bytes[1]])?);
            }
            let Some(length) = self.length.filter(|length| bytes.len() >= LENGTH_LEN + length) else {
                self.partial = bytes.to_vec();
                return Ok(());
            };
            let (frame, rest) = bytes.split_at_mut(LENGTH_LEN + length);
            shared.receive(self.opener.open(&mut frame[LENGTH_LEN..])?)?;
            self.length = None;
            bytes = rest;
        }
    }
}

//! One stream of a session: its state inside the engine, and the handle that behaves like a TCP connection.

use super::mux::{ACK, FIN, INITIAL_WINDOW, MAX_WINDOW, RST, Session};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Small pieces are joined up to this size, so that a peer who sends single bytes does not cost a node of memory each.
const JOIN: usize = 4096;
/// Most bytes that are taken before their window is given back.
const MAX_UPDATE: u32 = 2 * 1024 * 1024;

/// A stream as the engine sees it.
pub(crate) struct StreamState {
    received: VecDeque<Vec<u8>>,
    /// Bytes that came and were not credited yet: they are in memory, here or with whoever passes them on.
    unread: usize,
    /// What the other side may still send.
    receive_window: u32,
    /// What `receive_window` is filled up to.
    window_size: u32,
    /// Taken by the application, not yet given back as window.
    credit: u32,
    last_update: Instant,
    /// What we may still send.
    pub(crate) send_window: u32,
    flags: u16,
    sent_fin: bool,
    got_fin: bool,
    reset: bool,
    pub(crate) read_waker: Option<Waker>,
    pub(crate) write_waker: Option<Waker>,
}

impl StreamState {
    pub(crate) fn new() -> Self {
        StreamState {
            received: VecDeque::new(),
            unread: 0,
            receive_window: INITIAL_WINDOW,
            window_size: INITIAL_WINDOW,
            credit: 0,
            last_update: Instant::now(),
            send_window: INITIAL_WINDOW,
            flags: 0,
            sent_fin: false,
            got_fin: false,
            reset: false,
            read_waker: None,
            write_waker: None,
        }
    }

    /// The first frame we send on it acknowledges that it was opened.
    pub(crate) fn acknowledge(&mut self) {
        self.flags |= ACK;
    }

    pub(crate) fn take_flags(&mut self) -> u16 {
        std::mem::take(&mut self.flags)
    }

    pub(crate) fn restore_flags(&mut self, flags: u16) {
        self.flags |= flags;
    }

    pub(crate) fn unread(&self) -> usize {
        self.unread
    }

    /// How far its window has grown beyond the first one.
    pub(crate) fn grown(&self) -> u32 {
        self.window_size - INITIAL_WINDOW
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.reset || (self.sent_fin && self.got_fin)
    }

    pub(crate) fn check_writable(&self) -> io::Result<()> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.sent_fin { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Takes in a frame of the other side.
    pub(crate) fn receive(&mut self, flags: u16, data: &[u8], window: u32) -> io::Result<()> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        if window > 0 {
            self.send_window = self.send_window.checked_add(window).ok_or_else(|| bad("a send window beyond 4 GiB"))?;
            wake(&mut self.write_waker);
        }
        if !data.is_empty() {
            self.receive_window =
                self.receive_window.checked_sub(data.len() as u32).ok_or_else(|| bad("more data than the window allows"))?;
            self.unread += data.len();
            match self.received.back_mut() {
                Some(last) if last.len() + data.len() <= JOIN => last.extend_from_slice(data),
                _ => self.received.push_back(data.to_vec()),
            }
            wake(&mut self.read_waker);
        }
        if flags & FIN != 0 {
            self.got_fin = true;
            wake(&mut self.read_waker);
        }
        if flags & RST != 0 {
            self.reset = true;
            wake(&mut self.read_waker);
            wake(&mut self.write_waker);
        }
        Ok(())
    }

    /// Notes that `n` bytes were taken; returns a window update when one is due: for half a window, but for no more than
    /// 2 MiB, since what is not given back yet is missing on a long line. The window doubles when it is used up at a rate
    /// of one in four round trips or faster: it, not the application, was what limited the stream.
    pub(crate) fn credit(&mut self, n: u32, rtt: Option<Duration>, growth: &mut u64, budget: u64) -> Option<u32> {
        self.unread -= n as usize;
        self.credit += n;
        let due = (self.window_size / 2).min(MAX_UPDATE);
        if self.credit < due || self.got_fin || self.reset {
            return None;
        }
        let quick = rtt.is_some_and(|rtt| self.last_update.elapsed() * (self.window_size / due) < rtt * 4);
        let more = self.window_size.min(MAX_WINDOW - self.window_size);
        let mut update = self.credit;
        if quick && *growth + u64::from(more) <= budget {
            *growth += u64::from(more);
            self.window_size += more;
            update += more;
        }
        self.last_update = Instant::now();
        self.credit = 0;
        self.receive_window += update;
        Some(update)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A stream of a session. Dropping it before both sides have finished resets it.
pub struct Stream {
    session: Session,
    id: u32,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.id)
    }
}

impl Stream {
    pub(crate) fn new(session: Session, id: u32) -> Self {
        Stream { session, id }
    }

    /// The next piece as it came, without copying it again; `None` after the other side has finished.
    /// The other side may send more only after [`Stream::credit`].
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut shared = self.session.lock();
        let closed = shared.check_open();
        let stream = shared.streams.get_mut(&self.id).ok_or(io::ErrorKind::NotConnected)?;
        if let Some(piece) = stream.received.pop_front() {
            return Poll::Ready(Ok(Some(piece)));
        }
        if stream.got_fin {
            return Poll::Ready(Ok(None));
        }
        if stream.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        closed?;
        stream.read_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Tells the other side that `n` bytes taken by [`Stream::poll_piece`] were passed on.
    pub fn credit(&mut self, n: usize) {
        self.session.lock().credit(self.id, n);
    }

    /// Sends what `fill` writes into the frame itself (it may read from a socket): at most `max` bytes. An error of
    /// `fill`, such as `WouldBlock`, is passed on and sends nothing.
    pub fn poll_send_with(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.session.lock().poll_send(cx, self.id, max, fill)
    }

    /// Says that nothing more will be sent; reading goes on.
    pub fn finish(&mut self) {
        let mut shared = self.session.lock();
        if shared.check_open().is_err() {
            return;
        }
        let Some(stream) = shared.streams.get_mut(&self.id) else { return };
        if !stream.sent_fin && !stream.reset {
            stream.sent_fin = true;
            let flags = stream.take_flags();
            shared.send_control(true, flags | FIN, self.id, 0);
        }
    }

    /// Waits until the stream is broken, while nobody writes to it.
    pub async fn broken(&mut self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.session.lock();
            if shared.check_open().is_err() {
                return Poll::Ready(());
            }
            match shared.streams.get_mut(&self.id) {
                Some(stream) if !stream.reset => {
                    stream.write_waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Whether the other side has reset the stream or the session is over.
    pub fn is_broken(&self) -> bool {
        let shared = self.session.lock();
        shared.check_open().is_err() || shared.streams.get(&self.id).is_none_or(|s| s.reset)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.lock().forget(self.id);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(mut piece) = ready!(this.poll_piece(cx))? else { return Poll::Ready(Ok(())) };
        let n = piece.len().min(buf.remaining());
        buf.put_slice(&piece[..n]);
        if n < piece.len() {
            piece.drain(..n);
            let mut shared = this.session.lock();
            if let Some(stream) = shared.streams.get_mut(&this.id) {
                stream.received.push_front(piece);
            }
        }
        this.credit(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send_with(cx, buf.len(), |out| {
            let n = out.len().min(buf.len());
            out[..n].copy_from_slice(&buf[..n]);
            Ok(n)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}

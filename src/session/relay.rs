//! Joins a TCP connection with a stream of a session, both ways, with half-close, metering and no buffers while idle.

use super::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Longest single read; beyond it other streams get their turn.
const CHUNK: usize = 64 * 1024;
/// Chunks that one direction may move before it yields.
const TURNS: usize = 4;

/// What a meter says after counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Go on.
    Go,
    /// Wait so long before moving more in this direction (a rate limit).
    Wait(Duration),
    /// The limit is used up: end the stream.
    Stop,
}

/// Counts what passes and sets the pace. Called once a chunk, not once a packet.
pub trait Meter: Send + Sync {
    /// `n` bytes went from the TCP connection into the stream.
    fn sent(&self, n: usize) -> Pace;
    /// `n` bytes went from the stream to the TCP connection.
    fn received(&self, n: usize) -> Pace;
}

/// Counts nothing and never waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn sent(&self, _n: usize) -> Pace {
        Pace::Go
    }
    fn received(&self, _n: usize) -> Pace {
        Pace::Go
    }
}

/// How many bytes passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the TCP connection into the stream.
    pub from_tcp: u64,
    /// From the stream to the TCP connection.
    pub to_tcp: u64,
}

#[derive(Default)]
struct Direction {
    done: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Direction {
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = &mut self.pause {
            ready!(sleep.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn paced(&mut self, pace: Pace) -> io::Result<()> {
        match pace {
            Pace::Go => Ok(()),
            Pace::Wait(time) => {
                self.pause = Some(Box::pin(tokio::time::sleep(time)));
                Ok(())
            }
            Pace::Stop => Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the grant's limit is used up")),
        }
    }
}

struct Relay<'a, M: ?Sized> {
    tcp: TcpStream,
    stream: Stream,
    meter: &'a M,
    inbound: Direction,
    outbound: Direction,
    /// Judges the stream's first byte, which is not passed on.
    answer: Option<Answer>,
    /// A piece of the stream on its way to TCP, and how much of it went.
    piece: Option<(Vec<u8>, usize)>,
    traffic: Traffic,
}

/// Judges a byte that the other end of a stream says before the rest; an error ends the relay.
pub type Answer = Box<dyn FnOnce(u8) -> io::Result<()> + Send>;

/// Moves bytes both ways until both have finished. The stream's first byte is for `answer`, if there is one. An error on either side ends the other abruptly, so that nobody
/// takes a broken transfer for a complete one.
pub async fn relay<M: Meter + ?Sized>(tcp: TcpStream, stream: Stream, meter: &M, answer: Option<Answer>) -> (Traffic, io::Result<()>) {
    let mut relay = Relay {
        tcp,
        stream,
        meter,
        inbound: Direction::default(),
        outbound: Direction::default(),
        answer,
        piece: None,
        traffic: Traffic::default(),
    };
    let result = match relay.wait_for_debts() {
        Ok(()) => std::future::poll_fn(|cx| relay.poll(cx)).await,
        Err(error) => Err(error),
    };
    if result.is_err() {
        // A reset rather than an orderly end.
        let _ = relay.tcp.set_zero_linger();
    } else {
        // Both sides have all they want: what is left is tidying up, and whoever has just arrived goes first.
        tokio::task::yield_now().await;
        relay.stream.finish();
    }
    (relay.traffic, result)
}

impl<M: Meter + ?Sized> Relay<'_, M> {
    /// What earlier streams took too fast is waited for first, so that a new stream is no way around a rate.
    fn wait_for_debts(&mut self) -> io::Result<()> {
        self.inbound.paced(self.meter.sent(0))?;
        self.outbound.paced(self.meter.received(0))
    }

    /// Takes the answer off the first piece; how much of the piece that was.
    fn judge(&mut self, piece: &[u8]) -> io::Result<usize> {
        match (self.answer.take(), piece.first()) {
            (Some(answer), Some(&byte)) => answer(byte).map(|()| 1),
            (answer, _) => {
                self.answer = answer;
                Ok(0)
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outbound.done
            && let Poll::Ready(result) = self.poll_to_tcp(cx)
        {
            result?;
            self.outbound.done = true;
        }
        if !self.inbound.done
            && let Poll::Ready(result) = self.poll_from_tcp(cx)
        {
            result?;
            self.inbound.done = true;
        }
        if self.inbound.done && self.outbound.done { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_from_tcp(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            ready!(self.inbound.poll_pause(cx));
            ready!(self.tcp.poll_read_ready(cx))?;
            let tcp = &self.tcp;
            match ready!(self.stream.poll_send_with(cx, CHUNK, |frame| tcp.try_read(frame))) {
                Ok(0) => {
                    if !self.outbound.done {
                        self.stream.finish();
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(n) => {
                    self.traffic.from_tcp += n as u64;
                    self.inbound.paced(self.meter.sent(n))?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_to_tcp(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            ready!(self.outbound.poll_pause(cx));
            let (piece, sent) = match self.piece.take() {
                Some(piece) => piece,
                None => match ready!(self.stream.poll_piece(cx))? {
                    Some(piece) => {
                        let judged = self.judge(&piece)?;
                        (piece, judged)
                    }
                    None if self.answer.is_some() => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    None if self.inbound.done => return Poll::Ready(Ok(())),
                    None => return Pin::new(&mut self.tcp).poll_shutdown(cx),
                },
            };
            match self.tcp.try_write(&piece[sent..]) {
                Ok(n) if sent + n == piece.len() => {
                    self.traffic.to_tcp += piece.len() as u64;
                    self.stream.credit(piece.len());
                    self.outbound.paced(self.meter.received(piece.len()))?;
                }
                Ok(n) => self.piece = Some((piece, sent + n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.piece = Some((piece, sent));
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

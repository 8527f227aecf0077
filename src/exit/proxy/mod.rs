//! The local proxy: SOCKS5 (and 4a), HTTP CONNECT and plain HTTP on one loopback port, told apart by their first byte.
//!
//! A request is read and answered here, then its bytes go through [`relay`]. Nothing of the request stays in memory while
//! a connection is open: an idle one costs its task and no buffer.

mod http;
mod socks;
#[cfg(test)]
mod tests;

use crate::error::{Code, Doing, Error, Result};
use crate::session::messages::ExitReply;
use crate::session::{Answer, Stream, Unmetered, relay};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A burst of 2,000 connections must not meet SYN retransmits; the kernel may cut this down.
const BACKLOG: u32 = 4096;
/// Time for a local program to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that travel in the same flight as the request; what a local program sent beyond them follows.
const MAX_EARLY: usize = 16 * 1024;
/// How much of what a refused program goes on sending is read, and for how long, so that it sees the answer, not a reset.
const MAX_DRAIN: u64 = 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a destination was not reached: the code for SOCKS and a sentence for people.
#[derive(Clone, Debug)]
pub struct DialError {
    /// What the node answered, or what comes nearest.
    pub reply: ExitReply,
    /// What a person should read.
    pub sentence: String,
}

/// A stream to a destination.
pub struct Dialed {
    /// The stream.
    pub stream: Stream,
    /// Judges the node's answer, if that is still to come; `None` if it came and was yes.
    pub answer: Option<Answer>,
}

impl std::fmt::Debug for Dialed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialed({:?}, {})", self.stream, if self.answer.is_some() { "to be answered" } else { "open" })
    }
}

/// Opens streams to destinations; names are resolved at the far end.
pub trait Dialer: Send + Sync + 'static {
    /// Opens a stream; `early` travels along with the request. With `sure` the node's answer is waited for in any case.
    fn dial(self: &Arc<Self>, host: &str, port: u16, early: &[u8], sure: bool) -> impl Future<Output = Result<Dialed, DialError>> + Send;
}

/// Reads the head of an HTTP request; for the fuzz target of that name.
pub(crate) fn read_http_head(data: &[u8]) {
    if let Ok(Some(wanted)) = http::parse(data) {
        assert!(!wanted.host.is_empty());
    }
}

/// A listening proxy.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a loopback address; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let listen = || -> io::Result<TcpListener> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            // Accepted connections inherit it.
            socket.set_nodelay(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listener = listen().map_err(|error| {
            let code = if error.kind() == io::ErrorKind::AddrInUse { Code::Precondition } else { Code::Io };
            Error::new(code, format!("cannot listen on {address}"))
                .cause(error)
                .hint("choose another port with --port (0 takes a free one), or end the program that uses this one")
        })?;
        let address = listener.local_addr().doing("listen on", address)?;
        Ok(Proxy { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until dropped.
    pub async fn run<D: Dialer>(self, dialer: Arc<D>) -> io::Error {
        loop {
            match self.listener.accept().await {
                Ok((tcp, _)) => {
                    let dialer = dialer.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve(tcp, dialer).await {
                            tracing::debug!(%error, "a local connection ended");
                        }
                    });
                }
                // Out of descriptors: those that end free some; a busy loop would not.
                Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                    tracing::warn!("too many open files; raise the limit with ulimit -n");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return error,
            }
        }
    }
}

/// What a local program wants.
struct Wanted {
    host: String,
    port: u16,
    /// For the destination: what came along with the request.
    early: Vec<u8>,
    form: Form,
}

/// How it is answered.
enum Form {
    Socks(tor_socksproto::SocksRequest),
    Connect,
    /// The origin itself answers.
    Http,
}

/// What came of reading a request.
enum Asked {
    For(Wanted),
    /// Cannot be done; the program is told so.
    Not(Vec<u8>),
    /// It went away.
    Nothing,
}

impl Form {
    fn granted(&self) -> io::Result<Vec<u8>> {
        match self {
            Form::Socks(request) => socks::reply(request, ExitReply::Open),
            Form::Connect => Ok(b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec()),
            Form::Http => Ok(Vec::new()),
        }
    }

    fn refused(&self, error: &DialError) -> io::Result<Vec<u8>> {
        match self {
            Form::Socks(request) => socks::reply(request, error.reply),
            Form::Connect | Form::Http => Ok(http::answer(http::status(error.reply), &error.sentence)),
        }
    }
}

async fn serve<D: Dialer>(tcp: TcpStream, dialer: Arc<D>) -> io::Result<()> {
    // Boxed, so that the task holds only the relay once this is over.
    match Box::pin(open(tcp, &dialer)).await? {
        Some((tcp, Dialed { stream, answer })) => {
            drop(dialer);
            relay(tcp, stream, &Unmetered, answer).await.1
        }
        None => Ok(()),
    }
}

/// Talks to the local program until a stream is open; `None` if it was told why there is none.
async fn open<D: Dialer>(mut tcp: TcpStream, dialer: &Arc<D>) -> io::Result<Option<(TcpStream, Dialed)>> {
    let asked = tokio::time::timeout(REQUEST_TIMEOUT, ask(&mut tcp)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let wanted = match asked {
        Asked::For(wanted) => wanted,
        Asked::Not(answer) => return refuse(tcp, &answer).await,
        Asked::Nothing => return Ok(None),
    };
    let (early, later) = wanted.early.split_at(wanted.early.len().min(MAX_EARLY));
    // Whoever speaks HTTP has sent the request along and loses no time; a refusal can then be put into words.
    let sure = matches!(wanted.form, Form::Http);
    match dialer.dial(&wanted.host, wanted.port, early, sure).await {
        Ok(mut dialed) => {
            let granted = wanted.form.granted()?;
            tcp.write_all(&granted).await?;
            dialed.stream.write_all(later).await?;
            Ok(Some((tcp, dialed)))
        }
        Err(error) => {
            tracing::info!("{}", error.sentence);
            refuse(tcp, &wanted.form.refused(&error)?).await
        }
    }
}

async fn ask(tcp: &mut TcpStream) -> io::Result<Asked> {
    let mut head = Vec::with_capacity(socks::LIMIT);
    if tcp.read_buf(&mut head).await? == 0 {
        return Ok(Asked::Nothing);
    }
    match head[0] {
        4 | 5 => socks::ask(tcp, head).await,
        _ => http::ask(tcp, head).await,
    }
}

/// Answers and closes, so that the answer arrives: closing with unread bytes would reset the connection.
async fn refuse<T>(mut tcp: TcpStream, answer: &[u8]) -> io::Result<Option<T>> {
    tcp.write_all(answer).await?;
    tcp.shutdown().await?;
    let drain = async { tokio::io::copy(&mut tcp.take(MAX_DRAIN), &mut tokio::io::sink()).await };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
    Ok(None)
}

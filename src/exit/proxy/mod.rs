//! The local proxy: SOCKS5 (and 4a), HTTP CONNECT and plain HTTP on one loopback port, told apart by their first byte.

mod http;
mod socks;
#[cfg(test)]
mod tests;

use crate::error::{Doing, Result};
use crate::session::messages::ExitReply;
use crate::session::{Stream, Unmetered, relay};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A burst of 2,000 connections must not meet SYN retransmits; the kernel may cut this down.
const BACKLOG: u32 = 4096;
/// Time for a local program to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a destination was not reached: the code for SOCKS and a sentence for people.
#[derive(Clone, Debug)]
pub struct DialError {
    /// RFC 1928 §6 code.
    pub reply: ExitReply,
    /// What a person should read.
    pub sentence: String,
}

/// Opens streams to destinations; names are resolved at the far end.
pub trait Dialer: Send + Sync + 'static {
    /// Opens a stream and waits for the node's answer; `early` travels along with the request.
    fn dial(&self, host: &str, port: u16, early: &[u8]) -> impl Future<Output = Result<Stream, DialError>> + Send;
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
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listener = listen().doing("listen on", address)?;
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
                        if let Err(error) = serve(tcp, &*dialer).await {
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

async fn serve<D: Dialer>(tcp: TcpStream, dialer: &D) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let opened = tokio::time::timeout(REQUEST_TIMEOUT, open(tcp, dialer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match opened {
        Some((tcp, stream)) => relay(tcp, stream, &Unmetered).await.1,
        None => Ok(()),
    }
}

/// Talks to the local program until a stream is open; `None` if it was told why there is none. Its buffers are gone
/// when the relay begins: an idle connection holds none.
async fn open<D: Dialer>(mut tcp: TcpStream, dialer: &D) -> io::Result<Option<(TcpStream, Stream)>> {
    let mut head = Vec::with_capacity(1024);
    if tcp.read_buf(&mut head).await? == 0 {
        return Ok(None);
    }
    match head[0] {
        4 | 5 => socks::open(tcp, head, dialer).await,
        _ => http::open(tcp, head, dialer).await,
    }
}

//! What Arti runs on: tokio, with TCP connections that send each cell at once.
//!
//! Arti leaves Nagle's algorithm on. A second small cell then waits until the relay has acknowledged the first, which the relay
//! puts off by up to 40 ms: more than a way through the whole network takes.

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::Empty;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use tor_rtcompat::tls::RustlsProvider;
use tor_rtcompat::{
    CompoundRuntime, NetStreamListener, NetStreamProvider, PreferredRuntime, StreamOps, TcpConnectOptions, TcpListenOptions,
};

/// The runtime of every embedded Arti.
pub(super) type Runtime =
    CompoundRuntime<PreferredRuntime, PreferredRuntime, PreferredRuntime, AtOnce, PreferredRuntime, RustlsProvider, PreferredRuntime>;

/// The tokio runtime that this is called in, for Arti.
pub(super) fn current() -> io::Result<Runtime> {
    let tokio = PreferredRuntime::current()?;
    let tls = RustlsProvider::default();
    Ok(CompoundRuntime::new(tokio.clone(), tokio.clone(), tokio.clone(), AtOnce, tokio.clone(), tls, tokio))
}

/// Makes connections with TCP_NODELAY.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtOnce;

/// Such a connection.
pub(super) struct Connection(Compat<TcpStream>);

/// Clients and onion services have no port of their own.
pub(super) enum NoListener {}

#[async_trait]
impl NetStreamProvider for AtOnce {
    type Stream = Connection;
    type Listener = NoListener;
    type ConnectOptions = TcpConnectOptions;
    type ListenOptions = TcpListenOptions;

    async fn connect(&self, address: &SocketAddr, _: &TcpConnectOptions) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection(stream.compat()))
    }

    async fn listen(&self, _: &SocketAddr, _: &TcpListenOptions) -> io::Result<NoListener> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl NetStreamListener for NoListener {
    type Stream = Connection;
    type Incoming = Empty<io::Result<(Connection, SocketAddr)>>;

    fn incoming(self) -> Self::Incoming {
        match self {}
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match *self {}
    }
}

impl StreamOps for Connection {}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

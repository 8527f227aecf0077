//! Noise handshakes and the multiplexed session, over any stream of bytes.
//!
//! `cover` hides everything from strangers, `handshake` authenticates and makes keys, `frame` encrypts, `mux` carries
//! many streams over one connection in yamux's format, `relay` joins a stream with a TCP connection.

pub mod messages;
pub mod seed;

mod control_client;
mod cover;
mod frame;
mod handshake;
mod mux;
mod relay;
mod replay;
mod resolver;
mod stream;

#[cfg(test)]
mod tests;

pub use control_client::{ControlClient, owner_hello, revoke_passed_on};
pub use cover::CoverKey;
pub(crate) use handshake::read_handshake_payloads;
pub use handshake::{AcceptError, Acceptor, ConnectError, Incoming, Request, STEP_TIMEOUT, bootstrap, connect};
pub use mux::Session;
pub(crate) use mux::take_in_frames;
pub use relay::{Answer, Meter, Pace, Traffic, Unmetered, relay};
pub use replay::ReplayGuard;
pub use stream::Stream;

use crate::token::Limits;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A stream of bytes that a session can run over: TCP, a Tor stream, a pipe in a test.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Any such stream behind one type, so that the engine is compiled once.
pub type BoxedIo = Box<dyn Io>;

/// What a client says in message 1.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The signed grant, as `SignedGrant::encode` wrote it.
    pub grant: Vec<u8>,
    /// The device key that the grant shall be bound to, if this is to accept an invite.
    pub bind: Option<[u8; 32]>,
    /// Version of the program.
    pub version: String,
}

/// What a node says when it admits a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Names the session in both sides' logs.
    pub session_id: [u8; 16],
    /// What remains of the grant's limits.
    pub limits: Limits,
    /// When the session ends at the latest, unix seconds.
    pub expires: u64,
}

/// An encrypted exchange of whole messages after Noise XX; what a bootstrap runs over.
pub struct Pipe {
    /// The other side's static X25519 key.
    pub remote: [u8; 32],
    /// The handshake hash: names this very exchange, so what is signed over it cannot be replayed.
    pub hash: [u8; 32],
    io: BoxedIo,
    cover: cover::Cover,
    state: snow::TransportState,
    client: bool,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").field("remote", &crate::encoding::base64(&self.remote)).finish_non_exhaustive()
    }
}

/// Longest message in a [`Pipe`]: a Noise message without its tag.
pub const MAX_PIPE_MESSAGE: usize = 65_535 - 16;

impl Pipe {
    fn new(io: BoxedIo, cover: cover::Cover, state: snow::HandshakeState, client: bool) -> Option<Self> {
        let hash = state.get_handshake_hash().try_into().ok()?;
        let remote = state.get_remote_static()?.try_into().ok()?;
        Some(Pipe { remote, hash, io, cover, state: state.into_transport_mode().ok()?, client })
    }

    /// Sends one message of at most [`MAX_PIPE_MESSAGE`] bytes.
    pub async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        use chacha20::cipher::StreamCipher;
        let mut out = vec![0; 2 + message.len() + 16];
        let n = self.state.write_message(message, &mut out[2..]).map_err(io::Error::other)?;
        out[..2].copy_from_slice(&u16::try_from(n).map_err(io::Error::other)?.to_be_bytes());
        let mask = if self.client { &mut self.cover.to_node } else { &mut self.cover.to_client };
        mask.apply_keystream(&mut out[..2]);
        let io = &mut self.io;
        timed(async {
            io.write_all(&out[..2 + n]).await?;
            io.flush().await
        })
        .await
    }

    /// Receives one message of at most `limit` bytes.
    pub async fn recv(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        use chacha20::cipher::StreamCipher;
        let mut length = [0; 2];
        timed(self.io.read_exact(&mut length)).await?;
        let mask = if self.client { &mut self.cover.to_client } else { &mut self.cover.to_node };
        mask.apply_keystream(&mut length);
        let length = usize::from(u16::from_be_bytes(length));
        if length > limit + 16 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message longer than allowed"));
        }
        let mut sealed = vec![0; length];
        timed(self.io.read_exact(&mut sealed)).await?;
        let mut message = vec![0; length];
        let n = self.state.read_message(&sealed, &mut message).map_err(io::Error::other)?;
        message.truncate(n);
        Ok(message)
    }

    /// Ends the exchange well.
    pub async fn close(mut self) -> io::Result<()> {
        self.io.shutdown().await
    }
}

/// One step of an exchange, within [`STEP_TIMEOUT`].
async fn timed<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(STEP_TIMEOUT, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Keeps an unanswered connection: reads and throws away until a random 10 to 30 s have passed, then closes.
pub async fn linger(mut stream: BoxedIo) {
    let mut random = [0u8; 2];
    let _ = getrandom::fill(&mut random);
    let time = Duration::from_millis(10_000 + u64::from(u16::from_be_bytes(random)) * 20_000 / 65_536);
    let discard = async {
        let mut scratch = [0u8; 512];
        // An end of file is no reason to answer sooner: a stranger must not learn that it was noticed.
        while stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
        std::future::pending::<()>().await;
    };
    let _ = tokio::time::timeout(time, discard).await;
}

//! SOCKS 5 and 4a (RFC 1928): the wire format is `tor-socksproto`'s.

use super::Dialer;
use crate::session::Stream;
use crate::session::messages::ExitReply;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tor_socksproto::{Buffer, Handshake, NextStep, SocksCmd, SocksProxyHandshake, SocksRequest, SocksStatus};

/// Longest handshake: two messages of SOCKS5 with name and password.
const LIMIT: usize = 1024;

pub(super) async fn open<D: Dialer>(mut tcp: TcpStream, head: Vec<u8>, dialer: &D) -> io::Result<Option<(TcpStream, Stream)>> {
    let (request, early) = handshake(&mut tcp, head).await?;
    if request.command() != SocksCmd::CONNECT {
        tcp.write_all(&reply(&request, SocksStatus::COMMAND_NOT_SUPPORTED)?).await?;
        return Ok(None);
    }
    let host = request.addr().to_string();
    match dialer.dial(&host, request.port(), &early).await {
        Ok(stream) => {
            tcp.write_all(&reply(&request, SocksStatus::SUCCEEDED)?).await?;
            Ok(Some((tcp, stream)))
        }
        Err(error) => {
            tracing::info!("{}", error.sentence);
            tcp.write_all(&reply(&request, status(error.reply))?).await?;
            tcp.shutdown().await?;
            Ok(None)
        }
    }
}

async fn handshake(tcp: &mut TcpStream, head: Vec<u8>) -> io::Result<(SocksRequest, Vec<u8>)> {
    let mut bytes = head;
    let filled = bytes.len();
    bytes.resize(LIMIT.max(filled), 0);
    let mut buffer: Buffer = Buffer::from_parts(bytes.into_boxed_slice(), filled);
    let mut handshake = SocksProxyHandshake::new();
    let bad = |error: tor_socksproto::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    loop {
        match handshake.step(&mut buffer).map_err(bad)? {
            NextStep::Send(data) => tcp.write_all(&data).await?,
            NextStep::Recv(mut step) => {
                let n = tcp.read(step.buf()).await?;
                step.note_received(n).map_err(bad)?;
            }
            NextStep::Finished(done) => return Ok(done.into_output_and_vec()),
        }
    }
}

/// The codes of RFC 1928 §6; those of our own become "general failure".
fn status(reply: ExitReply) -> SocksStatus {
    match reply {
        ExitReply::Open => SocksStatus::SUCCEEDED,
        ExitReply::Failed | ExitReply::LimitReached | ExitReply::Busy => SocksStatus::GENERAL_FAILURE,
        ExitReply::NotAllowed => SocksStatus::NOT_ALLOWED,
        ExitReply::NetworkUnreachable => SocksStatus::NETWORK_UNREACHABLE,
        ExitReply::HostUnreachable => SocksStatus::HOST_UNREACHABLE,
        ExitReply::ConnectionRefused => SocksStatus::CONNECTION_REFUSED,
    }
}

fn reply(request: &SocksRequest, status: SocksStatus) -> io::Result<Vec<u8>> {
    request.reply(status, None).map_err(|error| io::Error::other(error.to_string()))
}

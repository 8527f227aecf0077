//! SOCKS 5 and 4a (RFC 1928): the wire format is `tor-socksproto`'s.

use super::{Asked, Form, Wanted};
use crate::session::messages::ExitReply;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tor_socksproto::{Buffer, Error, Handshake, NextStep, SocksCmd, SocksProxyHandshake, SocksRequest, SocksStatus};

/// Longest handshake: two messages of SOCKS5 with name and password.
pub(super) const LIMIT: usize = 1024;

/// Reads a handshake of which `head` came already.
pub(super) async fn ask(tcp: &mut TcpStream, head: Vec<u8>) -> io::Result<Asked> {
    let version = head[0];
    let (request, early) = match handshake(tcp, head).await? {
        Ok(whole) => whole,
        Err(Error::UnexpectedEof) => return Ok(Asked::Nothing),
        Err(error) => {
            tracing::debug!(%error, "a SOCKS request that cannot be read");
            return Ok(Asked::Not(cannot_read(version, &error)));
        }
    };
    if request.command() != SocksCmd::CONNECT {
        return encoded(&request, SocksStatus::COMMAND_NOT_SUPPORTED).map(Asked::Not);
    }
    Ok(Asked::For(Wanted { host: request.addr().to_string(), port: request.port(), early, form: Form::Socks(request) }))
}

async fn handshake(tcp: &mut TcpStream, mut head: Vec<u8>) -> io::Result<Result<(SocksRequest, Vec<u8>), Error>> {
    let filled = head.len();
    head.resize(LIMIT.max(filled), 0);
    let mut buffer: Buffer = Buffer::from_parts(head.into_boxed_slice(), filled);
    let mut handshake = SocksProxyHandshake::new();
    loop {
        match handshake.step(&mut buffer) {
            Ok(NextStep::Send(data)) => tcp.write_all(&data).await?,
            Ok(NextStep::Recv(mut step)) => {
                let n = tcp.read(step.buf()).await?;
                if let Err(error) = step.note_received(n) {
                    return Ok(Err(error));
                }
            }
            Ok(NextStep::Finished(done)) => return Ok(Ok(done.into_output_and_vec())),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// The answer to what is no request: there is none to build it from (RFC 1928 §6; 0x5b is SOCKS4's only refusal).
fn cannot_read(version: u8, error: &Error) -> Vec<u8> {
    if version == 4 {
        return vec![0, 0x5b, 0, 0, 0, 0, 0, 0];
    }
    let status = if matches!(error, Error::NotImplemented(_)) { SocksStatus::COMMAND_NOT_SUPPORTED } else { SocksStatus::GENERAL_FAILURE };
    vec![5, status.into(), 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The answer for a SOCKS client, which knows only the codes of RFC 1928 §6.
pub(super) fn reply(request: &SocksRequest, reply: ExitReply) -> io::Result<Vec<u8>> {
    encoded(request, SocksStatus::from(reply.socks()))
}

fn encoded(request: &SocksRequest, status: SocksStatus) -> io::Result<Vec<u8>> {
    request.reply(status, None).map_err(|error| io::Error::other(error.to_string()))
}

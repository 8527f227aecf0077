//! HTTP proxying (RFC 9112 §3.2.2, RFC 9110 §9.3.6): CONNECT, and plain requests in absolute form.
//!
//! A plain request is rewritten to origin form with `Connection: close`, so that one connection carries one request and
//! nothing has to be understood of what follows its head.

use super::{DialError, Dialer};
use crate::session::Stream;
use crate::session::messages::ExitReply;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest request head.
const LIMIT: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// Headers that concern the way to the proxy only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 6] = ["connection", "proxy-connection", "proxy-authorization", "keep-alive", "te", "upgrade"];

/// What a request head asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) host: String,
    pub(super) port: u16,
    /// `None` for CONNECT; else the head to send to the origin.
    pub(super) head: Option<Vec<u8>>,
}

pub(super) async fn open<D: Dialer>(mut tcp: TcpStream, mut head: Vec<u8>, dialer: &D) -> io::Result<Option<(TcpStream, Stream)>> {
    let (wanted, length) = loop {
        match parse(&head) {
            Ok(Some(found)) => break found,
            Ok(None) if head.len() < LIMIT => {
                if tcp.read_buf(&mut head).await? == 0 {
                    return Ok(None);
                }
            }
            Ok(None) => return say(tcp, "431 Request Header Fields Too Large", "This request's head is longer than 32 KiB.").await,
            Err(sentence) => return say(tcp, "400 Bad Request", sentence).await,
        }
    };
    let rest = &head[length..];
    let early = wanted.head.as_ref().map_or_else(|| rest.to_vec(), |head| [head, rest].concat());
    // What does not fit into the first flight follows it: a request body may have come along.
    let (first, later) = early.split_at(early.len().min(16 * 1024));
    match dialer.dial(&wanted.host, wanted.port, first).await {
        Ok(mut stream) => {
            if wanted.head.is_none() {
                tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            }
            stream.write_all(later).await?;
            Ok(Some((tcp, stream)))
        }
        Err(error) => say(tcp, status(&error), &error.sentence).await,
    }
}

fn status(error: &DialError) -> &'static str {
    match error.reply {
        ExitReply::NotAllowed | ExitReply::LimitReached => "403 Forbidden",
        ExitReply::Busy => "503 Service Unavailable",
        ExitReply::HostUnreachable => "504 Gateway Timeout",
        _ => "502 Bad Gateway",
    }
}

async fn say<T>(mut tcp: TcpStream, status: &str, sentence: &str) -> io::Result<Option<T>> {
    tracing::info!("{sentence}");
    let length = sentence.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\nProxy-Status: portdistrict\r\n\r\n{sentence}\n"
    );
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await?;
    Ok(None)
}

/// Reads a head; `None` while it is not whole. Returns what it asks for and its length.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Wanted, usize)>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("This port speaks SOCKS5 and HTTP proxying; that was neither."),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else { return Err("A request without a method or target.") };
    if method == "CONNECT" {
        let (host, port) = authority(target, None).ok_or("CONNECT needs host:port.")?;
        return Ok(Some((Wanted { host, port, head: None }, length)));
    }
    let rest = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &target[7..]).ok_or(
        "This is a proxy: ask for http://host/… through it, or use CONNECT. It is set as your browser's proxy, not opened as a page.",
    )?;
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(split);
    let (host, port) =
        authority(place.rsplit('@').next().unwrap_or(place), Some(80)).ok_or("The address in this request cannot be read.")?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\n").into_bytes();
    for header in request.headers.iter().filter(|h| !HOP_BY_HOP.iter().any(|name| h.name.eq_ignore_ascii_case(name))) {
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    Ok(Some((Wanted { host, port, head: Some(head) }, length)))
}

/// Splits `host:port`; brackets around IPv6 are taken off.
fn authority(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        Some(digits) => digits.parse().ok()?,
        None => default?,
    };
    (!host.is_empty() && host.len() <= 255).then(|| (host.to_owned(), port))
}

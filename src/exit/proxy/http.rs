//! HTTP proxying (RFC 9112 §3.2.2, RFC 9110 §9.3.6): CONNECT, and plain requests in absolute form.
//!
//! A plain request is rewritten to origin form with `Connection: close`, so that one connection carries one request and
//! nothing has to be understood of what follows its head.

use super::{Asked, Form, Wanted};
use crate::session::messages::{ExitReply, MAX_HOST};
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest request head.
pub(super) const LIMIT: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// Headers that concern the way to the proxy only (RFC 9110 §7.6.1), and `Host`, which follows from the target.
const NOT_PASSED: [&str; 7] = ["connection", "proxy-connection", "proxy-authorization", "keep-alive", "te", "upgrade", "host"];

/// Reads a request of which `head` came already.
pub(super) async fn ask(tcp: &mut TcpStream, mut head: Vec<u8>) -> io::Result<Asked> {
    loop {
        match parse(&head) {
            Ok(Some(wanted)) => return Ok(Asked::For(wanted)),
            Ok(None) if head.len() < LIMIT => {
                if tcp.read_buf(&mut head).await? == 0 {
                    return Ok(Asked::Nothing);
                }
            }
            Ok(None) => {
                return Ok(Asked::Not(answer("431 Request Header Fields Too Large", "The head of this request is longer than 32 KiB.")));
            }
            Err(sentence) => return Ok(Asked::Not(answer("400 Bad Request", sentence))),
        }
    }
}

/// The status for a destination that was not reached.
pub(super) fn status(reply: ExitReply) -> &'static str {
    match reply {
        ExitReply::NotAllowed | ExitReply::LimitReached => "403 Forbidden",
        ExitReply::Busy => "503 Service Unavailable",
        ExitReply::HostUnreachable => "504 Gateway Timeout",
        ExitReply::Open | ExitReply::Failed | ExitReply::NetworkUnreachable | ExitReply::ConnectionRefused => "502 Bad Gateway",
    }
}

/// An answer by the proxy itself.
pub(super) fn answer(status: &str, sentence: &str) -> Vec<u8> {
    let length = sentence.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Proxy-Status: portdistrict\r\n\r\n{sentence}\n"
    )
    .into_bytes()
}

/// Reads a head and what follows it; `None` while it is not whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Wanted>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let rest = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => &bytes[length..],
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("This port speaks SOCKS5 and HTTP proxying; that was neither."),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else { return Err("A request without a method or target.") };
    if method == "CONNECT" {
        let (host, port) = authority(target, None).ok_or("CONNECT needs host:port.")?;
        return Ok(Some(Wanted { host, port, early: rest.to_vec(), form: Form::Connect }));
    }
    let (place, path) = absolute(target).ok_or(
        "This is a proxy: ask for http://host/… through it, or use CONNECT. Set it as the proxy of a browser; it is no page to open.",
    )?;
    let (host, port) = authority(place, Some(80)).ok_or("The address in this request cannot be read.")?;
    let mut early = origin_head(method, place, path, request.headers);
    early.extend_from_slice(rest);
    Ok(Some(Wanted { host, port, early, form: Form::Http }))
}

/// Splits `http://place/path` into place and path, without user and password.
fn absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case("http://") {
        return None;
    }
    let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Some((place.rsplit('@').next().unwrap_or(place), path))
}

/// The head for the origin. What `Connection` names goes no further either.
fn origin_head(method: &str, place: &str, path: &str, headers: &[httparse::Header<'_>]) -> Vec<u8> {
    let named: Vec<&str> = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("connection"))
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {place}\r\n").into_bytes();
    for header in headers {
        if NOT_PASSED.iter().chain(&named).any(|name| header.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// Splits `host:port`; brackets around IPv6 are taken off.
fn authority(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        // `http://host:/` means the default port (RFC 3986 §3.2.3).
        Some("") | None => default?,
        Some(digits) => digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?,
    };
    (!host.is_empty() && host.len() <= MAX_HOST).then(|| (host.to_owned(), port))
}

//! Checks that bytes really pass: an echo by the node itself, and on request the address that the world sees.

use crate::error::{Code, Error, Result};
use crate::session::Session;
use crate::session::messages::{Kind, first_bytes_empty};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Asked for the outside address unless the user names another; answers with the address in plain text.
pub const IP_CHECK_URL: &str = "https://api.ipify.org";
const ECHO_TIMEOUT: Duration = Duration::from_secs(10);
const IP_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer of an address service.
const MAX_ANSWER: usize = 256;

/// Sends random bytes to the node's echo and returns the time until they were back.
pub async fn echo(session: &Session) -> Result<Duration> {
    let wrong = || Error::new(Code::Protocol, "the exit's echo came back changed").hint("tell its owner; do not use this exit");
    let round = async {
        let mut sent = [0u8; 32];
        getrandom::fill(&mut sent).map_err(std::io::Error::other)?;
        let begun = Instant::now();
        let mut stream = session.open(&[first_bytes_empty(Kind::Echo), sent.to_vec()].concat()).await?;
        let mut got = [0u8; 32];
        stream.read_exact(&mut got).await?;
        let time = begun.elapsed();
        stream.shutdown().await?;
        std::io::Result::Ok((sent == got, time))
    };
    match tokio::time::timeout(ECHO_TIMEOUT, round).await {
        Ok(Ok((true, time))) => Ok(time),
        Ok(Ok((false, _))) => Err(wrong()),
        Ok(Err(error)) => Err(Error::new(Code::Unreachable, "the exit does not pass bytes")
            .cause(error)
            .hint("try again; if it stays so, its owner should look at: portdistrict machine logs")),
        Err(_) => Err(Error::new(Code::TimedOut, "the exit did not pass bytes within 10 s").hint("try again; the way to it may be slow")),
    }
}

/// What the world sees: the address without and with the tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutsideAddresses {
    /// Without the tunnel, if that network could be used.
    pub direct: Option<IpAddr>,
    /// Through the tunnel.
    pub tunnelled: Option<IpAddr>,
}

/// Asks `url` for our address, directly and through the local proxy, at the same time.
pub async fn outside_addresses(url: &str, proxy: SocketAddr) -> Result<OutsideAddresses> {
    // May be installed already; either way it is there afterwards.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let through = reqwest::Proxy::all(format!("socks5h://{proxy}")).map_err(|e| bad_url(url).cause(e))?;
    let client = |proxy: Option<reqwest::Proxy>| {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(IP_TIMEOUT).no_proxy();
        match proxy {
            Some(proxy) => builder.proxy(proxy).build(),
            None => builder.build(),
        }
    };
    let direct = client(None).map_err(|e| bad_url(url).cause(e))?;
    let tunnelled = client(Some(through)).map_err(|e| bad_url(url).cause(e))?;
    let (direct, tunnelled) = tokio::join!(ask(&direct, url), ask(&tunnelled, url));
    Ok(OutsideAddresses { direct: direct.ok(), tunnelled: Some(tunnelled?) })
}

fn bad_url(url: &str) -> Error {
    Error::new(Code::Usage, format!("cannot ask {url} for an address"))
        .hint("name a service that answers with the address alone, as in --ip-check-url https://api.ipify.org")
}

async fn ask(client: &reqwest::Client, url: &str) -> Result<IpAddr> {
    let failed = |e: reqwest::Error| {
        Error::new(Code::Unreachable, format!("{url} did not tell the address"))
            .cause(e)
            .hint("leave out --ip-check, or name another service with --ip-check-url")
    };
    let mut response = client.get(url).send().await.map_err(failed)?.error_for_status().map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(bad_url(url).because("its answer is longer than an address"));
        }
    }
    String::from_utf8_lossy(&body).trim().parse().map_err(|_| bad_url(url).because("its answer is no address"))
}

#[cfg(test)]
mod tests {
    use super::super::proxy::Proxy;
    use super::super::testing::FakeNode;
    use super::super::tunnel::Tunnel;
    use super::*;
    use tokio::net::TcpListener;

    /// A service that answers every request with this body.
    async fn service(body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let _ = tcp.read(&mut head).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn the_address_is_asked_both_ways_and_odd_answers_are_named() {
        let node = FakeNode::start().await;
        let way = node.way();
        let reached = way.reach().await.unwrap();
        let tunnel = Tunnel::keep(way, reached, 1);
        let proxy = Proxy::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = proxy.address();
        tokio::spawn(proxy.run(tunnel));
        let seen = outside_addresses(&service("203.0.113.9\n").await, address).await.unwrap();
        assert_eq!((seen.direct, seen.tunnelled), (Some("203.0.113.9".parse().unwrap()), Some("203.0.113.9".parse().unwrap())));
        assert_eq!(node.desk.lock().unwrap().asked.len(), 1, "once through the exit, once beside it");
        for body in ["<html>no address</html>", "", "203.0.113.9 203.0.113.9"] {
            let error = outside_addresses(&service(body).await, address).await.unwrap_err();
            assert_eq!(error.causes(), ["its answer is no address"], "{body}");
        }
        assert_eq!(outside_addresses("http://2.reply.test/", address).await.unwrap_err().code(), Code::Unreachable);
    }
}

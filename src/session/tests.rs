//! Two ends of a session in one process: what they promise each other, and what strangers see.

use super::handshake::{Entropy, connect_with};
use super::*;
use crate::trust::Refusal;
use std::sync::{Arc, Mutex};
use std::task::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use zeroize::Zeroizing;

const CLIENT: [u8; 32] = [0x11; 32];
const NODE: [u8; 32] = [0x22; 32];
const NOW: u64 = 1_800_000_000;

fn public(secret: [u8; 32]) -> [u8; 32] {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret)).to_bytes()
}

fn hello() -> Hello {
    Hello { grant: b"a grant".to_vec(), bind: Some([9; 32]), version: "0.1.0".to_owned() }
}

fn welcome() -> Welcome {
    Welcome { session_id: [5; 16], limits: Limits { bytes: Some(1000), streams: Some(8), ..Limits::default() }, expires: NOW + 60 }
}

fn fixed(n: u8) -> Entropy {
    Entropy {
        opening: [n; 32],
        ephemeral: Some([n + 1; 32]),
        random: Zeroizing::new([n + 2; 32]),
        kem: Zeroizing::new([n + 3; 64]),
        padding: 40,
    }
}

fn acceptor() -> Acceptor {
    Acceptor::new(&NODE, Some(CoverKey::from_bytes([7; 32])), ReplayGuard::in_memory())
}

/// A client's and a node's session over a pipe in memory.
async fn pair() -> (Session, Session) {
    let (near, far) = tokio::io::duplex(300_000);
    let server = tokio::spawn(async move {
        match acceptor().accept(far, NOW).await {
            Ok(Incoming::Session(request)) => {
                assert_eq!(request.client, public(CLIENT));
                assert_eq!((request.hello.grant.as_slice(), request.hello.bind), (&b"a grant"[..], Some([9; 32])));
                request.welcome(welcome()).await.unwrap()
            }
            _ => panic!("no session"),
        }
    });
    let (session, got) = connect(near, &CLIENT, &public(NODE), hello(), NOW).await.unwrap();
    assert_eq!(got, welcome());
    (session, server.await.unwrap())
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_with_half_close() {
    let (client, node) = pair().await;
    let serve = tokio::spawn(async move {
        let mut stream = node.accept().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        node
    });
    let mut stream = client.open(b"first, ").await.unwrap();
    stream.write_all(b"second").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "FIRST, SECOND");
    drop(stream);
    let node = serve.await.unwrap();
    assert_eq!((client.streams(), node.streams()), (0, 0), "nothing is left of a finished stream");
}

#[tokio::test]
async fn megabytes_pass_on_many_streams_at_once() {
    let (client, node) = pair().await;
    tokio::spawn(async move {
        while let Some(mut stream) = node.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let jobs: Vec<_> = (0..40u32)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let sent: Vec<u8> = (0..1_000_000u32).map(|i| ((i * 31 + n) >> 3) as u8).collect();
                let stream = client.open(&[]).await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                let copy = sent.clone();
                let writer = tokio::spawn(async move {
                    write.write_all(&copy).await.unwrap();
                    write.shutdown().await.unwrap();
                    write
                });
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.unwrap();
                writer.await.unwrap();
                assert!(got == sent);
            })
        })
        .collect();
    for job in jobs {
        job.await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_stream_resets_the_other_side_and_only_it() {
    let (client, node) = pair().await;
    let dropped = client.open(b"x").await.unwrap();
    let mut kept = client.open(b"y").await.unwrap();
    let mut first = node.accept().await.unwrap();
    let mut second = node.accept().await.unwrap();
    drop(dropped);
    let mut buffer = Vec::new();
    assert_eq!(first.read_to_end(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    second.write_all(b"fine").await.unwrap();
    second.shutdown().await.unwrap();
    let mut text = String::new();
    kept.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "fine");
}

#[tokio::test]
async fn closing_ends_streams_and_waiters_with_an_error() {
    let (client, node) = pair().await;
    let mut stream = client.open(b"x").await.unwrap();
    let _served = node.accept().await.unwrap();
    node.close();
    let mut buffer = Vec::new();
    assert!(stream.read_to_end(&mut buffer).await.is_err());
    client.closed().await;
    assert!(client.open(b"").await.is_err() && node.accept().await.is_none());
}

#[tokio::test]
async fn a_reader_who_does_not_read_stops_the_writer_at_the_window() {
    let (client, node) = pair().await;
    let mut stream = client.open(&[]).await.unwrap();
    let mut slow = node.accept().await.unwrap();
    let mut sent = 0usize;
    let block = vec![1u8; 10_000];
    while let Ok(n) = tokio::time::timeout(std::time::Duration::from_millis(200), stream.write(&block)).await {
        sent += n.unwrap();
    }
    assert_eq!(sent, mux_window());
    let mut got = vec![0; 200_000];
    slow.read_exact(&mut got).await.unwrap();
    stream.write_all(&block).await.unwrap();
}

fn mux_window() -> usize {
    super::mux::INITIAL_WINDOW as usize
}

#[tokio::test]
async fn refusals_arrive_with_code_and_text() {
    let (near, far) = tokio::io::duplex(10_000);
    tokio::spawn(async move {
        let Ok(Incoming::Session(request)) = acceptor().accept(far, NOW).await else { panic!("no request") };
        request.refuse(Refusal::GrantExpired, "expired on Monday").await.unwrap();
    });
    match connect(near, &CLIENT, &public(NODE), hello(), NOW).await {
        Err(ConnectError::Refused { code, text }) => assert_eq!((code, text.as_str()), (Refusal::GrantExpired, "expired on Monday")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_clock_an_hour_off_passes_and_three_hours_is_met_with_silence() {
    for (off, fine) in [(3600u64, true), (3 * 3600, false)] {
        let (near, far) = tokio::io::duplex(10_000);
        let client = tokio::spawn(async move { connect(near, &CLIENT, &public(NODE), hello(), NOW + off).await.map(drop) });
        match acceptor().accept(far, NOW).await {
            Ok(Incoming::Session(request)) if fine => drop(request.welcome(welcome()).await.unwrap()),
            Err((AcceptError::Clock, _)) if !fine => continue,
            _ => panic!("{off} s"),
        }
        client.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_bootstrap_pipe_carries_messages_and_names_the_exchange() {
    let (near, far) = tokio::io::duplex(10_000);
    let node = tokio::spawn(async move {
        let Ok(Incoming::Bootstrap(mut pipe)) = acceptor().accept(far, NOW).await else { panic!("no pipe") };
        let message = pipe.recv(100).await.unwrap();
        pipe.send(&[message, b"!".to_vec()].concat()).await.unwrap();
        assert!(pipe.recv(10).await.is_err(), "a message over the limit is refused");
        pipe
    });
    let mut pipe = bootstrap(near, &CoverKey::from_bytes([7; 32]), &CLIENT).await.unwrap();
    pipe.send(b"hello").await.unwrap();
    assert_eq!(pipe.recv(100).await.unwrap(), b"hello!");
    pipe.send(&[0; 50]).await.unwrap();
    let theirs = node.await.unwrap();
    assert_eq!((pipe.remote, theirs.remote, pipe.hash), (public(NODE), public(CLIENT), theirs.hash));
}

/// Records what one side writes.
struct Tap(DuplexStream, Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Tap {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
impl AsyncWrite for Tap {
    fn poll_write(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> std::task::Poll<io::Result<usize>> {
        let result = std::pin::Pin::new(&mut self.0).poll_write(cx, buf);
        if let std::task::Poll::Ready(Ok(n)) = &result {
            self.1.lock().unwrap().extend_from_slice(&buf[..*n]);
        }
        result
    }
    fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A whole session with fixed keys and randomness: what the client and the node put on the wire.
async fn transcript() -> (Vec<u8>, Vec<u8>) {
    let (near, far) = tokio::io::duplex(300_000);
    let (up, down) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (near, far) = (Tap(near, up.clone()), Tap(far, down.clone()));
    let node = tokio::spawn(async move {
        let Ok(Incoming::Session(request)) = acceptor().accept_with(Box::new(far), NOW, || Ok(fixed(0x40))).await else {
            panic!("no request")
        };
        let session = request.welcome(welcome()).await.unwrap();
        let mut stream = session.accept().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        stream.shutdown().await.unwrap();
        session
    });
    let (session, _) = connect_with(Box::new(near), &CLIENT, &public(NODE), hello(), NOW, fixed(0x30)).await.unwrap();
    let mut stream = session.open(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "pong");
    let _node = node.await.unwrap();
    let (up, down) = (up.lock().unwrap().clone(), down.lock().unwrap().clone());
    (up, down)
}

/// The vector of `docs/protocol.md`: another implementation with these keys must write these bytes.
#[tokio::test]
async fn the_transcript_with_fixed_keys_is_the_documented_one() {
    let (up, down) = transcript().await;
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors/session.json")).unwrap();
    assert_eq!(crate::encoding::hex(&up), vectors["client_to_node"].as_str().unwrap());
    assert_eq!(crate::encoding::hex(&down), vectors["node_to_client"].as_str().unwrap());
}

#[tokio::test]
async fn recordings_garbage_and_flipped_bits_are_met_with_silence() {
    let (up, _) = transcript().await;
    let opening = up[..2600.min(up.len())].to_vec();
    let node = acceptor();
    let probe = async |bytes: Vec<u8>| {
        let (mut near, far) = tokio::io::duplex(20_000);
        near.write_all(&bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let error = match node.accept(far, NOW).await {
            Ok(_) => return None,
            Err((error, _io)) => error,
        };
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty(), "{error}: the node said something");
        Some(error)
    };
    assert!(probe(opening.clone()).await.is_none(), "the recording itself is good, once");
    assert!(matches!(probe(opening.clone()).await, Some(AcceptError::Replay)));
    for position in (0..1500).step_by(37) {
        let mut flipped = opening.clone();
        flipped[position] ^= 0x10;
        assert!(probe(flipped).await.is_some(), "byte {position}");
    }
    assert!(matches!(probe(vec![0x16; 5000]).await, Some(AcceptError::Garbage | AcceptError::Io(_))));
    assert!(matches!(probe(b"GET / HTTP/1.1\r\n\r\n".to_vec()).await, Some(AcceptError::Io(_))));
}

/// Between encrypted frames and the stock yamux: joins or cuts nothing, but keeps each yamux frame whole.
mod interop {
    use super::*;
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    /// Runs the crate behind a plain pipe and carries its frames through our frame layer by hand.
    async fn carry(mut plain: DuplexStream, mut io: DuplexStream, keys: (super::super::frame::Sealer, super::super::frame::Opener)) {
        let (mut sealer, mut opener) = keys;
        let (mut plain_read, mut plain_write) = tokio::io::split(&mut plain);
        let (mut io_read, mut io_write) = tokio::io::split(&mut io);
        let out = async {
            loop {
                let mut head = [0u8; 12];
                plain_read.read_exact(&mut head).await?;
                let length = if head[1] == 0 { u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize } else { 0 };
                let mut frame = vec![0; 2 + 12 + length + 16];
                frame[2..14].copy_from_slice(&head);
                plain_read.read_exact(&mut frame[14..14 + length]).await?;
                sealer.seal(&mut frame)?;
                io_write.write_all(&frame).await?;
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            io::Result::Ok(())
        };
        let back = async {
            loop {
                let mut head = [0u8; 2];
                io_read.read_exact(&mut head).await?;
                let mut body = vec![0; opener.length(head)?];
                io_read.read_exact(&mut body).await?;
                plain_write.write_all(opener.open(&mut body)?).await?;
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            io::Result::Ok(())
        };
        let _ = tokio::join!(out, back);
    }

    #[tokio::test]
    async fn streams_interoperate_with_the_stock_yamux() {
        use super::super::frame::{FrameKeys, Opener, Sealer};
        let keys = FrameKeys { to_node: Zeroizing::new([1; 32]), to_client: Zeroizing::new([2; 32]) };
        let cover = |n| cover::open_flight(&CoverKey::from_bytes([3; 32]), cover::Kind::Session, b"", [n; 32], 0).1;
        let (near, far) = tokio::io::duplex(100_000);
        let (plain, stock) = tokio::io::duplex(100_000);
        let theirs = cover(4);
        tokio::spawn(carry(
            plain,
            far,
            (Sealer::new(&keys.to_client, theirs.to_client).unwrap(), Opener::new(&keys.to_node, theirs.to_node).unwrap()),
        ));
        let mut stock = yamux::Connection::new(stock.compat(), yamux::Config::default(), yamux::Mode::Server);
        tokio::spawn(async move {
            while let Some(Ok(mut stream)) = std::future::poll_fn(|cx| stock.poll_next_inbound(cx)).await {
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    stream.write_all(&all).await.unwrap();
                    stream.close().await.unwrap();
                });
            }
        });
        let session = Session::start(Box::new(near), cover(4), &keys, true, None);
        let jobs: Vec<_> = (0..10usize)
            .map(|n| {
                let session = session.clone();
                tokio::spawn(async move {
                    let sent = vec![n as u8; 100_000 * n];
                    let stream = session.open(&[]).await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                    let mut got = Vec::new();
                    read.read_to_end(&mut got).await.unwrap();
                    assert!(got == sent, "{n}");
                })
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
    }
}

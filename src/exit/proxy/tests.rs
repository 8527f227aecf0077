//! What local programs may say to the proxy, and what they hear.

use super::http::parse;
use super::*;
use crate::exit::testing::{FakeNode, origin};
use crate::exit::tunnel::Tunnel;

fn wanted(text: &str) -> Result<Option<(String, u16, String)>, &'static str> {
    parse(text.as_bytes()).map(|found| found.map(|w| (w.host, w.port, String::from_utf8(w.early).unwrap())))
}

#[test]
fn connect_names_host_and_port() {
    let connect = |host: &str, port, early: &str| Ok(Some((host.to_owned(), port, early.to_owned())));
    assert_eq!(wanted("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\nearly"), connect("example.org", 443, "early"));
    assert_eq!(wanted("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n\r\n"), connect("2001:db8::1", 8443, ""));
    for bad in ["example.org", ":443", "a:99999", "a:+1", "a:", "[::1]443", "[::1"] {
        assert!(wanted(&format!("CONNECT {bad} HTTP/1.1\r\n\r\n")).is_err(), "{bad}");
    }
}

#[test]
fn plain_requests_are_rewritten_for_the_origin() {
    let found = wanted(
        "POST http://me:pw@Example/a?b HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\n\
         Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nAccept: */*\r\n\r\nbody",
    );
    let early = "POST /a?b HTTP/1.1\r\nHost: Example\r\nAccept: */*\r\nConnection: close\r\n\r\nbody";
    assert_eq!(found, Ok(Some(("Example".to_owned(), 80, early.to_owned()))));
    let found = wanted("GET HTTP://[::1]:8080 HTTP/1.0\r\n\r\n").unwrap().unwrap();
    assert_eq!(found, ("::1".to_owned(), 8080, "GET / HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n".to_owned()));
    assert_eq!(wanted("GET http://a:?q HTTP/1.1\r\n\r\n").unwrap().unwrap().1, 80);
}

#[test]
fn half_a_head_waits_and_other_talk_is_refused_in_words() {
    assert_eq!(wanted("GET http://exam"), Ok(None));
    assert!(wanted("GET / HTTP/1.1\r\nHost: me\r\n\r\n").unwrap_err().contains("proxy"));
    for bad in ["\x16\x03\x01\x02", "GET https://example/ HTTP/1.1\r\n\r\n", "GET http:// HTTP/1.1\r\n\r\n", "GET é HTTP/1.1\r\n\r\n"] {
        assert!(wanted(bad).is_err(), "{bad}");
    }
}

async fn served() -> (FakeNode, SocketAddr, Arc<Tunnel>) {
    let node = FakeNode::start().await;
    let way = node.way();
    let reached = way.reach().await.unwrap();
    let tunnel = Tunnel::keep(way, reached, 1);
    let proxy = Proxy::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = proxy.address();
    tokio::spawn(proxy.run(tunnel.clone()));
    (node, address, tunnel)
}

/// Sends all at once, says that nothing follows, and reads to the end.
async fn talk(proxy: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(proxy).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    answer
}

fn socks5(command: u8, host: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, command, 0, 3, host.len() as u8];
    bytes.extend_from_slice(host.as_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

#[tokio::test]
async fn socks5_passes_names_unresolved_and_bytes_both_ways() {
    let (node, proxy, _tunnel) = served().await;
    let origin = origin().await;
    let mut bytes = socks5(1, "some.name.invalid", origin.port());
    bytes.extend_from_slice(b"hello");
    let answer = talk(proxy, &bytes).await;
    assert_eq!(answer[..5], [5, 0, 5, 0, 0]);
    assert!(answer.ends_with(b"HELLO"));
    assert_eq!(node.desk.lock().unwrap().asked, [("some.name.invalid".to_owned(), origin.port())]);
}

#[tokio::test]
async fn socks5_takes_addresses_of_both_kinds_and_socks4a_names() {
    let (node, proxy, _tunnel) = served().await;
    let mut six = vec![5, 1, 0, 5, 1, 0, 4];
    six.extend_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    six.extend_from_slice(&[0, 9]);
    talk(proxy, &six).await;
    talk(proxy, &[5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 7, 0, 9]).await;
    let answer = talk(proxy, b"\x04\x01\x00\x09\x00\x00\x00\x01me\x002.reply.test\x00").await;
    assert_eq!(answer[..2], [0, 0x5b]);
    let asked: Vec<_> = node.desk.lock().unwrap().asked.iter().map(|(host, _)| host.clone()).collect();
    assert_eq!(asked, ["2001:db8::7", "192.0.2.7", "2.reply.test"]);
}

#[tokio::test]
async fn each_answer_of_the_node_has_its_socks_code() {
    let (_node, proxy, _tunnel) = served().await;
    for (reply, code) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (0xf0, 2), (0xf1, 1), (0x77, 1)] {
        let answer = talk(proxy, &socks5(1, &format!("{reply}.reply.test"), 80)).await;
        assert_eq!(answer[..4], [5, 0, 5, code], "{reply}");
    }
}

#[tokio::test]
async fn commands_other_than_connect_are_answered_with_seven() {
    let (_node, proxy, _tunnel) = served().await;
    for command in [2, 3, 0xf0, 0x77] {
        assert_eq!(talk(proxy, &socks5(command, "example.org", 80)).await[..4], [5, 0, 5, 7], "{command}");
    }
    let bad_address = talk(proxy, &[5, 1, 0, 5, 1, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]).await;
    assert_eq!(bad_address[..4], [5, 0, 5, 1]);
    assert!(talk(proxy, &[5, 1]).await.is_empty());
}

#[tokio::test]
async fn http_requests_are_served_on_the_same_port() {
    let (node, proxy, _tunnel) = served().await;
    let origin = origin().await;
    let plain = talk(proxy, format!("GET http://a.invalid:{}/x HTTP/1.1\r\n\r\n", origin.port()).as_bytes()).await;
    let echoed = format!("GET /x http/1.1\r\nhost: a.invalid:{}\r\nconnection: close\r\n\r\n", origin.port()).to_ascii_uppercase();
    assert_eq!(String::from_utf8(plain).unwrap(), echoed);
    let tunnelled = talk(proxy, format!("CONNECT b.invalid:{} HTTP/1.1\r\n\r\nhi", origin.port()).as_bytes()).await;
    assert_eq!(tunnelled, b"HTTP/1.1 200 Connection established\r\n\r\nHI");
    assert_eq!(node.desk.lock().unwrap().asked[1].0, "b.invalid");
}

#[tokio::test]
async fn a_body_longer_than_the_first_flight_arrives_whole() {
    let (_node, proxy, _tunnel) = served().await;
    let origin = origin().await;
    let body = "x".repeat(31_000);
    let request = format!("POST http://a.invalid:{}/ HTTP/1.1\r\nContent-Length: 31000\r\n\r\n{body}", origin.port());
    let answer = String::from_utf8(talk(proxy, request.as_bytes()).await).unwrap();
    assert!(answer.ends_with(&body.to_ascii_uppercase()), "{}", answer.len());
}

#[tokio::test]
async fn a_refusal_over_http_is_a_sentence_even_while_a_body_is_sent() {
    let (_node, proxy, _tunnel) = served().await;
    for (reply, status) in [(2, "403"), (4, "504"), (5, "502"), (0xf0, "403"), (0xf1, "503")] {
        let request = format!("POST http://{reply}.reply.test/ HTTP/1.1\r\n\r\n{}", "x".repeat(300_000));
        let answer = String::from_utf8(talk(proxy, request.as_bytes()).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("xit `home`"), "{answer}");
    }
    let long = talk(proxy, format!("GET http://a/ HTTP/1.1\r\nX: {}", "y".repeat(40_000)).as_bytes()).await;
    assert!(long.starts_with(b"HTTP/1.1 431 "));
    assert!(talk(proxy, b"\x16\x03\x01\x00\x01").await.starts_with(b"HTTP/1.1 400 "));
}

#[tokio::test]
async fn eighty_requests_cost_one_handshake() {
    let (node, proxy, _tunnel) = served().await;
    let origin = origin().await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..80 {
        all.spawn(async move { talk(proxy, &[socks5(1, "a.invalid", origin.port()), b"page".to_vec()].concat()).await });
    }
    for answer in all.join_all().await {
        assert!(answer.ends_with(b"PAGE"));
    }
    assert_eq!(node.desk.lock().unwrap().sessions.len(), 1);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let first = Proxy::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Proxy::bind(first.address()).unwrap_err();
    assert!(error.message().contains(&first.address().to_string()), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("port")));
}

/// What stays in memory for an open connection besides its socket.
#[tokio::test]
async fn an_idle_connection_is_small() {
    let (_node, proxy, tunnel) = served().await;
    let tcp = TcpStream::connect(proxy).await.unwrap();
    let size = size_of_val(&serve(tcp, tunnel));
    assert!(size < 1024, "the task of a connection takes {size} bytes");
}

#[tokio::test]
async fn a_destination_reached_just_now_is_answered_at_once_and_reset_if_it_has_gone() {
    let (_node, proxy, _tunnel) = served().await;
    let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = origin.local_addr().unwrap().port();
    let greeting = [&socks5(1, "a.invalid", port)[..], b"hello"].concat();
    // The first connection hears from the node, the second is taken for as good; both carry bytes both ways.
    for _ in 0..2 {
        let serve = async {
            let (mut tcp, _) = origin.accept().await.unwrap();
            let mut heard = [0; 5];
            tcp.read_exact(&mut heard).await.unwrap();
            tcp.write_all(&heard.to_ascii_uppercase()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(talk(proxy, &greeting), serve);
        assert!(answer.starts_with(&[5, 0, 5, 0]) && answer.ends_with(b"HELLO"), "{answer:?}");
    }
    drop(origin);
    // Now it is gone: what was promised is broken off, never ended as if it were complete.
    let mut tcp = TcpStream::connect(proxy).await.unwrap();
    tcp.write_all(&greeting).await.unwrap();
    let mut answer = Vec::new();
    let ended = tcp.read_to_end(&mut answer).await;
    assert!(answer.starts_with(&[5, 0, 5, 0]) && answer.len() == 12, "{answer:?}");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // And from then on the truth is told again.
    assert_eq!(talk(proxy, &greeting).await[..4], [5, 0, 5, 5]);
    // Over HTTP nothing is gained by haste, and a refusal is a sentence in any case.
    let answer = talk(proxy, format!("GET http://a.invalid:{port}/ HTTP/1.1\r\n\r\n").as_bytes()).await;
    assert!(String::from_utf8_lossy(&answer).contains("Nothing listens on a.invalid"), "{answer:?}");
}

//! Against a server that does what a table says.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Then {
    Say(&'static str),
    HangUp,
}

/// Does these things, one for each request; returns what was asked.
fn server(script: Vec<Then>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let serve = |then: Then| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                let mut bytes = [0; 1024];
                let n = stream.read(&mut bytes).unwrap();
                request.extend_from_slice(&bytes[..n]);
            }
            if let Then::Say(answer) = then {
                write!(stream, "HTTP/1.1 {answer}").unwrap();
            }
            String::from_utf8_lossy(&request).into_owned()
        };
        script.into_iter().map(serve).collect()
    });
    (base, thread)
}

const GOOD: Then = Then::Say("200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
const BUSY: Then = Then::Say("503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
const MANY: Then = Then::Say("429 Too Many\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
const NO: Then = Then::Say("403 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");

fn client(base: &str) -> Client {
    let settings = HttpSettings { timeout: Duration::from_secs(5), attempts: 3, pause: Duration::from_millis(1) };
    Client::new(base, &settings).unwrap()
}

/// The status or the code, and how many requests the server saw.
async fn outcome(script: Vec<Then>, request: impl Fn(&str) -> Request) -> (std::result::Result<u16, Code>, usize) {
    let (base, thread) = server(script);
    let done = client(&base).call(&request(&base)).await;
    (done.map(|answer| answer.status).map_err(|error| error.code()), thread.join().unwrap().len())
}

#[tokio::test]
async fn what_may_be_said_twice_is_said_again_and_nothing_else() {
    use Then::HangUp;
    let get = |base: &str| Request::get(base);
    let post = |base: &str| Request::post(base).bytes("{}");
    let with_id = |base: &str| Request::post(base).bytes("{}").repeatable(true);
    assert_eq!(outcome(vec![BUSY, HangUp, GOOD], get).await, (Ok(200), 3));
    assert_eq!(outcome(vec![BUSY, BUSY, BUSY], get).await, (Ok(503), 3));
    assert_eq!(outcome(vec![HangUp, HangUp, HangUp], get).await, (Err(Code::Unreachable), 3));
    assert_eq!(outcome(vec![NO], get).await, (Ok(403), 1));
    assert_eq!(outcome(vec![BUSY], post).await, (Ok(503), 1));
    assert_eq!(outcome(vec![HangUp], post).await, (Err(Code::Unreachable), 1));
    assert_eq!(outcome(vec![MANY, MANY, GOOD], post).await, (Ok(200), 3));
    assert_eq!(outcome(vec![BUSY, HangUp, GOOD], with_id).await, (Ok(200), 3));
}

#[tokio::test]
async fn nobody_there_is_said_with_the_place_and_without_the_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/upload?secret=hidden", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&base).call(&Request::post(&base).token("hidden".to_owned().into())).await.unwrap_err();
    let words = format!("{} {:?} {error:?}", error.message(), error.causes());
    assert!(words.contains("POST 127.0.0.1/upload") && !words.contains("hidden"), "{words}");
}

#[tokio::test]
async fn a_token_is_sent_and_an_answer_bounded() {
    let (base, thread) = server(vec![GOOD, GOOD]);
    let request = Request::get(&base).token("t0ken".to_owned().into());
    assert!(!format!("{request:?}").contains("t0ken"));
    client(&base).call(&request).await.unwrap();
    assert_eq!(client(&base).call(&request.limit(1)).await.unwrap_err().code(), Code::Protocol);
    assert!(thread.join().unwrap()[0].to_lowercase().contains("authorization: bearer t0ken"));
}

#[tokio::test]
async fn silence_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let settings = HttpSettings { timeout: Duration::from_millis(50), attempts: 2, pause: Duration::from_millis(1) };
    let error = Client::new(&base, &settings).unwrap().call(&Request::get(&base)).await.unwrap_err();
    assert_eq!(error.code(), Code::TimedOut);
}

#[test]
fn plain_http_stays_on_this_computer() {
    for good in ["https://example.org", "http://127.0.0.1:1", "http://[::1]/x", "http://localhost/"] {
        assert!(parse(good).is_ok(), "{good}");
    }
    for bad in ["http://example.org", "http://10.0.0.1", "ftp://127.0.0.1", "example.org", "", "http://localhost.example.org"] {
        let error = parse(bad).unwrap_err();
        assert!(error.code() == Code::Usage && error.hint_text().is_some(), "{bad}");
    }
}

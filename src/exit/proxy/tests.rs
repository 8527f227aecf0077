//! What local programs may say to the proxy.

use super::http::{Wanted, parse};

fn wanted(text: &str) -> Result<Option<Wanted>, &'static str> {
    parse(text.as_bytes()).map(|found| {
        found.map(|(wanted, length)| {
            assert_eq!(length, text.len());
            wanted
        })
    })
}

#[test]
fn connect_names_host_and_port() {
    let connect = |host: &str, port| Ok(Some(Wanted { host: host.to_owned(), port, head: None }));
    assert_eq!(wanted("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n"), connect("example.org", 443));
    assert_eq!(wanted("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n\r\n"), connect("2001:db8::1", 8443));
    for bad in ["CONNECT example.org HTTP/1.1\r\n\r\n", "CONNECT :443 HTTP/1.1\r\n\r\n", "CONNECT a:99999 HTTP/1.1\r\n\r\n"] {
        assert!(wanted(bad).is_err(), "{bad}");
    }
}

#[test]
fn plain_requests_are_rewritten_for_the_origin() {
    let found = wanted(
        "GET http://example/a?b HTTP/1.1\r\nHost: example\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nAccept: */*\r\n\r\n",
    );
    let head = "GET /a?b HTTP/1.1\r\nHost: example\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    assert_eq!(found, Ok(Some(Wanted { host: "example".to_owned(), port: 80, head: Some(head.into()) })));
    let found = wanted("GET http://[::1]:8080 HTTP/1.1\r\n\r\n");
    assert_eq!(
        found,
        Ok(Some(Wanted { host: "::1".to_owned(), port: 8080, head: Some("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".into()) }))
    );
}

#[test]
fn half_a_head_waits_and_other_talk_is_refused_in_words() {
    assert_eq!(wanted("GET http://exam"), Ok(None));
    assert!(wanted("GET / HTTP/1.1\r\nHost: me\r\n\r\n").unwrap_err().contains("proxy"));
    assert!(wanted("\x16\x03\x01\x02").is_err());
    assert!(wanted("GET https://example/ HTTP/1.1\r\n\r\n").is_err());
}

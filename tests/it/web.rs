//! A small web server, on loopback unless told otherwise: a greeting, a large file, and a page that never ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

pub(crate) const GREETING: &str = "hello from behind the exit\n";
pub(crate) const BIG: usize = 40_000_000;

/// A server that lives as long as the test process.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
}

impl Web {
    pub(crate) fn start() -> Web {
        Web::start_at("127.0.0.1")
    }

    /// At another address of this computer.
    pub(crate) fn start_at(ip: &str) -> Web {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                thread::spawn(move || serve(connection));
            }
        });
        Web { address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn serve(mut connection: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let path = first.split(' ').nth(1)?.to_owned();
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    match path.as_str() {
        "/big" => {
            connection.write_all(head(BIG).as_bytes()).ok()?;
            connection.write_all(&vec![7; BIG]).ok()
        }
        "/endless" => {
            connection.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            loop {
                connection.write_all(b"tick\n").ok()?;
                thread::sleep(Duration::from_millis(20));
            }
        }
        _ => connection.write_all(format!("{}{GREETING}", head(GREETING.len())).as_bytes()).ok(),
    }
}

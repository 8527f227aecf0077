//! The load of `ci/bench`: fetches over HTTP/1.1 through a SOCKS5 proxy and says how long it took, as one line of JSON.
//!
//! Sequential work uses blocking sockets and parallel work one thread of tokio, so that the load itself costs little of the
//! two processors that it shares with what it measures.
#![expect(clippy::print_stdout, reason = "the line of JSON is what this program is for")]

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No answer within this is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// GETs of one small resource, each through a connection of its own
    Get {
        #[command(flatten)]
        way: Way,
        /// How many
        #[arg(long)]
        count: usize,
        /// How many at a time; 1 measures each
        #[arg(long, default_value_t = 1)]
        parallel: usize,
    },
    /// One large resource, several times over one connection
    Bulk {
        #[command(flatten)]
        way: Way,
        #[arg(long, default_value_t = 1)]
        repeat: u32,
        /// Seconds that the `steady` rate leaves out
        #[arg(long, default_value_t = 0.0)]
        skip: f64,
        /// Stop after this many seconds
        #[arg(long, default_value_t = 600.0)]
        seconds: f64,
    },
    /// Connections that are open and silent until stdin ends
    Hold {
        #[command(flatten)]
        way: Way,
        #[arg(long)]
        count: usize,
    },
    /// When the first byte of an answer came, in nanoseconds since 1970; through the proxy in ALL_PROXY, if any
    First {
        #[command(flatten)]
        way: Way,
        /// Speak HTTP to the proxy instead of SOCKS5
        #[arg(long)]
        http: bool,
    },
    /// A port that takes whatever comes and says nothing, until it is killed
    Sink {
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// From where to what.
#[derive(Args, Clone)]
struct Way {
    /// SOCKS5 proxy; without one the target is asked directly
    #[arg(long)]
    proxy: Option<SocketAddr>,
    #[arg(long)]
    target: SocketAddrV4,
    #[arg(long, default_value = "/")]
    path: String,
}

impl Way {
    fn first_hop(&self) -> SocketAddr {
        self.proxy.unwrap_or(SocketAddr::V4(self.target))
    }

    /// RFC 1928 §4: CONNECT to an IPv4 address.
    fn connect_request(&self) -> [u8; 10] {
        let [a, b, c, d] = self.target.ip().octets();
        let [high, low] = self.target.port().to_be_bytes();
        [5, 1, 0, 1, a, b, c, d, high, low]
    }

    fn get(&self, connection: &str) -> String {
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", self.path, self.target)
    }

    fn open(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.first_hop())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if self.proxy.is_some() {
            let mut answer = [0; 10];
            stream.write_all(&[5, 1, 0])?;
            stream.read_exact(&mut answer[..2])?;
            stream.write_all(&self.connect_request())?;
            stream.read_exact(&mut answer)?;
            granted(answer[1])?;
        }
        Ok(stream)
    }

    async fn open_async(&self) -> io::Result<tokio::net::TcpStream> {
        let mut stream = tokio::net::TcpStream::connect(self.first_hop()).await?;
        stream.set_nodelay(true)?;
        if self.proxy.is_some() {
            let mut answer = [0; 10];
            stream.write_all(&[5, 1, 0]).await?;
            stream.read_exact(&mut answer[..2]).await?;
            stream.write_all(&self.connect_request()).await?;
            stream.read_exact(&mut answer).await?;
            granted(answer[1])?;
        }
        Ok(stream)
    }
}

fn granted(reply: u8) -> io::Result<()> {
    if reply == 0 { Ok(()) } else { Err(io::Error::other(format!("SOCKS reply {reply}"))) }
}

/// Status and length of an answer whose head is complete: where the body begins and how long it is.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, u64)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(at) => {
            if answer.code != Some(200) {
                return Err(io::Error::other(format!("HTTP status {:?}", answer.code)));
            }
            let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse().ok());
            length.map(|length| Some((at, length))).ok_or_else(|| io::Error::other("no Content-Length"))
        }
    }
}

/// Reads one answer; `seen` hears of all body bytes and says whether to go on.
fn answer(stream: &mut TcpStream, buffer: &mut [u8], mut seen: impl FnMut(u64) -> bool) -> io::Result<()> {
    let mut filled = 0;
    let mut left = loop {
        let n = stream.read(&mut buffer[filled..])?;
        filled += n;
        match head(&buffer[..filled])? {
            Some((at, length)) => {
                let body = (filled - at) as u64;
                seen(body);
                break length - body;
            }
            None if n == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    };
    while left > 0 {
        let n = stream.read(buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= n as u64;
        if !seen(n as u64) {
            break;
        }
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    milliseconds(sorted[at - 1])
}

/// One at a time; each is timed from before its connection to after its last byte.
fn get_in_turn(way: &Way, count: usize) -> Value {
    let request = way.get("close");
    let mut buffer = vec![0; 64 * 1024];
    let mut times = Vec::with_capacity(count);
    let mut error = None;
    let started = Instant::now();
    for _ in 0..count {
        let begun = Instant::now();
        let one = way.open().and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            answer(&mut stream, &mut buffer, |_| true)
        });
        match one {
            Ok(()) => times.push(begun.elapsed()),
            Err(e) => error = Some(e.to_string()),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    times.sort_unstable();
    if times.is_empty() {
        return json!({"failed": count, "error": error});
    }
    json!({
        "count": count, "failed": count - times.len(), "error": error, "seconds": seconds,
        "p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99),
    })
}

async fn get_async(way: &Way, request: &str) -> io::Result<()> {
    let mut stream = way.open_async().await?;
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        let n = stream.read(&mut buffer[filled..]).await?;
        filled += n;
        match head(&buffer[..filled])? {
            Some((at, length)) if (filled - at) as u64 >= length => return Ok(()),
            _ if n == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

/// As many at a time as asked, until all are done.
async fn get_at_once(way: &Way, count: usize, parallel: usize) -> Value {
    let left = Rc::new(Cell::new(count));
    let failed = Rc::new(Cell::new(0usize));
    let error = Rc::new(Cell::new(None));
    let request: Rc<str> = way.get("close").into();
    let started = Instant::now();
    let workers: Vec<_> = (0..parallel.min(count))
        .map(|_| {
            let (left, failed, error, request, way) = (left.clone(), failed.clone(), error.clone(), request.clone(), way.clone());
            tokio::task::spawn_local(async move {
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let one = tokio::time::timeout(PATIENCE, get_async(&way, &request)).await;
                    if let Err(e) = one.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                        failed.set(failed.get() + 1);
                        error.set(Some(e.to_string()));
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        let _ = worker.await;
    }
    let seconds = started.elapsed().as_secs_f64();
    json!({"count": count, "failed": failed.get(), "error": error.take(), "seconds": seconds, "per_second": count as f64 / seconds})
}

fn bulk(way: &Way, repeat: u32, skip: f64, limit: f64) -> io::Result<Value> {
    let mut stream = way.open()?;
    let request = way.get("keep-alive");
    let mut buffer = vec![0; 512 * 1024];
    let (mut bytes, mut skipped) = (0u64, (0u64, 0f64));
    let started = Instant::now();
    for _ in 0..repeat {
        stream.write_all(request.as_bytes())?;
        answer(&mut stream, &mut buffer, |n| {
            bytes += n;
            let now = started.elapsed().as_secs_f64();
            if now < skip {
                skipped = (bytes, now);
            }
            now < limit
        })?;
        if started.elapsed().as_secs_f64() >= limit {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = |bytes: u64, seconds: f64| bytes as f64 * 8.0 / seconds / 1e9;
    Ok(json!({"bytes": bytes, "seconds": seconds, "gbit_s": rate(bytes, seconds),
        "steady_gbit_s": rate(bytes - skipped.0, seconds - skipped.1)}))
}

async fn hold(way: &Way, count: usize) -> io::Result<()> {
    let mut open = Vec::with_capacity(count);
    let mut error = None;
    for _ in 0..count {
        match way.open_async().await {
            Ok(stream) => open.push(stream),
            Err(e) => error = Some(e.to_string()),
        }
    }
    println!("{}", json!({"open": open.len(), "failed": count - open.len(), "error": error}));
    let mut end = [0];
    tokio::io::stdin().read(&mut end).await.map(|_| ())
}

fn first(mut way: Way, http: bool) -> io::Result<Value> {
    if let Ok(proxy) = std::env::var("ALL_PROXY") {
        let address = proxy.rsplit('/').next().unwrap_or_default();
        way.proxy = Some(address.parse().map_err(io::Error::other)?);
    }
    let mut stream = if http { TcpStream::connect(way.first_hop())? } else { way.open()? };
    if http {
        // RFC 9112 §3.2.2: to a proxy the whole address is said.
        way.path = format!("http://{}{}", way.target, way.path);
    }
    stream.write_all(way.get("close").as_bytes())?;
    stream.read_exact(&mut [0])?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(json!({"at_ns": now.as_nanos() as u64}))
}

async fn sink(listen: SocketAddr) -> io::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(4096)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
    }
}

fn parallel_work<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, work))
}

fn main() -> io::Result<()> {
    let done = match Cli::parse().job {
        Job::Get { way, count, parallel: 1 } => get_in_turn(&way, count),
        Job::Get { way, count, parallel } => parallel_work(get_at_once(&way, count, parallel))?,
        Job::Bulk { way, repeat, skip, seconds } => bulk(&way, repeat, skip, seconds)?,
        Job::Hold { way, count } => return parallel_work(hold(&way, count))?,
        Job::First { way, http } => first(way, http)?,
        Job::Sink { listen } => return parallel_work(sink(listen))?,
    };
    println!("{done}");
    Ok(())
}

//! A slow line between two networks, for tests and `ci/bench`: carries packets from one tun device to the other and back,
//! each way with a delay, a bandwidth, a bounded queue and a loss that follows from a seed.
//!
//! The two devices are its stdin and stdout, opened by whoever starts it (they need a system call that safe Rust has not),
//! with `IFF_NO_PI | IFF_VNET_HDR`. It ends when it is killed.

use clap::Parser;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The header before each packet (`struct virtio_net_hdr`): what is still to be cut into segments, and how.
const VNET: usize = 10;

#[derive(Parser, Clone, Copy)]
struct Line {
    /// One way, in microseconds
    #[arg(long, default_value_t = 25_000)]
    delay_us: u64,
    /// Bits in a second, each way
    #[arg(long, default_value_t = 1_000_000_000)]
    rate: u64,
    /// What may wait for its turn, in bytes; more is dropped
    #[arg(long, default_value_t = 16 << 20)]
    queue: u64,
    /// Packets lost of a million
    #[arg(long, default_value_t = 0)]
    loss: u64,
    /// Which packets are lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Bytes on the wire: a packet that is yet to be cut brings its headers once for each segment.
fn on_the_wire(packet: &[u8]) -> u64 {
    let field = |at| u64::from(u16::from_le_bytes([packet[at], packet[at + 1]]));
    let (length, headers, segment) = ((packet.len() - VNET) as u64, field(2), field(4));
    if packet[1] == 0 || segment == 0 { length } else { length + (length - headers).div_ceil(segment).saturating_sub(1) * headers }
}

/// xorshift64: good enough to scatter losses, and the same ones each time.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Takes packets in, and says when each has arrived on the other side.
fn take(from: BorrowedFd<'_>, line: Line, out: &mpsc::Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; VNET + 65_536];
    let mut seed = line.seed.max(1);
    let mut free = Instant::now();
    loop {
        let Some(n) = read(from, &mut buffer) else { return };
        if n < VNET {
            continue;
        }
        let now = Instant::now();
        free = free.max(now);
        let waiting = (free - now).as_secs_f64() * line.rate as f64 / 8.0;
        if waiting > line.queue as f64 || next(&mut seed) % 1_000_000 < line.loss {
            continue;
        }
        free += Duration::from_secs_f64(on_the_wire(&buffer[..n]) as f64 * 8.0 / line.rate as f64);
        if out.send((free + Duration::from_micros(line.delay_us), buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}

fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Ok(n) => return Some(n),
            // The device is down while it is being moved and configured.
            Err(Errno::IO | Errno::BADFD) => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Hands packets over when their time has come.
fn give(to: BorrowedFd<'_>, packets: mpsc::Receiver<(Instant, Vec<u8>)>) {
    for (due, packet) in packets {
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        // A packet that the device does not take is lost, as on any line.
        let _ = rustix::io::write(to, &packet);
    }
}

fn main() {
    let line = Line::parse();
    let (a, b) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    std::thread::scope(|scope| {
        for (from, to) in [(a, b), (b, a)] {
            let (send, receive) = mpsc::channel();
            scope.spawn(move || take(from, line, &send));
            scope.spawn(move || give(to, receive));
        }
    });
}

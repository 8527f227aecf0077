//! A private Tor network on loopback, for the demo and the benchmarks: `pd-tornet DIR [ADDRESS]` makes it of Debian's `tor`,
//! on loopback or at another address of this machine, prints one line of JSON when it is whole, and ends it when its standard input ends.

#[path = "../tests/it/tornet.rs"]
mod tornet;

use std::io::{Read, Write};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: pd-tornet DIR [ADDRESS]")?);
    let network = match std::env::args().nth(2) {
        Some(address) => tornet::Network::start_at(&dir, address.parse()?, 3, 5)?,
        None => tornet::Network::start(&dir, 3, 5)?,
    };
    let ready = serde_json::json!({
        "relays": network.len(),
        "authorities": network.authorities(),
        "arti": network.arti_toml(),
        "torrc": dir.join("client.torrc"),
    });
    std::io::stdout().write_all(format!("{ready}\n").as_bytes())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

//! The list of name servers as a file that resolvers read (resolv.conf(5)), for there is no other program to write it.

use std::fs::{File, rename};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

/// Replaces the file: a reader sees the old list or the new one, and so does the machine after a crash.
pub(crate) fn write(path: &Path, servers: &[IpAddr]) -> io::Result<()> {
    let mut text = String::from("# Written by portdistrict; changed with every lease.\n");
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    rename(new, path)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        write(&path, &["10.0.0.1".parse().unwrap(), "2001:db8::53".parse().unwrap()]).unwrap();
        write(&path, &["10.0.0.2".parse().unwrap()]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), ["nameserver 10.0.0.2"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert!(write(&folder.path().join("no/such"), &[]).is_err());
    }
}

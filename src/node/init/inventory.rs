//! What there is inside the machine, as it sees itself: processes, disks, ports. Logged when the node is ready.

use super::system;
use crate::node::log::Log;
use std::path::Path;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// Processes that run a program (kernel threads run none).
    processes: Vec<String>,
    /// Disks that can be written to.
    writable_disks: Vec<String>,
    /// TCP and UDP ports that wait for others, as in `tcp6:4433`.
    listening: Vec<String>,
    /// Bytes of memory: all, and what is left for new needs.
    memory: (u64, u64),
}

/// Looks around.
pub(super) fn take() -> Inventory {
    let mut listening: Vec<String> = ["tcp", "tcp6", "udp", "udp6"].into_iter().flat_map(listening).collect();
    listening.sort();
    Inventory { processes: processes(), writable_disks: writable_disks(), listening, memory: system::memory() }
}

impl Inventory {
    /// One line.
    pub(super) fn log(&self, log: &Log) {
        let line = log.event("machine.inventory").with("processes", self.processes.clone());
        let line = line.with("writable_disks", self.writable_disks.clone()).with("listening", self.listening.clone());
        line.with("memory_total", self.memory.0).with("memory_available", self.memory.1).write();
    }
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn processes() -> Vec<String> {
    let program = |pid: &String| {
        let link = std::fs::read_link(Path::new("/proc").join(pid).join("exe")).ok()?;
        Some(format!("{pid} {}", link.display()))
    };
    names_in("/proc").iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())).filter_map(program).collect()
}

fn writable_disks() -> Vec<String> {
    let is_writable = |name: &String| std::fs::read_to_string(format!("/sys/block/{name}/ro")).is_ok_and(|flag| flag.trim() == "0");
    names_in("/sys/block").into_iter().filter(is_writable).collect()
}

fn listening(table: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    ports(table, &text)
}

/// Ports of the sockets that wait: TCP in state 0A, and every UDP socket without a peer (proc_pid_net(5)).
fn ports(table: &str, text: &str) -> Vec<String> {
    let waits = if table.starts_with("tcp") { "0A" } else { "07" };
    let port = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, _, state) = (words.next()?, words.next()?, words.next()?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (state == waits).then(|| format!("{table}:{port}"))
    };
    text.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_wait_are_told_from_those_that_talk() {
        let text = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:1151 00000000:0000 0A 0\n   1: 0100007F:1151 0100007F:9999 01 0\n";
        assert_eq!(ports("tcp", text), ["tcp:4433"]);
        assert_eq!(ports("tcp", "garbage\n:\n"), Vec::<String>::new());
    }

    #[test]
    fn this_process_is_seen() {
        assert!(take().processes.iter().any(|line| line.starts_with(&format!("{} ", std::process::id()))));
    }
}

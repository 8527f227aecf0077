//! A machine's serial console: what firmware and kernel print, and between it the node's marks (`PORTDISTRICT_NAME=value`) and log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// A start is over after so much at the latest.
const WINDOW: u64 = 1024 * 1024;
/// What marks begin with.
const MARK: &str = "PORTDISTRICT_";

/// What was printed since some moment.
pub(super) struct Serial(String);

impl Serial {
    /// Reads from `seen` bytes on; an unreadable console has said nothing.
    pub(super) fn read(path: &Path, seen: u64) -> Serial {
        let text = || {
            let mut file = File::open(path).ok()?;
            file.seek(SeekFrom::Start(seen)).ok()?;
            let mut bytes = Vec::new();
            file.take(WINDOW).read_to_end(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        Serial(text().unwrap_or_default())
    }

    /// What was read elsewhere.
    pub(super) fn of(text: String) -> Serial {
        Serial(text)
    }

    /// The text as it was read.
    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// The last value of a mark since the program inside began, which it may have done more than once.
    pub(super) fn mark(&self, name: &str) -> Option<&str> {
        let (prefix, begun) = (format!("{MARK}{name}="), format!("{MARK}VERSION="));
        let lines = self.0.lines().map(str::trim).rev();
        lines.take_while(|line| !line.starts_with(&begun)).find_map(|line| line.strip_prefix(prefix.as_str()))
    }

    /// Whether the node listens.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.mark("STATE"), Some("ready" | "claimed"))
    }

    /// Why it cannot go on, if it said so; or if its firmware did, which does so in the words of its boot manager.
    pub(super) fn failure(&self) -> Option<&str> {
        let firmware = || {
            let failed = self.0.contains("BdsDxe: failed to") || self.0.contains("UEFI Interactive Shell");
            failed.then_some("its firmware does not start the image; most often it needs more memory (--memory 256)")
        };
        self.mark("FAILURE").or_else(firmware)
    }

    /// How far it is, in words.
    pub(super) fn stage(&self) -> &'static str {
        match self.mark("STATE") {
            None if self.0.is_empty() => "firmware",
            None => "kernel",
            Some(_) if self.0.contains("network.ready") => "node",
            Some(_) => "network",
        }
    }

    /// The last lines that a person can read.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        let lines: Vec<String> = self.0.lines().filter_map(words).collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| crate::machine::message_of_log_line(line)).collect()
    }
}

/// A line without the colours and cursor movements of firmware; none if nothing is left of it.
pub(super) fn words(line: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            // ECMA-48: a control sequence ends with a byte from @ to ~.
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    let _ = rest.by_ref().find(|c| ('@'..='~').contains(c));
                }
            }
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    let out = out.trim();
    (!out.is_empty()).then(|| out.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_an_earlier_start_do_not_count() {
        let first = "\u{1b}[2J\nPORTDISTRICT_VERSION=1\nPORTDISTRICT_STATE=claimed\n";
        assert!(Serial(first.to_owned()).is_ready());
        let serial = Serial(format!("{first}PORTDISTRICT_VERSION=1\r\nPORTDISTRICT_STATE=booting\r\n"));
        assert!(!serial.is_ready());
        assert_eq!((serial.mark("STATE"), serial.stage()), (Some("booting"), "network"));
        assert_eq!(Serial(String::new()).stage(), "firmware");
        assert!(Serial("UEFI Interactive Shell v2.2".to_owned()).failure().unwrap().contains("more memory"));
    }

    #[test]
    fn firmware_colours_are_no_words() {
        assert_eq!(words("\u{1b}[0m\u{1b}[37;40mBdsDxe: starting\u{1b}[01;00H\r").as_deref(), Some("BdsDxe: starting"));
        assert_eq!(words("\u{1b}[2J\u{1b}[01;01H"), None);
    }
}

//! The end of a log file, and what is added to it later.

use super::provider::LineSink;
use crate::error::{Code, Doing, Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// How much of the end of a file is searched for its last lines.
const WINDOW: u64 = 4 * 1024 * 1024;

/// Passes on the last lines, then, if asked, the following ones until the sink has enough.
pub(super) async fn tail(path: &Path, lines: usize, follow: bool, sink: LineSink<'_>) -> Result<()> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Code::NotFound, format!("there is no log yet: {}", path.display())).hint("portdistrict machine list")
        }
        _ => Error::new(Code::Io, format!("cannot read the log {}", path.display())).cause(error),
    })?;
    let doing = "read the log";
    let length = file.metadata().doing(doing, path.display())?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WINDOW))).doing(doing, path.display())?;
    let mut rest = Vec::new();
    read_new(&mut file, &mut rest, path)?;
    let whole = take_lines(&mut rest);
    for line in &whole[whole.len().saturating_sub(lines)..] {
        if !sink(line)? {
            return Ok(());
        }
    }
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        read_new(&mut file, &mut rest, path)?;
        for line in take_lines(&mut rest) {
            if !sink(&line)? {
                return Ok(());
            }
        }
    }
}

fn read_new(file: &mut File, to: &mut Vec<u8>, path: &Path) -> Result<()> {
    // At most a window at a time, so that a busy log cannot fill the memory.
    file.take(WINDOW).read_to_end(to).map(|_| ()).doing("read the log", path.display())
}

/// The complete lines so far; an unfinished one waits for its end.
fn take_lines(bytes: &mut Vec<u8>) -> Vec<String> {
    let Some(end) = bytes.iter().rposition(|b| *b == b'\n') else { return Vec::new() };
    let whole: Vec<u8> = bytes.drain(..=end).collect();
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn the_last_lines_then_the_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntwo\nthree\nfo").unwrap();
        let mut seen = Vec::new();
        tail(&path, 2, false, &mut |line| {
            seen.push(line.to_owned());
            Ok(true)
        })
        .await
        .unwrap();
        assert_eq!(seen, ["two", "three"]);

        let mut seen = Vec::new();
        let mut sink = |line: &str| {
            seen.push(line.to_owned());
            Ok(seen.len() < 2)
        };
        let follow = tail(&path, 1, true, &mut sink);
        let write = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            file.write_all(b"ur\n").unwrap();
        };
        let (done, ()) = tokio::join!(follow, write);
        done.unwrap();
        assert_eq!(seen, ["three", "four"]);
    }

    #[tokio::test]
    async fn no_log_is_not_found() {
        let error = tail(Path::new("/nonexistent/log"), 1, false, &mut |_| Ok(true)).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
}

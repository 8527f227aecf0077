//! Bad luck: writers that are killed, pages that rot, disks that fill, files of other versions, memory that lies.

use super::tests::{Home, deployed};
use super::*;
use crate::error::Code;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Spans of one batch of the writer.
const BATCH: u64 = 10;
/// Tells this test binary to be the writer, and where.
const WRITER: &str = "PORTDISTRICT_TEST_WRITER";

/// Not a test but the process that others start: writes batches until it is killed, and says each number when it is written.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITER) else { return };
    let (ledger, key) = (Ledger::open(Path::new(&path)).unwrap(), super::tests::keyring(1, 2).device_key());
    for n in 0u64.. {
        let note = |part| Draft::new("note.made", json!({"n": n, "part": part, "process": std::process::id(), "pad": "x".repeat(300)}));
        let mut drafts: Vec<Draft> = (1..BATCH).map(|part| note(part).unwrap()).collect();
        drafts.push(Draft::new("node.pinned", json!({"address": "a:1", "node_key": B64([n as u8; 32])})).unwrap());
        ledger.record_batch(&key, drafts).unwrap();
        writeln!(std::io::stdout(), "written {n}").unwrap();
    }
}

struct Writer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Writer {
    fn start(home: &Home) -> Writer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "ledger::fault_tests::writer", "--nocapture"]).env(WRITER, home.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Writer { said: BufReader::new(child.stdout.take().unwrap()), child }
    }

    /// Waits until it has said so many more batches.
    fn batches(&mut self, n: usize) {
        let lines = self.said.by_ref().lines().map(Result::unwrap).filter(|line| line.contains("written "));
        assert_eq!(lines.take(n).count(), n, "the writer ended");
    }

    /// Kills it; how many batches it has said in all.
    fn kill(mut self, before: usize) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let rest = self.said.lines().map_while(Result::ok).filter(|line| line.contains("written ")).count();
        (before + rest) as u64
    }
}

/// `PORTDISTRICT_KILLS=200` for the long form.
#[test]
fn writers_killed_anywhere_lose_nothing_they_said_and_leave_no_half_batch() {
    let kills = std::env::var("PORTDISTRICT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let home = Home::new();
    let mut said = 0;
    for kill in 0..kills {
        let mut writer = Writer::start(&home);
        let batches = 1 + kill % 3;
        writer.batches(batches);
        // Somewhere within the next batch: the delay is the fault, not a wait.
        std::thread::sleep(Duration::from_micros(u64::from(blake3::hash(&kill.to_le_bytes()).as_bytes()[0]) * 16));
        said += writer.kill(batches);
        let ledger = home.ledger();
        let spans = ledger.verify().unwrap();
        assert!(spans.is_ok(), "kill {kill}: {spans:?}");
        assert_eq!((spans.spans - 1) % BATCH, 0, "kill {kill}: half a batch");
        assert!((spans.spans - 1) / BATCH >= said, "kill {kill}: {said} batches were said");
    }
}

#[test]
fn two_processes_that_write_the_same_key_both_get_through() {
    let home = Home::new();
    let (mut one, mut two) = (Writer::start(&home), Writer::start(&home));
    one.batches(20);
    two.batches(20);
    let said = one.kill(20) + two.kill(20);
    let ledger = home.ledger();
    let report = ledger.verify().unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert!((report.spans - 1) / BATCH >= said);
    let last = ledger.log(&Filter { key: Some("node/a:1".into()), limit: Some(1), ..Filter::default() }).unwrap();
    assert_eq!(ledger.pinned("a:1").unwrap().unwrap().to_string(), last[0].span.body["node_key"].as_str().unwrap());
}

#[test]
fn a_zeroed_page_is_found_wherever_it_is() {
    let home = Home::filled();
    let ledger = home.ledger();
    for n in 0..60 {
        ledger.append(&home.key(), "note.made", json!({"n": n, "pad": "x".repeat(500)})).unwrap();
    }
    ledger.compact().unwrap();
    let expected = ledger.log(&Filter::default()).unwrap();
    drop(ledger);
    let good = std::fs::read(home.path()).unwrap();
    let (pages, mut named) = (good.len() / 4096, 0);
    for page in 0..pages {
        let mut bad = good.clone();
        bad[page * 4096..(page + 1) * 4096].fill(0);
        std::fs::write(home.path(), &bad).unwrap();
        let report = verify_file(&home.path(), true).unwrap();
        assert!(!report.is_ok(), "page {page} of {pages}");
        named += u32::from(report.broken.is_some_and(|broken| broken.pos.is_some()));
        // Whoever reads all the same gets an error or what is right.
        if let Ok(log) = Ledger::open_read_only(&home.path()).and_then(|ledger| ledger.log(&Filter::default())) {
            assert!(log.iter().zip(&expected).all(|(a, b)| a.bytes == b.bytes), "page {page}");
        }
    }
    assert!(named > 5, "{named} of {pages}");
}

#[test]
fn a_disk_that_fills_in_mid_batch_leaves_nothing_of_it() {
    let home = Home::filled();
    let ledger = home.ledger();
    let export = {
        let mut lines = Vec::new();
        let other = Home::filled();
        for n in 0..100 {
            other.ledger().append(&other.key(), "note.made", json!({"n": n, "pad": "x".repeat(2000)})).unwrap();
        }
        other.ledger().export(&Audience::Devices, &mut lines).unwrap();
        lines
    };
    let empty = tempfile::tempdir().unwrap();
    let archive = Ledger::open(&empty.path().join("ledger.db")).unwrap();
    for ledger in [&ledger, &archive] {
        let pages: i64 = ledger.conn().pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        ledger.conn().pragma_update(None, "max_page_count", pages + 10).unwrap();
    }
    let drafts = || (0..100).map(|n| Draft::new("note.made", json!({"n": n, "pad": "x".repeat(2000)})).unwrap()).collect();
    assert_eq!(ledger.record_batch(&home.key(), drafts()).unwrap_err().code(), Code::Io);
    assert_eq!(archive.import(export.as_slice(), None, false).unwrap_err().code(), Code::Io);
    assert_eq!(ledger.verify().unwrap().spans, 6);
    assert_eq!(archive.verify().unwrap().spans, 0);
    for ledger in [&ledger, &archive] {
        ledger.conn().pragma_update(None, "max_page_count", 1_000_000).unwrap();
    }
    ledger.record_batch(&home.key(), drafts()).unwrap();
    archive.import(export.as_slice(), None, false).unwrap();
    assert!(ledger.verify().unwrap().is_ok() && archive.verify().unwrap().is_ok());
}

#[test]
fn what_was_verified_is_remembered_and_compared() {
    let home = Home::filled();
    let verify = |full| verify_file(&home.path(), full).unwrap();
    let first = verify(false);
    assert_eq!((first.is_ok(), first.spans, first.remembered), (true, 6, 0));
    home.ledger().append(&home.key(), "note.made", json!({})).unwrap();
    assert_eq!((verify(false).spans, verify(false).remembered, verify(true).remembered), (7, 7, 0));
    // A signature that was checked before and is changed now is seen without checking any again.
    home.tamper("UPDATE spans SET signature = zeroblob(64) WHERE pos = 4");
    let broken = verify(false).broken.unwrap();
    assert!(broken.pos == Some(4) && broken.what.contains("signature"), "{broken:?}");
}

#[test]
fn another_past_that_is_signed_too_is_not_taken_for_the_one_that_was_checked() {
    let home = Home::filled();
    assert!(verify_file(&home.path(), false).unwrap().is_ok());
    // The device's key signs another history of the same length into the same file.
    let other = Home::new();
    other.ledger().record(&other.key(), &deployed("shed")).unwrap();
    for n in 0..4 {
        other.ledger().append(&other.key(), "note.made", json!({ "n": n })).unwrap();
    }
    home.tamper(&format!(
        "DELETE FROM spans; ATTACH '{}' AS other; INSERT INTO spans SELECT * FROM other.spans; DETACH other",
        other.path().display()
    ));
    home.ledger().rebuild().unwrap();
    for full in [false, true] {
        let broken = verify_file(&home.path(), full).unwrap().broken.unwrap();
        assert!(broken.what.contains("not those that were checked"), "{broken:?}");
    }
    // A memory that was forged hides nothing from a full check.
    home.tamper("UPDATE spans SET signature = zeroblob(64) WHERE pos = 4; DELETE FROM checked");
    assert_eq!(verify_file(&home.path(), true).unwrap().broken.unwrap().pos, Some(4));
}

/// What version 2 had that version 3 has not: an index of ids within `spans`.
const OLDER_SPANS: &str = "ALTER TABLE spans RENAME TO newer;
    CREATE TABLE spans (pos INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, author TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
      ms INTEGER NOT NULL, n INTEGER NOT NULL, bytes BLOB NOT NULL, signature BLOB NOT NULL, UNIQUE (author, seq)) STRICT;
    INSERT INTO spans SELECT * FROM newer; DROP TABLE newer; CREATE INDEX spans_by_time ON spans (ms, n);";

#[test]
fn an_older_file_is_brought_forward_and_kept() {
    for (older, lacks) in [(1, "DROP TABLE withheld; DROP TABLE checked; DROP TABLE keys;"), (2, "DROP TABLE ids; DROP TABLE recent;")] {
        let home = Home::filled();
        let before = home.ledger().log(&Filter::default()).unwrap();
        home.tamper(&format!("{OLDER_SPANS} UPDATE projection SET version = 0"));
        let conn = Connection::open(home.path()).unwrap();
        conn.execute_batch(&format!("{lacks} PRAGMA user_version = {older}; PRAGMA wal_checkpoint(TRUNCATE)")).unwrap();
        drop(conn);
        assert!(!verify_file(&home.path(), true).unwrap().is_ok());
        let ledger = home.ledger();
        let report = ledger.verify().unwrap();
        assert!(report.is_ok(), "version {older}: {report:?}");
        let after = ledger.log(&Filter::default()).unwrap();
        assert!(after.len() == before.len() && before.iter().zip(&after).all(|(a, b)| a.bytes == b.bytes && a.signature == b.signature));
        assert!(ledger.append(&home.key(), "note.made", json!({})).is_ok());
        let kept = home.dir.path().join(format!("ledger.db.v{older}"));
        let conn = Connection::open(&kept).unwrap();
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        let spans: i64 = conn.query_row("SELECT count(*) FROM spans", [], |row| row.get(0)).unwrap();
        assert_eq!((version, spans), (older, before.len() as i64));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(kept).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn compacting_gives_back_room_and_keeps_every_span() {
    let home = Home::filled();
    let ledger = home.ledger();
    let before = ledger.log(&Filter::default()).unwrap();
    ledger.conn().execute_batch("CREATE TABLE waste (x); INSERT INTO waste VALUES (zeroblob(1000000)); DROP TABLE waste").unwrap();
    let done = ledger.compact().unwrap();
    assert!(done.after + 500_000 < done.before && done.spans == 6, "{done:?}");
    let after = ledger.log(&Filter::default()).unwrap();
    assert!(before.iter().zip(&after).all(|(a, b)| a.bytes == b.bytes && a.pos == b.pos));
    assert!(ledger.verify().unwrap().is_ok());
}

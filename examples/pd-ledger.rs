//! Measures the ledger, beside what signing and SQLite alone can do in the same run.
//!
//! `pd-ledger fill HOME SPANS PEERS` fills a home's ledger and tells how
//! fast; `pd-ledger verify FILE`, `pd-ledger rebuild FILE` and `pd-ledger single FOLDER` measure one thing each, in a process of its own, so that
//! its memory can be measured from outside.

use ed25519_dalek::{Signer, SigningKey};
use portdistrict::ledger::kinds::{Blob, EvidenceJudged, GrantIssued, GrantReused, GrantRevoked, IdentityCreated, NodePinned};
use portdistrict::ledger::{B64, Draft, Ledger, verify_file};
use portdistrict::{
    config::Paths,
    keyring::{Keyring, Unlock},
};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Failed = Box<dyn std::error::Error>;

/// Spans that are appended in one transaction.
const BATCH: usize = 100;
/// Signatures and inserts that are measured alone.
const ALONE: usize = 20_000;

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let told = match words.as_slice() {
        ["fill", home, spans, peers] => fill(Path::new(home), spans.parse()?, peers.parse()?)?,
        ["verify", file] => verify(Path::new(file))?,
        ["rebuild", file] => rebuild(Path::new(file))?,
        ["single", folder] => single(Path::new(folder))?,
        _ => return Err("pd-ledger fill HOME SPANS PEERS | verify FILE | rebuild FILE | single FOLDER".into()),
    };
    tell(&told);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of a measurement")]
fn tell(told: &serde_json::Value) {
    println!("{told}");
}

/// Signatures a second by one core.
fn signing(key: &SigningKey) -> f64 {
    let begun = Instant::now();
    for n in 0..ALONE {
        std::hint::black_box(key.sign(blake3::hash(&n.to_le_bytes()).as_bytes()));
    }
    ALONE as f64 / begun.elapsed().as_secs_f64()
}

/// A table with the columns and indexes of the ledger's, without anything else.
fn bare(folder: &Path) -> Result<Connection, Failed> {
    let conn = Connection::open(folder.join("bare.db"))?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE spans (pos INTEGER PRIMARY KEY, id TEXT UNIQUE, author TEXT, seq INTEGER, kind TEXT, ms INTEGER, n INTEGER,
                             bytes BLOB, signature BLOB, UNIQUE (author, seq));",
    )?;
    Ok(conn)
}

fn insert(conn: &Connection, n: usize) -> rusqlite::Result<()> {
    let id = B64(*blake3::hash(&n.to_le_bytes()).as_bytes()).to_string();
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    let row = rusqlite::params![n, id, "author", n, "grant.reused", n, 0, [7u8; 420], [8u8; 64]];
    conn.prepare_cached("INSERT INTO spans VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(row).map(drop)
}

/// What stands in the ledger of somebody with many friends: number after number, always the same.
fn draft(n: usize, peers: usize) -> Result<Draft, Failed> {
    let id = B64([(n % peers) as u64].map(u64::to_be_bytes)[0]);
    let friend = format!("friend-{}", n % peers).parse()?;
    Ok(if n < peers {
        Draft::of(&GrantIssued {
            id,
            name: friend,
            node: None,
            node_key: None,
            subject: B64([6; 32]),
            mode: "once".into(),
            not_before: 10,
            expires: if n.is_multiple_of(1000) { 4_000_000_000 } else { 20 },
            limits: Default::default(),
            grant: Blob(vec![7; 180]),
        })?
    } else if n < peers + peers / 2 {
        Draft::of(&GrantRevoked { id, at: 30, reason: "it is over".into(), revocation: Some(Blob(vec![8; 100])) })?
    } else if n.is_multiple_of(3) {
        Draft::of(&NodePinned { address: format!("10.0.{}.{}:443", n / 256 % 40, n % 256), node_key: B64([5; 32]) })?
    } else if n % 3 == 1 {
        Draft::of(&GrantReused { id, node: None, count: n as u64, last: n as u64 })?
    } else {
        Draft::of(&EvidenceJudged {
            node_key: B64(*blake3::hash(&(n % 2000).to_le_bytes()).as_bytes()),
            name: "home".parse()?,
            outcome: "verified".into(),
            rung: "image-by-hardware".into(),
            evidence_kind: "snp".into(),
            reason: None,
            evidence: "00".repeat(32),
            image: Some("11".repeat(32)),
            measurement: None,
            endorsement: None,
            discovered: false,
        })?
    })
}

fn fill(home: &Path, spans: usize, peers: usize) -> Result<serde_json::Value, Failed> {
    let paths = Paths::find(Some(home))?;
    let keyring = Keyring::open(&paths, &Unlock::default())?;
    let (ledger, key) = (Ledger::open(&paths.ledger_file())?, keyring.device_key());
    let (mut first, mut drafting) = (0.0, 0.0);
    let begun = Instant::now();
    for at in (0..spans).step_by(BATCH) {
        let before = Instant::now();
        let drafts = (at..(at + BATCH).min(spans)).map(|n| draft(n, peers)).collect::<Result<_, _>>()?;
        drafting += before.elapsed().as_secs_f64();
        ledger.record_batch(&key, drafts)?;
        if at + BATCH == spans.min(100_000) {
            first = (at + BATCH) as f64 / (begun.elapsed().as_secs_f64() - drafting);
        }
    }
    let all = spans as f64 / (begun.elapsed().as_secs_f64() - drafting);
    let conn = bare(&paths.data)?;
    let begun = Instant::now();
    for at in (0..ALONE * 5).step_by(BATCH) {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        (at..at + BATCH).try_for_each(|n| insert(&conn, n))?;
        conn.execute_batch("COMMIT")?;
    }
    let bare = (ALONE * 5) as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(paths.data.join("bare.db"))?;
    Ok(serde_json::json!({"append_first": first, "append": all, "sign": signing(&key), "bare": bare}))
}

fn verify(file: &Path) -> Result<serde_json::Value, Failed> {
    let mut told = serde_json::Map::new();
    for (name, full) in [("full", true), ("again", false)] {
        let begun = Instant::now();
        let report = verify_file(file, full)?;
        if !report.is_ok() {
            return Err(format!("{report:?}").into());
        }
        told.insert(name.to_owned(), (report.spans as f64 / begun.elapsed().as_secs_f64()).into());
    }
    Ok(told.into())
}

fn rebuild(file: &Path) -> Result<serde_json::Value, Failed> {
    let ledger = Ledger::open(file)?;
    let begun = Instant::now();
    let spans = ledger.rebuild()?;
    Ok(serde_json::json!({"rebuild": spans as f64 / begun.elapsed().as_secs_f64()}))
}

/// Microseconds of one durable append, of one bare insert, and of a signature; in turns, so that the disk is the same for both.
fn single(folder: &Path) -> Result<serde_json::Value, Failed> {
    let keyring = Keyring::of(portdistrict::keyring::Seed::random()?, portdistrict::keyring::Seed::random()?);
    let file: PathBuf = folder.join("ledger.db");
    let (ledger, key, conn) = (Ledger::open(&file)?, keyring.device_key(), bare(folder)?);
    ledger.record(
        &key,
        &IdentityCreated {
            identity: B64(keyring.identity_public()),
            device: B64(keyring.device_public()),
            cert: B64(keyring.device_certificate()),
        },
    )?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..2000 {
        let pin = NodePinned { address: format!("10.0.0.{}:443", n % 256), node_key: B64([5; 32]) };
        let begun = Instant::now();
        ledger.record(&key, &pin)?;
        ours.push(begun.elapsed());
        let begun = Instant::now();
        insert(&conn, n)?;
        theirs.push(begun.elapsed());
    }
    let median = |mut times: Vec<std::time::Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    Ok(serde_json::json!({"append_us": median(ours), "bare_us": median(theirs), "sign_us": 1e6 / signing(&key)}))
}

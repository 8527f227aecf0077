//! An upload that goes on: after a lost connection, a killed process, a day. What arrived is not sent again.

use super::storage::{Object, Reached, Spot, Storage, description};
use super::{Failure, refusal::Refusal};
use crate::config::{HttpSettings, fs};
use crate::error::{Code, Doing, Error, Result};
use crate::progress::Step;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is sent at once is a multiple of this, as Cloud Storage demands.
const QUANTUM: u64 = 256 * 1024;
/// What is sent at first, and the most that is sent at once: so much is held in memory.
const FIRST: u64 = 2 * 1024 * 1024;
const MOST: u64 = 16 * 1024 * 1024;
/// A piece shall take about so long: on slow links it stays below the time that a request may take.
const PIECE: Duration = Duration::from_secs(8);
/// The longest pause between two attempts.
const LONGEST: Duration = Duration::from_secs(32);
/// A note of an upload is a few hundred bytes.
const MAX_NOTE: usize = 16 * 1024;
const VERSION: u32 = 1;

/// What is uploaded, and to where.
#[derive(Debug)]
pub struct Upload<'a> {
    /// To where.
    pub spot: &'a Spot,
    /// The file.
    pub file: &'a Path,
    /// Its size in bytes.
    pub size: u64,
    /// Its checksum, as [`super::crc32c::Crc32c::finish`] has it.
    pub crc32c: &'a str,
    /// What else to write on the object.
    pub metadata: &'a [(&'a str, &'a str)],
    /// Where the session is remembered, so that a later process goes on.
    pub note: PathBuf,
}

/// An upload under way, as it is remembered. The session's address is a secret, so the file is private.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    version: u32,
    object: String,
    size: u64,
    crc32c: String,
    session: String,
}

impl Upload<'_> {
    /// Sends what is missing, and returns the object. It gives up only after as many failures in a row as the settings allow.
    pub async fn run(&self, storage: &Storage, settings: &HttpSettings, step: &dyn Step) -> Result<Object, Failure> {
        let file = File::open(self.file).doing("read", self.file.display())?;
        let (mut session, mut reached) = self.resume(storage).await?;
        let (mut piece, mut failures, mut fresh) = (FIRST, 0, 0);
        loop {
            let offset = match reached {
                Reached::Whole(object) => {
                    let _ = std::fs::remove_file(&self.note);
                    return self.verified(object);
                }
                // Google forgets a session after a week; more than a few in a row are no accident.
                Reached::Forgotten if fresh < settings.attempts => {
                    fresh += 1;
                    session = self.begin(storage).await?;
                    0
                }
                Reached::Forgotten => return Err(lost_track(self.spot).into()),
                Reached::Bytes(offset) if offset > self.size => return Err(lost_track(self.spot).into()),
                Reached::Bytes(offset) => offset,
            };
            step.bytes(offset, self.size);
            let bytes = read_piece(&file, offset, piece.min(self.size - offset)).doing("read", self.file.display())?;
            let (begun, sent) = (Instant::now(), bytes.len() as u64);
            let outcome = storage.send(&session, offset, bytes, self.size).await;
            reached = match outcome {
                Ok(reached) => {
                    (failures, piece) = (0, fitting(sent, begun.elapsed()));
                    reached
                }
                Err(failure) if !may_pass(&failure) => return Err(self.explained(failure)),
                Err(failure) => {
                    failures += 1;
                    if failures >= settings.attempts.max(1) {
                        return Err(failure);
                    }
                    step.note("the connection was lost, going on");
                    piece = (piece / 2).max(QUANTUM);
                    tokio::time::sleep(pause(settings.pause, failures)).await;
                    let there = storage.reached(&session, self.size).await?;
                    if matches!(there, Reached::Bytes(now) if now > offset) {
                        failures = 0;
                    }
                    there
                }
            };
        }
    }

    /// The session that an earlier process began for the same bytes, if there is one; else a new one.
    async fn resume(&self, storage: &Storage) -> Result<(SecretString, Reached), Failure> {
        if let Some(session) = self.remembered() {
            match storage.reached(&session, self.size).await? {
                Reached::Forgotten => {}
                reached => return Ok((session, reached)),
            }
        }
        Ok((self.begin(storage).await?, Reached::Bytes(0)))
    }

    async fn begin(&self, storage: &Storage) -> Result<SecretString, Failure> {
        let session = storage.begin(self.spot, self.size, &description(self.spot, self.crc32c, self.metadata)).await?;
        let note = Note {
            version: VERSION,
            object: self.spot.in_words(),
            size: self.size,
            crc32c: self.crc32c.to_owned(),
            session: session.expose_secret().to_owned(),
        };
        let bytes = serde_json::to_vec(&note).map_err(|error| Error::new(Code::Failed, "cannot write down the upload").cause(error))?;
        fs::write_private(&self.note, &bytes)?;
        Ok(session)
    }

    /// A note that cannot be read is as good as none: the upload begins anew.
    fn remembered(&self) -> Option<SecretString> {
        let note: Note = serde_json::from_slice(&fs::read_private(&self.note, MAX_NOTE).ok()?).ok()?;
        let same = note.version == VERSION && note.object == self.spot.in_words() && note.size == self.size && note.crc32c == self.crc32c;
        // Only where objects are uploaded to: a note that says otherwise was not written here.
        let ours = note.session.starts_with(&super::storage::storage_base());
        (same && ours).then(|| note.session.into())
    }

    fn verified(&self, object: Object) -> Result<Object, Failure> {
        if object.is(self.size, self.crc32c) {
            return Ok(object);
        }
        Err(Error::new(Code::Refused, format!("what arrived as {} is not what was sent", self.spot.in_words()))
            .because(format!("{} bytes with CRC32C {} were sent", self.size, self.crc32c))
            .because(format!("{} bytes with CRC32C {} arrived", object.size, object.crc32c))
            .hint(format!("gcloud storage rm {}, then run the command again", self.spot.in_words()))
            .into())
    }

    /// The last piece is refused if the whole does not have the checksum that was promised: the session is of no more use.
    fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(Refusal { status: 400, message, .. }) => {
                let _ = std::fs::remove_file(&self.note);
                Error::new(Code::Refused, format!("Google does not take {}: {message}", self.spot.in_words()))
                    .hint("the file may have changed while it was uploaded: run the command again")
                    .into()
            }
            other => other,
        }
    }
}

/// Whether it may go better the next time.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(refusal) => matches!(refusal.status, 408 | 429 | 500..=599),
        Failure::Broken(error) => matches!(error.code(), Code::Unreachable | Code::TimedOut),
    }
}

fn pause(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(LONGEST)
}

/// How much to send at once, after `sent` bytes took so long.
fn fitting(sent: u64, took: Duration) -> u64 {
    let wanted = sent as f64 * PIECE.as_secs_f64() / took.as_secs_f64().max(0.001);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded right before")]
    let wanted = wanted.clamp(QUANTUM as f64, MOST as f64) as u64;
    wanted / QUANTUM * QUANTUM
}

fn read_piece(file: &File, offset: u64, size: u64) -> std::io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

fn lost_track(spot: &Spot) -> Error {
    Error::new(Code::Protocol, format!("Cloud Storage lost track of the upload of {}", spot.in_words()))
        .hint("see https://status.cloud.google.com, then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_fits_the_link() {
        for (sent, took, fits) in [(FIRST, 1, MOST), (FIRST, 60_000, QUANTUM), (FIRST, 16_000, FIRST / 2), (QUANTUM, 8_000, QUANTUM)] {
            assert_eq!(fitting(sent, Duration::from_millis(took)), fits, "{sent} bytes in {took} ms");
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let pauses: Vec<u64> = (1..=7).map(|n| pause(Duration::from_secs(1), n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32]);
    }
}

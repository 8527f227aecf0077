//! Carries one command to the TPM and its answer back.

use super::error::Error;
use super::rc;
use crate::attest::tpm::wire::{MAX_MESSAGE, Reader};
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;
use zeroize::Zeroizing;

/// The size of tag, size and code in front of every answer (Part 1, 18.2).
pub(super) const HEADER: usize = 10;
/// How often a command is sent while the TPM asks to send it again.
pub(super) const ATTEMPTS: u32 = 8;
/// How long to wait before the second attempt. Each further wait is twice as long: 1.3 seconds in all.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Sends a command until the TPM is not busy, at most [`ATTEMPTS`] times, and returns the whole answer.
pub(super) fn exchange<T: Read + Write>(stream: &mut T, name: &'static str, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=ATTEMPTS {
        send(stream, command)?;
        let answer = receive(stream)?;
        if !rc::is_busy(code(&answer)?) {
            return Ok(answer);
        }
        if attempt < ATTEMPTS {
            thread::sleep(pause);
            pause *= 2;
        }
    }
    Err(Error::Busy { command: name })
}

fn code(answer: &[u8]) -> Result<u32, Error> {
    let mut reader = Reader::new(answer);
    reader.bytes(6, "tag and size")?;
    Ok(reader.u32("responseCode")?)
}

/// The device wants the whole command in one write.
fn send<T: Read + Write>(stream: &mut T, command: &[u8]) -> Result<(), Error> {
    let written = repeat_interrupted(|| stream.write(command))?;
    if written != command.len() {
        let sentence = format!("{written} bytes of a command were taken, {} were sent", command.len());
        return Err(Error::Io(io::Error::new(io::ErrorKind::WriteZero, sentence)));
    }
    repeat_interrupted(|| stream.flush())
}

/// The device gives the whole answer in one read. A socket may give it in parts, so that reading goes on up to the size stated.
fn receive<T: Read + Write>(stream: &mut T) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut buffer = Zeroizing::new(vec![0; MAX_MESSAGE]);
    let mut filled = 0;
    loop {
        let free = buffer.get_mut(filled..).unwrap_or_default();
        let count = repeat_interrupted(|| stream.read(free))?;
        if count == 0 {
            let sentence = format!("the answer ended after {filled} bytes");
            return Err(Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, sentence)));
        }
        filled = filled.saturating_add(count).min(MAX_MESSAGE);
        let Some(size) = stated_size(buffer.get(..filled).unwrap_or_default())? else { continue };
        if filled > size {
            return Err(Error::Answer(format!("{filled} bytes came, the answer should have {size}")));
        }
        if filled == size {
            buffer.truncate(size);
            return Ok(buffer);
        }
    }
}

/// The size that an answer states, once that part of it is there.
fn stated_size(answer: &[u8]) -> Result<Option<usize>, Error> {
    let Some((head, _)) = answer.split_first_chunk::<6>() else { return Ok(None) };
    let [_, _, size @ ..] = *head;
    match usize::try_from(u32::from_be_bytes(size)) {
        Ok(size) if (HEADER..=MAX_MESSAGE).contains(&size) => Ok(Some(size)),
        _ => Err(Error::Answer(format!("it states {} bytes, {HEADER} to {MAX_MESSAGE} are allowed", u32::from_be_bytes(size)))),
    }
}

fn repeat_interrupted<R>(mut action: impl FnMut() -> io::Result<R>) -> Result<R, Error> {
    loop {
        match action() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(Error::Io),
        }
    }
}

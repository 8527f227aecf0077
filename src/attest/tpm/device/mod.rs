//! The node's half: asks the TPM of this machine for keys, registers, quotes and secrets.
//!
//! The TPM is not trusted, as whoever runs a virtual machine may have written it: every answer is read with bounds. All
//! authorization values are taken to be empty, as they are in TPMs of cloud machines and as systemd leaves them.

mod command;
mod error;
mod keys;
mod nv;
mod rc;
mod seal;
mod sessions;
mod transport;

pub use error::Error;
pub use keys::{EkKind, GceAk, Hierarchy, Key, SignedQuote};
pub use seal::{MAX_SECRET, Sealed};

use command::{Command, Response};
use std::cell::RefCell;
use std::io::{Read, Write};

/// The handle of the null hierarchy (`TPM_RH_NULL`, Part 2, 7.4), which stands for "none".
const RH_NULL: u32 = 0x4000_0007;
/// The handle of the owner hierarchy (`TPM_RH_OWNER`).
const RH_OWNER: u32 = 0x4000_0001;
/// The handle of the endorsement hierarchy (`TPM_RH_ENDORSEMENT`).
const RH_ENDORSEMENT: u32 = 0x4000_000b;
const CC_FLUSH_CONTEXT: u32 = 0x165;

/// A TPM behind a stream: each command goes out in one write, its answer comes back before the next command.
///
/// For `/dev/tpmrm0`, give a [`std::fs::File`] open for reading and writing. The TPM must have been started, as firmware does.
/// Keys borrow the device and are flushed when they are dropped, so that a TPM without a resource manager keeps its three slots.
#[derive(Debug)]
pub struct Device<T: Read + Write> {
    stream: RefCell<T>,
}

impl<T: Read + Write> Device<T> {
    /// A TPM behind this stream. Nothing is sent yet.
    pub fn new(stream: T) -> Device<T> {
        Device { stream: RefCell::new(stream) }
    }

    /// Ends the use of the TPM and gives the stream back.
    pub fn into_inner(self) -> T {
        self.stream.into_inner()
    }

    /// Removes a key or session from the TPM's memory (`TPM2_FlushContext`, Part 3, 28.4).
    ///
    /// Only needed for handles from elsewhere: a [`Key`] does it by itself.
    pub fn flush(&self, handle: u32) -> Result<(), Error> {
        self.run(&Command::new("TPM2_FlushContext", CC_FLUSH_CONTEXT).u32(handle)).map(|_| ())
    }

    fn run(&self, command: &Command) -> Result<Response, Error> {
        // No borrow is ever held while another is taken; an error is still better than a panic.
        let mut stream = self.stream.try_borrow_mut().map_err(|_| Error::Argument("the TPM is in use by this very thread".into()))?;
        let answer = transport::exchange(&mut *stream, command.name(), &command.encode()?)?;
        Response::parse(command, answer)
    }
}

/// Something in the TPM's memory, which is flushed when this is dropped.
#[derive(Debug)]
struct Handle<'d, T: Read + Write> {
    device: &'d Device<T>,
    number: u32,
    flushed: bool,
}

impl<'d, T: Read + Write> Handle<'d, T> {
    /// Takes over the handle in an answer, whose highest byte must be one of `kinds` (`TPM_HT`, Part 2, 7.2).
    fn of(device: &'d Device<T>, response: &Response, kinds: &[u8]) -> Result<Handle<'d, T>, Error> {
        let number = response.handle();
        let [kind, ..] = number.to_be_bytes();
        if !kinds.contains(&kind) {
            return Err(Error::Answer(format!("the handle is 0x{number:08x}, its first byte must be one of {kinds:02x?}")));
        }
        Ok(Handle { device, number, flushed: false })
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn flush(mut self) -> Result<(), Error> {
        self.flushed = true;
        self.device.flush(self.number)
    }
}

impl<T: Read + Write> Drop for Handle<'_, T> {
    fn drop(&mut self) {
        if !self.flushed {
            // Nobody is left to hear of an error. Who wants to know calls `flush`.
            let _ = self.device.flush(self.number);
        }
    }
}

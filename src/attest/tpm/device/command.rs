//! Builds commands and takes answers apart (Part 1, 18).

use super::error::Error;
use super::transport::HEADER;
use crate::attest::tpm::wire::{MAX_MESSAGE, Reader, WireError, Writer};
use std::ops::Range;
use zeroize::Zeroizing;

/// `TPM_ST_NO_SESSIONS` (Part 2, 6.9).
const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`.
const SESSIONS: u16 = 0x8002;
/// The "session" of a password (`TPM_RS_PW`, Part 2, 7.4).
const PASSWORD: u32 = 0x4000_0009;
/// The session goes on after the command (`TPMA_SESSION`, Part 2, 8.4).
const CONTINUE_SESSION: u8 = 1;
/// The most bytes of a nonce or HMAC: SHA-512.
const MAX_DIGEST: usize = 64;

/// How the use of a handle is authorized.
#[derive(Clone, Copy, Debug)]
pub(super) enum Auth {
    /// By the empty password.
    Empty,
    /// By the policy session with this handle.
    Policy(u32),
}

/// A command in the making.
pub(super) struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u32>,
    auths: Vec<Auth>,
    parameters: Writer,
    gives_handle: bool,
}

impl Command {
    /// A command by its name and its `TPM_CC` (Part 2, 6.5.2).
    pub(super) fn new(name: &'static str, code: u32) -> Command {
        Command { name, code, handles: Vec::new(), auths: Vec::new(), parameters: Writer::new(), gives_handle: false }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// A handle that needs no authorization.
    pub(super) fn handle(mut self, handle: u32) -> Command {
        self.handles.push(handle);
        self
    }

    /// A handle that needs one. The specification puts these before all others.
    pub(super) fn authorized(mut self, handle: u32, auth: Auth) -> Command {
        self.auths.push(auth);
        self.handle(handle)
    }

    /// The answer has a handle in front.
    pub(super) fn gives_handle(mut self) -> Command {
        self.gives_handle = true;
        self
    }

    /// A parameter that was put together already.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Command {
        self.parameters = self.parameters.bytes(bytes);
        self
    }

    pub(super) fn u8(self, value: u8) -> Command {
        self.bytes(&[value])
    }

    pub(super) fn u16(self, value: u16) -> Command {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Command {
        self.bytes(&value.to_be_bytes())
    }

    /// A `TPM2B`.
    pub(super) fn sized(mut self, bytes: &[u8]) -> Command {
        self.parameters = self.parameters.sized(bytes);
        self
    }

    /// The bytes for the TPM.
    pub(super) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut body = self.handles.iter().fold(Writer::new(), |body, &handle| body.u32(handle));
        let auths = self.auths.iter().fold(Writer::new(), |area, auth| {
            let session = match auth {
                Auth::Empty => PASSWORD,
                Auth::Policy(session) => *session,
            };
            // Neither a nonce nor an HMAC: the password is empty, and so is the key of sessions without salt.
            area.u32(session).u16(0).u8(CONTINUE_SESSION).u16(0)
        });
        let auths = auths.finish()?;
        if !auths.is_empty() {
            body = body.u32(size_of(&auths)).bytes(&auths);
        }
        let body = body.bytes(self.parameters.written().map_err(too_long)?).finish().map_err(too_long)?;
        let tag = if auths.is_empty() { NO_SESSIONS } else { SESSIONS };
        let header = size_of(&body).saturating_add(HEADER as u32);
        Writer::new().u16(tag).u32(header).u32(self.code).bytes(&body).finish().map_err(too_long)
    }
}

fn too_long(_: WireError) -> Error {
    Error::Argument(format!("the command would have more than {MAX_MESSAGE} bytes, which is the most that a TPM takes"))
}

/// What is counted here was bounded by a writer.
fn size_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// An answer that says the command was done.
#[derive(Debug)]
pub(super) struct Response {
    bytes: Zeroizing<Vec<u8>>,
    handle: u32,
    parameters: Range<usize>,
}

impl Response {
    /// Checks the whole frame of an answer. A refusal becomes its error.
    pub(super) fn parse(command: &Command, bytes: Zeroizing<Vec<u8>>) -> Result<Response, Error> {
        let total = bytes.len();
        let mut reader = Reader::new(&bytes);
        let tag = reader.u16("tag")?;
        reader.u32("responseSize")?;
        let code = reader.u32("responseCode")?;
        if code != 0 {
            return Err(Error::from_code(command.name, code));
        }
        let wanted = if command.auths.is_empty() { NO_SESSIONS } else { SESSIONS };
        if tag != wanted {
            return Err(Error::Answer(format!("its tag is 0x{tag:04x}, 0x{wanted:04x} is wanted")));
        }
        let handle = if command.gives_handle { reader.u32("handle")? } else { 0 };
        let size = match tag {
            SESSIONS => usize::try_from(reader.u32("parameterSize")?).unwrap_or(usize::MAX),
            _ => reader.rest().len(),
        };
        let start = total - reader.rest().len();
        reader.bytes(size, "parameters")?;
        for _ in &command.auths {
            reader.sized(MAX_DIGEST, "nonceTPM")?;
            reader.u8("sessionAttributes")?;
            reader.sized(MAX_DIGEST, "hmac")?;
        }
        reader.finish("the answer")?;
        Ok(Response { parameters: start..start + size, handle, bytes })
    }

    /// The handle in front; zero if the command gives none.
    pub(super) fn handle(&self) -> u32 {
        self.handle
    }

    /// The parameters.
    pub(super) fn parameters(&self) -> Reader<'_> {
        Reader::new(self.bytes.get(self.parameters.clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::{Auth, Command, Response};
    use crate::attest::tpm::device::Error;
    use zeroize::Zeroizing;

    fn parse(command: &Command, bytes: &[u8]) -> Result<Response, Error> {
        Response::parse(command, Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn commands_are_framed() {
        let command = Command::new("x", 0x158).authorized(0x8000_0001, Auth::Empty).handle(7).sized(b"ab");
        let wanted = [
            &[0x80, 2, 0, 0, 0, 35, 0, 0, 1, 0x58][..],
            &[0x80, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 9],
            &[0x40, 0, 0, 9, 0, 0, 1, 0, 0, 0, 2, b'a', b'b'],
        ];
        assert_eq!(command.encode().unwrap()[..], wanted.concat());
        assert!(matches!(Command::new("x", 1).bytes(&[0; 4096]).encode(), Err(Error::Argument(_))));
    }

    #[test]
    fn answers_are_checked_to_the_last_byte() {
        let command = Command::new("x", 1).authorized(1, Auth::Empty).gives_handle();
        let good = [0x80, 2, 0, 0, 0, 25, 0, 0, 0, 0, 0x80, 0, 0, 5, 0, 0, 0, 2, 1, 2, 0, 0, 1, 0, 0];
        let response = parse(&command, &good).unwrap();
        assert_eq!((response.handle(), response.parameters().rest()), (0x8000_0005, &[1u8, 2][..]));
        for cut in 0..good.len() {
            assert!(parse(&command, &good[..cut]).is_err(), "{cut}");
        }
        assert!(parse(&command, &[&good[..], &[0]].concat()).is_err());
        for size in [1u32, 3, 200, u32::MAX] {
            let mut bad = good;
            bad[14..18].copy_from_slice(&size.to_be_bytes());
            assert!(parse(&command, &bad).is_err(), "{size}");
        }
        let mut bad = good;
        bad[1] = 1;
        assert!(matches!(parse(&command, &bad), Err(Error::Answer(_))));
    }

    #[test]
    fn refusals_have_names() {
        let refusal = |code: u32| {
            let code = code.to_be_bytes();
            let bytes = [&[0x80, 1, 0, 0, 0, 10], &code[..]].concat();
            parse(&Command::new("TPM2_X", 1), &bytes).map(|_| ()).unwrap_err()
        };
        assert!(matches!(refusal(0x98e), Error::Authorization { command: "TPM2_X" }));
        assert!(matches!(refusal(0x921), Error::Lockout));
        assert!(matches!(refusal(0x902), Error::NoRoom { .. }));
        assert!(matches!(refusal(0x1df), Error::Integrity { .. }));
        assert!(matches!(refusal(0x922), Error::Busy { .. }));
        assert_eq!(refusal(0x18b).to_string(), "TPM2_X: there is nothing under this handle (code 0x18b)");
        assert_eq!(refusal(0x1ff).to_string(), "TPM2_X: the TPM refuses with code 0x1ff");
    }
}

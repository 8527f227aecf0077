//! Reads and writes the big-endian structures of a TPM, with a bound on everything.
//!
//! Written by hand, as the structures that are needed here take few lines, while the crate `tpm2-protocol` (1.2.3) builds on casts
//! with `unsafe` in exactly the place that reads what an attacker sends.

use crate::attest::{Fault, Reason};
use std::fmt;
use zeroize::Zeroizing;

/// The most bytes that a command or a response of a TPM may have (the buffer of Linux' `/dev/tpmrm0`).
pub const MAX_MESSAGE: usize = 4096;

/// A structure that ends early, has bytes left over, or holds a length that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError(String);

impl WireError {
    /// An error with its sentence, which names the value found and the value wanted.
    pub(crate) fn new(sentence: impl Into<String>) -> WireError {
        WireError(sentence.into())
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WireError {}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Fault {
        Fault::new(Reason::Malformed, error.0)
    }
}

/// Reads from the front of a slice. Every call names the field, so that an error can name it too.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize, field: &str) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(WireError(format!("{field} ends early: {} bytes are left, {count} are needed", self.rest.len())));
        };
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], WireError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(WireError(format!("{field} ends early: {} bytes are left, {N} are needed", self.rest.len())));
        };
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, field: &str) -> Result<u8, WireError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &str) -> Result<u64, WireError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A `TPM2B`: a size in two bytes and that many bytes, of which there may be `most`.
    pub fn sized(&mut self, most: usize, field: &str) -> Result<&'a [u8], WireError> {
        let size = usize::from(self.u16(field)?);
        if size > most {
            return Err(WireError(format!("{field} has {size} bytes, at most {most} are allowed")));
        }
        self.bytes(size, field)
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends reading. Bytes that are left over are an error.
    pub fn finish(self, structure: &str) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(WireError(format!("{structure} has {left} bytes after its end, none are allowed"))),
        }
    }
}

/// Builds a structure of at most [`MAX_MESSAGE`] bytes, and forgets it when dropped, as it may hold secrets.
pub struct Writer {
    bytes: Zeroizing<Vec<u8>>,
    overflow: bool,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

impl Writer {
    /// An empty structure.
    pub fn new() -> Writer {
        // All of it at once: a vector that grows would leave copies of secrets behind.
        Writer { bytes: Zeroizing::new(Vec::with_capacity(MAX_MESSAGE)), overflow: false }
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Writer {
        if bytes.len() > MAX_MESSAGE.saturating_sub(self.bytes.len()) {
            self.overflow = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
        self
    }

    /// One byte.
    #[must_use]
    pub fn u8(self, value: u8) -> Writer {
        self.bytes(&[value])
    }

    /// Two bytes.
    #[must_use]
    pub fn u16(self, value: u16) -> Writer {
        self.bytes(&value.to_be_bytes())
    }

    /// Four bytes.
    #[must_use]
    pub fn u32(self, value: u32) -> Writer {
        self.bytes(&value.to_be_bytes())
    }

    /// A `TPM2B`: the size in two bytes, then the bytes.
    #[must_use]
    pub fn sized(mut self, bytes: &[u8]) -> Writer {
        match u16::try_from(bytes.len()) {
            Ok(size) => self.u16(size).bytes(bytes),
            Err(_) => {
                self.overflow = true;
                self
            }
        }
    }

    /// What was written so far.
    pub fn written(&self) -> Result<&[u8], WireError> {
        if self.overflow {
            return Err(WireError(format!("the structure would have more than {MAX_MESSAGE} bytes")));
        }
        Ok(&self.bytes)
    }

    /// The finished structure.
    pub fn finish(self) -> Result<Zeroizing<Vec<u8>>, WireError> {
        self.written()?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_MESSAGE, Reader, Writer};

    #[test]
    fn what_is_written_can_be_read() {
        let bytes = Writer::new().u8(1).u16(2).u32(3).sized(b"four").bytes(b"five").finish().unwrap();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        assert_eq!(reader.sized(4, "d"), Ok(b"four".as_slice()));
        assert_eq!(reader.rest(), b"five");
        assert!(reader.clone().finish("all").unwrap_err().to_string().contains("4 bytes after its end"));
        assert_eq!(reader.u64("e").unwrap_err().to_string(), "e ends early: 4 bytes are left, 8 are needed");
    }

    #[test]
    fn sizes_have_bounds() {
        assert!(Reader::new(&[0, 5, 1, 2, 3, 4, 5]).sized(4, "x").is_err());
        assert!(Reader::new(&[0, 3, 1, 2]).sized(4, "x").is_err());
        assert!(Writer::new().bytes(&[0; MAX_MESSAGE]).finish().is_ok());
        assert!(Writer::new().bytes(&[0; MAX_MESSAGE]).u8(0).finish().is_err());
        assert!(Writer::new().sized(&[0; 70_000]).finish().is_err());
    }
}

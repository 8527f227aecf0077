//! Reads certificates and templates from the TPM's memory (NV).

use super::command::{Auth, Command};
use super::error::Error;
use super::{Device, RH_OWNER, rc};
use crate::attest::tpm::der;
use crate::attest::tpm::wire::Reader;
use std::io::{Read, Write};

const CC_NV_READ: u32 = 0x14e;
const CC_NV_READ_PUBLIC: u32 = 0x169;
/// `TPMA_NV_OWNERREAD`, `TPMA_NV_AUTHREAD`, `TPMA_NV_WRITTEN` (Part 2, 13.4).
const OWNER_READ: u32 = 1 << 17;
const AUTH_READ: u32 = 1 << 18;
const WRITTEN: u32 = 1 << 29;
/// The most bytes that anything read here may have. Certificates of endorsement keys have one to two thousand.
const MAX_NV: u16 = 8192;
/// How much to read at once: every TPM gives at least this much (`TPM_PT_NV_BUFFER_MAX` of the PC Client profile is 512 or more).
const CHUNK: u16 = 512;

/// What `TPMS_NV_PUBLIC` (Part 2, 13.5) says about a piece of memory.
struct Area {
    attributes: u32,
    size: u16,
}

impl<T: Read + Write> Device<T> {
    /// The certificate at `index`, without padding; `None` if there is none.
    pub(super) fn nv_certificate(&self, index: u32) -> Result<Option<Vec<u8>>, Error> {
        let Some(bytes) = self.nv_read(index)? else { return Ok(None) };
        let certificate = der::first_sequence(&bytes).map(<[u8]>::to_vec);
        let found = bytes.first().copied().unwrap_or_default();
        let sentence = || format!("the memory 0x{index:08x} starts with 0x{found:02x}, a certificate in DER (0x30) is wanted");
        certificate.map(Some).ok_or_else(|| Error::Answer(sentence()))
    }

    /// All bytes at `index`; `None` if there is nothing, or if it was never written.
    pub(super) fn nv_read(&self, index: u32) -> Result<Option<Vec<u8>>, Error> {
        let area = match self.nv_public(index) {
            Err(error) if error.is_refusal(&[rc::HANDLE]) => return Ok(None),
            result => result?,
        };
        if area.attributes & WRITTEN == 0 {
            return Ok(None);
        }
        if area.size > MAX_NV {
            let sentence = format!("the memory 0x{index:08x} has {} bytes, at most {MAX_NV} are allowed", area.size);
            return Err(Error::Answer(sentence));
        }
        // The owner may have a password, the memory itself has none.
        let owner_only = area.attributes & AUTH_READ == 0 && area.attributes & OWNER_READ != 0;
        let authority = if owner_only { RH_OWNER } else { index };
        let mut bytes = Vec::with_capacity(usize::from(area.size));
        for offset in (0..area.size).step_by(usize::from(CHUNK)) {
            bytes.extend(self.nv_chunk(authority, index, offset, CHUNK.min(area.size - offset))?);
        }
        Ok(Some(bytes))
    }

    /// `TPM2_NV_ReadPublic` (Part 3, 31.6).
    fn nv_public(&self, index: u32) -> Result<Area, Error> {
        let response = self.run(&Command::new("TPM2_NV_ReadPublic", CC_NV_READ_PUBLIC).handle(index))?;
        let mut reader = response.parameters();
        let mut public = Reader::new(reader.sized(128, "nvPublic")?);
        reader.sized(66, "nvName")?;
        reader.finish("the answer")?;
        let found = public.u32("nvIndex")?;
        if found != index {
            return Err(Error::Answer(format!("it describes the memory 0x{found:08x}, 0x{index:08x} is wanted")));
        }
        public.u16("nameAlg")?;
        let attributes = public.u32("attributes")?;
        public.sized(64, "authPolicy")?;
        let size = public.u16("dataSize")?;
        public.finish("nvPublic")?;
        Ok(Area { attributes, size })
    }

    /// `TPM2_NV_Read` (Part 3, 31.13).
    fn nv_chunk(&self, authority: u32, index: u32, offset: u16, size: u16) -> Result<Vec<u8>, Error> {
        let command = Command::new("TPM2_NV_Read", CC_NV_READ).authorized(authority, Auth::Empty).handle(index).u16(size).u16(offset);
        let response = self.run(&command)?;
        let mut reader = response.parameters();
        let data = reader.sized(usize::from(size), "data")?;
        reader.finish("the answer")?;
        if data.len() != usize::from(size) {
            return Err(Error::Answer(format!("{} bytes were read, {size} are wanted", data.len())));
        }
        Ok(data.to_vec())
    }
}

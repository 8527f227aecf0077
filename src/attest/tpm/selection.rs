//! Reads and writes which registers (PCRs) are meant.

use super::hash::Hash;
use super::wire::{Reader, WireError, Writer};
use zeroize::Zeroizing;

/// How many bytes of a selection hold the registers 0 to 23, which every PC and virtual TPM has.
const SELECT_BYTES: u8 = 3;
/// The most bytes that a selection may have: registers 0 to 31.
const MAX_SELECT_BYTES: u8 = 4;

/// The registers of the SHA-256 bank in a `TPML_PCR_SELECTION` (Part 2, 10.9.7), sorted. No other bank may be selected.
pub(crate) fn read_selection(reader: &mut Reader<'_>) -> Result<Vec<u8>, SelectionError> {
    match reader.u32("pcrSelect.count")? {
        1 => {}
        banks => return Err(SelectionError::Other(format!("{banks} banks of registers are selected, one (SHA-256) is wanted"))),
    }
    let hash = reader.u16("pcrSelect.hash")?;
    let size = reader.u8("pcrSelect.sizeofSelect")?;
    if size == 0 || size > MAX_SELECT_BYTES {
        return Err(WireError::new(format!("a selection of registers has {size} bytes, 1 to {MAX_SELECT_BYTES} are allowed")).into());
    }
    let bits = reader.bytes(usize::from(size), "pcrSelect.pcrSelect")?;
    if hash != Hash::Sha256.id() {
        return Err(SelectionError::Other(format!("the registers of bank 0x{hash:04x} are selected, 0x000b (SHA-256) is wanted")));
    }
    Ok((0..size * 8).filter(|&pcr| bits.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1)).collect())
}

/// Why a selection of registers was not accepted.
#[derive(Debug)]
pub(crate) enum SelectionError {
    /// It cannot be read.
    Wire(WireError),
    /// It selects something else than registers of one SHA-256 bank.
    Other(String),
}

impl From<WireError> for SelectionError {
    fn from(error: WireError) -> SelectionError {
        SelectionError::Wire(error)
    }
}

/// Writes a `TPML_PCR_SELECTION` of one SHA-256 bank. Registers above 23 are an error.
pub(crate) fn selection(pcrs: &[u8]) -> Result<Zeroizing<Vec<u8>>, WireError> {
    let mut bits = [0u8; SELECT_BYTES as usize];
    for &pcr in pcrs {
        match bits.get_mut(usize::from(pcr / 8)) {
            Some(byte) => *byte |= 1 << (pcr % 8),
            None => return Err(WireError::new(format!("register {pcr} is wanted, a TPM has the registers 0 to 23"))),
        }
    }
    Writer::new().u32(1).u16(Hash::Sha256.id()).u8(SELECT_BYTES).bytes(&bits).finish()
}

#[cfg(test)]
mod tests {
    use super::{read_selection, selection};
    use crate::attest::tpm::wire::Reader;

    #[test]
    fn selections_are_sorted_and_bounded() {
        let bytes = selection(&[23, 0, 7, 8, 0]).unwrap();
        assert_eq!(&bytes[..], [0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0x01, 0x80]);
        assert_eq!(read_selection(&mut Reader::new(&bytes)).unwrap(), [0, 7, 8, 23]);
        assert!(selection(&[24]).is_err());
        assert!(read_selection(&mut Reader::new(&[0, 0, 0, 2, 0, 0x0b, 3, 1, 0, 0, 0, 4, 3, 1, 0, 0])).is_err());
        assert!(read_selection(&mut Reader::new(&[0, 0, 0, 1, 0, 0x04, 3, 1, 0, 0])).is_err());
        assert!(read_selection(&mut Reader::new(&[0, 0, 0, 1, 0, 0x0b, 5, 1, 0, 0, 0, 0])).is_err());
    }
}

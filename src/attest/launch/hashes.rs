//! The table of hashes by which an AmdSev build of OVMF checks kernel, initrd and command line.
//!
//! QEMU writes it with `kernel-hashes=on` (`build_kernel_loader_hashes` in its target/i386/sev.c), and the page around it
//! is measured; the firmware then starts nothing else.

use super::gctx::PAGE;
use super::ovmf::{Guid, guid};
use sha2::{Digest as _, Sha256};

const TABLE: Guid = guid(0x9438d606, 0x4f22, 0x4cc9, 0xb479_a793d411fd21);
const CMDLINE: Guid = guid(0x97d02dd8, 0xbd20, 0x4c94, 0xaa78_e7714d36ab2a);
const INITRD: Guid = guid(0x44baf731, 0x3a2f, 0x4bd7, 0x9af1_41e29169781d);
const KERNEL: Guid = guid(0x4de79437, 0xabd2, 0x427f, 0xb835_d5b172d2045b);

/// GUID, length and hash.
const ENTRY_LEN: u16 = 16 + 2 + 32;
/// GUID, length and three entries.
const TABLE_LEN: u16 = 16 + 2 + 3 * ENTRY_LEN;
/// The bytes that the table needs in its page: QEMU pads it to whole AES blocks.
pub(super) const PADDED_LEN: usize = (TABLE_LEN as usize).next_multiple_of(16);

/// What QEMU starts with `-kernel`, as SHA-256 hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    kernel: [u8; 32],
    initrd: [u8; 32],
    cmdline: [u8; 32],
}

impl Kernel {
    /// Hashes the content of `-kernel` and `-initrd` and the text of `-append`, the last two empty where the option is absent.
    pub fn new(kernel: &[u8], initrd: &[u8], cmdline: &str) -> Self {
        // QEMU hashes the command line with the zero that ends it.
        let cmdline = Sha256::new().chain_update(cmdline).chain_update([0]);
        Kernel { kernel: Sha256::digest(kernel).into(), initrd: Sha256::digest(initrd).into(), cmdline: cmdline.finalize().into() }
    }

    /// The page with the table at `offset`, of which the firmware's parser has seen that it fits.
    pub(super) fn page(&self, offset: usize) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let mut at = offset;
        let mut put = |bytes: &[u8]| {
            page[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&TABLE);
        put(&TABLE_LEN.to_le_bytes());
        for (guid, hash) in [(CMDLINE, self.cmdline), (INITRD, self.initrd), (KERNEL, self.kernel)] {
            put(&guid);
            put(&ENTRY_LEN.to_le_bytes());
            put(&hash);
        }
        page
    }
}

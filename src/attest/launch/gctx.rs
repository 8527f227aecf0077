//! The chain of hashes that the AMD firmware keeps while a guest is loaded.
//!
//! Each page adds one PAGE_INFO structure, hashed together with all before it: "SEV Secure Nested Paging Firmware ABI
//! Specification" (AMD 56860), section 8.17.2 with table 67.

use sha2::{Digest as _, Sha384};

/// A SHA-384 digest: of a launch so far, or of one page.
pub type Digest = [u8; 48];

/// Bytes in a page.
pub(super) const PAGE: usize = 4096;

/// PAGE_INFO's own length in bytes, which it also carries.
const PAGE_INFO: usize = 0x70;

/// What AMD 56860 names PAGE_TYPE. The content counts for normal and register pages alone.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

/// The digest of a launch under way (the guest context's LD).
pub(super) struct Gctx(pub(super) Digest);

impl Gctx {
    /// A launch of which nothing is loaded yet.
    pub(super) fn new() -> Self {
        Gctx([0; 48])
    }

    /// Adds one page at a guest physical address by the digest of its content.
    pub(super) fn add(&mut self, kind: PageType, address: u64, content: &Digest) {
        let mut info = [0; PAGE_INFO];
        info[..0x30].copy_from_slice(&self.0);
        info[0x30..0x60].copy_from_slice(content);
        info[0x60..0x62].copy_from_slice(&(PAGE_INFO as u16).to_le_bytes());
        info[0x62] = kind as u8;
        // 0x63 is the migration agent's flag and 0x64 to 0x67 are permissions of lower privilege levels: all zero here.
        info[0x68..].copy_from_slice(&address.to_le_bytes());
        self.0 = sha384(&info);
    }

    /// Adds pages whose content does not count.
    pub(super) fn add_blank(&mut self, kind: PageType, address: u64, pages: u64) {
        for page in 0..pages {
            self.add(kind, address + page * PAGE as u64, &[0; 48]);
        }
    }
}

pub(super) fn sha384(bytes: &[u8]) -> Digest {
    Sha384::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that google/gce-tcb-verifier publishes in its `sev/sev_test.go`.
    #[test]
    fn chains_as_google_does() {
        let mut data = [0; 3 * PAGE];
        data[..16].copy_from_slice(b"LGTMLGTMLGTMLGTM");
        data[3 * PAGE - 16..].copy_from_slice(b"LGTMLGTMLGTMLGTM");
        let mut normal = Gctx::new();
        for (number, page) in data.chunks(PAGE).enumerate() {
            normal.add(PageType::Normal, (number * PAGE) as u64, &sha384(page));
        }
        assert_eq!(normal.0[..8], [0xcb, 0xa1, 0xcd, 0x76, 0x7c, 0x33, 0xb3, 0x0f]);
        assert_eq!(normal.0[40..], [0x42, 0x4a, 0x9a, 0xc5, 0x74, 0x74, 0x37, 0xd4]);

        let mut zero = Gctx::new();
        zero.add_blank(PageType::Zero, 0x9000, 3);
        assert_eq!(zero.0[..8], [0x4b, 0xfe, 0x18, 0x47, 0x7b, 0xa3, 0x70, 0xa5]);
        assert_eq!(zero.0[40..], [0xbe, 0x20, 0x2a, 0x6e, 0x94, 0x19, 0x80, 0x8a]);
    }
}

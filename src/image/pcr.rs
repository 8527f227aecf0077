//! What a TPM will hold after an image has started: the firmware measures each program it starts into PCR 4, the stub each
//! section it uses into PCR 11 (TCG PC Client Platform Firmware Profile; systemd-stub(7)).

use sha2::{Digest, Sha256};

/// The firmware's word before it starts what a boot entry names (PCR 4).
const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
/// Stands between what the firmware measures for itself and what it starts.
const SEPARATOR: [u8; 4] = [0; 4];

/// A platform configuration register of the SHA-256 bank.
struct Pcr([u8; 32]);

impl Pcr {
    fn extend(&mut self, digest: &[u8; 32]) {
        self.0 = Sha256::new().chain_update(self.0).chain_update(digest).finalize().into();
    }

    fn measure(&mut self, bytes: &[u8]) {
        self.extend(&Sha256::digest(bytes).into());
    }
}

/// PCR 4 after the firmware has started `programs` (Authenticode digests), the first of them by a boot entry.
pub(super) fn pcr4(programs: &[[u8; 32]]) -> [u8; 32] {
    let mut pcr = Pcr([0; 32]);
    pcr.measure(CALLING);
    pcr.measure(&SEPARATOR);
    programs.iter().for_each(|digest| pcr.extend(digest));
    pcr.0
}

/// PCR 11 after the stub has measured these sections, names and contents.
pub(super) fn pcr11(sections: &[(&str, &[u8])]) -> [u8; 32] {
    let mut pcr = Pcr([0; 32]);
    for (name, data) in sections {
        pcr.measure(&[name.as_bytes(), b"\0"].concat());
        pcr.measure(data);
    }
    pcr.0
}

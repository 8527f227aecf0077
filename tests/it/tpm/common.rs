//! A software TPM (`swtpm`) of one's own for each test, and the few commands that only tests need.

use portdistrict::attest::tpm::device::Device;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// No command of a software TPM takes this long; a test that waits longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);
/// The attributes of a good attestation key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
pub(crate) const AK_ATTRIBUTES: u32 = 0x0005_0472;

/// A running TPM. It ends when this is dropped.
pub(crate) struct Swtpm {
    process: Child,
    stream: UnixStream,
    state: TempDir,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Swtpm {
    /// A new TPM that has been started.
    pub(crate) fn start() -> Swtpm {
        Swtpm::start_in(TempDir::new().unwrap())
    }

    /// A TPM with the state in this folder. It reads commands from its standard input, a connected socket: there is nothing to wait for.
    pub(crate) fn start_in(state: TempDir) -> Swtpm {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--server", "type=tcp,fd=0", "--flags", "startup-clear,not-need-init", "--tpmstate"])
            .arg(format!("dir={}", state.path().display()))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Swtpm { process, stream, state }
    }

    /// Ends it and starts it again with what it keeps: its registers begin anew.
    pub(crate) fn restart(mut self) -> Swtpm {
        let state = std::mem::replace(&mut self.state, TempDir::new().unwrap());
        drop(self);
        Swtpm::start_in(state)
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(crate) fn device(&self) -> Device<&UnixStream> {
        Device::new(&self.stream)
    }

    /// Sends a command of which the modules know nothing, and returns its whole answer.
    pub(crate) fn raw(&self, tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(10 + body.len()).unwrap();
        let command = [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat();
        (&self.stream).write_all(&command).unwrap();
        let mut answer = vec![0; 10];
        (&self.stream).read_exact(&mut answer).unwrap();
        let size = u32::from_be_bytes(answer[2..6].try_into().unwrap());
        answer.resize(usize::try_from(size).unwrap(), 0);
        (&self.stream).read_exact(&mut answer[10..]).unwrap();
        answer
    }

    fn raw_ok(&self, tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        let answer = self.raw(tag, code, body);
        assert_eq!(answer[6..10], [0; 4], "the TPM refused command 0x{code:x}");
        answer
    }

    /// `TPM2_PCR_Extend` of the SHA-256 bank.
    pub(crate) fn extend(&self, pcr: u8, digest: [u8; 32]) {
        let body = [&[0, 0, 0, pcr], &PASSWORD_AREA[..], &[0, 0, 0, 1, 0, 0x0b], &digest].concat();
        self.raw_ok(0x8002, 0x182, &body);
    }

    /// `TPM2_HierarchyChangeAuth`: gives the hierarchy with this handle a password.
    pub(crate) fn set_password(&self, hierarchy: u32, password: &[u8]) {
        let size = u16::try_from(password.len()).unwrap().to_be_bytes();
        self.raw_ok(0x8002, 0x129, &[&hierarchy.to_be_bytes()[..], &PASSWORD_AREA, &size, password].concat());
    }

    /// `TPM2_Clear` by the lockout hierarchy.
    pub(crate) fn clear(&self) {
        self.raw_ok(0x8002, 0x126, &[&0x4000_000au32.to_be_bytes()[..], &PASSWORD_AREA].concat());
    }

    /// `TPM2_NV_DefineSpace` by the owner and `TPM2_NV_Write`: puts `data` at `index`.
    pub(crate) fn nv_put(&self, index: u32, data: &[u8]) {
        // OWNERWRITE, AUTHWRITE, OWNERREAD, AUTHREAD, NO_DA
        let attributes = 0x0206_0006u32.to_be_bytes();
        let size = u16::try_from(data.len()).unwrap().to_be_bytes();
        let public = [&index.to_be_bytes()[..], &[0, 0x0b], &attributes, &[0, 0], &size].concat();
        let owner = 0x4000_0001u32.to_be_bytes();
        self.raw_ok(0x8002, 0x12a, &[&owner, &PASSWORD_AREA[..], &[0, 0, 0, 14], &public].concat());
        for (number, chunk) in data.chunks(512).enumerate() {
            let size = u16::try_from(chunk.len()).unwrap().to_be_bytes();
            let offset = u16::try_from(number * 512).unwrap().to_be_bytes();
            self.raw_ok(0x8002, 0x137, &[&owner[..], &index.to_be_bytes(), &PASSWORD_AREA, &size, chunk, &offset].concat());
        }
    }

    /// How many keys and sessions are in its memory (`TPM2_GetCapability` of handles).
    pub(crate) fn loaded(&self) -> u32 {
        [0x8000_0000u32, 0x0200_0000, 0x0300_0000]
            .iter()
            .map(|first| {
                let body = [&1u32.to_be_bytes()[..], &first.to_be_bytes(), &64u32.to_be_bytes()].concat();
                let answer = self.raw_ok(0x8001, 0x17a, &body);
                u32::from_be_bytes(answer[15..19].try_into().unwrap())
            })
            .sum()
    }
}

/// The authorization area of one empty password.
const PASSWORD_AREA: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0];

/// A template for an ECC key that signs with ECDSA. Curve 3 is P-256, 4 is P-384; hash 0x0b is SHA-256, 0x0c is SHA-384.
pub(crate) fn ecc_template(attributes: u32, curve: u8, hash: u8) -> Vec<u8> {
    let head = [&[0, 0x23, 0, 0x0b], &attributes.to_be_bytes()[..], &[0, 0, 0, 0x10]].concat();
    [&head[..], &[0, 0x18, 0, hash, 0, curve, 0, 0x10, 0, 0, 0, 0]].concat()
}

/// A template for an RSA key that signs. Scheme 0x14 is RSASSA, 0x16 is RSAPSS.
pub(crate) fn rsa_template(attributes: u32, scheme: u8, hash: u8, bits: u16) -> Vec<u8> {
    let head = [&[0, 0x01, 0, 0x0b], &attributes.to_be_bytes()[..], &[0, 0, 0, 0x10]].concat();
    [&head[..], &[0, scheme, 0, hash], &bits.to_be_bytes(), &[0, 0, 0, 0, 0, 0]].concat()
}

/// A generator that is the same at every run, for tests only.
pub(crate) fn counting(start: u8) -> impl FnMut(&mut [u8]) {
    let mut next = start;
    move |buffer: &mut [u8]| {
        for byte in buffer {
            *byte = next;
            next = next.wrapping_mul(5).wrapping_add(1);
        }
    }
}

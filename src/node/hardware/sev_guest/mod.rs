//! The processor's word through `/dev/sev-guest`: reports with the host's certificates, and keys that it derives for this guest.

#[cfg(test)]
pub(in crate::node) mod double;
mod ioctl;
pub(in crate::node) mod messages;
#[cfg(test)]
mod tests;

pub(super) use ioctl::Kernel;

use crate::attest::SnpEvidence;
use crate::attest::evidence::MAX_CERTIFICATES;
use crate::error::{Code, Error, Result};
use messages::Command;
use rustix::io::Errno;
use std::time::Duration;
use zeroize::Zeroizing;

/// Where the kernel takes requests.
pub(super) const DEVICE: &str = "/dev/sev-guest";
/// How often a request is made while the host asks to make it again; the kernel itself tries for a while, too.
const ATTEMPTS: u32 = 5;
/// How long to wait before the second attempt; each further wait is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Room for certificates at first: ARK, ASK and VCEK take 5 KiB. The kernel counts it in pages.
const CERTIFICATES: usize = 2 * PAGE;
const PAGE: usize = 4096;
/// What the hypervisor says in the upper half of EXITINFO2.
const INVALID_LENGTH: u32 = 1;
const BUSY: u32 = 2;

/// What takes requests to the firmware: the kernel, or in tests a program.
pub(in crate::node) trait Guest {
    /// One request. Lengths are those of the command; `certificates` is used by extended reports alone, whose request says its
    /// length, and in whose request a refusal can say the length that is needed.
    fn ask(&mut self, command: Command, request: &mut [u8], response: &mut [u8], certificates: &mut [u8]) -> Result<(), Refusal>;
}

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) struct Refusal {
    /// The kernel's error number.
    pub(in crate::node) errno: i32,
    /// EXITINFO2: the hypervisor's word above 32 bits, the firmware's below.
    pub(in crate::node) exit: u64,
}

impl Refusal {
    fn hypervisor(self) -> u32 {
        u32::try_from(self.exit >> 32).unwrap_or_default()
    }

    fn firmware(self) -> u32 {
        u32::try_from(self.exit & u64::from(u32::MAX)).unwrap_or_default()
    }

    fn error(self) -> Error {
        let error = Error::new(Code::Failed, "the processor did not do what this machine asked");
        match (self.hypervisor(), self.firmware()) {
            (BUSY, _) => error.because("the host is busy with other requests").hint("try again in a moment"),
            (0, 0) if self.errno == Errno::NOTTY.raw_os_error() => {
                error.because("the kernel has given up its key to the firmware").hint("restart the machine")
            }
            (0, 0) => error.cause(std::io::Error::from_raw_os_error(self.errno)).hint("restart the machine"),
            (0, status) => error.because(messages::words(status)).hint("update the firmware of the host's processor, or ask its owner to"),
            (host, _) => error.because(format!("the hypervisor refuses with 0x{host:x}")).hint("restart the machine"),
        }
    }
}

/// The processor behind a device.
pub(in crate::node) struct SevGuest<G>(pub(in crate::node) G);

impl<G: Guest> SevGuest<G> {
    /// A report that holds these 64 bytes, and the certificates that the host gives with it.
    ///
    /// A host that refuses extended reports is asked for a plain one: without certificates, which a verifier may have from elsewhere.
    pub(in crate::node) fn report(&mut self, data: &[u8; 64]) -> Result<SnpEvidence> {
        let mut response = [0; 4000];
        let certificates = match self.extended(data, &mut response) {
            Ok(certificates) => certificates,
            Err(refusal) if refusal.hypervisor() == BUSY => return Err(refusal.error()),
            Err(_) => {
                let mut request = messages::report_request(data);
                self.patiently(Command::Report, &mut request, &mut response, &mut []).map_err(Refusal::error)?;
                Vec::new()
            }
        };
        Ok(SnpEvidence { report: messages::report(&response)?.to_vec(), certificates })
    }

    /// The key that this chip derives for guests with the policy, identities and launch measurement of this one.
    pub(in crate::node) fn derived_key(&mut self) -> Result<Zeroizing<[u8; 32]>> {
        let mut response = Zeroizing::new([0; 64]);
        self.patiently(Command::DerivedKey, &mut messages::key_request(), &mut *response, &mut []).map_err(Refusal::error)?;
        messages::key(&*response)
    }

    /// Fills in the answer, and returns the certificate table. While there are more certificates than room, it asks anew.
    fn extended(&mut self, data: &[u8; 64], response: &mut [u8]) -> Result<Vec<u8>, Refusal> {
        let fits = |needed: usize| needed <= MAX_CERTIFICATES && needed.is_multiple_of(PAGE);
        let mut space = CERTIFICATES;
        loop {
            let mut certificates = vec![0; space];
            let mut request = messages::extended_request(data, space);
            let asked = self.patiently(Command::ExtendedReport, &mut request, response, &mut certificates);
            let needed = messages::certificates_length(&request).unwrap_or(0);
            match asked {
                Ok(()) => {
                    certificates.truncate(messages::table_length(&certificates));
                    return Ok(certificates);
                }
                Err(refusal) if refusal.hypervisor() == INVALID_LENGTH && fits(needed) && needed > space => space = needed,
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// Asks until the host is not busy, a bounded number of times.
    fn patiently(&mut self, command: Command, request: &mut [u8], response: &mut [u8], certificates: &mut [u8]) -> Result<(), Refusal> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.0.ask(command, request, response, certificates) {
                Err(refusal) if refusal.hypervisor() == BUSY => std::thread::sleep(pause),
                done => return done,
            }
            pause *= 2;
        }
        self.0.ask(command, request, response, certificates)
    }
}

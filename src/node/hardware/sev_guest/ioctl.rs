//! One call of the kernel: a request to the processor's firmware through `/dev/sev-guest`. The only unsafe code of this program.

use super::messages::Command;
use super::{Guest, Refusal};
use crate::error::{Doing, Result};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::fs::File;
use std::path::Path;

/// The letter of this device's numbers (`SNP_GUEST_REQ_IOC_TYPE`).
const TYPE: u8 = b'S';
/// The version of messages to the firmware.
const MESSAGES: u8 = 1;
const REPORT: Opcode = opcode::read_write::<GuestRequest>(TYPE, Command::Report as u8);
const DERIVED_KEY: Opcode = opcode::read_write::<GuestRequest>(TYPE, Command::DerivedKey as u8);
const EXTENDED_REPORT: Opcode = opcode::read_write::<GuestRequest>(TYPE, Command::ExtendedReport as u8);
/// Where a request for an extended report has the address for certificates.
const ADDRESS: std::ops::Range<usize> = 96..104;

/// `struct snp_guest_request_ioctl` (include/uapi/linux/sev-guest.h).
#[repr(C)]
struct GuestRequest {
    msg_version: u8,
    req_data: u64,
    resp_data: u64,
    /// Above 32 bits the hypervisor's word, below the firmware's.
    exitinfo2: u64,
}

const _: () = assert!(size_of::<GuestRequest>() == 32);

/// The device.
pub(in crate::node::hardware) struct Kernel(File);

impl Kernel {
    /// Opens it. It needs no rights but those on the file.
    pub(in crate::node::hardware) fn open(path: &Path) -> Result<Kernel> {
        File::options().read(true).write(true).open(path).doing("open", path.display()).map(Kernel)
    }

    #[expect(unsafe_code, reason = "the kernel takes addresses, which no safe interface has for this device")]
    fn call(&self, command: Command, message: &mut GuestRequest) -> Result<(), Errno> {
        // SAFETY: each number is the kernel's for this structure, whose layout is checked above. `ask`, the only caller, lets the
        // three addresses in it and in the request point to buffers that it borrows until this returns, and that are as long as the
        // kernel takes them to be: what it reads and writes has a fixed size, but for certificates, whose length is in the request.
        // A file that is another device knows none of these numbers and touches nothing.
        unsafe {
            match command {
                Command::Report => ioctl(&self.0, Updater::<REPORT, _>::new(message)),
                Command::DerivedKey => ioctl(&self.0, Updater::<DERIVED_KEY, _>::new(message)),
                Command::ExtendedReport => ioctl(&self.0, Updater::<EXTENDED_REPORT, _>::new(message)),
            }
        }
    }
}

impl Guest for Kernel {
    fn ask(&mut self, command: Command, request: &mut [u8], response: &mut [u8], certificates: &mut [u8]) -> Result<(), Refusal> {
        let refused = |errno: Errno, exit| Refusal { errno: errno.raw_os_error(), exit };
        if request.len() != command.request_bytes() || response.len() != command.response_bytes() {
            return Err(refused(Errno::INVAL, 0));
        }
        if let Some(address) = request.get_mut(ADDRESS) {
            address.copy_from_slice(&(certificates.as_mut_ptr().expose_provenance() as u64).to_ne_bytes());
        }
        if super::messages::certificates_length(request).is_some_and(|length| length > certificates.len()) {
            return Err(refused(Errno::INVAL, 0));
        }
        let mut message = GuestRequest {
            msg_version: MESSAGES,
            req_data: request.as_mut_ptr().expose_provenance() as u64,
            resp_data: response.as_mut_ptr().expose_provenance() as u64,
            exitinfo2: 0,
        };
        self.call(command, &mut message).map_err(|errno| refused(errno, message.exitinfo2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn numbers_are_the_kernels() {
        // _IOWR('S', n, 32 bytes): direction 3, size 32, letter, number.
        assert_eq!([REPORT, DERIVED_KEY, EXTENDED_REPORT], [0xc020_5300, 0xc020_5301, 0xc020_5302]);
        assert_eq!(std::mem::offset_of!(GuestRequest, req_data), 8);
        assert_eq!(std::mem::offset_of!(GuestRequest, resp_data), 16);
        assert_eq!(std::mem::offset_of!(GuestRequest, exitinfo2), 24);
    }

    #[test]
    fn a_file_that_is_no_such_device_refuses_and_stays_as_it_was() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut kernel = Kernel::open(file.path()).unwrap();
        let (mut request, mut response) = ([1; 96], [2; 4000]);
        let refusal = kernel.ask(Command::Report, &mut request, &mut response, &mut []).unwrap_err();
        assert_eq!((refusal.errno, refusal.exit), (Errno::NOTTY.raw_os_error(), 0));
        assert_eq!((request, response), ([1; 96], [2; 4000]));
        // What is shorter than the kernel takes it to be never gets there.
        for (request, response) in [(95, 4000), (96, 3999), (112, 4000)] {
            let refusal = kernel.ask(Command::Report, &mut vec![0; request], &mut vec![0; response], &mut []).unwrap_err();
            assert_eq!(refusal.errno, Errno::INVAL.raw_os_error());
        }
        let mut request = super::super::messages::extended_request(&[0; 64], 4096);
        let refusal = kernel.ask(Command::ExtendedReport, &mut request, &mut response, &mut [0; 4095]).unwrap_err();
        assert_eq!(refusal.errno, Errno::INVAL.raw_os_error());
    }

    /// What the compiler is told to deny may be switched on again in this file alone.
    #[test]
    fn no_other_file_has_unsafe_code() {
        let mut waiting = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut found = Vec::new();
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text: String = std::fs::read_to_string(&path).unwrap().split_whitespace().collect();
                let switched_on = ["allow", "expect", "warn"].iter().any(|level| text.contains(&format!("{level}(unsafe_code")));
                found.extend(switched_on.then_some(path));
            }
        }
        assert_eq!(found, [PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/", file!()).replace("//", "/"))]);
    }
}

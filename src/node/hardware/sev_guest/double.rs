//! A processor made of software, behind the structures of the kernel: a chip with a secret of its own, under a root that is none of
//! AMD's. For tests alone.

use super::messages::Command;
use super::{BUSY, Guest, INVALID_LENGTH, PAGE, Refusal};
use crate::attest::snp::synthetic::{KEYS, blank_report, issuer_der, leaf_der, put, sign_report, table};
use crate::attest::snp::{Endorsement, Product, REPORT_BYTES};
use rustix::io::Errno;

const ASK: &str = "4ab7b379-bbac-4fe4-a02f-05aef327c782";
const VCEK: &str = "63da758d-e664-4564-adc5-f4b93be8accd";
/// GUEST_POLICY: SMT allowed, and the bit that is always set; and whether debuggers are let in.
const POLICY: u64 = 0x0003_0000;
const DEBUG: u64 = 1 << 19;

/// The chip, and the one guest that asks it.
#[derive(Clone)]
pub(in crate::node) struct Chip {
    /// What no two chips have in common.
    pub(in crate::node) secret: [u8; 32],
    /// What was launched.
    pub(in crate::node) measurement: [u8; 48],
    /// The host may look inside.
    pub(in crate::node) debug: bool,
    /// The host keeps a VLEK on it, which signs instead of the VCEK.
    pub(in crate::node) vlek: bool,
    /// The certificate table of the host.
    pub(in crate::node) table: Vec<u8>,
    /// The host knows no extended reports.
    pub(in crate::node) plain: bool,
    /// How many of the next requests the host is too busy for.
    pub(in crate::node) busy: u32,
    /// What the firmware says instead of answering.
    pub(in crate::node) status: u32,
    /// Bytes of the report that come over.
    pub(in crate::node) cut_to: usize,
    /// Requests so far.
    pub(in crate::node) asked: u32,
}

impl Default for Chip {
    fn default() -> Chip {
        let (ask, vcek) = (issuer_der(Product::Genoa, Endorsement::Vcek), leaf_der(Product::Genoa, Endorsement::Vcek));
        Chip {
            secret: [1; 32],
            measurement: [0x3c; 48],
            debug: false,
            vlek: false,
            table: table(&[(ASK, &ask), (VCEK, &vcek)]),
            plain: false,
            busy: 0,
            status: 0,
            cut_to: REPORT_BYTES,
            asked: 0,
        }
    }
}

impl Chip {
    fn policy(&self) -> u64 {
        POLICY | if self.debug { DEBUG } else { 0 }
    }

    fn report(&self, data: &[u8]) -> [u8; REPORT_BYTES] {
        let endorsement = if self.vlek { Endorsement::Vlek } else { Endorsement::Vcek };
        let mut report = blank_report(Product::Genoa, endorsement, 3);
        put(&mut report, 0x008, &self.policy().to_le_bytes());
        put(&mut report, 0x050, data);
        put(&mut report, 0x090, &self.measurement);
        sign_report(&mut report, &KEYS.leaf);
        report
    }

    /// Mixes what the request selects, as the firmware does.
    fn key(&self, request: &[u8]) -> [u8; 32] {
        let fields = u64::from_le_bytes(request[8..16].try_into().unwrap());
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&fields.to_le_bytes());
        let mut mix = |bit: u32, bytes: &[u8]| {
            if fields & 1 << bit != 0 {
                hasher.update(bytes);
            }
        };
        mix(0, &self.policy().to_le_bytes());
        mix(1, &[0; 16]);
        mix(2, &[0; 16]);
        mix(3, &self.measurement);
        mix(4, &request[20..24]);
        mix(5, &request[24..32]);
        hasher.finalize().into()
    }

    /// The host's certificates, where they have room; else how much they need.
    fn hand_over_certificates(&self, request: &mut [u8], certificates: &mut [u8]) -> Result<(), Refusal> {
        let space = u32::from_le_bytes(request[104..108].try_into().unwrap()) as usize;
        if !space.is_multiple_of(PAGE) || space > 16 * 1024 || space != certificates.len() {
            return Err(refusal(Errno::INVAL, 0, 0));
        }
        if space < self.table.len() {
            let needed = self.table.len().next_multiple_of(PAGE);
            request[104..108].copy_from_slice(&u32::try_from(needed).unwrap().to_le_bytes());
            return Err(refusal(Errno::NOSPC, INVALID_LENGTH, 0));
        }
        certificates[..self.table.len()].copy_from_slice(&self.table);
        Ok(())
    }
}

fn refusal(errno: Errno, hypervisor: u32, firmware: u32) -> Refusal {
    Refusal { errno: errno.raw_os_error(), exit: u64::from(hypervisor) << 32 | u64::from(firmware) }
}

impl Guest for Chip {
    fn ask(&mut self, command: Command, request: &mut [u8], response: &mut [u8], certificates: &mut [u8]) -> Result<(), Refusal> {
        self.asked += 1;
        assert_eq!((request.len(), response.len()), (command.request_bytes(), command.response_bytes()), "{command:?}");
        if self.busy > 0 {
            self.busy -= 1;
            return Err(refusal(Errno::TIMEDOUT, BUSY, 0));
        }
        response.fill(0);
        response[..4].copy_from_slice(&self.status.to_le_bytes());
        if command == Command::DerivedKey {
            // Root VCEK, nothing reserved, most privileged level.
            assert_eq!((&request[..8], &request[16..20]), (&[0; 8][..], &[0; 4][..]));
            if self.status == 0 {
                response[32..].copy_from_slice(&self.key(request));
            }
            return Ok(());
        }
        assert_eq!(request[64..96], [0; 32], "most privileged level, and nothing reserved");
        if command == Command::ExtendedReport {
            if self.plain {
                return Err(refusal(Errno::IO, 0, 0x15));
            }
            self.hand_over_certificates(request, certificates)?;
        }
        if self.status == 0 {
            let report = self.report(&request[..64]);
            response[4..8].copy_from_slice(&u32::try_from(self.cut_to).unwrap().to_le_bytes());
            response[32..32 + self.cut_to].copy_from_slice(&report[..self.cut_to]);
        }
        Ok(())
    }
}

//! Reads the 1184 bytes of an attestation report into named fields (56860 section 7.3, ATTESTATION_REPORT).

use super::{Product, TcbVersion, hex, malformed};
use crate::attest::{Fault, Reason};
use std::ops::Range;

/// The size of a report.
pub const REPORT_BYTES: usize = 0x4a0;

/// The signature covers the bytes before this offset.
pub const SIGNED_BYTES: usize = 0x2a0;

/// The only signature algorithm there is: ECDSA on P-384 with SHA-384 (56860 chapter 10).
pub(super) const ECDSA_P384_SHA384: u32 = 1;

/// R and S take 72 bytes each, of which a number of P-384 needs 48.
const NUMBER_BYTES: usize = 72;
const P384_BYTES: usize = 48;

/// What a report says. Reading it proves nothing: only [`Genuine::report`](super::Genuine::report) was signed by AMD's key.
///
/// Offsets are in bytes from the start of the report; numbers are little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// 0x000, VERSION: the layout of the report, 2, 3 or 5.
    pub version: u32,
    /// 0x004, GUEST_SVN: the guest's own security version, from the signed identity block of its launch.
    pub guest_svn: u32,
    /// 0x008, POLICY: what the guest allows the platform, fixed at launch.
    pub policy: Policy,
    /// 0x010, FAMILY_ID: from the identity block.
    pub family_id: [u8; 16],
    /// 0x020, IMAGE_ID: from the identity block.
    pub image_id: [u8; 16],
    /// 0x030, VMPL: the privilege level that asked for the report, 0 (highest) to 3; 0xffffffff if the host asked.
    pub vmpl: u32,
    /// 0x034, SIGNATURE_ALGO: 1 is ECDSA on P-384 with SHA-384.
    pub signature_algo: u32,
    /// 0x038, CURRENT_TCB: the firmware that runs.
    pub current_tcb: TcbVersion,
    /// 0x040, PLATFORM_INFO: what is on and off on the platform.
    pub platform_info: PlatformInfo,
    /// 0x048: which key signed the report, and how the keys are used.
    pub key_info: KeyInfo,
    /// 0x050, REPORT_DATA: what the guest asked to be signed.
    pub report_data: [u8; 64],
    /// 0x090, MEASUREMENT: SHA-384 of the memory that was launched.
    pub measurement: [u8; 48],
    /// 0x0c0, HOST_DATA: what the host gave at launch.
    pub host_data: [u8; 32],
    /// 0x0e0, ID_KEY_DIGEST: SHA-384 of the key that signed the identity block.
    pub id_key_digest: [u8; 48],
    /// 0x110, AUTHOR_KEY_DIGEST: SHA-384 of the key that certified the identity key; zero if there was none.
    pub author_key_digest: [u8; 48],
    /// 0x140, REPORT_ID: of this guest.
    pub report_id: [u8; 32],
    /// 0x160, REPORT_ID_MA: of its migration agent, all ones if it has none.
    pub report_id_ma: [u8; 32],
    /// 0x180, REPORTED_TCB: the firmware version that the signing key was derived from.
    pub reported_tcb: TcbVersion,
    /// 0x188 to 0x18a, CPUID_FAM_ID, CPUID_MOD_ID and CPUID_STEP: the processor; from version 3 on.
    pub cpuid: Option<Cpuid>,
    /// 0x1a0, CHIP_ID: the chip's identifier; zero if the host masked it.
    pub chip_id: [u8; 64],
    /// 0x1e0, COMMITTED_TCB: the platform cannot be taken back to firmware below this.
    pub committed_tcb: TcbVersion,
    /// 0x1e8, CURRENT_BUILD, CURRENT_MINOR and CURRENT_MAJOR: the firmware that runs.
    pub current: FirmwareVersion,
    /// 0x1ec, COMMITTED_BUILD, COMMITTED_MINOR and COMMITTED_MAJOR: the firmware that is committed.
    pub committed: FirmwareVersion,
    /// 0x1f0, LAUNCH_TCB: the firmware that ran when the guest was launched or imported.
    pub launch_tcb: TcbVersion,
    /// 0x1f8, LAUNCH_MIT_VECTOR: mitigations verified when the guest was launched; from version 5 on.
    pub launch_mit_vector: Option<u64>,
    /// 0x200, CURRENT_MIT_VECTOR: mitigations verified now; from version 5 on.
    pub current_mit_vector: Option<u64>,
    /// 0x2a0, SIGNATURE: R and then S, big-endian here, 48 bytes each. All zero if the report was not signed.
    pub signature: [u8; 2 * P384_BYTES],
}

impl Report {
    /// Reads a report of exactly [`REPORT_BYTES`] and of version 2, 3 or 5; reserved bytes and bits must be as they should.
    pub fn parse(bytes: &[u8]) -> Result<Report, Fault> {
        let bytes: &[u8; REPORT_BYTES] =
            bytes.try_into().map_err(|_| malformed(format!("the report has {} bytes, wanted {REPORT_BYTES}", bytes.len())))?;
        let reader = Fields(bytes);
        let version = reader.u32(0x000);
        if ![2, 3, 5].contains(&version) {
            return Err(Fault::new(Reason::UnsupportedProduct, format!("the report is of version {version}, wanted 2, 3 or 5")));
        }
        reader.check_reserved(version)?;
        Ok(Report {
            version,
            guest_svn: reader.u32(0x004),
            policy: Policy::parse(reader.u64(0x008))?,
            family_id: reader.array(0x010),
            image_id: reader.array(0x020),
            vmpl: reader.u32(0x030),
            signature_algo: reader.u32(0x034),
            current_tcb: reader.tcb(0x038),
            platform_info: PlatformInfo::parse(reader.u64(0x040))?,
            key_info: KeyInfo::parse(reader.u32(0x048))?,
            report_data: reader.array(0x050),
            measurement: reader.array(0x090),
            host_data: reader.array(0x0c0),
            id_key_digest: reader.array(0x0e0),
            author_key_digest: reader.array(0x110),
            report_id: reader.array(0x140),
            report_id_ma: reader.array(0x160),
            reported_tcb: reader.tcb(0x180),
            cpuid: (version >= 3).then(|| reader.cpuid()),
            chip_id: reader.array(0x1a0),
            committed_tcb: reader.tcb(0x1e0),
            current: reader.firmware(0x1e8),
            committed: reader.firmware(0x1ec),
            launch_tcb: reader.tcb(0x1f0),
            launch_mit_vector: (version >= 5).then(|| reader.u64(0x1f8)),
            current_mit_vector: (version >= 5).then(|| reader.u64(0x200)),
            signature: reader.signature(),
        })
    }

    /// The product line that the report names, from version 3 on; a processor that is not known is refused.
    pub fn product(&self) -> Result<Option<Product>, Fault> {
        let Some(cpuid) = self.cpuid else { return Ok(None) };
        let product = Product::of_cpuid(cpuid).ok_or_else(|| {
            let sentence =
                format!("the report names a processor of family {:#x} and model {:#x}, which is not known", cpuid.family, cpuid.model);
            Fault::new(Reason::UnsupportedProduct, sentence)
        })?;
        Ok(Some(product))
    }
}

/// POLICY (56860 section 4.3): what the guest allows the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(u64);

impl Policy {
    /// Bit 17 must be one; bits 26 to 63 must be zero.
    fn parse(bits: u64) -> Result<Policy, Fault> {
        if bits & 1 << 17 == 0 || bits >> 26 != 0 {
            return Err(malformed(format!("the guest policy is {bits:#x}, wanted bit 17 set and none above bit 25")));
        }
        Ok(Policy(bits))
    }

    /// All bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Bits 0 to 7, ABI_MINOR: the lowest minor version of the firmware's interface.
    pub fn abi_minor(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Bits 8 to 15, ABI_MAJOR: the lowest major version of the firmware's interface.
    pub fn abi_major(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Bit 16, SMT: two threads may share a core.
    pub fn smt_allowed(self) -> bool {
        bit(self.0, 16)
    }

    /// Bit 18, MIGRATE_MA: a migration agent may be associated.
    pub fn migration_agent_allowed(self) -> bool {
        bit(self.0, 18)
    }

    /// Bit 19, DEBUG: the host may read and write the guest's memory.
    pub fn debug_allowed(self) -> bool {
        bit(self.0, 19)
    }

    /// Bit 20, SINGLE_SOCKET: the guest runs on one socket only.
    pub fn single_socket_required(self) -> bool {
        bit(self.0, 20)
    }

    /// Bit 21, CXL_ALLOW: devices and memory may be attached by CXL.
    pub fn cxl_allowed(self) -> bool {
        bit(self.0, 21)
    }

    /// Bit 22, MEM_AES_256_XTS: memory must be encrypted with AES-256 in XTS mode.
    pub fn aes_256_xts_required(self) -> bool {
        bit(self.0, 22)
    }

    /// Bit 23, RAPL_DIS: power readings (Running Average Power Limit) must be off.
    pub fn rapl_off_required(self) -> bool {
        bit(self.0, 23)
    }

    /// Bit 24, CIPHERTEXT_HIDING_DRAM: the host must not be able to read encrypted memory.
    pub fn ciphertext_hiding_required(self) -> bool {
        bit(self.0, 24)
    }

    /// Bit 25, PAGE_SWAP_DISABLE: the commands that move and swap pages of the guest are off.
    pub fn page_swap_disabled(self) -> bool {
        bit(self.0, 25)
    }
}

/// PLATFORM_INFO (56860 section 7.3): what is on and off on the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformInfo(u64);

impl PlatformInfo {
    /// The bits that have a meaning; what a later firmware says with others would be overlooked.
    const KNOWN: u64 = 0b1011_1111;

    fn parse(bits: u64) -> Result<PlatformInfo, Fault> {
        if bits & !PlatformInfo::KNOWN != 0 {
            return Err(malformed(format!("the platform info is {bits:#x}, wanted no bits besides {:#x}", PlatformInfo::KNOWN)));
        }
        Ok(PlatformInfo(bits))
    }

    /// All bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Bit 0, SMT_EN: two threads share a core.
    pub fn smt_enabled(self) -> bool {
        bit(self.0, 0)
    }

    /// Bit 1, TSME_EN: all memory is encrypted.
    pub fn tsme_enabled(self) -> bool {
        bit(self.0, 1)
    }

    /// Bit 2, ECC_EN: memory has error correction.
    pub fn ecc_enabled(self) -> bool {
        bit(self.0, 2)
    }

    /// Bit 3, RAPL_DIS: power readings are off.
    pub fn rapl_disabled(self) -> bool {
        bit(self.0, 3)
    }

    /// Bit 4, CIPHERTEXT_HIDING_DRAM_EN: the host cannot read encrypted memory.
    pub fn ciphertext_hiding_enabled(self) -> bool {
        bit(self.0, 4)
    }

    /// Bit 5, ALIAS_CHECK_COMPLETE: since the last reset no memory was found at two addresses.
    pub fn alias_check_complete(self) -> bool {
        bit(self.0, 5)
    }

    /// Bit 7, TIO_EN: trusted devices (SEV-TIO) are on.
    pub fn tio_enabled(self) -> bool {
        bit(self.0, 7)
    }
}

/// The flags at 0x048: which key signed the report, and how keys are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// Bit 0, AUTHOR_KEY_EN: AUTHOR_KEY_DIGEST holds the digest of a key.
    pub author_key_en: bool,
    /// Bit 1, MASK_CHIP_KEY: the host forbade the use of the VCEK.
    pub mask_chip_key: bool,
    /// Bits 2 to 4, SIGNING_KEY: the key that signed.
    pub signing_key: SigningKey,
}

impl KeyInfo {
    fn parse(bits: u32) -> Result<KeyInfo, Fault> {
        if bits >> 5 != 0 {
            return Err(malformed(format!("the key info is {bits:#x}, wanted no bits above bit 4")));
        }
        let signing_key = match bits >> 2 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => SigningKey::None,
            other => return Err(malformed(format!("the report's signing key is {other}, wanted 0 (VCEK), 1 (VLEK) or 7 (none)"))),
        };
        Ok(KeyInfo { author_key_en: bits & 1 != 0, mask_chip_key: bits & 2 != 0, signing_key })
    }
}

/// SIGNING_KEY: the key that signed a report, as the report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// 0: the chip's key.
    Vcek,
    /// 1: the cloud provider's key.
    Vlek,
    /// 7: none, the report is not signed.
    None,
}

/// Family, model and stepping of the processor, with their extended parts added in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// CPUID_FAM_ID.
    pub family: u8,
    /// CPUID_MOD_ID.
    pub model: u8,
    /// CPUID_STEP.
    pub stepping: u8,
}

/// A version of the SNP firmware; sorts from old to new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirmwareVersion {
    /// The interface's major version.
    pub major: u8,
    /// The interface's minor version.
    pub minor: u8,
    /// The build.
    pub build: u8,
}

fn bit(bits: u64, index: u32) -> bool {
    bits >> index & 1 == 1
}

/// Reads fields at offsets that are all within the report.
struct Fields<'a>(&'a [u8; REPORT_BYTES]);

impl Fields<'_> {
    /// The bytes at an offset. A field beyond the end would be a mistake of this module: it would read as zero.
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }

    fn tcb(&self, offset: usize) -> TcbVersion {
        TcbVersion(self.array(offset))
    }

    fn firmware(&self, offset: usize) -> FirmwareVersion {
        let [build, minor, major] = self.array(offset);
        FirmwareVersion { major, minor, build }
    }

    fn cpuid(&self) -> Cpuid {
        let [family, model, stepping] = self.array(0x188);
        Cpuid { family, model, stepping }
    }

    /// R and S, big-endian and without the upper bytes, which [`check_reserved`](Fields::check_reserved) found to be zero.
    fn signature(&self) -> [u8; 2 * P384_BYTES] {
        let mut signature = [0; 2 * P384_BYTES];
        let (r, s) = signature.split_at_mut(P384_BYTES);
        r.copy_from_slice(&self.array::<P384_BYTES>(SIGNED_BYTES));
        s.copy_from_slice(&self.array::<P384_BYTES>(SIGNED_BYTES + NUMBER_BYTES));
        r.reverse();
        s.reverse();
        signature
    }

    /// Bytes that must be zero. Outside the signature the firmware signs them too: other values mean a layout not known here.
    fn check_reserved(&self, version: u32) -> Result<(), Fault> {
        let after_cpuid = if version >= 3 { 0x18b..0x1a0 } else { 0x188..0x1a0 };
        let after_mitigations = if version >= 5 { 0x208..0x2a0 } else { 0x1f8..0x2a0 };
        let (r, s) = (SIGNED_BYTES, SIGNED_BYTES + NUMBER_BYTES);
        let in_signature = [r + P384_BYTES..s, s + P384_BYTES..REPORT_BYTES];
        let mut all = [0x04c..0x050, after_cpuid, 0x1eb..0x1ec, 0x1ef..0x1f0, after_mitigations].into_iter().chain(in_signature);
        match all.find(|range| !self.is_zero(range)) {
            Some(range) => {
                let found = self.0.get(range.clone()).unwrap_or_default();
                let (start, end) = (range.start, range.end - 1);
                Err(malformed(format!("the report's bytes {start:#05x} to {end:#05x} are {}, wanted zero", hex(found))))
            }
            None => Ok(()),
        }
    }

    fn is_zero(&self, range: &Range<usize>) -> bool {
        self.0.get(range.clone()).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }
}

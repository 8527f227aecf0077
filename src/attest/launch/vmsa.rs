//! The page of registers (VMSA) that a virtual CPU starts with, under each hypervisor.
//!
//! Layout: AMD64 Architecture Programmer's Manual, volume 2, table B-4. Values: KVM's reset state with what each hypervisor
//! changes in it; the module's own documentation says where they come from.

use super::gctx::PAGE;
use super::{Error, Shape, Vmm};

/// Where the first virtual CPU starts, as every x86 does.
pub(super) const RESET: u32 = 0xffff_fff0;

/// What hypervisors do not agree on.
struct Differences {
    /// Attributes of the code segment.
    cs: u16,
    /// Attributes of the stack segment.
    ss: u16,
    /// Attributes of the task register.
    tr: u16,
    /// Page attribute table.
    pat: u64,
    /// The CPU's signature after a reset, or a constant in its place.
    rdx: u64,
    /// Control and status of SSE.
    mxcsr: u32,
    /// Control word of the x87.
    fcw: u16,
}

impl Differences {
    fn of(shape: &Shape, start: u32) -> Result<Self, Error> {
        let kvm_pat = 0x0007_0406_0007_0406;
        Ok(match shape.vmm {
            Vmm::Qemu => {
                let rdx = shape.cpu.ok_or(Error::NoCpu)?.signature().into();
                Differences { cs: 0x9b, ss: 0x93, tr: 0x8b, pat: kvm_pat, rdx, mxcsr: 0x1f80, fcw: 0x37f }
            }
            Vmm::Ec2 => {
                // Only a code segment at the reset vector has not been accessed yet.
                let cs = if start == RESET { 0x9a } else { 0x9b };
                Differences { cs, ss: 0x92, tr: 0x83, pat: kvm_pat, rdx: 0x600, mxcsr: 0, fcw: 0 }
            }
            Vmm::Gce => Differences { cs: 0x9b, ss: 0x93, tr: 0x8b, pat: 0x0007_0106, rdx: 0x600, mxcsr: 0, fcw: 0 },
        })
    }
}

/// The page of a virtual CPU that starts at `start`.
pub(super) fn page(shape: &Shape, start: u32) -> Result<[u8; PAGE], Error> {
    let own = Differences::of(shape, start)?;
    let mut page = [0; PAGE];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    // ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR: 16 bytes each, with selector, attributes, limit and base.
    for (number, attributes) in [0x93, own.cs, own.ss, 0x93, 0x93, 0x93, 0, 0x82, 0, own.tr].into_iter().enumerate() {
        put(number * 16 + 2, &attributes.to_le_bytes());
        put(number * 16 + 4, &0xffff_u32.to_le_bytes());
    }
    put(0x10, &0xf000_u16.to_le_bytes());
    put(0x18, &u64::from(start & 0xffff_0000).to_le_bytes());
    for (at, value) in [
        (0xd0, 0x1000_u64),                 // EFER: KVM sets SVME
        (0x148, 0x40),                      // CR4: KVM sets MCE
        (0x158, 0x10),                      // CR0
        (0x160, 0x400),                     // DR7
        (0x168, 0xffff_0ff0),               // DR6
        (0x170, 2),                         // RFLAGS
        (0x178, u64::from(start & 0xffff)), // RIP
        (0x268, own.pat),                   // G_PAT
        (0x310, own.rdx),                   // RDX
        (0x3b0, shape.guest_features),      // SEV_FEATURES
        (0x3e8, 1),                         // XCR0
    ] {
        put(at, &value.to_le_bytes());
    }
    put(0x408, &own.mxcsr.to_le_bytes());
    put(0x410, &own.fcw.to_le_bytes());
    Ok(page)
}

//! Firmware security versions (TCB_VERSION), whose layout depends on the product line.

use super::{Product, hex, malformed};
use crate::attest::Fault;
use std::fmt;

/// The eight bytes of a TCB_VERSION as a report holds them (56860 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcbVersion(pub [u8; 8]);

impl TcbVersion {
    /// Its parts; bytes that the product line's layout reserves must be zero.
    pub fn parts(self, product: Product) -> Result<TcbParts, Fault> {
        let TcbVersion(bytes) = self;
        let (parts, reserved) = match product {
            Product::Milan | Product::Genoa => {
                let [bootloader, tee, reserved @ .., snp, microcode] = bytes;
                (TcbParts { fmc: None, bootloader, tee, snp, microcode }, reserved.to_vec())
            }
            Product::Turin => {
                let [fmc, bootloader, tee, snp, reserved @ .., microcode] = bytes;
                (TcbParts { fmc: Some(fmc), bootloader, tee, snp, microcode }, reserved.to_vec())
            }
        };
        if reserved.iter().any(|&byte| byte != 0) {
            return Err(malformed(format!("the firmware version {self} has reserved bytes that are not zero on {product}")));
        }
        Ok(parts)
    }
}

impl fmt::Display for TcbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The security versions of the parts of the firmware: higher is newer, each counts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcbParts {
    /// The FMC; on Turin only.
    pub fmc: Option<u8>,
    /// The boot loader of the security processor.
    pub bootloader: u8,
    /// The operating system of the security processor.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The lowest patch level of the microcode of all cores.
    pub microcode: u8,
}

impl TcbParts {
    /// Whether no part is older than in `least`. Versions with and without an FMC cannot be compared: they are not.
    pub fn meets(&self, least: &TcbParts) -> bool {
        self.fmc.is_some() == least.fmc.is_some()
            && self.fmc >= least.fmc
            && self.bootloader >= least.bootloader
            && self.tee >= least.tee
            && self.snp >= least.snp
            && self.microcode >= least.microcode
    }
}

//! Names AMD's product lines, and tells which one a processor or a certificate belongs to.

use super::report::Cpuid;
use std::fmt;

/// A product line: each has its own root key, certificates and layout of firmware versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004, with Bergamo and Siena, which AMD's key service counts as Genoa.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Every product line that is supported.
    pub const ALL: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];

    /// The name that AMD uses in certificates and addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Product::Milan => "Milan",
            Product::Genoa => "Genoa",
            Product::Turin => "Turin",
        }
    }

    /// The product line of a processor, by its combined family and model (56860, CPUID_FAM_ID and CPUID_MOD_ID).
    pub fn of_cpuid(cpuid: Cpuid) -> Option<Product> {
        match (cpuid.family, cpuid.model) {
            (0x19, 0x00..=0x0f) => Some(Product::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Product::Genoa),
            (0x1a, 0x00..=0x11) => Some(Product::Turin),
            _ => None,
        }
    }

    /// The product line of a certificate, by its productName: "Milan" alone or with a stepping as in "Milan-B0" (57230).
    pub fn of_name(name: &str) -> Option<Product> {
        match name.split_once('-').map_or(name, |(line, _stepping)| line) {
            "Milan" => Some(Product::Milan),
            "Genoa" | "Bergamo" | "Siena" => Some(Product::Genoa),
            "Turin" => Some(Product::Turin),
            _ => None,
        }
    }

    /// How many bytes of a chip's identifier its certificate holds; in reports the rest of the 64 bytes is zero.
    pub fn chip_id_bytes(self) -> usize {
        match self {
            Product::Milan | Product::Genoa => 64,
            Product::Turin => 8,
        }
    }

    /// The product line with exactly this name.
    pub(super) fn of_line(name: &str) -> Option<Product> {
        Product::ALL.into_iter().find(|product| product.as_str() == name)
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of key that signs reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endorsement {
    /// The Versioned Chip Endorsement Key: of one chip at one firmware version, certified through the ASK.
    Vcek,
    /// The Versioned Loaded Endorsement Key: of one cloud provider at one firmware version, certified through the ASVK.
    Vlek,
}

impl fmt::Display for Endorsement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Endorsement::Vcek => "VCEK",
            Endorsement::Vlek => "VLEK",
        })
    }
}

//! `image.json`: what an image was made from, what it is, and what machines that start it will measure.

use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that this program writes and reads.
const VERSION: u32 = 1;

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this document.
    pub portdistrict_image: u32,
    /// Version of the program inside, which also built it.
    pub version: String,
    /// What it was made from.
    pub inputs: Vec<Input>,
    /// Unix seconds of every time inside.
    pub source_date_epoch: u32,
    /// As in `6.12.117+deb12-cloud-amd64`.
    pub kernel_release: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The drivers inside, in the order in which they are loaded.
    pub modules: Vec<String>,
    /// What firmware measures of the boot program (Authenticode, SHA-256, hex): the name of the image in evidence.
    pub uki_authenticode: String,
    /// What firmware measures of the kernel inside.
    pub kernel_authenticode: String,
    /// The boot program's sections.
    pub sections: Vec<Section>,
    /// Registers of a TPM (SHA-256 bank) after it has started, by number.
    pub pcr: BTreeMap<u8, String>,
    /// Launch measurements of SEV-SNP machines that start it, where firmware was named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launch: Vec<Launch>,
    /// The disk as QEMU takes it.
    pub disk: Artifact,
    /// The same as Google takes it.
    pub archive: Artifact,
    /// The command that makes the same bytes again.
    pub reproduce: String,
}

/// What an input is for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The first process.
    Program,
    /// The kernel's package.
    Kernel,
    /// The EFI program that starts the kernel, or its package.
    Stub,
    /// Firmware, for launch measurements only.
    Firmware,
}

/// A file that went into it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What for.
    pub role: Role,
    /// Its name without folders.
    pub name: String,
    /// Its package and version, if it is one, as apt takes it: `NAME=VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

/// A section of the boot program.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// As in `.linux`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

/// A launch measurement.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// `qemu`, `ec2` or `gce`.
    pub vmm: String,
    /// Signature of the processors (CPUID leaf 1, EAX), where it shows in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// How many.
    pub vcpus: u32,
    /// What the digest says something of.
    #[serde(default, skip_serializing_if = "Covers::is_firmware")]
    pub covers: Covers,
    /// SHA-384, hex.
    pub digest: String,
}

/// How far a launch measurement reaches.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Covers {
    /// To the firmware, whatever that boots.
    #[default]
    Firmware,
    /// To the boot program, which the firmware starts by its hash and nothing else.
    Image,
}

impl Covers {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    fn is_firmware(&self) -> bool {
        *self == Covers::Firmware
    }
}

/// A file that was made.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its name without folders.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

impl Manifest {
    /// The version of the documents that this program writes.
    pub const VERSION: u32 = VERSION;
    /// Far above what a manifest needs.
    pub const MAX: usize = 1024 * 1024;

    /// Reads one; `name` is for messages.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Manifest> {
        let bad = |why: String| {
            Error::new(Code::Usage, format!("{name} does not describe an image: {why}"))
                .hint("name the image.json that `portdistrict machine build` wrote")
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        match value.get("portdistrict_image").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                return Err(bad(format!("it has version {version}, this program reads {VERSION}")).hint("portdistrict update"));
            }
            None => return Err(bad("it does not say `portdistrict_image`".to_owned())),
        }
        serde_json::from_value(value).map_err(|error| bad(error.to_string()))
    }

    /// The launch measurements that speak of the image itself.
    pub fn launches_of_image(&self) -> impl Iterator<Item = &Launch> {
        self.launch.iter().filter(|launch| launch.covers == Covers::Image)
    }

    /// The bytes that [`Manifest::parse`] reads back.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(Code::Failed, "cannot write the manifest").cause(error).hint("report this"))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

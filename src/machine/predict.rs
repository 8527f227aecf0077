//! `machine predict`: launch measurements of SEV-SNP machines, before there is one.

use crate::attest::launch::{Cpu, Firmware, Kernel, Launch, Shape, Vmm};
use crate::config::fs;
use crate::encoding::hex;
use crate::error::{Code, Error, Result};
use crate::image::{Covers, Launch as Predicted, MAX_INPUT};
use std::path::{Path, PathBuf};

/// What is asked.
#[derive(Clone, Debug)]
pub struct PredictOrder {
    /// The firmware.
    pub firmware: PathBuf,
    /// Its digest, if that is known without these bytes (`snp:ovmf-hash`).
    pub firmware_digest: Option<[u8; 48]>,
    /// Hypervisors.
    pub vmms: Vec<Vmm>,
    /// Processor model; under QEMU it shows in the digest.
    pub cpu: Option<Cpu>,
    /// Numbers of processors.
    pub vcpus: Vec<u32>,
    /// Guest features (SEV_FEATURES).
    pub guest_features: u64,
    /// Kernel, initial file system and command line, where QEMU is started with `kernel-hashes=on`.
    pub kernel: Option<KernelFiles>,
}

/// A kernel that firmware checks by its hash.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: Option<PathBuf>,
    /// The command line.
    pub append: String,
}

/// What comes out.
pub struct Prediction {
    /// SHA-384 chain over the firmware alone, hex.
    pub firmware_digest: String,
    /// One for each hypervisor and number of processors.
    pub launch: Vec<Predicted>,
}

/// Works out all that was asked; the firmware is hashed once.
pub fn predict(order: &PredictOrder) -> Result<Prediction> {
    let kernel = order.kernel.as_ref().map(kernel).transpose()?;
    work_out(order, &order.vmms, kernel.as_ref())
}

/// The same for an image whose boot program QEMU is given as the kernel, with `kernel-hashes=on`, no initrd and no command line: these
/// measurements cover the image. None where the firmware checks no kernels, or no QEMU was asked for.
pub fn predict_boot_program(order: &PredictOrder, program: &[u8]) -> Result<Vec<Predicted>> {
    let firmware = read(&order.firmware)?;
    let checks = Firmware::parse(&firmware).is_ok_and(|firmware| firmware.checks_kernels());
    if !checks || !order.vmms.contains(&Vmm::Qemu) {
        return Ok(Vec::new());
    }
    Ok(work_out(order, &[Vmm::Qemu], Some(&Kernel::new(program, &[], "")))?.launch)
}

fn work_out(order: &PredictOrder, vmms: &[Vmm], kernel: Option<&Kernel>) -> Result<Prediction> {
    let bytes = read(&order.firmware)?;
    let name = order.firmware.display();
    let wrong = |error: crate::attest::launch::Error| {
        let hint = match error {
            crate::attest::launch::Error::NoKernelHashes => "take a firmware that checks kernels: the AmdSev build of OVMF",
            crate::attest::launch::Error::NoCpu => "--cpu EPYC-Milan",
            crate::attest::launch::Error::Vcpus(_) => "--vcpus 1,2,4",
            _ => "take a firmware built for SEV-SNP, such as /usr/share/ovmf/OVMF.fd of Debian's package ovmf",
        };
        Error::new(Code::Usage, format!("no launch measurement for {name}: {error}")).hint(hint)
    };
    let firmware = Firmware::parse(&bytes).map_err(wrong)?;
    let digest = order.firmware_digest.unwrap_or_else(|| firmware.digest());
    let mut launch = Vec::new();
    for vmm in vmms {
        let shape = Shape { vmm: *vmm, cpu: order.cpu, guest_features: order.guest_features };
        let measured = Launch::new(&firmware, digest, &shape, kernel).map_err(wrong)?;
        for vcpus in &order.vcpus {
            launch.push(Predicted {
                vmm: vmm.as_str().to_owned(),
                cpu: order.cpu.map(|cpu| format!("{:#x}", cpu.signature())),
                vcpus: *vcpus,
                covers: if kernel.is_some() { Covers::Image } else { Covers::Firmware },
                digest: hex(&measured.digest(*vcpus).map_err(wrong)?),
            });
        }
    }
    Ok(Prediction { firmware_digest: hex(&digest), launch })
}

fn kernel(files: &KernelFiles) -> Result<Kernel> {
    let initrd = files.initrd.as_deref().map(read).transpose()?;
    Ok(Kernel::new(&read(&files.kernel)?, &initrd.unwrap_or_default(), &files.append))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path, MAX_INPUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::launch::SNP_ACTIVE;
    use crate::attest::launch::tests::{with_hashes, without_hashes};

    #[test]
    fn a_boot_program_has_measurements_where_the_firmware_checks_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            file
        };
        let order = |firmware: &[u8], vmms: &[Vmm]| PredictOrder {
            firmware: file("OVMF.fd", firmware),
            firmware_digest: None,
            vmms: vmms.to_vec(),
            cpu: Some("EPYC-Milan".parse().unwrap()),
            vcpus: vec![1],
            guest_features: SNP_ACTIVE,
            kernel: None,
        };
        let checks = with_hashes(0x81_0c00, 0x400);
        let covering = predict_boot_program(&order(&checks, &[Vmm::Qemu, Vmm::Gce]), b"the boot program").unwrap();
        assert_eq!(covering.iter().map(|one| (one.vmm.as_str(), one.covers)).collect::<Vec<_>>(), [("qemu", Covers::Image)]);
        // As `machine predict --kernel` has it, and other than that of the firmware alone or of another program.
        let kernel = KernelFiles { kernel: file("uki", b"the boot program"), initrd: None, append: String::new() };
        let named = predict(&PredictOrder { kernel: Some(kernel), ..order(&checks, &[Vmm::Qemu]) }).unwrap();
        assert_eq!(named.launch, covering);
        let alone = predict(&order(&checks, &[Vmm::Qemu])).unwrap();
        assert!(alone.launch[0].covers == Covers::Firmware && alone.launch[0].digest != covering[0].digest);
        assert_ne!(predict_boot_program(&order(&checks, &[Vmm::Qemu]), b"another").unwrap()[0].digest, covering[0].digest);
        // Nobody checks it there, so nothing covers it.
        assert_eq!(predict_boot_program(&order(&checks, &[Vmm::Gce, Vmm::Ec2]), b"the boot program").unwrap(), []);
        assert_eq!(predict_boot_program(&order(&without_hashes(), &[Vmm::Qemu]), b"the boot program").unwrap(), []);
    }
}

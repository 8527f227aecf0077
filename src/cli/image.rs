//! `machine build` and `machine predict`: images, and what machines that start them will measure.

use super::Call;
use super::output::{Look, View, fields};
use crate::attest::launch::{Cpu, SNP_ACTIVE, Vmm};
use crate::config::bytes;
use crate::error::{Code, Error, Result};
use crate::image::{Covers, Launch, Manifest, Role};
use crate::machine::build::{self, BuildOrder};
use crate::machine::predict::{KernelFiles, PredictOrder, Prediction, predict};
use crate::machine::provenance;
use clap::ValueHint;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Build a disk that boots to an exit node and nothing else
///
/// It holds a Linux kernel, this very program as its only process, and the drivers they need. The same inputs give the same
/// bytes on every computer; image.json tells the inputs, the digests, and what a TPM will measure. Kernel and stub are
/// fetched with apt where they are not named. SOURCE_DATE_EPOCH sets every time inside (0 unless given).
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  An image in the folder out:\n    portdistrict machine build -o out\n  \
                             From packages that lie here already:\n    \
                             portdistrict machine build -o out --kernel-deb linux-image.deb --stub systemd-boot-efi.deb\n  \
                             With launch measurements for SEV-SNP machines:\n    \
                             portdistrict machine build -o snp --ovmf OVMF.fd --vmm qemu,gce --vcpus 1,2,4 --cpu EPYC-Milan\n  \
                             Signed, so that others can check who made it:\n    portdistrict machine build -o out --sign\n  \
                             Check somebody's image by making it again:\n    portdistrict machine build --verify out/image.json")]
pub(super) struct BuildArgs {
    /// Folder for the image; made if missing
    #[arg(long, short, value_name = "FOLDER", value_hint = ValueHint::DirPath, required_unless_present = "verify")]
    out: Option<PathBuf>,
    /// Kernel, as a Debian package
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel_deb: Option<PathBuf>,
    /// EFI stub that starts the kernel, or the Debian package that holds it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    stub: Option<PathBuf>,
    /// Static program to put in, instead of this one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    program: Option<PathBuf>,
    /// Build again what this image.json tells, and compare; status 4 if it differs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "out")]
    verify: Option<PathBuf>,
    /// Sign for it, too, as `machine sign-image` does
    #[arg(long, conflicts_with = "verify")]
    sign: bool,
    /// What the pipeline calls this run, for --sign
    #[arg(long, value_name = "TEXT", requires = "sign", value_hint = ValueHint::Other)]
    invocation: Option<String>,
    #[command(flatten)]
    launch: LaunchArgs,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// For launch measurements.
#[derive(clap::Args)]
struct LaunchArgs {
    /// Firmware of SEV-SNP machines, to compute their launch measurements
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    ovmf: Option<PathBuf>,
    /// Hypervisors: qemu, ec2, gce; several with commas
    #[arg(long, value_name = "VMM", value_delimiter = ',', value_parser = vmm(), default_value = "qemu", requires = "ovmf")]
    vmm: Vec<String>,
    /// Numbers of virtual processors, with commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,2,4", requires = "ovmf", value_hint = ValueHint::Other)]
    vcpus: Vec<u32>,
    /// Processor model under QEMU, as in EPYC-Milan, or FAMILY/MODEL/STEPPING
    #[arg(long, value_name = "MODEL", requires = "ovmf", value_hint = ValueHint::Other)]
    cpu: Option<String>,
    /// Guest features (SEV_FEATURES) in hexadecimal; 1 unless the host switches more on
    #[arg(long, value_name = "HEX", value_parser = hex_number, requires = "ovmf", value_hint = ValueHint::Other)]
    guest_features: Option<u64>,
}

/// Compute launch measurements of SEV-SNP machines, offline
///
/// Under EC2 and GCE the measurement covers the provider's firmware and nothing that the machine boots; it cannot speak about an
/// image. Under QEMU with kernel-hashes=on it covers the kernel, too: name it with --kernel.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  For machines of one to four processors at Google:\n    \
                             portdistrict machine predict --ovmf OVMF.fd --vmm gce --vcpus 1,2,4\n  \
                             Under QEMU; with a firmware that checks kernels, add --kernel:\n    \
                             portdistrict machine predict --ovmf OVMF.fd --cpu EPYC-Milan --vcpus 2")]
pub(super) struct PredictArgs {
    #[command(flatten)]
    launch: LaunchArgs,
    /// Kernel, where QEMU starts it with kernel-hashes=on
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,
    /// Initial file system of that kernel
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Command line of that kernel
    #[arg(long, value_name = "TEXT", requires = "kernel", value_hint = ValueHint::Other)]
    append: Option<String>,
    /// Digest of the firmware (snp:ovmf-hash), if its sections are those of --ovmf and its code is another
    #[arg(long, value_name = "HEX", value_parser = digest, value_hint = ValueHint::Other)]
    ovmf_hash: Option<[u8; 48]>,
}

fn vmm() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(Vmm::ALL.map(Vmm::as_str))
}

fn hex_number(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .map_err(|error| Error::new(Code::Usage, format!("{text:?} is no hexadecimal number")).cause(error).hint("--guest-features 0x21"))
}

fn digest(text: &str) -> Result<[u8; 48]> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Error::new(Code::Usage, format!("{text:?} is no SHA-384 digest")).hint("give 96 hexadecimal digits"))
}

impl LaunchArgs {
    /// Nothing if no firmware was named.
    fn order(&self) -> Result<Option<PredictOrder>> {
        let Some(firmware) = self.ovmf.clone() else { return Ok(None) };
        let wrong = |error: crate::attest::launch::Error| Error::new(Code::Usage, error.to_string()).hint("--cpu EPYC-Milan");
        Ok(Some(PredictOrder {
            firmware,
            firmware_digest: None,
            vmms: self.vmm.iter().map(|name| name.parse::<Vmm>()).collect::<Result<_, _>>().map_err(wrong)?,
            cpu: self.cpu.as_deref().map(str::parse::<Cpu>).transpose().map_err(wrong)?,
            vcpus: self.vcpus.clone(),
            guest_features: self.guest_features.unwrap_or(SNP_ACTIVE),
            kernel: None,
        }))
    }
}

/// Runs `machine build`.
pub(super) fn run_build(call: &Call, args: BuildArgs) -> Result<()> {
    let cx = call.context()?;
    let order = BuildOrder {
        out: args.out.unwrap_or_default(),
        kernel_deb: args.kernel_deb,
        stub: args.stub,
        program: args.program,
        epoch: epoch()?,
        launch: args.launch.order()?,
    };
    if args.dry_run {
        let mut would = build::describe(&order, args.verify.as_deref());
        would.extend(args.sign.then(|| provenance::describe(&order.out)).into_iter().flatten());
        return call.out.show(&super::machine::Steps { would });
    }
    let (paths, progress, out) = (cx.paths().clone(), call.out.progress(), order.out.clone());
    if let Some(file) = args.verify {
        cancellable(call, &out, move || build::verify(&paths, &file, &order, &*progress))?;
        call.out.say("Byte for byte the same.");
        return Ok(());
    }
    if args.sign {
        // Before the work: whoever has no identity hears of it now.
        cx.keyring()?;
    }
    let built = cancellable(call, &out, move || build::build(&paths, &order, &*progress))?;
    if args.sign {
        provenance::sign(&cx, &out, args.invocation.as_deref())?;
    }
    call.out.say(format!("Next: portdistrict machine deploy --on qemu --image {} --label vm", crate::config::fs::shell_quote(&out)));
    call.out.show(&Made { file: built.file.display().to_string(), manifest: built.manifest })
}

/// Runs long work on a thread, so that Ctrl-C is heard; then nothing half made is left in the folder.
pub(super) fn cancellable<T: Send + 'static>(call: &Call, out: &Path, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    let gone = || Error::new(Code::Failed, "the build ended without a result").hint("run it again; if that happens once more, report it");
    call.block_on(async { result.await.unwrap_or_else(|_| Err(gone())) }).inspect_err(|error| {
        if matches!(error.code(), Code::Interrupted | Code::TimedOut) {
            build::give_up(out);
        }
    })
}

/// Unix seconds of every time in an image (reproducible-builds.org, SOURCE_DATE_EPOCH).
pub(super) fn epoch() -> Result<u32> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(0) };
    text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::new(Code::Usage, format!("SOURCE_DATE_EPOCH is no number of seconds: {}", text.display())).hint("SOURCE_DATE_EPOCH=0")
    })
}

/// A new image.
#[derive(Serialize)]
struct Made {
    file: String,
    #[serde(flatten)]
    manifest: Manifest,
}

impl View for Made {
    fn text(&self, look: &Look) -> String {
        let made = &self.manifest;
        let input = |role| {
            made.inputs.iter().find(|input| input.role == role).map(|input| input.package.clone().unwrap_or_else(|| input.name.clone()))
        };
        let size = |artifact: &crate::image::Artifact| format!("{} ({})", artifact.name, bytes(artifact.size));
        let mut rows = vec![
            ("image", look.bold(&self.file)),
            ("kernel", input(Role::Kernel).unwrap_or_default()),
            ("stub", input(Role::Stub).unwrap_or_default()),
            ("program", format!("portdistrict {}", made.version)),
            ("disk", size(&made.disk)),
            ("archive", size(&made.archive)),
            ("authenticode", made.uki_authenticode.clone()),
        ];
        let names: Vec<String> = made.pcr.keys().map(|number| format!("pcr {number}")).collect();
        rows.extend(names.iter().map(String::as_str).zip(made.pcr.values().cloned()));
        fields(&rows) + &launches(&made.launch)
    }
}

/// A line for each launch measurement.
fn launches(launch: &[Launch]) -> String {
    let of = |one: &Launch| {
        let cpu = one.cpu.as_ref().map(|cpu| format!(" {cpu}")).unwrap_or_default();
        let covers = if one.covers == Covers::Image { " with its kernel" } else { "" };
        format!("{} {} vcpus{cpu}{covers}: {}\n", one.vmm, one.vcpus, one.digest)
    };
    launch.iter().map(of).collect()
}

/// What a prediction prints.
#[derive(Serialize)]
struct Predicted {
    firmware_digest: String,
    launch: Vec<Launch>,
}

impl View for Predicted {
    fn text(&self, look: &Look) -> String {
        fields(&[("firmware", look.bold(&self.firmware_digest))]) + &launches(&self.launch)
    }
}

/// Runs `machine predict`.
pub(super) fn run_predict(call: &Call, args: PredictArgs) -> Result<()> {
    let order = args.launch.order()?.ok_or_else(|| {
        Error::new(Code::Usage, "no firmware is named").hint("portdistrict machine predict --ovmf /usr/share/ovmf/OVMF.fd --vmm gce")
    })?;
    let kernel = args.kernel.map(|kernel| KernelFiles { kernel, initrd: args.initrd, append: args.append.unwrap_or_default() });
    let order = PredictOrder { kernel, firmware_digest: args.ovmf_hash, ..order };
    let beside: Vec<_> = order.vmms.iter().filter(|vmm| **vmm != Vmm::Qemu).map(|vmm| vmm.as_str()).collect();
    if order.kernel.is_some() && !beside.is_empty() {
        call.out.say(format!("Nothing on {} checks the hashes of a kernel; the digest is computed as if.", beside.join(" and ")));
    }
    let Prediction { firmware_digest, launch } = predict(&order)?;
    call.out.show(&Predicted { firmware_digest, launch })
}

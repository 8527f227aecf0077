//! A disk that boots to an exit node and nothing else: a kernel, this program as its first process, and the drivers it needs.
//!
//! Pure: bytes in, bytes out. The same inputs give the same bytes on every machine; what depends on who owns a machine reaches it
//! later, as metadata. `docs/image.md` tells what is in an image and how to check one.

mod archive;
mod cpio;
mod deb;
pub mod disk;
mod manifest;
mod modules;
mod pcr;
mod pe;
pub mod provenance;
mod uki;

pub use archive::write as write_archive;
pub use deb::Deb;
pub use manifest::{Artifact, Covers, Input, Launch, Manifest, Role, Section};
pub use uki::{Piece, Uki};

use crate::error::{Code, Error, Result};
use crate::progress::Progress;
use cpio::Cpio;
use modules::{Module, Modules};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Architecture, Endianness, Object};

/// The kernel says little, a panic ends the machine, nothing unsigned is loaded.
const COMMAND_LINE: &str = "console=ttyS0,115200 quiet panic=1 oops=panic lockdown=integrity module.sig_enforce=1";
/// Drivers of every machine: network (QEMU, Hetzner; Google), what QEMU hands in, randomness, evidence (SEV-SNP, TDX), power button, watchdog.
const DRIVERS: [&str; 10] =
    ["virtio_net", "gve", "qemu_fw_cfg", "virtio_rng", "tsm", "sev_guest", "tdx_guest", "evdev", "button", "i6300esb"];
/// Drivers of disks, loaded only where nothing else brings the metadata.
const DISK_DRIVERS: [&str; 3] = ["virtio_blk", "virtio_scsi", "sd_mod"];
/// Folders of the root file system, each after the one it lies in.
const FOLDERS: [&str; 7] = ["dev", "etc", "modules", "modules/disk", "proc", "run", "sys"];
/// Beyond this the smallest gain takes ten times as long.
const ZSTD_LEVEL: i32 = 12;
/// More than a program or a kernel package ever has.
pub const MAX_INPUT: usize = 512 * 1024 * 1024;

/// What an image is made from.
pub struct Recipe<'a> {
    /// The static program that becomes the first process.
    pub program: &'a [u8],
    /// Its version.
    pub version: &'a str,
    /// A Debian kernel package.
    pub kernel: &'a Deb<'a>,
    /// The EFI program that starts the kernel.
    pub stub: &'a [u8],
    /// Unix seconds for every time inside.
    pub epoch: u32,
}

/// A finished image that has yet to be written to a disk.
pub struct Image {
    /// The program that firmware starts, and what will be measured of it.
    pub uki: Uki,
    /// As in `6.12.117+deb12-cloud-amd64`.
    pub release: String,
    /// The drivers inside, in the order in which they are loaded.
    pub modules: Vec<String>,
    /// The kernel's command line.
    pub command_line: &'static str,
}

/// Makes an image.
pub fn build(recipe: &Recipe<'_>, progress: &dyn Progress) -> Result<Image> {
    check_program(recipe.program)?;
    let step = progress.step("unpack the kernel");
    let kernel = Kernel::unpack(recipe.kernel)?;
    let drivers = kernel.modules.closure(&DRIVERS)?;
    let disk_drivers = kernel.modules.closure(&DISK_DRIVERS)?;
    step.done();
    let step = progress.step("pack the file system");
    let initrd = pack(recipe, &drivers, &disk_drivers)?;
    step.done();
    let step = progress.step("assemble the boot program");
    let uki = uki::assemble(&uki::Parts {
        stub: recipe.stub,
        kernel: &kernel.image,
        release: &kernel.release,
        initrd: &initrd,
        command_line: COMMAND_LINE,
        os_release: &os_release(recipe.version),
    })?;
    step.done();
    let modules = drivers.into_iter().chain(disk_drivers).map(|module| module.name).collect();
    Ok(Image { uki, release: kernel.release, modules, command_line: COMMAND_LINE })
}

/// What is taken from a kernel package.
struct Kernel {
    image: Vec<u8>,
    release: String,
    modules: Modules,
}

impl Kernel {
    fn unpack(package: &Deb<'_>) -> Result<Kernel> {
        let all_drivers = |path: &str| path.starts_with("lib/modules/") && path.contains(".ko");
        let mut files = package.extract(|path| {
            path.starts_with("boot/vmlinuz-") || path.ends_with("/modules.builtin") || all_drivers(path.trim_start_matches("usr/"))
        })?;
        let none = |what: &str| {
            Error::new(Code::Usage, format!("the package {} {} has no {what}", package.package, package.version))
                .hint("take a kernel package such as linux-image-6.12.…-cloud-amd64, not the one that only depends on it")
        };
        let name = files.keys().find(|path| path.starts_with("boot/vmlinuz-")).cloned().ok_or_else(|| none("kernel"))?;
        let image = files.remove(&name).unwrap_or_default();
        let list = files.keys().find(|path| path.ends_with("/modules.builtin")).cloned().ok_or_else(|| none("list of built-in modules"))?;
        let builtin = files.remove(&list).unwrap_or_default();
        let release = name.trim_start_matches("boot/vmlinuz-").to_owned();
        Ok(Kernel { image, release, modules: Modules::new(files, &String::from_utf8_lossy(&builtin)) })
    }
}

/// There is no loader and no library inside: the program must need none.
fn check_program(program: &[u8]) -> Result<()> {
    let bad = |why: &str| {
        Error::new(Code::Precondition, format!("this program cannot be the first process of a machine: {why}"))
            .hint("use a release, or build one: ./ci/build")
    };
    let file = ElfFile64::<Endianness>::parse(program).map_err(|error| bad("it is no 64-bit ELF program").cause(error))?;
    if file.architecture() != Architecture::X86_64 {
        return Err(bad("it is not for x86-64"));
    }
    // A static program names no interpreter.
    match file.elf_program_headers().iter().any(|header| header.p_type(file.endian()) == PT_INTERP) {
        true => Err(bad("it is linked dynamically")),
        false => Ok(()),
    }
}

/// The root file system, packed. Drivers are loaded in the order of their names.
fn pack(recipe: &Recipe<'_>, drivers: &[Module], disk_drivers: &[Module]) -> Result<Vec<u8>> {
    let mut root = Cpio::new(recipe.epoch);
    FOLDERS.iter().for_each(|folder| root.folder(folder));
    root.char_device("dev/console", 5, 1);
    root.program("init", recipe.program);
    // Arti asks who it runs as.
    root.file("etc/passwd", b"root:x:0:0:root:/:/init\n");
    root.file("etc/group", b"root:x:0:\n");
    for (folder, modules) in [("modules", drivers), ("modules/disk", disk_drivers)] {
        for (index, module) in modules.iter().enumerate() {
            root.file(&format!("{folder}/{index:02}-{}.ko", module.name), &module.object);
        }
    }
    zstd::bulk::compress(&root.finish(), ZSTD_LEVEL).map_err(|error| {
        Error::new(Code::Failed, "cannot pack the file system").cause(error).hint("free some memory and run the command again")
    })
}

/// The body of a fuzz target: any bytes as a stub.
pub(crate) fn fuzz_efi(data: &[u8]) {
    if let Ok(stub) = pe::Pe::parse("the stub", data)
        && let Some(whole) = stub.with_sections(&[(".linux", b"kernel"), (".initrd", b"")])
    {
        assert!(pe::Pe::parse("the image", &whole).is_ok_and(|pe| pe.authenticode().is_some() || stub.authenticode().is_none()));
    }
    let _ = modules::Modules::new([("x.ko".to_owned(), data.to_vec())], "").closure(&["x"]);
}

/// os-release(5); tools that look into images show it.
fn os_release(version: &str) -> String {
    format!("ID=portdistrict\nNAME=portdistrict\nPRETTY_NAME=\"portdistrict {version}\"\nVERSION_ID={version}\n")
}

//! `machine build`: finds what an image is made from, makes it, writes it, and says what it is.

use super::packages::{self, Package};
use super::predict::{PredictOrder, predict, predict_boot_program};
use crate::config::{Paths, fs};
use crate::encoding::hex;
use crate::error::{Code, Doing, Error, Result};
use crate::image::{self, Artifact, Deb, Input, Launch, Manifest, Recipe, Role, Section, disk};
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names of what is made.
const DISK: &str = "disk.raw";
const ARCHIVE: &str = "image.tar.gz";
pub(super) const MANIFEST: &str = "image.json";
/// The stub within its package, and where an installed one lies.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// What a person decides about an image.
#[derive(Clone, Debug, Default)]
pub struct BuildOrder {
    /// Folder for the image; made if missing.
    pub out: PathBuf,
    /// Kernel package; fetched if absent.
    pub kernel_deb: Option<PathBuf>,
    /// Stub, or the package that holds it; found or fetched if absent.
    pub stub: Option<PathBuf>,
    /// The static program; this very one if absent.
    pub program: Option<PathBuf>,
    /// Unix seconds for every time inside.
    pub epoch: u32,
    /// The launch measurements to note, where firmware was named.
    pub launch: Option<PredictOrder>,
}

impl BuildOrder {
    /// The measurements of the firmware alone: what is wrong with it shows before anything is made.
    fn of_firmware(&self) -> Result<Vec<Launch>> {
        Ok(self.launch.as_ref().map(predict).transpose()?.map(|found| found.launch).unwrap_or_default())
    }
}

/// What was made, and where.
pub struct Built {
    /// Its description.
    pub manifest: Manifest,
    /// The description's file.
    pub file: PathBuf,
}

/// An input with its bytes.
struct Loaded {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Loaded {
    fn read(path: &Path) -> Result<Loaded> {
        let bytes = fs::read(path, image::MAX_INPUT)?;
        if bytes.is_empty() {
            return Err(Error::new(Code::Usage, format!("{} is empty", path.display())).hint("fetch it again"));
        }
        Ok(Loaded { path: path.to_owned(), bytes })
    }

    fn input(&self, role: Role, package: Option<&Deb<'_>>) -> Input {
        Input {
            role,
            name: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            package: package.map(|deb| format!("{}={}", deb.package, deb.version)),
            size: self.bytes.len() as u64,
            sha256: hex(&Sha256::digest(&self.bytes)),
        }
    }
}

/// Makes an image in a folder. An image that lies there already is replaced file by file, its description last.
pub fn build(paths: &Paths, order: &BuildOrder, progress: &dyn Progress) -> Result<Built> {
    let launch = order.of_firmware()?;
    let step = progress.step("find kernel and stub");
    let inputs = Inputs::find(paths, order)?;
    step.done();
    std::fs::create_dir_all(&order.out).doing("make the folder", order.out.display())?;
    make(&inputs, &order.out, order, launch, progress)
}

/// What [`build`] or [`verify`] would do, one sentence each.
pub fn describe(order: &BuildOrder, verify: Option<&Path>) -> Vec<String> {
    let from = |named: &Option<PathBuf>, what: &str| match named {
        Some(path) => format!("take the {what} from {}", path.display()),
        None => format!("fetch the {what} with apt, or take it from the cache"),
    };
    let inputs = [from(&order.kernel_deb, "kernel"), from(&order.stub, "stub")];
    match verify {
        Some(file) => inputs
            .into_iter()
            .chain([format!("build again what {} tells, in a folder of the cache, and compare", file.display())])
            .collect(),
        None => {
            inputs.into_iter().chain([DISK, ARCHIVE, MANIFEST].map(|name| format!("write {}", order.out.join(name).display()))).collect()
        }
    }
}

/// Everything an image is made from, read.
struct Inputs {
    program: Loaded,
    kernel: Loaded,
    stub: Loaded,
}

impl Inputs {
    fn find(paths: &Paths, order: &BuildOrder) -> Result<Inputs> {
        let program = match &order.program {
            Some(path) => path.clone(),
            None => std::env::current_exe().doing("find", "this program")?,
        };
        let kernel = match &order.kernel_deb {
            Some(path) => path.clone(),
            None => packages::fetch(paths, Package::Kernel)?,
        };
        let stub = match &order.stub {
            Some(path) => path.clone(),
            None => packages::fetch(paths, Package::Stub)?,
        };
        Ok(Inputs { program: Loaded::read(&program)?, kernel: Loaded::read(&kernel)?, stub: Loaded::read(&stub)? })
    }
}

fn make(inputs: &Inputs, out: &Path, order: &BuildOrder, mut launch: Vec<Launch>, progress: &dyn Progress) -> Result<Built> {
    let epoch = order.epoch;
    let kernel = Deb::parse(&inputs.kernel.path.display().to_string(), &inputs.kernel.bytes)?;
    let stub_package =
        inputs.stub.bytes.starts_with(b"!<arch>").then(|| Deb::parse(&inputs.stub.path.display().to_string(), &inputs.stub.bytes));
    let stub_package = stub_package.transpose()?;
    let stub = match &stub_package {
        Some(package) => stub_of(package)?,
        None => inputs.stub.bytes.clone(),
    };
    let recipe = Recipe { program: &inputs.program.bytes, version: env!("CARGO_PKG_VERSION"), kernel: &kernel, stub: &stub, epoch };
    let image = image::build(&recipe, progress)?;
    if let Some(order) = &order.launch {
        launch.extend(predict_boot_program(order, &image.uki.bytes)?);
    }
    let (disk, archive) = write(&image.uki.bytes, out, epoch, progress)?;
    let section = |piece: &image::Piece| Section { name: piece.name.to_owned(), size: piece.size as u64, sha256: hex(&piece.sha256) };
    let manifest = Manifest {
        portdistrict_image: Manifest::VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        inputs: vec![
            inputs.program.input(Role::Program, None),
            inputs.kernel.input(Role::Kernel, Some(&kernel)),
            inputs.stub.input(Role::Stub, stub_package.as_ref()),
        ],
        source_date_epoch: epoch,
        kernel_release: image.release,
        command_line: image.command_line.to_owned(),
        modules: image.modules,
        uki_authenticode: hex(&image.uki.authenticode),
        kernel_authenticode: hex(&image.uki.kernel_authenticode),
        sections: image.uki.pieces.iter().map(section).collect(),
        pcr: BTreeMap::from([(4, hex(&image.uki.pcr4)), (11, hex(&image.uki.pcr11))]),
        launch,
        disk,
        archive,
        reproduce: reproduce(inputs, epoch),
    };
    let file = out.join(MANIFEST);
    replace(&file, |out| out.write_all(&manifest.to_json()?).doing("write", file.display()))?;
    Ok(Built { manifest, file })
}

fn stub_of(package: &Deb<'_>) -> Result<Vec<u8>> {
    let stub = package.extract(|path| path == STUB)?.remove(STUB);
    stub.ok_or_else(|| {
        Error::new(Code::Usage, format!("the package {} {} has no stub", package.package, package.version))
            .hint("take the package systemd-boot-efi, of systemd 252 or later")
    })
}

/// The command that makes it again; names alone, since folders differ from machine to machine.
fn reproduce(inputs: &Inputs, epoch: u32) -> String {
    let name = |loaded: &Loaded| fs::shell_quote(Path::new(loaded.path.file_name().unwrap_or_default()));
    let kernel = name(&inputs.kernel);
    format!("SOURCE_DATE_EPOCH={epoch} portdistrict machine build --kernel-deb {kernel} --stub {} -o out", name(&inputs.stub))
}

/// Writes the disk and its archive.
fn write(program: &[u8], out: &Path, epoch: u32, progress: &dyn Progress) -> Result<(Artifact, Artifact)> {
    let (disk_file, archive_file) = (out.join(DISK), out.join(ARCHIVE));
    let step = progress.step("write the disk");
    let mut extents = Vec::new();
    replace(&disk_file, |file| {
        file.set_len(disk::DISK).doing("write", disk_file.display())?;
        extents = disk::write(file, program)?;
        Ok(())
    })?;
    step.done();
    let step = progress.step("pack the archive");
    replace(&archive_file, |file| {
        let mut disk = File::open(&disk_file).doing("read", disk_file.display())?;
        let mut out = BufWriter::new(file);
        image::write_archive(&mut disk, &extents, epoch, &mut out)
    })?;
    step.done();
    let step = progress.step("compute the digests");
    let made = (artifact(&disk_file, &*step)?, artifact(&archive_file, &*step)?);
    step.done();
    Ok(made)
}

/// A file with its size and digest.
fn artifact(path: &Path, step: &dyn crate::progress::Step) -> Result<Artifact> {
    let mut file = File::open(path).doing("read", path.display())?;
    let size = file.metadata().doing("read", path.display())?.len();
    let digest = digest(&mut file, |done| step.bytes(done, size)).doing("read", path.display())?;
    Ok(Artifact { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), size, sha256: hex(digest.as_ref()) })
}

/// SHA-256 of all that is left to read; `at` hears how far it is.
pub(super) fn digest(from: &mut impl Read, mut at: impl FnMut(u64)) -> std::io::Result<ring::digest::Digest> {
    // A disk is a GiB; this one uses the processor's instructions for it.
    let (mut hasher, mut buffer, mut done) = (ring::digest::Context::new(&ring::digest::SHA256), vec![0; 1024 * 1024], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => {
                hasher.update(&buffer[..n]);
                done += n as u64;
                at(done);
            }
        }
    }
}

/// Set when nobody waits for the result any more.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// Ends every build of this process: removes what is half written, and lets nothing more be put into place.
pub fn give_up(out: &Path) {
    GIVEN_UP.store(true, Ordering::SeqCst);
    for name in [DISK, ARCHIVE, MANIFEST] {
        let _ = std::fs::remove_file(part_of(&out.join(name)));
    }
}

/// Where a file is while it is written.
fn part_of(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn go_on() -> Result<()> {
    match GIVEN_UP.load(Ordering::SeqCst) {
        true => Err(Error::new(Code::Interrupted, "the build was given up").hint("run it again")),
        false => Ok(()),
    }
}

/// Writes a file beside its place, then moves it there: what is at a name is always whole.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let part = part_of(path);
    go_on()?;
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&part).doing("write", part.display())?;
    let written = write(&mut file).and_then(|()| file.sync_all().doing("write", part.display()));
    let moved = written.and_then(|()| go_on()).and_then(|()| std::fs::rename(&part, path).doing("write", path.display()));
    moved.inspect_err(|_| {
        let _ = std::fs::remove_file(&part);
    })
}

/// Makes an image again from the inputs that a manifest names; refused, with what differs, unless it is byte for byte the same.
pub fn verify(paths: &Paths, manifest_file: &Path, order: &BuildOrder, progress: &dyn Progress) -> Result<()> {
    let launch = order.of_firmware()?;
    let name = manifest_file.display().to_string();
    let told = Manifest::parse(&name, &fs::read(manifest_file, Manifest::MAX)?)?;
    let step = progress.step("find the same inputs");
    let input = |role| told.inputs.iter().find(|input| input.role == role);
    let mut order = order.clone();
    order.epoch = told.source_date_epoch;
    for (role, wanted, slot) in
        [(Role::Kernel, input(Role::Kernel), &mut order.kernel_deb), (Role::Stub, input(Role::Stub), &mut order.stub)]
    {
        let wanted = wanted.ok_or_else(|| Error::new(Code::Usage, format!("{name} names no {role:?}")).hint("build the image again"))?;
        if slot.is_none() {
            *slot = Some(packages::fetch_again(paths, wanted)?);
        }
    }
    let inputs = Inputs::find(paths, &order)?;
    step.done();
    let scratch = Scratch::new(paths)?;
    let made = make(&inputs, &scratch.0, &order, launch, progress)?.manifest;
    let mut differ = differences(&told, &made);
    let folder = manifest_file.parent().unwrap_or(Path::new("."));
    for artifact in [&told.disk, &told.archive] {
        differ.extend(changed(&folder.join(&artifact.name), artifact)?);
    }
    if differ.is_empty() {
        return Ok(());
    }
    let error = Error::new(Code::Refused, format!("{name} describes another image than this computer makes from it"));
    Err(differ
        .into_iter()
        .fold(error, Error::because)
        .hint("use the very program and packages that it names; for launch measurements the same --ovmf, --vmm, --vcpus and --cpu"))
}

/// What a second build has that the first had not, field by field.
fn differences(told: &Manifest, made: &Manifest) -> Vec<String> {
    let mut differ = Vec::new();
    for one in &told.inputs {
        match made.inputs.iter().find(|other| other.role == one.role) {
            Some(other) if other.sha256 == one.sha256 => {}
            Some(other) => differ.push(format!("{:?} {}: sha256 {} was used, {} is here", one.role, one.name, one.sha256, other.sha256)),
            None => differ.push(format!("{:?} {}: not used here", one.role, one.name)),
        }
    }
    for section in made.sections.iter().filter(|section| !told.sections.contains(section)) {
        differ.push(format!("section {}: the bytes differ, or it is not named", section.name));
    }
    let digests = [
        ("boot program", &told.uki_authenticode, &made.uki_authenticode),
        ("disk", &told.disk.sha256, &made.disk.sha256),
        ("archive", &told.archive.sha256, &made.archive.sha256),
    ];
    let other = digests.into_iter().filter(|(_, one, other)| one != other);
    differ.extend(other.map(|(what, one, other)| format!("{what}: {one} was made, {other} is made here")));
    // Everything else that is said must be what is found here; only names of files and the command may differ.
    let rest = [
        ("version", told.version == made.version),
        ("kernel_release", told.kernel_release == made.kernel_release),
        ("command_line", told.command_line == made.command_line),
        ("modules", told.modules == made.modules),
        ("kernel_authenticode", told.kernel_authenticode == made.kernel_authenticode),
        ("sections", told.sections == made.sections),
        ("pcr", told.pcr == made.pcr),
        ("launch", told.launch == made.launch),
    ];
    differ.extend(rest.into_iter().filter(|(_, same)| !same).map(|(what, _)| format!("{what}: another is found here")));
    differ
}

/// Whether a file beside the manifest is still what the manifest says; one that is not there cannot be wrong.
fn changed(path: &Path, told: &Artifact) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.doing("read", path.display())?,
    };
    let found = hex(digest(&mut file, |_| ()).doing("read", path.display())?.as_ref());
    Ok((found != told.sha256).then(|| format!("{}: it has sha256 {found}, the manifest says {}", path.display(), told.sha256)))
}

/// A folder for a build that nobody keeps.
struct Scratch(PathBuf);

impl Scratch {
    fn new(paths: &Paths) -> Result<Scratch> {
        fs::ensure_private_dir(&paths.cache)?;
        for entry in std::fs::read_dir(&paths.cache).doing("read", paths.cache.display())?.flatten() {
            // Those of processes that were killed.
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_prefix("verify-").is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = paths.cache.join(format!("verify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).doing("make the folder", folder.display())?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

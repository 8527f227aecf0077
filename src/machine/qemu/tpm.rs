//! A virtual machine's TPM: made once with a certificate of its own, and started for each run.

use super::command::Tools;
use crate::config::fs;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring;
use crate::machine::process::Process;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// QEMU speaks to the TPM here.
pub(super) const SOCKET: &str = "tpm.sock";
/// The certificate under which the TPM's endorsement key was certified.
pub(super) const ROOT: &str = "tpm-root.pem";
const STATE: &str = "tpm";
const SAID: &str = "tpm.out";
/// What is needed while the TPM is made, and nothing afterwards.
const MAKER: &str = "tpm-maker";
/// How long a TPM may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a TPM with a certified endorsement key. The keys that certified it are removed: nobody, the owner of this computer
/// included, can have them certify another one.
pub(super) fn make(tools: &Tools, dir: &Path) -> Result<()> {
    let (swtpm_setup, swtpm_localca) = tools.tpm_makers()?;
    fs::ensure_private_dir(&dir.join(STATE))?;
    let maker = dir.join(MAKER);
    fs::ensure_private_dir(&maker)?;
    // Its files name files by their whole path, and take a name to the end of the line.
    let at = |name: &str| maker.join(name).display().to_string();
    let ca = format!(
        "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
        maker.display(),
        at("key.pem"),
        at("issuer.pem"),
        at("serial")
    );
    fs::write_private(&maker.join("ca.conf"), ca.as_bytes())?;
    fs::write_private(&maker.join("ca.options"), b"--platform-manufacturer portdistrict\n--platform-version 1\n--platform-model vm\n")?;
    let setup = format!(
        "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
        swtpm_localca.display(),
        at("ca.conf"),
        at("ca.options")
    );
    fs::write_private(&maker.join("setup.conf"), setup.as_bytes())?;
    let mut command = Command::new(swtpm_setup);
    command.env_remove(keyring::VARIABLE);
    command.args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256", "--not-overwrite", "--tpmstate", STATE]);
    command.arg("--config").arg(maker.join("setup.conf")).arg("--logfile").arg(maker.join("log"));
    let made = command.current_dir(dir).stdin(Stdio::null()).output().doing("run", swtpm_setup.display())?;
    if !made.status.success() {
        let log = std::fs::read_to_string(maker.join("log")).unwrap_or_default();
        return Err(Error::new(Code::Failed, "swtpm_setup could not make a TPM")
            .because(log.lines().last().unwrap_or("it said nothing"))
            .hint("portdistrict machine doctor --on qemu"));
    }
    let root = fs::read(&maker.join("issuer.pem"), 16 * 1024)?;
    fs::write_private(&dir.join(ROOT), &root)?;
    std::fs::remove_dir_all(&maker).doing("remove", maker.display())
}

/// Starts a TPM for one run of the machine; it ends with QEMU.
pub(super) fn start(tools: &Tools, dir: &Path) -> Result<Process> {
    let swtpm = tools.swtpm()?;
    fs::ensure_private_dir(&dir.join(STATE))?;
    let socket = dir.join(SOCKET);
    let _ = std::fs::remove_file(&socket);
    let log = dir.join(SAID);
    let said = File::create(&log).doing("write", log.display())?;
    let mut command = Command::new(swtpm);
    command.env_remove(keyring::VARIABLE);
    command.args([
        "socket",
        "--tpm2",
        "--terminate",
        "--tpmstate",
        &format!("dir={STATE}"),
        "--ctrl",
        &format!("type=unixio,path={SOCKET}"),
    ]);
    command.current_dir(dir).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    let mut child = command.spawn().doing("run", swtpm.display())?;
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        if Instant::now() > deadline || child.try_wait().is_ok_and(|ended| ended.is_some()) {
            let _ = child.kill();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::new(Code::Failed, "swtpm did not start").because(said.trim()).hint("portdistrict machine doctor --on qemu"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Process::of(child.id())
}

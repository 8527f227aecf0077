//! The rescue system of a server, through the system's `ssh`: what is on its disk afterwards is what was sent.
//!
//! Nobody tells the rescue system's host key beforehand. The first one that answers is taken and must stay the same; who sits between
//! here and Hetzner could answer instead. Nothing secret is sent, and the digest of what was written is read back from the disk.

use super::api::Budget;
use crate::config::fs::ensure_private_dir;
use crate::encoding::hex;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring;
use crate::machine::tools;
use crate::progress::Step;
use ring::digest::{Context, SHA256};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Sent at a time.
const BLOCK: usize = 256 * 1024;
/// How long the rescue system may take to answer.
const BOOT: Duration = Duration::from_secs(240);
/// How long one look may take whether it answers.
const KNOCK_S: u32 = 10;
/// The longest that writing may take.
const WRITE: Duration = Duration::from_secs(3600);
/// What the script says where the server was started by BIOS.
const NO_UEFI: i32 = 41;
/// The largest answer that is read.
const MAX_SAID: u64 = 4096;

/// A key that lives as long as one writing.
pub(super) struct Key {
    folder: PathBuf,
}

impl Key {
    /// Makes it in a private folder of its own, which dropping removes.
    pub(super) async fn make(folder: &Path) -> Result<Key> {
        let keygen = need("ssh-keygen")?;
        // What a killed writing left.
        let _ = std::fs::remove_dir_all(folder);
        ensure_private_dir(folder)?;
        let key = Key { folder: folder.to_owned() };
        let mut command = Command::new(keygen);
        command.env_remove(keyring::VARIABLE);
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "portdistrict", "-f"]).arg(key.file());
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().await.doing("run", "ssh-keygen")?;
        match done.status.success() {
            true => Ok(key),
            false => {
                Err(Error::new(Code::Failed, "ssh-keygen makes no key").because(last_line(&done.stderr)).hint("run the command again"))
            }
        }
    }

    /// The public half, as the API takes it.
    pub(super) fn public(&self) -> Result<String> {
        let file = self.file().with_extension("pub");
        std::fs::read_to_string(&file).map(|text| text.trim().to_owned()).doing("read", file.display())
    }

    fn file(&self) -> PathBuf {
        self.folder.join("key")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A rescue system that answers.
pub(super) struct Rescue<'k> {
    ssh: PathBuf,
    key: &'k Key,
    address: Ipv4Addr,
}

impl<'k> Rescue<'k> {
    /// Waits until it answers.
    pub(super) async fn reach(address: Ipv4Addr, key: &'k Key, step: &dyn Step) -> Result<Rescue<'k>> {
        let rescue = Rescue { ssh: need("ssh")?, key, address };
        let mut budget = Budget::new("the rescue system to answer", BOOT);
        loop {
            let said = rescue.command("true").stdin(Stdio::null()).stdout(Stdio::null()).output().await.doing("run", "ssh")?;
            if said.status.success() {
                return Ok(rescue);
            }
            step.note(&last_line(&said.stderr));
            budget.pause().await.map_err(|error| error.because(last_line(&said.stderr)))?;
        }
    }

    /// `ssh` with nothing of the user's: neither keys nor agents nor configuration belong on a machine that nobody knows.
    fn command(&self, line: &str) -> Command {
        let known = self.key.folder.join("known_hosts");
        let mut command = Command::new(&self.ssh);
        command.env_remove(keyring::VARIABLE);
        command.args(["-F", "none", "-T", "-a", "-x", "-i"]).arg(self.key.file());
        for option in ["IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", "StrictHostKeyChecking=accept-new", "LogLevel=ERROR"] {
            command.args(["-o", option]);
        }
        command.args(["-o", &format!("UserKnownHostsFile=\"{}\"", known.display()), "-o", "GlobalKnownHostsFile=/dev/null"]);
        command.args(["-o", &format!("ConnectTimeout={KNOCK_S}"), "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]);
        command.arg(format!("root@{}", self.address)).arg("--").arg(line);
        command.kill_on_drop(true).stderr(Stdio::piped());
        command
    }

    /// Writes the file onto the disk, and has the disk read back: its SHA-256 (hex) must be this.
    pub(super) async fn write(&self, disk: &Path, (size, sha256): (u64, &str), step: &dyn Step) -> Result<()> {
        let mut child = self.command(&script(size)).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().doing("run", "ssh")?;
        let work = async {
            let sent = send(&mut child, disk, size, step).await?;
            let output = child.wait_with_output().await.doing("run", "ssh")?;
            Ok::<_, Error>((sent, output))
        };
        let (sent, output) = tokio::time::timeout(WRITE, work)
            .await
            .map_err(|_| Error::new(Code::TimedOut, "writing the image took more than an hour").hint("run the command again"))??;
        if output.status.code() == Some(NO_UEFI) {
            return Err(no_uefi());
        }
        let said = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(MAX_SAID as usize)]).into_owned();
        let found = said.split_whitespace().next().unwrap_or_default();
        if sent.as_deref() != Some(sha256) {
            let local = sent.map_or_else(|| "it could not be sent whole".to_owned(), |digest| format!("its sha256 is {digest}"));
            return Err(Error::new(Code::Refused, format!("{} did not arrive as image.json describes it", disk.display()))
                .because(local)
                .because(last_line(&output.stderr))
                .hint("run the command again; if it happens again, build the image again"));
        }
        if !output.status.success() || found != sha256 {
            return Err(Error::new(Code::Failed, "the disk at Hetzner does not hold what was sent")
                .because(format!("sent {sha256}, read back {}", if found.is_empty() { "nothing" } else { found }))
                .because(last_line(&output.stderr))
                .hint("run the command again"));
        }
        Ok(())
    }
}

/// Writes standard input, then says the digest of what the disk holds. The old system is discarded first: the snapshot stays small.
fn script(size: u64) -> String {
    format!(
        "set -eu; test -d /sys/firmware/efi || exit {NO_UEFI}; blkdiscard -f /dev/sda 2>/dev/null || :; \
         dd of=/dev/sda bs=1M iflag=fullblock conv=notrunc,fsync status=none; blockdev --flushbufs /dev/sda 2>/dev/null || :; \
         head -c {size} /dev/sda | sha256sum"
    )
}

/// Sends the disk; the digest of what was sent, none if the other side stopped reading.
async fn send(child: &mut Child, disk: &Path, size: u64, step: &dyn Step) -> Result<Option<String>> {
    let mut from = File::open(disk).await.doing("read", disk.display())?;
    let mut to = child.stdin.take().ok_or_else(|| Error::new(Code::Failed, "ssh has no standard input"))?;
    let (mut hasher, mut buffer, mut done) = (Context::new(&SHA256), vec![0; BLOCK], 0u64);
    loop {
        let n = from.read(&mut buffer).await.doing("read", disk.display())?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        if to.write_all(&buffer[..n]).await.is_err() {
            return Ok(None);
        }
        done += n as u64;
        step.bytes(done, size);
    }
    if to.shutdown().await.is_err() {
        return Ok(None);
    }
    Ok(Some(hex(hasher.finish().as_ref())))
}

fn no_uefi() -> Error {
    Error::new(Code::Precondition, "this size of server is started by BIOS, and an image starts by UEFI alone")
        .hint("choose another size: --size cx23, --size ccx13; or ask Hetzner's support for UEFI, see docs/providers.md")
}

fn need(program: &str) -> Result<PathBuf> {
    tools::find(program)
        .ok_or_else(|| Error::new(Code::Precondition, format!("{program} is not installed")).hint("apt-get install openssh-client"))
}

fn last_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("without a word").trim().to_owned()
}

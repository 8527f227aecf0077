//! One connection to a server by the system's own `ssh`, so that keys, agents, jump hosts and `~/.ssh/config` are as the
//! person has them. It is opened once for a command; every call of the script goes through it.

use super::call::{Call, Reply};
use crate::config::fs::shell_quote;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring;
use crate::machine::provider::LineSink;
use std::ffi::OsString;
use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// Configuration of `ssh` instead of the person's, as `ssh -F` takes it.
const CONFIG: &str = "PORTDISTRICT_SSH_CONFIG";
/// How long connecting may take where nobody can be asked anything; `ssh` itself gives up earlier.
const CONNECT: Duration = Duration::from_secs(40);
/// How long a person may take over a passphrase or an unknown host.
const PERSON: Duration = Duration::from_secs(180);
/// How long the script may take for what is done at once.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// The longest line that is read.
const MAX_LINE: u64 = 256 * 1024;
/// The most that is kept of what `ssh` complains.
const MAX_COMPLAINT: u64 = 16 * 1024;
/// How much of a stream is sent at once.
const CHUNK: usize = 256 * 1024;
/// The longest path of a socket that `ssh` can make: it adds 17 characters while it does (`sun_path`, unix(7)).
const MAX_SOCKET: usize = 107 - 17;

/// A server as `ssh` names it: `host`, `user@host`, an alias of `~/.ssh/config`, or `ssh://user@host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl Target {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        // A word that begins with a dash would be an option of ssh.
        let good = !text.is_empty()
            && text.len() <= 255
            && !text.starts_with('-')
            && !text.contains(|c: char| c.is_control() || c.is_whitespace() || "'\"\\$`;&|<>(){}*?!#".contains(c));
        if good {
            return Ok(Target(text.to_owned()));
        }
        Err(Error::new(Code::Usage, format!("{text:?} is no server for ssh")).hint("--host user@server.example.org"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is sent after the script.
pub(super) struct Upload<'a> {
    /// The file.
    pub(super) file: &'a Path,
    /// Its length.
    pub(super) size: u64,
    /// Is told how much was sent.
    pub(super) told: &'a dyn Fn(u64),
}

/// An open connection; dropping it closes it.
pub(super) struct Link {
    /// The server.
    pub(super) target: Target,
    folder: PathBuf,
    /// Whether acts need sudo; the script's facts tell.
    sudo: bool,
}

impl Link {
    /// Connects. With a terminal `ssh` may ask the person for a passphrase or about an unknown host; without one it never asks.
    pub(super) async fn open(target: &Target) -> Result<Link> {
        let link = Link { target: target.clone(), folder: private_folder()?, sudo: false };
        let person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let said = link.folder.join("said");
        let complaints = std::fs::File::create(&said).doing("make", said.display())?;
        let mut command = link.ssh()?;
        command.args(["-f", "-N", "-o", "ControlMaster=yes", "-o", "ControlPersist=30"]);
        command.args(["-o", if person { "BatchMode=no" } else { "BatchMode=yes" }, "--"]).arg(target.as_str());
        // It goes on in the background: a pipe would stay open with it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints).kill_on_drop(true);
        let mut child = command.spawn().map_err(missing)?;
        let patience = if person { PERSON } else { CONNECT };
        let status = match timeout(patience, child.wait()).await {
            Ok(status) => status.doing("wait for", "ssh")?,
            Err(_) => return Err(silent(target, patience)),
        };
        if status.success() {
            return Ok(link);
        }
        let complaint = std::fs::read(&said).unwrap_or_default();
        Err(refused(target, &String::from_utf8_lossy(&complaint)))
    }

    /// From now on acts are done by root through sudo.
    pub(super) fn use_sudo(&mut self) {
        self.sudo = true;
    }

    /// The name under which `ssh` connects, after its configuration.
    pub(super) async fn host_name(&self) -> Result<String> {
        let mut command = self.ssh()?;
        command.args(["-G", "--"]).arg(self.target.as_str()).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = timeout(CONNECT, command.output()).await.map_err(|_| silent(&self.target, CONNECT))?.map_err(missing)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let name = text.lines().find_map(|line| line.strip_prefix("hostname ")).map(str::trim).filter(|name| !name.is_empty());
        Ok(name.unwrap_or(self.target.as_str()).to_owned())
    }

    /// Has the script do something, and waits for its answer.
    pub(super) async fn run(&self, call: &Call, label: &str, patience: Duration) -> Result<Reply> {
        self.run_with(call, label, patience, None, &mut |_, _| {}).await
    }

    /// The same with a stream after the script, and somebody who is told each line as it comes.
    pub(super) async fn run_with(
        &self,
        call: &Call,
        label: &str,
        patience: Duration,
        upload: Option<Upload<'_>>,
        told: &mut dyn FnMut(&str, &str),
    ) -> Result<Reply> {
        let mut reply = Reply::default();
        let mut sink = |line: &str| {
            if let Some((name, value)) = reply.hear(line) {
                told(name, value);
            }
            Ok(true)
        };
        let ended = timeout(patience, self.talk(call, upload, &mut sink)).await;
        let complaint = ended.map_err(|_| silent(&self.target, patience))??;
        tracing::debug!(act = call.act, server = %self.target, complaint, "a call of the script has ended");
        match reply.failure(self.target.as_str(), label) {
            Some(error) => Err(error),
            None if reply.get("done") == Some(call.act) => Ok(reply),
            None => Err(refused(&self.target, &complaint)),
        }
    }

    /// Has the script print something that may go on for ever.
    pub(super) async fn stream(&self, call: &Call, sink: LineSink<'_>) -> Result<()> {
        let complaint = self.talk(call, None, sink).await?;
        if complaint.is_empty() { Ok(()) } else { Err(refused(&self.target, &complaint)) }
    }

    /// Both directions at the same time; what `ssh` and the shell complained about is the outcome.
    async fn talk(&self, call: &Call, upload: Option<Upload<'_>>, sink: LineSink<'_>) -> Result<String> {
        let text = call.text();
        // The command is the same for every call: only how long the script is, and what is done, so that the server's own
        // lists of processes say it. `dd` reads no byte beyond the script; what follows is for the script.
        let shell = format!("/bin/sh -c 'eval \"$(dd bs=1 count={} 2>/dev/null)\"' portdistrict {}", text.len(), call.act);
        let shell = if self.sudo { format!("exec sudo -n {shell}") } else { format!("exec {shell}") };
        let mut command = self.ssh()?;
        command.args(["-o", "ControlMaster=no", "-o", "BatchMode=yes", "--"]).arg(self.target.as_str()).arg(shell);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C is for this program, which then has something to undo over the same connection.
        command.process_group(0);
        let mut child = command.spawn().map_err(missing)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(Code::Failed, "ssh was started without its pipes"));
        };
        let send = async {
            // Whether it arrives is seen by the answer.
            let _ = stdin.write_all(text.as_bytes()).await;
            if let Some(upload) = upload {
                let _ = send_file(&mut stdin, &upload).await;
            }
            drop(stdin);
        };
        let complain = async {
            let mut complaint = Vec::new();
            let _ = stderr.take(MAX_COMPLAINT).read_to_end(&mut complaint).await;
            String::from_utf8_lossy(&complaint).into_owned()
        };
        let (heard, complaint) = {
            let (_, heard, complaint) = tokio::join!(send, listen(stdout, sink), complain);
            (heard, complaint)
        };
        heard?;
        let status = child.wait().await.doing("wait for", "ssh")?;
        Ok(if status.success() { String::new() } else { format!("{complaint}\n{status}") })
    }

    /// `ssh` with what every call of it needs: nothing is forwarded, and nothing runs here but it.
    fn ssh(&self) -> Result<Command> {
        let program = crate::machine::tools::find("ssh").ok_or_else(|| missing(std::io::ErrorKind::NotFound.into()))?;
        let mut command = Command::new(program);
        command.env_remove(keyring::VARIABLE);
        if let Some(config) = std::env::var_os(CONFIG).filter(|value| !value.is_empty()) {
            command.arg("-F").arg(config);
        }
        command.arg("-S").arg(self.folder.join("s")).args(["-T", "-a", "-x"]);
        for option in [
            "ClearAllForwardings=yes",
            "RemoteCommand=none",
            "PermitLocalCommand=no",
            "ConnectTimeout=15",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=4",
            "EscapeChar=none",
            "LogLevel=ERROR",
        ] {
            command.arg("-o").arg(option);
        }
        // What ssh says is read by this program.
        command.env("LC_ALL", "C");
        Ok(command)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Ok(command) = self.ssh() {
            let mut command = command.into_std();
            command.args(["-O", "exit", "--"]).arg(self.target.as_str());
            let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Sends a file, and tells how far it is.
async fn send_file(to: &mut (impl AsyncWriteExt + Unpin), upload: &Upload<'_>) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(upload.file).await?.take(upload.size);
    let (mut buffer, mut sent) = (vec![0; CHUNK], 0);
    loop {
        let length = file.read(&mut buffer).await?;
        if length == 0 {
            return to.flush().await;
        }
        to.write_all(&buffer[..length]).await?;
        sent += length as u64;
        (upload.told)(sent);
    }
}

/// Hands over line after line, each of bounded length.
async fn listen(from: impl AsyncRead + Unpin, sink: LineSink<'_>) -> Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut from).take(MAX_LINE).read_until(b'\n', &mut line).await.doing("read from", "ssh")?;
        if length == 0 || !sink(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']))? {
            return Ok(());
        }
    }
}

/// A folder for the connection's socket that only this user can enter; its path must be short.
fn private_folder() -> Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    let name = format!("portdistrict-{}", crate::encoding::hex(&random));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|value: &OsString| Path::new(value).is_dir()).map(PathBuf::from);
    let places = [runtime, Some(std::env::temp_dir()), Some(PathBuf::from("/tmp"))];
    let fits = |folder: &PathBuf| folder.as_os_str().len() + "/s".len() <= MAX_SOCKET;
    let folder = places.into_iter().flatten().map(|place| place.join(&name)).find(fits).unwrap_or_else(|| Path::new("/tmp").join(&name));
    std::fs::DirBuilder::new().mode(0o700).create(&folder).doing("make the folder", folder.display())?;
    Ok(folder)
}

fn missing(error: std::io::Error) -> Error {
    Error::new(Code::Precondition, "cannot run ssh").cause(error).hint("apt-get install openssh-client")
}

fn silent(target: &Target, patience: Duration) -> Error {
    Error::new(Code::TimedOut, format!("{target} did not answer within {} seconds", patience.as_secs()))
        .hint(format!("see why: ssh -v {} true", shell_quote(Path::new(target.as_str()))))
}

/// What `ssh` complained about, in words that say what to do.
fn refused(target: &Target, complaint: &str) -> Error {
    let quoted = shell_quote(Path::new(target.as_str()));
    let has = |part: &str| complaint.contains(part);
    let unreachable = |text: &str| Error::new(Code::Unreachable, format!("{target} {text}"));
    let error = if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        Error::new(Code::Refused, format!("{target} has another host key than before; nothing was sent"))
            .because("it was installed anew, or somebody answers in its place")
            .hint("ask whoever runs it for its new key; only if that is the one: ssh-keygen -R HOST, then connect once with ssh")
    } else if has("Host key verification failed") {
        Error::new(Code::Refused, format!("the host key of {target} is not known here; nothing was sent"))
            .hint(format!("connect once and compare its fingerprint: ssh {quoted} true"))
    } else if has("Permission denied (") {
        Error::new(Code::Refused, format!("{target} does not let you in"))
            .hint(format!("make this work first: ssh -o BatchMode=yes {quoted} true"))
    } else if has("sudo: ") || has("a password is required") {
        no_sudo(target)
    } else if has("Could not resolve") {
        unreachable("has no address").hint("check the name, or write user@ADDRESS")
    } else if has("Connection refused") || has("No route to host") || has("Network is unreachable") || has("timed out") {
        unreachable("cannot be reached by ssh").hint(format!("see why: ssh -v {quoted} true"))
    } else {
        unreachable("broke the connection off").hint("run the command again: it goes on where it was")
    };
    // The last words say most; ssh's own warnings come first.
    let said: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@')).collect();
    said[said.len().saturating_sub(3)..]
        .iter()
        .fold(error, |error, line| error.because(line.chars().filter(|c| !c.is_control()).collect::<String>()))
}

/// Acts need root, and nobody is there to type a password.
pub(super) fn no_sudo(target: &Target) -> Error {
    let quoted = shell_quote(Path::new(target.as_str()));
    Error::new(Code::Precondition, format!("on {target} you are not root, and sudo does not make you so without a password"))
        .because("a line such as `NAME ALL=(ALL) NOPASSWD: ALL` in a file of /etc/sudoers.d lets it ask for none; it can go afterwards")
        .hint(format!("log in as root, or: ssh -t {quoted} sudo visudo -f /etc/sudoers.d/portdistrict"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_is_an_option_or_a_command() {
        for good in ["server", "root@192.0.2.1", "op@[2001:db8::1]", "ssh://op@host:2222", "my-alias_1", "user%x@host"] {
            assert_eq!(good.parse::<Target>().unwrap().as_str(), good);
        }
        for bad in ["", "-oProxyCommand=x", "a b", "a\nb", "a'b", "$(id)", "`id`", "a;b", "a|b"] {
            assert_eq!(bad.parse::<Target>().unwrap_err().code(), Code::Usage, "{bad}");
        }
    }

    #[test]
    fn complaints_of_ssh_say_what_to_do() {
        let target: Target = "op@server".parse().unwrap();
        let table = [
            (
                "@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\r\n",
                Code::Refused,
                "another host key",
            ),
            (
                "No ED25519 host key is known for server and you have requested strict checking.\nHost key verification failed.",
                Code::Refused,
                "not known",
            ),
            ("op@server: Permission denied (publickey).", Code::Refused, "let you in"),
            ("sudo: a password is required", Code::Precondition, "not root"),
            ("ssh: Could not resolve hostname server: Name or service not known", Code::Unreachable, "no address"),
            ("ssh: connect to host server port 22: Connection refused", Code::Unreachable, "reached"),
            ("client_loop: send disconnect: Broken pipe", Code::Unreachable, "broke"),
            ("", Code::Unreachable, "broke"),
        ];
        for (complaint, code, part) in table {
            let error = refused(&target, complaint);
            assert_eq!(error.code(), code, "{complaint}");
            assert!(error.message().contains(part) && error.hint_text().is_some(), "{error:?}");
            assert!(error.causes().iter().all(|cause| !cause.starts_with('@')), "{error:?}");
        }
    }

    #[test]
    fn the_socket_has_a_short_path_in_a_folder_of_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let folder = private_folder().unwrap();
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(folder.as_os_str().len() <= MAX_SOCKET);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

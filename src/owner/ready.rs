//! Saying that the node is ready, only once it is: a line on stdout, `sd_notify`, and a socket that answers with its state.
//!
//! The socket lies in the state folder, which nobody else can enter. A Unix address holds 108 bytes, so both sides reach
//! it through the open folder (`/proc/self/fd`), whatever the length of the path.

use crate::encoding::base64;
use crate::error::{Code, Doing, Error, Result};
use crate::session::messages::OnionStatus;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The socket's name in the state folder.
pub const SOCKET: &str = "control.sock";
/// Far above what an answer needs.
const MAX_ANSWER: u64 = 64 * 1024;

/// What a node says of itself on the socket; one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ready {
    /// Process id.
    pub pid: u32,
    /// The address it really listens at.
    pub listen: SocketAddr,
    /// The node's Noise key, base64url.
    pub node: String,
    /// The name given at deploy.
    pub label: String,
    /// Version of the running program.
    pub version: String,
    /// Whether it has an owner.
    pub claimed: bool,
    /// Sessions open now.
    pub sessions: usize,
    /// Takes no new sessions.
    pub draining: bool,
    /// Its onion service, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onion: Option<OnionStatus>,
}

impl Ready {
    /// A node that has just begun to listen.
    pub(crate) fn new(listen: SocketAddr, node: &[u8; 32], label: &str) -> Self {
        Ready {
            pid: std::process::id(),
            listen,
            node: base64(node),
            label: label.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            claimed: false,
            sessions: 0,
            draining: false,
            onion: None,
        }
    }

    /// The lines for stdout: `PORTDISTRICT_ONION=ADDRESS` if there is one, then `PORTDISTRICT_READY=ADDRESS`.
    pub fn lines(&self) -> String {
        let onion = self.onion.as_ref().map_or_else(String::new, |onion| format!("PORTDISTRICT_ONION={}\n", onion.address));
        format!("{onion}PORTDISTRICT_READY={}\n", self.listen)
    }
}

/// Tells the service manager, as `sd_notify(3)` does; `socket` is `NOTIFY_SOCKET`. A node under no manager says nothing.
pub fn notify(socket: Option<&OsStr>, state: &str) -> io::Result<()> {
    let Some(socket) = socket.filter(|name| !name.is_empty()) else { return Ok(()) };
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => UnixAddr::from_abstract_name(name)?,
        _ => UnixAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// A short name for a file in a folder that is open.
fn within(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

/// The socket that answers; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    folder: File,
    listener: UnixListener,
}

impl Socket {
    /// Makes the socket, mode 0600. One that was left behind is replaced: the lock on the state folder says that nobody uses it.
    pub fn bind(state_dir: &Path) -> Result<Self> {
        let folder = File::open(state_dir).doing("open", state_dir.display())?;
        let path = within(&folder);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing("replace", state_dir.join(SOCKET).display()),
            _ => {}
        }
        let listener = UnixListener::bind(&path).doing("make the socket", state_dir.join(SOCKET).display())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).doing("protect", state_dir.join(SOCKET).display())?;
        listener.set_nonblocking(true).doing("prepare", state_dir.join(SOCKET).display())?;
        Ok(Socket { folder, listener })
    }

    /// Another handle of the listener, for the runtime that serves it.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(within(&self.folder));
    }
}

/// Asks the node that runs in this state folder how it is.
pub fn ask(state_dir: &Path) -> Result<Ready> {
    let gone = |error: io::Error| {
        Error::new(Code::Unreachable, format!("no node answers in {}", state_dir.display()))
            .cause(error)
            .hint("portdistrict machine reconnect LABEL starts it again")
    };
    let folder = File::open(state_dir).map_err(gone)?;
    let mut stream = UnixStream::connect(within(&folder)).map_err(gone)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(gone)?;
    let mut answer = Vec::new();
    stream.by_ref().take(MAX_ANSWER).read_to_end(&mut answer).map_err(gone)?;
    serde_json::from_slice(&answer).map_err(|error| {
        Error::new(Code::Protocol, format!("what answers in {} is not a node of this version", state_dir.display()))
            .cause(error)
            .hint("restart it with this version")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_socket_answers_however_long_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(ask(&deep).unwrap_err().code(), Code::Unreachable);
        let socket = Socket::bind(&deep).unwrap();
        assert_eq!(std::fs::metadata(deep.join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
        let ready = Ready::new("127.0.0.1:1".parse().unwrap(), &[1; 32], "home");
        let listener = socket.listener().unwrap();
        listener.set_nonblocking(false).unwrap();
        let answer = serde_json::to_string(&ready).unwrap();
        let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(answer.as_bytes()).unwrap());
        assert_eq!(ask(&deep).unwrap(), ready);
        server.join().unwrap();
        // Left behind by a kill: replaced.
        std::mem::forget(socket);
        drop(Socket::bind(&deep).unwrap());
        assert!(!deep.join(SOCKET).exists());
        assert_eq!(ready.lines(), "PORTDISTRICT_READY=127.0.0.1:1\n");
    }

    #[test]
    fn the_service_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("portdistrict-test-{}", std::process::id());
        let by_path = (UnixDatagram::bind(&path).unwrap(), path.into_os_string());
        let abstract_address = UnixAddr::from_abstract_name(&name).unwrap();
        let by_name = (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into());
        for (socket, address) in [by_path, by_name] {
            notify(Some(&address), "READY=1").unwrap();
            let mut buffer = [0; 64];
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
        }
        notify(None, "READY=1").unwrap();
        notify(Some(OsStr::new("")), "READY=1").unwrap();
        assert!(notify(Some(OsStr::new("/nowhere/at/all")), "READY=1").is_err());
    }
}

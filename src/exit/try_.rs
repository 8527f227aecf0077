//! `exit try`: uses an invite once, as nobody in particular, and leaves nothing behind.
//!
//! No file is written and no home is opened: the key comes from the invite. A command starts as soon as the session
//! stands; the health echo runs beside it.

use super::guard;
use super::health::{self, OutsideAddresses};
use super::proxy::Proxy;
use super::tunnel::{State, Tunnel};
use super::way::{Reached, Way};
use crate::error::{Code, Error, Result};
use crate::session::Hello;
use crate::token::{Invite, Transport};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What is wanted of a try.
#[derive(Debug, Default)]
pub struct Request {
    /// Port of the local proxy; 0 takes a free one.
    pub port: u16,
    /// The command to run, if any.
    pub command: Vec<OsString>,
    /// Open a browser with a throw-away profile.
    pub browser: bool,
    /// Ask this service for the address that the world sees.
    pub ip_check: Option<String>,
}

/// What happens, for whoever shows it.
#[derive(Debug)]
pub enum News {
    /// The session stands.
    Connected {
        /// The session and what it allows.
        reached: Reached,
        /// The node's key, pinned.
        node: [u8; 32],
    },
    /// The proxy listens.
    Listening(SocketAddr),
    /// Bytes pass, with this round trip; or they do not.
    Health(Result<Duration>),
    /// The address without and with the tunnel.
    Outside(Result<OutsideAddresses>),
    /// The tunnel's state changed.
    Changed(State),
}

/// Takes the news.
pub type Tell<'a> = &'a (dyn Fn(News) + Send + Sync);

/// The way that an invite describes, as the holder of its text.
pub fn way(invite: &Invite) -> Result<Way> {
    let secret = invite.secret.as_ref().ok_or_else(|| {
        Error::new(Code::Refused, "this invite is sealed to a peer's own key").hint("use it there: portdistrict exit accept BLOB")
    })?;
    let Transport::Direct { addresses } = &invite.transport;
    Ok(Way {
        name: invite.name.clone().unwrap_or_else(|| "exit".to_owned()),
        addresses: addresses.clone(),
        node: invite.node,
        secret: secret.subject_secret(),
        hello: Hello { grant: invite.grant.encode(), bind: None, version: env!("CARGO_PKG_VERSION").to_owned() },
    })
}

/// Runs a try to its end; the status is the command's, or 0. Without a command it goes on until it is dropped.
pub async fn run(invite: &Invite, request: &Request, tell: Tell<'_>) -> Result<u8> {
    let proxy = Proxy::bind(SocketAddr::from(([127, 0, 0, 1], request.port)))?;
    let address = proxy.address();
    let way = way(invite)?;
    let reached = way.reach().await.map_err(super::way::Failure::into_error)?;
    let session = reached.session.clone();
    tell(News::Connected { reached: reached.clone(), node: way.node });
    tell(News::Listening(address));
    let tunnel = Tunnel::keep(way, reached);
    let serving = tokio::spawn(proxy.run(tunnel.clone()));
    let _stop = StopOnDrop(serving);
    let checks = async {
        tell(News::Health(health::echo(&session).await));
        if let Some(url) = &request.ip_check {
            tell(News::Outside(health::outside_addresses(url, address).await));
        }
    };
    let (command, profile) = if request.browser { browser(address)? } else { (request.command.clone(), None) };
    if command.is_empty() {
        checks.await;
        follow(&tunnel, tell).await;
        return Ok(0);
    }
    let guarded = guard::spawn(&command, &variables(address), profile.as_slice())?;
    let mut guarded = Guarded(Some(guarded));
    let ((), status) = tokio::join!(checks, guarded.wait());
    status
}

/// The local proxy stops with the try.
pub(super) struct StopOnDrop<T>(pub(super) tokio::task::JoinHandle<T>);

impl<T> Drop for StopOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A guard that is told to end when the try is dropped.
struct Guarded(Option<tokio::process::Child>);

impl Guarded {
    async fn wait(&mut self) -> Result<u8> {
        let Some(child) = &mut self.0 else { return Ok(0) };
        let status = child.wait().await.map_err(|e| Error::new(Code::Failed, "cannot wait for the command").cause(e))?;
        self.0 = None;
        Ok(guard::status_code(status))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The guard hears of our end anyway; this only makes it sooner and lets us wait for it.
        if let Some(mut child) = self.0.take()
            && let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_secs(6) && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Tells every change of the tunnel until it is refused for good.
pub(super) async fn follow(tunnel: &Tunnel, tell: Tell<'_>) {
    let mut state = tunnel.state();
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        let ended = matches!(now, State::Refused(_));
        tell(News::Changed(now));
        if ended {
            return;
        }
    }
}

/// The variables that send a program through the proxy, with names resolved at the far end.
pub fn variables(proxy: SocketAddr) -> Vec<(String, String)> {
    let url = format!("socks5h://{proxy}");
    let names = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"];
    let mut all: Vec<_> = names.iter().map(|name| ((*name).to_owned(), url.clone())).collect();
    // A NO_PROXY from outside would let requests pass beside the tunnel.
    all.extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), String::new())));
    all
}

/// Browsers that take a throw-away profile, and how they are told the proxy.
fn browser(proxy: SocketAddr) -> Result<(Vec<OsString>, Option<PathBuf>)> {
    const CHROMIUM: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "brave-browser"];
    const FIREFOX: [&str; 2] = ["firefox", "firefox-esr"];
    let profile = std::env::temp_dir().join(format!("portdistrict-try-{}", std::process::id()));
    let arguments = |program: &str, extra: &[String]| {
        std::iter::once(program.into()).chain(extra.iter().map(OsString::from)).collect::<Vec<OsString>>()
    };
    if let Some(program) = CHROMIUM.iter().find(|name| on_path(name)) {
        make_profile(&profile, None)?;
        let flags = [
            format!("--user-data-dir={}", profile.display()),
            format!("--proxy-server=socks5://{proxy}"),
            // Chromium resolves names itself for prefetching unless it is told that there are none.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            "--no-first-run".to_owned(),
        ];
        return Ok((arguments(program, &flags), Some(profile)));
    }
    if let Some(program) = FIREFOX.iter().find(|name| on_path(name)) {
        let preferences = format!(
            "user_pref(\"network.proxy.type\", 1);\nuser_pref(\"network.proxy.socks\", \"{}\");\nuser_pref(\"network.proxy.socks_port\", {});\nuser_pref(\"network.proxy.socks_remote_dns\", true);\nuser_pref(\"network.proxy.allow_hijacking_localhost\", true);\nuser_pref(\"media.peerconnection.enabled\", false);\n",
            proxy.ip(),
            proxy.port()
        );
        make_profile(&profile, Some(&preferences))?;
        return Ok((arguments(program, &["--no-remote".into(), "--profile".into(), profile.display().to_string()]), Some(profile)));
    }
    Err(Error::new(Code::Precondition, "no browser was found that takes a throw-away profile").hint(format!(
        "install chromium or firefox, or leave out --browser and set the SOCKS5 proxy {proxy} in your browser by hand"
    )))
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn make_profile(folder: &std::path::Path, preferences: Option<&str>) -> Result<()> {
    crate::config::fs::ensure_private_dir(folder)?;
    match preferences {
        Some(text) => crate::config::fs::write_private(&folder.join("user.js"), text.as_bytes()),
        None => Ok(()),
    }
}

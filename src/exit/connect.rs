//! `exit connect`: keeps an accepted exit available on a loopback port until it is ended.

use super::accept;
use super::health;
use super::proxy::Proxy;
use super::try_::{News, Serving, Tell};
use super::tunnel::{Change, Tunnel};
use super::way::Failure;
use crate::config::{Label, Paths, fs};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::Exit;
use crate::proof;
use crate::token::Invite;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The proxy's usual port, as other SOCKS proxies have it.
pub const DEFAULT_PORT: u16 = 1080;
/// Far above what a state file holds.
const MAX_STATE: usize = 4096;

/// What a running `connect` leaves for `exit list`; only meaningful while its lock is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where its proxy listens.
    pub proxy: SocketAddr,
    /// Unix seconds.
    pub since: u64,
    /// Whether a session stands; if not, it is being made anew.
    pub up: bool,
}

/// How an exit is to be served.
pub struct Request<'a> {
    /// The local port; 0 finds a free one.
    pub port: u16,
    /// Sessions kept beside each other, each over circuits of its own.
    pub circuits: usize,
    /// What reaching it needs.
    pub net: accept::Net<'a>,
}

/// An accepted exit, and the `connect` that serves it if there is one.
#[derive(Clone, Debug)]
pub struct Seen {
    /// From the ledger.
    pub exit: Exit,
    /// What a process of this user serves at the moment.
    pub running: Option<Running>,
}

/// Takes the local port; 0 finds a free one.
pub fn listen(port: u16) -> Result<Proxy> {
    Proxy::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Accepts an invite and serves it. The port is taken first: an invite must not be spent on a failure that was known before.
pub async fn accept_and_connect(cx: &Context, invite: &Invite, request: &Request<'_>, tell: Tell<'_>) -> Result<()> {
    let proxy = listen(request.port)?;
    let exit = accept::accept(cx, invite, None, &request.net).await?;
    serve(cx, &exit, request, || Ok(proxy), tell).await
}

/// Serves an accepted exit until it is dropped; returns only when the node refuses for good.
pub async fn connect(cx: &Context, exit: &Exit, request: &Request<'_>, tell: Tell<'_>) -> Result<()> {
    serve(cx, exit, request, || listen(request.port), tell).await
}

async fn serve(cx: &Context, exit: &Exit, request: &Request<'_>, listen: impl FnOnce() -> Result<Proxy>, tell: Tell<'_>) -> Result<()> {
    let files = Files::of(cx.paths(), &exit.name)?;
    let Some(_lock) = take(&files).await? else { return Err(already(cx.paths(), &exit.name)) };
    let proxy = listen()?;
    let address = proxy.address();
    let way = accept::way(exit, cx.keyring()?, request.net.tor)?;
    let reached = way.reach_patiently(request.net.progress, request.net.retry).await.map_err(Failure::into_error)?;
    if let Some(verdict) = &reached.verdict {
        proof::record(cx, &exit.name, way.node, verdict, false)?;
    }
    let sign = Sign { file: files.state, running: Running { pid: std::process::id(), proxy: address, since: cx.now(), up: true } };
    sign.write(true)?;
    let (node, tunnel) = (way.node, Tunnel::keep(way, reached.clone(), request.circuits));
    let _serving = Serving(tokio::spawn(proxy.run(tunnel.clone())));
    tell(News::Connected { reached: &reached, node, proxy: address });
    let echo = async { tell(News::Health(&health::echo(&reached.session).await)) };
    let follow = tunnel.follow(|change| {
        let up = match change {
            Change::Back { .. } => Some(true),
            Change::State(_) => Some(false),
            Change::Denied(_) => None,
        };
        if let Some(up) = up
            && let Err(error) = sign.write(up)
        {
            // A full disk must not end a tunnel that works.
            tracing::warn!(%error, "what `exit list` shows is out of date");
        }
        tell(News::Changed(change));
    });
    let ((), refused) = tokio::join!(echo, follow);
    Err(refused)
}

/// The lock of an exit. Whoever lists exits holds it for a moment, hence more than one attempt.
async fn take(files: &Files) -> Result<Option<fs::Lock>> {
    for _ in 0..5 {
        if let Some(lock) = fs::try_lock(&files.lock)? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

fn already(paths: &Paths, name: &Label) -> Error {
    let by = running(paths, name);
    let at = by.as_ref().map_or_else(String::new, |running| format!(" on {}", running.proxy));
    let hint = by.map_or_else(|| "end the other one first".to_owned(), |running| format!("use that one, or end it: kill {}", running.pid));
    Error::new(Code::Exists, format!("exit `{name}` is connected already{at}")).hint(hint)
}

/// Every accepted exit, and which are connected.
pub fn list(cx: &Context) -> Result<Vec<Seen>> {
    let see = |exit: Exit| Seen { running: running(cx.paths(), &exit.name), exit };
    Ok(cx.ledger()?.exits()?.into_iter().map(see).collect())
}

/// The running `connect` of an exit, if there is one.
pub fn running(paths: &Paths, name: &Label) -> Option<Running> {
    let files = Files::paths(paths, name);
    if !files.lock.exists() || matches!(fs::try_lock(&files.lock), Ok(Some(_))) {
        return None;
    }
    serde_json::from_slice(&fs::read_private(&files.state, MAX_STATE).ok()?).ok()
}

struct Files {
    lock: PathBuf,
    state: PathBuf,
}

impl Files {
    fn paths(paths: &Paths, name: &Label) -> Files {
        let folder = paths.state.join("exits");
        Files { lock: folder.join(format!("{name}.lock")), state: folder.join(format!("{name}.json")) }
    }

    fn of(paths: &Paths, name: &Label) -> Result<Files> {
        fs::ensure_private_dir(&paths.state.join("exits"))?;
        Ok(Self::paths(paths, name))
    }
}

/// What others read of a running `connect`; gone with it.
struct Sign {
    file: PathBuf,
    running: Running,
}

impl Sign {
    fn write(&self, up: bool) -> Result<()> {
        let running = Running { up, ..self.running.clone() };
        fs::write_private(&self.file, &serde_json::to_vec(&running).unwrap_or_default())
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;

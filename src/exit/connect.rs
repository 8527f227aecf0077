//! `exit connect`: keeps an accepted exit available on a loopback port until it is ended.

use super::accept;
use super::health;
use super::proxy::Proxy;
use super::try_::{News, Serving, Tell};
use super::tunnel::Tunnel;
use super::way::Failure;
use crate::config::{Label, Paths, fs};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::Exit;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

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
}

/// Serves an accepted exit until it is dropped; returns only when the node refuses for good.
pub async fn connect(cx: &Context, exit: &Exit, port: u16, tell: Tell<'_>) -> Result<()> {
    let files = Files::of(cx.paths(), &exit.name)?;
    let Some(_lock) = fs::try_lock(&files.lock)? else {
        let at = running(cx.paths(), &exit.name).map_or_else(String::new, |running| format!(" on {}", running.proxy));
        return Err(
            Error::new(Code::Exists, format!("exit `{}` is connected already{at}", exit.name)).hint("use that one, or end it first")
        );
    };
    let proxy = Proxy::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let address = proxy.address();
    let way = accept::way(exit, cx.keyring()?);
    let reached = way.reach().await.map_err(Failure::into_error)?;
    let running = Running { pid: std::process::id(), proxy: address, since: cx.now() };
    fs::write_private(&files.state, &serde_json::to_vec(&running).unwrap_or_default())?;
    let _cleanup = Remove(files.state);
    let (node, tunnel) = (way.node, Tunnel::keep(way, reached.clone()));
    let _serving = Serving(tokio::spawn(proxy.run(tunnel.clone())));
    tell(News::Connected { reached: &reached, node, proxy: address });
    let echo = async { tell(News::Health(&health::echo(&reached.session).await)) };
    let follow = tunnel.follow(|state| tell(News::Changed(state)));
    let ((), refused) = tokio::join!(echo, follow);
    Err(refused)
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

struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

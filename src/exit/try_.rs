//! `exit try`: uses an invite once, as nobody in particular, and leaves nothing behind.
//!
//! No file is written and no home is opened: the key comes from the invite. A command starts as soon as the session
//! stands; the health echo runs beside it.

use super::browser;
use super::guard::{Guarded, Scratch};
use super::health::{self, OutsideAddresses};
use super::proxy::Proxy;
use super::tunnel::{Change, Tunnel};
use super::way::{Failure, Hidden, Reached, Way};
use crate::config::fs::ensure_private_dir;
use crate::error::{Code, Error, Result};
use crate::progress::Progress;
use crate::proof::Terms;
use crate::session::Hello;
use crate::token::Invite;
use crate::tor::{self, Places, Tor};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The name of an exit whose owner gave it none.
pub const NAMELESS: &str = "exit";
/// How long a try waits for its health echo after the command has ended.
const LAST_ECHO: Duration = Duration::from_secs(2);

/// What is wanted of a try.
#[derive(Debug, Default)]
pub struct Request {
    /// Port of the local proxy; 0 takes a free one.
    pub port: u16,
    /// The command to run, if any.
    pub command: Vec<OsString>,
    /// Sessions kept beside each other, each over circuits of its own; at least one.
    pub circuits: usize,
    /// Open a browser with a throw-away profile instead.
    pub browser: bool,
    /// Ask this service for the address that the world sees.
    pub ip_check: Option<String>,
    /// Rules that the node's evidence must meet, beside what the invite demands.
    pub policy: Option<PathBuf>,
}

/// What happens, for whoever shows it.
#[derive(Debug)]
pub enum News<'a> {
    /// The exit was not reached; the next attempt comes in so many seconds.
    Retry {
        /// Seconds.
        wait: u64,
        /// Why the last attempt failed.
        error: &'a Error,
    },
    /// The session stands and the proxy listens.
    Connected {
        /// The session and what it allows.
        reached: &'a Reached,
        /// The node's key.
        node: [u8; 32],
        /// Where local programs are served.
        proxy: SocketAddr,
    },
    /// Bytes pass, with this round trip; or they do not.
    Health(&'a Result<Duration>),
    /// The address without and with the tunnel.
    Outside(&'a Result<OutsideAddresses>),
    /// Something happened to the tunnel.
    Changed(Change<'a>),
}

/// Takes the news.
pub type Tell<'a> = &'a (dyn Fn(News<'_>) + Send + Sync);

/// The way that an invite describes, as the holder of its text.
pub fn way(invite: &Invite, tor: &Arc<Tor>) -> Result<Way> {
    let secret = invite.secret.as_ref().ok_or_else(|| {
        Error::new(Code::Refused, "this invite is made out to one person's own key and cannot be tried by whoever has its text")
            .hint("portdistrict exit accept BLOB")
    })?;
    let onion = invite.transport.onion.map(|onion| Hidden {
        address: onion.address,
        discovery: onion.restricted.then(|| secret.discovery_secret()),
        tor: tor.clone(),
    });
    Ok(Way {
        name: invite.name.as_ref().map_or_else(|| NAMELESS.to_owned(), ToString::to_string),
        addresses: invite.transport.addresses.clone(),
        onion,
        node: invite.node,
        secret: secret.subject_secret(),
        hello: Hello { grant: invite.grant.encode(), bind: None, version: env!("CARGO_PKG_VERSION").to_owned() },
        proof: Terms::demanded(invite.grant.root().grant().evidence, None)?,
    })
}

/// Where a try's own Tor keeps its files: a folder that is gone with it, also after `kill -9`.
struct Throwaway {
    tor: Arc<Tor>,
    _janitor: Option<Guarded>,
}

impl Throwaway {
    fn new(invite: &Invite, settings: tor::Settings) -> Result<Throwaway> {
        if invite.transport.onion.is_none() {
            let nowhere = Places::within(Path::new("/nowhere"));
            return Ok(Throwaway { tor: Tor::new(nowhere, settings, tor::Role::Client), _janitor: None });
        }
        let folder = scratch_folder()?;
        let scratch = Scratch { folder: folder.clone(), file: None };
        // Before anything is written there.
        let janitor = Guarded::start(&[], &[], Some(scratch))?;
        Ok(Throwaway { tor: Tor::new(Places::within(&folder), settings, tor::Role::Client), _janitor: Some(janitor) })
    }
}

/// A new folder where this user can write, in memory where there is no other place.
fn scratch_folder() -> Result<PathBuf> {
    let name = format!("portdistrict-try-tor-{}", std::process::id());
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("/dev/shm")];
    let made = places.iter().map(|place| place.join(&name)).find(|folder| ensure_private_dir(folder).is_ok());
    made.ok_or_else(|| {
        Error::new(Code::Precondition, "Tor needs a folder that it can write to while this runs, and there is none")
            .because(format!("tried {}", places.map(|place| place.display().to_string()).join(", ")))
            .hint("name one with TMPDIR=DIR")
    })
}

/// Runs a try to its end; the status is the command's. Without a command it goes on until it is dropped or refused.
pub async fn run(invite: &Invite, request: &Request, settings: tor::Settings, progress: &dyn Progress, tell: Tell<'_>) -> Result<u8> {
    let throwaway = Throwaway::new(invite, settings)?;
    let mut way = way(invite, &throwaway.tor)?;
    if let Some(policy) = &request.policy {
        way.proof = Terms::demanded(invite.grant.root().grant().evidence, Some(policy))?;
    }
    let proxy = Proxy::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, request.port)))?;
    let address = proxy.address();
    let (command, scratch) = if request.browser {
        let (command, scratch) = browser::command(address)?;
        (command, Some(scratch))
    } else {
        (request.command.clone(), None)
    };
    let node = way.node;
    let reached = way.reach_patiently(progress, &|wait, error| tell(News::Retry { wait, error })).await.map_err(Failure::into_error)?;
    let tunnel = Tunnel::keep(way, reached.clone(), request.circuits.max(1));
    let _serving = Serving(tokio::spawn(proxy.run(tunnel.clone())));
    // Before anything is shown: the command is what the user waits for.
    let guarded = if command.is_empty() { None } else { Some(Guarded::start(&command, &variables(address), scratch)?) };
    tell(News::Connected { reached: &reached, node, proxy: address });

    let echo = async { tell(News::Health(&health::echo(&reached.session).await)) };
    let outside = async {
        if let Some(url) = &request.ip_check {
            tell(News::Outside(&health::outside_addresses(url, address).await));
        }
    };
    let follow = tunnel.follow(|change| tell(News::Changed(change)));
    let Some(mut guarded) = guarded else {
        let ((), (), error) = tokio::join!(echo, outside, follow);
        return Err(error);
    };
    // A command decides itself when it has enough of a tunnel that is gone.
    let follow = async {
        let error = follow.await;
        tell(News::Changed(Change::Denied(error.message())));
        std::future::pending().await
    };
    let status = tokio::select! {
        status = finish(&mut guarded, echo, outside) => status,
        never = follow => never,
    };
    tunnel.last_denials(|sentence| tell(News::Changed(Change::Denied(sentence))));
    status
}

/// Waits for the command. Its checks are worth a moment more; one that was asked for, as long as it takes.
async fn finish(guarded: &mut Guarded, echo: impl Future<Output = ()>, outside: impl Future<Output = ()>) -> Result<u8> {
    let (ended, has_ended) = tokio::sync::oneshot::channel::<()>();
    let command = async {
        let status = guarded.wait().await;
        drop(ended);
        status
    };
    let echo = async {
        let too_late = async {
            let _ = has_ended.await;
            tokio::time::sleep(LAST_ECHO).await;
        };
        tokio::select! { () = echo => {}, () = too_late => {} }
    };
    let (status, (), ()) = tokio::join!(command, echo, outside);
    status
}

/// The local proxy; it stops when this is dropped.
pub(super) struct Serving<T>(pub(super) JoinHandle<T>);

impl<T> Drop for Serving<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The variables that send a program through the proxy, with names looked up at the far end.
pub fn variables(proxy: SocketAddr) -> Vec<(String, String)> {
    let url = format!("socks5h://{proxy}");
    let names = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"];
    let mut all: Vec<_> = names.iter().map(|name| ((*name).to_owned(), url.clone())).collect();
    // A NO_PROXY from outside would let requests pass beside the tunnel.
    all.extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), String::new())));
    all
}

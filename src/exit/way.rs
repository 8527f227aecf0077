//! The way to a node: its addresses, its onion service and its key, and with what we present ourselves.

use crate::attest::{Outcome, Verdict};
use crate::config::time::now_s;
use crate::encoding::onion::OnionAddress;
use crate::error::{Code, Error};
use crate::progress::{Progress, Step};
use crate::proof::{self, Terms};
use crate::resolve::socket_addresses;
use crate::session::{ConnectError, Hello, Session, Welcome, connect};
use crate::tor::{Stage, Tor};
use crate::trust::Refusal;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

/// Time for one address to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// When a direct connection has not come about for so long, Tor is started beside it.
const WARM_UP: Duration = Duration::from_secs(2);
/// Waits between the first attempts over Tor (PD-EX6).
pub const GATE: [u64; 4] = [5, 10, 20, 30];

/// How to reach a node, and as whom.
#[derive(Clone)]
pub struct Way {
    /// What the friend calls the exit; appears in messages.
    pub name: String,
    /// `host:port`, tried in order; none if the node is reached over Tor alone.
    pub addresses: Vec<String>,
    /// Its onion service, tried when no address leads there.
    pub onion: Option<Hidden>,
    /// The node's Noise public key, pinned by the invite.
    pub node: [u8; 32],
    /// The X25519 secret that the grant was made out to, or bound to.
    pub secret: Zeroizing<[u8; 32]>,
    /// What message 1 carries.
    pub hello: Hello,
    /// What the node must prove before anything else passes; nothing unless the grant or a policy demands it.
    pub proof: Option<Arc<Terms>>,
}

/// The way over Tor.
#[derive(Clone)]
pub struct Hidden {
    /// Where the service is.
    pub address: OnionAddress,
    /// The X25519 secret without which a restricted service is not found.
    pub discovery: Option<Zeroizing<[u8; 32]>>,
    /// The way into the network.
    pub tor: Arc<Tor>,
}

/// Over what a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// TCP to this address.
    Direct(SocketAddr),
    /// Tor, to this onion service.
    Tor(OnionAddress),
}

impl Via {
    /// The transport's name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Direct(_) => "direct",
            Via::Tor(_) => "tor",
        }
    }

    /// The address as it would be dialled.
    pub fn address(self) -> String {
        match self {
            Via::Direct(address) => address.to_string(),
            Via::Tor(onion) => onion.to_string(),
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Via::Direct(address) => write!(f, "{address}"),
            Via::Tor(onion) => write!(f, "{} over Tor", onion.short()),
        }
    }
}

/// A session that stands.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The session.
    pub session: Session,
    /// What the node granted.
    pub welcome: Welcome,
    /// What answered.
    pub via: Via,
    /// What it proved, where that was demanded.
    pub verdict: Option<Arc<Verdict>>,
}

/// Why a node was not reached.
#[derive(Debug)]
pub enum Failure {
    /// The node said no; trying again will not help, except where [`Refusal::is_passing`] says so.
    Refused(Refusal, Error),
    /// Nobody there, or no answer: worth another try.
    Unreachable(Error),
    /// Something on this side is wrong; the same try would fail in the same way.
    Stuck(Error),
}

impl Failure {
    /// The error for a person.
    pub fn into_error(self) -> Error {
        match self {
            Failure::Refused(_, error) | Failure::Unreachable(error) | Failure::Stuck(error) => error,
        }
    }
}

impl Way {
    /// Tries the addresses in order, then the onion service, and opens a session over the first that answers. A node that must
    /// prove itself has done so when this returns.
    pub async fn reach(&self) -> Result<Reached, Failure> {
        let mut reached = self.connect().await?;
        reached.verdict = self.proved(&reached.session).await?;
        Ok(reached)
    }

    /// Has the node prove what is demanded of it. Whoever does not is not spoken to any further.
    async fn proved(&self, session: &Session) -> Result<Option<Arc<Verdict>>, Failure> {
        let Some(terms) = &self.proof else { return Ok(None) };
        let asked = proof::ask(session, self.node, terms).await.map_err(|error| {
            let away = Error::new(Code::Unreachable, format!("exit `{}` did not answer when asked for its evidence", self.name));
            Failure::Unreachable(away.because(error.to_string()).hint("try again in a moment"))
        });
        let outcome = asked.and_then(|(verdict, _)| match verdict.outcome {
            Outcome::Verified => Ok(Some(Arc::new(verdict))),
            Outcome::Refused | Outcome::Unverified => Err(Failure::Stuck(self.unproved(&verdict))),
        });
        if outcome.is_err() {
            session.close();
        }
        outcome
    }

    fn unproved(&self, verdict: &Verdict) -> Error {
        let error = Error::new(Code::Refused, format!("exit `{}` does not prove what is demanded of it; nothing was sent", self.name));
        let error = verdict.faults.iter().fold(error, |error, fault| error.because(fault.to_string()));
        error.hint("ask its owner: the machine behind the invite is not the one that was promised, or it was rebuilt")
    }

    async fn connect(&self) -> Result<Reached, Failure> {
        let Some(hidden) = &self.onion else { return self.reach_directly().await };
        if self.addresses.is_empty() {
            return self.reach_over_tor(hidden).await;
        }
        let warm_up = async {
            sleep(WARM_UP).await;
            let _ = hidden.tor.join().await;
            std::future::pending().await
        };
        let direct = tokio::select! {
            direct = self.reach_directly() => direct,
            never = warm_up => never,
        };
        let Err(Failure::Unreachable(direct)) = direct else { return direct };
        self.reach_over_tor(hidden).await.map_err(|failure| match failure {
            Failure::Unreachable(error) => Failure::Unreachable(beside(error, &direct)),
            Failure::Stuck(error) => Failure::Stuck(beside(error, &direct)),
            refused @ Failure::Refused(..) => refused,
        })
    }

    /// As [`Way::reach`], but patient where Tor is involved: five attempts with 5, 10, 20 and 30 s between them. `retry` is told
    /// before each wait.
    pub async fn reach_patiently(&self, progress: &dyn Progress, retry: &(dyn Fn(u64, &Error) + Send + Sync)) -> Result<Reached, Failure> {
        let waits: &[u64] = if self.onion.is_some() { &GATE } else { &[] };
        let mut waits = waits.iter();
        loop {
            let error = match self.reach_shown(progress).await {
                Ok(reached) => return Ok(reached),
                Err(Failure::Unreachable(error)) => error,
                Err(failure) => return Err(failure),
            };
            let Some(wait) = waits.next() else { return Err(Failure::Unreachable(error)) };
            retry(*wait, &error);
            let step = progress.step("wait before the next attempt");
            for left in (1..=*wait).rev() {
                step.note(&format!("{left} s left"));
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// One attempt, with its steps shown where they take time.
    async fn reach_shown(&self, progress: &dyn Progress) -> Result<Reached, Failure> {
        let Some(hidden) = &self.onion else { return self.reach().await };
        let mut stage = hidden.tor.stage();
        let show = async {
            let mut step: Option<Box<dyn Step>> = None;
            loop {
                let now = *stage.borrow_and_update();
                match now {
                    Stage::Joining { percent, .. } => {
                        let step = step.get_or_insert_with(|| progress.step("join the Tor network"));
                        step.note(&format!("{percent} %: {}", now.waits_for()));
                    }
                    Stage::Joined => {
                        step.take().into_iter().for_each(Step::done);
                        step = Some(progress.step("find the exit over Tor"));
                    }
                    Stage::Off => {}
                }
                if stage.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            reached = self.reach() => reached,
            never = show => never,
        }
    }

    async fn reach_directly(&self) -> Result<Reached, Failure> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            let found = match socket_addresses(address).await {
                Ok(found) => found,
                Err(reason) => {
                    reasons.push(reason);
                    continue;
                }
            };
            for socket in found {
                match self.reach_at(socket).await {
                    Ok(reached) => return Ok(reached),
                    Err(ConnectError::Refused { code, text }) => return Err(self.refused(code, &text)),
                    Err(error) => reasons.push(self.explain(socket, &error)),
                }
            }
        }
        let mut error = Error::new(Code::Unreachable, format!("cannot reach exit `{}`", self.name)).hint(
            "check your network; if it stays away, its owner should look: portdistrict machine list (and your clock must be right within two hours)",
        );
        for reason in reasons {
            error = error.because(reason);
        }
        Err(Failure::Unreachable(error))
    }

    async fn reach_over_tor(&self, hidden: &Hidden) -> Result<Reached, Failure> {
        hidden.tor.join().await.map_err(Failure::Stuck)?;
        let discovery = hidden.discovery.as_deref();
        let stream = hidden.tor.connect(&hidden.address, discovery).await.map_err(|error| match error.code() {
            // A key that the service does not know may be on its way to it.
            Code::Unreachable | Code::TimedOut | Code::Refused => Failure::Unreachable(self.away(&error)),
            _ => Failure::Stuck(error),
        })?;
        match connect(stream, &self.secret, &self.node, self.hello.clone(), now_s()).await {
            Ok((session, welcome)) => Ok(Reached { session, welcome, via: Via::Tor(hidden.address), verdict: None }),
            Err(ConnectError::Refused { code, text }) => Err(self.refused(code, &text)),
            Err(error) => {
                let away = Error::new(Code::Unreachable, format!("exit `{}` does not answer over Tor", self.name));
                Err(match (error, hidden.tor.clock_off()) {
                    // Who is hours off is not answered.
                    (ConnectError::Silent, Some(off)) => {
                        Failure::Stuck(away.because(off).hint("set the clock right: timedatectl set-ntp true"))
                    }
                    (ConnectError::Silent, None) => Failure::Unreachable(
                        away.because(
                            "its onion service is there, but nobody behind it answers to the key in the invite, or a clock is off by hours",
                        )
                        .hint("check that the clock of this computer is right; then its owner should look: portdistrict machine list"),
                    ),
                    (error, _) => Failure::Unreachable(away.because(error.to_string()).hint("try again in a moment")),
                })
            }
        }
    }

    /// The error of the way, with the name of the exit before it.
    fn away(&self, error: &Error) -> Error {
        let away = Error::new(error.code(), format!("cannot reach exit `{}` over Tor", self.name)).because(error.message());
        let away = error.causes().iter().fold(away, |away, cause| away.because(cause.clone()));
        away.hint(error.hint_text().unwrap_or("try again in a moment"))
    }

    fn refused(&self, code: Refusal, text: &str) -> Failure {
        Failure::Refused(code, code.to_error(&format!("exit `{}`", self.name)).because(format!("the node says: {text}")))
    }

    async fn reach_at(&self, address: SocketAddr) -> Result<Reached, ConnectError> {
        let timed_out = || ConnectError::Io(std::io::ErrorKind::TimedOut.into());
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| timed_out())??;
        tcp.set_nodelay(true)?;
        let (session, welcome) = connect(tcp, &self.secret, &self.node, self.hello.clone(), now_s()).await?;
        Ok(Reached { session, welcome, via: Via::Direct(address), verdict: None })
    }

    fn explain(&self, address: SocketAddr, error: &ConnectError) -> String {
        match error {
            ConnectError::Io(io) => match io.kind() {
                std::io::ErrorKind::ConnectionRefused => format!("{address}: nothing listens there; the node is stopped or has moved"),
                std::io::ErrorKind::TimedOut => {
                    format!("{address}: no answer in {} s; a firewall may be in between", CONNECT_TIMEOUT.as_secs())
                }
                _ => format!("{address}: {io}"),
            },
            ConnectError::Silent => format!(
                "{address}: something listens there but does not answer to key {}; the node has another key now, or this clock is off",
                crate::encoding::short(&crate::encoding::base64(&self.node))
            ),
            other => format!("{address}: {other}"),
        }
    }
}

/// The error of one transport, with what went wrong with the other.
fn beside(error: Error, direct: &Error) -> Error {
    direct.causes().iter().fold(error, |error, cause| error.because(format!("directly: {cause}")))
}

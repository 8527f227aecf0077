//! The way to a node: its addresses and key, and with what we present ourselves.

use crate::config::time::now_s;
use crate::error::{Code, Error};
use crate::resolve::socket_addresses;
use crate::session::{ConnectError, Hello, Session, Welcome, connect};
use crate::trust::Refusal;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// Time for one address to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// How to reach a node, and as whom.
#[derive(Clone)]
pub struct Way {
    /// What the friend calls the exit; appears in messages.
    pub name: String,
    /// `host:port`, tried in order.
    pub addresses: Vec<String>,
    /// The node's Noise public key, pinned by the invite.
    pub node: [u8; 32],
    /// The X25519 secret that the grant was made out to, or bound to.
    pub secret: Zeroizing<[u8; 32]>,
    /// What message 1 carries.
    pub hello: Hello,
}

/// A session that stands.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The session.
    pub session: Session,
    /// What the node granted.
    pub welcome: Welcome,
    /// The address that answered.
    pub address: SocketAddr,
}

/// Why a node was not reached.
#[derive(Debug)]
pub enum Failure {
    /// The node said no; trying again will not help, except where [`Refusal::is_passing`] says so.
    Refused(Refusal, Error),
    /// Nobody there, or no answer: worth another try.
    Unreachable(Error),
}

impl Failure {
    /// The error for a person.
    pub fn into_error(self) -> Error {
        match self {
            Failure::Refused(_, error) | Failure::Unreachable(error) => error,
        }
    }
}

impl Way {
    /// Tries the addresses in order and opens a session over the first that answers.
    pub async fn reach(&self) -> Result<Reached, Failure> {
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
                    Err(ConnectError::Refused { code, text }) => {
                        return Err(Failure::Refused(
                            code,
                            code.to_error(&format!("exit `{}`", self.name)).because(format!("the node says: {text}")),
                        ));
                    }
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

    async fn reach_at(&self, address: SocketAddr) -> Result<Reached, ConnectError> {
        let timed_out = || ConnectError::Io(std::io::ErrorKind::TimedOut.into());
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| timed_out())??;
        tcp.set_nodelay(true)?;
        let (session, welcome) = connect(tcp, &self.secret, &self.node, self.hello.clone(), now_s()).await?;
        Ok(Reached { session, welcome, address })
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

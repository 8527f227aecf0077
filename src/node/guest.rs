//! One admitted session: its streams, and its end at the latest when the grant ends.

use super::control;
use super::core::{Core, StreamCount};
use super::egress::{Reason, Verdict};
use super::gate::Admitted;
use super::meter::Guard;
use crate::config::time::now_s;
use crate::resolve::Resolver;
use crate::session::messages::{ExitReply, ExitRequest, Kind, MAX_ECHO, Message, read_first};
use crate::session::{Session, Stream, relay};
use crate::token::{Role, Way};
use crate::trust::{ByName, Refusal};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Time for a stream to say what it is for.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one address of a destination, and for all of them.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ALL_TIMEOUT: Duration = Duration::from_secs(25);
/// Time for a health check; whoever needs longer is not well.
const ECHO_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an end of validity is slept towards before the clock is read again, since clocks are set and grants renewed.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

struct Guest {
    core: Arc<Core>,
    resolver: Arc<Resolver>,
    admitted: Arc<Admitted>,
}

/// Serves a session until it is over.
pub(super) async fn serve(core: &Arc<Core>, resolver: Arc<Resolver>, admitted: Admitted, session: Session, way: Way) {
    admitted.live.attach(session.clone());
    let role = if admitted.role == Role::Control { "control" } else { "exit" };
    core.log.event("session.open").grant(&admitted.grant).with("role", role).with("via", way.as_str()).write();
    let guest = Arc::new(Guest { core: core.clone(), resolver, admitted: Arc::new(admitted) });
    loop {
        let left = match core.gate.standing(&guest.admitted, now_s()) {
            Ok((until, now)) => Duration::from_secs(until.saturating_sub(now)),
            Err(refusal) => {
                guest.admitted.live.end(refusal.as_str());
                break;
            }
        };
        tokio::select! {
            stream = session.accept() => match stream {
                Some(stream) => drop(tokio::spawn(serve_stream(guest.clone(), stream))),
                None => break,
            },
            () = sleep(left.min(CLOCK_CHECK)) => {}
        }
    }
    let reason = guest.admitted.live.ended().unwrap_or("closed");
    core.log.event("session.close").grant(&guest.admitted.grant).with("reason", reason).write();
    core.wake_flush();
}

async fn serve_stream(guest: Arc<Guest>, mut stream: Stream) {
    let Ok(Ok((kind, request))) = timeout(FIRST_TIMEOUT, read_first(&mut stream)).await else { return };
    // A failed stream is the guest's to notice; its session goes on.
    let _ = match (kind, guest.admitted.role) {
        (Kind::Exit, Role::Exit) => guest.exit(&request, stream).await,
        (Kind::Exit, Role::Control) => answer(stream, ExitReply::NotAllowed).await,
        (Kind::Control, Role::Control) => control::serve(&guest.core, &request, stream).await,
        (Kind::Control, Role::Exit) => control::refuse(stream).await,
        (Kind::Holder, Role::Exit) => control::hold(&guest.core, &guest.admitted, &request, stream).await,
        (Kind::Holder, Role::Control) => control::refuse(stream).await,
        (Kind::Evidence, _) => control::evidence(&guest.core, &request, stream).await,
        (Kind::Echo, _) => match guest.core.count_stream() {
            Some(_counted) => timeout(ECHO_TIMEOUT, echo(stream)).await.unwrap_or(Ok(())),
            None => Ok(()),
        },
    };
}

/// Sends the one byte that says no.
async fn answer(mut stream: Stream, reply: ExitReply) -> io::Result<()> {
    stream.write_all(&[reply as u8]).await?;
    stream.shutdown().await
}

/// Sends back what comes, up to a bound: a health check needs no destination.
async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut buffer = vec![0; 2048];
    let mut left = MAX_ECHO;
    while left > 0 {
        let most = left.min(buffer.len());
        let n = stream.read(&mut buffer[..most]).await?;
        if n == 0 {
            break;
        }
        stream.write_all(&buffer[..n]).await?;
        left -= n;
    }
    stream.shutdown().await
}

/// A destination that is open, and what counts it.
struct Open {
    tcp: TcpStream,
    _counted: (Vec<Guard>, StreamCount),
}

impl Guest {
    async fn exit(&self, request: &[u8], mut stream: Stream) -> io::Result<()> {
        let wanted = ExitRequest::decode(request).map_err(io::Error::other)?;
        // Nobody is waited for on behalf of a guest who has gone.
        let opened = tokio::select! {
            opened = timeout(ALL_TIMEOUT, self.open(&wanted)) => opened,
            () = stream.broken() => return Ok(()),
        };
        let open = match opened.unwrap_or(Err(ExitReply::HostUnreachable)) {
            Ok(open) => open,
            Err(reply) => return answer(stream, reply).await,
        };
        stream.write_all(&[ExitReply::Open as u8]).await?;
        let (_, result) = relay(open.tcp, stream, &self.admitted.meters, None).await;
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::QuotaExceeded) {
            if self.admitted.meters.exhausted_today() {
                self.admitted.live.end(Refusal::LimitReached.as_str());
            }
            self.core.log.event("stream.ended").grant(&self.admitted.grant).with("reason", Refusal::LimitReached.as_str()).write();
        }
        result
    }

    /// Asks the grant for the name, resolves it, asks grant and policy for each address, and connects to the first one that lets us.
    async fn open(&self, wanted: &ExitRequest) -> Result<Open, ExitReply> {
        let core = &self.core;
        let counted = core.count_stream().ok_or(ExitReply::Busy)?;
        let Some(guard) = self.admitted.meters.stream() else {
            self.log_refused(Refusal::LimitReached.as_str(), wanted);
            return Err(ExitReply::LimitReached);
        };
        let Some(by_name) = self.admitted.reach.of_name(&wanted.host, wanted.port) else {
            self.log_refused(Reason::Grant.as_str(), wanted);
            return Err(ExitReply::NotAllowed);
        };
        if let Err(reason) = self.core.rules.check(self.admitted.ids(), &wanted.host, None, wanted.port) {
            self.log_refused(reason.as_str(), wanted);
            return Err(ExitReply::NotAllowed);
        }
        let addresses = match self.resolver.lookup(&wanted.host).await {
            Ok(addresses) => addresses,
            Err(failure) => {
                self.log_failed(failure.as_str(), wanted);
                return Err(ExitReply::HostUnreachable);
            }
        };
        let mut refused = None;
        let mut failed = None;
        for ip in addresses {
            if let Err(reason) = self.allowed(&by_name, ip, wanted) {
                refused = Some(reason);
                continue;
            }
            match connect(ip, wanted.port).await {
                Ok(tcp) => return Ok(Open { tcp, _counted: (guard, counted) }),
                Err(reply) => failed = Some(reply),
            }
        }
        match (failed, refused) {
            (Some(reply), _) => {
                self.log_failed(reply.meaning(), wanted);
                Err(reply)
            }
            (None, Some(reason)) => {
                self.log_refused(reason.as_str(), wanted);
                Err(ExitReply::NotAllowed)
            }
            (None, None) => Err(ExitReply::HostUnreachable),
        }
    }

    fn allowed(&self, by_name: &ByName, ip: IpAddr, wanted: &ExitRequest) -> Result<(), Reason> {
        let port = wanted.port;
        let policy = self.core.policy();
        if let Verdict::Refused(reason) = policy.check(ip, port) {
            return Err(reason);
        }
        if !self.admitted.reach.of_address(by_name, ip, port) {
            return Err(Reason::Grant);
        }
        self.core.rules.check(self.admitted.ids(), &wanted.host, Some(ip), port)?;
        // The node can be reached at addresses that its own listening address does not name.
        if policy.is_own_port(port) && is_of_this_machine(ip) { Err(Reason::OwnPort) } else { Ok(()) }
    }

    fn log_refused(&self, reason: &'static str, wanted: &ExitRequest) {
        self.core.gate.history().refused(reason, now_s());
        let line = self.core.log.event("stream.refused").grant(&self.admitted.grant).with("reason", reason);
        line.destination(&wanted.host, wanted.port).write();
    }

    /// Failures are the destination's; without it they say nothing worth a line.
    fn log_failed(&self, reason: &str, wanted: &ExitRequest) {
        if self.core.config.log_destinations {
            let line = self.core.log.event("stream.failed").grant(&self.admitted.grant).with("reason", reason);
            line.destination(&wanted.host, wanted.port).write();
        }
    }
}

/// Only an own address can be bound; nothing is sent. Where the answer cannot be had, it is yes.
fn is_of_this_machine(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip.to_canonical(), 0));
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

async fn connect(ip: IpAddr, port: u16) -> Result<TcpStream, ExitReply> {
    let mut attempt = std::pin::pin!(TcpStream::connect((ip.to_canonical(), port)));
    // What answers at once needs no timer, which would cost the event loop a round.
    let connected = tokio::select! {
        biased;
        connected = &mut attempt => Ok(connected),
        () = tokio::task::yield_now() => timeout(CONNECT_TIMEOUT, attempt).await,
    };
    match connected {
        Ok(Ok(tcp)) => {
            let _ = tcp.set_nodelay(true);
            Ok(tcp)
        }
        Ok(Err(error)) => Err(reply_for(&error)),
        Err(_) => Err(ExitReply::HostUnreachable),
    }
}

/// RFC 1928 §6.
fn reply_for(error: &io::Error) -> ExitReply {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ExitReply::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::NetworkDown => ExitReply::NetworkUnreachable,
        io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut => ExitReply::HostUnreachable,
        _ => ExitReply::Failed,
    }
}

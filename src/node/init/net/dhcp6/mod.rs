//! DHCPv6 on one interface: gives the state machine its packets and its clock, and does to the kernel what it says.

pub(crate) mod client;
mod message;

use self::client::{Change, Client, Lease};
use super::REOPEN;
use super::hub::{News, Place, Source};
use super::socket::{MAX_FRAME, udp};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio::time::{sleep, sleep_until};

/// UDP ports of clients and servers, and the address of all servers on a link (RFC 8415, section 7).
const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// A lease is for the address alone: prefixes come from routers.
const PREFIX: u8 = 128;

/// Gets an address, or name servers alone, and keeps them, for ever.
pub(crate) async fn run(place: Place, wants_address: bool) {
    let client = Client::new(place.mac, wants_address, Instant::now());
    let mut task = Task { place, client, applied: None, has_complained: false };
    loop {
        let error = match udp(&task.place.name, SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, 0).into()) {
            Ok(socket) => task.serve(&socket).await,
            Err(error) => error,
        };
        task.complain(format!("no socket for DHCPv6: {error}")).await;
        sleep(REOPEN).await;
        // What it wants to send has no way out, but a lease ends all the same.
        if let Some(Change::Lost) = task.client.tick(Instant::now()) {
            task.release().await;
        }
    }
}

struct Task {
    place: Place,
    client: Client,
    applied: Option<Lease>,
    /// Since something was sent last: a neighbour who talks nonsense gets one line for each question, not one per packet.
    has_complained: bool,
}

impl Task {
    /// Runs until the socket fails.
    async fn serve(&mut self, socket: &UdpSocket) -> io::Error {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let change = tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) if from.port() == SERVER_PORT => self.client.receive(&buffer[..length], Instant::now()),
                    Ok(_) => Ok(None),
                    Err(error) => return error,
                },
                () = sleep_until(self.client.wake().into()) => Ok(self.client.tick(Instant::now())),
            };
            match change {
                Ok(None) => {}
                Ok(Some(Change::Send(packet))) => {
                    self.has_complained = false;
                    let to = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, self.place.index);
                    if let Err(error) = socket.send_to(&packet, to).await {
                        self.complain(format!("cannot ask for an IPv6 address: {error}")).await;
                    }
                }
                Ok(Some(Change::Leased(lease, notes))) => self.apply(lease, &notes).await,
                Ok(Some(Change::Lost)) => self.release().await,
                Err(refused) => self.complain(format!("a DHCPv6 answer is ignored: {refused}")).await,
            }
        }
    }

    async fn apply(&mut self, lease: Lease, notes: &[String]) {
        if self.applied.as_ref().is_some_and(|old| Lease { times: lease.times, server: lease.server.clone(), ..old.clone() } == lease) {
            return; // renewed as it was
        }
        notes.iter().for_each(|note| self.place.say(note));
        if let Some(address) = lease.address {
            match self.place.kernel.add_address(self.place.index, address.into(), PREFIX).await {
                Ok(()) => self.place.say(&format!("{address}/{PREFIX} by DHCPv6 for {} s", lease.times[2].as_secs())),
                Err(error) => self.complain(format!("the lease of {address} cannot be used: {error}")).await,
            }
        }
        let name_servers = lease.name_servers.iter().copied().map(IpAddr::from).collect();
        self.place.tell(News::Lease(Source::Dhcp6, lease.address.map(IpAddr::from), name_servers)).await;
        self.applied = Some(lease);
    }

    async fn release(&mut self) {
        if let Some(address) = self.applied.take().and_then(|old| old.address) {
            self.place.say(&format!("the lease of {address} is lost"));
            if let Err(error) = self.place.kernel.remove_address(self.place.index, address.into(), PREFIX).await {
                self.place.say(&format!("{address} cannot be removed: {error}"));
            }
        }
        self.place.tell(News::Lease(Source::Dhcp6, None, Vec::new())).await;
    }

    async fn complain(&mut self, text: String) {
        if !std::mem::replace(&mut self.has_complained, true) {
            self.place.say(&text);
            self.place.tell(News::Trouble(Source::Dhcp6, text)).await;
        }
    }
}

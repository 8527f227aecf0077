//! DHCPv4 on one interface: gives the state machine its packets and its clock, and does to the kernel what it says.

mod client;
pub(crate) mod lease;
pub(crate) mod message;

use self::client::{Change, Client};
use self::lease::Lease;
use super::REOPEN;
use super::hub::{News, Place, Source};
use super::socket::{CLIENT_PORT, MAX_FRAME, PacketSocket, SERVER_PORT, udp};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio::time::{sleep, sleep_until};

/// Gets a lease and keeps it, for ever.
pub(crate) async fn run(place: Place) {
    let client = Client::new(place.mac, Instant::now());
    let mut task = Task { place, client, wire: None, applied: None, has_complained: false };
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        if let Err(error) = task.turn(&mut buffer).await {
            task.complain(format!("no socket for DHCP: {error}")).await;
            task.wire = None;
            sleep(REOPEN).await;
            // What it wants to send has no way out, but a lease ends all the same.
            if let Some(Change::Lost) = task.client.tick(Instant::now()) {
                task.release().await;
            }
        }
    }
}

/// The socket that hears answers: frames without an address, UDP with one.
enum Wire {
    Frames(PacketSocket),
    Udp(UdpSocket),
}

impl Wire {
    fn open(interface: &str, has_address: bool) -> io::Result<Self> {
        if has_address {
            udp(interface, SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))).map(Wire::Udp)
        } else {
            PacketSocket::open(interface).map(Wire::Frames)
        }
    }

    async fn send(&self, place: &Place, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        match self {
            Wire::Frames(socket) => socket.send(place.mac, message).await,
            Wire::Udp(socket) => socket.send_to(message, (to, SERVER_PORT)).await.map(drop),
        }
    }

    async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        match self {
            Wire::Frames(socket) => socket.receive(buffer).await,
            Wire::Udp(socket) => {
                let (length, from) = socket.recv_from(buffer).await?;
                Ok(if from.port() == SERVER_PORT { &buffer[..length] } else { &[] })
            }
        }
    }
}

struct Task {
    place: Place,
    client: Client,
    wire: Option<Wire>,
    applied: Option<Lease>,
    /// Since something was sent last: a neighbour who talks nonsense gets one line for each question, not one per packet.
    has_complained: bool,
}

impl Task {
    /// Waits for a packet or the clock, and does what follows. Errors are those of the socket.
    async fn turn(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let has_address = self.client.lease().is_some();
        let wire = match self.wire.take() {
            Some(wire) if matches!(wire, Wire::Udp(_)) == has_address => wire,
            _ => Wire::open(&self.place.name, has_address)?,
        };
        let wire = self.wire.insert(wire);
        let change = tokio::select! {
            packet = wire.receive(buffer) => self.client.receive(packet?, Instant::now()),
            () = sleep_until(self.client.wake().into()) => Ok(self.client.tick(Instant::now())),
        };
        match change {
            Ok(None) => {}
            Ok(Some(Change::Send(to, packet))) => {
                self.has_complained = false;
                if let Err(error) = wire.send(&self.place, to, &packet).await {
                    self.complain(format!("cannot ask for an address: {error}")).await;
                }
            }
            Ok(Some(Change::Leased(lease, notes))) => self.apply(lease, &notes).await,
            Ok(Some(Change::Lost)) => self.release().await,
            Err(refused) => self.complain(format!("a DHCP answer is ignored: {refused}")).await,
        }
        Ok(())
    }

    async fn apply(&mut self, lease: Lease, notes: &[String]) {
        if self.applied.as_ref().is_some_and(|old| Lease { times: lease.times, ..old.clone() } == lease) {
            return; // renewed as it was
        }
        notes.iter().for_each(|note| self.place.say(note));
        match self.change_kernel(&lease).await {
            Ok(()) => {
                let Lease { address, prefix, server, times: [_, _, end], .. } = &lease;
                self.place.say(&format!("{address}/{prefix} from {server} for {} s", end.as_secs()));
            }
            Err(error) => self.complain(format!("the lease of {} cannot be used: {error}", lease.address)).await,
        }
        let name_servers = lease.name_servers.iter().copied().map(IpAddr::from).collect();
        self.place.tell(News::Lease(Source::Dhcp4, Some(lease.address.into()), name_servers)).await;
        self.applied = Some(lease);
    }

    /// A route or MTU that the kernel refuses is reported and left out; an address that it refuses is an error.
    async fn change_kernel(&mut self, lease: &Lease) -> io::Result<()> {
        let Place { kernel, index, .. } = &self.place;
        if let Some(mtu) = lease.mtu
            && let Err(error) = kernel.set_mtu(*index, mtu.into()).await
        {
            self.place.say(&format!("an MTU of {mtu} cannot be set: {error}"));
        }
        let old = self.applied.take();
        if let Some(old) = old.as_ref().filter(|old| (old.address, old.prefix) != (lease.address, lease.prefix)) {
            kernel.remove_address(*index, old.address.into(), old.prefix).await?;
        }
        kernel.add_address(*index, lease.address.into(), lease.prefix).await?;
        for route in &lease.routes {
            if let Err(error) = kernel.add_route(*index, *route, lease.address).await {
                self.place.say(&format!("the route {route} cannot be set: {error}"));
            }
        }
        for route in old.iter().flat_map(|old| &old.routes).filter(|route| !lease.routes.contains(route)) {
            // It may be gone with its address already.
            let _ = kernel.remove_route(*index, *route, lease.address).await;
        }
        Ok(())
    }

    async fn release(&mut self) {
        let Some(old) = self.applied.take() else { return };
        self.place.say(&format!("the lease of {} is lost", old.address));
        if let Err(error) = self.place.kernel.remove_address(self.place.index, old.address.into(), old.prefix).await {
            self.place.say(&format!("{} cannot be removed: {error}", old.address));
        }
        self.place.tell(News::Lease(Source::Dhcp4, None, Vec::new())).await;
    }

    async fn complain(&mut self, text: String) {
        if !std::mem::replace(&mut self.has_complained, true) {
            self.place.say(&text);
            self.place.tell(News::Trouble(Source::Dhcp4, text)).await;
        }
    }
}

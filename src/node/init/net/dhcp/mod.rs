//! DHCP on one interface: gives the state machine its packets and its clock, and does to the kernel what it says.

pub(crate) mod client;
pub(crate) mod lease;
mod v4;
mod v6;

use self::client::{Change, Client, Dialect};
use self::lease::Lease;
use super::hub::{News, Place};
use super::socket::{MAX_FRAME, Wire};
use std::io;
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until};

/// Wait before a socket that failed is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// Gets a lease and keeps it, for ever.
pub(crate) async fn run(place: Place, dialect: Dialect) {
    let client = Client::new(dialect, place.mac, Instant::now());
    let mut task = Task { place, dialect, client, wire: None, held: None, has_complained: false };
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

/// The socket that is open, or another one if it has to be of the other kind.
fn open<'a>(wire: &'a mut Option<Wire>, place: &Place, dialect: Dialect, frames: bool) -> io::Result<&'a Wire> {
    let fit = match wire.take() {
        Some(wire) if wire.is_frames() == frames => wire,
        _ => Wire::open(place, dialect, frames)?,
    };
    Ok(wire.insert(fit))
}

struct Task {
    place: Place,
    dialect: Dialect,
    client: Client,
    wire: Option<Wire>,
    held: Option<Lease>,
    /// Since something was sent last: a neighbour who talks nonsense gets one line for each question, not one per packet.
    has_complained: bool,
}

impl Task {
    /// Waits for a packet or the clock, and does what follows. Errors are those of the socket.
    async fn turn(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let wake = self.client.wake().into();
        let change = if self.client.listens() {
            let wire = open(&mut self.wire, &self.place, self.dialect, self.client.needs_frames())?;
            tokio::select! {
                packet = wire.receive(buffer) => match packet? {
                    Some(packet) => self.client.receive(packet, Instant::now()),
                    None => Ok(None),
                },
                () = sleep_until(wake) => Ok(self.client.tick(Instant::now())),
            }
        } else {
            // A port that is open without need is one that neighbours can talk to.
            self.wire = None;
            sleep_until(wake).await;
            Ok(self.client.tick(Instant::now()))
        };
        match change {
            Ok(None) => {}
            Ok(Some(Change::Send(to, packet))) => {
                self.has_complained = false;
                let wire = open(&mut self.wire, &self.place, self.dialect, self.client.needs_frames())?;
                if let Err(error) = wire.send(to.as_deref(), &packet).await {
                    self.complain(format!("cannot send for DHCP: {error}")).await;
                }
            }
            Ok(Some(Change::Leased(lease))) => self.accept(lease).await,
            Ok(Some(Change::Lost)) => self.release().await,
            Err(refused) => self.complain(format!("a DHCP answer is ignored: {refused}")).await,
        }
        Ok(())
    }

    async fn accept(&mut self, lease: Lease) {
        let old = self.held.replace(lease.clone());
        if old.as_ref().is_some_and(|old| Lease { times: lease.times, server: lease.server.clone(), ..old.clone() } == lease) {
            return; // renewed as it was
        }
        lease.notes.iter().for_each(|note| self.place.say(note));
        // The hub hears of it first, so that it knows whose address it sees.
        self.place.tell(News::Lease(self.dialect, lease.address.map(|(ip, _)| ip), lease.name_servers.clone())).await;
        let Some((ip, prefix)) = lease.address else { return };
        match self.change_kernel(old, &lease).await {
            Ok(()) => self.place.say(&format!("{ip}/{prefix} by DHCP for {} s", lease.times[2].as_secs())),
            Err(error) => {
                // The next renewal tries again.
                self.held = None;
                self.place.tell(News::Lease(self.dialect, None, Vec::new())).await;
                self.complain(format!("the address {ip}/{prefix} cannot be set: {error}")).await;
            }
        }
    }

    /// A route or MTU that the kernel refuses is reported and left out; an address that it refuses is an error.
    async fn change_kernel(&self, old: Option<Lease>, lease: &Lease) -> io::Result<()> {
        let Place { kernel, index, .. } = &self.place;
        if let Some(mtu) = lease.mtu
            && let Err(error) = kernel.set_mtu(*index, mtu.into()).await
        {
            self.place.say(&format!("an MTU of {mtu} cannot be set: {error}"));
        }
        let Some((ip, prefix)) = lease.address else { return Ok(()) };
        kernel.add_address(*index, ip, prefix).await?;
        for route in &lease.routes {
            if let Err(error) = kernel.add_route(*index, route, ip).await {
                self.place.say(&format!("the route {route} cannot be set: {error}"));
            }
        }
        for route in old.iter().flat_map(|old| &old.routes).filter(|route| !lease.routes.contains(route)) {
            if let Err(error) = kernel.remove_route(*index, route, ip).await {
                self.place.say(&format!("the route {route} cannot be removed: {error}"));
            }
        }
        Ok(())
    }

    async fn release(&mut self) {
        if let Some((ip, prefix)) = self.held.take().and_then(|held| held.address) {
            self.place.say(&format!("the lease of {ip} is lost"));
            // The routes go with it, as it is their source.
            if let Err(error) = self.place.kernel.remove_address(self.place.index, ip, prefix).await {
                self.place.say(&format!("{ip} cannot be removed: {error}"));
            }
        }
        self.place.tell(News::Lease(self.dialect, None, Vec::new())).await;
    }

    async fn complain(&mut self, text: String) {
        if !std::mem::replace(&mut self.has_complained, true) {
            self.place.say(&text);
            self.place.tell(News::Trouble(self.dialect, text)).await;
        }
    }
}

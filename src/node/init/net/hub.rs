//! The middle: sees to every interface, collects what is known of each, and publishes it.
//!
//! One task owns all of it. The DHCP tasks send it news; for the rest it asks the kernel, whenever the kernel says that
//! something changed and now and then besides, so a missed message delays a report but never spoils it.

use super::dhcp4::message::MAC_LEN;
use super::dhcp6::client::name_servers;
use super::kernel::{Advertised, Kernel, LinkInfo, LinkKind};
use super::listen::{Listener, Rdnss};
use super::{Address, How, Interface, MAX_NAME_SERVERS, Options, REOPEN, Summary, Trouble, dhcp4, dhcp6, resolv};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, sleep_until};

/// Least time between two looks at the kernel: a flood of router advertisements must not keep a processor busy.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Most time between two looks, in case a message was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// News that may wait; the senders do, too, when there are more.
const INBOX: usize = 32;

/// Which DHCP said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Dhcp4,
    Dhcp6,
}

/// What a DHCP task found out.
#[derive(Debug)]
pub(crate) enum News {
    /// What it holds now: an address and name servers.
    Lease(Source, Option<IpAddr>, Vec<IpAddr>),
    /// Why it has nothing so far.
    Trouble(Source, String),
}

/// Where a DHCP task works, and whom it tells.
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; MAC_LEN],
    pub(crate) kernel: Kernel,
    hub: mpsc::Sender<(u32, News)>,
    log: super::Log,
}

impl Place {
    /// Logs a line about this interface.
    pub(crate) fn say(&self, text: &str) {
        (self.log)(&format!("{}: {text}", self.name));
    }

    /// Tells the hub. If that is gone, this task is about to end too.
    pub(crate) async fn tell(&self, news: News) {
        let _ = self.hub.send((self.index, news)).await;
    }
}

/// What one DHCP task of one interface is up to.
#[derive(Default)]
struct Client {
    task: Option<(AbortHandle, Instant)>,
    trouble: Option<String>,
    address: Option<IpAddr>,
    name_servers: Vec<IpAddr>,
}

impl Client {
    fn stop(&self) {
        if let Some((task, _)) = &self.task {
            task.abort();
        }
    }

    /// What to say if this is all there is.
    fn trouble(&self, silence: fn(Instant) -> Trouble) -> Option<Trouble> {
        let (_, since) = self.task.as_ref().filter(|_| self.address.is_none() && self.name_servers.is_empty())?;
        Some(self.trouble.clone().map_or_else(|| silence(*since), Trouble::Other))
    }
}

/// What is remembered of one interface.
struct Link {
    /// Why it could not be switched on, and when.
    up: Option<(String, Instant)>,
    dhcp4: Client,
    dhcp6: Client,
    wants_address6: bool,
    advertised: Vec<(Ipv6Addr, Instant)>,
}

/// All that the middle task owns.
pub(crate) struct Hub {
    options: Options,
    kernel: Kernel,
    listener: Listener,
    tasks: JoinSet<()>,
    links: BTreeMap<u32, Link>,
    inbox: mpsc::Receiver<(u32, News)>,
    hub: mpsc::Sender<(u32, News)>,
    publish: watch::Sender<Summary>,
    written: Option<Vec<IpAddr>>,
}

impl Hub {
    pub(crate) fn open(options: Options, publish: watch::Sender<Summary>) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        let (kernel, listener) = (Kernel::open(&mut tasks)?, Listener::open()?);
        let (hub, inbox) = mpsc::channel(INBOX);
        Ok(Hub { options, kernel, listener, tasks, links: BTreeMap::new(), inbox, hub, publish, written: None })
    }

    /// Works for ever.
    pub(crate) async fn run(mut self) {
        let mut failed = false;
        loop {
            match self.look().await {
                Ok(()) => failed = false,
                Err(error) if !std::mem::replace(&mut failed, true) => (self.options.log)(&format!("cannot ask the kernel: {error}")),
                Err(_) => {}
            }
            sleep(LOOK_PAUSE).await;
            let expiry = self.links.values().flat_map(|link| &link.advertised).map(|(_, until)| *until).min();
            let again = Instant::now() + LOOK_AGAIN;
            tokio::select! {
                changed = self.listener.next() => match changed {
                    Ok(found) => found.iter().for_each(|rdnss| self.note_rdnss(rdnss)),
                    // The kernel had more to say than the socket could hold: what it is shows at the next look.
                    Err(_) => sleep(REOPEN).await,
                },
                Some((index, news)) = self.inbox.recv() => self.note_news(index, news),
                () = sleep_until(expiry.map_or(again, |expiry| expiry.min(again)).into()) => {}
            }
        }
    }

    fn note_news(&mut self, index: u32, news: News) {
        let Some(link) = self.links.get_mut(&index) else { return };
        let (News::Lease(source, ..) | News::Trouble(source, _)) = &news;
        let client = if *source == Source::Dhcp4 { &mut link.dhcp4 } else { &mut link.dhcp6 };
        match news {
            News::Trouble(_, text) => client.trouble = Some(text),
            News::Lease(_, address, name_servers) => {
                (client.address, client.name_servers, client.trouble) = (address, name_servers, None);
                // From here on its silence counts anew.
                client.task = client.task.take().map(|(task, _)| (task, Instant::now()));
            }
        }
    }

    fn note_rdnss(&mut self, found: &Rdnss) {
        let Some(link) = self.links.get_mut(&found.index) else { return };
        let until = Instant::now() + found.lifetime;
        for server in name_servers(&found.servers, &mut Vec::new()) {
            link.advertised.retain(|(old, _)| *old != server);
            if !found.lifetime.is_zero() && link.advertised.len() < MAX_NAME_SERVERS {
                link.advertised.push((server, until));
            }
        }
    }

    /// Looks at the kernel, does what is due, publishes.
    async fn look(&mut self) -> io::Result<()> {
        let seen = self.kernel.links().await?;
        self.links.retain(|index, link| {
            let stays = seen.iter().any(|info| info.index == *index);
            if !stays {
                link.dhcp4.stop();
                link.dhcp6.stop();
            }
            stays
        });
        for info in &seen {
            match info.kind {
                LinkKind::Loopback if !info.is_up => self.kernel.up(info.index).await?,
                LinkKind::Ethernet => self.attend(info).await,
                _ => {}
            }
        }
        let summary = self.summary(&seen).await?;
        self.write_name_servers(&summary);
        self.publish.send_if_modified(|old| {
            let is_new = *old != summary;
            *old = summary;
            is_new
        });
        Ok(())
    }

    /// Switches an interface on and starts what it needs.
    async fn attend(&mut self, info: &LinkInfo) {
        let place = || Place {
            index: info.index,
            name: info.name.clone(),
            mac: info.mac,
            kernel: self.kernel.clone(),
            hub: self.hub.clone(),
            log: self.options.log.clone(),
        };
        let link = self.links.entry(info.index).or_insert_with(|| {
            accept_advertisements(&info.name);
            Link { up: None, dhcp4: Client::default(), dhcp6: Client::default(), wants_address6: false, advertised: Vec::new() }
        });
        if !info.is_up && link.up.as_ref().is_none_or(|(_, tried)| tried.elapsed() > LOOK_AGAIN) {
            let failed = self.kernel.up(info.index).await.err();
            link.up = failed.map(|error| (format!("cannot be switched on: {error}"), Instant::now()));
        }
        if info.has_carrier && link.dhcp4.task.is_none() {
            link.dhcp4.task = Some((self.tasks.spawn(dhcp4::run(place())), Instant::now()));
        }
        let wants_address = info.advertised == Advertised::Managed;
        // A router may change its mind from name servers alone to addresses too; what is held stays held the other way round.
        if info.advertised >= Advertised::Other && (link.dhcp6.task.is_none() || wants_address && !link.wants_address6) {
            link.dhcp6.stop();
            link.dhcp6.task = Some((self.tasks.spawn(dhcp6::run(place(), wants_address)), Instant::now()));
            link.wants_address6 = wants_address;
        }
        let now = Instant::now();
        link.advertised.retain(|(_, until)| *until > now);
    }

    async fn summary(&self, seen: &[LinkInfo]) -> io::Result<Summary> {
        let addresses = self.kernel.addresses().await?;
        let routers = self.kernel.routers().await?;
        let interfaces = seen.iter().filter_map(|info| {
            let link = self.links.get(&info.index)?;
            let mine = addresses.iter().filter(|(index, ..)| *index == info.index);
            let mut interface = Interface {
                name: info.name.clone(),
                addresses: mine.map(|(_, ip, prefix)| Address { ip: *ip, prefix: *prefix, how: link.how(*ip) }).collect(),
                routers: routers.iter().filter(|(index, _)| *index == info.index).map(|(_, router)| *router).collect(),
                name_servers: link.name_servers(),
                troubles: Vec::new(),
            };
            interface.troubles = link.troubles(info, &interface);
            Some(interface)
        });
        Ok(Summary { interfaces: interfaces.collect() })
    }

    fn write_name_servers(&mut self, summary: &Summary) {
        let servers = summary.name_servers();
        let Some(path) = self.options.resolv_conf.as_deref().filter(|_| self.written.as_ref() != Some(&servers)) else { return };
        if let Err(error) = resolv::write(path, &servers) {
            (self.options.log)(&format!("cannot write {}: {error}", path.display()));
        }
        self.written = Some(servers);
    }
}

impl Link {
    fn how(&self, ip: IpAddr) -> How {
        match ip {
            _ if self.dhcp4.address == Some(ip) => How::Dhcp4,
            _ if self.dhcp6.address == Some(ip) => How::Dhcp6,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => How::Other,
            IpAddr::V6(_) => How::Slaac,
            IpAddr::V4(_) => How::Other,
        }
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        let mut servers = [&self.dhcp4.name_servers[..], &self.dhcp6.name_servers].concat();
        servers.extend(self.advertised.iter().map(|(ip, _)| IpAddr::from(*ip)));
        servers
    }

    fn troubles(&self, info: &LinkInfo, interface: &Interface) -> Vec<Trouble> {
        if let Some((error, _)) = self.up.as_ref().filter(|_| !info.is_up) {
            return vec![Trouble::Other(error.clone())];
        }
        if !info.has_carrier {
            return vec![Trouble::NoCarrier];
        }
        let mut troubles: Vec<Trouble> = self.dhcp4.trouble(Trouble::NoDhcp4Answer).into_iter().collect();
        troubles.extend(self.dhcp6.trouble(Trouble::NoDhcp6Answer));
        if info.advertised == Advertised::Nothing {
            troubles.push(Trouble::NoAdvertisement);
        }
        if interface.has_global_address() && interface.routers.is_empty() {
            troubles.push(Trouble::NoDefaultRoute);
        }
        troubles
    }
}

/// Has the kernel listen to routers even if it forwards packets (2); without /proc it does so unless it forwards.
fn accept_advertisements(interface: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"), "2");
}

//! The middle: sees to every interface, collects what is known of each, and publishes it.
//!
//! One task owns all of it. The DHCP tasks send it news; for the rest it asks the kernel, whenever the kernel says that
//! something changed and now and then besides, so a missed message delays a report but never spoils it.

use super::dhcp::client::{Dialect, MAC_LEN};
use super::dhcp::lease::{MAX_NAME_SERVERS, name_servers};
use super::kernel::{Advertised, Kernel, LinkInfo, LinkKind};
use super::listen::{Listener, Rdnss};
use super::{Address, How, Interface, Log, Options, Summary, Trouble, dhcp, resolv};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

/// Least time between two looks at the kernel: a flood of router advertisements must not keep a processor busy.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Most time between two looks, in case a message was missed; also the wait before a switch that failed is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// News that may wait; the senders do, too, when there are more.
const INBOX: usize = 32;

/// What a DHCP task found out.
#[derive(Debug)]
pub(crate) enum News {
    /// What it holds from now on: an address and name servers.
    Lease(Dialect, Option<IpAddr>, Vec<IpAddr>),
    /// Why it got nothing.
    Trouble(Dialect, String),
}

/// Where a DHCP task works, and whom it tells.
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; MAC_LEN],
    pub(crate) kernel: Kernel,
    hub: mpsc::Sender<(u32, News)>,
    log: Log,
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

/// A DHCP task of one interface, and what it said.
struct Client {
    dialect: Dialect,
    task: AbortHandle,
    /// When it began to ask.
    since: Instant,
    trouble: Option<String>,
    address: Option<IpAddr>,
    name_servers: Vec<IpAddr>,
}

impl Client {
    fn note(&mut self, news: News) {
        match news {
            News::Trouble(_, text) => self.trouble = Some(text),
            News::Lease(_, address, name_servers) => {
                (self.address, self.name_servers, self.trouble, self.since) = (address, name_servers, None, Instant::now());
            }
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        let silence = match self.dialect {
            _ if self.address.is_some() || !self.name_servers.is_empty() => return None,
            Dialect::V4 => Trouble::NoDhcp4Answer(self.since),
            Dialect::V6 { .. } => Trouble::NoDhcp6Answer(self.since),
        };
        Some(self.trouble.clone().map_or(silence, Trouble::Other))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is remembered of one interface.
#[derive(Default)]
struct Link {
    /// Why it could not be switched on, and when that was tried.
    failed: Option<(String, Instant)>,
    v4: Option<Client>,
    v6: Option<Client>,
    /// Name servers of routers, and how long they may be used.
    advertised: Vec<(IpAddr, Instant)>,
}

impl Link {
    fn client(&mut self, dialect: Dialect) -> Option<&mut Client> {
        if dialect == Dialect::V4 { self.v4.as_mut() } else { self.v6.as_mut() }
    }

    fn clients(&self) -> impl Iterator<Item = &Client> {
        self.v4.iter().chain(&self.v6)
    }

    fn how(&self, ip: IpAddr) -> How {
        match (self.clients().find(|client| client.address == Some(ip)), ip) {
            (Some(Client { dialect: Dialect::V4, .. }), _) => How::Dhcp4,
            (Some(_), _) => How::Dhcp6,
            (None, IpAddr::V6(ip)) if !ip.is_unicast_link_local() => How::Slaac,
            (None, _) => How::Other,
        }
    }

    fn note_rdnss(&mut self, found: &Rdnss) {
        let until = Instant::now() + found.lifetime;
        for server in name_servers(found.servers.iter().copied(), &mut Vec::new()) {
            self.advertised.retain(|(old, _)| *old != server);
            if self.advertised.len() < MAX_NAME_SERVERS {
                self.advertised.push((server, until));
            }
        }
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        let mut servers = Vec::new();
        let leased = self.clients().flat_map(|client| &client.name_servers);
        for server in leased.chain(self.advertised.iter().map(|(server, _)| server)) {
            if !servers.contains(server) {
                servers.push(*server);
            }
        }
        servers
    }

    fn troubles(&self, info: &LinkInfo) -> Vec<Trouble> {
        match &self.failed {
            Some((error, _)) if !info.is_up => vec![Trouble::Other(error.clone())],
            _ if !info.has_carrier => vec![Trouble::NoCarrier],
            _ => {
                let silent = info.advertised == Advertised::Nothing;
                self.clients().filter_map(Client::trouble).chain(silent.then_some(Trouble::NoAdvertisement)).collect()
            }
        }
    }
}

/// All that the middle task owns.
pub(crate) struct Hub {
    options: Options,
    kernel: Kernel,
    listener: Listener,
    links: BTreeMap<u32, Link>,
    inbox: mpsc::Receiver<(u32, News)>,
    hub: mpsc::Sender<(u32, News)>,
    publish: watch::Sender<Summary>,
    written: Option<Vec<IpAddr>>,
}

impl Hub {
    pub(crate) fn open(options: Options, publish: watch::Sender<Summary>) -> io::Result<Self> {
        let (kernel, listener) = (Kernel::open()?, Listener::open()?);
        let (hub, inbox) = mpsc::channel(INBOX);
        Ok(Hub { options, kernel, listener, links: BTreeMap::new(), inbox, hub, publish, written: None })
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
            let again = Instant::now() + LOOK_AGAIN;
            let expiry = self.links.values().flat_map(|link| &link.advertised).map(|(_, until)| *until).min();
            tokio::select! {
                // An error means that the kernel had more to say than the socket could hold: the next look shows it.
                heard = self.listener.next() => for rdnss in heard.unwrap_or_default() {
                    self.links.entry(rdnss.index).and_modify(|link| link.note_rdnss(&rdnss));
                },
                Some((index, news)) = self.inbox.recv() => self.note(index, news),
                () = sleep_until(expiry.map_or(again, |expiry| expiry.min(again)).into()) => {}
            }
        }
    }

    /// News of an interface that is gone, or of a client that was replaced, are dropped.
    fn note(&mut self, index: u32, news: News) {
        let (News::Lease(dialect, ..) | News::Trouble(dialect, _)) = news;
        if let Some(client) = self.links.get_mut(&index).and_then(|link| link.client(dialect)).filter(|client| client.dialect == dialect) {
            client.note(news);
        }
    }

    /// Looks at the kernel, does what is due, publishes.
    async fn look(&mut self) -> io::Result<()> {
        let seen = self.kernel.links().await?;
        self.links.retain(|index, _| seen.iter().any(|info| info.index == *index && info.kind == LinkKind::Ethernet));
        for info in &seen {
            match info.kind {
                LinkKind::Loopback if !info.is_up => {
                    if let Err(error) = self.kernel.up(info.index).await {
                        (self.options.log)(&format!("{}: cannot be switched on: {error}", info.name));
                    }
                }
                LinkKind::Ethernet => self.attend(info).await,
                _ => {}
            }
        }
        let (addresses, routers) = (self.kernel.addresses().await?, self.kernel.routers().await?);
        // A task tells of its lease before it sets the address: whose an address seen above is, is known now.
        while let Ok((index, news)) = self.inbox.try_recv() {
            self.note(index, news);
        }
        let ours = seen.iter().filter_map(|info| Some((info, self.links.get(&info.index)?)));
        let interfaces = ours.map(|(info, link)| Interface {
            name: info.name.clone(),
            addresses: of(info, &addresses).map(|(ip, prefix)| Address { ip, prefix, how: link.how(ip) }).collect(),
            routers: of(info, &routers).collect(),
            name_servers: link.name_servers(),
            troubles: link.troubles(info),
        });
        self.publish(Summary { interfaces: interfaces.collect() });
        Ok(())
    }

    /// Switches an interface on and starts what it needs.
    async fn attend(&mut self, info: &LinkInfo) {
        let link = self.links.entry(info.index).or_insert_with(|| {
            accept_advertisements(&info.name);
            Link::default()
        });
        if !info.is_up && link.failed.as_ref().is_none_or(|(_, tried)| tried.elapsed() > LOOK_AGAIN) {
            let error = self.kernel.up(info.index).await.err();
            link.failed = error.map(|error| (format!("cannot be switched on: {error}"), Instant::now()));
        }
        let now = Instant::now();
        link.advertised.retain(|(_, until)| *until > now);
        let start = |dialect| {
            let (name, kernel) = (info.name.clone(), self.kernel.clone());
            let place = Place { index: info.index, name, mac: info.mac, kernel, hub: self.hub.clone(), log: self.options.log.clone() };
            let task = tokio::spawn(dhcp::run(place, dialect)).abort_handle();
            Some(Client { dialect, task, since: now, trouble: None, address: None, name_servers: Vec::new() })
        };
        if info.has_carrier && link.v4.is_none() {
            link.v4 = start(Dialect::V4);
        }
        let wanted = Dialect::V6 { wants_address: info.advertised == Advertised::Managed };
        let held = link.v6.as_ref().map(|client| client.dialect);
        // Routers may change from name servers alone to addresses too; an address stays held the other way round.
        if info.advertised >= Advertised::Other && held != Some(wanted) && held != Some(Dialect::V6 { wants_address: true }) {
            link.v6 = start(wanted);
        }
    }

    fn publish(&mut self, summary: Summary) {
        let servers = summary.name_servers();
        if let Some(path) = self.options.resolv_conf.as_deref().filter(|_| self.written.as_ref() != Some(&servers)) {
            if let Err(error) = resolv::write(path, &servers) {
                (self.options.log)(&format!("cannot write {}: {error}", path.display()));
            }
            self.written = Some(servers);
        }
        self.publish.send_if_modified(|old| {
            let is_new = *old != summary;
            *old = summary;
            is_new
        });
    }
}

/// What belongs to one interface.
fn of<T: Copy>(info: &LinkInfo, all: &[(u32, T)]) -> impl Iterator<Item = T> {
    all.iter().filter(|(index, _)| *index == info.index).map(|(_, found)| *found)
}

/// Has the kernel listen to routers even if it forwards packets (2); without /proc it does so unless it forwards.
fn accept_advertisements(interface: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"), "2");
}

//! The kernel's side, by netlink: what interfaces, addresses and routes there are, and changes to them.
//!
//! Nothing is remembered here. Whoever wants to know asks the kernel again when `listen` says that something changed,
//! so that what is reported is what packets will meet.

use super::dhcp::client::MAC_LEN;
use super::dhcp::lease::Route;
use futures::{Stream, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, Inet6IfaceFlags, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{AddressMessageBuilder, Error, Handle, LinkUnspec, RouteMessageBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One network interface.
#[derive(Clone, Debug)]
pub(crate) struct LinkInfo {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: LinkKind,
    /// Switched on.
    pub(crate) is_up: bool,
    /// Switched on, and something answers at the other end of the cable.
    pub(crate) has_carrier: bool,
    /// The Ethernet address; zero on other kinds.
    pub(crate) mac: [u8; MAC_LEN],
    /// What the last router advertisement said about DHCPv6.
    pub(crate) advertised: Advertised,
}

/// The kinds of interface that matter here. A part of another one (a bridge's port, the fast path of a cloud's network
/// card) is no Ethernet of its own: its addresses belong to the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Loopback,
    Ethernet,
    Other,
}

/// What router advertisements ask for, the strongest last (RFC 4861, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Advertised {
    /// No router has spoken.
    Nothing,
    /// A router has, and DHCPv6 is not needed.
    Router,
    /// Flag O: DHCPv6 knows name servers.
    Other,
    /// Flag M: DHCPv6 gives addresses.
    Managed,
}

/// Asks and changes the kernel; clones share one socket.
#[derive(Clone)]
pub(crate) struct Kernel(Handle);

impl Kernel {
    /// Opens the socket; what drives it ends with the last clone.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Kernel(handle))
    }

    /// Every interface.
    pub(crate) async fn links(&self) -> io::Result<Vec<LinkInfo>> {
        Ok(all(self.0.link().get().execute()).await?.into_iter().map(link_info).collect())
    }

    /// Every address that packets can carry now, with its interface and prefix length.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<(u32, (IpAddr, u8))>> {
        Ok(all(self.0.address().get().execute()).await?.iter().filter_map(usable_address).collect())
    }

    /// Interface and router of every default route; the router is unspecified if the whole internet is on the link.
    pub(crate) async fn routers(&self) -> io::Result<Vec<(u32, IpAddr)>> {
        // Of no family, for both: a kernel without IPv6 has an answer to this, too.
        let routes = all(self.0.route().get(RouteMessageBuilder::<IpAddr>::new().build()).execute()).await?;
        Ok(routes.iter().filter_map(default_router).collect())
    }

    /// Switches an interface on.
    pub(crate) async fn up(&self, index: u32) -> io::Result<()> {
        self.0.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await.map_err(into_io)
    }

    /// Sets the largest packet of an interface, in bytes.
    pub(crate) async fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.0.link().change(LinkUnspec::new_with_index(index).mtu(mtu).build()).execute().await.map_err(into_io)
    }

    /// Adds an address, or leaves it as it is.
    pub(crate) async fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        self.0.address().add(index, ip, prefix).replace().execute().await.map_err(into_io)
    }

    /// Removes an address and with it the routes that prefer it as their source.
    pub(crate) async fn remove_address(&self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let message = match ip {
            IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, prefix).build(),
            IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, prefix).build(),
        };
        self.0.address().del(message).execute().await.map_err(into_io)
    }

    /// Adds a route of a lease, or replaces the same one; `source` is the address of the lease.
    pub(crate) async fn add_route(&self, index: u32, route: &Route, source: IpAddr) -> io::Result<()> {
        self.0.route().add(route_message(index, route, source)).replace().execute().await.map_err(into_io)
    }

    /// Removes a route that was added with the same values.
    pub(crate) async fn remove_route(&self, index: u32, route: &Route, source: IpAddr) -> io::Result<()> {
        self.0.route().del(route_message(index, route, source)).execute().await.map_err(into_io)
    }
}

async fn all<T>(stream: impl Stream<Item = Result<T, Error>>) -> io::Result<Vec<T>> {
    stream.try_collect().await.map_err(into_io)
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn link_info(message: LinkMessage) -> LinkInfo {
    let (mut name, mut mac, mut flags, mut is_part) = (String::new(), [0; MAC_LEN], Inet6IfaceFlags::empty(), false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(given) => name = given,
            LinkAttribute::Address(given) => mac = given.try_into().unwrap_or(mac),
            LinkAttribute::AfSpecUnspec(families) => flags = families.iter().find_map(inet6_flags).unwrap_or(flags),
            LinkAttribute::Controller(_) => is_part = true,
            _ => {}
        }
    }
    is_part |= message.header.flags.contains(LinkFlags::Port);
    LinkInfo {
        index: message.header.index,
        name,
        kind: match message.header.link_layer_type {
            LinkLayerType::Loopback => LinkKind::Loopback,
            LinkLayerType::Ether if !is_part => LinkKind::Ethernet,
            _ => LinkKind::Other,
        },
        is_up: message.header.flags.contains(LinkFlags::Up),
        has_carrier: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        mac,
        advertised: match flags {
            _ if flags.contains(Inet6IfaceFlags::RaManaged) => Advertised::Managed,
            _ if flags.contains(Inet6IfaceFlags::Otherconf) => Advertised::Other,
            _ if flags.contains(Inet6IfaceFlags::RaRcvd) => Advertised::Router,
            _ => Advertised::Nothing,
        },
    }
}

fn inet6_flags(family: &AfSpecUnspec) -> Option<Inet6IfaceFlags> {
    let AfSpecUnspec::Inet6(parts) = family else { return None };
    parts.iter().find_map(|part| if let AfSpecInet6::Flags(flags) = part { Some(*flags) } else { None })
}

fn usable_address(message: &AddressMessage) -> Option<(u32, (IpAddr, u8))> {
    let (mut found, mut flags) = (None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the other end.
            AddressAttribute::Local(ip) => found = Some(*ip),
            AddressAttribute::Address(ip) if found.is_none() => found = Some(*ip),
            AddressAttribute::Flags(given) => flags = *given,
            _ => {}
        }
    }
    let waits = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
    (!waits).then_some((message.header.index, (found?, message.header.prefix_len)))
}

fn default_router(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    let (mut interface, mut router) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => router = Some(IpAddr::from(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => router = Some(IpAddr::from(*ip)),
            _ => {}
        }
    }
    let on_link = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let is_default = message.header.destination_prefix_length == 0 && message.header.kind == RouteType::Unicast;
    is_default.then_some((interface?, router.unwrap_or(on_link)))
}

fn route_message(index: u32, route: &Route, source: IpAddr) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination, route.prefix)
        .output_interface(index)
        .protocol(RouteProtocol::Dhcp)
        // Two interfaces may both lead to the internet: each has its own default route, the earlier one is used.
        .priority(1000 + index);
    if let IpAddr::V4(source) = source {
        builder = builder.pref_source(source);
    }
    match route.gateway {
        Some(gateway) => builder.gateway(gateway).build(),
        None => builder.scope(RouteScope::Link).build(),
    }
}

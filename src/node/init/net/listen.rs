//! Hears from the kernel that something changed, and which name servers routers advertise (RDNSS, RFC 8106).
//!
//! The kernel passes the DNS options of the advertisements that it accepts itself on to programs (`RTM_NEWNDUSEROPT`), so
//! this needs no ICMPv6 socket. `netlink-packet-route` no longer knows that message, hence the few bytes read here. Of
//! every other message it matters only that it came.

use futures::FutureExt;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

/// `RTM_NEWNDUSEROPT` of linux/rtnetlink.h.
const USER_OPTION: u16 = 68;
/// Length of `nlmsghdr` and of `nduseroptmsg`.
const HEADER: usize = 16;
/// ICMPv6 type of a router advertisement.
const ADVERTISEMENT: u8 = 134;
/// Most advertisements taken at once; a flood of them is not waited out.
const MAX_FOUND: usize = 64;
/// Neighbour discovery option with name servers (RFC 8106, section 5.1).
const RDNSS: u8 = 25;

/// Name servers that a router advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rdnss {
    /// Interface it came by.
    pub(crate) index: u32,
    /// How long they may be used; zero takes them back.
    pub(crate) lifetime: Duration,
    /// As advertised, not yet judged.
    pub(crate) servers: Vec<Ipv6Addr>,
}

/// A socket that is told of every change to interfaces, addresses and routes.
pub(crate) struct Listener(TokioSocket);

impl Listener {
    pub(crate) fn open() -> io::Result<Self> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Ifinfo, Ipv6Route, Link, NdUseropt};
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = [Link, Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Ipv6Ifinfo, NdUseropt];
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
        Ok(Listener(socket))
    }

    /// Waits for a change and takes all that is there; an error means that some were missed.
    pub(crate) async fn next(&self) -> io::Result<Vec<Rdnss>> {
        let mut found = Vec::new();
        let mut datagram = Some(self.0.recv_from_full().await);
        while let Some((message, from)) = datagram.transpose()? {
            // Port 0 is the kernel; another program may write to us too.
            if from.port_number() == 0 {
                found.extend(rdnss(&message));
            }
            datagram = self.0.recv_from_full().now_or_never().filter(|_| found.len() < MAX_FOUND);
        }
        Ok(found)
    }
}

/// Every advertised name server in a datagram of netlink messages.
fn rdnss(mut bytes: &[u8]) -> Vec<Rdnss> {
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize)
        && let Some(message) = bytes.get(..length)
        && length >= HEADER
    {
        if u16::from_ne_bytes([message[4], message[5]]) == USER_OPTION {
            found.extend(user_option(&message[HEADER..]));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `nduseroptmsg`: family, padding, length of the options, interface, ICMP type and code, padding; then one option.
fn user_option(message: &[u8]) -> Option<Rdnss> {
    let (head, option) = message.split_first_chunk::<HEADER>()?;
    let index = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    // The length of an option counts units of 8 bytes: 1 for the head and 2 for each address.
    let [RDNSS, units @ 3..=255, _, _, l0, l1, l2, l3, rest @ ..] = option else { return None };
    let (servers, _) = rest.get(..(usize::from(*units) - 1) * 8)?.as_chunks::<16>();
    let lifetime = Duration::from_secs(u32::from_be_bytes([*l0, *l1, *l2, *l3]).into());
    let servers = servers.iter().copied().map(Ipv6Addr::from).collect();
    (head[8] == ADVERTISEMENT).then_some(Rdnss { index, lifetime, servers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A netlink message of this type around these bytes.
    fn netlink(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(payload);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn option(icmp: u8, units: u8, servers: &[Ipv6Addr]) -> Vec<u8> {
        let mut payload = vec![10, 0, 0, 0, 3, 0, 0, 0, icmp];
        payload.resize(HEADER, 0);
        payload.extend([RDNSS, units, 0, 0, 0, 0, 2, 88]);
        servers.iter().for_each(|server| payload.extend(server.octets()));
        netlink(USER_OPTION, &payload)
    }

    #[test]
    fn advertised_name_servers_are_found() {
        let servers = ["2001:db8::53", "2001:db8::54"].map(|ip| ip.parse().unwrap());
        let index = u32::from_ne_bytes([3, 0, 0, 0]);
        let expected = Rdnss { index, lifetime: Duration::from_secs(600), servers: servers.to_vec() };
        let among_others =
            [netlink(16, b"link"), option(ADVERTISEMENT, 5, &servers), netlink(24, b"route!"), option(ADVERTISEMENT, 5, &servers)];
        assert_eq!(rdnss(&among_others.concat()), [expected.clone(), expected]);
    }

    #[test]
    fn others_are_not() {
        let servers = ["2001:db8::53".parse().unwrap()];
        assert_eq!(rdnss(&option(135, 3, &servers)), [], "not an advertisement");
        assert_eq!(rdnss(&option(ADVERTISEMENT, 5, &servers)), [], "longer than it is");
        assert_eq!(rdnss(&option(ADVERTISEMENT, 1, &servers)), [], "too short");
        let good = option(ADVERTISEMENT, 3, &servers);
        for length in 0..good.len() {
            assert_eq!(rdnss(&good[..length]), [], "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u32..220) {
            let _ = rdnss(&bytes);
            let _ = rdnss(&[&length.to_ne_bytes()[..], &USER_OPTION.to_ne_bytes(), &bytes].concat());
        }
    }
}

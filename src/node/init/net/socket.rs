//! The sockets of the DHCP clients, each bound to one interface.
//!
//! While an interface has no IPv4 address, answers to it are for an address that the kernel does not know yet, so only a
//! packet socket hears them: whole Ethernet frames with UDP inside. It is bound by the address that `getifaddrs` has for
//! the interface, which makes it safe code. It hears IPv4 only and lives only while a lease is sought, so it never copies
//! an exit's traffic. With an address, and for IPv6, an ordinary UDP socket does.

use super::dhcp::client::{Dialect, MAC_LEN};
use super::hub::Place;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, socket};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use tokio::net::UdpSocket;

/// UDP ports of DHCPv4 clients and servers (RFC 2131, section 4.1).
const CLIENT4: u16 = 68;
const SERVER4: u16 = 67;
/// UDP ports of DHCPv6 clients and servers, and the address of all servers on a link (RFC 8415, section 7).
const CLIENT6: u16 = 546;
const SERVER6: u16 = 547;
const ALL_SERVERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Longest frame read; a longer one is cut, and then refused. DHCP answers are asked to fit into 1514 bytes.
pub(crate) const MAX_FRAME: usize = 2048;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
/// EtherType of IPv4.
const TYPE_IP: [u8; 2] = [8, 0];
/// UDP in the IP header.
const PROTOCOL_UDP: u8 = 17;

/// An open socket on one interface.
pub(crate) enum Wire {
    /// Whole frames, from this Ethernet address.
    ///
    /// A type of its own would need tokio's `AsyncFd`, which is unsafe to make. The UDP type asks nothing of its descriptor
    /// until it is used, and `recv` and `send`, which are all that is used, are the same calls for every kind of socket.
    Frames(UdpSocket, [u8; MAC_LEN]),
    /// Ordinary UDP, and the address of all servers.
    Udp(UdpSocket, SocketAddr),
}

impl Wire {
    pub(crate) fn open(place: &Place, dialect: Dialect, frames: bool) -> io::Result<Self> {
        let all6 = SocketAddrV6::new(ALL_SERVERS6, SERVER6, 0, place.index);
        match dialect {
            Dialect::V4 if frames => Ok(Wire::Frames(packet(&place.name)?, place.mac)),
            Dialect::V4 => Ok(Wire::Udp(udp(&place.name, (Ipv4Addr::UNSPECIFIED, CLIENT4).into())?, (Ipv4Addr::BROADCAST, SERVER4).into())),
            Dialect::V6 { .. } => Ok(Wire::Udp(udp(&place.name, (Ipv6Addr::UNSPECIFIED, CLIENT6).into())?, all6.into())),
        }
    }

    pub(crate) fn is_frames(&self) -> bool {
        matches!(self, Wire::Frames(..))
    }

    /// Sends to one server, if it has an IPv4 address for a name, else to all.
    pub(crate) async fn send(&self, server: Option<&[u8]>, message: &[u8]) -> io::Result<()> {
        match self {
            Wire::Frames(socket, mac) => socket.send(&frame(*mac, message)).await.map(drop),
            Wire::Udp(socket, all) => {
                let one = server.and_then(|server| <[u8; 4]>::try_from(server).ok()).filter(|_| all.is_ipv4());
                let to = one.map_or(*all, |ip| (ip, SERVER4).into());
                socket.send_to(message, to).await.map(drop)
            }
        }
    }

    /// The message in the next packet; `None` if it is not from a DHCP server.
    pub(crate) async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self {
            Wire::Frames(socket, _) => {
                let length = socket.recv(buffer).await?;
                Ok(message_in(&buffer[..length]))
            }
            Wire::Udp(socket, all) => {
                let (length, from) = socket.recv_from(buffer).await?;
                Ok((from.port() == all.port()).then_some(&buffer[..length]))
            }
        }
    }
}

/// A UDP socket that hears and speaks on one interface only, with broadcasts.
fn udp(interface: &str, local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    // Before the bind, so that each interface can have a socket on the same port.
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    } else {
        socket.set_broadcast(true)?;
    }
    socket.bind(&local.into())?;
    UdpSocket::from_std(socket.into())
}

/// A packet socket on one interface.
fn packet(interface: &str) -> io::Result<UdpSocket> {
    let address = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the interface is gone"))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthIp)?;
    // The address names no protocol, so the kernel keeps the one above (`packet_bind` in net/packet/af_packet.c).
    bind(fd.as_raw_fd(), &address)?;
    UdpSocket::from_std(fd.into())
}

fn frame(mac: [u8; MAC_LEN], message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; MAC_LEN];
    frame.extend(mac);
    frame.extend(TYPE_IP);
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0]; // IPv4, not to be fragmented, TTL 64
    ip[2..4].copy_from_slice(&((IP + UDP + message.len()) as u16).to_be_bytes());
    ip.extend(Ipv4Addr::UNSPECIFIED.octets());
    ip.extend(Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let length = ((UDP + message.len()) as u16).to_be_bytes();
    let mut udp = [CLIENT4.to_be_bytes(), SERVER4.to_be_bytes(), length, [0, 0]].concat();
    let sum = checksum(&[&ip[12..], &[0, PROTOCOL_UDP], &length, &udp, message]);
    // Zero would mean that there is no checksum (RFC 768).
    udp[6..].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    frame.extend(ip);
    frame.extend(udp);
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071); each part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2)).map(|word| (u32::from(word[0]) << 8) + u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

/// The DHCP message for a client in a frame.
///
/// Checksums are not looked at: a server on the same host leaves them to a network card that does not exist, and the
/// frame would arrive with a wrong one. The content is checked as it comes.
fn message_in(frame: &[u8]) -> Option<&[u8]> {
    let ip = frame.get(ETHERNET..)?;
    let short = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
    let header = usize::from(ip.first()? & 0xf) * 4;
    let is_udp = frame[12..ETHERNET] == TYPE_IP && ip[0] >> 4 == 4 && header >= IP && *ip.get(9)? == PROTOCOL_UDP;
    let is_whole = short(6)? & 0x3fff == 0; // neither a fragment nor followed by one
    let is_ours = short(header)? == usize::from(SERVER4) && short(header + 2)? == usize::from(CLIENT4);
    let message = ip.get(..short(2)?)?.get(header + UDP..header + short(header + 4)?)?;
    (is_udp && is_whole && is_ours).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Our own frame with the ports swapped, as a server's would be.
    fn answer(message: &[u8]) -> Vec<u8> {
        let mut bytes = frame([2, 0, 0, 0, 0, 7], message);
        bytes[34..38].copy_from_slice(&[0, 67, 0, 68]);
        bytes
    }

    #[test]
    fn checksums_hold() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), (!0xddf2u16).to_be_bytes());
        for message in [&b"even"[..], b"odd"] {
            let frame = frame([2, 0, 0, 0, 0, 7], message);
            assert_eq!(checksum(&[&frame[14..34]]), [0, 0]);
            let length = (8 + message.len() as u16).to_be_bytes();
            assert_eq!(checksum(&[&frame[26..34], &[0, 17], &length, &frame[34..]]), [0, 0]);
        }
    }

    #[test]
    fn only_whole_messages_to_clients_are_found() {
        let good = answer(b"hello");
        assert_eq!(message_in(&good), Some(&b"hello"[..]));
        assert_eq!(message_in(&[&good[..], &[0; 18]].concat()), Some(&b"hello"[..]), "padding of short frames");
        assert_eq!(message_in(&frame([0; 6], b"hello")), None, "a client's");
        for (at, value) in
            [(12, 9), (14, 0x65), (14, 0x44), (17, 32), (17, 255), (20, 0x20), (21, 1), (23, 6), (35, 68), (37, 67), (39, 7), (39, 14)]
        {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(message_in(&bad), None, "byte {at} = {value}");
        }
        for length in 0..good.len() {
            assert_eq!(message_in(&good[..length]), None, "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0usize..60, value: u8) {
            let _ = message_in(&bytes);
            let mut bad = answer(&bytes);
            let at = at % bad.len();
            bad[at] = value;
            let _ = message_in(&bad);
        }
    }
}

//! The sockets of the DHCP clients, each bound to one interface.
//!
//! While an interface has no IPv4 address, answers to it are for an address that the kernel does not know yet, so only a
//! packet socket hears them: whole Ethernet frames with UDP inside. It is bound by the address that `getifaddrs` has for
//! the interface, which makes it safe code. It hears IPv4 only and lives only while a lease is sought, so it never copies
//! an exit's traffic. With an address, and for IPv6, an ordinary UDP socket does.

use super::dhcp4::message::MAC_LEN;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, socket};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::net::UdpSocket;

/// UDP port of DHCPv4 servers.
pub(crate) const SERVER_PORT: u16 = 67;
/// UDP port of DHCPv4 clients.
pub(crate) const CLIENT_PORT: u16 = 68;
/// Longest frame read; a longer one is cut, and then refused. DHCP answers are asked to fit into 1514 bytes.
pub(crate) const MAX_FRAME: usize = 2048;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
/// EtherType of IPv4.
const TYPE_IP: [u8; 2] = [8, 0];
/// UDP in the IP header.
const PROTOCOL_UDP: u8 = 17;

/// A UDP socket that hears and speaks on one interface only, with broadcasts.
pub(crate) fn udp(interface: &str, local: SocketAddr) -> io::Result<UdpSocket> {
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

/// A packet socket on one interface, for DHCPv4 without an address.
///
/// A type of its own would need tokio's `AsyncFd`, which is unsafe to make. The UDP type asks nothing of its descriptor
/// until it is used, and `recv` and `send`, which are all that is used, are the same calls for every kind of socket.
pub(crate) struct PacketSocket(UdpSocket);

impl PacketSocket {
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let address = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the interface is gone"))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthIp)?;
        // The address names no protocol, so the kernel keeps the one above (`packet_bind` in net/packet/af_packet.c).
        bind(fd.as_raw_fd(), &address)?;
        UdpSocket::from_std(fd.into()).map(PacketSocket)
    }

    /// Sends a DHCP message from nowhere to everybody.
    pub(crate) async fn send(&self, mac: [u8; MAC_LEN], message: &[u8]) -> io::Result<()> {
        self.0.send(&frame(mac, message)).await.map(drop)
    }

    /// The DHCP message for a client in the next frame; empty if the frame has none.
    pub(crate) async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = self.0.recv(buffer).await?;
        Ok(message_in(&buffer[..length]).unwrap_or_default())
    }
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
    let mut udp = [CLIENT_PORT.to_be_bytes(), SERVER_PORT.to_be_bytes(), length, [0, 0]].concat();
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
    let is_ours = short(header)? == usize::from(SERVER_PORT) && short(header + 2)? == usize::from(CLIENT_PORT);
    let message = ip.get(..short(2)?)?.get(header + UDP..header + short(header + 4)?)?;
    (is_udp && is_whole && is_ours).then_some(message)
}

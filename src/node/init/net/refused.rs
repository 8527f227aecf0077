//! Why an answer from the network is not used. One enum for DHCPv4 and DHCPv6: a person reads it in one line of the log.

use super::dhcp::lease::MIN_LEASE;
use std::net::IpAddr;

/// Why a server's answer is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Not enough bytes for a message.
    #[error("it is cut short after {0} bytes")]
    Short(usize),
    /// The value has a length that the option cannot have, or runs past the end.
    #[error("its option {0} is malformed")]
    Option(u16),
    /// Each answer must have it.
    #[error("its option {0} is missing")]
    Missing(u16),
    /// The address offered cannot be a machine's.
    #[error("{0} cannot be this machine's address: it is {1}")]
    Address(IpAddr, &'static str),
    /// The server's own address cannot be one.
    #[error("{0} cannot be a server's address: it is {1}")]
    Server(IpAddr, &'static str),
    /// The mask has gaps or covers too much.
    #[error("{0} is no subnet mask for a link")]
    Mask(IpAddr),
    /// The lease is missing or too short to keep.
    #[error("a lease of {0} s is too short, the least is {least} s", least = MIN_LEASE.as_secs())]
    Time(u64),
    /// A renewal that moves us to another address or subnet; the lease ends, and the next search may take it.
    #[error("it renews another address or subnet than the one held")]
    Moved,
    /// A DHCPv6 server says no (RFC 8415, section 21.13).
    #[error("the server says no, with status {0}")]
    Status(u16),
}

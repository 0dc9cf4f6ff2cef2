//! Clients and their keys, as the daemon's side makes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use reuseport_lb_common::steer::{payload_key, source_v4, source_v6};

/// Where the session is in what a client sends.
pub(crate) const SESSION: Range<usize> = 2..6;

/// What a client sends: a session behind two other bytes.
pub(crate) fn session(client: IpAddr) -> Vec<u8> {
    match client {
        IpAddr::V4(address) => [b"of", &address.octets()[..]].concat(),
        IpAddr::V6(address) => [b"of", &address.octets()[12..]].concat(),
    }
}

/// The key of what a client sends, by its session.
pub(crate) fn session_key(client: IpAddr) -> u32 {
    payload_key(&session(client)[SESSION])
}

/// The key of a client by its address.
pub(crate) fn key(client: IpAddr) -> u32 {
    match client {
        IpAddr::V4(address) => source_v4(address.octets()),
        IpAddr::V6(address) => source_v6(address.octets()),
    }
}

pub(crate) fn loopback(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

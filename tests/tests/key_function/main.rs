//! `affinity = { program = … }`: functions that users bring say what belongs together. Here those of examples/key.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod agreement;
mod bad;
mod compiled;
mod protocols;
mod refused;
mod sessions;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use testkit::client::ask_udp_with;
use testkit::config::Config;

const TO: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 3000);

/// A service whose keys the function of this object makes.
fn keyed(object: &Path, workers: usize) -> Config {
    let affinity = format!("{{ program = {:?} }}", object.display());
    Config::service("own").listen("udp://127.0.0.1:3000").workers(workers).toml("affinity", affinity)
}

/// The first of many addresses of this machine's.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);

/// The address of this number.
fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(FIRST) + number).into()
}

/// The number of an address.
fn number(address: Ipv4Addr) -> u32 {
    u32::from(address) - u32::from(FIRST)
}

/// Who answers `packet`, from this address and a port of its own.
fn ask(from: u32, packet: &[u8]) -> String {
    ask_udp_with(TO.into(), Some(address(from)), packet).unwrap().worker
}

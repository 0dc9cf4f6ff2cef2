//! Finds sockets that processes of workers have opened themselves to receive on. Not: whether that is wrong
//! (`service/readiness.rs`).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;

use anyhow::Result;

use super::host;
use super::liveness::{self, Stat};
use super::strangers::{kinds, sockets};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::ForeignSocket;
use crate::printable::inline;

/// For each of these process groups: one socket, not in `ours` (by SO_COOKIE), that a process of the group has and
/// that listens (TCP), or is bound to the address of one of `listeners` (UDP). A socket that receives what is meant
/// for one of `listeners` is preferred. Reads the whole of /proc.
pub fn by_groups(
    groups: &[i32],
    listeners: &[Listener],
    ours: &HashSet<u64>,
) -> Result<HashMap<i32, ForeignSocket>> {
    let mut known: HashMap<u64, (Protocol, SocketAddr, bool)> = HashMap::new();
    for (family, protocol) in kinds(listeners) {
        for found in sockets(family, protocol, None)?.into_iter().filter(|it| !ours.contains(&it.cookie)) {
            let instead = listeners.iter().any(|listener| listener.overlaps(&found.at));
            if instead || protocol == Protocol::Tcp {
                known.insert(found.inode, (protocol, found.at.address, instead));
            }
        }
    }
    let mut opened: HashMap<i32, ForeignSocket> = HashMap::new();
    for (pid, Stat { group, .. }) in
        liveness::all_processes().filter(|(_, stat)| groups.contains(&stat.group))
    {
        for inode in inodes(pid) {
            let Some(&(protocol, address, instead)) = known.get(&inode) else { continue };
            if opened.get(&group).is_none_or(|before| instead && !before.instead) {
                let process = inline(&host::program_of(pid)).to_string();
                let socket = ForeignSocket { pid, process, protocol: protocol.name(), address, instead };
                opened.insert(group, socket);
            }
        }
    }
    Ok(opened)
}

/// The inodes of all sockets of a process, as /proc/PID/fd names them.
fn inodes(pid: i32) -> impl Iterator<Item = u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    descriptors.filter_map(|entry| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found_unless_it_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let cookie = socket2::SockRef::from(&listener).cookie();
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        let wanted: Listener = format!("tcp://{address}").parse().unwrap();
        let look = |ours: &[u64]| {
            by_groups(&[group], &[wanted], &ours.iter().copied().collect()).unwrap().remove(&group)
        };
        let found = look(&[]).unwrap();
        assert_eq!((found.address, found.protocol, found.instead), (address, "tcp", true));
        // A test in another thread may listen on another address.
        assert!(look(&[cookie.unwrap()]).is_none_or(|it| !it.instead));
    }
}

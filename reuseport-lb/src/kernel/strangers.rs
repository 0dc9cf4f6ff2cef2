//! Strangers: sockets of other programs on the addresses of listeners, from the kernel's list of sockets (sock_diag,
//! NETLINK_SOCK_DIAG). The list has the queues of all sockets as well, and what they have dropped.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::{MemInfo, Nla};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::Queue;

/// Bytes that are read at once of the kernel's list: the most that it makes at once (net/netlink/af_netlink.c). It makes
/// no more than there was room for, and searches each time for where it was.
const REPLY: usize = 32 << 10;

/// Number of strangers on the address of `listener`: see [`list`].
pub fn count(listener: &Listener, ours: &HashSet<u64>) -> Result<usize> {
    list(listener, ours).map(|strangers| strangers.len())
}

/// The kernel's lists of sockets that concern some listeners, each asked for once.
#[derive(Default)]
pub struct Census {
    /// The places of sockets, with their SO_COOKIE.
    on: HashMap<(u8, Protocol, u16), Vec<(Listener, u64)>>,
    /// Queues and drops, by SO_COOKIE.
    queues: HashMap<u64, (Queue, u32)>,
}

impl Census {
    /// Asks for all sockets on the ports of `listeners`. Takes some milliseconds with thousands of sockets.
    pub fn take(listeners: &[Listener]) -> Result<Self> {
        let mut census = Self::default();
        for (family, protocol) in kinds(listeners) {
            for Found { at, cookie, queue, .. } in sockets(family, protocol, None)? {
                let port = at.address.port();
                census.on.entry((family, protocol, port)).or_default().push((at, cookie));
                census.queues.extend(queue.map(|queue| (cookie, queue)));
            }
        }
        Ok(census)
    }

    /// Number of strangers on the address of one of these listeners.
    #[must_use]
    pub fn count(&self, listener: &Listener, ours: &HashSet<u64>) -> usize {
        let port = listener.address.port();
        let all = families(listener).filter_map(|family| self.on.get(&(family, listener.protocol, port)));
        all.flatten().filter(|(at, cookie)| is_stranger(at, *cookie, listener, ours)).count()
    }

    /// The queue of the socket with this cookie, and how much was dropped because it was full, if the kernel's list had
    /// it. Equals what [`socket::queue`](super::socket::queue) and [`socket::drops`](super::socket::drops) ask with
    /// one system call each.
    #[must_use]
    pub fn queue(&self, cookie: u64) -> Option<(Queue, u32)> {
        self.queues.get(&cookie).copied()
    }
}

/// The places of all sockets that are not in `ours` (by SO_COOKIE) and could receive packets for `listener`:
/// listening on (TCP) or bound to (UDP) its port, and its address, all addresses, or, if the listener is on all
/// addresses, any address.
pub fn list(listener: &Listener, ours: &HashSet<u64>) -> Result<Vec<Listener>> {
    Ok(found(listener, ours)?.into_iter().map(|it| it.at).collect())
}

/// The sockets that have exactly the address of `listener`.
pub(super) fn at(listener: &Listener) -> Result<Vec<Found>> {
    let family = if listener.address.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut all = sockets(family, listener.protocol, Some(listener.address.port()))?;
    all.retain(|it| it.at == *listener);
    Ok(all)
}

/// The users of those sockets.
pub fn users(listener: &Listener, ours: &HashSet<u64>) -> Result<BTreeSet<u32>> {
    Ok(found(listener, ours)?.into_iter().map(|it| it.uid).collect())
}

/// The users of all UDP sockets on the port of `listener`, also of connected ones.
pub(super) fn users_on_port(listener: &Listener) -> Result<BTreeSet<u32>> {
    let mut users = BTreeSet::new();
    for family in families(listener) {
        let all = listed(family, Protocol::Udp, Some(listener.address.port()), StateFlags::all())?;
        users.extend(all.into_iter().map(|it| it.uid));
    }
    Ok(users)
}

fn found(listener: &Listener, ours: &HashSet<u64>) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for family in families(listener) {
        all.extend(sockets(family, listener.protocol, Some(listener.address.port()))?);
    }
    all.retain(|it| is_stranger(&it.at, it.cookie, listener, ours));
    Ok(all)
}

/// The kernel's lists (family and protocol) in which sockets on the addresses of `listeners` are, each once.
pub(super) fn kinds(listeners: &[Listener]) -> BTreeSet<(u8, Protocol)> {
    let of = |listener: &Listener| {
        let protocol = listener.protocol;
        families(listener).map(move |family| (family, protocol))
    };
    listeners.iter().flat_map(of).collect()
}

/// Address families whose sockets can receive packets for `listener`: an IPv6 socket that is not v6-only receives
/// IPv4 as well, never the other way round.
fn families(listener: &Listener) -> impl Iterator<Item = u8> + use<> {
    let v4 = listener.address.is_ipv4() || listener.dual_stack;
    [AF_INET, AF_INET6].into_iter().filter(move |family| *family == AF_INET6 || v4)
}

fn is_stranger(at: &Listener, cookie: u64, listener: &Listener, ours: &HashSet<u64>) -> bool {
    !ours.contains(&cookie) && at.overlaps(listener)
}

/// A socket of the kernel's list.
pub(super) struct Found {
    /// Protocol and address.
    pub(super) at: Listener,
    /// SO_COOKIE.
    pub(super) cookie: u64,
    pub(super) inode: u64,
    uid: u32,
    /// Its queue, and how much was dropped because it was full; `None` if the kernel did not tell.
    queue: Option<(Queue, u32)>,
}

impl Found {
    fn read(protocol: Protocol, response: &InetResponse) -> Self {
        let (header, id) = (&response.header, &response.header.socket_id);
        let ip = id.source_address.to_canonical();
        let v6_only = response.nlas.iter().any(|it| matches!(it, Nla::SkV6Only(true)));
        let mut at = Listener::new(protocol, SocketAddr::new(ip, id.source_port));
        at.dual_stack = ip == Ipv6Addr::UNSPECIFIED && !v6_only;
        let memory = response.nlas.iter().find_map(|it| match it {
            Nla::MemInfo(memory) => Some(memory),
            _ => None,
        });
        // `idiag_rqueue` and `idiag_wqueue` are queue and backlog for TCP listeners only (net/ipv4/tcp_diag.c).
        let queue = |memory: &MemInfo| match protocol {
            Protocol::Tcp => Queue { queue: header.recv_queue, backlog: header.send_queue },
            Protocol::Udp => Queue { queue: memory.receive_queue, backlog: memory.receive_queue_max },
        };
        Self {
            at,
            cookie: u64::from_ne_bytes(id.cookie),
            inode: header.inode.into(),
            uid: header.uid,
            queue: memory.map(|memory| (queue(memory), memory.drops)),
        }
    }
}

/// Every socket of `family` that listens (TCP) or is bound (UDP), on `port` if one is given.
pub(super) fn sockets(family: u8, kind: Protocol, port: Option<u16>) -> Result<Vec<Found>> {
    let states = match kind {
        Protocol::Tcp => StateFlags::LISTEN,
        // A connected UDP socket receives from its peer only, and no program decides about that.
        Protocol::Udp => StateFlags::all() - StateFlags::ESTABLISHED,
    };
    listed(family, kind, port, states)
}

fn listed(family: u8, kind: Protocol, port: Option<u16>, states: StateFlags) -> Result<Vec<Found>> {
    let protocol = match kind {
        Protocol::Tcp => IPPROTO_TCP,
        Protocol::Udp => IPPROTO_UDP,
    };
    let mut socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    socket_id.source_port = port.unwrap_or_default();
    let request = InetRequest { family, protocol, extensions: ExtensionFlags::SKMEMINFO, states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket =
        Socket::new(NETLINK_SOCK_DIAG).context("cannot ask the kernel for its sockets (sock_diag)")?;
    socket.connect(&NetlinkAddress::new(0, 0)).context("cannot reach the kernel over netlink")?;
    socket.send(&bytes, 0).context("cannot ask the kernel for its sockets")?;

    let mut found = Vec::new();
    let mut reply = Vec::with_capacity(REPLY);
    loop {
        reply.clear();
        let length = socket.recv(&mut reply, libc::MSG_TRUNC);
        let length = length.context("cannot read the kernel's list of sockets")?;
        ensure!(length == reply.len(), "a part of the kernel's list of sockets has {length} bytes");
        let mut rest = &reply[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .context("cannot understand the kernel's list of sockets")?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))
                    if port.is_none_or(|port| response.header.socket_id.source_port == port) =>
                {
                    found.push(Found::read(kind, &response));
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => {
                    bail!("the kernel refuses to list its {kind} sockets: {error}")
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::{Duration, Instant};

    use super::super::socket;
    use super::*;

    #[test]
    fn a_socket_is_found_where_it_is_bound_with_its_families() {
        let new = |v6_only: bool| {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.set_only_v6(v6_only).unwrap();
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
            socket.listen(1).unwrap();
            TcpListener::from(socket)
        };
        for v6_only in [true, false] {
            let socket = new(v6_only);
            let port = socket.local_addr().unwrap().port();
            let found: Listener =
                format!("tcp://{}:{port}", if v6_only { "[::]" } else { "*" }).parse().unwrap();
            assert_eq!(list(&found, &HashSet::new()).unwrap(), [found]);
            let v4: Listener = format!("tcp://127.0.0.1:{port}").parse().unwrap();
            assert_eq!(count(&v4, &HashSet::new()).unwrap(), usize::from(!v6_only));
        }
    }

    #[test]
    fn a_socket_of_ipv4_is_a_stranger_to_a_dual_stack_listener() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let all = Listener::on_all(Protocol::Tcp, address.port());
        assert_eq!(list(&all, &HashSet::new()).unwrap(), [Listener::new(Protocol::Tcp, address)]);
        let census = Census::take(&[all]).unwrap();
        assert_eq!(census.count(&all, &HashSet::new()), 1);
        let cookie = socket2::SockRef::from(&socket).cookie().unwrap();
        assert_eq!(census.count(&all, &HashSet::from([cookie])), 0);
    }

    #[test]
    fn the_list_has_what_is_queued_at_each_socket_and_what_was_dropped() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        for (protocol, kind) in
            [(Protocol::Tcp, socket2::Type::STREAM), (Protocol::Udp, socket2::Type::DGRAM)]
        {
            let new = || socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            let full = new();
            full.set_recv_buffer_size(1).unwrap();
            full.bind(&any).unwrap();
            if protocol == Protocol::Tcp {
                full.listen(0).unwrap();
            }
            let address = full.local_addr().unwrap();
            let (begun, mut clients) = (Instant::now(), Vec::new());
            while socket::drops(&full).unwrap() == 0 {
                assert!(begun.elapsed() < Duration::from_secs(10), "{protocol}: nothing is dropped");
                let client = new();
                client.set_nonblocking(true).unwrap();
                // A connection begins, or is one of those that are dropped.
                let _ = client.connect(&address);
                let _ = client.send(&[0; 1000]);
                clients.push(client);
            }
            // What is dropped is not sent again.
            drop(clients);
            let (queue, drops) = (socket::queue(&full, protocol).unwrap(), socket::drops(&full).unwrap());
            assert!(queue.queue > 0, "{protocol}: {queue:?}");
            let census = Census::take(&[Listener::new(protocol, address.as_socket().unwrap())]).unwrap();
            assert_eq!(census.queue(full.cookie().unwrap()), Some((queue, drops)), "{protocol}");
        }
    }
}

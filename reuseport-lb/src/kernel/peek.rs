//! Looking at the first datagram in the queue of a UDP socket, which stays there. Not: what follows from it
//! (`domain/health`).

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::options::peek_offset;
use crate::domain::observed::Head;

/// How many bytes of a datagram are looked at.
const MOST: usize = 1024;

/// What waits first in the queue of `socket`. Not looked at while that could change what the socket's process sees: it
/// peeks itself from an offset (SO_PEEK_OFF), which a peek moves, or the socket has an error, which a peek would take
/// (docs/KERNEL.md 82).
#[must_use]
pub fn head(socket: &Socket) -> Head {
    match look(socket) {
        Ok(head) => head,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Head::Empty,
        Err(_) => Head::Unseen,
    }
}

fn look(socket: &Socket) -> io::Result<Head> {
    if peek_offset(socket)? >= 0 {
        return Ok(Head::Unseen);
    }
    let mut wanted = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut wanted, Some(&Timespec::default()))?;
    let shows = wanted[0].revents();
    if shows.intersects(PollFlags::ERR | PollFlags::HUP) {
        return Ok(Head::Unseen);
    }
    if !shows.contains(PollFlags::IN) {
        return Ok(Head::Empty);
    }
    let mut buffer = [0; MOST];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, None, flags)?;
    // With MSG_TRUNC the length of the datagram, of which the buffer may have a part only.
    let (length, sender) = (message.bytes, message.address);
    let content = xxh3_64_with_seed(&buffer[..length.min(MOST)], length as u64);
    let sender = sender.map(|sender| sender.to_string()).unwrap_or_default();
    Ok(Head::Datagram(xxh3_64_with_seed(sender.as_bytes(), content)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::UdpSocket;

    use super::super::{options, socket};
    use super::*;
    use crate::domain::listener::Protocol;

    fn pair() -> (Socket, UdpSocket) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(socket.local_addr().unwrap()).unwrap();
        (socket.into(), client)
    }

    fn read(socket: &Socket) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT);
        let length = message.unwrap().bytes;
        buffer[..length].to_vec()
    }

    #[test]
    fn what_is_first_is_seen_and_stays() {
        let (socket, client) = pair();
        assert_eq!(head(&socket), Head::Empty);
        for datagram in [&[1; 2000][..], &[], &[2], &[2]] {
            client.send(datagram).unwrap();
        }
        let first = head(&socket);
        assert!(matches!(first, Head::Datagram(_)));
        assert_eq!(head(&socket), first);
        assert_eq!(read(&socket), [1; 2000]);
        let empty = head(&socket);
        assert_ne!(empty, first);
        assert!(read(&socket).is_empty());
        let short = head(&socket);
        assert_ne!(short, empty);
        assert_eq!(read(&socket), [2]);
        assert_eq!(head(&socket), short, "an equal one");
        assert_eq!(read(&socket), [2]);
        assert_eq!(head(&socket), Head::Empty);
        // From another sender, or longer than what is looked at.
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(&[2], client.peer_addr().unwrap()).unwrap();
        assert_ne!(head(&socket), short);
        read(&socket);
        client.send(&[1; 2001]).unwrap();
        assert_ne!(head(&socket), first);
    }

    #[test]
    fn where_a_peek_would_disturb_there_is_none() {
        let (socket, client) = pair();
        client.send(&[1]).unwrap();
        options::set(&socket, (libc::SOL_SOCKET, libc::SO_PEEK_OFF), &0i32.to_ne_bytes()).unwrap();
        assert_eq!(head(&socket), Head::Unseen);
        assert_eq!(peek_offset(&socket).unwrap(), 0, "the offset is where it was");
        options::set(&socket, (libc::SOL_SOCKET, libc::SO_PEEK_OFF), &(-1i32).to_ne_bytes()).unwrap();
        assert!(matches!(head(&socket), Head::Datagram(_)));

        // An error that waits for the process: nobody is at the address that it has sent to.
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket: Socket = server.try_clone().unwrap().into();
        options::set(&socket, (libc::IPPROTO_IP, libc::IP_RECVERR), &1i32.to_ne_bytes()).unwrap();
        server.send_to(&[1], nobody).unwrap();
        client.send_to(&[1], server.local_addr().unwrap()).unwrap();
        assert_eq!(head(&socket), Head::Unseen);
        let error = server.recv(&mut [0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "the process gets its error");
    }

    /// docs/KERNEL.md 82: a peek counts no datagram, and no bytes leave the queue with each read.
    #[test]
    fn the_bytes_of_a_queue_do_not_shrink_with_each_read() {
        let (socket, client) = pair();
        let bytes = || socket::queue(&socket, Protocol::Udp).unwrap().queue;
        (0..10u8).for_each(|number| assert_eq!(client.send(&[number]).unwrap(), 1));
        let all = bytes();
        let heads: Vec<Head> = (0..10)
            .map(|_| {
                let first = head(&socket);
                assert_eq!(bytes(), all, "nothing is taken off before the last is read");
                read(&socket);
                first
            })
            .collect();
        assert_eq!(bytes(), 0);
        assert!(heads.windows(2).all(|two| two[0] != two[1]), "each read shows another head");
    }

    #[test]
    fn a_peek_counts_no_datagram() {
        const PEEKS: u64 = 20_000;
        let received = || -> u64 {
            let all = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
            let line = all.lines().filter(|line| line.starts_with("Udp:")).nth(1).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let (socket, client) = pair();
        client.send(&[1]).unwrap();
        let before = received();
        (0..PEEKS).for_each(|_| assert_ne!(head(&socket), Head::Empty));
        // Other tests receive datagrams as well, but not so many.
        assert!(received() - before < PEEKS / 2, "{} datagrams", received() - before);
    }
}

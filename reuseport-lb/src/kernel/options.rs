//! What a worker may have changed of a socket that the next worker gets: options, a filter, the mode
//! of its descriptor. All of it is set back to what a new socket has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use socket2::Socket;

/// Bytes of the longest option below.
const LONGEST: usize = 16;

/// include/uapi/linux/in6.h; not in the libc crate.
const IPV6_MINHOPCOUNT: i32 = 73;

/// Level and name of options that decide what a socket receives, how reading it behaves, or what accepted
/// connections inherit. Each can be read and set with the same value (net/core/sock.c, net/ipv4/ip_sockglue.c,
/// net/ipv6/ipv6_sockglue.c, net/ipv4/tcp.c, net/ipv4/udp.c; v6.18).
const OPTIONS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_NO_CHECK),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PEEK_OFF),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_UDP, libc::UDP_CORK),
    (libc::IPPROTO_UDP, libc::UDP_GRO),
    (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
];

/// Gives a socket the options, filter and mode of a new one, which `make` makes; its queue stays. The error names
/// what cannot be changed back: then only a new socket helps.
pub(super) fn reset(socket: &Socket, make: impl FnOnce() -> io::Result<Socket>) -> io::Result<()> {
    match set(socket, (libc::SOL_SOCKET, libc::SO_DETACH_FILTER), &[0; 4]) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            return Err(because("its filter cannot be taken off (SO_LOCK_FILTER)", &error));
        }
        _ => {}
    }
    socket.set_nonblocking(false).map_err(|error| because("O_NONBLOCK", &error))?;
    // Without a free descriptor no worker can be started either, and the next attempt resets the socket again.
    let Ok(new) = make() else { return Ok(()) };
    for option in OPTIONS {
        // Options of another protocol or family do not exist on this socket.
        let (Ok(wanted), Ok(found)) = (get(&new, *option), get(socket, *option)) else { continue };
        if wanted == found {
            continue;
        }
        let doubled = matches!(option.1, libc::SO_RCVBUF | libc::SO_SNDBUF) && option.0 == libc::SOL_SOCKET;
        let value = if doubled { halved(&wanted) } else { wanted };
        let (level, name) = option;
        set(socket, *option, &value)
            .map_err(|error| because(&format!("option {name} of level {level}"), &error))?;
    }
    Ok(())
}

fn because(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Half of a buffer size: the kernel doubles the size that is set (socket(7)).
fn halved(value: &[u8]) -> Vec<u8> {
    value
        .try_into()
        .map_or_else(|_| value.to_vec(), |value| (i32::from_ne_bytes(value) / 2).to_ne_bytes().to_vec())
}

fn get(socket: &Socket, (level, name): (i32, i32)) -> io::Result<Vec<u8>> {
    let mut value = [0u8; LONGEST];
    let mut size = LONGEST as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `value`, and tells how many.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut size)
    };
    if failed == 0 { Ok(value[..size as usize].to_vec()) } else { Err(io::Error::last_os_error()) }
}

/// From where a peek at the queue begins (SO_PEEK_OFF, socket(7)); negative: from the head.
pub(super) fn peek_offset(socket: &Socket) -> io::Result<i32> {
    let value = get(socket, (libc::SOL_SOCKET, libc::SO_PEEK_OFF))?;
    Ok(value.first_chunk().map_or(-1, |value| i32::from_ne_bytes(*value)))
}

/// Sets an option, given by its level and name, to these bytes.
pub(super) fn set(socket: impl AsFd, (level, name): (i32, i32), value: &[u8]) -> io::Result<()> {
    let (fd, size) = (socket.as_fd().as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: the kernel reads `size` bytes of `value`.
    let failed = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), size) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use socket2::SockAddr;

    use super::*;
    use crate::domain::listener::Listener;
    use crate::kernel::owner::unbound;

    #[test]
    fn every_option_goes_back_to_what_a_new_socket_has() {
        for text in ["tcp://127.0.0.1:0", "udp://127.0.0.1:0", "tcp://[::1]:0", "udp://[::1]:0"] {
            let listener: Listener = text.parse().unwrap();
            let (socket, new) = (unbound(&listener, None).unwrap(), unbound(&listener, None).unwrap());
            socket.bind(&SockAddr::from(listener.address)).unwrap();
            if text.starts_with("tcp") {
                socket.listen(16).unwrap();
            }
            let mut changed = 0;
            for option in OPTIONS {
                let Ok(before) = get(&new, *option) else { continue };
                let mut value = before.clone();
                value[0] ^= 1;
                // Not every option takes every number.
                let _ = set(&socket, *option, &value);
                changed += usize::from(get(&socket, *option).unwrap() != before);
            }
            assert!(changed >= 20, "{text}: {changed} options of a new socket could be changed");
            reset(&socket, || unbound(&listener, None)).unwrap();
            for option in OPTIONS {
                let (now, wanted) = (get(&socket, *option).ok(), get(&new, *option).ok());
                assert_eq!(now, wanted, "{text}: {option:?}");
            }
        }
    }
}

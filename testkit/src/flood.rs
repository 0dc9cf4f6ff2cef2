//! A flood: datagrams from random addresses that nobody has, through raw sockets on loopback.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::fault::Dice;

/// Datagrams in one call.
const BATCH: usize = 256;

/// IPPROTO_RAW: the headers are ours (raw(7)).
const RAW: i32 = 255;

/// What each says: nothing of interest.
const PAYLOAD: [u8; 2] = *b"!!";

/// Length of the UDP header and the payload.
const UDP: usize = 8 + PAYLOAD.len();

/// Length of a TCP header without options.
const SYN: usize = 20;

/// A flood in a thread of its own, half of it IPv4, half IPv6.
pub struct Flood {
    sent: Arc<AtomicU64>,
    running: JoinHandle<()>,
}

impl Flood {
    /// Sends so many to this port of 127.0.0.1 and ::1, in this thread's namespace.
    ///
    /// # Panics
    /// If there can be no raw socket: that needs root.
    #[must_use]
    pub fn start(port: u16, count: u64) -> Self {
        let (v4, v6) = (raw(Domain::IPV4), raw(Domain::IPV6));
        let sent = Arc::new(AtomicU64::new(0));
        let sending = sent.clone();
        let running = std::thread::spawn(move || {
            let mut dice = Dice::new();
            // For v6 the port is in the header only; in the address it would be a protocol.
            let to_v4 = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
            let to_v6 = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0));
            while sending.load(Ordering::Relaxed) < count {
                let packets = std::array::from_fn(|_| packet_v4(&mut dice, port));
                let first = send(&v4, &packets, to_v4);
                let packets = std::array::from_fn(|_| packet_v6(&mut dice, port));
                let second = send(&v6, &packets, to_v6);
                sending.fetch_add(first + second, Ordering::Relaxed);
            }
        });
        Self { sent, running }
    }

    /// Sends so many SYNs to this port of 127.0.0.1, in this thread's namespace.
    ///
    /// # Panics
    /// If there can be no raw socket: that needs root.
    #[must_use]
    pub fn syns(port: u16, count: u64) -> Self {
        let v4 = raw(Domain::IPV4);
        let sent = Arc::new(AtomicU64::new(0));
        let sending = sent.clone();
        let running = std::thread::spawn(move || {
            let mut dice = Dice::new();
            let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
            while sending.load(Ordering::Relaxed) < count {
                let packets = std::array::from_fn(|_| syn_v4(&mut dice, port));
                sending.fetch_add(send(&v4, &packets, to), Ordering::Relaxed);
            }
        });
        Self { sent, running }
    }

    /// How many have been sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether that were all.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running.is_finished()
    }

    /// Waits until all are sent; returns how many.
    ///
    /// # Panics
    /// If the thread panicked.
    #[must_use]
    pub fn end(self) -> u64 {
        self.running.join().expect("the flood's thread panicked");
        self.sent.load(Ordering::Relaxed)
    }
}

fn raw(domain: Domain) -> Socket {
    Socket::new(domain, Type::RAW, Some(Protocol::from(RAW))).expect("cannot open a raw socket")
}

fn send<const LENGTH: usize, A: SockaddrLike + Copy>(
    socket: &Socket,
    packets: &[[u8; LENGTH]; BATCH],
    to: A,
) -> u64 {
    let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, [Some(to); BATCH], [], MsgFlags::empty());
    sent.expect("cannot send a flood").count() as u64
}

/// Random bytes.
fn random<const LENGTH: usize>(dice: &mut Dice) -> [u8; LENGTH] {
    std::array::from_fn(|_| dice.roll(256) as u8)
}

/// Any address outside of 0/8, 127/8 and those that are no unicast; the kernel fills in lengths and
/// checksum of the IP header, and a UDP checksum of 0 is none.
fn header_v4<const LENGTH: usize>(dice: &mut Dice, protocol: i32) -> [u8; LENGTH] {
    let mut source: [u8; 4] = random(dice);
    source[0] = [1, 128][dice.roll(2)] + source[0] % 95;
    let mut packet = [0; LENGTH];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = protocol as u8;
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
    packet
}

fn packet_v4(dice: &mut Dice, port: u16) -> [u8; 20 + UDP] {
    let mut packet: [u8; 20 + UDP] = header_v4(dice, libc::IPPROTO_UDP);
    packet[20..].copy_from_slice(&datagram(dice, port));
    packet
}

/// A SYN without options (RFC 9293, 3.1).
fn syn_v4(dice: &mut Dice, port: u16) -> [u8; 20 + SYN] {
    let mut packet: [u8; 20 + SYN] = header_v4(dice, libc::IPPROTO_TCP);
    packet[20..22].copy_from_slice(&(1 + dice.roll(65_535) as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..28].copy_from_slice(&random::<4>(dice));
    packet[32] = (SYN as u8 / 4) << 4;
    packet[33] = 0x02;
    packet[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    let checksum = checksum(&packet[12..], libc::IPPROTO_TCP, SYN);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Over `bytes`, which are the addresses and what follows them, protocol and length (RFC 9293, 3.1; RFC
/// 8200, 8.1).
fn checksum(bytes: &[u8], protocol: i32, length: usize) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + length as u32 + protocol as u32;
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// Any global unicast address.
fn packet_v6(dice: &mut Dice, port: u16) -> [u8; 40 + UDP] {
    let mut source: [u8; 16] = random(dice);
    source[0] = 0x20 | source[0] & 0x1f;
    let mut packet = [0; 40 + UDP];
    packet[0] = 0x60;
    packet[5] = UDP as u8;
    packet[6] = libc::IPPROTO_UDP as u8;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&source);
    packet[24..40].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
    packet[40..].copy_from_slice(&datagram(dice, port));
    let checksum = checksum(&packet[8..], libc::IPPROTO_UDP, UDP);
    packet[46..48].copy_from_slice(&if checksum == 0 { 0xffff } else { checksum }.to_be_bytes());
    packet
}

/// From a random port, without a checksum.
fn datagram(dice: &mut Dice, port: u16) -> [u8; UDP] {
    let mut datagram = [0; UDP];
    datagram[..2].copy_from_slice(&(1 + dice.roll(65_535) as u16).to_be_bytes());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[4..6].copy_from_slice(&(UDP as u16).to_be_bytes());
    datagram[8..].copy_from_slice(&PAYLOAD);
    datagram
}

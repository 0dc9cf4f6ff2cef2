//! What steering reads, out of the program's context: the packet, or the connection that is being migrated.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::sk_reuseport_md;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
};
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::shared::unfollowed;
use reuseport_lb_common::steer::{Bytes, MAX_LENGTH, Packet, UDP_HEADER, V4_SOURCE, V6_SOURCE, payload_key};
use reuseport_lb_common::trace_word::{TraceLine, family};

use crate::own;

/// The protocol of an IPv4 packet (linux/if_ether.h), in network byte order as the context has it.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;

/// Offset of the client's port in the packet, which begins with its TCP or UDP header (RFC 9293, RFC 768).
const SOURCE_PORT: u32 = 0;

/// See `reuseport_lb_common::program::PAYLOAD`.
#[unsafe(no_mangle)]
pub static PAYLOAD: Bytes = Bytes::NONE;

/// The packet of a context.
pub struct KernelPacket<'a>(pub &'a SkReuseportContext);

impl KernelPacket<'_> {
    #[inline(always)]
    fn md(&self) -> *mut sk_reuseport_md {
        self.0.md
    }

    /// Notes in `line` who the client is, if that can be read. An IPv4 address comes with the twelve bytes behind it, which
    /// every packet has (the server's address and a datagram's header), so that the verifier has one way to follow.
    #[inline(always)]
    pub fn note_client(&self, line: &mut TraceLine) {
        if self.is_migrating() {
            line.address = self.migrating_v6();
            // SAFETY: the verifier lets a program read this field of a `migrating_sk` that is there.
            let port = unsafe { (*(*self.md()).__bindgen_anon_4.migrating_sk).dst_port };
            line.port = port.to_ne_bytes();
            line.family = family::V6;
            return;
        }
        let is_v4 = unfollowed(self.is_v4().into());
        // SAFETY: each helper fills all of the bytes that it gets, or fails.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.as_ptr(),
                V6_SOURCE + is_v4 * (V4_SOURCE - V6_SOURCE),
                (&raw mut line.address).cast(),
                size_of_val(&line.address) as u32,
                BPF_HDR_START_NET,
            ) | bpf_skb_load_bytes(
                self.0.as_ptr(),
                SOURCE_PORT,
                (&raw mut line.port).cast(),
                size_of_val(&line.port) as u32,
            )
        };
        if failed == 0 {
            line.family = family::V6 - is_v4 as u8 * (family::V6 - family::V4);
        }
    }

    /// The client's port, in host order, if its address is the loopback address of its family; else 0.
    #[inline(always)]
    pub fn loopback_port(&self) -> u16 {
        let is_loopback = if self.is_v4() {
            self.network_header(V4_SOURCE) == Some(Ipv4Addr::LOCALHOST.octets())
        } else {
            self.network_header(V6_SOURCE) == Some(Ipv6Addr::LOCALHOST.octets())
        };
        let mut port = [0; 2];
        // SAFETY: the helper fills both bytes, or with zeros if it fails.
        unsafe { bpf_skb_load_bytes(self.0.as_ptr(), SOURCE_PORT, port.as_mut_ptr().cast(), 2) };
        if is_loopback { u16::from_be_bytes(port) } else { 0 }
    }
}

impl Packet for KernelPacket<'_> {
    #[inline(always)]
    fn hash(&self) -> u32 {
        self.0.hash()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn is_migrating(&self) -> bool {
        self.0.migrating_sk().is_some()
    }

    #[inline(always)]
    fn is_v4(&self) -> bool {
        // SAFETY: the verifier lets a program read this field of its context.
        let protocol = unsafe { (*self.md()).eth_protocol };
        protocol == ETH_P_IP
    }

    #[inline(always)]
    fn network_header<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        // SAFETY: `bytes` is `N` writable bytes; the helper fills all of them or fails.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.as_ptr(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        if failed == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn payload(&self) -> Option<u32> {
        // SAFETY: the daemon patches the constant before the program is loaded, so the compiler must not know it.
        let Bytes { offset, length } = unsafe { ptr::read_volatile(&raw const PAYLOAD) };
        // Always so; for the compiler.
        let length = length.min(MAX_LENGTH as u32);
        let mut bytes = [0u8; MAX_LENGTH];
        // SAFETY: `bytes` is at least `length` writable bytes; the helper fills as many or fails.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.as_ptr(), UDP_HEADER + offset, bytes.as_mut_ptr().cast(), length)
        };
        if failed == 0 { bytes.get(..length as usize).map(payload_key) } else { None }
    }

    #[inline(always)]
    fn own(&self) -> u32 {
        own::rlb_key(self.md()) as u32
    }

    #[inline(always)]
    fn migrating_v4(&self) -> [u8; 4] {
        // SAFETY: the verifier lets a program read these fields of a `migrating_sk` that is there.
        unsafe { (*(*self.md()).__bindgen_anon_4.migrating_sk).dst_ip4 }.to_ne_bytes()
    }

    #[inline(always)]
    fn migrating_v6(&self) -> [u8; 16] {
        // SAFETY: as above.
        let words = unsafe { (*(*self.md()).__bindgen_anon_4.migrating_sk).dst_ip6 };
        let mut address = [0; 16];
        for (bytes, word) in address.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        address
    }
}

//! What steering reads, out of the program's context: the packet, or the connection that is being migrated.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::sk_reuseport_md;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::steer::Packet;

/// The protocol of an IPv4 packet (linux/if_ether.h), in network byte order as the context has it.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;

/// The packet of a context.
pub struct KernelPacket<'a>(pub &'a SkReuseportContext);

impl KernelPacket<'_> {
    #[inline(always)]
    fn md(&self) -> *mut sk_reuseport_md {
        self.0.md
    }
}

impl Packet for KernelPacket<'_> {
    #[inline(always)]
    fn hash(&self) -> u32 {
        self.0.hash()
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

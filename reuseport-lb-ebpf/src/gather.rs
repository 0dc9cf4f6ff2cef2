//! What a decision is made from: the key, out of the context, the packet or the migrating socket.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::key::{source_v4, source_v6};
use reuseport_lb_common::layout::affinity::{FLOW, SOURCE_V4};

/// Offset of the source address in an IPv4 header (RFC 791).
const V4_SOURCE: u32 = 12;
/// Offset of the source address in an IPv6 header (RFC 8200).
const V6_SOURCE: u32 = 8;

/// Whether a connection is being moved: then there is no packet at all.
#[inline(always)]
pub fn migrating(ctx: &SkReuseportContext) -> bool {
    ctx.migrating_sk().is_some()
}

/// The key for `AFFINITY` (see `layout::affinity`); `None` if the client's address cannot be read.
#[inline(always)]
pub fn key<const AFFINITY: u32>(ctx: &SkReuseportContext, migrating: bool) -> Option<u32> {
    match AFFINITY {
        FLOW => Some(ctx.hash()),
        SOURCE_V4 if migrating => {
            // SAFETY: the verifier lets a program read these fields of `migrating_sk`.
            let address = unsafe { (*(*ctx.md).__bindgen_anon_4.migrating_sk).dst_ip4 };
            Some(source_v4(address.to_ne_bytes()))
        }
        SOURCE_V4 => Some(source_v4(load(ctx, V4_SOURCE)?)),
        _ if migrating => {
            // SAFETY: as above.
            let words = unsafe { (*(*ctx.md).__bindgen_anon_4.migrating_sk).dst_ip6 };
            let mut address = [0; 16];
            for (bytes, word) in address.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            Some(source_v6(address))
        }
        _ => Some(source_v6(load(ctx, V6_SOURCE)?)),
    }
}

#[inline(always)]
fn load<const N: usize>(ctx: &SkReuseportContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: `bytes` is `N` writable bytes; the helper fills all of them or fails.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            bytes.as_mut_ptr().cast(),
            N as u32,
            BPF_HDR_START_NET,
        )
    };
    if failed == 0 { Some(bytes) } else { None }
}

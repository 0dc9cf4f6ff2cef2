//! What `cargo xtask bench` compares decisions with: a program that does nothing, and others that do one
//! thing that decisions need. Not part of the product.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the names of a section and of a static are fixed")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{LruHashMap, ReusePortSockArray};
use aya_ebpf::programs::SkReuseportContext;
use aya_ebpf::{EbpfContext as _, Global};
use reuseport_lb_common::slots::MAX_SLOTS;
use reuseport_lb_common::table::Table;

#[map]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_SLOTS as u32, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Flow (by its hash) → slot, as a connection table would have it.
#[map]
static CONNECTIONS: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1 << 16, 0);

/// The cost of being called.
#[sk_reuseport(migrate)]
pub fn empty(_ctx: SkReuseportContext) -> u32 {
    SK_PASS
}

/// The cost of the one helper that nobody can do without.
#[sk_reuseport(migrate)]
pub fn bare(ctx: SkReuseportContext) -> u32 {
    // The outcome is the same either way: the slot is always filled in the benchmark.
    let _ = SOCKETS.select_reuseport(&ctx, 0);
    SK_PASS
}

/// [`bare`], and the client's IPv4 address is read (RFC 791: at 12), not hashed: the least of any `source`.
#[sk_reuseport(migrate)]
pub fn bare_address(ctx: SkReuseportContext) -> u32 {
    let mut address = [0u8; 4];
    // SAFETY: `address` is 4 writable bytes.
    let _ = unsafe {
        bpf_skb_load_bytes_relative(ctx.as_ptr(), 12, address.as_mut_ptr().cast(), 4, BPF_HDR_START_NET)
    };
    let _ = SOCKETS.select_reuseport(&ctx, 0);
    SK_PASS
}

/// One less than the number of slots that [`bare_spread`] and [`bare_table`] select from, a power of two.
#[unsafe(no_mangle)]
static MASK: Global<u32> = Global::new(7);

/// [`bare`], of one of the first slots by the kernel's hash.
#[sk_reuseport(migrate)]
pub fn bare_spread(ctx: SkReuseportContext) -> u32 {
    let _ = SOCKETS.select_reuseport(&ctx, ctx.hash() & MASK.load());
    SK_PASS
}

/// A table as large as ours, all zeros.
#[unsafe(no_mangle)]
static TABLE: Table = Table::zeroed();

/// [`bare_spread`], and a table of buckets has a say: the least of any table that says whose a flow is.
#[sk_reuseport(migrate)]
pub fn bare_table(ctx: SkReuseportContext) -> u32 {
    let hash = ctx.hash();
    let slot = hash ^ u32::from(TABLE.entry(hash).slot());
    let _ = SOCKETS.select_reuseport(&ctx, slot & MASK.load());
    SK_PASS
}

/// What a connection table costs that remembers each flow: a look-up, and an insertion for new ones.
#[sk_reuseport(migrate)]
pub fn lru_table(ctx: SkReuseportContext) -> u32 {
    let hash = ctx.hash();
    // SAFETY: the entry may be given to another flow meanwhile; a benchmark does not mind.
    let slot = match unsafe { CONNECTIONS.get(hash) } {
        Some(slot) => *slot,
        None => {
            let slot = hash & 7;
            let _ = CONNECTIONS.insert(hash, slot, 0);
            slot
        }
    };
    let _ = SOCKETS.select_reuseport(&ctx, slot);
    SK_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

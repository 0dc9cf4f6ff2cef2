//! Datagrams of QUIC to the worker that their connection id names, whatever flow they come by.

use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::quic::{self, Format, LONGEST, LONGEST_SERVER_ID, MOST_READ, Start};
use reuseport_lb_common::select::{Decision, Group as _};
use reuseport_lb_common::steer::{Packet as _, UDP_HEADER};
use reuseport_lb_common::table::attention;

use crate::group::{KernelGroup, Kind, add};
use crate::packet::KernelPacket;

/// See `reuseport_lb_common::program::QUIC`.
#[unsafe(no_mangle)]
pub static QUIC: Format = Format::NONE;

/// Selects the worker that the connection id names; false if that is nobody who is there.
#[inline(always)]
pub fn routes<K: Kind>(ctx: &SkReuseportContext) -> bool {
    let routed = named::<K>(ctx);
    add(if routed { Counter::QuicRouted } else { Counter::QuicUnroutable });
    routed
}

#[inline(always)]
fn named<K: Kind>(ctx: &SkReuseportContext) -> bool {
    // SAFETY: the daemon patches the constant before the program is loaded, so the compiler must not know it.
    let format = unsafe { ptr::read_volatile(&raw const QUIC) };
    let Some(id) = server_id(ctx, &format) else { return false };
    let (slot, tag) = format.parts(id);
    let mut group = KernelGroup::<K>::new(ctx);
    let Some(load) = group.load() else { return false };
    let line = load.line(slot);
    if tag == 0 || line.tag.get() != tag {
        return false;
    }
    line.found_routed();
    if !group.take(slot) {
        return false;
    }
    if group.table().attention.get() & attention::TRACE != 0 {
        group.trace(KernelPacket(ctx).hash(), Decision::taken(Counter::OwnerTaken, slot, 0));
    }
    true
}

/// The server id in the datagram: read where it is, or copied if a network card has put it into a fragment.
#[inline(always)]
fn server_id(ctx: &SkReuseportContext, format: &Format) -> Option<u64> {
    // Always so; for the compiler.
    let offset = (format.offset as usize).min(LONGEST - LONGEST_SERVER_ID);
    let length = quic::read(offset, (format.server_id as usize).min(LONGEST_SERVER_ID));
    // SAFETY: the verifier lets a program read these fields of its context.
    let (data, end) = unsafe { ((*ctx.md).__bindgen_anon_1.data, (*ctx.md).__bindgen_anon_2.data_end) };
    let start = data as usize + UDP_HEADER as usize;
    if start + length <= end as usize {
        return format.server_id(&InPlace(start as *const u8));
    }
    let mut bytes = [0u8; MOST_READ];
    // SAFETY: `bytes` is at least `length` writable bytes; the helper fills as many or fails.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.as_ptr(), UDP_HEADER, bytes.as_mut_ptr().cast(), length as u32) };
    if failed == 0 { format.server_id(&bytes) } else { None }
}

/// The beginning of a datagram whose bytes, as many as are read, are there.
struct InPlace(*const u8);

impl Start for InPlace {
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        // SAFETY: within what was compared with the end of the data, as the verifier sees.
        unsafe { *self.0.add(at) }
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        // SAFETY: as above; the kernel lets programs read what is not aligned.
        u32::from_be(unsafe { self.0.add(at).cast::<u32>().read_unaligned() })
    }
}

//! Whether the worker of a listening socket waits for work, read from the kernel's own memory: what is
//! in the socket's queue, and who sleeps on it. A wrong answer costs a detour; it breaks nothing.
//!
//! ```text
//! sock ─ sk_wq ─▶ list ─▶ a task in accept(2), poll(2), …          waits: it is there only meanwhile
//!                      └▶ eppoll_entry ─ epitem ─ eventpoll ─ wq    waits if a thread is in epoll_wait(2)
//! ```

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::bindings::sk_reuseport_md;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use reuseport_lb_common::offsets::Offsets;

/// See `reuseport_lb_common::program::OFFSETS`.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// How many waiters of one socket are looked at: one, or as many as a worker has threads that each have an
/// epoll object of their own. More cost the verifier.
const WAITERS: u32 = 4;

/// What [`queue`] answers of a worker that waits for work.
pub const WAITS: u64 = u64::MAX;

/// Of the socket that was selected last: [`WAITS`], or the length of its queue. A function of its own,
/// because it is called at many places; and without ways that part, as far as that can be, because the
/// verifier follows each of them at each of those places: what cannot be read is 0, and a worker of
/// which that is so waits.
#[inline(never)]
pub fn queue(md: *mut sk_reuseport_md) -> u64 {
    queue_of(read(md as u64, &OFFSETS.selected))
}

#[inline(always)]
pub fn queue_of(socket: u64) -> u64 {
    let queue = read(socket, &OFFSETS.queue) & 0xffff_ffff;
    let head = read(socket, &OFFSETS.wait_queue) + offset(&OFFSETS.waiters);
    let mut at = read_at(head);
    for _ in 0..WAITERS {
        if at == head {
            break;
        }
        if queue == 0 && sleeps(at - offset(&OFFSETS.link)) != 0 {
            return WAITS;
        }
        at = read_at(at);
    }
    queue
}

/// Not 0 if a thread sleeps behind an entry of a wait queue.
#[inline(always)]
fn sleeps(entry: u64) -> u64 {
    let poll_entry = entry - offset(&OFFSETS.poll_wait);
    let item = read(poll_entry, &OFFSETS.poll_item);
    let [back, beside]: [u64; 2] = read_at(item + offset(&OFFSETS.item_entry));
    // Beside each other on all known kernels; the verifier knows, and removes one of the two ways.
    let poll = if offset(&OFFSETS.item_poll) == offset(&OFFSETS.item_entry) + 8 {
        beside
    } else {
        read(item, &OFFSETS.item_poll)
    };
    // Only epoll's entries are what an item points back to; others are in the queue while a task sleeps.
    let sleeps = back ^ poll_entry | filled(poll, &OFFSETS.poll_waiters);
    if sleeps != 0 {
        return sleeps;
    }
    // Of one that is watched itself, by another epoll say, it is not known who sleeps in the end.
    filled(poll, &OFFSETS.poll_watchers)
}

/// Not 0 if a list has entries: an empty one points to itself.
#[inline(always)]
fn filled(structure: u64, field: &'static u32) -> u64 {
    let head = structure + offset(field);
    read_at::<u64>(head) ^ head
}

#[inline(always)]
pub fn read(structure: u64, field: &'static u32) -> u64 {
    read_at(structure + offset(field))
}

#[inline(always)]
pub fn read_at<T>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper fills `value`, with zeros from addresses that cannot be read; it is integers.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void);
        value.assume_init()
    }
}

/// Patched before loading, so not what the compiler knows.
#[inline(always)]
pub fn offset(field: &'static u32) -> u64 {
    // SAFETY: the address of a field of a static.
    u64::from(unsafe { ptr::read_volatile(field) })
}

//! `rtp.c` in Rust, without any crate: docs/PROGRAMMING.md says how it is built.
#![no_std]
#![no_main]

use core::mem::transmute;

const ABI: u32 = 1;
const NO_KEY: u32 = u32::MAX;
const UDP_HEADER: u32 = 8;

/// The version of the contract, as `reuseport_lb_key.h` puts it into an object.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = "rlb_abi")]
static RLB_ABI_VERSION: u32 = ABI;

/// `struct sk_reuseport_md` of `<linux/bpf.h>`, as far as it is needed.
#[repr(C)]
pub struct Context {
    data: u64,
    data_end: u64,
    len: u32,
    eth_protocol: u32,
    ip_protocol: u32,
    bind_inany: u32,
    hash: u32,
}

type LoadBytes = unsafe extern "C" fn(ctx: *mut Context, offset: u32, to: *mut u8, length: u32) -> i64;

/// Bytes of a datagram's payload; `None` if it has fewer.
#[inline(always)]
fn payload<const N: usize>(ctx: *mut Context, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: 26 is `bpf_skb_load_bytes`, which fills all the bytes or fails.
    let failed =
        unsafe { transmute::<usize, LoadBytes>(26)(ctx, UDP_HEADER + offset, bytes.as_mut_ptr(), N as u32) };
    if failed == 0 { Some(bytes) } else { None }
}

#[inline(always)]
fn key(ctx: *mut Context) -> Option<u32> {
    let [first, second] = payload(ctx, 0)?;
    if first >> 6 != 2 {
        return None;
    }
    let ssrc = payload(ctx, if matches!(second, 192..=223) { 4 } else { 8 })?;
    Some(u32::from_le_bytes(ssrc))
}

#[unsafe(no_mangle)]
pub extern "C" fn rlb_key(ctx: *mut Context) -> u32 {
    match key(ctx) {
        Some(key) => key,
        None => NO_KEY,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

//! The place of a function that the user brings, which the daemon writes over this one before it loads the object.

use core::arch::asm;

use aya_ebpf::bindings::sk_reuseport_md;

/// As many instructions that do nothing as a user's function may have, the last two included; the compiler must know nothing
/// of what it does. The name and the number are `reuseport_lb_common::program`'s.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rlb_key(ctx: *mut sk_reuseport_md) -> u64 {
    let key: u64;
    // SAFETY: it only says that the result depends on the argument.
    unsafe { asm!(".rept 1998", "goto +0", ".endr", "r0 = r1", in("r1") ctx, lateout("r0") key) };
    key
}

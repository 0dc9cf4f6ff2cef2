//! The place of a function that the user brings, which the daemon writes over this one before it loads the object.

#[cfg(target_arch = "bpf")]
use core::arch::asm;

use aya_ebpf::bindings::sk_reuseport_md;

/// As many instructions that do nothing as a user's function may have, the last two included; the compiler must know nothing
/// of what it does. The name and the number are `reuseport_lb_common::program`'s.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rlb_key(ctx: *mut sk_reuseport_md) -> u64 {
    let key: u64;
    // SAFETY: it only says that the result depends on the argument.
    #[cfg(target_arch = "bpf")]
    unsafe {
        asm!(".rept 1998", "goto +0", ".endr", "r0 = r1", in("r1") ctx, lateout("r0") key);
    }
    // Clippy looks at it as a program for this machine.
    #[cfg(not(target_arch = "bpf"))]
    {
        key = ctx as u64;
    }
    key
}

//! A key function, as small as one can be.

/// Returns the kernel's hash of the packet: `r0 = *(u32 *)(r1 + 32); exit` (RFC 9669, 5.2 and 4.3), where 32 is the offset of
/// `hash` in `struct sk_reuseport_md` (include/uapi/linux/bpf.h).
pub const RETURNS_HASH: [u8; 16] = [0x61, 0x10, 32, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

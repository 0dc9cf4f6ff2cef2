//! The map of tags, which the kernel keeps with sockets. Aya knows the type of map but not the flag by which connections
//! inherit their listener's tag, so the map is made by hand.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use reuseport_lb_common::connections::Tag;

use crate::kernel::raw::bpf;

/// Commands, a type of map and its flags (include/uapi/linux/bpf.h).
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_TYPE_SK_STORAGE: u32 = 24;
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_CLONE: u32 = 1 << 9;

/// Numbers of the types in [`types`].
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// Words of a [`Tag`].
const WORDS: u32 = size_of::<Tag>() as u32 / 4;

/// `union bpf_attr` for BPF_BTF_LOAD.
#[repr(C)]
#[derive(Default)]
struct LoadTypes {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    /// The kernel refuses what it does not know unless it is zero, so the padding is named.
    rest: u32,
}

/// `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
#[derive(Default)]
struct CreateMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    rest: u32,
}

/// Makes the map. Needs CAP_BPF, and Linux 5.4 (`bpf_sk_storage_map_alloc_check`, net/core/bpf_sk_storage.c).
pub(super) fn make() -> io::Result<OwnedFd> {
    let types = types();
    let mut load =
        LoadTypes { btf: types.as_ptr() as u64, btf_size: types.len() as u32, ..LoadTypes::default() };
    // SAFETY: the kernel reads `types`, which lives until the call returns; the answer is a new descriptor.
    let types = unsafe { owned(bpf(BPF_BTF_LOAD, &mut load)?) };
    let mut create = CreateMap {
        map_type: BPF_MAP_TYPE_SK_STORAGE,
        key_size: 4,
        value_size: size_of::<Tag>() as u32,
        map_flags: BPF_F_NO_PREALLOC | BPF_F_CLONE,
        map_name: *b"TAGS\0\0\0\0\0\0\0\0\0\0\0\0",
        btf_fd: types.as_raw_fd() as u32,
        btf_key_type_id: KEY,
        btf_value_type_id: VALUE,
        ..CreateMap::default()
    };
    // SAFETY: no pointers; the answer is a new descriptor.
    Ok(unsafe { owned(bpf(BPF_MAP_CREATE, &mut create)?) })
}

/// A descriptor that the kernel has just answered.
///
/// # Safety
/// It is nobody else's.
unsafe fn owned(fd: u32) -> OwnedFd {
    // SAFETY: as the caller promises.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The types of key and value, which the kernel asks for with this type of map (`bpf_local_storage_map_check_btf`): an
/// `int` of 32 bits, and an array of those. The format: Documentation/bpf/btf.rst.
fn types() -> Vec<u8> {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const SIGNED: u32 = 1 << 24;
    let names = b"\0int\0";
    let types = [1, INT, 4, SIGNED | 32, 0, ARRAY, 0, KEY, KEY, WORDS];
    let length = size_of_val(&types) as u32;
    let header = [0x0001_eb9f, 24, 0, length, length, names.len() as u32];
    let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
    words.chain(*names).collect()
}

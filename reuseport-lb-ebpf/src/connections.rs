//! Counts live connections: a program at the tracepoint of state changes, for all services of a daemon. What it counts
//! is the tag of a connection, a copy of its listener's.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod accounts;
mod object;

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use reuseport_lb_common::connections::Tag;

use crate::accounts::{MOVED, accounts};

/// Socket → tag. The daemon writes those of listening sockets, with BPF_F_CLONE, so that connections inherit them.
#[btf_map]
pub static TAGS: SkStorage<Tag> = SkStorage::new();

/// States of a connection (include/net/tcp_states.h).
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_RECV: i32 = 3;
const TCP_CLOSE: i32 = 7;

/// Runs at each change of state of each TCP socket (include/trace/events/sock.h): nearly all are none of ours.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn rlb_connections(ctx: BtfTracePointContext) -> i32 {
    let (socket, before, now): (*const c_void, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if now == TCP_CLOSE {
        end(socket);
    } else if now == TCP_ESTABLISHED && before == TCP_SYN_RECV {
        begin(socket);
    }
    0
}

#[inline(always)]
fn begin(socket: *const c_void) {
    let (Some(tag), Some(accounts)) = (tag(socket), accounts()) else { return };
    if tag.counted == 0 {
        tag.counted = 1;
        accounts.open(tag);
    }
}

#[inline(always)]
fn end(socket: *const c_void) {
    let (Some(tag), Some(accounts)) = (tag(socket), accounts()) else { return };
    if tag.counted == 0 {
        return;
    }
    tag.counted = 0;
    if accounts.moved().live() != 0 {
        // SAFETY: a socket that lives as long as this program runs.
        let cookie = unsafe { bpf_get_socket_cookie(socket.cast_mut()) };
        // SAFETY: the entry is replaced only while the connection is in a queue that closes, whose lock is held.
        if let Some(moved) = unsafe { MOVED.get(cookie) } {
            accounts.close(moved);
            if MOVED.remove(cookie).is_ok() {
                accounts.moved().close();
            }
            return;
        }
    }
    accounts.close(tag);
}

/// The tag of a socket, which it has to itself; `None` if it has none.
#[inline(always)]
fn tag<'a>(socket: *const c_void) -> Option<&'a mut Tag> {
    // SAFETY: the map's own address, and a socket that lives as long as this program runs. Its storage is freed after
    // that (RCU), and changes of a connection's state come one after the other.
    unsafe {
        bpf_sk_storage_get((&raw const TAGS).cast_mut().cast(), socket.cast_mut(), ptr::null_mut(), 0)
            .cast::<Tag>()
            .as_mut()
    }
}

//! A queued connection whose listener closes: from the accounts of one worker to those of another.

use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, sk_reuseport_md};
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use reuseport_lb_common::connections::{MAX_ACCOUNTS, Tag};

use crate::accounts::{MOVED, accounts};
use crate::maps;

/// SO_COOKIE of a listening socket → its tag. The daemon writes.
#[map]
pub static LISTENERS: HashMap<u64, Tag> = HashMap::with_max_entries(MAX_ACCOUNTS as u32, 0);

/// States of a connection (include/net/tcp_states.h).
const TCP_CLOSE: u32 = 7;
const TCP_NEW_SYN_RECV: u32 = 12;

/// Counts the connection that is being migrated with the worker in `slot` from now on. A handshake is counted where it
/// ends, and a connection that its client has reset in the queue is not counted any more. If there is no room to note
/// where it is, it stays where it was.
#[cold]
#[inline(never)]
pub fn moves(md: *mut sk_reuseport_md, slot: u16) -> u32 {
    let (Some(load), Some(accounts)) = (maps::LOAD.get_ptr(0), accounts()) else { return 0 };
    // SAFETY: the value lives as long as the map, and all its fields are `Shared`.
    let (line, shares) = unsafe { ((*load).line(slot), &(*load).shares) };
    let to = Tag {
        socket: line.socket.get(),
        worker: line.worker.get(),
        service: shares.service.get(),
        counted: 1,
    };
    // SAFETY: the verifier lets a program read these fields of its context.
    let (listener, connection) = unsafe { ((*md).__bindgen_anon_3.sk, (*md).__bindgen_anon_4.migrating_sk) };
    let (Some(listener), Some(connection)) = (NonNull::new(listener), NonNull::new(connection)) else {
        return 0;
    };
    // SAFETY: both are sockets that live as long as this program runs.
    let (state, listener, connection) = unsafe {
        (
            (*connection.as_ptr()).state,
            bpf_get_socket_cookie(listener.as_ptr().cast()),
            bpf_get_socket_cookie(connection.as_ptr().cast()),
        )
    };
    if state == TCP_CLOSE || state == TCP_NEW_SYN_RECV || to.socket == 0 {
        return 0;
    }
    // SAFETY: the entry is not removed while this program runs (RCU), and its writer replaces entries whole.
    let Some(from) = (unsafe { LISTENERS.get(listener) }) else { return 0 };
    if MOVED.insert(connection, to, BPF_NOEXIST.into()).is_ok() {
        accounts.moved().open();
    } else if MOVED.insert(connection, to, BPF_ANY.into()).is_err() {
        return 0;
    }
    accounts.close(from);
    accounts.open(&to);
    1
}

//! Offsets of the fields of kernel structures that show whether a worker waits for work, and which program its group has.

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use reuseport_lb_common::offsets::Offsets;

use crate::kernel::btf::Btf;

/// The kernel's description of its types (BTF).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in the running kernel; the first call takes some milliseconds.
pub(super) fn offsets() -> Result<&'static Offsets> {
    static FOUND: OnceLock<Offsets> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let wanted = "cannot find out where the kernel keeps waiting threads and handshakes, which `when_busy = \"next\"` and \
                  `balance` need (CONFIG_DEBUG_INFO_BTF); without it, leave `when_busy` and `balance` out";
    let data = std::fs::read(VMLINUX).with_context(|| format!("cannot read {VMLINUX}")).context(wanted)?;
    let found = find(&data).map_err(|error| anyhow!("{VMLINUX}: {error}")).context(wanted)?;
    Ok(FOUND.get_or_init(|| found))
}

fn find(data: &[u8]) -> Result<Offsets, String> {
    let btf = Btf::parse(data)?;
    Ok(Offsets {
        selected: btf.offset("sk_reuseport_kern.selected_sk")?,
        queue: btf.offset("sock.sk_ack_backlog")?,
        requests: btf.offset("inet_connection_sock.icsk_accept_queue.qlen")?,
        wait_queue: btf.offset("sock.sk_wq")?,
        waiters: btf.offset("socket_wq.wait.head")?,
        link: btf.offset("wait_queue_entry.entry")?,
        poll_wait: btf.offset("eppoll_entry.wait")?,
        poll_item: btf.offset("eppoll_entry.base")?,
        item_entry: btf.offset("epitem.pwqlist")?,
        item_poll: btf.offset("epitem.ep")?,
        poll_waiters: btf.offset("eventpoll.wq.head")?,
        poll_watchers: btf.offset("eventpoll.poll_wait.head")?,
        task_files: btf.offset("task_struct.files")?,
        files_table: btf.offset("files_struct.fdt")?,
        table_files: btf.offset("fdtable.fd")?,
        file_socket: btf.offset("file.private_data")?,
        socket_sock: btf.offset("socket.sk")?,
        sock_group: btf.offset("sock.sk_reuseport_cb")?,
        group_program: btf.offset("sock_reuseport.prog")?,
        program_aux: btf.offset("bpf_prog.aux")?,
        aux_id: btf.offset("bpf_prog_aux.id")?,
        aux_name: btf.offset("bpf_prog_aux.name")?,
    })
}

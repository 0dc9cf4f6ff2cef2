//! What the daemon asks about a socket of its own, by programs that only it runs (its kernel/test_run.rs).

use aya_ebpf::helpers::generated::bpf_get_current_task;
use reuseport_lb_common::offsets::{NAMELESS, OWN, PREFIX};

use crate::waiting::{OFFSETS, WAITS, offset, queue_of, read, read_at};

/// Whether a thread waits for work on the socket that the current process has at descriptor `fd`: 1, else 0.
/// For a program that the daemon runs by itself (its kernel/waits.rs).
#[inline(always)]
pub fn waits_at(fd: u64) -> u32 {
    u32::from(queue_of(socket_at(fd)) == WAITS)
}

/// Id of the program that decides for the SO_REUSEPORT group of the socket that the current process has at descriptor
/// `fd`; [`OWN`] if it is one of these here, [`NAMELESS`] if it is a classic one, which has no id; 0 if there is none.
#[inline(always)]
pub fn attached_at(fd: u64) -> u32 {
    let program = read(read(socket_at(fd), &OFFSETS.sock_group), &OFFSETS.group_program);
    if program == 0 {
        return 0;
    }
    let aux = read(program, &OFFSETS.program_aux);
    let name: [u8; 4] = read_at(aux + offset(&OFFSETS.aux_name));
    if name == PREFIX {
        return OWN;
    }
    let id: u32 = read_at(aux + offset(&OFFSETS.aux_id));
    if id == 0 { NAMELESS } else { id }
}

/// The kernel's structure of the socket that the current process has at descriptor `fd`.
#[inline(always)]
fn socket_at(fd: u64) -> u64 {
    // SAFETY: the helper has no arguments.
    let task = unsafe { bpf_get_current_task() };
    let table = read(read(task, &OFFSETS.task_files), &OFFSETS.files_table);
    let file = read_at(read(table, &OFFSETS.table_files) + fd * 8);
    read(read(file, &OFFSETS.file_socket), &OFFSETS.socket_sock)
}

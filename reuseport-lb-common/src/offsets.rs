//! Where the kernel keeps what shows whether a worker waits for work, and which program its group has. Not: what these
//! are on a given kernel.

/// Where the kernel that the program is loaded into keeps what shows whether a worker waits for work, and which program
/// decides for its group: offsets in its own structures, in bytes. Zero is as good as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `sk_reuseport_kern.selected_sk` (include/linux/filter.h), the program's context.
    pub selected: u32,
    /// `sock.sk_ack_backlog` (include/net/sock.h): connections in the accept queue, a `u32`.
    pub queue: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen` (include/net/inet_connection_sock.h, include/net/request_sock.h):
    /// handshakes under way at a listening socket, a `u32`.
    pub requests: u32,
    /// `sock.sk_wq`.
    pub wait_queue: u32,
    /// `socket_wq.wait.head` (include/linux/net.h): who waits for the socket.
    pub waiters: u32,
    /// `wait_queue_entry.entry` (include/linux/wait.h), the link of that list.
    pub link: u32,
    /// `eppoll_entry.wait` (fs/eventpoll.c): a link's place if it is epoll that waits.
    pub poll_wait: u32,
    /// `eppoll_entry.base`: the epoll item.
    pub poll_item: u32,
    /// `epitem.pwqlist`: back to the `eppoll_entry`.
    pub item_entry: u32,
    /// `epitem.ep`: the epoll object.
    pub item_poll: u32,
    /// `eventpoll.wq.head`: who waits in epoll_wait(2).
    pub poll_waiters: u32,
    /// `eventpoll.poll_wait.head`: who waits for the epoll object itself.
    pub poll_watchers: u32,
    /// `task_struct.files` (include/linux/sched.h): the open files of a task.
    pub task_files: u32,
    /// `files_struct.fdt` (include/linux/fdtable.h): their table.
    pub files_table: u32,
    /// `fdtable.fd`: the files by their numbers.
    pub table_files: u32,
    /// `file.private_data` (include/linux/fs.h), of a socket its `struct socket`.
    pub file_socket: u32,
    /// `socket.sk` (include/linux/net.h).
    pub socket_sock: u32,
    /// `sock.sk_reuseport_cb`: the SO_REUSEPORT group.
    pub sock_group: u32,
    /// `sock_reuseport.prog` (include/net/sock_reuseport.h).
    pub group_program: u32,
    /// `bpf_prog.aux` (include/linux/bpf.h).
    pub program_aux: u32,
    /// `bpf_prog_aux.id`: a `u32`, 0 of programs that are not eBPF.
    pub aux_id: u32,
    /// `bpf_prog_aux.name`: 16 bytes.
    pub aux_name: u32,
}

/// Stands for the id of a program that has none: a classic one.
pub const NAMELESS: u32 = u32::MAX;

/// Stands for the id of a program of this project, whose name begins with [`PREFIX`].
pub const OWN: u32 = u32::MAX - 1;

/// How the names of all programs of this project begin.
pub const PREFIX: [u8; 4] = *b"rlb_";

impl Offsets {
    /// None.
    pub const NONE: Self = Self {
        selected: 0,
        queue: 0,
        requests: 0,
        wait_queue: 0,
        waiters: 0,
        link: 0,
        poll_wait: 0,
        poll_item: 0,
        item_entry: 0,
        item_poll: 0,
        poll_waiters: 0,
        poll_watchers: 0,
        task_files: 0,
        files_table: 0,
        table_files: 0,
        file_socket: 0,
        socket_sock: 0,
        sock_group: 0,
        group_program: 0,
        program_aux: 0,
        aux_id: 0,
        aux_name: 0,
    };
}

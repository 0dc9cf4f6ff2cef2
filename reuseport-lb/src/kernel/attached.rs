//! Which program decides for the SO_REUSEPORT group of a socket. The kernel has no call that tells; a small program
//! reads it from the kernel's memory (`test_run.rs`).

use std::io;

use anyhow::Result;
use reuseport_lb_common::offsets::{NAMELESS, OWN};
use socket2::Socket;

use super::test_run::TestProgram;

/// The program of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// None: the kernel's own hash decides.
    Nothing,
    /// One of this project's, of this daemon or another one.
    Own,
    /// Another one: what is known of it, for people.
    Other(String),
}

/// Reads the programs of groups.
pub struct GroupPrograms(TestProgram);

impl GroupPrograms {
    /// Loads the reader, which needs what [`Waits`](super::waits::Waits) needs.
    pub fn load() -> Result<Self> {
        let tried =
            "load the program that sees which program a group has (which the kernel's lockdown may forbid)";
        TestProgram::load("rlb_attached", tried).map(Self)
    }

    /// The program of the group of `socket`, which must be a socket of this process.
    pub fn of(&self, socket: &Socket) -> io::Result<Attached> {
        Ok(match self.0.run(socket)? {
            0 => Attached::Nothing,
            OWN => Attached::Own,
            NAMELESS => Attached::Other("a classic BPF program".into()),
            id => Attached::Other(format!("program {id} (`bpftool prog show id {id}`)")),
        })
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn a_group_without_a_program_and_one_with_a_classic_one_are_told_apart() {
        let programs = GroupPrograms::load().expect("these tests need root");
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert_eq!(programs.of(&socket).unwrap(), Attached::Nothing);
        socket.set_reuse_port(true).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        assert_eq!(programs.of(&socket).unwrap(), Attached::Nothing);
        // return 0
        let mut code = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 }];
        let filter = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
        // SAFETY: the kernel copies the one instruction that `filter` points to.
        let failed = unsafe {
            libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const filter).cast(),
                size_of_val(&filter) as libc::socklen_t,
            )
        };
        assert_eq!(failed, 0, "{}", io::Error::last_os_error());
        assert_eq!(programs.of(&socket).unwrap(), Attached::Other("a classic BPF program".into()));
    }
}

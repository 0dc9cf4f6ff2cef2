//! Live TCP connections, as the kernel program counts them: an account for each listening socket, each worker and each
//! service. Not: who is chosen by them (`select/policy`).

use crate::shared::Shared;

/// Accounts of a daemon: one line each, 2 MiB in all.
pub const MAX_ACCOUNTS: usize = 1 << 15;

/// The account of what is not counted.
pub const NO_ACCOUNT: u32 = 0;

/// Version of [`Tag`] and [`Accounts`], and of what the counting program does with them. A daemon goes on with the program
/// and the accounts of one before it that has the same.
pub const CONNECTIONS_VERSION: u32 = 1;

/// Where a connection is counted: the kernel keeps it with a listening socket, and a copy of it with each connection that
/// the socket accepts (BPF_MAP_TYPE_SK_STORAGE with BPF_F_CLONE, net/core/bpf_sk_storage.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tag {
    /// Account of the listening socket.
    pub socket: u32,
    /// Account of the worker, with all its listeners.
    pub worker: u32,
    /// Account of the service.
    pub service: u32,
    /// Not 0 while the connection is counted; 0 for the listening socket.
    pub counted: u32,
}

/// What is counted together. A line of its own, so that CPUs that count in different ones do not disturb each other.
#[repr(C, align(64))]
pub struct Account {
    live: Shared<u64>,
    /// 0; or when the daemon began to count, in seconds since 1970: connections from before are not counted.
    pub since: Shared<u64>,
}

impl Account {
    /// How many connections live: from the end of the handshake until the socket is closed for good.
    #[inline(always)]
    pub fn live(&self) -> u32 {
        // Read by itself on one CPU while two others move a connection, it may be below 0 for a moment.
        let live = self.live.get() as i64;
        if live < 0 { 0 } else { live as u32 }
    }

    /// Counts one connection more.
    #[inline(always)]
    pub fn open(&self) {
        self.live.add(1);
    }

    /// Counts one connection less.
    #[inline(always)]
    pub fn close(&self) {
        self.live.add(u64::MAX);
    }
}

/// The one value of the map `ACCOUNTS`: written by the programs, read by them and by the daemon.
#[repr(C)]
pub struct Accounts {
    lines: [Account; MAX_ACCOUNTS],
}

impl Accounts {
    /// The account with this number.
    #[inline(always)]
    pub fn line(&self, account: u32) -> &Account {
        &self.lines[account as usize & (MAX_ACCOUNTS - 1)]
    }

    /// Entries of the map `MOVED`, in the line of [`NO_ACCOUNT`]: while there are none, nobody need look.
    #[inline(always)]
    pub fn moved(&self) -> &Account {
        self.line(NO_ACCOUNT)
    }

    /// Counts a connection more in all accounts of `tag`.
    #[inline(always)]
    pub fn open(&self, tag: &Tag) {
        self.line(tag.socket).open();
        self.line(tag.worker).open();
        self.line(tag.service).open();
    }

    /// Counts a connection less in all accounts of `tag`.
    #[inline(always)]
    pub fn close(&self, tag: &Tag) {
        self.line(tag.socket).close();
        self.line(tag.worker).close();
        self.line(tag.service).close();
    }
}

#[cfg(any(test, feature = "model", feature = "user"))]
#[expect(unsafe_code, reason = "says that it is valid when zeroed")]
// SAFETY: all fields are `Shared` integers.
unsafe impl crate::shared::Zeroable for Accounts {}

const _: () = assert!(size_of::<Account>() == 64 && size_of::<Tag>() == 16 && MAX_ACCOUNTS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Zeroable as _;

    #[test]
    fn a_connection_is_counted_in_all_accounts_of_its_tag() {
        let accounts = Accounts::boxed();
        let one = Tag { socket: 1, worker: 3, service: 4, counted: 1 };
        let other = Tag { socket: 2, ..one };
        accounts.open(&one);
        accounts.open(&other);
        accounts.close(&one);
        assert_eq!([1, 2, 3, 4].map(|at| accounts.line(at).live()), [0, 1, 1, 1]);
        accounts.close(&one);
        assert_eq!(accounts.line(1).live(), 0, "below 0 for a moment");
        accounts.open(&one);
        assert_eq!([1, 2, 3, 4].map(|at| accounts.line(at).live()), [0, 1, 1, 1]);
    }
}

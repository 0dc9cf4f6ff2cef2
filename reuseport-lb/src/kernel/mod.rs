//! All system calls and all unsafe code of this crate. Callers decide what to do; errors name the object.
#![expect(unsafe_code, reason = "this is the module for it; each block says why it is sound")]

pub mod addresses;
pub mod adopt;
pub mod attached;
pub mod attributes;
pub mod bpffs;
pub mod btf;
pub mod calls;
pub mod cgroup;
pub mod closing;
pub mod connections;
pub mod datagram;
pub mod executable;
pub mod fd_passing;
pub mod findings;
pub mod group;
pub mod host;
pub mod journal;
pub mod launch;
pub mod liveness;
pub mod locks;
pub mod loopback;
pub mod marks;
pub mod offsets;
pub mod opened;
pub mod options;
pub mod output;
pub mod owner;
pub mod peek;
pub mod probe;
pub mod process;
pub mod recover;
pub mod rights;
pub mod socket;
mod splice;
pub mod strangers;
pub mod systemd;
pub mod trial;
pub mod waits;
pub mod watch;

mod loading;
mod mapped;
mod policy;
mod raw;
mod test_run;

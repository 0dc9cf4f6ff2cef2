//! `sockets = "bind"`: servers that open their sockets themselves, as they are, in one group.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod addresses;
mod adopted;
mod adopted_files;
mod family;
mod hostile;
mod joined;
mod programs;
mod protocol;
mod rebinding;
mod reloads;
mod resolver;
mod row;
mod servers;
mod threads;

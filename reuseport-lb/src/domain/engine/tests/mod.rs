//! Tests of an engine with fake ports (`fake/`) and a made-up clock: single faults (`faults.rs`), how processes are
//! told to end (`stopping.rs`, `stop_first.rs`), workers that do not read (`datagrams.rs`), sockets that processes open
//! themselves (`opened.rs`, `opened_joined.rs`), servers that others have started (`adopted.rs`), and random histories
//! (`history.rs`) in which `invariants.rs` must hold.

mod adopted;
mod datagrams;
mod fake;
mod faults;
mod history;
mod invariants;
mod opened;
mod opened_joined;
mod scene;
mod stop_first;
mod stopping;

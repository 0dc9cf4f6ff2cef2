//! What a service must be like: single faults, and random histories (`history.rs`), with made-up ports (`fake/`) and a
//! made-up clock. `invariants.rs` is what must hold.

mod fake;
mod faults;
mod history;
mod invariants;
mod scene;

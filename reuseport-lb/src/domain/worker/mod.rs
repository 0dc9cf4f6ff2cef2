//! The life of a worker, PURE: events → steps. Not: carrying steps out (`engine/`), nor whether the worker keeps up
//! with its queue (`health/`).
//!
//! ```text
//!     READY=1, or it waits for work (loading until then)   leave, STOPPING=1
//!  starting ────────────────────────────────▶ ready ─────────────────▶ draining ──▶ gone
//!     ▲  │ exits                                │ exits                    │
//!     │  ▼                                      ▼                          │ ended by itself
//!     └─ held (its sockets and queue stay; back-off) ◀─────────────────────┘
//!          └── too often before it had run for a while ──▶ failed
//! ```

mod crashes;
mod events;
mod leaving;
mod life;
mod readiness;
#[cfg(test)]
mod tests;

pub use events::{Event, Left, Origin, State, Step};
pub use life::Life;

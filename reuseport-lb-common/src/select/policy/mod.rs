//! Which of the workers that are there gets a connection: one file per policy. Not: who is asked, in which
//! order.

mod first_fit;
mod prefer_waiting;

pub use first_fit::FirstFit;
pub use prefer_waiting::PreferWaiting;

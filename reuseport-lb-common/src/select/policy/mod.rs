//! Which of the workers that are there gets a connection: one file per policy. Not: who is asked, in which
//! order.

mod best;
mod bounded;
mod first_fit;
mod least;
mod prefer_waiting;

pub use bounded::Bounded;
pub use first_fit::FirstFit;
pub use least::Least;
pub use prefer_waiting::PreferWaiting;

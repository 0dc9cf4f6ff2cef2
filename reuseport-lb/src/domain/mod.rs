//! All decisions of the daemon, PURE: values and a time given as an argument go in, values come out. Not: carrying them
//! out (`service/`, `kernel/`). [`engine`] is one service: inputs and a time go in, commands to two [`ports`] come out.

pub mod apart;
pub mod bucket_move;
pub mod buckets;
pub mod cpus;
pub mod denied;
pub mod engine;
pub mod flows;
pub mod foresight;
pub mod health;
pub mod incident;
pub mod incidents;
pub mod judgement;
pub mod listener;
pub mod listeners;
pub mod log_limit;
mod monitor;
pub mod number;
pub mod observed;
pub mod placement;
pub mod pool;
pub mod ports;
pub mod reconfigure;
pub mod rollout;
pub mod slots;
mod startup;
pub mod table;
pub mod tally;

pub mod watchdog;
pub mod whose;
pub mod worker;

/// The way back to a caller that waits for an answer: used once, or never if the service ends before.
pub struct Reply<T>(Box<dyn FnOnce(T)>);

impl<T> Reply<T> {
    /// Makes a reply that calls `tell` with the answer.
    pub fn new(tell: impl FnOnce(T) + 'static) -> Self {
        Self(Box::new(tell))
    }

    /// Answers the caller.
    pub fn send(self, answer: T) {
        (self.0)(answer);
    }
}

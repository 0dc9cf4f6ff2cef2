//! What is decided, PURE: from values and a time given as an argument, to values. Not: how it is done
//! (`service/`), nor how the kernel is told (`kernel/`). [`engine`] is one service: inputs and a time go in, commands to
//! two [`ports`] come out.

pub mod bucket_move;
pub mod buckets;
pub mod denied;
pub mod engine;
pub mod flows;
pub mod health;
pub mod listener;
pub mod listener_move;
pub mod listeners;
mod monitor;
pub mod observed;
pub mod placement;
pub mod pool;
pub mod ports;
pub mod reconfigure;
pub mod rollout;
pub mod slots;
pub mod sparing;
mod startup;
pub mod table;
pub mod watchdog;
pub mod worker;

/// What somebody waits for; told once, or never if the service ends before.
pub struct Reply<T>(Box<dyn FnOnce(T)>);

impl<T> Reply<T> {
    /// Hands the answer on.
    pub fn new(tell: impl FnOnce(T) + 'static) -> Self {
        Self(Box::new(tell))
    }

    /// Gives the answer.
    pub fn send(self, answer: T) {
        (self.0)(answer);
    }
}

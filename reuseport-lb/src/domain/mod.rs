//! What is decided, PURE: from values and a time given as an argument, to values. Not: how it is done
//! (`service/`), nor how the kernel is told (`kernel/`).

pub mod bucket_move;
pub mod health;
pub mod listener;
pub mod listener_move;
pub mod slots;
pub mod sparing;
pub mod table;
pub mod worker;

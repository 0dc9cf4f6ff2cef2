//! Connections and datagrams of the daemon's own, each for one worker whatever the table says: which there are. Not: who
//! makes them.

use crate::shared::Shared;
use crate::slots::MAX_SLOTS;

/// Most of them at once in a group; no two have ports with the same low bits.
pub const DIRECTED: usize = 64;

/// What comes from a port of the loopback address that the daemon has bound: for whom it is. Written by the daemon, read by
/// the program for slow entries, if `attention::DIRECT` is set.
#[repr(C)]
pub struct DirectedPorts([Line; DIRECTED]);

/// One port, and what was decided about it.
#[repr(C)]
struct Line {
    /// The port in the upper half, in host order, and the slot in the lower one; 0: there is none.
    whose: Shared<u32>,
    /// The key of the last decision.
    key: Shared<u32>,
    /// How many decisions there were.
    count: Shared<u32>,
}

impl DirectedPorts {
    /// The slot for what comes from `port`, with `key`, if the daemon has said so.
    #[inline(always)]
    pub fn find(&self, port: u16, key: u32) -> Option<u16> {
        let line = self.line(port);
        let whose = line.whose.get();
        if port == 0 || whose >> 16 != u32::from(port) {
            return None;
        }
        line.key.set(key);
        // Nobody else counts here: there is one packet at a time.
        line.count.set(line.count.get().wrapping_add(1));
        Some(whose as u16 & (MAX_SLOTS as u16 - 1))
    }

    /// Has what comes from `port` go to `slot`, until [`DirectedPorts::clear`]. False if another port is in its place.
    pub fn set(&self, port: u16, slot: u16) -> bool {
        let line = self.line(port);
        if line.whose.get() != 0 {
            return false;
        }
        line.count.set(0);
        line.whose.set(u32::from(port) << 16 | u32::from(slot));
        true
    }

    /// Has what comes from `port` go where the table says.
    pub fn clear(&self, port: u16) {
        self.line(port).whose.set(0);
    }

    /// The key of the last decision about `port` since [`DirectedPorts::set`].
    #[must_use]
    pub fn met(&self, port: u16) -> Option<u32> {
        let line = self.line(port);
        (line.count.get() > 0).then(|| line.key.get())
    }

    #[inline(always)]
    fn line(&self, port: u16) -> &Line {
        &self.0[usize::from(port) & (DIRECTED - 1)]
    }
}

#[cfg(any(test, feature = "model", feature = "user"))]
#[expect(unsafe_code, reason = "says that it is valid when zeroed")]
// SAFETY: all fields are `Shared` integers.
unsafe impl crate::shared::Zeroable for DirectedPorts {}

const _: () = assert!(DIRECTED.is_power_of_two() && MAX_SLOTS <= 1 << 16);

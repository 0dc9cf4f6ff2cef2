//! How the guest's instructions are executed, and what that means for time in the guest.

use std::fmt;
use std::fs::File;
use std::time::Duration;

/// More would need more memory than many machines have.
const MOST_GUESTS: usize = 4;

/// How the guest's instructions are executed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    /// By the processor.
    Kvm,
    /// By QEMU, one after the other; each takes four nanoseconds of the guest's time, about
    /// as long as it really takes. So the guest is a machine with one CPU, whose time does not depend on how busy the
    /// host is; tests that measure time see what they would see on such a machine, and waiting takes
    /// no time of the host.
    Emulated,
}

impl Speed {
    /// The fastest way that may work on this machine, and why KVM does not, if it does not.
    pub(super) fn best() -> (Self, Option<String>) {
        match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(_) => (Self::Kvm, None),
            Err(error) => (Self::Emulated, Some(format!("/dev/kvm: {error}"))),
        }
    }

    /// QEMU's arguments.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            // With `sleep=off`, waiting of the guest takes no time of the host. QEMU 7 does not start a second
            // CPU under `-icount`. Five levels of page tables would cost time, and are not needed.
            Self::Emulated => &[
                "-accel",
                "tcg,tb-size=512",
                "-icount",
                "shift=2,sleep=off",
                "-cpu",
                "max,la57=off",
                "-smp",
                "1",
            ],
        }
    }

    /// How many guests run at once, each with its part of the tests: one that is emulated keeps one CPU busy, and its
    /// time does not depend on the others.
    pub(super) fn guests(self) -> usize {
        match self {
            Self::Kvm => 1,
            Self::Emulated => std::thread::available_parallelism().map_or(1, usize::from).min(MOST_GUESTS),
        }
    }

    /// Time after which a guest that has not begun with the tests does not boot. Short with KVM, which is available
    /// but hangs on some machines.
    pub(super) fn boot(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 20 } else { 600 })
    }

    /// Time after which a guest without a sign of life hangs; it gives one every two seconds of its time.
    pub(super) fn silence(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 30 } else { 300 })
    }

    /// Factor by which the guest is slower than a usual machine; tests multiply their limits by it.
    pub(super) fn slow(self) -> u32 {
        if self == Self::Kvm { 1 } else { 4 }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Kvm { "with KVM" } else { "emulated" })
    }
}

//! What runs the guest's instructions, and what that means for time in it.

use std::fmt;
use std::fs::File;
use std::time::Duration;

/// What runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    /// The processor.
    Kvm,
    /// QEMU, one after the other, each of which takes four nanoseconds of the guest's time, about
    /// what it really takes. So the guest is a machine with one CPU that has no idea how busy the
    /// host is; tests that measure time see what they would see on such a machine, and waiting takes
    /// no time at all.
    Emulated,
}

impl Speed {
    /// The best that may work here; if it is not the best, why.
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
            // With `sleep=off` a guest that waits waits for nothing. QEMU 7 does not start a second
            // CPU under `-icount`. Five levels of page tables cost time and are for nothing here.
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

    /// A guest that does not begin with the tests after so long does not boot. KVM is there and
    /// hangs on some machines, so it is not given much.
    pub(super) fn boot(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 20 } else { 600 })
    }

    /// A guest that gives no sign of life for so long hangs; it gives one every two of its seconds.
    pub(super) fn silence(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 30 } else { 300 })
    }

    /// How much slower the machine of the guest is than one that developers have.
    pub(super) fn slow(self) -> u32 {
        if self == Self::Kvm { 1 } else { 4 }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Kvm { "with KVM" } else { "emulated" })
    }
}

//! Known violations of the rules of `arrows.rs`, each with what will mend it. The lists may only shrink:
//! an entry that is not true any more is refused.

const COMMON: &str = "one structure per file in the common package";
const KIT: &str = "one helper server and a builder for configurations";

/// The file that uses, what it uses, and what will mend it.
pub(super) type Known = (&'static str, &'static str, &'static str);

/// Circles in the common package.
pub(super) const IN_COMMON: &[Known] = &[("counters", "layout", COMMON)];

/// Arrows that a layer forbids, or that close a circle. Of another package, the forbidden path.
pub(super) const ARROWS: &[Known] = &[];

/// Names that more than one public type has.
pub(super) const NAMES: &[(&str, &str)] = &[];

/// Types with too many fields.
pub(super) const LARGE: &[(&str, &str)] = &[];

/// Files of more than 400 lines.
pub(super) const LONG: &[(&str, &str)] = &[
    ("bench/src/report.rs", KIT),
    ("reuseport-lb-common/src/layout.rs", COMMON),
    ("reuseport-lb-common/src/select.rs", COMMON),
    ("testkit/src/matrix.rs", KIT),
    ("tests/tests/chaos.rs", KIT),
    ("tests/tests/doctor.rs", KIT),
    ("tests/tests/faults.rs", KIT),
    ("tests/tests/hostile.rs", KIT),
    ("tests/tests/join.rs", KIT),
    ("tests/tests/next_daemon.rs", KIT),
];

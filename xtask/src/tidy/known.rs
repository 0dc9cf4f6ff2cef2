//! Known violations of the rules of `arrows.rs`, each with what will mend it. The lists may only shrink:
//! an entry that is not true any more is refused.

const COMMON: &str = "one structure per file in the common package";

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
    ("reuseport-lb-common/src/layout.rs", COMMON),
    ("reuseport-lb-common/src/select.rs", COMMON),
];

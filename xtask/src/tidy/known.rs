//! What breaks the rules of `arrows.rs` and is still there, with what will mend it. The lists may only shrink:
//! an entry that is not true any more is refused.

const CLIENT: &str = "reuseport-lb-client: requests, answers and refusals go into a crate of their own";
const COMMON: &str = "one structure per file in the common package";
const ENGINE: &str = "the engine takes the service apart";
const SPLIT: &str = "what both ends need moves down";
const KIT: &str = "one helper server and a builder for configurations";
const WORDS: &str = "the table of words";

/// Who uses, what is used, and the mend.
pub(super) type Known = (&'static str, &'static str, &'static str);

/// Circles in the common package.
pub(super) const IN_COMMON: &[Known] = &[("counters", "layout", COMMON)];

/// Arrows that a layer forbids, or that close a circle. Of other packages, the part that is forbidden.
pub(super) const ARROWS: &[Known] = &[
    ("api::control", "daemon::services", CLIENT),
    ("api::control", "domain::engine::input", CLIENT),
    ("api::control", "domain::engine::rolling", CLIENT),
    ("api::control", "domain::refusal", CLIENT),
    ("api::control", "domain::rollout", CLIENT),
    ("api::control", "service", CLIENT),
    ("api::control", "service::status", CLIENT),
    ("cli", "domain::engine::input", CLIENT),
    ("cli::values", "domain::engine::input", CLIENT),
    ("cmd::doctor", "service::state_file", SPLIT),
    ("cmd::drain", "service::command", CLIENT),
    ("cmd::restart", "service::command", CLIENT),
    ("cmd::scale", "domain::engine::input", CLIENT),
    ("cmd::scale", "service::command", CLIENT),
    ("cmd::trace", "service::trace", CLIENT),
    ("daemon::services", "domain::listener_move", ENGINE),
    ("member", "api::control", CLIENT),
    ("member", "api::join", CLIENT),
    ("service", "api::join", CLIENT),
    ("service", "daemon::services", ENGINE),
    ("service::command", "api::join", CLIENT),
    ("service::status", "service", ENGINE),
];

/// Types of which there are two and more of one name.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("Change", WORDS),
    ("Check", CLIENT),
    ("Command", CLIENT),
    ("Decision", COMMON),
    ("Drain", CLIENT),
    ("Group", CLIENT),
    ("Member", WORDS),
    ("Report", WORDS),
    ("Restart", CLIENT),
    ("Scale", CLIENT),
    ("Service", CLIENT),
    ("State", WORDS),
    ("Status", CLIENT),
    ("Stop", CLIENT),
    ("Table", COMMON),
    ("Weight", CLIENT),
    ("Worker", CLIENT),
];

/// Types with too many fields.
pub(super) const LARGE: &[(&str, &str)] = &[
    ("service::state_file::State", ENGINE),
    ("service::state_file::Worker", ENGINE),
];

/// Files of more than 400 lines.
pub(super) const LONG: &[(&str, &str)] = &[
    ("bench/src/report.rs", KIT),
    ("reuseport-lb-common/src/layout.rs", COMMON),
    ("reuseport-lb-common/src/select.rs", COMMON),
    ("reuseport-lb/src/api/control.rs", CLIENT),
    ("reuseport-lb/src/daemon/services.rs", SPLIT),
    ("reuseport-lb/src/domain/engine/mod.rs", ENGINE),
    ("reuseport-lb/src/service/state_file.rs", ENGINE),
    ("testkit/src/matrix.rs", KIT),
    ("tests/tests/chaos.rs", KIT),
    ("tests/tests/doctor.rs", KIT),
    ("tests/tests/faults.rs", KIT),
    ("tests/tests/hostile.rs", KIT),
    ("tests/tests/join.rs", KIT),
    ("tests/tests/next_daemon.rs", KIT),
];

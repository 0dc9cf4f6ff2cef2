//! What breaks the rules of `arrows.rs` and is still there, with what will mend it. The lists may only shrink:
//! an entry that is not true any more is refused.

const CLIENT: &str = "reuseport-lb-client: requests, answers and refusals go into a crate of their own";
const COMMON: &str = "one structure per file in the common package";
const ENGINE: &str = "the engine takes the service apart";
const KERNEL: &str = "kernel to the bottom";
const SPLIT: &str = "what both ends need moves down";
const WORDS: &str = "the table of words";

/// Who uses, what is used, and the mend.
pub(super) type Known = (&'static str, &'static str, &'static str);

/// Circles in the common package.
pub(super) const IN_COMMON: &[Known] = &[("counters", "layout", COMMON)];

/// Arrows that a layer forbids, or that close a circle. Of other packages, the part that is forbidden.
pub(super) const ARROWS: &[Known] = &[
    ("api::control", "daemon::services", SPLIT),
    ("api::control", "domain::engine::input", SPLIT),
    ("api::control::ask", "daemon::services", SPLIT),
    ("api::control::ask", "service::status", SPLIT),
    ("api::control::progress", "daemon::services", SPLIT),
    ("api::control::progress", "domain::engine::input", SPLIT),
    ("api::control::progress", "service", SPLIT),
    ("api::control::progress", "service::status", SPLIT),
    ("api::control::status", "daemon::services", SPLIT),
    ("api::control::status", "service", SPLIT),
    ("api::control::status", "service::status", SPLIT),
    ("api::control::streams", "daemon::services", SPLIT),
    ("api::control::streams", "domain::engine::rolling", SPLIT),
    ("api::control::streams", "domain::rollout", SPLIT),
    ("cli", "daemon", SPLIT),
    ("cli", "kernel::bpffs", SPLIT),
    ("cli", "kernel::launch", SPLIT),
    ("cli::values", "cli", SPLIT),
    ("cmd::check", "cmd", SPLIT),
    ("cmd::doctor", "cmd", SPLIT),
    ("cmd::doctor", "service::state_file", SPLIT),
    ("cmd::drain", "cmd", SPLIT),
    ("cmd::exec", "cmd", SPLIT),
    ("cmd::exec", "service", SPLIT),
    ("cmd::exec", "service::opening", SPLIT),
    ("cmd::reload", "cmd", SPLIT),
    ("cmd::restart", "cmd", SPLIT),
    ("cmd::scale", "cmd", SPLIT),
    ("cmd::status", "cmd", SPLIT),
    ("cmd::stop", "cmd", SPLIT),
    ("cmd::trace", "cmd", SPLIT),
    ("cmd::weight", "cmd", SPLIT),
    ("config", "kernel::host", SPLIT),
    ("daemon::runtime_dir", "daemon", SPLIT),
    ("daemon::services", "domain::listener_move", ENGINE),
    ("daemon::sockets", "daemon", SPLIT),
    ("kernel::group", "config", KERNEL),
    ("kernel::group", "domain::bucket_move", KERNEL),
    ("kernel::group::flow_counter", "kernel::group", SPLIT),
    ("kernel::launch", "clap", KERNEL),
    ("kernel::launch", "kernel::process", SPLIT),
    ("kernel::marks", "kernel::process", SPLIT),
    ("kernel::options", "kernel::socket", SPLIT),
    ("kernel::output", "logging", KERNEL),
    ("kernel::policy", "config", KERNEL),
    ("kernel::probe", "config", KERNEL),
    ("kernel::probe", "doctor::limits", KERNEL),
    ("kernel::probe", "doctor::system", KERNEL),
    ("service", "api::join", CLIENT),
    ("service", "daemon::services", ENGINE),
    ("service::command", "api::join", CLIENT),
    ("service::status", "service", ENGINE),
];

/// Types of which there are two and more of one name.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("Change", WORDS),
    ("Check", ENGINE),
    ("Decision", COMMON),
    ("Group", ENGINE),
    ("Refusal", ENGINE),
    ("Report", WORDS),
    ("Service", ENGINE),
    ("State", WORDS),
    ("Status", ENGINE),
    ("Table", COMMON),
    ("Worker", ENGINE),
];

/// Types with too many fields.
pub(super) const LARGE: &[(&str, &str)] =
    &[("service::state_file::State", ENGINE), ("service::state_file::Worker", ENGINE)];

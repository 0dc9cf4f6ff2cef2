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
    ("api::control", "daemon::services", CLIENT),
    ("api::control", "domain::engine::input", CLIENT),
    ("api::control", "domain::engine::rolling", CLIENT),
    ("api::control", "domain::refusal", CLIENT),
    ("api::control", "domain::rollout", CLIENT),
    ("api::control", "service", CLIENT),
    ("api::control", "service::status", CLIENT),
    ("cli", "daemon", SPLIT),
    ("cli", "domain::engine::input", CLIENT),
    ("cli", "kernel::bpffs", SPLIT),
    ("cli", "kernel::launch", SPLIT),
    ("cli::values", "cli", SPLIT),
    ("cli::values", "domain::engine::input", CLIENT),
    ("cmd::check", "cmd", SPLIT),
    ("cmd::doctor", "cmd", SPLIT),
    ("cmd::doctor", "service::state_file", SPLIT),
    ("cmd::drain", "cmd", SPLIT),
    ("cmd::drain", "service::command", CLIENT),
    ("cmd::exec", "cmd", SPLIT),
    ("cmd::exec", "service", SPLIT),
    ("cmd::exec", "service::opening", SPLIT),
    ("cmd::reload", "cmd", SPLIT),
    ("cmd::restart", "cmd", SPLIT),
    ("cmd::restart", "service::command", CLIENT),
    ("cmd::scale", "cmd", SPLIT),
    ("cmd::scale", "domain::engine::input", CLIENT),
    ("cmd::scale", "service::command", CLIENT),
    ("cmd::status", "cmd", SPLIT),
    ("cmd::stop", "cmd", SPLIT),
    ("cmd::trace", "cmd", SPLIT),
    ("cmd::trace", "service::trace", CLIENT),
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
    ("Flows", CLIENT),
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
pub(super) const LARGE: &[(&str, &str)] =
    &[("service::state_file::State", ENGINE), ("service::state_file::Worker", ENGINE)];

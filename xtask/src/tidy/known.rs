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
    ("api::control", "service", CLIENT),
    ("api::control", "service::membership", CLIENT),
    ("api::control", "service::reload", CLIENT),
    ("api::control", "service::rollout", CLIENT),
    ("api::control", "service::status", CLIENT),
    ("cli", "daemon", SPLIT),
    ("cli", "kernel::bpffs", SPLIT),
    ("cli", "kernel::launch", SPLIT),
    ("cli", "service::membership", CLIENT),
    ("cli::values", "cli", SPLIT),
    ("cli::values", "service::membership", CLIENT),
    ("cmd::check", "cmd", SPLIT),
    ("cmd::doctor", "cmd", SPLIT),
    ("cmd::doctor", "service::state_file", SPLIT),
    ("cmd::drain", "cmd", SPLIT),
    ("cmd::drain", "service::membership", CLIENT),
    ("cmd::exec", "cmd", SPLIT),
    ("cmd::exec", "service", SPLIT),
    ("cmd::exec", "service::start", SPLIT),
    ("cmd::reload", "cmd", SPLIT),
    ("cmd::restart", "cmd", SPLIT),
    ("cmd::restart", "service::rollout", CLIENT),
    ("cmd::scale", "cmd", SPLIT),
    ("cmd::scale", "service::membership", CLIENT),
    ("cmd::status", "cmd", SPLIT),
    ("cmd::stop", "cmd", SPLIT),
    ("cmd::trace", "cmd", SPLIT),
    ("cmd::trace", "service::trace", CLIENT),
    ("cmd::weight", "cmd", SPLIT),
    ("config", "kernel::host", SPLIT),
    ("daemon::forgotten", "domain::worker", ENGINE),
    ("daemon::runtime_dir", "daemon", SPLIT),
    ("daemon::services", "domain::listener_move", ENGINE),
    ("daemon::sockets", "daemon", SPLIT),
    ("domain::worker::leaving", "domain::worker", SPLIT),
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
    ("service", "daemon::services", ENGINE),
    ("service::attend", "service", ENGINE),
    ("service::command", "api::join", CLIENT),
    ("service::door", "service", ENGINE),
    ("service::door", "service::flows", ENGINE),
    ("service::door", "service::workers", ENGINE),
    ("service::flows", "service", ENGINE),
    ("service::flows", "service::membership", ENGINE),
    ("service::flows", "service::workers", ENGINE),
    ("service::guests", "api::join", CLIENT),
    ("service::membership", "service", ENGINE),
    ("service::membership", "service::workers", ENGINE),
    ("service::reload", "service", ENGINE),
    ("service::reload", "service::rollout", ENGINE),
    ("service::rollout", "service", ENGINE),
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
    ("Place", CLIENT),
    ("Report", WORDS),
    ("Restart", CLIENT),
    ("Scale", CLIENT),
    ("Service", CLIENT),
    ("Signs", WORDS),
    ("State", WORDS),
    ("Status", CLIENT),
    ("Stop", CLIENT),
    ("Table", COMMON),
    ("Weight", CLIENT),
    ("Wish", WORDS),
    ("Worker", CLIENT),
];

/// Types with too many fields.
pub(super) const LARGE: &[(&str, &str)] = &[
    ("domain::worker::Life", ENGINE),
    ("service::Service", ENGINE),
    ("service::state_file::State", ENGINE),
    ("service::state_file::Worker", ENGINE),
    ("service::workers::Worker", ENGINE),
];

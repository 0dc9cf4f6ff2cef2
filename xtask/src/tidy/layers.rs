//! Which layer may use which.

/// The modules of one layer, by the first part of their names.
pub(super) struct Layer {
    pub(super) name: &'static str,
    /// Beginnings of module names that files of the layer may use, besides their own layer and `VALUES`.
    pub(super) uses: &'static [&'static str],
    /// Packages that files of the layer may use; empty: all.
    pub(super) packages: &'static [&'static str],
    /// Beginnings of paths of other packages that files of the layer may not use.
    pub(super) never: &'static [&'static str],
    /// The rule in words, for the error.
    pub(super) rule: &'static str,
}

/// Modules of plain values: every layer may use them, as they use nothing.
pub(super) const VALUES: &[&str] = &[
    "config::choices",
    "config::process",
    "config::stop",
    "daemon::paths",
    "domain::listener",
    "domain::number",
    "domain::observed",
    "domain::judgement",
    "domain::whose",
    "kernel::findings",
    "placeholders",
    "printable",
];

/// Paths that are not pure: they ask the system for something, or change it.
const EFFECTS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
];

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        name: "kernel",
        uses: &[],
        packages: &[],
        never: &["clap", "http_body_util", "hyper", "hyper_util", "toml"],
        rule: "the kernel layer is the bottom: give it plain values, and let it return errors",
    },
    Layer {
        name: "domain",
        uses: &["config"],
        packages: &["reuseport_lb_common", "serde", "std", "thiserror", "tracing", "xxhash_rust"],
        never: EFFECTS,
        rule: "the domain is pure and uses the common package, values of the configuration and itself: \
               give it what it asks for, time included, as an argument",
    },
    Layer {
        name: "config",
        uses: &[],
        packages: &[],
        never: &["aya", "clap", "libc", "nix", "rustix", "socket2", "std::net::ToSocketAddrs", "tokio"],
        rule: "the configuration is text and values: no kernel, no name service",
    },
    Layer {
        name: "doctor",
        uses: &["config"],
        packages: &["reuseport_lb_common", "serde", "std", "thiserror"],
        never: EFFECTS,
        rule: "the doctor judges what others have found out: give it the finding as an argument",
    },
    Layer {
        name: "service",
        uses: &["config", "domain", "kernel", "logging", "offload"],
        packages: &[],
        never: &["clap", "http_body_util", "hyper", "hyper_util"],
        rule: "a service joins domain and kernel, and knows neither HTTP nor who asks it",
    },
    Layer {
        name: "handle",
        uses: &["kernel::host", "offload", "service"],
        packages: &[],
        never: &["clap", "http_body_util", "hyper", "hyper_util"],
        rule: "the handle asks services, in the types of the client package, and knows not for whom",
    },
    Layer {
        name: "api",
        uses: &["config", "handle", "kernel", "offload", "service::joining"],
        packages: &[],
        never: &["aya", "clap"],
        rule: "the API sees requests, answers and a handle, never what a service is made of",
    },
    Layer {
        name: "daemon",
        uses: &["api", "config", "doctor", "handle", "kernel", "logging", "offload", "service"],
        packages: &[],
        never: &["clap"],
        rule: "the daemon joins services and API; only a service joins domain and kernel",
    },
    Layer {
        name: "cli",
        uses: &["config", "kernel::bpffs", "kernel::launch"],
        packages: &[],
        never: &[],
        rule: "the command line is parsed into values, and runs nothing",
    },
    Layer {
        name: "cmd",
        uses: &["api", "cli", "config", "daemon", "doctor", "embedded", "kernel", "logging"],
        packages: &[],
        never: &[],
        rule: "a command asks the daemon, or is it",
    },
    Layer {
        name: "main",
        uses: &["cli", "cmd", "config", "logging"],
        packages: &[],
        never: &[],
        rule: "main parses, runs and exits",
    },
    Layer {
        name: "embedded",
        uses: &["kernel"],
        packages: &[],
        never: &[],
        rule: "a worker's side uses nothing of the daemon",
    },
    Layer {
        name: "logging",
        uses: &["kernel"],
        packages: &[],
        never: &[],
        rule: "all above the kernel layer log, so that logging uses nothing but that",
    },
    Layer {
        name: "offload",
        uses: &[],
        packages: &[],
        never: &[],
        rule: "work for other threads is what its caller says, and uses nobody",
    },
    Layer { name: "crate", uses: &[], packages: &[], never: &[], rule: "the root only declares modules" },
];

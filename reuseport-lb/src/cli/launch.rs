//! What the daemon tells a process that is to become a worker. Only the daemon writes it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::config::process::{Cpus, ProcessConfig};
use crate::kernel::launch::Arguments;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    name: String,
    #[arg(long, value_delimiter = ',')]
    fds: Vec<RawFd>,
    #[arg(long, default_value = "")]
    fd_names: String,
    #[arg(long)]
    nginx: bool,
    #[arg(long)]
    calls: Option<RawFd>,
    #[arg(long)]
    notify: PathBuf,
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    group: Option<String>,
    #[arg(long)]
    cwd: Option<String>,
    #[arg(long)]
    umask: Option<u32>,
    #[arg(long)]
    nice: Option<i32>,
    #[arg(long)]
    open_files: Option<u32>,
    #[arg(long)]
    one_cpu: bool,
    #[arg(long)]
    watchdog: Option<u64>,
    #[arg(last = true)]
    command: Vec<String>,
}

impl From<Options> for Arguments {
    fn from(options: Options) -> Self {
        let Options { name, fds, fd_names, nginx, calls, notify, cgroup, user, watchdog, command, .. } =
            options;
        let process = ProcessConfig {
            group: options.group,
            cwd: options.cwd,
            umask: options.umask,
            nice: options.nice,
            open_files: options.open_files,
            cpus: if options.one_cpu { Cpus::Each } else { Cpus::All },
            ..ProcessConfig::default()
        };
        Self { name, fds, fd_names, nginx, calls, notify, cgroup, user, process, watchdog, command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};

    #[test]
    fn a_child_understands_what_the_daemon_tells_it() {
        let least = Arguments {
            name: "web/2".into(),
            fds: vec![9],
            fd_names: "tcp-8080".into(),
            nginx: true,
            calls: None,
            notify: "/run/x/notify/1".into(),
            cgroup: None,
            user: None,
            process: ProcessConfig::default(),
            watchdog: None,
            command: Vec::new(),
        };
        let whole = Arguments {
            fds: vec![9, 4, 11],
            fd_names: "a:b:c".into(),
            nginx: false,
            calls: Some(9),
            cgroup: Some("/sys/fs/cgroup/x".into()),
            user: Some("nobody".into()),
            process: ProcessConfig {
                group: Some("1001".into()),
                cwd: Some("-a b".into()),
                umask: Some(0o27),
                nice: Some(-20),
                open_files: Some(u32::MAX),
                cpus: Cpus::Each,
                ..ProcessConfig::default()
            },
            watchdog: Some(1_500_000),
            command: ["server", "--name", "-x", "--", "", "a b"].map(String::from).into(),
            ..least.clone()
        };
        for told in [least, whole] {
            let line = ["reuseport-lb".into()].into_iter().chain(told.line());
            let Verb::Launch(options) = Cli::parse(line).unwrap().verb else { panic!("{told:?}") };
            assert_eq!(Arguments::from(options), told);
        }
    }
}

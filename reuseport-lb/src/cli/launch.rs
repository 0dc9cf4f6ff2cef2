//! What the daemon tells a process that is to become a worker. Only the daemon writes it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::kernel::launch::Arguments;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    name: String,
    #[arg(long, value_delimiter = ',')]
    fds: Vec<RawFd>,
    #[arg(long)]
    fd_names: String,
    #[arg(long)]
    notify: PathBuf,
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    watchdog: Option<u64>,
    #[arg(last = true)]
    command: Vec<String>,
}

impl From<Options> for Arguments {
    fn from(options: Options) -> Self {
        let Options { name, fds, fd_names, notify, cgroup, user, watchdog, command } = options;
        Self { name, fds, fd_names, notify, cgroup, user, watchdog, command }
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
            notify: "/run/x/notify/1".into(),
            cgroup: None,
            user: None,
            watchdog: None,
            command: Vec::new(),
        };
        let whole = Arguments {
            fds: vec![9, 4, 11],
            fd_names: "a:b:c".into(),
            cgroup: Some("/sys/fs/cgroup/x".into()),
            user: Some("nobody".into()),
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

//! What a process becomes before it is a worker: its variables, limits, priority, CPU, user and working directory.
//! Not: its sockets and its program (`launch.rs`).

use std::ffi::{CString, OsString};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, initgroups, setgid, setgroups, setuid};
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::host;
use crate::config::process::{Cpus, ProcessConfig};
use crate::domain::observed::User;
use crate::placeholders::{fill, parts};

/// How the daemon gives a process the worker's variables: as its own, with this before their names. Under their own
/// names some would act on the process while it still has the daemon's rights (LD_PRELOAD), and its command line can
/// be read by everybody.
const AS_IS: &str = "REUSEPORT_LB_FILE_";

/// As [`AS_IS`], for variables with placeholders in their values.
const TO_FILL: &str = "REUSEPORT_LB_ENV_";

/// The daemon's side of [`unpack`].
pub(super) fn pack(command: &mut Command, process: &ProcessConfig) {
    let file = process.env_file.iter().flat_map(|file| &file.variables);
    // Those of `env` count, where both have one.
    for (name, value) in file.filter(|(name, _)| !process.env.contains_key(*name)) {
        command.env(format!("{AS_IS}{name}"), value);
    }
    for (name, value) in &process.env {
        command.env(format!("{TO_FILL}{name}"), value);
    }
}

/// Gives `command` the variables that the daemon has given this process for it.
pub(super) fn unpack(command: &mut Command, worker: &str) {
    let pid = std::process::id();
    for (given, value) in std::env::vars_os() {
        let Some(text) = given.to_str() else { continue };
        if let Some(name) = text.strip_prefix(AS_IS) {
            command.env_remove(&given).env(name, value);
        } else if let Some(name) = text.strip_prefix(TO_FILL) {
            let filled = value
                .to_str()
                .map_or_else(|| value.clone(), |value| OsString::from(fill(value, worker, pid)));
            command.env_remove(&given).env(name, filled);
        }
    }
}

/// Sets what takes the rights that the process still has.
pub(super) fn limit(process: &ProcessConfig, worker: &str) -> Result<()> {
    if let Some(nice) = process.nice {
        setpriority_process(None, nice)
            .with_context(|| format!("cannot set nice = {nice} (a negative one needs CAP_SYS_NICE)"))?;
    }
    if process.cpus == Cpus::Each {
        let (_, index) = parts(worker);
        keep_to_one_cpu(index.parse().unwrap_or_default()).context("cannot keep to one CPU")?;
    }
    if let Some(umask) = process.umask {
        rustix::process::umask(rustix::fs::Mode::from_bits_truncate(umask));
    }
    if let Some(files) = process.open_files {
        let limit = Some(u64::from(files));
        setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).with_context(|| {
            format!("cannot set open_files = {files} (above the hard limit it needs CAP_SYS_RESOURCE; the most is fs.nr_open)")
        })?;
    }
    Ok(())
}

/// Numbers of the CPUs that this process and those that it starts may use, in ascending order.
pub fn cpus() -> Result<Vec<usize>> {
    let may = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| may.is_set(*cpu)).collect())
}

/// Keeps this process to the `nth` of the CPUs that it may use, counted around.
fn keep_to_one_cpu(nth: usize) -> Result<()> {
    let cpus = cpus()?;
    let Some(nth) = nth.checked_rem(cpus.len()) else { bail!("there is none") };
    let mut one = CpuSet::new();
    one.set(cpus[nth]);
    Ok(sched_setaffinity(None, &one)?)
}

/// Becomes this user, with `group` as the primary group if given. A user who is not in the password database has no
/// supplementary groups.
pub(super) fn become_user(name: &str, group: Option<&str>) -> Result<User> {
    let user = host::user(name, group)?;
    let change = || -> Result<()> {
        let gid = Gid::from_raw(user.gid);
        if user.is_listed {
            initgroups(&CString::new(&*user.name)?, gid).context("initgroups failed")?;
        } else {
            setgroups(&[]).context("setgroups failed")?;
        }
        setgid(gid).context("setgid failed")?;
        setuid(Uid::from_raw(user.uid)).context("setuid failed")
    };
    change().with_context(|| format!("cannot become user {name:?}"))?;
    Ok(user)
}

/// Tells `command` who its user is, as a login would.
pub(super) fn introduce(command: &mut Command, user: &User) {
    match nix::unistd::User::from_name(&user.name).ok().flatten().filter(|_| user.is_listed) {
        Some(user) => {
            command.env("USER", &user.name).env("LOGNAME", &user.name);
            command.env("HOME", &user.dir).env("SHELL", &user.shell);
        }
        // Those of the daemon's user would be wrong.
        None => {
            for name in ["USER", "LOGNAME", "HOME", "SHELL"] {
                command.env_remove(name);
            }
        }
    }
}

/// Enters the working directory `cwd`, as the worker's user.
pub(super) fn enter(cwd: &str, worker: &str) -> Result<()> {
    let directory = fill(cwd, worker, std::process::id());
    std::env::set_current_dir(&directory)
        .with_context(|| format!("cannot enter the working directory {directory}"))
}

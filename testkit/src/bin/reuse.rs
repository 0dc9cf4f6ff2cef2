//! Process 1 of a PID namespace, for a test: a worker of a daemon that is gone ends while the next daemon stands still, and its
//! process id goes to the leader of another group. Prints what becomes of that one.

#![expect(unsafe_code, reason = "the process with the id in question must be forked at once")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getsid, setsid};
use reuseport_lb_client::control::ControlClient;
use testkit::daemon::{signal, until};

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let config = words.pop().context("usage: reuse PROGRAM --runtime-dir DIRECTORY [OPTION]... CONFIG")?;
    let place = words.iter().position(|word| word == "--runtime-dir").context("no --runtime-dir")?;
    let control = Path::new(&words[place + 1]).join("control.sock");
    let command = |more: &[&str]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(more);
        command
    };
    let start = || -> Result<Child> {
        // What it says is for whoever reads why this has failed.
        Ok(command(&["run", "--config", &config]).stdout(std::io::stderr()).spawn()?)
    };
    let worker = || {
        let status = ControlClient::new(control.clone()).status().ok()?;
        let worker = status.services.into_iter().next()?.workers.into_iter().next()?;
        worker.pid.filter(|_| worker.state == "ready")
    };
    let mut daemon = start()?;
    let first = until("the worker", worker);
    daemon.kill()?;
    daemon.wait()?;
    let mut daemon = start()?;
    ensure!(until("the next daemon", worker) == first, "the next daemon has another worker");
    let pid = daemon.id().cast_signed();
    signal(pid, Signal::SIGSTOP);
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    waitpid(Pid::from_raw(first), None)?;
    fs::write("/proc/sys/kernel/ns_last_pid", (first - 1).to_string())?;
    let other = other()?;
    ensure!(other.as_raw() == first, "the next process is {other}, not {first}");
    until("its group", || (getsid(Some(other)) == Ok(other)).then_some(()));
    signal(pid, Signal::SIGCONT);
    until("a new process of the worker", || worker().filter(|pid| *pid != first));
    ensure!(command(&["stop"]).stdout(std::io::stderr()).status()?.success(), "it cannot be stopped");
    ensure!(daemon.wait()?.success(), "the daemon does not end well");
    let lives = waitpid(other, Some(WaitPidFlag::WNOHANG))? == WaitStatus::StillAlive;
    println!("{}", if lives { "lives" } else { "ended" });
    Ok(())
}

/// The leader of another session, with a child.
fn other() -> Result<Pid> {
    // SAFETY: this process has one thread.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        return Ok(child);
    }
    setsid()?;
    // SAFETY: as above.
    unsafe { fork() }?;
    std::thread::sleep(Duration::from_secs(1000));
    std::process::exit(0);
}

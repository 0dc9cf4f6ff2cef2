//! What `doctor` says of `sockets = "bind"` where it works and where it cannot.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
use nix::mount::{MsFlags, mount};
use rustix::thread::CapabilitySet;
use serde_json::Value;
use testkit::config::Config;
use testkit::daemon::Paths;
use testkit::rights::{ORDINARY, command, needed};
use testkit::world::World;

/// The verdict about `bind`, what is said, and the exit code.
fn bind(world: &World, sockets: &str, prepare: impl FnOnce(&mut Command)) -> (String, String, Option<i32>) {
    let config = Config::web().workers(1).command(&["/bin/true"]).set("sockets", sockets);
    let file = config.write(world).display().to_string();
    let mut doctor = Paths::of(world).command(&["doctor", "--json", "--config", &file]);
    prepare(&mut doctor);
    found(&mut doctor)
}

fn found(doctor: &mut Command) -> (String, String, Option<i32>) {
    let output = doctor.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&said)
        .unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    let checks: Vec<&Value> =
        report["checks"].as_array().unwrap().iter().filter(|one| one["check"] == "bind").collect();
    assert_eq!(checks.len(), 1, "{said}");
    let text = ["says", "means", "mend"].map(|key| checks[0][key].as_str().unwrap_or_default()).join(" | ");
    (checks[0]["verdict"].as_str().unwrap().to_owned(), text, output.status.code())
}

/// What `doctor` finds as an ordinary user with these rights.
fn bind_of(world: &World, rights: CapabilitySet) -> (String, String) {
    let config = Config::web().workers(1).command(&["/bin/true"]).set("sockets", "bind");
    let file = config.write(world).display().to_string();
    let (verdict, said, _) =
        found(&mut command(world, ORDINARY, rights, &["doctor", "--json", "--config", &file]));
    (verdict, said)
}

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

const fn answer(action: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action }
}

/// Puts a filter on the process, as the runtime of a container does.
#[expect(unsafe_code, reason = "a filter is put on between fork and exec")]
fn filtered(command: &mut Command, filter: &'static [sock_filter], flags: libc::c_ulong) {
    let put = move || -> io::Result<()> {
        let program = sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the kernel copies the program.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        if fd > 0 {
            // Who answers is there as long as somebody has this.
            // SAFETY: it takes numbers.
            unsafe { libc::fcntl(fd as i32, libc::F_SETFD, 0) };
        }
        Ok(())
    };
    // SAFETY: system calls only; nothing is allocated.
    unsafe { command.pre_exec(put) };
}

#[test]
fn it_works_here_and_needs_nothing_of_a_service_with_other_sockets() {
    let world = World::new();
    for sockets in ["bind", "pass"] {
        let (verdict, said, code) = bind(&world, sockets, |_| ());
        assert_eq!((verdict.as_str(), code), ("ok", Some(0)), "{said}");
        assert!(
            said.contains("got another socket by its call of bind") && !said.contains("no_new_privs"),
            "{said}"
        );
    }
}

/// As in containers whose runtime answers calls itself.
#[test]
fn a_process_whose_calls_others_answer_already() {
    const PASSES: &[sock_filter] = &[answer(libc::SECCOMP_RET_ALLOW)];
    let world = World::new();
    let in_container =
        |command: &mut Command| filtered(command, PASSES, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    let (verdict, said, code) = bind(&world, "bind", in_container);
    assert_eq!((verdict.as_str(), code), ("failure", Some(1)), "{said}");
    assert!(said.contains("seccomp: EBUSY") && said.contains("do not work here"), "{said}");
    // What nobody needs fails nothing.
    let (verdict, said, code) = bind(&world, "pass", in_container);
    assert_eq!((verdict.as_str(), code), ("ok", Some(0)), "{said}");
    assert!(said.contains("seccomp: EBUSY") && said.contains("no service needs it"), "{said}");
}

/// As in containers whose profile does not know seccomp(2).
#[test]
fn a_process_that_may_put_on_no_filter() {
    const REFUSES: &[sock_filter] = &[
        load(0),
        sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 0, jf: 1, k: libc::SYS_seccomp as u32 },
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let (verdict, said, code) = bind(&World::new(), "bind", |command| filtered(command, REFUSES, 0));
    assert_eq!((verdict.as_str(), code), ("failure", Some(1)), "{said}");
    assert!(said.contains("Operation not permitted") && said.contains("seccomp profile"), "{said}");
}

#[test]
fn an_ordinary_users_daemon() {
    let world = World::new();
    let (verdict, said) = bind_of(&world, needed());
    assert_eq!(verdict, "ok", "{said}");
    assert!(said.contains("it has no_new_privs: setuid programs"), "{said}");
    let (verdict, said) = bind_of(&world, needed() - CapabilitySet::SYS_PTRACE);
    assert_eq!(verdict, "failure", "{said}");
    assert!(said.contains("process_vm_readv") && said.contains("CAP_SYS_PTRACE"), "{said}");
}

/// With `hidepid` only who may trace a process sees it.
#[test]
fn a_proc_file_system_that_hides_processes() {
    let world = World::new();
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), Some("hidepid=2")).unwrap();
    let (verdict, said) = bind_of(&world, needed());
    assert_eq!(verdict, "ok", "{said}");
    let (verdict, said) = bind_of(&world, needed() - CapabilitySet::SYS_PTRACE);
    assert_eq!(verdict, "failure", "{said}");
    assert!(said.contains("hidden in /proc") && said.contains("without `hidepid`"), "{said}");
}

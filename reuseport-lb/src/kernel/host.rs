//! This process and the kernel that it runs on: limits, version, users, files.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Result, bail};
pub use rustix::fs::Access;
use rustix::fs::{AtFlags, CWD, accessat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::rights;
use crate::domain::observed::User;
use crate::printable;

/// Most bytes of a file with a program.
const LARGEST_PROGRAM: u64 = 4 << 20;

/// The kernel's release, like `6.1.0-42-amd64`.
#[must_use]
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The id of this boot of the kernel; empty if it cannot be read.
#[must_use]
pub fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Milliseconds since boot, including those in which the machine slept (CLOCK_BOOTTIME).
#[must_use]
pub fn uptime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or_default()
}

/// The time now, in seconds since 1970.
#[must_use]
pub fn now() -> f64 {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64()
}

/// Name of the program that a process runs (/proc/PID/comm); empty if the process is gone.
#[must_use]
pub fn program_of(pid: i32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
}

/// When the kernel was started, in seconds since 1970.
#[must_use]
pub fn boot_time() -> f64 {
    now() - uptime_ms() as f64 / 1000.0
}

/// The effective user id of this process.
#[must_use]
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this process may access `path` as `what` says, with its effective ids and rights.
pub fn reaches(path: &Path, what: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, what, AtFlags::EACCESS)?)
}

/// Raises the limit of open files to the hard limit; returns the old one, which workers get.
pub fn raise_open_files() -> Rlimit {
    let old = getrlimit(Resource::Nofile);
    // Best effort: with a lower limit fewer workers can be started, and the error of a start says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: old.maximum, maximum: old.maximum });
    old
}

/// Makes malloc return large pieces of memory to the kernel as soon as they are free, from now on: loading a
/// program needs some megabytes for a moment. (M_MMAP_THRESHOLD of mallopt(3), which glibc would raise.) And what
/// one thread has freed the others use: each load has a thread of its own. (M_ARENA_MAX.)
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets numbers within malloc. If malloc refuses them, the process keeps more memory.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the kernel back what is free between pieces of memory that are in use (malloc_trim(3)): after programs were
/// loaded, a megabyte or more.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A random number that cannot be guessed.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes)) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // The standard library hashes with keys that it gets from the kernel.
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
    }
}

/// Looks up a user, by name or number, with `group` as the primary one if given. A number need not be in the password
/// database: then the primary group has this number as well.
pub fn user(name: &str, group: Option<&str>) -> Result<User> {
    use nix::unistd::{Uid, User as Listed};
    let number = number(name);
    let listed = match (Listed::from_name(name)?, number) {
        (None, Some(uid)) => Listed::from_uid(Uid::from_raw(uid))?,
        (listed, _) => listed,
    };
    let is_listed = listed.is_some();
    let (name, uid, gid) = match (listed, number) {
        (Some(user), _) => (user.name, user.uid.as_raw(), user.gid.as_raw()),
        (None, Some(uid)) => (uid.to_string(), uid, uid),
        (None, None) => bail!("there is no user {name:?} on this machine"),
    };
    let gid = group.map_or(Ok(gid), self::group)?;
    Ok(User { name, uid, gid, is_listed })
}

/// The id of a group, by name or number. A number need not be in the group database.
pub fn group(name: &str) -> Result<u32> {
    match (nix::unistd::Group::from_name(name)?, number(name)) {
        (Some(group), _) => Ok(group.gid.as_raw()),
        (None, Some(gid)) => Ok(gid),
        (None, None) => bail!("there is no group {name:?} on this machine"),
    }
}

/// The id that digits stand for; the largest number is none, as the kernel takes it for "no change".
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

/// Fails with one line of text if there is no such user ([`user`]).
pub fn find_user(name: &str) -> Result<(), String> {
    user(name, None).map(drop).map_err(|error| format!("{error:#}"))
}

/// Fails with one line of text if there is no such group ([`group`]).
pub fn find_group(name: &str) -> Result<(), String> {
    group(name).map(drop).map_err(|error| format!("{error:#}"))
}

/// The text of a file, with the rights that the daemon keeps (root's to read any file is not among them), so that a
/// reload can read what the start has read. Fails with one line of text.
pub fn read_text(path: &Path) -> Result<String, String> {
    read_as_daemon(path, || fs::read_to_string(path))
}

/// Reads a file with the rights that the daemon keeps; one line of text says why that failed.
fn read_as_daemon<T>(path: &Path, read: impl FnOnce() -> io::Result<T>) -> Result<T, String> {
    let read = rights::as_daemon(read).map_err(|error| format!("{error:#}"))?;
    read.map_err(|error| {
        let mend = if error.kind() == io::ErrorKind::PermissionDenied {
            "; the daemon gives up root's right to read any file, so it must be the daemon's user's, or readable for others"
        } else {
            ""
        };
        format!("cannot read {}: {error}{mend}", printable::path(path))
    })
}

/// The content of a file of root's that nobody else can change, such as code. Fails with one line of text.
pub fn read_of_root(path: &Path) -> Result<Vec<u8>, String> {
    let shown = printable::path(path);
    let (about, content) = read_as_daemon(path, || {
        // Not a FIFO, on which opening would wait.
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let about = file.metadata()?;
        let mut content = Vec::new();
        if about.is_file() && about.len() <= LARGEST_PROGRAM {
            file.read_to_end(&mut content)?;
        }
        Ok((about, content))
    })?;
    if !about.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    if about.uid() != 0 {
        return Err(format!(
            "{shown} belongs to user {}, who could change it: `chown root {shown}`",
            about.uid()
        ));
    }
    if about.mode() & 0o022 != 0 {
        return Err(format!("others than root can write to {shown}: `chmod go-w {shown}`"));
    }
    if about.len() > LARGEST_PROGRAM {
        return Err(format!("{shown} has {} bytes, more than {LARGEST_PROGRAM}", about.len()));
    }
    Ok(content)
}

/// Makes a directory with this mode, whatever the umask is, and missing ones above it with mode 755. A directory
/// that exists gets the mode.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty() && !above.exists()) {
        make_directory(above, 0o755)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Device and inode: identify a file whatever its path is.
pub type Inode = (u64, u64);

/// Identity of the file that `about` describes.
#[must_use]
pub fn inode(about: &Metadata) -> Inode {
    (about.dev(), about.ino())
}

/// Identity of the file at `path`, if there is one; of a link itself.
#[must_use]
pub fn inode_at(path: &Path) -> Option<Inode> {
    fs::symlink_metadata(path).ok().map(|about| inode(&about))
}

/// Whether the file at `path` is the one that was `made` there.
#[must_use]
pub fn is_there(path: &Path, made: Option<Inode>) -> bool {
    made.is_some() && inode_at(path) == made
}

/// Puts a file that only its owner may read at `path`, whole or not at all; until then it is at `path` with the extension
/// `new`.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    File::options().write(true).create_new(true).mode(0o600).open(&new)?.write_all(content)?;
    fs::rename(&new, path)
}

/// Removes the file at `path` if it is a socket.
pub fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
}

/// Runs `act` with the file creation mask `mask`, which holds for the whole process until it returns.
pub fn with_umask<T>(mask: u32, act: impl FnOnce() -> T) -> T {
    let old = rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
    let made = act();
    rustix::process::umask(old);
    made
}

/// Gives signals that the daemon needs their default effect and blocks none, whatever was inherited: the ends of
/// children are known (SIGCHLD), and the daemon can be ended.
pub fn expect_signals() {
    for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        reset_signals(signal..=signal);
    }
}

/// Gives `signals` their default effect, and blocks no signal at all. Async-signal-safe.
pub(super) fn reset_signals(signals: RangeInclusive<i32>) {
    for signal in signals {
        // SAFETY: no handler is installed; the default effect is restored. Numbers that are no signals, or
        // cannot be changed, are refused.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, which outlives both calls.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Makes this process ignore SIGHUP, which asks servers to read their files again.
pub(super) fn ignore_hangup() {
    // SAFETY: no handler is installed.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
}

/// Makes this process ignore what asks processes to end, and writes without a reader.
pub(super) fn ignore_ends() {
    let asks = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGPIPE];
    let others = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGTSTP, libc::SIGTTOU, libc::SIGTTIN];
    for signal in asks.into_iter().chain(others) {
        // SAFETY: no handler is installed.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Lets a descriptor stay open at exec. May be called between fork and exec.
pub(super) fn keep_at_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on a number changes a flag of a descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes all descriptors from `first` on. For a process that has just started, or is about to execute another program:
/// no value may own any of them.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    // musl has no function for it.
    // SAFETY: closes descriptors; all are inherited, and none has an owner here.
    match unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a terminal that is standard output or error again for writing only: workers inherit it, and must not
/// read what is typed there. Best effort: the owner of the terminal may not allow it.
pub fn only_write_to_terminal() {
    use std::os::fd::AsRawFd;
    let open = |fd: i32| {
        let mut options = File::options();
        options.write(true).custom_flags(libc::O_NOCTTY);
        options.open(format!("/proc/self/fd/{fd}"))
    };
    if io::stdout().is_terminal()
        && let Ok(terminal) = open(io::stdout().as_raw_fd())
    {
        let _ = nix::unistd::dup2_stdout(terminal);
    }
    if io::stderr().is_terminal()
        && let Ok(terminal) = open(io::stderr().as_raw_fd())
    {
        let _ = nix::unistd::dup2_stderr(terminal);
    }
}

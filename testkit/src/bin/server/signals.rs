//! Signals that a server does not just die of.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::flags::{Flags, Term};

/// Those that its loop hears.
pub(crate) struct Signals {
    fd: SignalFd,
    any: bool,
}

impl Signals {
    /// Arranges what the flags say. Threads that are started later hear none of them.
    pub(crate) fn arrange(flags: &Flags) -> Result<Self> {
        let mut heard = SigSet::empty();
        match flags.term {
            Term::Die => {}
            // SAFETY: ignoring a signal calls nothing.
            Term::Ignore => drop(unsafe { nix::sys::signal::signal(Signal::SIGTERM, SigHandler::SigIgn) }?),
            Term::Polite | Term::Abrupt | Term::Leave | Term::Note => heard.add(Signal::SIGTERM),
        }
        if flags.deeds.is_some() {
            heard.add(Signal::SIGUSR1);
        }
        if flags.upgrade {
            heard.add(Signal::SIGUSR2);
        }
        if let Some(place) = &flags.compute {
            compute_at_usr1(place, &flags.name())?;
        }
        heard.thread_block()?;
        let fd = SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, any: heard != SigSet::empty() })
    }

    /// Whether there is anything to be heard.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// The next one, if one has come.
    pub(crate) fn next(&self) -> Option<Signal> {
        let heard = self.fd.read_signal().ok()??;
        i32::try_from(heard.ssi_signo).ok()?.try_into().ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The file that is made, the directory, and the file that ends it.
static COMPUTE: OnceLock<[CString; 3]> = OnceLock::new();

fn compute_at_usr1(place: &Path, name: &str) -> Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let files = [place.join(name.replace('/', "-")), place.to_owned(), place.join("enough")];
    let [made, directory, enough] = files.each_ref().map(|it| path(it));
    let _ = COMPUTE.set([made?, directory?, enough?]);
    let action = SigAction::new(SigHandler::Handler(compute), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only calls what may be called in one (signal-safety(7)).
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    Ok(())
}

/// Wherever the process waits: it does nothing else until it may. A test that fails says nothing, and takes its files with it.
extern "C" fn compute(_: libc::c_int) {
    let Some([made, directory, enough]) = COMPUTE.get() else { return };
    // SAFETY: paths that live as long as the process; open(2), close(2) and access(2) are safe in a handler.
    unsafe {
        libc::close(libc::open(made.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o644));
        while libc::access(directory.as_ptr(), libc::F_OK) == 0
            && libc::access(enough.as_ptr(), libc::F_OK) != 0
        {}
    }
}

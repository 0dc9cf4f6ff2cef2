//! Standard error as a keeper writes it: never waiting for whoever reads it. What is open there is shared with other
//! processes, which may rely on writes that wait, so it is left as it is.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::net::{SendFlags, send};

/// Standard error.
pub(super) enum Sink {
    /// A pipe or terminal, opened once more for this process.
    Own(File),
    /// A socket, which can be told for each write that it shall not wait.
    Socket,
    /// A file, which has no reader to wait for.
    File,
    /// What could not be opened once more: a write waits if others take the room between the look and the write.
    Shared,
}

impl Sink {
    pub(super) fn open() -> Self {
        let kind = fstat(io::stderr()).map(|about| FileType::from_raw_mode(about.st_mode));
        match kind {
            Ok(FileType::Socket) => Self::Socket,
            Ok(FileType::RegularFile | FileType::BlockDevice) => Self::File,
            _ => {
                use std::os::unix::fs::OpenOptionsExt;
                let mut options = File::options();
                options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                options.open("/proc/self/fd/2").map_or(Self::Shared, Self::Own)
            }
        }
    }

    /// Writes as much as there is room for at once; [`io::ErrorKind::WouldBlock`] if there is none.
    pub(super) fn write(&self, lines: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(file) => (&*file).write(lines),
            Self::Socket => Ok(send(io::stderr(), lines, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
            Self::File => Ok(rustix::io::write(io::stderr(), lines)?),
            Self::Shared => {
                let stderr = io::stderr();
                let mut room = [PollFd::new(&stderr, PollFlags::OUT)];
                match poll(&mut room, Some(&Timespec::default()))? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(rustix::io::write(&stderr, lines)?),
                }
            }
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(file) => file.as_fd(),
            // SAFETY: nothing closes the standard error of a keeper.
            _ => unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) },
        }
    }
}

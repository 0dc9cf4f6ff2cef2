//! A log file of a worker: appended to, renamed when it is full, and opened again when somebody else has renamed it.
//! Several processes may write the same file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memchr::memchr;
use rustix::fs::{FlockOperation, flock};

use crate::config::process::LogFile;
use crate::kernel::host::{Inode, inode};

/// Mode of new files.
const MODE: u32 = 0o640;

/// Its length, and what happens when it is full.
#[derive(Clone, Copy, Debug)]
struct Size {
    most: u64,
    now: u64,
}

impl Size {
    /// How many of these lines still fit. A line that is longer than the file may be fits into an empty one.
    fn fitting(&self, lines: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(end) = memchr(b'\n', &lines[taken..]) {
            let next = taken + end + 1;
            if self.now + next as u64 > self.most && self.now + taken as u64 > 0 {
                return taken;
            }
            taken = next;
        }
        // A line that has not ended goes where it begins.
        if self.now + lines.len() as u64 > self.most && self.now + taken as u64 > 0 {
            taken
        } else {
            lines.len()
        }
    }
}

/// A log file.
pub(super) struct Log {
    path: PathBuf,
    most: u64,
    keep: u32,
    open: Option<(File, Inode)>,
    /// The last line that was written has not ended: the rest belongs into the same file.
    within: bool,
}

impl Log {
    pub(super) fn new(LogFile { path, max, keep }: &LogFile) -> Self {
        Self { path: path.into(), most: *max, keep: *keep, open: None, within: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `lines`, of which the last may go on in the next call. After an error, `written` of their bytes are in
    /// the file.
    pub(super) fn write(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        *written = 0;
        if self.within {
            let rest = memchr(b'\n', lines).map_or(lines.len(), |end| end + 1);
            self.append(&lines[..rest], written)?;
        }
        while *written < lines.len() {
            let now = self.current()?;
            let fits = Size { most: self.most, now }.fitting(&lines[*written..]);
            if fits == 0 {
                // If another process holds the lock, it is doing the same.
                if !self.rotate()? {
                    let rest =
                        memchr(b'\n', &lines[*written..]).map_or(lines.len(), |end| *written + end + 1);
                    self.append(&lines[*written..rest], written)?;
                }
                continue;
            }
            let end = *written + fits;
            self.append(&lines[*written..end], written)?;
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        let mut rest = lines;
        while !rest.is_empty() {
            let Some((file, _)) = &mut self.open else {
                self.current()?;
                continue;
            };
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => {
                    *written += more;
                    self.within = rest[more - 1] != b'\n';
                    rest = &rest[more..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens the file that is at the path now, unless it is open; returns its length.
    fn current(&mut self) -> io::Result<u64> {
        let there = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            found => found.ok(),
        };
        if let (Some((_, open)), Some(there)) = (&self.open, &there)
            && *open == inode(there)
        {
            return Ok(there.len());
        }
        self.open = None;
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(MODE).custom_flags(flags).open(&self.path);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::other("it is a symbolic link: name the file itself"),
            _ => error,
        })?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        self.open = Some((file, inode(&about)));
        Ok(about.len())
    }

    /// Renames the files, so that the next line begins a new one; false if another process has the lock.
    fn rotate(&mut self) -> io::Result<bool> {
        let Some((file, open)) = self.open.take() else { return Ok(true) };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            self.open = Some((file, open));
            return Ok(false);
        }
        // Another process may have renamed it before this one had the lock.
        if !fs::symlink_metadata(&self.path).is_ok_and(|there| inode(&there) == open) {
            return Ok(true);
        }
        let mut beyond = self.keep + 1;
        while fs::remove_file(self.old(beyond)).is_ok() {
            beyond += 1;
        }
        for number in (1..self.keep).rev() {
            match fs::rename(self.old(number), self.old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, self.old(1))?,
        }
        // `file` is closed, and with it the lock given back, when the path is free.
        Ok(true)
    }

    /// The path of an older file: `web.log.1` is the newest of them.
    fn old(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn log(directory: &Path, max: u64, keep: u32) -> Log {
        Log::new(&LogFile { path: directory.join("log").to_str().unwrap().into(), max, keep })
    }

    fn write(log: &mut Log, lines: &str) {
        let mut written = 0;
        log.write(lines.as_bytes(), &mut written).unwrap();
        assert_eq!(written, lines.len());
    }

    /// The files, the current one first.
    fn files(log: &Log) -> Vec<String> {
        let all = [log.path.clone()].into_iter().chain((1..9).map(|number| log.old(number)));
        all.map_while(|path| fs::read_to_string(path).ok()).collect()
    }

    #[test]
    fn a_full_file_is_renamed_at_the_end_of_a_line_and_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut it = log(directory.path(), 8, 2);
        write(&mut it, "aaa\nbbb\n");
        assert_eq!(files(&it), ["aaa\nbbb\n"]);
        write(&mut it, "c\nddd\neeeeeeeeeee\nf\n");
        assert_eq!(files(&it), ["f\n", "eeeeeeeeeee\n", "c\nddd\n"]);
        // A line that comes in parts stays together.
        write(&mut it, "gg");
        write(&mut it, "gggggg");
        write(&mut it, "g\nh\n");
        assert_eq!(files(&it), ["h\n", "f\nggggggggg\n", "eeeeeeeeeee\n"]);
        // The next process goes on with what is there, and with fewer files.
        let mut next = log(directory.path(), 8, 1);
        write(&mut next, "iiiiii\n");
        assert_eq!(files(&it), ["iiiiii\n", "h\n"]);
        let mut none = log(directory.path(), 8, 0);
        write(&mut none, "j\n");
        assert_eq!(files(&it), ["j\n"]);
        assert_eq!(fs::metadata(&it.path).unwrap().permissions().mode() & 0o777 & !MODE, 0);
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut it = log(directory.path(), 100, 1);
        write(&mut it, "a\n");
        fs::rename(&it.path, directory.path().join("moved")).unwrap();
        write(&mut it, "b\n");
        fs::remove_file(&it.path).unwrap();
        write(&mut it, "c\n");
        assert_eq!(files(&it), ["c\n"]);
        assert_eq!(fs::read_to_string(directory.path().join("moved")).unwrap(), "a\n");
    }

    #[test]
    fn two_that_share_a_file_lose_nothing_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let all = std::thread::scope(|scope| {
            for name in ["x", "y"] {
                let mut it = log(directory.path(), 200, 1000);
                scope.spawn(move || (0..500).for_each(|n| write(&mut it, &format!("{name} {n}\n"))));
            }
            log(directory.path(), 1, 0)
        });
        let all = [all.path.clone()].into_iter().chain((1..).map(|number| all.old(number)));
        let text: Vec<String> = all.map_while(|path| fs::read_to_string(path).ok()).collect();
        let mut lines: Vec<&str> = text.iter().flat_map(|text| text.lines()).collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 1000);
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut it = log(directory.path(), 100, 1);
        std::os::unix::fs::symlink("/dev/null", &it.path).unwrap();
        let mut refused = || it.write(b"a\n", &mut 1).unwrap_err().to_string();
        assert!(refused().contains("symbolic link"));
        fs::remove_file(directory.path().join("log")).unwrap();
        fs::create_dir(directory.path().join("log")).unwrap();
        assert!(refused().contains("directory"), "{}", refused());
    }
}

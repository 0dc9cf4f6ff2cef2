//! The output of a worker: its standard output and error are a file in memory, which the daemon reads. Not a
//! pipe: the worker outlives the daemon, and would block or die as the writer of a pipe without a reader.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, SeekFrom, fallocate, fcntl_setfl, memfd_create};

/// Name of the file in /proc/PID/fd.
const NAME: &str = "reuseport-lb-output";

/// How many of the last lines are remembered.
const LINES: usize = 10;

/// Bytes of a remembered line; the rest is cut off.
const LONGEST: usize = 400;

/// Bytes of one read.
const PIECE: usize = 64 << 10;

/// Bytes that one call of [`Output::forward`] passes on, so that other tasks get their turn.
const AT_ONCE: u64 = 1 << 20;

/// Bytes that may wait to be passed on. Of more, which workers write while no daemon runs or it hangs, all but the last
/// [`KEPT`] are dropped: passing them on would take minutes.
const MOST: u64 = 32 << 20;

/// Bytes that are kept of more than [`MOST`].
const KEPT: u64 = 4 << 20;

/// Bytes of dropped output that one call of [`Output::forward`] frees, so that other tasks get their turn.
const FREED_AT_ONCE: u64 = 64 << 20;

/// Where the output of workers is passed on to.
pub trait OutputSink {
    /// Whether the sink has room for `bytes` more bytes.
    fn has_room(&self, bytes: usize) -> bool;
    /// Takes `bytes`, whether there is room or not.
    fn put(&self, bytes: &[u8]);
}

/// The output of one worker's process, from the file in memory that it writes.
pub struct Output {
    file: File,
    read: u64,
    /// Bytes before this position are dropped unread.
    keep_from: u64,
    dropped: u64,
    buffer: Vec<u8>,
    lines: VecDeque<String>,
    pending: Vec<u8>,
}

impl Output {
    /// Makes an empty file for a new process.
    pub fn new() -> Result<Self> {
        let file = memfd_create(NAME, MemfdFlags::CLOEXEC).context("cannot make a file in memory")?;
        // Several processes may write; each line goes to the end.
        fcntl_setfl(&file, OFlags::APPEND).context("cannot append to a file in memory")?;
        Ok(Self::of(file.into(), 0))
    }

    /// Goes on with the file that an earlier daemon made, by its `descriptor` in the worker's process; `None` if
    /// that is another file.
    #[must_use]
    pub fn resume(descriptor: OwnedFd) -> Option<Self> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
        if !link.to_str()?.starts_with(&format!("/memfd:{NAME}")) {
            return None;
        }
        let file = File::from(descriptor);
        // What was read is a hole. Seeking disturbs no writer: writers append.
        let read = rustix::fs::seek(&file, SeekFrom::Data(0)).ok();
        let size = file.metadata().map_or(0, |about| about.len());
        Some(Self::of(file, read.unwrap_or(size)))
    }

    fn of(file: File, read: u64) -> Self {
        Self {
            file,
            read,
            keep_from: 0,
            dropped: 0,
            buffer: vec![0; PIECE],
            lines: VecDeque::new(),
            pending: Vec::new(),
        }
    }

    /// The file as standard output or error of a process that is about to be started.
    pub fn stdio(&self) -> Result<Stdio> {
        Ok(self.file.try_clone().context("cannot share a file in memory")?.into())
    }

    /// Passes on to `sink` what was written since the last time; false if there is more. The memory of what was
    /// read is freed by a hole in the file; the file is not made shorter, because its process may be writing at its
    /// end. What `sink` has no room for waits, unless it is the `last` time.
    pub fn forward(&mut self, sink: &impl OutputSink, last: bool) -> bool {
        let size = self.file.metadata().map_or(0, |about| about.len());
        if size.saturating_sub(self.read.max(self.keep_from)) > MOST {
            self.dropped += size - KEPT - self.read.max(self.keep_from);
            self.keep_from = size - KEPT;
        }
        if self.read < self.keep_from {
            let piece = FREED_AT_ONCE.min(self.keep_from - self.read);
            self.free(piece);
            self.pending.clear();
            return false;
        }
        let turn_ends = self.read + AT_ONCE;
        while self.read < size && self.read < turn_ends && (last || sink.has_room(PIECE)) {
            // Not by seeking: the file's position is shared with its writers.
            let Ok(length @ 1..) = self.file.read_at(&mut self.buffer, self.read) else { break };
            self.free(length as u64);
            let read = std::mem::take(&mut self.buffer);
            self.pass_on(sink, &read[..length]);
            self.buffer = read;
        }
        self.read >= size
    }

    fn free(&mut self, length: u64) {
        let free = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If the kernel refuses this, memory stays in use, and nothing else.
        let _ = fallocate(&self.file, free, self.read, length);
        self.read += length;
    }

    /// How many bytes have been dropped since the last call, because more than `MOST` waited.
    pub fn dropped(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.dropped)).filter(|bytes| *bytes > 0)
    }

    fn pass_on(&mut self, sink: &impl OutputSink, new: &[u8]) {
        // What an earlier daemon has read is a hole, which reads as zeros.
        let new = &new[new.iter().position(|byte| *byte != 0).unwrap_or(new.len())..];
        sink.put(new);
        let mut rest = new;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let room = LONGEST.saturating_sub(self.pending.len()).min(end);
            self.pending.extend_from_slice(&rest[..room]);
            let line = std::mem::take(&mut self.pending);
            self.remember(&line);
            rest = &rest[end + 1..];
        }
        let room = LONGEST.saturating_sub(self.pending.len()).min(rest.len());
        self.pending.extend_from_slice(&rest[..room]);
    }

    fn remember(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
        // A worker's output must not control the terminal on which it is shown.
        let text: String = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.lines.push_back(text);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    /// The last `LINES` lines, without control characters.
    #[must_use]
    pub fn last_lines(mut self) -> Vec<String> {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.remember(&rest);
        }
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl OutputSink for Nowhere {
        fn has_room(&self, _: usize) -> bool {
            true
        }

        fn put(&self, _: &[u8]) {}
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut output = Output::new().unwrap();
        let script = "i=0; while [ $i -lt 20 ]; do echo line $i >&2; i=$((i+1)); done; printf end";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).stdout(output.stdio().unwrap()).stderr(output.stdio().unwrap());
        assert!(command.status().unwrap().success());
        assert!(output.forward(&Nowhere, false));
        let lines = output.last_lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("end"));
        assert_eq!(lines[0], "line 11");
    }

    #[test]
    fn of_far_too_much_the_end_is_kept() {
        let output = Output::new().unwrap();
        let mut writer = output.file.try_clone().unwrap();
        let much = vec![0; 1 << 20];
        for _ in 0..100 {
            std::io::Write::write_all(&mut writer, &much).unwrap();
        }
        let mut next = Output::resume(output.file.try_clone().unwrap().into()).unwrap();
        let mut turns = 0;
        while !next.forward(&Nowhere, false) {
            turns += 1;
        }
        assert!(turns <= 2 + KEPT / AT_ONCE, "{turns}");
        assert_eq!(next.dropped(), Some((100 << 20) - KEPT));
        assert_eq!(next.dropped(), None);
        std::io::Write::write_all(&mut writer, b"the end").unwrap();
        assert!(next.forward(&Nowhere, false));
        use std::os::unix::fs::MetadataExt;
        assert!(next.file.metadata().unwrap().blocks() * 512 <= 2 * PIECE as u64);
        assert_eq!(next.last_lines().last().map(String::as_str), Some("the end"));
    }

    #[test]
    fn nothing_is_lost_of_a_burst_and_its_memory_is_free_afterwards() {
        let mut output = Output::new().unwrap();
        let mut writer = output.file.try_clone().unwrap();
        let burst = vec![0; 5 << 20];
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| std::io::Write::write_all(&mut writer, &burst).unwrap());
            let mut turns = 0;
            while !writing.is_finished() || !output.forward(&Nowhere, false) {
                turns += 1;
                assert!(turns < 100_000_000);
            }
        });
        assert!(output.forward(&Nowhere, false));
        assert_eq!(output.read, burst.len() as u64);
        use std::os::unix::fs::MetadataExt;
        assert!(output.file.metadata().unwrap().blocks() * 512 <= 2 * PIECE as u64);
        std::io::Write::write_all(&mut output.file.try_clone().unwrap(), b"the end").unwrap();
        // The next daemon goes on where this one stopped.
        let mut next = Output::resume(output.file.try_clone().unwrap().into()).unwrap();
        assert!(next.read + 4096 >= output.read);
        assert!(next.forward(&Nowhere, false));
        assert_eq!(next.last_lines().last().map(String::as_str), Some("the end"));
    }
}

//! What a worker writes, kept: a file in memory that is its standard output and error. Not a pipe,
//! whose writer would block or die without a reader; the worker outlives the daemon.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};

/// What it is called in /proc.
const NAME: &str = "reuseport-lb-output";

/// So many of the last lines are remembered.
const LINES: usize = 10;

/// Longer lines are cut.
const LONGEST: usize = 400;

/// At this size, in bytes, the file starts anew.
const LARGE: u64 = 1 << 20;

/// The output of one process.
pub struct Output {
    file: File,
    read: u64,
    lines: VecDeque<String>,
    pending: Vec<u8>,
}

impl Output {
    /// Empty.
    pub fn new() -> Result<Self> {
        let file = memfd_create(NAME, MemfdFlags::CLOEXEC).context("cannot make a file in memory")?;
        // Several processes may write; each line goes to the end.
        fcntl_setfl(&file, OFlags::APPEND).context("cannot append to a file in memory")?;
        Ok(Self { file: file.into(), read: 0, lines: VecDeque::new(), pending: Vec::new() })
    }

    /// What an earlier daemon kept, from `descriptor` of a process; `None` if that is something else.
    #[must_use]
    pub fn resume(descriptor: OwnedFd) -> Option<Self> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
        link.to_str()?.starts_with(&format!("/memfd:{NAME}")).then(|| Self {
            file: descriptor.into(),
            read: 0,
            lines: VecDeque::new(),
            pending: Vec::new(),
        })
    }

    /// For a process that is about to be started.
    pub fn stdio(&self) -> Result<Stdio> {
        Ok(self.file.try_clone().context("cannot share a file in memory")?.into())
    }

    /// Passes on to our standard error what was written since the last time.
    pub fn forward(&mut self) {
        let size = self.file.metadata().map_or(0, |about| about.len());
        let mut new = vec![0; size.saturating_sub(self.read).min(LARGE) as usize];
        // Not by seeking: the position is the writers' as well.
        let length = self.file.read_at(&mut new, self.read).unwrap_or_default();
        new.truncate(length);
        self.read += new.len() as u64;
        if self.read >= LARGE && self.file.set_len(0).is_ok() {
            self.read = 0;
        }
        // There is nowhere to complain if our own standard error is gone.
        let _ = std::io::stderr().write_all(&new);
        self.pending.extend(new);
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.remember(&line);
        }
        let excess = self.pending.len().saturating_sub(LONGEST);
        self.pending.drain(..excess);
    }

    fn remember(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
        // Nobody's terminal is to be steered from here.
        let text: String = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.lines.push_back(text);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    /// The last lines.
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

    #[test]
    fn the_last_lines_are_kept() {
        let mut output = Output::new().unwrap();
        let script = "i=0; while [ $i -lt 20 ]; do echo line $i >&2; i=$((i+1)); done; printf end";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).stdout(output.stdio().unwrap()).stderr(output.stdio().unwrap());
        assert!(command.status().unwrap().success());
        output.forward();
        let lines = output.last_lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("end"));
        assert_eq!(lines[0], "line 11");
    }
}

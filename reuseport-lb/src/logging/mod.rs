//! Logging to standard error. In the daemon, a thread writes lines from a bounded queue, so that a pipe without a
//! reader, a full disk or a stopped terminal never hold the daemon up, nor end it. Lines that the queue has no room
//! for are dropped and counted, and their number is written when there is room again.

mod format;

use std::borrow::Cow;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::mem::take;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use crate::kernel::output::AT_ONCE;
use crate::kernel::rights;
use crate::printable::log_line;
use format::{ERROR, OneLine, Prioritized, WARNING, is_journal};
pub use format::{is_json, use_format};

/// Most bytes in the queue; as many again may be in the writing thread.
const ROOM: usize = 1 << 20;

/// How long the end of the daemon waits for the queue to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Interval between attempts to write the number of dropped lines. A write that would block is tried again after a
/// hundredth of it.
const AGAIN: Duration = Duration::from_secs(1);

static DAEMON: OnceLock<Queue> = OnceLock::new();

/// Lines that wait to be written.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    /// Number of dropped lines that was not written yet.
    dropped: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the queue, or drops it.
    fn put(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() <= ROOM {
            state.waiting.extend_from_slice(line);
        } else {
            state.dropped += lines(line);
        }
        self.changed.notify_all();
    }

    /// Waits for lines and writes them, after the number of dropped ones.
    fn write_next(&self, out: &mut impl Write) {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            let (woken, waited) =
                self.changed.wait_timeout(state, AGAIN).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if waited.timed_out() && state.dropped > 0 {
                break;
            }
        }
        let (waiting, dropped) = (take(&mut state.waiting), take(&mut state.dropped));
        state.writing = true;
        drop(state);
        let mut text = match dropped {
            0 => Vec::new(),
            n => {
                let priority = if is_journal() { WARNING } else { "" };
                let said = format!("{n} lines were dropped here: standard error did not take them");
                let said = match is_json() {
                    true => log_line(SystemTime::now(), "WARN", &said, &[]),
                    false => said + "\n",
                };
                (priority.to_owned() + &said).into_bytes()
            }
        };
        let notice = text.len();
        text.extend(waiting);
        let written = write(out, &text);
        let mut state = self.lock();
        state.writing = false;
        state.dropped += if written < notice { dropped } else { 0 };
        state.dropped += lines(&text[written.max(notice)..]);
        self.changed.notify_all();
    }

    /// Waits until the queue is written, at most for [`LAST_WORDS`].
    fn flush(&self) {
        let begun = Instant::now();
        let mut state = self.lock();
        while state.writing || !state.waiting.is_empty() {
            let Some(left) = LAST_WORDS.checked_sub(begun.elapsed()) else { return };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Writes `text`; returns how many bytes were written before an error. So many lines at once that they stay whole among
/// the lines of others who write into the same pipe.
fn write(out: &mut impl Write, text: &[u8]) -> usize {
    let mut at = 0;
    while at < text.len() {
        let most = &text[at..text.len().min(at + AT_ONCE)];
        let lines = most.iter().rposition(|byte| *byte == b'\n').map_or(most.len(), |end| end + 1);
        match out.write(&most[..lines]) {
            Ok(0) => break,
            Ok(more) => at += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process with the same terminal or pipe has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN / 100),
            Err(_) => break,
        }
    }
    at
}

/// The queue as the writer of the daemon's log.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Sets of lines have their priorities already.
        if let Some(queue) = DAEMON.get() {
            queue.put(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets up the log of a command, which writes to standard error directly.
pub fn of_command(verbose: u8) {
    builder(verbose).with_writer(io::stderr).init();
}

/// Sets up the log of the daemon, with its thread, which has no rights.
pub fn of_daemon(verbose: u8) -> io::Result<()> {
    DAEMON.get_or_init(Queue::default);
    std::thread::Builder::new().name("log".into()).spawn(|| {
        let queue = DAEMON.get_or_init(Queue::default);
        let kept = rights::drop_all();
        if let Err(error) = kept {
            put(format!("the thread of the log keeps its rights: {error:#}\n").as_bytes());
        }
        loop {
            queue.write_next(&mut io::stderr());
        }
    })?;
    builder(verbose).with_writer(|| Line).init();
    Ok(())
}

/// Writes text to standard error that is no log line: errors of commands. In a log of JSON it is one.
pub fn put(text: &[u8]) {
    let text = if is_json() { as_line(text) } else { text.into() };
    let text = &*in_journal(&text, is_journal());
    match DAEMON.get() {
        Some(queue) => queue.put(text),
        // An error could only be reported on standard error.
        None => drop(io::stderr().write_all(text)),
    }
}

/// An error as a line of a log of JSON.
fn as_line(text: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end();
    let text = text.strip_prefix("reuseport-lb: ").unwrap_or(text);
    log_line(SystemTime::now(), "ERROR", text, &[]).into_bytes().into()
}

/// `text` with the priority of an error before each line, if it goes to the journal.
fn in_journal(text: &[u8], journal: bool) -> Cow<'_, [u8]> {
    if !journal {
        return text.into();
    }
    text.split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| [ERROR.as_bytes(), line])
        .flatten()
        .copied()
        .collect()
}

/// Waits before the end of the process until the daemon's queue is written, at most for `LAST_WORDS`.
pub fn flush() {
    if let Some(queue) = DAEMON.get() {
        queue.flush();
    }
}

fn builder(verbose: u8) -> SubscriberBuilder<OneLine, Prioritized, EnvFilter> {
    let level = match verbose {
        0 => "reuseport_lb=info,warn",
        1 => "reuseport_lb=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("RUST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(OneLine)
        // Internal errors are failures of writing to standard error, and would be written there.
        .log_internal_errors(false)
        .with_target(false)
        .map_event_format(Prioritized)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that takes so many bytes, and then none.
    struct Full(usize, Vec<u8>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            self.1.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn in_the_journal_each_line_has_a_priority() {
        assert_eq!(&*in_journal(b"one\ntwo", true), b"<3>one\n<3>two");
        assert_eq!(&*in_journal(b"one\ntwo", false), b"one\ntwo");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_that_is_said_once_there_is_room() {
        let queue = Queue::default();
        let mut out = Full(8, Vec::new());
        queue.put(b"one\ntwo\nthree\n");
        queue.write_next(&mut out);
        assert_eq!(queue.lock().dropped, 1);
        queue.put(b"four\n");
        queue.write_next(&mut out);
        assert_eq!(queue.lock().dropped, 2);
        out.0 = usize::MAX;
        queue.put(&vec![b'x'; ROOM]);
        queue.put(b"five\n");
        assert_eq!(queue.lock().dropped, 3);
        queue.lock().waiting.truncate(1);
        queue.write_next(&mut out);
        let said = String::from_utf8_lossy(&out.1).into_owned();
        assert_eq!(said, "one\ntwo\n3 lines were dropped here: standard error did not take them\nx");
        assert_eq!(queue.lock().dropped, 0);
        queue.flush();
    }
}

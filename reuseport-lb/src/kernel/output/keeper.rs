//! The keeper: a process beside a worker that reads its output and writes it where it belongs. It outlives the daemon, and
//! ends when nobody can write that output any more.
//!
//! Its standard input is the worker's output, its standard output is the [`Page`], its standard error the daemon's.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::arguments::KeeperArguments;
use super::backlog::Backlog;
use super::file::Log;
use super::lines::{Amount, LastLines, Piece, Splitter};
use super::page::{Doing, Page, Record};
use super::sink::Sink;
use super::style::Style;
use crate::config::process::{LogFile, LogTo};
use crate::kernel::{calls, host, journal, launch, rights};
use crate::placeholders;

/// Name of the process, for ps(1).
pub(super) const PROCESS: &std::ffi::CStr = c"reuseport-keep";

/// Bytes of one read: what a pipe holds.
const PIECE: usize = 64 << 10;

/// Bytes of one read where each line becomes much longer.
const PIECE_OF_JSON: usize = 8 << 10;

/// How long after an error writing is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A reader that takes less than [`PIECE`] in this time is not waited for.
const SLOW: Duration = Duration::from_millis(200);

/// How long a keeper whose worker has ended waits for a reader that stands still.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the output of a worker until nobody can write it any more.
pub fn keep(arguments: KeeperArguments) -> Result<()> {
    // Before this process has descriptors of its own.
    let inherited = arguments.calls.len();
    let end = launch::arrange(&arguments.calls).context("cannot arrange what a keeper needs")?;
    host::close_from(end).context("cannot close what a keeper does not need")?;
    calls::reserve(inherited)?;
    let page = io::stdout().as_fd().try_clone_to_owned().ok().and_then(|page| Page::of(File::from(page)));
    let page = page.context("`keep` is for the daemon alone: it starts one beside each worker")?;
    // Neither the daemon's terminal nor its service manager ends it before the worker.
    let _ = rustix::process::setsid();
    host::ignore_ends();
    let _ = nix::sys::prctl::set_name(PROCESS);
    // As whoever the daemon is: a pipe or a terminal may not be open to others.
    let sink = Sink::open();
    // Whoever sorts calls reads the worker's memory and descriptors.
    let given_up = if inherited == 0 { rights::drop_all() } else { rights::keep_looking_at_others() };
    given_up.context("cannot give up the daemon's rights (capset)")?;
    if arguments.only_calls {
        return calls::sort(inherited);
    }
    if inherited > 0 {
        let sort = move || {
            if let Err(error) = calls::sort(inherited) {
                eprintln!("a keeper cannot sort calls of bind and listen, which go wrong now: {error:#}");
            }
        };
        std::thread::Builder::new().name("calls".into()).spawn(sort).context("cannot start a thread")?;
    }
    Keeper::new(arguments, page, sink).run()
}

/// Where the output goes, if not to standard error.
struct Target {
    log: Log,
    /// How lines look if the file may be that of several workers.
    style: Option<Style>,
    /// Lines for the file.
    batch: Vec<u8>,
    /// When writing is tried again after an error.
    again_at: Option<Instant>,
}

/// Whether standard error takes anything now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// All was written.
    All,
    /// There is no room.
    Full,
    /// Writing fails, as without a reader.
    Failed,
}

struct Keeper {
    page: Page,
    sink: Sink,
    splitter: Splitter,
    backlog: Backlog,
    last: LastLines,
    target: Option<Target>,
    /// What the page says.
    told: (Doing, (Amount, Amount)),
    pace: Pace,
    /// Bytes of one read.
    piece: usize,
}

/// Whether a keeper with no more room waits for its reader, so that the worker waits as well.
#[derive(Clone, Copy)]
enum Pace {
    /// There is room.
    Reads,
    /// The reader has taken so many bytes since then.
    Waits(Instant, usize),
    /// The reader is too slow: lines are dropped until there is room.
    Drops,
}

impl Pace {
    /// Goes on after the reader has taken so many bytes.
    fn next(self, full: bool, taken: usize) -> Self {
        match self {
            _ if !full => Self::Reads,
            Self::Reads => Self::Waits(Instant::now(), 0),
            Self::Waits(since, before) if since.elapsed() < SLOW => Self::Waits(since, before + taken),
            Self::Waits(_, before) if before + taken >= PIECE => Self::Waits(Instant::now(), 0),
            Self::Waits(..) | Self::Drops => Self::Drops,
        }
    }
}

impl Keeper {
    fn new(arguments: KeeperArguments, page: Page, sink: Sink) -> Self {
        let KeeperArguments { name, log, json, .. } = arguments;
        let style = Style::new(&name, journal::is_there(), json);
        let target = match log {
            LogTo::Inherit => None,
            LogTo::File(file) => Some(Target {
                style: (!placeholders::is_of_one(&file.path)).then(|| Style::new(&name, false, false)),
                log: Log::new(&LogFile { path: placeholders::fill(&file.path, &name, 0), ..file }),
                batch: Vec::new(),
                again_at: None,
            }),
        };
        let Record { dropped, last, .. } = page.read();
        Self {
            page,
            sink,
            splitter: Splitter::new(style.most()),
            backlog: Backlog::new(style, dropped),
            last: LastLines::of(last),
            target,
            told: (Doing::Waits, Default::default()),
            pace: Pace::Reads,
            piece: if json { PIECE_OF_JSON } else { PIECE },
        }
    }

    fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; self.piece];
        // When nobody could write any more.
        let mut over: Option<Instant> = None;
        loop {
            let before = self.backlog.length();
            let taken = self.write();
            self.pace = self.pace.next(self.backlog.is_full(), before.saturating_sub(self.backlog.length()));
            self.tell();
            if let Some(over) = over
                && (taken != Taken::Full || over.elapsed() > PATIENCE)
            {
                self.backlog.give_up();
                self.tell();
                return Ok(());
            }
            let waits = matches!(self.pace, Pace::Waits(..)) && taken == Taken::Full;
            let timeout = match (taken, over) {
                (Taken::Failed, _) => Some(AGAIN),
                (_, None) if waits => Some(SLOW),
                (_, Some(over)) => Some(PATIENCE.saturating_sub(over.elapsed()) + Duration::from_millis(1)),
                _ => None,
            };
            let stdin = io::stdin();
            let mut wanted = Vec::with_capacity(2);
            let reads = over.is_none() && !waits;
            if reads {
                wanted.push(PollFd::new(&stdin, PollFlags::IN));
            }
            if taken == Taken::Full {
                wanted.push(PollFd::new(&self.sink, PollFlags::OUT));
            }
            let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
            match poll(&mut wanted, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready.context("cannot wait for output (poll)")?,
            };
            if reads && !wanted[0].revents().is_empty() && self.read(&mut buffer)? {
                over = Some(Instant::now());
            }
        }
    }

    /// Reads some of the output; true if it has ended.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool> {
        self.page.reading().context("cannot write the page")?;
        let read = match rustix::io::read(io::stdin(), &mut *buffer) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => None,
            read => Some(read.context("cannot read the worker's output")?),
        };
        let Self { splitter, backlog, last, target, .. } = self;
        let mut each = |piece: Piece<'_>| {
            last.push(&piece);
            match target {
                Some(target) => target.push(&piece),
                None => backlog.push(&piece),
            }
        };
        match read {
            None => {}
            Some(0) => splitter.finish(&mut each),
            Some(length) => splitter.push(&buffer[..length], &mut each),
        }
        if let Some(target) = target {
            target.write(backlog);
        }
        self.told = (if read == Some(0) { Doing::Ends } else { Doing::Waits }, self.now());
        self.page.write(self.told.0, self.told.1, &self.last).context("cannot write the page")?;
        Ok(read == Some(0))
    }

    /// Writes what waits, as far as there is room.
    fn write(&mut self) -> Taken {
        loop {
            let next = self.backlog.next();
            if next.is_empty() {
                return Taken::All;
            }
            match self.sink.write(next) {
                Ok(0) => return Taken::Failed,
                Ok(written) => self.backlog.wrote(written),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Taken::Full,
                    _ => return Taken::Failed,
                },
            }
        }
    }

    /// What was dropped, and what is held.
    fn now(&self) -> (Amount, Amount) {
        let mut held = self.backlog.held();
        held += self.splitter.held();
        (self.backlog.dropped(), held)
    }

    /// Tells the daemon what is dropped and held, if that has changed.
    fn tell(&mut self) {
        let now = self.now();
        if self.told.1 != now && self.page.write(self.told.0, now, &self.last).is_ok() {
            self.told.1 = now;
        }
    }
}

impl Target {
    fn push(&mut self, piece: &Piece<'_>) {
        match &self.style {
            Some(style) => style.format(piece, &mut self.batch),
            None => {
                self.batch.extend_from_slice(piece.text);
                if piece.ends {
                    self.batch.push(b'\n');
                }
            }
        }
    }

    /// Writes the batch into the file; what the file does not take goes to standard error.
    fn write(&mut self, other: &mut Backlog) {
        if self.batch.is_empty() {
            return;
        }
        let mut written = 0;
        if self.again_at.is_none_or(|at| at <= Instant::now()) {
            let path = self.log.path().display().to_string();
            match self.log.write(&self.batch, &mut written) {
                Ok(()) if self.again_at.take().is_some() => {
                    other.remark(&format!("its log {path} is written again"));
                }
                Ok(()) => {}
                Err(error) => {
                    if self.again_at.is_none() {
                        other.remark(&format!(
                            "cannot write its log {path}: {error}; its lines are here until that works"
                        ));
                    }
                    self.again_at = Some(Instant::now() + AGAIN);
                }
            }
        }
        let rest = &self.batch[written..];
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n");
            let ends = text.is_some();
            let text = text.unwrap_or(line);
            let own = self.style.as_ref().and_then(|style| style.text_of(text));
            other.push(&Piece { text: own.unwrap_or(text), begins: true, ends });
        }
        self.batch.clear();
        self.batch.shrink_to(2 * PIECE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &std::path::Path, named: bool) -> Target {
        let file = LogFile { path: path.to_str().unwrap().into(), max: 1000, keep: 1 };
        let style = named.then(|| Style::new("web/0", false, false));
        Target { log: Log::new(&file), style, batch: Vec::new(), again_at: None }
    }

    #[test]
    fn what_a_file_does_not_take_goes_to_standard_error_until_it_does() {
        let directory = tempfile::tempdir().unwrap();
        for named in [false, true] {
            let folder = directory.path().join(format!("folder-{named}"));
            let mut it = target(&folder.join("log"), named);
            let mut other = Backlog::new(Style::new("web/0", false, false), Amount::default());
            let mut write = |it: &mut Target, text: &[u8]| {
                it.push(&Piece { text, begins: true, ends: true });
                it.write(&mut other);
                let said = String::from_utf8(other.next().to_vec()).unwrap();
                other.wrote(said.len());
                said
            };
            let said = write(&mut it, b"one");
            assert!(
                said.starts_with("web/0: cannot write its log /") && said.contains("No such file"),
                "{said}"
            );
            assert!(said.ends_with("its lines are here until that works\nweb/0: one\n"), "{said}");
            assert_eq!(write(&mut it, b"two"), "web/0: two\n");
            std::fs::create_dir(&folder).unwrap();
            it.again_at = Some(Instant::now());
            let said = write(&mut it, b"three");
            assert!(said.starts_with("web/0: its log /") && said.ends_with("is written again\n"), "{said}");
            assert_eq!(write(&mut it, b"four"), "");
            let name = if named { "web/0: " } else { "" };
            let text = std::fs::read_to_string(folder.join("log")).unwrap();
            assert_eq!(text, format!("{name}three\n{name}four\n"));
        }
    }
}

//! What a keeper tells the daemon, and the next one: a small file in memory that both have. The keeper writes it after
//! each read of the worker's output.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use super::lines::{Amount, LAST, LONGEST, LastLines};

/// Name of the file in /proc/PID/fd.
const NAME: &str = "reuseport-lb-output";

/// Numbers at the beginning of the file: what the keeper is doing, what it has dropped and holds, in lines and
/// bytes, and the length of the text behind them, which is the last lines.
const NUMBERS: usize = 6;
const TEXT: usize = NUMBERS * size_of::<u64>();
const MOST: usize = TEXT + LAST * (LONGEST + 1);

/// The file.
pub(super) struct Page(File);

/// What a keeper is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doing {
    /// It has told of all that it has read.
    #[default]
    Waits,
    /// It has read, or is about to, what it has not told of yet.
    Reads,
    /// It has read and told of all, and nobody can write any more.
    Ends,
}

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) doing: Doing,
    /// Output that was dropped.
    pub(super) dropped: Amount,
    /// Output that was read and is not written yet.
    pub(super) held: Amount,
    /// The last lines, as the worker wrote them.
    pub(super) last: Vec<Vec<u8>>,
}

impl Page {
    pub(super) fn make() -> Result<Self> {
        let file = memfd_create(NAME, MemfdFlags::CLOEXEC).context("cannot make a file in memory")?;
        Ok(Self(file.into()))
    }

    /// Takes a file for the page that an earlier daemon made; `None` if it is another file.
    pub(super) fn of(file: File) -> Option<Self> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        link.to_str()?.starts_with(&format!("/memfd:{NAME}")).then_some(Self(file))
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Says that the keeper is about to read.
    pub(super) fn reading(&self) -> io::Result<()> {
        self.0.write_all_at(&(Doing::Reads as u64).to_ne_bytes(), 0)
    }

    pub(super) fn write(
        &self,
        doing: Doing,
        (dropped, held): (Amount, Amount),
        last: &LastLines,
    ) -> io::Result<()> {
        let mut content = Vec::with_capacity(MOST);
        content.resize(TEXT, 0);
        for line in last.iter() {
            content.extend_from_slice(line);
            content.push(b'\n');
        }
        let text = (content.len() - TEXT) as u64;
        let numbers = [doing as u64, dropped.lines, dropped.bytes, held.lines, held.bytes, text];
        for (place, number) in content.chunks_exact_mut(size_of::<u64>()).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        self.0.write_all_at(&content, 0)
    }

    /// What was dropped; zeros if the keeper has not written yet. Reads no more than that.
    pub(super) fn dropped(&self) -> Amount {
        let mut content = [0; TEXT];
        let read = self.0.read_at(&mut content, 0).unwrap_or_default();
        let number = |nth| number(&content[..read], nth);
        Amount { lines: number(1), bytes: number(2) }
    }

    /// What it says; all zeros if the keeper has not written yet.
    pub(super) fn read(&self) -> Record {
        let mut content = vec![0; MOST];
        let read = self.0.read_at(&mut content, 0).unwrap_or_default();
        content.truncate(read);
        let number = |nth| number(&content, nth);
        let text = content.get(TEXT..TEXT + (number(5) as usize).min(MOST)).unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
        let mut last: Vec<Vec<u8>> = lines.collect();
        // What follows the end of the last line.
        last.pop();
        let amount = |at| Amount { lines: number(at), bytes: number(at + 1) };
        let doing = [Doing::Waits, Doing::Reads, Doing::Ends].into_iter().find(|it| *it as u64 == number(0));
        Record { doing: doing.unwrap_or_default(), dropped: amount(1), held: amount(3), last }
    }
}

/// One of the numbers at the beginning; 0 if the content is too short.
fn number(content: &[u8], nth: usize) -> u64 {
    let bytes = content.get(nth * size_of::<u64>()..(nth + 1) * size_of::<u64>());
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::lines::Piece;
    use super::*;

    #[test]
    fn what_a_keeper_writes_is_what_the_daemon_reads() {
        let page = Page::make().unwrap();
        assert_eq!((page.read(), page.dropped()), (Record::default(), Amount::default()));
        let mut last = LastLines::default();
        let long = [b'x'; 2 * LONGEST];
        (0..2 * LAST).for_each(|_| last.push(&Piece { text: &long, begins: true, ends: true }));
        last.push(&Piece { text: b"", begins: true, ends: true });
        last.push(&Piece { text: b"end", begins: true, ends: false });
        let (dropped, held) = (Amount { lines: 1, bytes: 2 }, Amount { lines: 3, bytes: u64::MAX });
        page.write(Doing::Ends, (dropped, held), &last).unwrap();
        let next = Page::of(page.file().try_clone().unwrap()).unwrap();
        let read = next.read();
        assert_eq!(
            (read.doing, read.dropped, next.dropped(), read.held, read.last.len()),
            (Doing::Ends, dropped, dropped, held, LAST)
        );
        assert_eq!(
            (&*read.last[0], &*read.last[8], &*read.last[9]),
            (&long[..LONGEST], &b""[..], &b"end"[..])
        );
        page.reading().unwrap();
        assert!(next.read() == Record { doing: Doing::Reads, ..read });
        page.write(Doing::Waits, (dropped, held), &LastLines::default()).unwrap();
        assert_eq!(next.read().last, Vec::<Vec<u8>>::new());
        assert!(Page::of(File::open("/dev/null").unwrap()).is_none());
    }
}

//! Lines of a worker's output, PURE: cut out of the stream, and the last ones. Not: how they look (`style.rs`), nor those that
//! wait to be written (`backlog.rs`).

use std::collections::VecDeque;

use memchr::memchr;

/// Bytes that a write to a pipe passes on together, whoever else writes (PIPE_BUF, pipe(7)).
pub(crate) const AT_ONCE: usize = 4096;

/// How many of the last lines are remembered, and how many bytes of each.
pub(super) const LAST: usize = 10;
pub(super) const LONGEST: usize = 400;

/// A line, or a part of a long one, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a [u8],
    /// It is the beginning of a line.
    pub(super) begins: bool,
    /// It is the end of a line.
    pub(super) ends: bool,
}

impl Piece<'_> {
    /// How many bytes of the stream it stands for.
    pub(super) fn bytes(&self) -> u64 {
        self.text.len() as u64 + u64::from(self.ends)
    }
}

/// Cuts a stream into lines. Longer ones than `most` are cut into parts.
pub(super) struct Splitter {
    most: usize,
    /// The beginning of a line, or of a part of it.
    pending: Vec<u8>,
    /// The next piece is not the first one of its line.
    within: bool,
}

impl Splitter {
    pub(super) fn new(most: usize) -> Self {
        Self { most, pending: Vec::new(), within: false }
    }

    /// Passes the pieces of what was `read` to `each`; a last line that has not ended waits for its end.
    pub(super) fn push(&mut self, read: &[u8], mut each: impl FnMut(Piece<'_>)) {
        let mut rest = read;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest);
            let mut line = &rest[..end.unwrap_or(rest.len())];
            rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
            while self.pending.len() + line.len() > self.most {
                let (first, more) = line.split_at(self.most.saturating_sub(self.pending.len()));
                self.pending.extend_from_slice(first);
                self.give(&[], false, &mut each);
                line = more;
            }
            if end.is_some() {
                self.give(line, true, &mut each);
            } else {
                self.pending.extend_from_slice(line);
            }
        }
    }

    /// What waits for its end.
    pub(super) fn held(&self) -> Amount {
        Amount { lines: u64::from(!self.pending.is_empty()), bytes: self.pending.len() as u64 }
    }

    /// Passes on what waits for its end, as a whole line: the stream has ended.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if !self.pending.is_empty() || self.within {
            self.give(&[], true, &mut each);
        }
    }

    fn give(&mut self, rest: &[u8], ends: bool, each: &mut impl FnMut(Piece<'_>)) {
        let begins = !std::mem::replace(&mut self.within, !ends);
        if self.pending.is_empty() {
            return each(Piece { text: rest, begins, ends });
        }
        self.pending.extend_from_slice(rest);
        each(Piece { text: &self.pending, begins, ends });
        self.pending.clear();
    }
}

/// Lines and bytes of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Lines; of a long one that is passed on in parts, each part.
    pub lines: u64,
    /// Bytes, with the ends of lines.
    pub bytes: u64,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lines ({} bytes)", self.lines, self.bytes)
    }
}

/// The last lines, each cut off after [`LONGEST`] bytes.
#[derive(Default)]
pub(super) struct LastLines {
    lines: VecDeque<Vec<u8>>,
    /// The newest line has not ended.
    open: bool,
}

impl LastLines {
    /// Goes on from the lines that an earlier keeper has seen.
    pub(super) fn of(lines: Vec<Vec<u8>>) -> Self {
        Self { lines: lines.into(), open: false }
    }

    pub(super) fn push(&mut self, piece: &Piece<'_>) {
        if !self.open || piece.begins {
            let mut line =
                if self.lines.len() < LAST { Vec::new() } else { self.lines.pop_front().unwrap_or_default() };
            line.clear();
            self.lines.push_back(line);
        }
        self.open = !piece.ends;
        if let Some(line) = self.lines.back_mut() {
            let room = LONGEST.saturating_sub(line.len()).min(piece.text.len());
            line.extend_from_slice(&piece.text[..room]);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &[u8]) -> Piece<'_> {
        Piece { text, begins: true, ends: true }
    }

    #[test]
    fn the_last_lines_are_kept_without_their_ends() {
        let mut last = LastLines::of(vec![b"before".to_vec()]);
        for number in 0..9 {
            last.push(&line(format!("line {number}").as_bytes()));
        }
        assert_eq!(last.iter().next(), Some(&b"before"[..]));
        last.push(&Piece { text: &[b'x'; 300], begins: true, ends: false });
        last.push(&Piece { text: &[b'y'; 300], begins: false, ends: true });
        let lines: Vec<&[u8]> = last.iter().collect();
        assert_eq!((lines.len(), lines[0]), (LAST, &b"line 0"[..]));
        assert!(lines[9].len() == LONGEST && lines[9].ends_with(b"xy".repeat(0).as_slice()));
        assert_eq!(lines[9].iter().filter(|byte| **byte == b'y').count(), 100);
    }

    proptest! {
        /// However a stream arrives, its lines are the same, and so are its bytes.
        #[test]
        fn no_byte_is_lost_between_reads(stream in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..200), cuts in proptest::collection::vec(1..20usize, 1..40), most in 1..9usize) {
            let mut splitter = Splitter::new(most);
            let mut whole = Vec::new();
            let mut each = |piece: Piece<'_>| {
                assert!(piece.text.len() <= most);
                whole.extend_from_slice(piece.text);
                if piece.ends {
                    whole.push(b'\n');
                }
            };
            let (mut rest, mut cuts) = (&*stream, cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (first, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                splitter.push(first, &mut each);
                rest = more;
            }
            splitter.finish(&mut each);
            let mut expected = stream;
            if expected.last().is_some_and(|last| *last != b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(whole, expected);
        }
    }
}

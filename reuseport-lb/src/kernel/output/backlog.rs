//! Lines that wait to be written, PURE: within a bound, and counted if there is no room. Not: how they look (`lines.rs`).

use super::lines::{AT_ONCE, Amount, Piece};
use super::style::Style;

/// Most bytes that wait to be written.
const ROOM: usize = 1 << 20;

/// Lines that wait to be written, at most [`ROOM`] bytes. What there is no room for is dropped, by whole lines, and
/// counted; how much it was is a line in its place.
pub(super) struct Backlog {
    style: Style,
    data: Vec<u8>,
    /// Beginning of what is not written.
    at: usize,
    /// The rest of this line is dropped like its beginning.
    dropping: bool,
    /// Dropped since the last line about that.
    unsaid: Amount,
    /// Dropped in all.
    dropped: Amount,
}

impl Backlog {
    /// Goes on counting from what was `dropped` before.
    pub(super) fn new(style: Style, dropped: Amount) -> Self {
        Self { style, data: Vec::new(), at: 0, dropping: false, unsaid: Amount::default(), dropped }
    }

    pub(super) fn dropped(&self) -> Amount {
        self.dropped
    }

    pub(super) fn push(&mut self, piece: &Piece<'_>) {
        if piece.begins {
            self.dropping = false;
        }
        if !self.dropping && self.has_room(self.style.length(piece)) {
            self.say();
            self.style.format(piece, &mut self.data);
            return;
        }
        let lines = u64::from(!self.dropping);
        self.dropping = !piece.ends;
        self.count(Amount { lines, bytes: piece.bytes() });
    }

    /// Adds a line of our own, whether there is room or not: there are few of them.
    pub(super) fn remark(&mut self, remark: &str) {
        self.say();
        self.data.extend(self.style.remark(remark));
    }

    fn count(&mut self, dropped: Amount) {
        self.dropped += dropped;
        self.unsaid += dropped;
    }

    fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.length();
        // After a loss there is room again once a good part is written, so that losses are few and long.
        let room = if self.unsaid.lines > 0 { ROOM / 2 } else { ROOM };
        waiting + bytes <= room
    }

    fn say(&mut self) {
        if self.unsaid != Amount::default() {
            let unsaid = std::mem::take(&mut self.unsaid);
            let remark = format!("{unsaid} dropped: standard error did not take them in time");
            self.data.extend(self.style.remark(&remark));
        }
    }

    /// The next lines to write, at most [`AT_ONCE`] bytes; empty if there are none.
    pub(super) fn next(&mut self) -> &[u8] {
        if self.data.is_empty() {
            self.say();
        }
        let waiting = &self.data[self.at..];
        let most = &waiting[..waiting.len().min(AT_ONCE)];
        let end = memchr::memrchr(b'\n', most).map_or(most.len(), |end| end + 1);
        &most[..end]
    }

    /// Bytes that wait.
    pub(super) fn length(&self) -> usize {
        self.data.len() - self.at
    }

    /// Whether there may be no room for what is read next, with the marks of its lines.
    pub(super) fn is_full(&self) -> bool {
        let room = if self.unsaid.lines > 0 { ROOM / 2 } else { ROOM };
        self.length() > room / 2
    }

    /// Notes that so many bytes of [`Backlog::next`] were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.at += bytes;
        if self.at >= self.data.len() {
            self.at = 0;
            self.data.clear();
            // A burst must not take its memory for ever.
            self.data.shrink_to(16 * AT_ONCE);
        } else if self.at > ROOM / 2 {
            self.data.drain(..self.at);
            self.at = 0;
        }
    }

    /// What waits.
    pub(super) fn held(&self) -> Amount {
        let waiting = &self.data[self.at..];
        let lines = memchr::memchr_iter(b'\n', waiting).count() as u64;
        Amount { lines, bytes: waiting.len() as u64 }
    }

    /// Drops all that waits.
    pub(super) fn give_up(&mut self) {
        let held = self.held();
        self.data.clear();
        self.at = 0;
        self.count(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(backlog: &mut Backlog) -> String {
        let mut text = Vec::new();
        loop {
            let next = backlog.next().to_vec();
            assert!(next.len() <= AT_ONCE);
            if next.is_empty() {
                break;
            }
            backlog.wrote(next.len());
            text.extend(next);
        }
        String::from_utf8(text).unwrap()
    }

    fn line(text: &[u8]) -> Piece<'_> {
        Piece { text, begins: true, ends: true }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_said_in_its_place() {
        let mut backlog = Backlog::new(Style::new("web/0", false, false), Amount { lines: 5, bytes: 50 });
        let text = [b'x'; 99];
        let mut kept = 0;
        while backlog.dropped().lines == 5 {
            backlog.push(&line(&text));
            kept += 1;
        }
        kept -= 1;
        (0..6).for_each(|_| backlog.push(&line(&text)));
        assert_eq!(backlog.dropped(), Amount { lines: 12, bytes: 750 });
        assert!(backlog.held().bytes as usize <= ROOM);
        assert_eq!(backlog.held().lines, kept);
        let first = written(&mut backlog);
        let (lines, said) = first.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(lines.lines().count() as u64, kept);
        assert_eq!(said, "web/0: 7 lines (700 bytes) dropped: standard error did not take them in time");
        backlog.push(&line(b"next"));
        assert_eq!(written(&mut backlog), "web/0: next\n");
        backlog.push(&line(b"last"));
        backlog.give_up();
        assert!(backlog.held() == Amount::default() && backlog.dropped().lines == 13);
    }

    #[test]
    fn of_a_line_that_is_cut_into_parts_nothing_follows_a_gap() {
        let mut backlog = Backlog::new(Style::new("web/0", false, false), Amount::default());
        let part = |begins, ends| Piece { text: &[b'x'; 4000], begins, ends };
        backlog.push(&part(true, false));
        while backlog.dropped().lines == 0 {
            backlog.push(&part(false, false));
        }
        let gap = backlog.dropped();
        backlog.wrote(ROOM - 3 * AT_ONCE);
        backlog.push(&part(false, true));
        assert_eq!(backlog.dropped(), Amount { lines: 1, bytes: gap.bytes + 4001 });
        backlog.push(&line(b"next"));
        assert_eq!(backlog.dropped().lines, 1);
    }
}

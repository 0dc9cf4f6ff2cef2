//! Whether standard error is the journal's (systemd.exec(5), sd-daemon(3)): then each line may begin with its priority.

use std::io;

use rustix::fs::fstat;

/// Device and inode of the journal's stream, as the service manager says.
pub const STREAM: &str = "JOURNAL_STREAM";

/// Whether standard error goes to the journal.
#[must_use]
pub fn is_there() -> bool {
    let Ok(stream) = std::env::var(STREAM) else { return false };
    fstat(io::stderr()).is_ok_and(|about| is(&stream, about.st_dev, about.st_ino))
}

fn is(stream: &str, device: u64, inode: u64) -> bool {
    let numbers =
        stream.split_once(':').and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)));
    numbers == Some((device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_stream_than_the_service_managers_is_not_the_journal() {
        assert!(is("8:77", 8, 77));
        for stream in ["8:78", "9:77", "8", "8:", "8:77:1", "", "x:77"] {
            assert!(!is(stream, 8, 77), "{stream}");
        }
    }
}

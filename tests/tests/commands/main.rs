//! The commands of the documents and of `--help`, run as they stand (`testkit::site`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod documents;
mod helps;

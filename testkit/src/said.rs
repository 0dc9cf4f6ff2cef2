//! What a command said, and how it ended.

use std::process::Output;

/// Standard output and error.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &output.stderr].concat()).into_owned()
}

/// Asserts that it ended with this code, and said all of that.
///
/// # Panics
///
/// If not, or if it panicked itself.
#[track_caller]
pub fn assert_said(output: &Output, code: i32, says: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for says in says {
        assert!(said.contains(says), "{says:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

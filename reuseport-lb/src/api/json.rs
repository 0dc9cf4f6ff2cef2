//! JSON as the daemon's sockets read and write it: an object in, a line that steers no terminal out.

use serde::{Deserialize, Serialize};

use crate::printable;

/// Reads a JSON object. A list of its values would do for serde as well: `[]` wherever all parts have
/// defaults.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> serde_json::Result<T> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("a list, where an object belongs"));
    }
    serde_json::from_slice(text)
}

/// Writes a line.
pub(super) fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    printable::json(&text).into_owned() + "\n"
}

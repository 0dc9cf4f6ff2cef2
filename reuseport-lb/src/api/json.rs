//! JSON as the daemon's sockets read and write it: objects in, lines without control characters out.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::printable;

/// Parses a JSON object. serde would take a list of its values as well, like `[]` for one whose fields all have
/// defaults.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> serde_json::Result<T> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("a list, where an object belongs"));
    }
    serde_json::from_slice(text)
}

/// Formats a value as one line of JSON.
pub(super) fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    if let Cow::Owned(escaped) = printable::json(&text) {
        text = escaped;
    }
    text.push('\n');
    text
}

//! What a configuration asks the machine that it is for. Not: the answers (`daemon/source.rs`).

use std::path::Path;

/// Reads a file.
type Content = fn(&Path) -> Result<Vec<u8>, String>;

/// What a configuration asks a machine; each answer that fails is one line of text.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Whether it has a user with this name or number.
    pub user: fn(&str) -> Result<(), String>,
    /// Whether it has a group with this name or number.
    pub group: fn(&str) -> Result<(), String>,
    /// The text of a file.
    pub file: fn(&Path) -> Result<String, String>,
    /// The content of a file that nobody but root can change; `None` on another machine than this one.
    pub program: Option<Content>,
}

impl Machine {
    /// Another machine than this one: all users and groups are there, and files have nothing in them.
    pub const ANOTHER: Self =
        Self { user: |_| Ok(()), group: |_| Ok(()), file: |_| Ok(String::new()), program: None };
}

//! A tar archive in which everything is root's and of one date.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// An archive; folders come before what is in them.
pub(crate) struct Archive {
    tar: Builder<Vec<u8>>,
    date: u64,
    folders: BTreeSet<String>,
}

impl Archive {
    /// `date`: of everything in it, in seconds since 1970.
    pub(crate) fn new(date: u64) -> Self {
        Self { tar: Builder::new(Vec::new()), date, folders: BTreeSet::new() }
    }

    /// Adds a file, and the folders that it is in.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        let mut header = self.header(EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.append(header, path, content)
    }

    /// Adds a folder, and those that it is in.
    pub(crate) fn folder(&mut self, path: &str) -> Result<()> {
        if !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent)?;
        }
        let header = self.header(EntryType::Directory, 0o755);
        self.append(header, &format!("{path}/"), &[])
    }

    /// The bytes of the archive.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.date);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header
    }

    fn append(&mut self, mut header: Header, path: &str, content: &[u8]) -> Result<()> {
        header.set_username("root")?;
        header.set_groupname("root")?;
        self.tar
            .append_data(&mut header, Path::new(path), content)
            .with_context(|| format!("cannot put {path} into an archive"))
    }
}

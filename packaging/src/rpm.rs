//! A package of Fedora, RHEL and SUSE.

use anyhow::{Context, Result};
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder, Scriptlet};

use crate::about::{DESCRIPTION, LICENCE, NAME, SUMMARY, VERSION, scripts};
use crate::list::File;
use crate::needs::{self, Library};

/// The file's name.
pub(crate) fn name(architecture: &str) -> String {
    format!("{NAME}-{VERSION}-1.{architecture}.rpm")
}

/// The bytes of the package.
pub(crate) fn package(
    files: &[File],
    libraries: &[Library],
    architecture: &str,
    date: u64,
) -> Result<Vec<u8>> {
    let date = u32::try_from(date).context("an .rpm knows no dates after 2106")?;
    let mut package = PackageBuilder::new(NAME, VERSION, LICENCE, architecture, SUMMARY);
    // Every rpm reads gzip. The build host's name is told, so that it is the same everywhere.
    package.using_config(BuildConfig::v4().compression(CompressionType::Gzip).source_date(date));
    package.release("1").description(DESCRIPTION.join("\n")).build_host("localhost");
    let script = |text: &str| Scriptlet::new(text).prog(vec!["/bin/sh"]);
    package.post_install_script(script(scripts::AFTER_INSTALLING));
    package.pre_uninstall_script(script(scripts::BEFORE_REMOVING));
    package.post_uninstall_script(script(scripts::AFTER_REMOVING));
    for library in needs::of_rpm(libraries) {
        package.requires(Dependency::any(library));
    }
    package.requires(Dependency::any("/bin/sh"));
    for file in files {
        let mode = u16::try_from(file.mode).context("a mode has 16 bits")?;
        let mut options = FileOptions::new(&file.path).permissions(mode);
        if file.settings {
            options = options.config().noreplace();
        } else if file.path.starts_with("/usr/share/licenses/") {
            options = options.license();
        } else if file.path.starts_with("/usr/share/doc/") || file.path.starts_with("/usr/share/man/") {
            options = options.doc();
        }
        package.with_file_contents(file.content.clone(), options)?;
    }
    // Folders of its own, which end with it.
    for folder in folders(files) {
        package.with_dir_entry(FileOptions::dir(folder))?;
    }
    let mut bytes = Vec::new();
    package.build()?.write(&mut bytes)?;
    Ok(bytes)
}

/// Folders that have the name of the package in their paths.
fn folders(files: &[File]) -> Vec<String> {
    let own = |file: &File| {
        let folders = std::path::Path::new(&file.path).ancestors().skip(1);
        let folders = folders.filter(|path| path.iter().any(|part| part == NAME));
        folders.map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    let mut all: Vec<String> = files.iter().flat_map(own).collect();
    all.sort();
    all.dedup();
    all
}

//! A package of Debian and Ubuntu: an ar archive of two tar archives, what dpkg is to know and what is to be installed.

use anyhow::Result;
use ar::{Builder, Header};
use md5::{Digest as _, Md5};

use crate::about::{DESCRIPTION, MAINTAINER, NAME, SUMMARY, VERSION, scripts};
use crate::archive::Archive;
use crate::list::{File, compressed};
use crate::needs::{self, Library};

/// The file's name; `architecture` as Rust calls it.
pub(crate) fn name(architecture: &str) -> String {
    format!("{NAME}_{VERSION}_{}.deb", dpkg(architecture))
}

/// The bytes of the package.
pub(crate) fn package(
    files: &[File],
    libraries: &[Library],
    architecture: &str,
    date: u64,
) -> Result<Vec<u8>> {
    let mut control = Archive::new(date);
    control.file("control", 0o644, about(files, libraries, architecture).as_bytes())?;
    let settings = files.iter().filter(|file| file.settings).map(|file| format!("{}\n", file.path));
    control.file("conffiles", 0o644, settings.collect::<String>().as_bytes())?;
    let sums = files.iter().filter(|file| !file.settings);
    let sums = sums.map(|file| format!("{:x}  {}\n", Md5::digest(&file.content), &file.path[1..]));
    control.file("md5sums", 0o644, sums.collect::<String>().as_bytes())?;
    control.file("postinst", 0o755, scripts::AFTER_INSTALLING.as_bytes())?;
    control.file("prerm", 0o755, scripts::BEFORE_REMOVING.as_bytes())?;
    control.file("postrm", 0o755, scripts::AFTER_REMOVING.as_bytes())?;

    let mut data = Archive::new(date);
    for file in files {
        data.file(&file.path, file.mode, &file.content)?;
    }
    let mut package = Builder::new(Vec::new());
    let parts = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", compressed(&control.finish()?)?),
        ("data.tar.gz", compressed(&data.finish()?)?),
    ];
    for (name, content) in parts {
        let mut header = Header::new(name.into(), content.len() as u64);
        header.set_mtime(date);
        header.set_mode(0o100_644);
        package.append(&header, &*content)?;
    }
    Ok(package.into_inner()?)
}

fn about(files: &[File], libraries: &[Library], architecture: &str) -> String {
    let kibibytes: usize = files.iter().map(|file| file.content.len().div_ceil(1024)).sum();
    let fields = [
        ("Package", NAME.into()),
        ("Version", VERSION.into()),
        ("Architecture", dpkg(architecture).into()),
        ("Maintainer", MAINTAINER.into()),
        ("Installed-Size", kibibytes.to_string()),
        ("Depends", needs::of_deb(libraries)),
        ("Section", "net".into()),
        ("Priority", "optional".into()),
        ("Description", SUMMARY.to_owned()),
    ];
    let fields = fields.into_iter().map(|(name, value)| format!("{name}: {value}\n"));
    fields.chain(DESCRIPTION.map(|line| format!(" {line}\n"))).collect()
}

fn dpkg(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

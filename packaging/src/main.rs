//! Makes the packages of what `cargo xtask dist` has built: .deb, .rpm, tarballs, images, their checksums, and a list of
//! what is in them. The same input gives the same bytes.

mod about;
mod archive;
mod deb;
mod image;
mod list;
mod made;
mod needs;
mod rpm;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use list::{Kind, Sources};
use sha2::{Digest as _, Sha256};

#[derive(Parser)]
struct Arguments {
    /// The date of all files, in seconds since 1970
    #[arg(long)]
    date: u64,
    /// A binary for .deb and .rpm, and its architecture: x86_64=PATH
    #[arg(long, value_parser = binary)]
    dynamic: Vec<Binary>,
    /// A binary that needs no library, for tarball and image
    #[arg(long = "static", value_parser = binary)]
    fixed: Vec<Binary>,
    /// Where man pages and completions are put first
    #[arg(long)]
    made: PathBuf,
    /// The folder for the packages
    #[arg(long)]
    to: PathBuf,
}

#[derive(Clone)]
struct Binary {
    architecture: String,
    path: PathBuf,
}

fn binary(text: &str) -> Result<Binary> {
    let Some((architecture, path)) = text.split_once('=') else { bail!("write x86_64=PATH") };
    Ok(Binary { architecture: architecture.into(), path: path.into() })
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("packaging/ is in no folder")?;
    made::write(&arguments.made)?;
    let files = |kind, binary: &Binary| {
        list::files(kind, &Sources { repository, made: &arguments.made, binary: &binary.path })
    };
    let mut packages = Packages { to: &arguments.to, sums: String::new(), contents: String::new() };
    let date = arguments.date;
    for binary in &arguments.dynamic {
        let libraries = needs::libraries(&binary.path)?;
        let architecture = &binary.architecture;
        let deb = files(Kind::Deb, binary)?;
        packages.add(deb::name(architecture), &deb::package(&deb, &libraries, architecture, date)?)?;
        packages.list(&about::contents(&deb::name(architecture), &deb));
        let rpm = files(Kind::Rpm, binary)?;
        packages.add(rpm::name(architecture), &rpm::package(&rpm, &libraries, architecture, date)?)?;
        packages.list(&about::contents(&rpm::name(architecture), &rpm));
    }
    for binary in &arguments.fixed {
        let libraries = needs::libraries(&binary.path)?;
        anyhow::ensure!(libraries.is_empty(), "{} is not static", binary.path.display());
        let architecture = &binary.architecture;
        let tarball = files(Kind::Tarball, binary)?;
        packages.add(tarball::name(architecture), &tarball::tarball(&tarball, architecture, date)?)?;
        packages.list(&about::contents(&tarball::name(architecture), &tarball));
        let content = fs::read(&binary.path)?;
        packages.add(image::name(architecture), &image::image(&content, architecture, date)?)?;
        let only = tarball.into_iter().filter(|file| file.path == image::PATH).collect::<Vec<_>>();
        packages.list(&about::contents(&image::name(architecture), &only));
    }
    packages.finish()
}

/// The folder that packages are written into.
struct Packages<'a> {
    to: &'a Path,
    sums: String,
    contents: String,
}

impl Packages<'_> {
    fn add(&mut self, name: String, content: &[u8]) -> Result<()> {
        self.write(&name, content)?;
        self.sums += &format!("{:x}  {name}\n", Sha256::digest(content));
        println!("{:>9} {}", content.len(), self.to.join(name).display());
        Ok(())
    }

    fn list(&mut self, contents: &str) {
        self.contents += contents;
    }

    /// Writes the lists.
    fn finish(mut self) -> Result<()> {
        let contents = std::mem::take(&mut self.contents);
        self.add("CONTENTS".into(), contents.as_bytes())?;
        self.write("SHA256SUMS", self.sums.as_bytes())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.to.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }
}

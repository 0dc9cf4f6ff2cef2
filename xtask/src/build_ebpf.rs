//! `build-ebpf`: builds the kernel programs, and puts them as reuseport-lb/objects/*.o beside the sources that include them.

#[path = "../../reuseport-lb/build/sources.rs"]
pub(crate) mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::build::target;
use crate::setup;
use crate::shell::{self, quietly, repository, step};

/// The manifest of the example.
const EXAMPLE: &str = "examples/key/rust/Cargo.toml";

const PACKAGE: &str = "reuseport-lb-ebpf";
const BUILT: &str = "ebpf/bpfel-unknown-none/release";

/// Kernel programs of reuseport-lb.
const OBJECTS: [&str; 4] = ["connections", "counting", "reuseport-lb", "trial"];

/// Builds those of reuseport-lb anew if their sources have changed.
pub(crate) fn run() -> Result<()> {
    if sources::are_those_of(&objects(), repository()) { Ok(()) } else { again() }
}

/// Builds the example of a key function in Rust, a workspace of its own, as target/ebpf/…/release/rtp.
pub(crate) fn example() -> Result<()> {
    let toolchain = setup::run()?;
    step("building the example of a key function in Rust", || {
        quietly(toolchain.cargo("build", "rtp", &target().join("ebpf"))?.args(["--manifest-path", EXAMPLE]))
    })?;
    Ok(())
}

/// Builds those of reuseport-lb anew.
pub(crate) fn again() -> Result<()> {
    let compiler = package(PACKAGE)?;
    fs::create_dir_all(objects())?;
    for name in OBJECTS {
        let path = objects().join(name).with_extension("o");
        fs::write(&path, without_dwarf(name)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let told = format!("{}\n{compiler}\n", sources::digest(repository())?);
    fs::write(objects().join(sources::NAME), told).context("cannot write which sources they are of")
}

/// Builds them anew and compares; other compilers may make other code. Returns whether it could compare.
pub(crate) fn compare() -> Result<bool> {
    let compiler = package(PACKAGE)?;
    let told = fs::read_to_string(objects().join(sources::NAME))?;
    if told.lines().nth(1) != Some(&compiler) {
        return Ok(false);
    }
    for name in OBJECTS {
        let path = objects().join(name).with_extension("o");
        ensure!(
            fs::read(&path)? == without_dwarf(name)?,
            "{} is not what its sources make: run `cargo xtask build-ebpf`",
            path.display()
        );
    }
    Ok(true)
}

/// Builds the kernel program or programs of a package, as target/ebpf/…/release. Cargo does nothing if they are up to
/// date. Returns the version of the compiler.
pub(crate) fn package(package: &str) -> Result<String> {
    let toolchain = setup::run()?;
    let build = || toolchain.cargo("build", package, &target().join("ebpf"));
    if !built("reuseport-lb").is_file() {
        eprintln!("  kernel program: {}", toolchain.describe());
    }
    step("building the kernel program", || {
        // If it fails, it runs once more with its output in view: the compiler's messages then keep their colours.
        quietly(&mut build()?).or_else(|_| shell::run(&mut build()?).map(|()| String::new()))
    })?;
    toolchain.version()
}

fn built(name: &str) -> PathBuf {
    target().join(BUILT).join(name)
}

/// Where the objects are that are included.
pub(crate) fn objects() -> PathBuf {
    repository().join("reuseport-lb/objects")
}

/// An object without what only debuggers read: nine tenths of it. BTF, which the kernel reads, stays.
fn without_dwarf(name: &str) -> Result<Vec<u8>> {
    let path = built(name);
    let object = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    stripped(&object).with_context(|| format!("{} is no object", Path::new(name).display()))
}

fn stripped(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        if section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM has put names of sections and of symbols into one table; this library writes two.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut written = Vec::new();
    builder.write(&mut written)?;
    Ok(written)
}

//! Key functions, compiled for the kernel and for this machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::world::{World, program, repository, run, target};

fn examples() -> PathBuf {
    repository().join("examples/key")
}

/// The object of an example in C, compiled as docs/PROGRAMMING.md says.
#[must_use]
pub(crate) fn object(world: &World, example: &str) -> PathBuf {
    compile(world, &examples().join(format!("{example}.c")), "bpfel")
}

/// The object of a function in C, which is written into a file of this name.
#[must_use]
pub(crate) fn object_of(world: &World, name: &str, source: &str) -> PathBuf {
    compile(world, &world.file(&format!("{name}.c"), source), "bpfel")
}

/// As an object for BPF of this byte order.
#[must_use]
pub(crate) fn compile(world: &World, source: &Path, target: &str) -> PathBuf {
    let object = world.path(source.file_name().unwrap().to_str().unwrap()).with_extension("o");
    let (clang, include) = (program("clang"), format!("-I{}", examples().display()));
    let files = [source, Path::new("-o"), &object].map(|path| path.display().to_string());
    let files = files.each_ref().map(String::as_str);
    let flags = ["-O2", "-g", "-target", target, "-Wall", "-Werror", &include, "-c"];
    run(&clang.display().to_string(), &[&flags[..], &files].concat());
    of_root_alone(object)
}

/// The object of the example in Rust: a copy, which is root's whoever has built it.
///
/// # Panics
/// If it is not built.
#[must_use]
pub(crate) fn object_of_rust(world: &World) -> PathBuf {
    let object = target().join("ebpf/bpfel-unknown-none/release/rtp");
    assert!(object.is_file(), "{} is not built: run `cargo xtask test`", object.display());
    let copy = world.path("rtp_in_rust.o");
    fs::copy(object, &copy).unwrap();
    of_root_alone(copy)
}

/// Nobody else may write to it, whatever the umask is.
fn of_root_alone(file: PathBuf) -> PathBuf {
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    file
}

/// An example compiled for this machine.
pub(crate) struct OnHost(PathBuf);

impl OnHost {
    #[must_use]
    pub(crate) fn of(world: &World, example: &str) -> Self {
        let file = world.path(&format!("{example}-on-host"));
        let include = format!("-I{}", examples().display());
        let example = format!("-DEXAMPLE=\"{example}.c\"");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/key_function/host.c");
        let (source, out) = (source.display().to_string(), file.display().to_string());
        run("cc", &["-O2", "-Wall", "-Werror", &include, &example, &source, "-o", &out]);
        Self(file)
    }

    /// The keys that it makes of datagrams with these payloads.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub(crate) fn keys(&self, payloads: &[Vec<u8>]) -> Vec<u32> {
        let mut host = Command::new(&self.0);
        let mut host = host.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = Vec::new();
        for payload in payloads {
            // Ports and checksum are of no interest to it (RFC 768).
            let length = 8 + payload.len() as u32;
            input.extend(length.to_le_bytes());
            input.extend([0; 4]);
            input.extend((length as u16).to_be_bytes());
            input.extend([0; 2]);
            input.extend(payload);
        }
        let mut stdin = host.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = host.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success(), "{} ended with {}", self.0.display(), output.status);
        let keys: Vec<u32> =
            String::from_utf8(output.stdout).unwrap().lines().map(|key| key.parse().unwrap()).collect();
        assert_eq!(keys.len(), payloads.len());
        keys
    }
}

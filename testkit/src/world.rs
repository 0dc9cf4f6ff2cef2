//! A network namespace and a BPF file system of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// The calling thread's own network and mount namespace, with loopback up, a bpffs and a directory
/// for files. Threads and processes that the thread starts are in it as well. All of it goes with
/// the last of them.
pub struct World {
    directory: TempDir,
}

impl World {
    /// Moves the calling thread into a new world.
    ///
    /// # Panics
    /// If that is not possible: these tests need root.
    #[must_use]
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests need root: run them with `sudo -E cargo xtask test`"
        );
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("cannot make namespaces of its own");
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
            .expect("cannot keep mounts to itself");
        let directory = tempfile::Builder::new().prefix("rlb").tempdir().expect("cannot make a directory");
        // Workers of other users must get through.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open).expect("cannot open the directory");
        let world = Self { directory };
        fs::create_dir(world.bpffs()).expect("cannot make a directory");
        mount(Some("bpf"), &world.bpffs(), Some("bpf"), MsFlags::empty(), nothing)
            .expect("cannot mount a BPF file system");
        run("ip", &["link", "set", "lo", "up"]);
        world
    }

    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.path("bpf")
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into its directory.
    #[must_use]
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("cannot write a file");
        path
    }

    /// A copy of an executable file, as `name` in its directory. Another process makes it: what is open
    /// for writing here, children of other tests may have open for a moment longer, and then nobody can
    /// execute it ("Text file busy").
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn program(&self, from: &Path, name: &str) -> PathBuf {
        let copy = self.path(name);
        if !copy.exists() {
            run("cp", &[&*from.to_string_lossy(), &*copy.to_string_lossy()]);
        }
        copy
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.bpffs(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Runs a command that must succeed; returns what it printed.
///
/// # Panics
/// If it is not there, with what to install, or if it fails, with what it said.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!(
            "cannot run {program}: {error}; `cargo xtask test` gets what the tests need, on Debian and Ubuntu"
        )
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?} failed: {out}{err}");
    out.into_owned()
}

#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Cargo's target folder, which this program was built into.
#[must_use]
pub fn target() -> PathBuf {
    target_of(&std::env::current_exe().unwrap_or_default())
        .map_or_else(|| repository().join("target"), Path::to_owned)
}

/// The folder that has one for each profile. Cargo marks it, with a file, only if it has made it.
fn target_of(program: &Path) -> Option<&Path> {
    let is_profile = |folder: &&Path| ["debug", "release"].iter().any(|profile| folder.ends_with(profile));
    program.ancestors().find(is_profile)?.parent()
}

/// Where a program is that tests need.
///
/// # Panics
/// If it is not there, with what to do.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = places.map(|directory| directory.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no {name}: `cargo xtask test` gets it on Debian and Ubuntu, elsewhere install it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_folder_of_any_name_is_found_without_cargos_mark() {
        for program in ["/var/elsewhere/debug/deps/words-0123", "/var/elsewhere/release/bench"] {
            assert_eq!(target_of(Path::new(program)), Some(Path::new("/var/elsewhere")));
        }
    }
}

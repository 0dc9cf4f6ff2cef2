//! Where commands of documents run as they stand: a world in which `/etc`, `/run`, `/srv` and `/sys/fs/bpf` are its own,
//! the binary under test is the first in PATH, and a shell remembers what was typed.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::daemon::{Daemon, Paths, binary, until};
use crate::documents::Block;
use crate::shape::difference;
use crate::shell::{Shell, Typed, typed};
use crate::units;
use crate::world::{World, repository, run};

/// The commands of a document are run in one site, in their order.
pub struct Site {
    daemon: Option<Daemon>,
    shell: Shell,
    world: World,
}

/// What the comment before a block says of it: `<!-- not run: REASON -->`, or `<!-- first: COMMAND -->`.
#[must_use]
pub fn remark<'a>(block: &'a Block, kind: &str) -> Option<&'a str> {
    let (_, remark) = block.before.split_once(&format!("<!-- {kind}: "))?;
    Some(remark.split_once(" -->").unwrap_or_else(|| panic!("line {}: no end of a comment", block.line)).0)
}

impl Site {
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let world = World::new();
        let nothing: Option<&str> = None;
        for folder in ["/run", "/srv"] {
            mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), nothing)
                .unwrap_or_else(|error| panic!("cannot mount {folder}: {error}"));
        }
        run("cp", &["-a", "/etc", &world.path("etc").to_string_lossy()]);
        for (own, usual) in [(world.path("etc"), "/etc"), (world.bpffs(), "/sys/fs/bpf")] {
            mount(Some(&own), usual, nothing, MsFlags::MS_BIND, nothing)
                .unwrap_or_else(|error| panic!("cannot mount {usual}: {error}"));
        }
        // Where testkit looks for the daemon, and where it is without options.
        symlink("/run/reuseport-lb", world.path("run")).expect("cannot link");
        for folder in ["bin", "home"] {
            fs::create_dir(world.path(folder)).expect("cannot make a folder");
        }
        symlink(binary(), world.path("bin/reuseport-lb")).expect("cannot link");
        symlink(repository().join("docs"), world.path("home/docs")).expect("cannot link");
        // As on a terminal, where curl shows no progress.
        fs::write(world.path("home/.curlrc"), "silent\nshow-error\n").expect("cannot write a file");
        let shell = Shell::open(in_home(&world));
        Self { daemon: None, shell, world }
    }

    /// The folder in which commands are run.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.world.path("home")
    }

    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The daemon that was started last.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon was started")
    }

    /// A command of its own, which bash runs where the others are run.
    #[must_use]
    pub fn bash(&self, command: &str) -> Command {
        let mut bash = in_home(&self.world);
        bash.args(["-c", command]);
        bash
    }

    /// Writes a file of a document, which may be executed if it begins as a script.
    ///
    /// # Panics
    /// If that fails, or the file would not be this site's own.
    pub fn write(&self, path: &str, text: &str) {
        let own = ["/etc/", "/run/", "/srv/"].iter().any(|folder| path.starts_with(folder));
        assert!(own, "{path} is a file of this machine: use one in /etc, /run or /srv");
        fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("cannot make a folder");
        fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
        if text.starts_with("#!") {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("cannot make it a program");
        }
    }

    /// Runs a command. `run` is a daemon in a terminal of its own, in place of the one before; each other command must
    /// say what is shown, and succeed unless an error is shown.
    ///
    /// # Panics
    /// If it does not.
    pub fn type_in(&mut self, typed: &Typed) {
        let Typed { command, shown } = typed;
        if command.starts_with("reuseport-lb run") {
            let _ = self.start(command);
            return;
        }
        let said = self.shell.run(command);
        let fails =
            shown.as_ref().is_some_and(|shown| shown.lines().any(|it| it.starts_with("reuseport-lb: ")));
        let log = || self.daemon.as_ref().map(Daemon::log).unwrap_or_default();
        assert_eq!(
            said.status != 0,
            fails,
            "`{command}` ended with {}: {}\n{}",
            said.status,
            said.text,
            log()
        );
        if let Some(difference) = shown.as_ref().and_then(|shown| difference(shown, &said.text)) {
            panic!("`{command}`: {difference}; it said:\n{}", said.text);
        }
    }

    /// Runs a command that goes on until Ctrl-C, until `there`, which gets what it said.
    ///
    /// # Panics
    /// If it ends before, or does not end by Ctrl-C.
    pub fn interrupt(&self, command: &str, there: impl Fn(&str) -> bool) {
        let log = self.world.path("said");
        let file = File::create(&log).expect("cannot make a file");
        // Programs write each line at once, as to a terminal; and Ctrl-C ends them where a runner in the background ignores it.
        let mut bash =
            self.bash(&format!("exec env --default-signal=INT stdbuf -oL bash -c {}", quoted(command)));
        bash.stdin(Stdio::null()).stdout(file.try_clone().expect("cannot share a file")).stderr(file);
        let mut child = bash.process_group(0).spawn().expect("cannot start bash");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        until(&format!("`{command}`"), || {
            let ended = child.try_wait().expect("cannot wait for it");
            assert!(ended.is_none(), "`{command}` ended with {ended:?}: {}", said());
            there(&said()).then_some(())
        });
        killpg(group, Signal::SIGINT).expect("it is there");
        until(&format!("the end of `{command}`"), || child.try_wait().expect("cannot wait for it"));
    }

    /// A daemon that stays until the next one is started, or this ends.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(&mut self, command: &str) -> &Daemon {
        self.end_daemon();
        let bash = self.bash(&format!("exec {command}"));
        self.daemon.insert(Daemon::start_as(&self.world, bash))
    }

    fn end_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take()
            && Paths::of(&self.world).status().is_some()
        {
            daemon.stop();
        }
    }

    /// Runs a block, as its language says.
    ///
    /// # Panics
    /// If something is not as the block shows it, or nothing is known of its language.
    pub fn run(&mut self, block: &Block) {
        if let Some(first) = remark(block, "first") {
            self.type_in(&Typed { command: first.into(), shown: None });
        }
        match (block.language.as_str(), block.path()) {
            ("", _) => typed(&block.text).iter().for_each(|it| self.type_in(it)),
            ("toml", path) => {
                path.into_iter().for_each(|path| self.write(path, &block.text));
                let file = self.home().join("block.toml");
                fs::write(&file, &block.text).expect("cannot write a file");
                let command = format!("reuseport-lb check --offline {}", file.display());
                self.type_in(&Typed { command, shown: None });
            }
            (_, Some(path)) => {
                self.write(path, &block.text);
                if path.ends_with(".service") {
                    let name = path.rsplit('/').next().unwrap_or(path);
                    units::verify(&self.world, &[(name, &block.text)]);
                }
            }
            (other, None) => panic!("nothing is known of blocks of {other:?}"),
        }
    }

    /// Ends the daemon in order.
    ///
    /// # Panics
    /// If it, or one before it, has left anything.
    pub fn end(mut self) {
        self.end_daemon();
        assert_eq!(Paths::of(&self.world).leftovers(), Vec::<PathBuf>::new());
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// As one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn in_home(world: &World) -> Command {
    let mut bash = Command::new("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    bash.env("PATH", format!("{}:{path}", world.path("bin").display())).env("HOME", world.path("home"));
    bash.current_dir(world.path("home"));
    bash
}

//! A terminal in which `top` runs: a pane of tmux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::daemon::{Paths, binary, is_alive, until};
use testkit::world::{World, program, run};

/// A terminal with a shell, in which [`Pane::start`] runs `top`.
pub(crate) struct Pane {
    socket: PathBuf,
    script: PathBuf,
    /// Where the script writes its process id, which is that of `top`.
    pid: PathBuf,
}

impl Pane {
    pub(crate) fn new(world: &World, environment: &str) -> Self {
        let pid = world.path("top.pid");
        let line = Paths::of(world).command(&["top"]);
        let words: Vec<_> = line.get_args().map(|word| word.to_string_lossy()).collect();
        let line = format!(
            // A shell whose command was ended by SIGINT goes on only if it expects that.
            "trap : INT\n{environment} sh -c 'echo $$ >{}; exec \"$@\"' sh {} {} \"$@\"\necho ended with $?\n",
            pid.display(),
            binary().display(),
            words.join(" ")
        );
        let pane = Self { socket: world.path("tmux"), script: world.file("top.sh", &line), pid };
        // A prompt that says nothing of the machine, and no start-up file.
        let shell = "env -u ENV -u NO_COLOR PS1='$ ' LC_ALL=C.UTF-8 sh";
        pane.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "30", shell]);
        pane.until("the shell", |text| text.starts_with("$").then_some(()));
        pane.line("echo what was there before");
        pane.shows("\nwhat was there before\n");
        pane
    }

    pub(crate) fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("tmux"));
        command.arg("-u").arg("-S").arg(&self.socket).args(arguments).env_remove("TMUX");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What [`Pane::start`] has the shell run.
    pub(crate) fn script(&self) -> &Path {
        &self.script
    }

    /// Types a line into the shell.
    pub(crate) fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Presses keys, as tmux calls them.
    pub(crate) fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    pub(crate) fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until `look` finds something on the screen.
    pub(crate) fn until<T>(&self, what: &str, look: impl Fn(&str) -> Option<T>) -> T {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(&format!("{what} in the terminal"), || {
                last = self.text();
                look(&last)
            })
        }));
        found.unwrap_or_else(|_| panic!("no {what}:\n{last}"))
    }

    pub(crate) fn shows(&self, text: &str) {
        self.until(text, |screen| screen.contains(text).then_some(()));
    }

    /// Waits for a line with all of `words`.
    pub(crate) fn shows_line(&self, words: &[&str]) {
        let has = |line: &str| words.iter().all(|word| line.contains(word));
        self.until(&words.join(" "), |screen| screen.lines().any(has).then_some(()));
    }

    /// Whether the alternate screen is shown, the cursor, and whether a paste is told from keys.
    pub(crate) fn modes(&self) -> String {
        self.tmux(&["display-message", "-p", "alternate #{alternate_on} cursor #{cursor_flag}"]).trim().into()
    }

    /// Settings of the terminal, as `stty` prints them.
    pub(crate) fn settings(&self) -> String {
        let terminal = self.tmux(&["display-message", "-p", "#{pane_tty}"]);
        run("stty", &["-a", "-F", terminal.trim()])
    }

    /// Starts `top`; returns its process.
    pub(crate) fn start(&self, arguments: &str) -> i32 {
        let _ = fs::remove_file(&self.pid);
        self.line(&format!("sh {} {arguments}", self.script.display()));
        self.shows("q quit  d drain");
        assert_eq!(self.modes(), "alternate 1 cursor 0");
        fs::read_to_string(&self.pid).unwrap().trim().parse().unwrap()
    }

    /// Waits until `top` has ended with this code, and asserts that the terminal is as it was.
    pub(crate) fn ended(&self, code: i32) {
        self.shows(&format!("ended with {code}\n"));
        let text = self.text();
        assert!(text.contains("\nwhat was there before\n"), "{text}");
        assert!(!text.contains("WORKER") && !text.contains("events"), "{text}");
        assert_eq!(self.modes(), "alternate 0 cursor 1");
    }
}

impl Drop for Pane {
    fn drop(&mut self) {
        // The next one may have the same socket.
        let server = Command::new(program("tmux"))
            .arg("-S")
            .arg(&self.socket)
            .args(["display-message", "-p", "#{pid}"])
            .output();
        let _ = Command::new(program("tmux")).arg("-S").arg(&self.socket).arg("kill-server").output();
        let server = server.ok().and_then(|it| String::from_utf8(it.stdout).ok()?.trim().parse().ok());
        if let Some(pid) = server.filter(|_| !std::thread::panicking()) {
            until("tmux to end", || (!is_alive(pid)).then_some(()));
        }
    }
}

//! A shell into which commands are typed, one after the other.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::patience::patience;

/// Begins the line that ends what a command says.
const END: &str = "\u{1}ended ";

/// A bash, with the variables, functions and jobs that its commands have made. What it has started ends with it.
pub struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

/// What came of a command.
#[derive(Debug)]
pub struct Said {
    /// Standard output and error, as they came.
    pub text: String,
    pub status: i32,
}

impl Shell {
    /// `bash` has folder and environment.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn open(mut bash: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("cannot make a pipe");
        let error = writer.try_clone().expect("cannot share the pipe");
        bash.arg("-O").arg("expand_aliases").stdin(Stdio::piped()).stdout(writer).stderr(error);
        let mut child = bash.process_group(0).spawn().expect("cannot start bash");
        // It has the pipe's other end, with which reading would not end.
        drop(bash);
        let (line, output) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
            lines.all(|it| line.send(String::from_utf8_lossy(&it).into_owned()).is_ok());
        });
        let input = child.stdin.take().expect("it is a pipe");
        Self { child, input, output }
    }

    /// Runs a command, whose standard input is empty.
    ///
    /// # Panics
    /// If it does not end, with what it said until then.
    pub fn run(&mut self, command: &str) -> Said {
        let line = format!("{{ {command}\n}} </dev/null\nprintf '\\n{END}%d\\n' $?\n");
        self.input.write_all(line.as_bytes()).expect("the shell has ended");
        let mut text = String::new();
        loop {
            let line = self.output.recv_timeout(2 * patience());
            let line = line.unwrap_or_else(|error| panic!("`{command}` does not end: {error}: {text}"));
            if let Some(status) = line.strip_prefix(END) {
                return Said { text, status: status.parse().expect("a number") };
            }
            text += &line;
            text.push('\n');
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A command of a document, and what the document shows of its output.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    pub command: String,
    /// `None` where the block shows no output at all.
    pub shown: Option<String>,
}

/// The commands of a block. If there are lines with a prompt, `$ ` or `# `, those begin commands, and all else is output;
/// else all is commands. A command goes on where the shell would wait for more.
#[must_use]
pub fn typed(block: &str) -> Vec<Typed> {
    let prompt = |line: &str| ["$ ", "# "].iter().find_map(|it| line.strip_prefix(it).map(str::to_owned));
    let prompts = block.lines().any(|line| prompt(line).is_some());
    let mut all: Vec<Typed> = Vec::new();
    for line in block.lines() {
        let begins = if prompts { prompt(line) } else { Some(line.to_owned()) };
        match (all.last_mut(), begins) {
            (Some(last), _) if last.shown.as_ref().is_none_or(String::is_empty) && goes_on(&last.command) => {
                last.command = format!("{}\n{line}", last.command);
            }
            (_, Some(command)) if !command.trim().is_empty() => {
                all.push(Typed { command, shown: prompts.then(String::new) });
            }
            (Some(Typed { shown: Some(shown), .. }), _) => *shown += &format!("{line}\n"),
            _ => {}
        }
    }
    all
}

/// Whether the shell waits for the rest of a command.
fn goes_on(command: &str) -> bool {
    let output = Command::new("bash").args(["-n", "-c", command]).output().expect("cannot run bash");
    command.ends_with('\\') || !output.stderr.is_empty()
}

#[cfg(test)]
mod tests {
    use super::{Typed, typed};

    #[test]
    fn a_prompt_begins_a_command_that_goes_on_until_it_is_whole() {
        let is = |block: &str, wanted: &[(&str, Option<&str>)]| {
            let wanted: Vec<Typed> = wanted
                .iter()
                .map(|(command, shown)| Typed { command: (*command).into(), shown: shown.map(str::to_owned) })
                .collect();
            assert_eq!(typed(block), wanted, "{block}");
        };
        is("a\n\nb \\\n  c\n", &[("a", None), ("b \\\n  c", None)]);
        is("$ a\n1\n\n2\n# b 'x\ny'\n", &[("a", Some("1\n\n2\n")), ("b 'x\ny'", Some(""))]);
        is(
            "cat <<E\n$x\nE\nfor n in 1; do\n  a\ndone\n",
            &[("cat <<E\n$x\nE", None), ("for n in 1; do\n  a\ndone", None)],
        );
    }
}

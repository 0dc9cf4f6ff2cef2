//! Whether this thread may execute a file: checks the file, the interpreter of a script, and the loader that a
//! program names. And where a command is.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::kernel::host::{self, Access};
use crate::kernel::probe;

/// How many scripts the kernel follows, each the interpreter of the one before (`exec_binprm`, fs/exec.c).
const DEPTH: usize = 5;

/// Bytes that the kernel reads of a file to find out its format (BINPRM_BUF_SIZE).
const HEAD: usize = 256;

/// Why a file cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A file is missing, or is wrong, whichever user executes it; says which.
    Missing(String),
    /// This thread's user has no permission; says for which path.
    Closed(String),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Missing(why) | Self::Closed(why)) = self;
        f.write_str(why)
    }
}

impl Obstacle {
    fn within(self, program: &Path) -> Self {
        let inside = |why: &str| format!("{}: {why}", program.display());
        match self {
            Self::Missing(why) => Self::Missing(inside(&why)),
            Self::Closed(why) => Self::Closed(inside(&why)),
        }
    }
}

/// Fails with what keeps this thread from executing `program`.
pub fn look(program: &Path) -> Result<(), Obstacle> {
    follow(program, DEPTH)
}

/// Whether a file is a script (`#!`); fails if this thread cannot read it.
pub fn is_script(program: &Path) -> io::Result<bool> {
    let mut start = [0; 2];
    File::open(program)?.read_exact(&mut start)?;
    Ok(&start == b"#!")
}

fn follow(program: &Path, depth: usize) -> Result<(), Obstacle> {
    reach(program, Access::EXEC_OK)?;
    let file = match File::open(program) {
        Ok(file) => file,
        // A program may be executed without being read. A script may not: callers find that out with `is_script`.
        Err(_) => return Ok(()),
    };
    let mut head = Vec::new();
    if (&file).take(HEAD as u64).read_to_end(&mut head).is_err() {
        return Ok(());
    }
    if head.starts_with(b"\x7fELF") {
        return loader(&file, &head).map_or(Ok(()), |loader| {
            let needed = |_| {
                Obstacle::Missing(format!("it needs the loader {}, which is not there", loader.display()))
            };
            fs::metadata(&loader).map(drop).map_err(needed)
        });
    }
    let Some(line) = head.strip_prefix(b"#!") else { return Ok(()) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    if depth == 0 {
        return Err(Obstacle::Missing(
            "its interpreter is a script, whose interpreter is one, and so on".into(),
        ));
    }
    script(&line, depth).map_err(|obstacle| obstacle.within(program))
}

/// Follows the first line of a script, without its `#!`.
fn script(line: &str, depth: usize) -> Result<(), Obstacle> {
    if line.ends_with('\r') {
        let why = "its first line ends in a carriage return, as in files of Windows, which the kernel takes for a part \
                   of the interpreter's name: save it with line feeds alone";
        return Err(Obstacle::Missing(why.into()));
    }
    let line = line.trim_matches([' ', '\t']);
    let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if name.is_empty() {
        return Err(Obstacle::Missing("its first line is #! without an interpreter".into()));
    }
    let interpreter = Path::new(name);
    if is_missing(interpreter) {
        return Err(Obstacle::Missing(format!(
            "its first line names the interpreter {name}, which is not there"
        )));
    }
    let closed = |obstacle| match obstacle {
        Obstacle::Closed(why) => {
            Obstacle::Closed(format!("its first line names the interpreter {name}: {why}"))
        }
        missing => missing,
    };
    follow(interpreter, depth - 1).map_err(closed)?;
    if interpreter.file_name().is_some_and(|name| name == "env") {
        return env(rest.trim()).map_or(Ok(()), |program| asked(program, depth));
    }
    Ok(())
}

/// Checks the program that env(1) would execute.
fn asked(program: &str, depth: usize) -> Result<(), Obstacle> {
    let missing = || {
        let hint = if program.contains(' ') { " (`env -S` splits its argument)" } else { "" };
        Obstacle::Missing(format!(
            "its first line asks env for {program:?}, which is in no directory of PATH{hint}"
        ))
    };
    let path: PathBuf = which::which(program).map_err(|_| missing())?;
    follow(&path, depth - 1)
}

/// The program in the arguments of env(1), which the kernel passes as one.
fn env(argument: &str) -> Option<&str> {
    let split = ["-S", "--split-string=", "-vS"].iter().find_map(|option| argument.strip_prefix(option));
    let Some(words) = split else {
        return Some(argument).filter(|it| !it.is_empty() && !it.starts_with('-'));
    };
    words.split_whitespace().find(|word| !word.starts_with('-') && !word.contains('='))
}

fn is_missing(path: &Path) -> bool {
    match path.metadata() {
        Ok(about) => !about.is_file(),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// Fails unless this thread may access `path` as `what` says; names the directory on the way that is closed, if one is.
fn reach(path: &Path, what: Access) -> Result<(), Obstacle> {
    let Err(error) = host::reaches(path, what) else { return Ok(()) };
    if error.kind() != ErrorKind::PermissionDenied {
        return Err(Obstacle::Missing(format!("{}: {error}", path.display())));
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let closed = whole.parent().and_then(probe::closed);
    let (part, error) = closed.unwrap_or((whole, error));
    Err(Obstacle::Closed(format!("{}: {error}", part.display())))
}

/// The loader that a 64-bit program wants (PT_INTERP, elf(5)).
fn loader(file: &File, head: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let little_64 = head.get(4..6)? == [2, 1];
    if !little_64 {
        return None;
    }
    let u64_in = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let u16_in = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (offset, size, count) = (u64_in(head, 32)?, u16_in(head, 54)?, u16_in(head, 56)?);
    let read = |at: u64, length: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).map(|()| bytes)
    };
    for number in 0..u64::from(count.min(64)) {
        let header = read(offset + number * u64::from(size), usize::from(size)).ok()?;
        if header.get(..4)? == PT_INTERP.to_le_bytes() {
            let length = usize::try_from(u64_in(&header, 32)?).ok().filter(|length| *length <= 4096)?;
            let name = read(u64_in(&header, 8)?, length).ok()?;
            return Some(String::from_utf8(name).ok()?.trim_end_matches('\0').into());
        }
    }
    None
}

/// The path of `program`, which is a path itself or a name in PATH, as this process finds it.
pub fn find_program(program: &str) -> Result<PathBuf, String> {
    find_program_from(program, None, &current_directory())
}

/// The path of `program`, as a process finds it with this PATH (`None`: the one of this process) and working directory.
pub fn find_program_from(program: &str, path: Option<&str>, directory: &Path) -> Result<PathBuf, String> {
    let path = path.map(Into::into).or_else(|| std::env::var_os("PATH"));
    which::which_in(program, path, directory).map_err(|_| {
        let where_to = if program.contains('/') {
            format!("there is no executable file {program}, seen from {}", directory.display())
        } else {
            format!("no executable {program} in the directories of PATH")
        };
        format!("command not found: {where_to}")
    })
}

/// The working directory of this process.
#[must_use]
pub fn current_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| Path::new(".").into())
}

/// Fails with what keeps this thread from working in a directory.
pub fn look_into(directory: &Path) -> Result<(), String> {
    match directory.metadata() {
        Ok(about) if !about.is_dir() => Err("Not a directory".into()),
        Ok(_) => reach(directory, Access::EXEC_OK).map_err(|obstacle| obstacle.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn interpreters_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let inner = script("inner", "#!/bin/sh\n");
        for text in [
            "#!/bin/sh\n",
            "#! /bin/sh -e\n",
            "#!/bin/sh",
            "no first line of that kind\n",
            "",
            "#!/usr/bin/env sh\n",
            "#!/usr/bin/env -S sh -e\n",
            "#!/usr/bin/env -S A=b sh\n",
            &format!("#!{}\n", inner.display()),
        ] {
            assert_eq!(look(&script("good", text)), Ok(()), "{text}");
        }
        let broken = script("broken", "#!/no/such/interpreter\n");
        for (text, says) in [
            ("#!/no/such/interpreter -x\n", "names the interpreter /no/such/interpreter, which is not there"),
            ("#!/usr\n", "names the interpreter /usr, which is not there"),
            ("#!\n", "without an interpreter"),
            ("#!/bin/sh\r\n", "carriage return"),
            ("#!/usr/bin/env no-such-program\n", "asks env for \"no-such-program\""),
            ("#!/usr/bin/env sh -e\n", "`env -S` splits"),
            ("#!/usr/bin/env -S no-such-program -x\n", "asks env for \"no-such-program\""),
            (&format!("#!{}\n", broken.display()), "names the interpreter /no/such/interpreter"),
        ] {
            match look(&script("bad", text)) {
                Err(Obstacle::Missing(why)) => {
                    assert!(why.contains(says) && why.contains("/bad: "), "{text}: {why}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let itself = directory.path().join("itself");
        script("itself", &format!("#!{}\n", itself.display()));
        assert!(matches!(look(&itself), Err(Obstacle::Missing(why)) if why.contains("and so on")));
    }

    #[test]
    fn a_loader_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let wanted = loader(&File::open("/proc/self/exe").unwrap(), &own[..HEAD]);
        // A static build has no loader.
        let Some(wanted) = wanted else { return };
        assert!(wanted.is_file(), "{wanted:?}");
        let name = wanted.to_str().unwrap().as_bytes();
        let at = own.windows(name.len()).position(|window| window == name).unwrap();
        let mut other = own[..at + name.len() + 1].to_vec();
        other[at + name.len() - 1] = b'!';
        let path = directory.path().join("other");
        fs::write(&path, other).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(look(&path), Err(Obstacle::Missing(why)) if why.contains("needs the loader")));
    }
}

//! Man pages and completions, from the definition of the command line.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::builder::Resettable;
use clap::{Command, CommandFactory as _};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use reuseport_lb::cli::Cli;
use reuseport_lb::cmd::COMPLETE;

use crate::about::NAME;

/// The file of each shell's completions. They ask the program itself, which asks the daemon.
const SHELLS: [(&dyn EnvCompleter, &str); 3] =
    [(&Bash, "reuseport-lb.bash"), (&Fish, "reuseport-lb.fish"), (&Zsh, "_reuseport-lb")];

/// zsh reads the file when it first needs it, as the body of a function that is to complete at once.
const COMPLETE_AT_ONCE: &str =
    "[ \"$funcstack[1]\" = _reuseport-lb ] && _clap_dynamic_completer_reuseport_lb \"$@\"\n";

/// Writes all of them into `folder`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (file, page) in pages()? {
        fs::write(folder.join(&file), page).with_context(|| format!("cannot write {file}"))?;
    }
    for (shell, file) in SHELLS {
        let mut script = Vec::new();
        shell.write_registration(COMPLETE, NAME, NAME, NAME, &mut script)?;
        if shell.is("zsh") {
            script.extend(COMPLETE_AT_ONCE.as_bytes());
        }
        fs::write(folder.join(file), script).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}

/// The man pages of the program and of each of its commands, by the names of their files.
fn pages() -> Result<Vec<(String, String)>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    let mut commands = vec![&program];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|it| !it.is_hide_set()));
        pages.push((Man::new(command.clone()).get_filename(), page(command)?));
    }
    Ok(pages)
}

/// The text below a command's help goes in parts where man-pages(7) has them.
fn page(command: &Command) -> Result<String> {
    let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    Man::new(command.clone().after_help(Resettable::Reset)).render(&mut page)?;
    let page = String::from_utf8(page)?;
    let (most, version) = page.split_at(page.find(".SH VERSION").unwrap_or(page.len()));
    let (mut examples, mut codes, mut notes) = (Roff::new(), Roff::new(), Roff::new());
    for part in below.split("\n\n").filter(|part| !part.is_empty()) {
        if let Some(lines) = part.strip_prefix("Examples:\n") {
            examples.control("SH", ["EXAMPLES"]).control("nf", []);
            for line in lines.lines() {
                examples.text([roman(line)]);
            }
            examples.control("fi", []);
        } else if let Some(text) = part.strip_prefix("Exit codes: ") {
            codes.control("SH", ["EXIT STATUS"]).text([roman(text)]);
        } else {
            let first = notes == Roff::new();
            if first { notes.control("SH", ["NOTES"]) } else { notes.control("PP", []) }.text([roman(part)]);
        }
    }
    let [codes, notes, examples] = [codes, notes, examples].map(|part| part.to_roff());
    Ok([most, &codes, &notes, &examples, version].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections in the order of man-pages(7), with three that it does not have.
    const ORDER: [&str; 10] = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "OPTIONS OF EVERY COMMAND",
        "SUBCOMMANDS",
        "EXIT STATUS",
        "NOTES",
        "EXAMPLES",
        "VERSION",
    ];

    #[test]
    fn sections_of_man_pages_have_usual_names_in_the_usual_order() {
        let pages = pages().unwrap();
        for (file, page) in &pages {
            let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            let place = |name: &&str| ORDER.iter().position(|it| it == &name.trim_matches('"'));
            let places: Vec<_> = sections.iter().map(|name| place(name).ok_or(*name)).collect();
            assert!(places.iter().all(Result::is_ok) && places.is_sorted(), "{file}: {sections:?}");
        }
        let of = |name: &str| &pages.iter().find(|(file, _)| file == name).unwrap().1;
        assert!(of("reuseport-lb-drain.1").contains("\n.SH EXAMPLES\n.nf\n  reuseport\\-lb drain web/2\n"));
        assert!(of("reuseport-lb-doctor.1").contains(".SH \"EXIT STATUS\"\n0 no failure, 1 at least one"));
    }
}

//! Tests of the command line and of its help texts.

use clap::Arg;

use super::*;

const CONFIGURATION: &str = include_str!("../../../docs/CONFIGURATION.md");

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_go_before_and_after_the_command() {
    for line in [["x", "--runtime-dir", "/r", "status"], ["x", "status", "--runtime-dir", "/r"]] {
        assert_eq!(Cli::parse_from(line).global.runtime_dir, PathBuf::from("/r"));
    }
}

/// A line that is wrapped at the width of a terminal and goes on in the next one leaves a single word on a line.
#[test]
fn paragraphs_of_help_texts_are_single_lines() {
    let mut whole = Cli::command();
    whole.build();
    for command in [&whole].into_iter().chain(whole.get_subcommands()) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let name = command.get_name();
            assert!(
                line.starts_with("  ") || line.ends_with(':') || line.is_empty() || next.is_empty(),
                "{name}: {line}"
            );
            assert!(!line.starts_with("  ") || line.chars().count() <= 100, "{name}: {line}");
        }
    }
}

#[test]
fn every_option_of_run_is_documented_with_its_default() {
    let whole = Cli::command();
    let run = whole.find_subcommand("run").expect("a command");
    let begin = CONFIGURATION.find("## The command line").expect("a chapter");
    let (synopsis, table) = CONFIGURATION[begin..].split_once("| option |").expect("a table");
    for argument in run.get_arguments().filter(|it| it.get_long().is_some()) {
        let name = format!("--{}", argument.get_long().unwrap_or_default());
        let default = argument.get_default_values().first().map(|it| it.to_string_lossy().into_owned());
        let row = table.lines().find(|line| line.starts_with(&format!("| `{name} "))).unwrap_or_default();
        assert!(!row.is_empty() && synopsis.contains(&name), "docs/CONFIGURATION.md lacks {name}");
        if let Some(default) = default {
            assert!(
                row.contains(&format!("| {default} |")) || row.contains(&format!("| `{default}` |")),
                "{row}: {default}"
            );
        }
    }
    // A file says all of that itself; some overrule it.
    let overrule = ["agent", "config", "http", "monitors", "log_format"];
    let others = run.get_arguments().map(Arg::get_id).filter(|id| !overrule.contains(&id.as_str()));
    for other in others {
        let config = run.get_arguments().find(|it| it.get_id() == "config").expect("an option");
        let excluded = run.get_arg_conflicts_with(config).into_iter().any(|it| it.get_id() == other);
        assert!(excluded, "--config with {other}");
    }
}

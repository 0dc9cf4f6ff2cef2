//! Completions in bash, zsh and fish, set up as docs/INSTALL.md has it, beside a daemon and without one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;

use testkit::site::Site;
use testkit::world::program;

/// What each shell does when TAB is pressed, without a terminal. Arguments: the words after the program.
const BASH: &str = r#"
source <(REUSEPORT_LB_COMPLETE=bash reuseport-lb)
function=$(complete -p reuseport-lb | sed 's/.* -F \([^ ]*\) .*/\1/')
COMP_WORDS=(reuseport-lb "$@") COMP_CWORD=$# COMP_TYPE=9
$function reuseport-lb "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\n' "${COMPREPLY[@]}""#;

const ZSH: &str = r#"
compdef() { completes=$1 }
_describe() { print -l -- ${(P)argv[3]} }
source <(REUSEPORT_LB_COMPLETE=zsh reuseport-lb)
words=(reuseport-lb "$@") CURRENT=$(($# + 1))
$completes"#;

const FISH: &str = r#"
REUSEPORT_LB_COMPLETE=fish reuseport-lb | source
complete --do-complete "reuseport-lb $argv""#;

/// What a shell offers besides options, without what it says of each.
fn offered(site: &Site, shell: &str, words: &[&str]) -> BTreeSet<String> {
    let (before, script, after) = match shell {
        "bash" => ("-c", BASH, &["bash"][..]),
        "zsh" => ("-fc", ZSH, &["zsh"][..]),
        _ => ("--no-config", FISH, &[][..]),
    };
    let mut command = site.bash(r#"exec "$0" "$@""#);
    command.arg(program(shell)).arg(before);
    if shell == "fish" {
        command.arg("--command");
    }
    let output = command.arg(script).args(after).args(words).output().unwrap();
    assert!(output.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(['\t', ':', ' ']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('-')).map(Into::into).collect()
}

/// What all of them offer.
fn assert_offered(site: &Site, words: &[&str], wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|it| (*it).into()).collect();
    for shell in ["bash", "zsh", "fish"] {
        assert_eq!(offered(site, shell, words), wanted, "{shell}: {words:?}");
    }
}

#[test]
fn services_and_workers_that_there_are_complete_in_each_shell() {
    let mut site = Site::new();
    let text = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 2\n\
                [[service]]\nname = \"media\"\nlisten = [\"udp://127.0.0.1:5004\"]\nworkers = 1\n";
    site.write("/etc/reuseport-lb.toml", text);
    assert_offered(&site, &["drain", ""], &[]);
    let _ = site.start("reuseport-lb run --config /etc/reuseport-lb.toml");
    assert_offered(&site, &["sta"], &["status"]);
    assert_offered(&site, &["scale", ""], &["media", "web"]);
    assert_offered(&site, &["drain", ""], &["media/0", "web/0", "web/1"]);
    assert_offered(&site, &["restart", "w"], &["web", "web/0", "web/1"]);
    let _ = site.daemon().run(&["scale", "web", "3"]);
    assert_offered(&site, &["drain", "web/"], &["web/0", "web/1", "web/2"]);
    site.end();
}

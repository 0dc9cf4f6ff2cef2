//! Tests of valid configuration files, and of the errors of invalid ones.

use std::time::Duration;

use proptest::prelude::*;

use super::process::{Cpus, ProcessConfig};
use super::{parse as parse_with, *};
use crate::daemon::HERE;

/// Parses with the users of this machine.
fn parse(text: &str) -> Result<Vec<ServiceConfig>, Invalid> {
    parse_with(text, HERE).map(|all| all.services)
}

const MINIMAL: &str = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]\n";

#[test]
fn a_minimal_service_has_the_defaults() {
    let services = parse(MINIMAL).unwrap();
    assert_eq!(services, [ServiceConfig::new("web", vec!["tcp://127.0.0.1:80".parse().unwrap()], 0)]);
    let service = &services[0];
    assert_eq!(service.stall_timeout, Some(Duration::from_secs(1)));
    assert_eq!(service.overload, Some(Overload { factor: 2.0, floor: 16 }));
    assert_eq!(service.watchdog, None);
}

#[test]
fn workers_of_its_own_need_a_command_or_a_number() {
    for (added, workers) in
        [("", 0), ("workers = 3", 3), ("command = [\"x\"]", 1), ("command = [\"x\"]\nworkers = 0", 0)]
    {
        assert_eq!(parse(&format!("{MINIMAL}{added}\n")).unwrap()[0].workers, workers, "{added}");
    }
}

#[test]
fn every_key_is_read() {
    let minimal = MINIMAL.replace("\"]", "\", \"udp://127.0.0.1:80\"]");
    let text = format!(
        "{minimal}command = [\"./server\", \"--fd\", \"3\"]\nworkers = 4\naffinity = \"source\"\nready = \"500ms\"\n\
         on_crash = \"migrate\"\nhold_timeout = \"3s\"\ndrain_timeout = \"1m 30s\"\nwhen_empty = \"reject\"\n\
         backlog = 17\nuser = \"root\"\nstall_timeout = \"250ms\"\noverload = {{ factor = 3, floor = 40 }}\n\
         watchdog = \"10ms\"\nidle_timeout = \"5s\"\nwhen_busy = \"next\"\nflows = \"none\"\n\
         stop_signal = \"sigusr1\"\nstop_mode = \"main\"\n"
    );
    let service = parse(&text).unwrap().remove(0);
    assert_eq!(service.command, ["./server", "--fd", "3"]);
    assert_eq!((service.workers, service.backlog), (4, 17));
    assert_eq!((service.affinity, service.when_empty), (Affinity::Source, WhenEmpty::Reject));
    assert_eq!((service.when_busy, service.flows), (WhenBusy::Next, Flows::None));
    assert_eq!(service.stop, StopSettings { signal: StopSignal::Usr1, mode: StopMode::Main });
    assert_eq!(
        (service.on_crash, service.ready),
        (OnCrash::Migrate, Ready::After(Duration::from_millis(500)))
    );
    assert_eq!(
        (service.hold_timeout, service.drain_timeout),
        (Duration::from_secs(3), Duration::from_secs(90))
    );
    assert_eq!(service.user.as_deref(), Some("root"));
    assert_eq!(service.idle_timeout, Duration::from_secs(5));
    assert_eq!(
        (service.stall_timeout, service.watchdog),
        (Some(Duration::from_millis(250)), Some(Duration::from_millis(10)))
    );
    assert_eq!(service.overload, Some(Overload { factor: 3.0, floor: 40 }));
}

#[test]
fn what_can_be_off_is_off() {
    let text = format!("{MINIMAL}stall_timeout = \"off\"\noverload = \"off\"\nwatchdog = \"off\"\n");
    let service = parse(&text).unwrap().remove(0);
    assert_eq!((service.stall_timeout, service.overload, service.watchdog), (None, None, None));
}

#[test]
fn an_overload_table_says_what_differs_from_the_default() {
    for (added, factor, floor) in [
        ("overload = {}", 2.0, 16),
        ("overload = { floor = 1 }", 2.0, 1),
        ("overload = { factor = 1.0 }", 1.0, 16),
        ("[service.overload]\nfactor = 1.5", 1.5, 16),
    ] {
        let service = parse(&format!("{MINIMAL}{added}\n")).unwrap().remove(0);
        assert_eq!(service.overload, Some(Overload { factor, floor }), "{added}");
    }
}

#[test]
fn a_service_survives_json() {
    let mut service = ServiceConfig::demo();
    for ready in [Ready::Notify, Ready::Immediate, Ready::After(Duration::new(90_061, 123_456_789))] {
        service.ready = ready;
        let text = serde_json::to_string(&service).unwrap();
        assert!(text.contains("\"tcp://[::1]:8080\""), "{text}");
        assert_eq!(serde_json::from_str::<ServiceConfig>(&text).unwrap(), service);
    }
    service.command = vec!["./server".into(), "\"--fd\"".into()];
    service.affinity = Affinity::Source;
    service.on_crash = OnCrash::Migrate;
    service.when_empty = WhenEmpty::Reject;
    service.when_busy = WhenBusy::Next;
    service.user = Some("root".into());
    service.watchdog = Some(Duration::from_millis(10));
    for overload in [None, Some(Overload { factor: 4.0 / 3.0, floor: u32::MAX })] {
        service.overload = overload;
        service.stall_timeout = overload.map(|_| Duration::new(1, 1));
        let text = serde_json::to_string(&service).unwrap();
        assert_eq!(serde_json::from_str::<ServiceConfig>(&text).unwrap(), service);
    }
}

proptest! {
    #[test]
    fn a_factor_survives_json(factor in 1.0..f64::MAX) {
        let overload = Overload { factor, floor: 1 };
        let text = serde_json::to_string(&overload).unwrap();
        prop_assert_eq!(serde_json::from_str::<Overload>(&text).unwrap(), overload);
    }
}

#[test]
fn errors_name_the_line_and_the_fix() {
    for (added, line, says) in [
        ("wrokers = 4", 4, "unknown field `wrokers`: did you mean `workers`?"),
        ("workers = \"4\"", 4, "`workers` cannot be \"4\": write a whole number from 0 to 1024"),
        ("workers = 1025", 4, "at most 1024"),
        ("workers = -1", 4, "from 0 to 1024"),
        (
            "affinity = \"client\"",
            4,
            "`affinity` cannot be \"client\": write \"flow\", \"source\", \"random\", \"cpu\" or a table like { payload",
        ),
        ("ready = \"soon\"", 4, "\"notify\", \"immediate\" or a time"),
        ("hold_timeout = 2", 4, "a time like"),
        ("hold_timeout = \"2 parsecs\"", 4, "is not a time"),
        ("hold_timeout = \"40000y\"", 4, "one year"),
        ("backlog = 0", 4, "from 1 to 4294967295"),
        ("command = []", 4, "`command` is empty"),
        ("user = \"no-such-user\"", 4, "no user"),
        ("user = -1", 4, "no user \"-1\""),
        ("user = 4294967295", 4, "no user"),
        ("user = true", 4, "the name or the number of a user"),
        ("idle_timeout = \"99ms\"", 4, "the least is 100ms"),
        ("idle_timeout = \"off\"", 4, "is not a time"),
        ("stall_timeout = \"9ms\"", 4, "the least is 10ms"),
        ("stall_timeout = \"0s\"", 4, "\"off\" turns it off"),
        ("stall_timeout = \"never\"", 4, "is not a time"),
        ("stall_timeout = 1", 4, "\"off\" or a time like"),
        ("stall_timeout = false", 4, "\"off\" or a time like"),
        ("when_busy = \"wait\"", 4, "\"queue\" or \"next\""),
        ("flows = \"off\"", 4, "\"track\" or \"none\""),
        ("count_connections = \"yes\"", 4, "true or false"),
        ("drain_until = \"empty\"", 4, "\"queue\" or \"connections\""),
        ("balance = \"leastconn\"", 4, "\"table\", \"least\" or a table like { bounded = 1.25 }"),
        ("balance = { bounded = 1.0 }", 4, "from 1.01 to 100"),
        ("balance = { bounded = nan }", 4, "from 1.01 to 100"),
        ("balance = { bounded = \"2\" }", 4, "a number from 1.01 to 100"),
        ("when_busy = \"next\"\nbalance = \"least\"", 5, "leave one of them out"),
        (
            "\n[[service]]\nname = \"b\"\nlisten = [\"udp://127.0.0.1:80\"]\nbalance = \"least\"",
            8,
            "no tcp:// listener",
        ),
        (
            "\n[[service]]\nname = \"b\"\nlisten = [\"udp://127.0.0.1:80\"]\nwhen_busy = \"next\"",
            8,
            "no tcp:// listener",
        ),
        (
            "\n[[service]]\nname = \"b\"\nlisten = [\"tcp://127.0.0.1:81\"]\nflows = \"none\"",
            8,
            "no udp:// listener",
        ),
        ("watchdog = \"on\"", 4, "is not a time"),
        ("watchdog = \"1ms\"", 4, "the least is 10ms"),
        ("stop_signal = \"KILL\"", 4, "write TERM, QUIT, INT"),
        ("stop_signal = 15", 4, "write \"TERM\", \"QUIT\""),
        ("stop_mode = \"all\"", 4, "write \"group\" or \"main\""),
        ("overload = \"on\"", 4, "\"off\" or a table like"),
        ("overload = 2.0", 4, "\"off\" or a table like"),
        ("overload = { factor = 0.9 }", 4, "from 1.0 on"),
        ("overload = { factor = nan }", 4, "from 1.0 on"),
        ("overload = { factor = inf }", 4, "from 1.0 on"),
        ("overload = { factor = \"2\" }", 4, "`factor` cannot be \"2\": write a number from 1.0 on"),
        ("overload = { floor = 0 }", 4, "from 1 to"),
        ("overload = { floor = -1 }", 4, "from 1 to"),
        ("overload = { roof = 1 }", 4, "unknown field `roof`"),
        (
            "affinity = { paylod = { length = 4 } }",
            4,
            "`affinity` cannot be { paylod = … }: write \"flow\", \"source\", \"random\", \"cpu\" or a table like",
        ),
        ("affinity = { program = 5 }", 4, "cannot be { program = 5 }: write \"flow\""),
        ("affinity = {}", 4, "`affinity` cannot be {}: write \"flow\""),
        ("affinity = { payload = {} }", 4, "missing field `length`: `payload` needs it"),
        ("affinity = { payload = { ofset = 1, length = 1 } }", 4, "did you mean `offset`?"),
        ("affinity = { payload = { length = 300 } }", 4, "`length` cannot be 300: write a whole number"),
        ("balance = { bound = 2 }", 4, "`balance` cannot be { bound = … }: write \"table\", \"least\""),
        ("workers = 1\n[service.overload]\nfloor = 1\nfactor = 0", 7, "from 1.0 on"),
        ("\n[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:81\"]", 6, "two services"),
        ("\n[[service]]\nname = \"b\"\nlisten = [\"tcp://127.0.0.1:80\"]", 7, "belongs to service \"web\""),
        ("\n[[service]]\nname = \"b\"\nlisten = [\"tcp://127.0.0.1\"]", 7, "the port"),
        ("\n[[service]]\nname = \"b/c\"\nlisten = [\"tcp://127.0.0.1:81\"]", 6, "is not a name"),
        ("\n[[service]]\nname = \"b\"\nlisten = []", 6, "listens on nothing"),
        ("\n[[service]]\nlisten = []", 5, "missing field `name`: each service needs it"),
        ("= 4", 4, ""),
    ] {
        let Invalid(error) = parse(&format!("{MINIMAL}{added}\n")).unwrap_err();
        assert!(error.starts_with(&format!("line {line}:")), "{added}: {error}");
        assert!(error.contains(says), "{added}: {error}");
    }
    assert!(parse("").unwrap_err().0.contains("[[service]]"));
}

#[test]
fn what_a_process_is_started_with_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.env");
    std::fs::write(&file, "A=of the file\nB=2\n").unwrap();
    let text = format!(
        "{MINIMAL}command = [\"x\", \"{{index}}\"]\nuser = 12345\ngroup = \"54321\"\nenv_file = {file:?}\n\
         cwd = \"/srv/{{worker}}\"\numask = \"027\"\nnice = -5\nopen_files = 4096\ncpus = \"each\"\n\
         env = {{ A = \"{{pid}}\", C = \"\" }}\nlog = {{ file = \"/l/{{index}}\" }}\n"
    );
    let service = parse(&text).unwrap().remove(0);
    let variables = |of: &[(&str, &str)]| of.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
    let file_variables = variables(&[("A", "of the file"), ("B", "2")]);
    assert_eq!(service.user.as_deref(), Some("12345"));
    let process = ProcessConfig {
        env: variables(&[("A", "{pid}"), ("C", "")]),
        env_file: Some(process::EnvFile { path: file.clone(), variables: file_variables }),
        cwd: Some("/srv/{worker}".into()),
        umask: Some(0o27),
        nice: Some(-5),
        open_files: Some(4096),
        cpus: Cpus::Each,
        group: Some("54321".into()),
        log: process::LogTo::File(process::LogFile { path: "/l/{index}".into(), max: 10 << 20, keep: 3 }),
    };
    assert_eq!(service.process, process);
    let json = serde_json::to_string(&service).unwrap();
    assert_eq!(serde_json::from_str::<ServiceConfig>(&json).unwrap(), service);
    // A state file of an older daemon has none of it.
    let mut json = serde_json::to_value(&service).unwrap();
    json.as_object_mut().unwrap().remove("process");
    let old = serde_json::from_value::<ServiceConfig>(json).unwrap();
    assert_eq!(old.process, ProcessConfig::default());
    // Another machine need not have the file; what is in it may not be shown.
    let elsewhere = parse_with(&text, Machine::ANOTHER).unwrap().services.remove(0).process.env_file.unwrap();
    assert!(elsewhere.variables.is_empty() && elsewhere.path == file);
    std::fs::write(&file, "A=1\nsecret\n").unwrap();
    let Invalid(error) = parse(&text).unwrap_err();
    assert!(error.starts_with("line 7:") && error.contains("web.env: line 2: there is no '='"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn what_a_process_cannot_be_started_with_is_an_error() {
    for (added, says) in [
        ("env = { LISTEN_FDS = \"9\" }", "gives each worker a LISTEN_FDS of its own"),
        ("env = { REUSEPORT_LB_INDEX = \"9\" }", "REUSEPORT_LB_INDEX of its own"),
        ("env = { \"A-B\" = \"\" }", "\"A-B\" is no name of a variable"),
        ("env = { PORT = 8080 }", "the variable PORT in `env` cannot be that: write a text in quotes"),
        ("env = { A = \"\\u0000\" }", "zero byte"),
        ("env = [\"A=1\"]", "a table of variables, like"),
        ("env_file = \"/no/such/file\"", "cannot read /no/such/file: No such file"),
        ("cwd = \"\"", "write the path of a directory"),
        ("cwd = \"/srv/{pid}\"", "`cwd` cannot have {pid}"),
        ("umask = 22", "octal digits in quotes, like \"022\""),
        ("umask = \"089\"", "octal digits from \"000\""),
        ("umask = \"1777\"", "octal digits from \"000\""),
        ("umask = \"+22\"", "octal digits from \"000\""),
        ("nice = 20", "from -20 (is served first) to 19"),
        ("nice = \"low\"", "from -20 to 19"),
        ("open_files = 16", "the least is 17"),
        ("open_files = -1", "a whole number, like"),
        ("cpus = 2", "\"all\" or \"each\""),
        ("group = \"root\"", "add `user`"),
        ("user = \"root\"\ngroup = \"no-such-group\"", "no group \"no-such-group\""),
    ] {
        let Invalid(error) = parse(&format!("{MINIMAL}command = [\"x\"]\n{added}\n")).unwrap_err();
        let line = 4 + added.lines().count();
        assert!(error.starts_with(&format!("line {line}:")) && error.contains(says), "{added}: {error}");
    }
    for key in ["env = { A = \"1\" }", "cwd = \"/\"", "umask = \"022\"", "cpus = \"each\"", "nice = 1"] {
        let Invalid(error) = parse(&format!("{MINIMAL}workers = 2\n{key}\n")).unwrap_err();
        assert!(error.starts_with("line 5:") && error.contains("with a `command`"), "{key}: {error}");
    }
    let Invalid(error) = parse(&format!("{MINIMAL}command = [\"./web-{{index}}\"]\n")).unwrap_err();
    assert!(error.contains("all workers run one program"), "{error}");
}

/// Words of the parser that do not help a user, so no error may have them.
const THEIRS: [&str; 11] = [
    "invalid type",
    "invalid value",
    "unknown variant",
    "usize",
    "u32",
    "u64",
    "f64",
    "sequence",
    "nonzero",
    "invalid digit",
    "integer",
];

/// All keys of a service, as the parser knows them.
fn keys() -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Any {
        #[expect(dead_code, reason = "only what is said about it counts")]
        service: Vec<Written>,
    }
    let error = toml::from_str::<Any>(&format!("{MINIMAL}no_such_key = 1\n")).err().unwrap();
    error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[test]
fn whatever_is_wrong_with_a_value_the_error_says_what_to_write() {
    let keys = keys();
    assert!(keys.len() >= 19, "{keys:?}");
    let wrong = [
        "1",
        "-1",
        "0",
        "99999999999999999999",
        "1.5",
        "nan",
        "true",
        "\"\"",
        "\"x y\"",
        "[]",
        "[1]",
        "{}",
        "{ x = 1 }",
        "1979-05-27",
        "[[\"a\"]]",
    ];
    let mut refused = 0;
    for key in keys.iter().map(String::as_str).chain(["overload.factor", "overload.floor"]) {
        for value in wrong {
            let rest = match key {
                "name" => "listen = [\"tcp://127.0.0.1:80\"]",
                "listen" => "name = \"web\"",
                _ => "name = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]",
            };
            let text = format!("[[service]]\n{rest}\n{key} = {value}\n");
            let Err(Invalid(error)) = parse(&text) else { continue };
            refused += 1;
            let said = error.split("\n  ").next().unwrap();
            assert!(said.starts_with("line "), "{key} = {value}: {error}");
            for theirs in THEIRS {
                assert!(!said.contains(theirs), "{key} = {value}: {error}");
            }
        }
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn another_machine_may_have_other_users() {
    let text = format!("{MINIMAL}user = \"no-such-user\"\ncommand = [\"x\"]\n");
    assert!(parse(&text).unwrap_err().0.contains("line 4: there is no user"));
    assert_eq!(
        parse_with(&text, Machine::ANOTHER).unwrap().services[0].user.as_deref(),
        Some("no-such-user")
    );
    let wrong = format!("{MINIMAL}user = \"no-such-user\"\nworkers = -1\n");
    assert!(parse_with(&wrong, Machine::ANOTHER).unwrap_err().0.contains("line 5"));
}

#[test]
fn an_address_below_all_addresses_of_another_service_is_worth_a_word() {
    let two = |one: &str, other: &str| {
        let service =
            |name: &str, url: &str| format!("[[service]]\nname = \"{name}\"\nlisten = [\"{url}\"]\n");
        warnings(&parse(&(service("all", one) + &service("one", other))).unwrap())
    };
    let said = two("tcp://0.0.0.0:80", "tcp://127.0.0.1:80");
    assert_eq!(said.len(), 1);
    assert!(
        said[0].contains("what is sent to 127.0.0.1:80 goes to one, and only the rest to all"),
        "{said:?}"
    );
    assert_eq!(two("udp://[::]:53", "udp://[::1]:53").len(), 1);
    assert_eq!(two("udp://[::1]:53", "udp://[::]:53").len(), 1);
    for (one, other) in [
        ("tcp://0.0.0.0:80", "tcp://127.0.0.1:81"),
        ("tcp://0.0.0.0:80", "udp://127.0.0.1:80"),
        ("tcp://0.0.0.0:80", "tcp://[::1]:80"),
        ("tcp://[::]:80", "tcp://127.0.0.1:80"),
        ("tcp://0.0.0.0:0", "tcp://127.0.0.1:0"),
        ("tcp://127.0.0.2:80", "tcp://127.0.0.1:80"),
    ] {
        assert_eq!(two(one, other), Vec::<String>::new(), "{one} {other}");
    }
}

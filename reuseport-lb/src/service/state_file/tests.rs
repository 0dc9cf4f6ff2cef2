//! Tests of reading state files: whole, cut off, damaged, and of earlier versions.

use super::*;

/// A state with something in each field.
pub(in crate::service) fn state() -> SavedService {
    let listener: Listener = "tcp://127.0.0.1:80".parse().unwrap();
    let config = config::ServiceConfig::new("web", vec![listener], 1);
    let place = SavedSocket { listener, cookie: u64::MAX, selected_before: 7 };
    let worker = SavedWorker {
        id: SavedId { number: 3, instance: 9, part: 2 },
        slot: 17,
        holds_slot: true,
        trial: false,
        revision: 0,
        weight: 5,
        life: worker::Life::new(worker::Origin::Joined).left(),
        watched: true,
        stop: config::StopSettings::default(),
        process: SavedProcess {
            identity: Some(Identity { pid: 1, started: u64::MAX }),
            leader: Some(Identity { pid: 2, started: 1 }),
            cgroup: Some("/sys/fs/cgroup/web-3".into()),
            notify: Some(("/run/notify/1".into(), Some((33, 33)))),
            output: Some(OutputIdentity { keeper: Identity { pid: 2, started: 7 }, pipe: 4 }),
        },
        sockets: vec![place],
        bound: vec![(listener, 5)],
    };
    let saved = SavedListener {
        asked: listener,
        bound: listener,
        name: "1-tcp".into(),
        wanted: true,
        program: None,
        since: 0,
        lost: false,
        left: vec![17],
        avoided: Some(vec![17]),
    };
    SavedService {
        abandoned: None,
        told: false,
        stamp: Stamp { version: VERSION, layout: 1, boot: "b".into() },
        configured: config.clone(),
        config,
        moved: 1,
        flows_cut: 3,
        tally: Tally { handed_over: 4, ..Tally::default() },
        identities: Identities { count: 2, word: Some(u64::MAX) },
        revision: 0,
        listeners: vec![saved],
        workers: vec![worker],
    }
}

#[test]
fn it_is_read_as_it_was_written() {
    let text = serialized(&state()).unwrap();
    assert_eq!(parse(&text), Ok(state()));
}

#[test]
fn its_names_are_those_of_earlier_versions() {
    let written = serde_json::to_value(state()).unwrap();
    assert!(written["release"].is_u64() && written["doors"][0]["bound"].is_string(), "{written}");
    let worker = &written["workers"][0];
    assert!(worker["release"].is_u64() && worker["places"][0]["cookie"].is_u64(), "{written}");
    assert!(worker["process"]["pid"].is_i64() && worker["cgroup"].is_string(), "{written}");
    assert!(
        worker["notify"].is_array() && written["boot"].is_string() && written["layout"].is_u64(),
        "{written}"
    );
}

/// A file without the fields that came later is read, and those fields get their defaults.
#[test]
fn what_earlier_versions_have_written_is_read() {
    let whole = serde_json::to_value(state()).unwrap();
    let mut old = whole.clone();
    let parts = [
        ("/", &["abandoned", "told", "flows_cut", "tally", "word"][..]),
        ("/workers/0", &["part", "cgroup", "process", "leader", "notify", "output", "stop", "bound"]),
    ];
    let parts = parts.into_iter().chain([
        ("/doors/0", &["program", "since", "lost", "avoided", "left"][..]),
        ("/config", &["stop", "sockets"]),
    ]);
    for (at, later) in parts {
        let part = old.pointer_mut(at.trim_end_matches('/')).and_then(|part| part.as_object_mut()).unwrap();
        assert!(later.iter().all(|name| part.remove(*name).is_some()), "{whole}");
    }
    let mut wanted = state();
    (wanted.flows_cut, wanted.tally, wanted.identities.word) = (0, Tally::default(), None);
    wanted.listeners[0].avoided = None;
    wanted.listeners[0].left.clear();
    wanted.workers[0].process = SavedProcess::default();
    wanted.workers[0].id.part = 0;
    wanted.workers[0].bound.clear();
    assert_eq!(serde_json::from_value::<SavedService>(old).unwrap(), wanted);
}

#[test]
fn a_copy_that_is_cut_off_at_any_byte_is_not_believed() {
    let text = serialized(&state()).unwrap();
    assert!((0..text.len()).all(|length| parse(&text[..length]).is_err()));
    let mut damaged = text.clone();
    damaged[100] ^= 1;
    assert!(parse(&damaged).is_err());
}

#[test]
fn the_other_copy_is_read_then() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = StateFile::new(directory.path(), "web");
    fs::create_dir(state_file::directory(directory.path())).unwrap();
    for broken in [0, 1] {
        file.write(&state());
        fs::write(&file.copies()[broken], "nonsense").unwrap();
        assert_eq!(read_all(directory.path(), "b").0, [state()]);
    }
    fs::write(&file.copies()[0], "nonsense").unwrap();
    let (states, wrong) = read_all(directory.path(), "b");
    assert!(states.is_empty() && wrong[0].1.contains("service web"), "{}", wrong[0].1);
    file.write(&state());
    assert!(read_all(directory.path(), "another boot").0.is_empty());
    assert_eq!(fs::read_dir(state_file::directory(directory.path())).unwrap().count(), 0);
}

use crate::domain::tally::Tally;
use crate::service::state_file;

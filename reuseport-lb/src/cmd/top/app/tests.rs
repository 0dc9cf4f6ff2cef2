//! Tests of what keys, looks and outcomes do.

use super::super::samples::{look, service, status, worker};
use super::*;

/// Three workers of `web`, web/1 of which is stalled, and none of `dns`.
fn app() -> App {
    let mut workers = vec![worker(0), worker(1), worker(2)];
    workers[1].state = "stalled".into();
    App::new(look(status(vec![service("dns", Vec::new()), service("web", workers)]), 100))
}

fn press(app: &mut App, keys: &str) -> Effect {
    let mut effect = Effect::Nothing;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            '↑' => KeyCode::Up,
            '↓' => KeyCode::Down,
            key => KeyCode::Char(key),
        };
        effect = app.key(KeyEvent::from(code));
    }
    effect
}

fn selected(app: &App) -> &str {
    app.selected().map_or("nobody", |row| &row.id.name)
}

fn shown(app: &App) -> Vec<&str> {
    app.shown().iter().flat_map(|(_, rows)| rows).map(|row| &*row.id.name).collect()
}

#[test]
fn no_single_key_changes_anything() {
    let keys = (' '..='~').map(KeyCode::Char).chain([
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Delete,
        KeyCode::Backspace,
        KeyCode::Tab,
        KeyCode::F(1),
    ]);
    for key in keys {
        for modifiers in [KeyModifiers::NONE, KeyModifiers::CONTROL, KeyModifiers::ALT, KeyModifiers::SHIFT] {
            let effect = app().key(KeyEvent::new(key, modifiers));
            assert!(!matches!(effect, Effect::Act(_)), "{key:?} {modifiers:?}");
        }
    }
}

#[test]
fn a_drain_and_a_restart_are_asked_for_and_done_after_y_alone() {
    let worker = || "web/1".to_owned();
    for (key, action) in
        [('d', Action::Drain { worker: worker() }), ('r', Action::Restart { worker: worker() })]
    {
        let mut app = app();
        assert_eq!(press(&mut app, &format!("↓{key}")), Effect::Nothing);
        assert_eq!(app.mode, Mode::Confirm(action.clone()));
        for no in ["n", "\u{1b}", "\n", " ", "d", "q"] {
            assert_eq!(press(&mut app, no), Effect::Nothing, "{no:?}");
            assert_eq!((&app.mode, &*app.told), (&Mode::Table, "nothing was done"), "{no:?}");
            press(&mut app, &key.to_string());
        }
        // A status that comes meanwhile changes nothing of what was asked.
        app.see(look(status(vec![service("web", vec![super::super::samples::worker(0)])]), 101));
        assert_eq!(selected(&app), "web/0");
        assert_eq!(press(&mut app, "y"), Effect::Act(action));
        assert_eq!(app.mode, Mode::Table);
    }
}

#[test]
fn a_weight_is_a_number_within_bounds() {
    let mut app = app();
    assert_eq!(press(&mut app, "w1a5\u{8}2"), Effect::Nothing);
    assert_eq!(app.mode, Mode::Weight { worker: "web/0".into(), typed: "12".into() });
    assert_eq!(press(&mut app, "\n"), Effect::Act(Action::Weigh { worker: "web/0".into(), weight: 12 }));
    assert_eq!(press(&mut app, "w\n"), Effect::Nothing);
    assert_eq!(app.told, "nothing was done");
    assert_eq!(press(&mut app, "w7\u{1b}"), Effect::Nothing);
    assert_eq!(app.mode, Mode::Table);
    assert_eq!(press(&mut app, "w9999999999999\n"), Effect::Nothing);
    assert_eq!(app.told, "web/0: weight 999999999 is too large: the most is 1000000");
    assert_eq!(press(&mut app, "w0\n"), Effect::Act(Action::Weigh { worker: "web/0".into(), weight: 0 }));
}

#[test]
fn a_successor_is_shown_and_not_changed() {
    let mut successor = worker(0);
    (successor.successor, successor.slot) = (true, 9);
    let mut app = App::new(look(status(vec![service("web", vec![worker(0), successor])]), 1));
    press(&mut app, "↓");
    assert_eq!(app.selected().map(|row| &*row.state), Some("successor"));
    for key in ["d", "r", "w"] {
        press(&mut app, key);
        assert_eq!(app.mode, Mode::Table);
        assert!(app.told.contains("successor"), "{}", app.told);
    }
}

#[test]
fn a_selection_moves_within_what_is_shown_and_stays_with_its_worker() {
    let mut app = app();
    assert_eq!(selected(&app), "web/0");
    press(&mut app, "↑");
    assert_eq!(selected(&app), "web/0");
    press(&mut app, "jj↓↓");
    assert_eq!(selected(&app), "web/2");
    press(&mut app, "k");
    assert_eq!(selected(&app), "web/1");
    // By state: web/1 comes first and stays selected.
    press(&mut app, "s");
    assert_eq!((shown(&app), selected(&app)), (vec!["web/1", "web/0", "web/2"], "web/1"));
    app.key(KeyEvent::from(KeyCode::End));
    assert_eq!(selected(&app), "web/2");
    app.key(KeyEvent::from(KeyCode::PageUp));
    assert_eq!(selected(&app), "web/1");
    for _ in 1..SORTED.len() {
        press(&mut app, "s");
    }
    assert_eq!(app.sorted_by(), Column::Worker);
    app.see(look(status(vec![service("web", vec![worker(0), worker(1), worker(5)])]), 101));
    assert_eq!(selected(&app), "web/1");
    app.see(look(status(Vec::new()), 102));
    assert_eq!(selected(&app), "nobody");
    press(&mut app, "↓d");
    assert_eq!((&app.mode, &*app.told), (&Mode::Table, "no worker is selected"));
}

#[test]
fn a_filter_is_of_names_and_states_and_ends_with_escape() {
    let mut app = app();
    press(&mut app, "/STALq\u{8}");
    assert_eq!((shown(&app), selected(&app)), (vec!["web/1"], "web/1"));
    assert_eq!(app.shown().len(), 1, "a service without a worker that passes is left out");
    press(&mut app, "\n");
    assert_eq!((app.mode.clone(), &*app.filter), (Mode::Table, "STAL"));
    press(&mut app, "/\u{8}\u{8}\u{8}\u{8}/2");
    assert_eq!(shown(&app), ["web/2"]);
    press(&mut app, "x");
    assert_eq!((shown(&app), selected(&app)), (Vec::new(), "nobody"));
    press(&mut app, "\n");
    assert_eq!(press(&mut app, "\u{1b}"), Effect::Nothing);
    assert_eq!(shown(&app).len(), 3);
    assert_eq!(press(&mut app, "\u{1b}"), Effect::Quit);
}

#[test]
fn keys_quit_but_not_while_something_is_typed() {
    assert_eq!(press(&mut app(), "q"), Effect::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for before in ["", "d", "w", "/", "?"] {
        let mut app = app();
        press(&mut app, before);
        assert_eq!(app.key(control_c), Effect::Quit, "{before}");
    }
    let mut app = app();
    assert_eq!(press(&mut app, "/q"), Effect::Nothing);
    assert_eq!(press(&mut app, "\u{1b}?q"), Effect::Nothing, "any key leaves the help");
    assert_eq!(app.mode, Mode::Table);
}

#[test]
fn a_trace_is_of_the_service_and_ends_with_the_key_or_escape() {
    for end in ["t", "\u{1b}"] {
        let mut app = app();
        assert_eq!(press(&mut app, "t"), Effect::Trace("web".into()));
        assert_eq!(app.traced.as_deref(), Some("web"));
        assert_eq!(press(&mut app, end), Effect::EndTrace);
        assert_eq!(app.traced, None);
    }
}

#[test]
fn a_daemon_that_is_lost_and_comes_back_is_told_once_each() {
    let mut app = app();
    let at = Duration::from_secs;
    app.miss(at(101), 101.0, "no daemon".into());
    app.miss(at(102), 102.0, "still none".into());
    assert_eq!(app.lost, Some(Lost { at: at(101), why: "still none".into() }));
    app.see(look(status(vec![service("web", vec![worker(0)])]), 110));
    assert_eq!(app.lost, None);
    let events: Vec<&str> = app.events().map(|(_, text)| &**text).collect();
    assert_eq!(events, ["the daemon does not answer: no daemon", "the daemon answers again, process 1"]);
}

#[test]
fn events_are_bounded_and_outcomes_are_events() {
    let mut app = app();
    app.tell(1.0, "web/1: waits".into(), false);
    assert_eq!((app.events().count(), &*app.told), (0, "web/1: waits"));
    for at in 0..300 {
        app.tell(f64::from(at), format!("{at}"), true);
    }
    assert_eq!(app.events().count(), EVENTS);
    assert_eq!(app.events().next_back().map(|(_, text)| &**text), Some("299"));
}

//! Tests of what is drawn, on screens of several sizes.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::super::samples::{look, service, status, worker};
use super::*;

const PLAIN: Theme = Theme { colours: false };

fn buffer(app: &App, (width, height): (u16, u16), decisions: &[String], theme: Theme) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app, decisions, Duration::from_secs(101), theme)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(app: &App, size: (u16, u16)) -> Vec<String> {
    text(&buffer(app, size, &[], PLAIN))
}

fn text(buffer: &Buffer) -> Vec<String> {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

/// `workers` of one service, the second of which is stalled, at the second look.
fn app(workers: u16) -> App {
    let before = status(vec![service("web", (0..workers).map(worker).collect())]);
    let mut now = before.clone();
    if let Some(second) = now.services[0].workers.get_mut(1) {
        (second.state, second.lacks) = ("stalled".into(), Some("does not accept".into()));
        (second.sockets[0].queue, second.sockets[0].selected) = (90, 7);
    }
    let mut app = App::new(look(before, 100));
    app.see(look(now, 101));
    app.note(101.0, "web/1 ready → stalled".into());
    app
}

fn press(app: &mut App, keys: &str) {
    keys.chars().for_each(|key| drop(app.key(KeyEvent::from(KeyCode::Char(key)))));
}

#[test]
fn all_is_on_a_screen_of_usual_size() {
    let wanted = "\
reuseport-lb 0.1.0, process 1, Linux 6.18, 00:01:41Z
  WORKER  STATE    SINCE   PID  WEIGHT  SHARE   GOT  NEW/S       QUEUE   CPU  MEMORY  RESTARTS
service web: 1 of 2 workers ready, affinity flow, 7 new/s
> web/0   ready       1s  1000       1  25.0%  0.0%      0  ░░░░░    0  0.0%    8.0M         0
  web/1   stalled     1s  1001       1  25.0%  100%      7  █████   90  0.0%    8.0M         0


events
00:01:41Z web/1 ready → stalled






q quit  d drain  r restart  w weight  s sort  / filter  t trace  ? help";
    assert_eq!(lines(&app(2), (100, 16)).join("\n"), wanted);
}

#[test]
fn no_size_is_too_small_and_the_last_line_asks() {
    let mut app = app(3);
    let sizes = || (0..30).flat_map(|width| (0..20).map(move |height| (width, height)));
    for keys in ["", "d", "nw", "1", "?", "?t", "/x"] {
        press(&mut app, keys);
        sizes().for_each(|size| drop(buffer(&app, size, &["x".into()], PLAIN)));
    }
    let mut app = self::app(3);
    press(&mut app, "jd");
    let wanted = [
        "reuseport-lb 0.1.0,",
        "  WORKER  STATE",
        "  web/0   ready",
        "> web/1   stalled",
        "drain web/1? It leav",
    ];
    assert_eq!(lines(&app, (20, 5)), wanted);
}

#[test]
fn a_thousand_workers_scroll() {
    let mut app = app(1000);
    let visible = |app: &App| {
        let lines = lines(app, (80, 24));
        let names: Vec<String> = lines
            .iter()
            .filter_map(|line| line.split_whitespace().find(|it| it.starts_with("web/")))
            .map(str::to_owned)
            .collect();
        (lines.iter().find(|line| line.starts_with('>')).cloned().unwrap_or_default(), names)
    };
    assert!(visible(&app).0.starts_with("> web/0 "));
    for step in 1..1100 {
        press(&mut app, "j");
        // Where it begins to scroll, where it ends, and between.
        if step < 30 || step % 100 == 0 || step > 980 && step < 1010 {
            let (selected, names) = visible(&app);
            assert!(selected.starts_with(&format!("> web/{} ", step.min(999))), "{selected} in {names:?}");
        }
    }
    let (_, names) = visible(&app);
    assert_eq!((names[0].as_str(), names.len()), ("web/987", 13 + 1), "{names:?}");
}

#[test]
fn a_lost_daemon_is_told_with_its_time_in_place_of_the_head() {
    let mut app = app(1);
    app.miss(Duration::from_secs(90), 90.0, "cannot reach it".into());
    let lines = lines(&app, (80, 16));
    assert_eq!(lines[0], "NO DAEMON for 11s: cannot reach it");
    assert!(lines.iter().any(|line| line.starts_with("> web/0")), "{lines:?}");
}

#[test]
fn what_is_chosen_and_asked_stands_where_it_is_looked_for() {
    let mut app = app(2);
    press(&mut app, "sj");
    assert!(lines(&app, (100, 16))[0].ends_with(", sorted by STATE"));
    press(&mut app, "kk");
    assert_eq!(lines(&app, (100, 16))[15], "web/1: does not accept");
    press(&mut app, "w12");
    assert_eq!(lines(&app, (100, 16))[15], "weight of web/1 (Enter: set it, Esc: do not): 12_");
    app.key(KeyEvent::from(KeyCode::Esc));
    press(&mut app, "/eb/1");
    let of_filter = lines(&app, (100, 16));
    assert!(of_filter[0].ends_with(", only \"eb/1\""), "{of_filter:?}");
    assert_eq!(of_filter[15], "filter by name or state (Enter: keep it, Esc: all): eb/1_");
    app.key(KeyEvent::from(KeyCode::Esc));
    press(&mut app, "?");
    let help = lines(&app, (120, 40)).join("\n");
    for said in ["drain the selected worker", "RESTARTS        how often", "any key: back"] {
        assert!(help.contains(said), "{help}");
    }
}

#[test]
fn decisions_take_the_place_of_events_the_last_ones_first() {
    let mut app = app(2);
    press(&mut app, "t");
    let decisions: Vec<String> = (0..50).map(|at| format!("decision {at}")).collect();
    let lines = text(&buffer(&app, (100, 20), &decisions, PLAIN));
    assert_eq!(lines[9], "decisions of web (t: back to the events)");
    assert_eq!((&*lines[10], &*lines[18]), ("decision 41", "decision 49"));
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let coloured = |theme| {
        let buffer = buffer(&app(2), (100, 16), &[], theme);
        buffer.content.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(coloured(PLAIN), 0);
    assert!(coloured(Theme { colours: true }) > 10);
    let of = |term, no_color| Theme::of(term, no_color).colours;
    assert!(of("xterm-256color", None) && of("tmux", Some("")) && of("screen", None));
    assert!(!of("xterm", Some("1")) && !of("vt100", None) && !of("linux-m", None) && !of("xterm-mono", None));
}

//! How `top` looks. A line of the daemon, the table, below it events or decisions, and a line that asks or tells. What
//! there is no room for is left out.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::super::render::moment;
use super::app::{Action, App, Mode};
use super::columns::{self, Column, GAP, Sized, padded};
use super::model::{Row, Section};

/// Lines of the panel below the table, its title included.
const PANEL: u16 = 8;

/// A terminal with fewer lines has no panel.
const PANEL_FROM: u16 = 14;

/// How late a status may be before that is said.
const LATE: Duration = Duration::from_secs(3);

/// Styles for a terminal with or without colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) colours: bool,
}

impl Theme {
    /// For a terminal of this type, and the value of `NO_COLOR`.
    pub(super) fn of(term: &str, no_color: Option<&str>) -> Self {
        let without = ["vt", "dumb", "linux-m", "xterm-mono"].iter().any(|it| term.starts_with(it));
        Self { colours: !without && !term.ends_with("-m") && no_color.is_none_or(str::is_empty) }
    }

    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn state(self, state: &str) -> Style {
        match columns::severity(state) {
            0..=2 => self.colour(Color::Red).add_modifier(Modifier::BOLD),
            3..=5 => self.colour(Color::Yellow),
            8 => self.colour(Color::Cyan),
            _ => self.colour(Color::Green),
        }
    }
}

/// Draws all; `decisions` are those of the traced service, `at` is the time of the clock that the looks have.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App, decisions: &[String], at: Duration, theme: Theme) {
    let area = frame.area();
    let line = |y: u16| Rect { y: area.y + y, height: 1.min(area.height.saturating_sub(y)), ..area };
    frame.render_widget(head(app, at, theme), line(0));
    let panel = match area.height {
        ..PANEL_FROM => 0,
        height if app.traced.is_some() => (height / 2).max(PANEL),
        _ => PANEL,
    };
    let table = area.height.saturating_sub(2 + panel);
    let body = Rect { y: area.y + 1, height: table, ..area }.intersection(area);
    if app.mode == Mode::Help {
        frame.render_widget(Paragraph::new(help()), body);
    } else {
        frame.render_widget(Paragraph::new(self::table(app, body, theme)), body);
    }
    let below = Rect { y: area.y + 1 + table, height: panel, ..area }.intersection(area);
    frame.render_widget(Paragraph::new(self::panel(app, decisions, panel)), below);
    if area.height > 1 {
        let last = line(area.height - 1);
        frame.render_widget(Clear, last);
        frame.render_widget(foot(app, theme), last);
    }
}

fn head(app: &App, at: Duration, theme: Theme) -> Line<'static> {
    if let Some(lost) = &app.lost {
        let since = columns::age(at.saturating_sub(lost.at).as_secs_f64());
        let text = format!("NO DAEMON for {since}: {}", lost.why);
        return Line::styled(text, theme.colour(Color::Red).add_modifier(Modifier::BOLD));
    }
    let look = app.look();
    let mut text = format!(
        "reuseport-lb {}, process {}, Linux {}, {}",
        look.status.version,
        look.status.pid,
        look.status.kernel,
        time(look.time)
    );
    let late = at.saturating_sub(look.at);
    if late > LATE {
        text += &format!(", no answer for {}", columns::age(late.as_secs_f64()));
    }
    if app.sorted_by() != Column::Worker {
        text += &format!(", sorted by {}", app.sorted_by().title());
    }
    if !app.filter.is_empty() {
        text += &format!(", only {:?}", app.filter);
    }
    Line::raw(crate::printable::inline(&text).into_owned())
}

enum Entry<'a> {
    Title(&'a Section),
    Worker(&'a Row),
}

/// Titles of columns, and the lines around the selected worker that there is room for.
fn table(app: &App, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    let shown = app.shown();
    let columns =
        columns::fit(usize::from(area.width), shown.iter().flat_map(|(_, rows)| rows.iter().copied()));
    let mut entries = Vec::new();
    let (chosen, mut selected) = (app.selected(), 0);
    for (section, rows) in &shown {
        entries.push(Entry::Title(section));
        for row in rows {
            if chosen.is_some_and(|it| it.id == row.id) {
                selected = entries.len();
            }
            entries.push(Entry::Worker(row));
        }
    }
    let room = usize::from(area.height.saturating_sub(1));
    let first = selected.saturating_sub(room / 2).min(entries.len().saturating_sub(room));
    let mut lines = vec![titles(app, &columns)];
    for (at, entry) in entries.iter().enumerate().skip(first).take(room) {
        lines.push(match entry {
            Entry::Title(section) => {
                Line::styled(section.title.clone(), Style::new().add_modifier(Modifier::BOLD))
            }
            Entry::Worker(row) => worker(row, &columns, at == selected, theme),
        });
    }
    lines
}

fn titles(app: &App, columns: &[Sized]) -> Line<'static> {
    let mut spans = Vec::new();
    for sized in columns {
        let mut style = Style::new().add_modifier(Modifier::BOLD);
        if sized.column == app.sorted_by() {
            style = style.add_modifier(Modifier::UNDERLINED);
        }
        // The gap stands before it, so that the line of a title is not longer than the title.
        spans.push(Span::raw(" ".repeat(GAP)));
        let title = padded(*sized, sized.column.title());
        let (before, title) = title.split_at(title.len() - title.trim_start().len());
        spans.push(Span::raw(before.to_owned()));
        spans.push(Span::styled(title.to_owned(), style));
    }
    Line::from(spans)
}

fn worker(row: &Row, columns: &[Sized], is_selected: bool, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, sized) in columns.iter().enumerate() {
        spans.push(Span::raw(match (at, is_selected) {
            (0, true) => "> ".to_owned(),
            _ => " ".repeat(GAP),
        }));
        let style = match sized.column {
            Column::State => theme.state(&row.state),
            Column::Queue if row.queue.fullest > 0.8 => theme.colour(Color::Red),
            Column::Queue if row.queue.fullest > 0.0 => theme.colour(Color::Yellow),
            _ => Style::new(),
        };
        spans.push(Span::styled(padded(*sized, &sized.column.text(row)), style));
    }
    let line = Line::from(spans);
    if is_selected { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
}

/// Events, or decisions of the traced service: the last ones that there is room for.
fn panel(app: &App, decisions: &[String], height: u16) -> Vec<Line<'static>> {
    let room = usize::from(height.saturating_sub(1));
    let (title, texts): (String, Vec<String>) = match &app.traced {
        Some(service) => {
            let last = decisions.iter().rev().take(room).cloned().collect();
            (format!("decisions of {service} (t: back to the events)"), last)
        }
        None => {
            let events = app.events().rev().take(room);
            ("events".into(), events.map(|(at, text)| format!("{} {text}", time(*at))).collect())
        }
    };
    let title = Line::styled(title, Style::new().add_modifier(Modifier::BOLD));
    [title].into_iter().chain(texts.into_iter().rev().map(Line::raw)).collect()
}

fn foot(app: &App, theme: Theme) -> Line<'static> {
    let asks = match &app.mode {
        Mode::Confirm(Action::Drain { worker }) => {
            format!("drain {worker}? It leaves, and is not replaced. y: do it, any other key: do not")
        }
        Mode::Confirm(Action::Restart { worker }) => {
            format!("restart {worker}? A new process takes over. y: do it, any other key: do not")
        }
        Mode::Confirm(Action::Weigh { worker, weight }) => format!("weight {weight} for {worker}? y: do it"),
        Mode::Weight { worker, typed } => {
            format!("weight of {worker} (Enter: set it, Esc: do not): {typed}_")
        }
        Mode::Filter => format!("filter by name or state (Enter: keep it, Esc: all): {}_", app.filter),
        Mode::Help => "any key: back to the table".into(),
        Mode::Table => String::new(),
    };
    if !asks.is_empty() {
        return Line::styled(asks, theme.colour(Color::Yellow).add_modifier(Modifier::BOLD));
    }
    if !app.told.is_empty() {
        return Line::raw(app.told.clone());
    }
    match app.selected() {
        Some(Row { id, lacks: Some(lacks), .. }) => Line::raw(format!("{}: {lacks}", id.name)),
        _ => Line::raw("q quit  d drain  r restart  w weight  s sort  / filter  t trace  ? help"),
    }
}

fn help() -> Vec<Line<'static>> {
    let keys = [
        ("arrows, j, k", "select a worker; also page up and down, Home, End"),
        ("d", "drain the selected worker: it leaves in order, and is not replaced; asks first"),
        ("r", "restart it: a new process takes over; asks first"),
        ("w", "its weight; asks for the number"),
        ("s", "sort by the next column, which is underlined"),
        ("/", "show only workers with this text in their name or state"),
        ("t", "show decisions of its service, as `reuseport-lb trace` does; again: events"),
        ("q, Esc, Ctrl-C", "quit; what was begun goes on"),
    ];
    let columns = columns::ALL.map(|column| (column.title(), column.meaning()));
    let lines = keys.into_iter().chain([("", "")]).chain(columns);
    lines.map(|(what, means)| Line::raw(format!("{what:<16}{means}"))).collect()
}

/// The time of day, as the log has it.
fn time(seconds: f64) -> String {
    moment(seconds).split('T').nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;

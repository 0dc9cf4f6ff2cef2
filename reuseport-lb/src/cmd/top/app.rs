//! What `top` knows and is doing, PURE: looks, keys and outcomes in, requests out. Nothing is done by one key press
//! alone. Not: how it looks (`view.rs`), nor who carries out what it asks for (`live.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::{Column, SORTED};
use super::model::{Id, Look, Row, Section, sections};
use crate::config::check_weight;

/// Most events that are kept.
const EVENTS: usize = 200;

/// Workers that a page is.
const PAGE: usize = 10;

/// Most characters that are taken for a filter.
const LONGEST: usize = 60;

/// What the daemon is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Drain { worker: String },
    Restart { worker: String },
    Weigh { worker: String, weight: u32 },
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    Act(Action),
    /// Decisions of a service are wanted.
    Trace(String),
    /// They are not wanted any more.
    EndTrace,
}

/// What keys are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Table,
    Help,
    /// Waits for `y`.
    Confirm(Action),
    Weight {
        worker: String,
        typed: String,
    },
    /// What is typed is the filter.
    Filter,
}

/// No status any more: since when, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lost {
    pub(super) at: Duration,
    pub(super) why: String,
}

#[derive(Debug)]
pub(super) struct App {
    look: Look,
    sections: Vec<Section>,
    pub(super) lost: Option<Lost>,
    pub(super) mode: Mode,
    pub(super) filter: String,
    /// Index in [`SORTED`].
    sort: usize,
    selected: Option<Id>,
    /// Time and text, the last one at the end.
    events: VecDeque<(f64, String)>,
    /// The last that was said of an action, or of a key.
    pub(super) told: String,
    /// The service whose decisions are shown.
    pub(super) traced: Option<String>,
}

impl App {
    pub(super) fn new(look: Look) -> Self {
        let sections = sections(None, &look);
        let mut app = Self {
            look,
            sections,
            lost: None,
            mode: Mode::Table,
            filter: String::new(),
            sort: 0,
            selected: None,
            events: VecDeque::new(),
            told: String::new(),
            traced: None,
        };
        app.select_one_that_is_there();
        app
    }

    /// The last status.
    pub(super) fn look(&self) -> &Look {
        &self.look
    }

    pub(super) fn events(&self) -> impl DoubleEndedIterator<Item = &(f64, String)> {
        self.events.iter()
    }

    pub(super) fn sorted_by(&self) -> Column {
        SORTED[self.sort]
    }

    /// Services with the workers that pass the filter, sorted. A service without any is shown only if nothing is filtered.
    pub(super) fn shown(&self) -> Vec<(&Section, Vec<&Row>)> {
        let filter = self.filter.to_lowercase();
        let passes = |row: &&Row| {
            row.id.name.to_lowercase().contains(&filter) || row.state.to_lowercase().contains(&filter)
        };
        let mut shown = Vec::new();
        for section in &self.sections {
            let mut rows: Vec<&Row> = section.rows.iter().filter(passes).collect();
            rows.sort_by(|a, b| self.sorted_by().order(a, b));
            if filter.is_empty() || !rows.is_empty() {
                shown.push((section, rows));
            }
        }
        shown
    }

    /// The worker that keys are about.
    pub(super) fn selected(&self) -> Option<&Row> {
        let rows = self.sections.iter().flat_map(|section| &section.rows);
        rows.into_iter().find(|row| Some(&row.id) == self.selected.as_ref())
    }

    /// A status has come.
    pub(super) fn see(&mut self, look: Look) {
        if self.lost.take().is_some() {
            self.note(look.time, format!("the daemon answers again, process {}", look.status.pid));
        }
        self.sections = sections(Some(&self.look), &look);
        self.look = look;
        self.select_one_that_is_there();
    }

    /// No status has come.
    pub(super) fn miss(&mut self, at: Duration, time: f64, why: String) {
        match &mut self.lost {
            Some(lost) => lost.why = why,
            None => {
                self.note(time, format!("the daemon does not answer: {why}"));
                self.lost = Some(Lost { at, why });
            }
        }
    }

    /// An action goes on, or has ended.
    pub(super) fn tell(&mut self, time: f64, text: String, is_last: bool) {
        if is_last {
            self.note(time, text.clone());
        }
        self.told = text;
    }

    /// Something has happened: now, or before the first look.
    pub(super) fn note(&mut self, time: f64, text: String) {
        self.events.push_back((time, text));
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Effect {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        if control || key.modifiers.contains(KeyModifiers::ALT) {
            return Effect::Nothing;
        }
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Table => self.key_of_table(key.code),
            Mode::Help => Effect::Nothing,
            Mode::Confirm(action) => match key.code {
                KeyCode::Char('y' | 'Y') => Effect::Act(action),
                _ => self.say("nothing was done"),
            },
            Mode::Weight { worker, typed } => self.key_of_weight(key.code, worker, typed),
            Mode::Filter => self.key_of_filter(key.code),
        }
    }

    fn key_of_table(&mut self, key: KeyCode) -> Effect {
        self.told.clear();
        match key {
            KeyCode::Esc if self.traced.is_some() => return self.end_trace(),
            KeyCode::Esc if !self.filter.is_empty() => self.refilter(String::clear),
            KeyCode::Char('q') | KeyCode::Esc => return Effect::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.step(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.step(|at| at + 1),
            KeyCode::PageUp => self.step(|at| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.step(|at| at + PAGE),
            KeyCode::Home => self.step(|_| 0),
            KeyCode::End => self.step(|_| usize::MAX),
            KeyCode::Char('s') => self.sort = (self.sort + 1) % SORTED.len(),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char(key @ ('d' | 'r' | 'w' | 't')) => return self.key_of_worker(key),
            _ => {}
        }
        Effect::Nothing
    }

    fn key_of_worker(&mut self, key: char) -> Effect {
        if key == 't' && self.traced.is_some() {
            return self.end_trace();
        }
        let Some(row) = self.selected() else { return self.say("no worker is selected") };
        let worker = row.id.name.clone();
        match key {
            't' => {
                let service = worker.split('/').next().unwrap_or_default().to_owned();
                self.traced = Some(service.clone());
                return Effect::Trace(service);
            }
            _ if row.id.successor => {
                return self.say("a successor is not changed, but the worker of its name is");
            }
            'd' => self.mode = Mode::Confirm(Action::Drain { worker }),
            'r' => self.mode = Mode::Confirm(Action::Restart { worker }),
            _ => self.mode = Mode::Weight { worker, typed: String::new() },
        }
        Effect::Nothing
    }

    fn key_of_weight(&mut self, key: KeyCode, worker: String, mut typed: String) -> Effect {
        match key {
            KeyCode::Enter => match typed.parse::<u32>() {
                Err(_) => return self.say("nothing was done"),
                Ok(weight) => match check_weight(weight) {
                    Ok(()) => return Effect::Act(Action::Weigh { worker, weight }),
                    Err(why) => return self.say(&format!("{worker}: {why}")),
                },
            },
            KeyCode::Esc => return self.say("nothing was done"),
            KeyCode::Backspace => {
                typed.pop();
            }
            KeyCode::Char(digit) if digit.is_ascii_digit() && typed.len() < 9 => typed.push(digit),
            _ => {}
        }
        self.mode = Mode::Weight { worker, typed };
        Effect::Nothing
    }

    fn key_of_filter(&mut self, key: KeyCode) -> Effect {
        self.mode = Mode::Filter;
        match key {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.mode = Mode::Table;
                self.refilter(String::clear);
            }
            KeyCode::Backspace => self.refilter(|filter| {
                filter.pop();
            }),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < LONGEST => {
                self.refilter(|filter| filter.push(c));
            }
            _ => {}
        }
        Effect::Nothing
    }

    fn end_trace(&mut self) -> Effect {
        self.traced = None;
        Effect::EndTrace
    }

    fn say(&mut self, text: &str) -> Effect {
        self.told = text.into();
        Effect::Nothing
    }

    fn refilter(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.filter);
        self.select_one_that_is_there();
    }

    /// Selects the worker at the place that `to` makes of the selected one's place, the last one at most.
    fn step(&mut self, to: impl FnOnce(usize) -> usize) {
        let ids: Vec<Id> = self.shown().iter().flat_map(|(_, rows)| rows).map(|row| row.id.clone()).collect();
        let at = ids.iter().position(|id| Some(id) == self.selected.as_ref()).unwrap_or_default();
        self.selected = ids.get(to(at).min(ids.len().saturating_sub(1))).cloned();
    }

    /// Keeps the selection if that worker is shown.
    fn select_one_that_is_there(&mut self) {
        let shown = self.shown();
        let mut rows = shown.iter().flat_map(|(_, rows)| rows);
        let is_there = rows.clone().any(|row| Some(&row.id) == self.selected.as_ref());
        if !is_there {
            self.selected = rows.next().map(|row| row.id.clone());
        }
    }
}

#[cfg(test)]
mod tests;

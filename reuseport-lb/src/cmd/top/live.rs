//! `top` in a terminal: threads look at the daemon, read keys, wait for signals and carry actions out; one loop draws.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use ratatui::crossterm::terminal::disable_raw_mode;
use reuseport_lb_client::api::EventLine;
use reuseport_lb_client::control::{ControlClient, ControlError, HangUp};

use super::actions::{Told, act};
use super::app::{App, Effect};
use super::model::Look;
use super::screen::Screen;
use super::view::{self, Theme};
use crate::cmd::{events, trace};
use crate::kernel::host::now;
use crate::printable::inline;

/// Interval between two looks.
pub(super) const EACH: Duration = Duration::from_secs(1);

/// Interval between two drawings of decisions.
const DECISIONS_EACH: Duration = Duration::from_millis(200);

/// Most decisions that are kept.
const DECISIONS: usize = 200;

/// Looks at the daemon, at all services or one.
#[derive(Clone)]
pub(super) struct Looker {
    pub(super) client: ControlClient,
    pub(super) service: Option<String>,
    begun: Instant,
}

impl Looker {
    pub(super) fn new(client: ControlClient, service: Option<String>) -> Self {
        Self { client, service, begun: Instant::now() }
    }

    pub(super) fn look(&self) -> Result<Look, ControlError> {
        let status = match &self.service {
            Some(service) => self.client.status_of(service),
            None => self.client.status(),
        };
        status.map(|status| Look { status, at: self.begun.elapsed(), time: now() })
    }
}

/// What the loop waits for.
enum Input {
    Key(KeyEvent),
    /// The terminal has another size, or there is nothing but to draw again.
    Redraw,
    /// No keys come any more.
    Deaf(std::io::Error),
    Look(Result<Look, ControlError>),
    Told(Told),
    /// Something happened at this time.
    Event(f64, String),
    Signal(Signal),
}

/// Shows `first` and what comes after it, until a key or a signal.
pub(super) fn run(looker: &Looker, first: Look, theme: Theme) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]);
    // Threads inherit it, so that one alone gets them.
    signals.thread_block().context("cannot block signals")?;
    let (inputs, input) = channel();
    let ended = {
        let mut screen = Screen::open().context("cannot take the terminal")?;
        wait_for_signals(signals, inputs.clone());
        read_keys(inputs.clone());
        look_again_and_again(looker.clone(), inputs.clone());
        hear_events(looker.clone(), inputs.clone());
        Live { looker, app: App::new(first), theme, inputs, tracing: None }.go(&mut screen, &input)
    };
    if let Some(signal) = ended? {
        signals.thread_unblock().context("cannot unblock signals")?;
        raise(signal).context("cannot end by a signal")?;
    }
    Ok(())
}

struct Live<'a> {
    looker: &'a Looker,
    app: App,
    theme: Theme,
    inputs: Sender<Input>,
    tracing: Option<Tracing>,
}

impl Live<'_> {
    /// Draws after each input; returns the signal that ended it.
    fn go(&mut self, screen: &mut Screen, input: &Receiver<Input>) -> Result<Option<Signal>> {
        loop {
            let decisions = self.tracing.as_ref().map(Tracing::decisions).unwrap_or_default();
            let at = self.looker.begun.elapsed();
            screen
                .draw(|frame| view::draw(frame, &self.app, &decisions, at, self.theme))
                .context("cannot write to the terminal")?;
            let pause = if self.tracing.is_some() { DECISIONS_EACH } else { EACH };
            // What has come meanwhile is drawn once.
            let mut next = match input.recv_timeout(pause) {
                Err(RecvTimeoutError::Disconnected) => bail!("nothing is left to wait for"),
                next => next.ok(),
            };
            while let Some(input_now) = next {
                match input_now {
                    Input::Signal(signal) => return Ok(Some(signal)),
                    Input::Deaf(error) => return Err(error).context("cannot read from the terminal"),
                    Input::Redraw => {}
                    Input::Look(Ok(look)) => self.app.see(look),
                    Input::Look(Err(error)) => {
                        self.app.miss(self.looker.begun.elapsed(), now(), inline(&error.to_string()).into());
                    }
                    Input::Event(time, text) => self.app.note(time, text),
                    Input::Told(told) => self.app.tell(now(), told.text, told.is_last),
                    Input::Key(key) => match self.app.key(key) {
                        Effect::Nothing => {}
                        Effect::Quit => return Ok(None),
                        Effect::EndTrace => self.tracing = None,
                        Effect::Trace(service) => {
                            self.tracing = Some(Tracing::begin(self.looker.client.clone(), service));
                        }
                        Effect::Act(action) => {
                            let (client, inputs) = (self.looker.client.clone(), self.inputs.clone());
                            spawn(move || {
                                act(&client, &action, |told| inputs.send(Input::Told(told)).is_ok())
                            });
                        }
                    },
                }
                next = input.try_recv().ok();
            }
        }
    }
}

fn look_again_and_again(looker: Looker, inputs: Sender<Input>) {
    spawn(move || {
        loop {
            sleep(EACH);
            if inputs.send(Input::Look(looker.look())).is_err() {
                return;
            }
        }
    });
}

/// What happened so far, and what happens; of the next daemon as well.
fn hear_events(looker: Looker, inputs: Sender<Input>) {
    spawn(move || {
        let mut last = None;
        loop {
            for line in looker.client.events(true).into_iter().flatten() {
                let Ok(line) = line else { break };
                let (time, text) = match &line.value {
                    EventLine::Event(event) => {
                        // After a connection that broke off, the daemon begins anew.
                        let is_known = last.is_some_and(|(seq, at)| event.seq <= seq && event.time <= at);
                        let is_shown =
                            event.service.is_none() || events::concerns(event, looker.service.as_deref());
                        if is_known || !is_shown {
                            continue;
                        }
                        last = Some((event.seq, event.time));
                        (event.time, events::text(event))
                    }
                    EventLine::Missed { missed } => (now(), format!("{missed} events are not kept any more")),
                };
                if inputs.send(Input::Event(time, text)).is_err() {
                    return;
                }
            }
            sleep(EACH);
        }
    });
}

fn read_keys(inputs: Sender<Input>) {
    spawn(move || {
        loop {
            let (input, is_last) = match event::read() {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => (Input::Key(key), false),
                Ok(_) => (Input::Redraw, false),
                Err(error) => (Input::Deaf(error), true),
            };
            if inputs.send(input).is_err() || is_last {
                return;
            }
        }
    });
}

/// The first signal ends the loop; one more ends the process at once, whatever the loop waits for.
fn wait_for_signals(signals: SigSet, inputs: Sender<Input>) {
    spawn(move || {
        while let Ok(signal) = signals.wait() {
            if inputs.send(Input::Signal(signal)).is_err() {
                return;
            }
            if let Ok(again) = signals.wait() {
                let _ = disable_raw_mode();
                let _ = signals.thread_unblock();
                let _ = raise(again);
            }
        }
    });
}

/// A trace of a service that goes on in a thread; ended on drop.
struct Tracing {
    shared: Arc<Mutex<Traced>>,
}

#[derive(Default)]
struct Traced {
    decisions: VecDeque<String>,
    has_ended: bool,
    hang_up: Option<HangUp>,
}

impl Tracing {
    fn begin(client: ControlClient, service: String) -> Self {
        let shared = Arc::new(Mutex::new(Traced::default()));
        let ours = Arc::clone(&shared);
        spawn(move || {
            if let Err(error) = follow(&client, &service, &ours) {
                add(&mut lock(&ours), error.to_string());
            }
        });
        Self { shared }
    }

    /// The last decisions, the last one at the end.
    fn decisions(&self) -> Vec<String> {
        lock(&self.shared).decisions.iter().cloned().collect()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let mut traced = lock(&self.shared);
        traced.has_ended = true;
        traced.hang_up = None;
    }
}

fn follow(client: &ControlClient, service: &str, shared: &Mutex<Traced>) -> Result<(), ControlError> {
    let lines = client.trace(service)?;
    let hang_up = lines.hang_up()?;
    {
        let mut traced = lock(shared);
        if traced.has_ended {
            return Ok(());
        }
        traced.hang_up = Some(hang_up);
    }
    for line in lines {
        let text = trace::text(&line?);
        let mut traced = lock(shared);
        if traced.has_ended {
            return Ok(());
        }
        add(&mut traced, text);
    }
    Ok(())
}

fn add(traced: &mut Traced, text: String) {
    traced.decisions.push_back(inline(text.trim_end()).into_owned());
    if traced.decisions.len() > DECISIONS {
        traced.decisions.pop_front();
    }
}

fn lock(shared: &Mutex<Traced>) -> MutexGuard<'_, Traced> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

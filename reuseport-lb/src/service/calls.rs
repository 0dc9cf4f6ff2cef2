//! Calls of bind(2) and listen(2) of one process, from its keeper to the engine and back (`sockets = "bind"`). Not: what is
//! answered (`domain/engine/calls.rs`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::dataplane::{Opened, OpenedSocket, Sockets};
use crate::domain::engine::{Called, ProcessEvent};
use crate::domain::listener::Listener;
use crate::domain::observed::CallId;
use crate::domain::ports::{CallOutcome, Cookie, ProcessKey};
use crate::kernel::calls::{Call, CallAnswer, Calls};
use crate::kernel::output::Output;

/// Where events of processes are sent.
pub(super) type Events = mpsc::UnboundedSender<(ProcessKey, ProcessEvent)>;

/// Calls of one process that wait for their answers. Dropping this ends the hearing of further ones.
pub(super) struct PendingCalls {
    process: ProcessKey,
    worker: String,
    output: Rc<Output>,
    waiting: Rc<RefCell<HashMap<CallId, (Call, Cookie)>>>,
    opened: Opened,
    hearing: JoinHandle<()>,
}

impl Drop for PendingCalls {
    fn drop(&mut self) {
        self.hearing.abort();
        self.opened.borrow_mut().retain(|_, it| it.process != self.process);
    }
}

impl PendingCalls {
    /// Tells the keeper which addresses are those of listeners, and makes calls that concern one of them events of the
    /// process; `None` for a process that gets its sockets.
    pub(super) fn hear(
        key: ProcessKey,
        worker: &str,
        output: &Rc<Output>,
        listeners: &[Listener],
        opened: &Opened,
        events: &Events,
    ) -> Option<Self> {
        if let Err(error) = output.calls()?.tell(listeners) {
            warn!(worker, "{error:#}");
        }
        let waiting = Rc::<RefCell<HashMap<CallId, (Call, Cookie)>>>::default();
        let (output, worker, opened) = (output.clone(), worker.to_owned(), opened.clone());
        let hearing = tokio::task::spawn_local({
            let (output, worker, opened) = (output.clone(), worker.clone(), opened.clone());
            let (waiting, events) = (waiting.clone(), events.clone());
            async move {
                let Some(calls) = output.calls() else { return };
                loop {
                    let call = match calls.next().await {
                        Ok(call) => call,
                        Err(error) => {
                            return warn!(worker, "its calls of bind and listen cannot be heard: {error}");
                        }
                    };
                    let Some(socket) = taken(calls, &call, (key, &worker), &opened) else { continue };
                    waiting.borrow_mut().insert(call.id, (call, socket));
                    let called = Called { id: call.id, kind: call.kind, socket };
                    // The service may have ended.
                    let _ = events.send((key, ProcessEvent::Called(called)));
                }
            }
        });
        Some(Self { process: key, worker, output, waiting, opened, hearing })
    }

    /// Lets all calls go on from now on, also those that wait: none concerns a listener.
    pub(super) fn let_go(&self) {
        if let Some(Err(error)) = self.output.calls().map(|calls| calls.tell(&[])) {
            warn!(worker = self.worker, "{error:#}");
        }
    }

    /// Answers a call; `sockets` are those of the workers.
    pub(super) fn answer(&self, id: CallId, answer: CallOutcome, sockets: &Sockets) {
        let Some((call, socket)) = self.waiting.borrow_mut().remove(&id) else { return };
        // One that was bound is taken again when it listens; another thread may wait with a call about the same one.
        if self.waiting.borrow().values().all(|(_, other)| *other != socket) {
            self.opened.borrow_mut().remove(&socket);
        }
        let sockets = sockets.borrow();
        let made;
        let answer = match answer {
            CallOutcome::GoOn => CallAnswer::GoOn,
            CallOutcome::Done => CallAnswer::Done,
            CallOutcome::Fails(error) => CallAnswer::Fails(error),
            CallOutcome::Instead(own) => {
                made = self.opened.borrow_mut().remove(&own).map(|made| made.socket);
                let own = made.as_ref().or_else(|| sockets.get(&own).map(|own| &*own.socket));
                own.map_or(CallAnswer::GoOn, CallAnswer::Instead)
            }
        };
        let answered = self.output.calls().map_or(Ok(()), |calls| calls.answer(&call, answer));
        if let Err(error) = answered {
            warn!(worker = self.worker, "{error:#}");
        }
    }
}

/// Takes a duplicate of the socket that a call is about. A call of a process that has ended needs no answer.
fn taken(
    calls: &Calls,
    call: &Call,
    (process, worker): (ProcessKey, &str),
    opened: &Opened,
) -> Option<Cookie> {
    let socket = calls.socket_of(call).and_then(|socket| Ok((socket.cookie()?, socket)));
    match socket {
        Ok((cookie, socket)) => {
            let taken = OpenedSocket { polled: calls.is_polled(call), process, socket };
            opened.borrow_mut().insert(Cookie(cookie), taken);
            Some(Cookie(cookie))
        }
        Err(error) => {
            if error.raw_os_error() != Some(libc::ESRCH) {
                warn!(
                    worker,
                    "a socket that it opens cannot be taken (pidfd_getfd), and stays its own: {error}"
                );
            }
            let _ = calls.answer(call, CallAnswer::GoOn);
            None
        }
    }
}

//! Making a process that asks for it a worker. Not: whether it may be one (`domain/engine/joining.rs`).

use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;
use tracing::warn;

use super::Service;
use super::dataplane::tags::variables;
use super::joining::{Request, Ticket};
use crate::domain::Reply;
use crate::domain::engine::{Input, JoinRequest, ProcessEvent};
use crate::domain::incident::Asker;
use crate::domain::ports::ProcessKey;
use crate::kernel::host;

impl Service {
    /// Makes a process a worker, or answers why not.
    pub(super) fn join(&mut self, request: Request, now: Instant) {
        let Request { number, weight, peer, calls, answer, delivered, .. } = request;
        let (uid, pid, opens) = (peer.uid, peer.pid, calls.is_some());
        let events = self.engine.ports().1.events();
        self.engine.ports().1.set_joining(Some((peer, calls)));
        let outcome: Rc<std::cell::Cell<Option<_>>> = Rc::default();
        let told = outcome.clone();
        let reply = Reply::new(move |joined| told.set(Some(joined)));
        self.engine.asked_by(Some(Asker::Process { pid, uid, command: host::program_of(pid) }));
        self.engine.handle(Input::Join(JoinRequest { number, weight, uid, opens }, reply), now);
        self.engine.ports().1.set_joining(None);
        let Some(outcome) = outcome.take() else { return };
        let ticket = outcome.map_err(|denied| denied.to_string()).and_then(|key| {
            let ticket = self.ticket_of(key).map_err(|error| format!("{error:#}"))?;
            Ok((key, ticket))
        });
        match ticket {
            Ok((key, ticket)) => {
                let _ = answer.send(Ok(ticket));
                // If the ticket did not arrive, the worker is lost, though the process may live on.
                tokio::task::spawn_local(async move {
                    if delivered.await.is_err() {
                        let _ = events.send((key, ProcessEvent::Lost));
                    }
                });
            }
            Err(error) => {
                // A process may ask in a loop: it must not fill the log.
                if let Some(suppressed) = self.refused.allow(uid, now) {
                    let more = if suppressed > 0 {
                        format!(" ({suppressed} more of that user since)")
                    } else {
                        String::new()
                    };
                    warn!(service = self.config().name, uid, pid, "may not join: {error}{more}");
                }
                // Sending fails if the process has gone away.
                let _ = answer.send(Err(error));
            }
        }
    }

    /// The ticket of a process that has joined: duplicates of its sockets, and where it says `READY=1`.
    fn ticket_of(&self, key: ProcessKey) -> anyhow::Result<Ticket> {
        let worker = self.engine.pool().get(key.worker).context("the worker is gone")?;
        let running = self.engine.processes().get(key).context("the process is gone")?;
        let sockets = self.engine.dataplane().sockets();
        let sockets = sockets.borrow();
        let passed = worker.sockets.iter().filter(|_| !worker.life.opens());
        let own = passed.filter_map(|socket| sockets.get(&socket.cookie));
        let names = own.clone().map(|own| self.engine.socket_name(own.id)).collect();
        let sockets = own.map(|own| own.socket.try_clone()).collect::<std::io::Result<Vec<_>>>()?;
        let env = variables(self.config(), self.engine.dataplane().word(), worker.slot, worker.id);
        Ok(Ticket {
            worker: worker.name.clone(),
            notify: running.notify.path().to_owned(),
            names,
            sockets,
            watchdog: self.config().watchdog,
            env: env.into_iter().collect(),
        })
    }
}

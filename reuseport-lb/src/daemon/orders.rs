//! Orders to the daemon itself, but for the end: each is carried out in a task of its own. Not: how (`reloading.rs`,
//! `adopting.rs`, `host_drain.rs`).

use std::rc::Rc;

use reuseport_lb_client::api::Refusal;

use super::Daemon;
use super::answers::Answers;
use super::host_drain::HostDraining;
use crate::handle::{Handle, Order};

impl Daemon<'_> {
    /// Carries an order out; [`Order::Stop`] is the caller's.
    pub(super) fn obey(
        &self,
        order: Order,
        handle: &Handle,
        answers: &Rc<Answers>,
        draining: &Rc<HostDraining>,
    ) {
        let configurator = self.configurator.clone();
        match order {
            Order::Stop(..) => {}
            Order::Reload(answer, asker) => self.reload(answer, asker, handle, answers),
            Order::DryRun(answer) => self.dry_run(answer, answers),
            Order::Host(drain, answer, asker) => drop(answer.send(draining.change(drain, asker))),
            Order::Adopt(name, asked, answer, asker) => {
                tokio::task::spawn_local(async move {
                    let _ = answer.send(configurator.adopt(&name, *asked, asker).await);
                });
            }
            Order::Release(name, answer, asker) => {
                tokio::task::spawn_local(async move {
                    let _ = answer.send(configurator.release(&name, asker).await);
                });
            }
        }
    }

    /// Answers an order of a daemon that is ending.
    pub(super) fn refuse(order: Order) {
        match order {
            Order::Reload(answer, _) | Order::DryRun(answer) => {
                drop(answer.send(Err(Refusal::Impossible("the daemon is ending".into()))));
            }
            // The answer is dropped: the caller is told that the daemon is ending.
            Order::Stop(..) | Order::Host(..) | Order::Adopt(..) | Order::Release(..) => {}
        }
    }
}

//! What workers may do to their sockets and groups, put right: programs, filters, options, listeners that are shut
//! down; and files that somebody has removed.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Service;
use super::attend::judged;
use super::door::{Door, door_near};
use super::workers::{Id, Place};
use crate::domain::listener::Protocol;
use crate::kernel::{options, socket};

impl Service {
    /// Whoever holds a socket of a group may give it another program, and the kernel does not tell
    /// which it has: ours is attached again, which changes nothing if it is there. A worker that has
    /// shut its listener down gets connections again; if it does not accept them, it stalls.
    pub(super) fn repair_what_lives(&mut self) {
        for at in 0..self.doors.len() {
            if let Err(error) = self.attach_door(at) {
                warn!("{error:#}");
            }
        }
        let ready: Vec<Id> =
            self.workers.iter().filter(|(_, worker)| judged(worker)).map(|(id, _)| *id).collect();
        self.repairs = ready.into();
    }

    /// Somebody may have removed what workers are heard at, or what the next daemon reads.
    pub(super) fn look_at_files(&mut self) {
        for worker in self.workers.values_mut() {
            worker.restore_hearing(self.config.watchdog);
        }
        if !self.unsaved && self.state_file.failure().is_none() && !self.state_file.is_there() {
            warn!(service = self.config.name, "its state was removed, and is written again");
            self.unsaved = true;
        }
    }

    /// Makes the program of a door decide for its group, if that has any socket. A worker may have locked its
    /// own (SO_LOCK_FILTER), so that nothing can be attached through that one: then through another's.
    pub(super) fn attach_door(&mut self, at: usize) -> Result<()> {
        let group = &self.doors[at].group;
        // Through a socket that was shut down the program would get a group of its own.
        let lives = |place: &&Place| {
            place.listener == *group.listener()
                && (place.listener.protocol == Protocol::Udp || place.socket.is_listener().unwrap_or(false))
        };
        let (mut locked, mut attached) = (Vec::new(), Ok(()));
        for worker in self.workers.values() {
            let Some(place) = worker.places.iter().find(lives) else { continue };
            attached = group.attach(&place.socket);
            match &attached {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => locked.push(worker.id),
                _ => break,
            }
        }
        let listener = *group.listener();
        let attached = attached.with_context(|| format!("cannot take over the group of {listener}"));
        let attached = attached.and_then(|()| group.settle());
        for id in locked {
            self.locked(id, &listener.to_string());
        }
        attached
    }

    /// A worker's socket takes no program and no filter any more: another process gets a new one.
    fn locked(&mut self, id: Id, listener: &str) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.locked.is_none() {
            warn!(
                worker = worker.name,
                "it has locked its socket of {listener} (SO_LOCK_FILTER), so that it cannot be kept from giving the \
                 group another program: the program is attached through another's, and the worker is replaced"
            );
            worker.locked = Some(listener.to_owned());
        }
        // Tried again each second.
        let _ = worker.stays() && self.replace_alone(id);
    }

    /// Puts right what a process did to its sockets, before its successor gets them or, with `living`,
    /// while it has them. A listener that was shut down and a UDP socket that was connected have lost
    /// their slots; the latter can only be replaced, which helps no process that has the old one.
    pub(super) fn repair(&mut self, id: Id, living: bool) {
        let backlog = self.config.backlog;
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.holds_slot) else { return };
        // A first process gets new ones.
        let used = !living && worker.life.restarts() > 0;
        for (at, place) in worker.places.iter_mut().enumerate() {
            let Some(door) = door_near(&mut self.doors, at, &place.listener) else {
                continue;
            };
            let spoiled = if used { options::reset(&place.socket, &place.listener).err() } else { None };
            let is_tcp = place.listener.protocol == Protocol::Tcp;
            let repaired = if let Some(why) = &spoiled {
                info!(worker = worker.name, "{} gets a new socket: {why}", place.listener);
                renew(place, door, worker.slot, backlog)
            } else if is_tcp && !place.socket.is_listener().unwrap_or(true) {
                socket::listen_again(&place.socket, &mut door.group, worker.slot, backlog)
            } else if !is_tcp && !living && place.socket.peer_addr().is_ok() {
                renew(place, door, worker.slot, backlog)
            } else {
                continue;
            };
            let mut ours = self.surroundings.ours.borrow_mut();
            match repaired {
                Ok(()) => {
                    let cookie = place.socket.cookie().unwrap_or_default();
                    ours.remove(&std::mem::replace(&mut place.cookie, cookie));
                    ours.insert(cookie);
                    warn!(
                        worker = worker.name,
                        "the socket of {} was unusable and is back in service", place.listener
                    );
                }
                Err(error) => {
                    warn!(worker = worker.name, "cannot put {} back into service: {error:#}", place.listener);
                }
            }
        }
        if !living {
            worker.locked = None;
        }
    }
}

/// Another socket instead of the one that is there; what waits in that one goes to others.
fn renew(place: &mut Place, door: &mut Door, slot: u16, backlog: u32) -> Result<()> {
    let socket = socket::open(&door.group, backlog, false)?;
    door.group.remove(slot)?;
    door.group.insert(slot, &socket)?;
    place.socket = Arc::new(socket);
    Ok(())
}

//! Looking for the sockets of a server that others have started, again and again. Not: what becomes of them
//! (`adopting.rs`).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::config::ServiceConfig;
use crate::domain::listener::Listener;
use crate::domain::whose::Whose;
use crate::kernel::adopt::{Finder, Sighting};
use crate::offload::in_thread;

/// Pause after a look that could not be made.
const AGAIN: Duration = Duration::from_secs(1);

/// The looks of a service that adopts sockets.
#[derive(Default)]
pub(super) struct Sightings {
    looks: Option<(mpsc::UnboundedReceiver<Sighting>, JoinHandle<()>)>,
    /// Why nobody was found, at the last look.
    pub(super) lacks: Option<String>,
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.looks.iter().for_each(|(_, task)| task.abort());
    }
}

impl Sightings {
    /// Begins to look, if the service adopts sockets.
    pub(super) fn begin(&mut self, config: &ServiceConfig) {
        let Some(adopt) = &config.adopt else { return };
        let (send, looks) = mpsc::unbounded_channel();
        let listeners: Vec<Listener> = config.listeners().copied().collect();
        let task = tokio::task::spawn_local(look(adopt.whose.clone(), listeners, send));
        self.looks = Some((looks, task));
    }

    /// What was found next; waits for ever if nothing is looked for.
    pub(super) async fn next(&mut self) -> Sighting {
        if let Some((looks, _)) = &mut self.looks
            && let Some(sighting) = looks.recv().await
        {
            return sighting;
        }
        std::future::pending().await
    }
}

/// Looks again and again, until nobody listens.
async fn look(whose: Whose, listeners: Vec<Listener>, sightings: mpsc::UnboundedSender<Sighting>) {
    let new = || Finder::new(whose.clone(), listeners.clone());
    let mut finder = new();
    loop {
        let looked = in_thread("adopting", move || {
            let sighting = finder.look();
            (finder, sighting)
        });
        let sighting = match looked.await {
            Ok((looked, sighting)) => {
                finder = looked;
                sighting
            }
            Err(error) => {
                warn!("cannot look for the sockets of {whose}: {error:#}");
                finder = new();
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        if sightings.send(sighting).is_err() {
            return;
        }
        tokio::time::sleep(finder.pause()).await;
    }
}

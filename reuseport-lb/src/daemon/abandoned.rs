//! Workers of an earlier daemon that cannot be taken over: they serve until new workers do, and are ended then.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::services::Registry;
use crate::config;
use crate::domain::listener::Listener;
use crate::service::state_file::{self, SavedService};
use crate::service::{self, START, Surroundings};

/// Interval between looks whether the services that follow are ready.
const LOOK: Duration = Duration::from_millis(50);

/// Interval between looks whether old workers have ended.
const GONE: Duration = Duration::from_secs(1);

/// Listeners for which a service decided; none if its workers have been told to end.
pub(super) fn deciding(state: &SavedService) -> impl Iterator<Item = &state_file::SavedListener> {
    state.listeners.iter().filter(|saved| saved.since > 0 && !state.told)
}

/// Pairs of a listener and the service that decided for it. If several of `states` claim a listener, the right one
/// comes last: the service that began to decide last.
pub(super) fn holders(
    states: &[SavedService],
    named: impl Fn(&SavedService) -> String,
) -> Vec<(Listener, String)> {
    let mut listeners: Vec<(&SavedService, &state_file::SavedListener)> =
        states.iter().flat_map(|state| deciding(state).map(move |saved| (state, saved))).collect();
    listeners.sort_by_key(|(_, saved)| saved.since);
    listeners.into_iter().map(|(state, saved)| (saved.asked, named(state))).collect()
}

/// The name under which an abandoned service claims its listeners.
pub(super) fn claimant(state: &SavedService) -> String {
    format!("{} of the daemon before", state.config.name)
}

/// The services after which the workers of an abandoned one can end.
pub(super) fn successors(state: &SavedService, services: &[config::ServiceConfig]) -> Vec<String> {
    let had = |listener: &Listener| {
        state.listeners.iter().any(|saved| [saved.asked, saved.bound].contains(listener))
    };
    let follows = |it: &&config::ServiceConfig| it.name == state.config.name || it.listeners().any(had);
    services.iter().filter(follows).map(|service| service.name.clone()).collect()
}

/// Ends old workers once the services that follow are ready. The state file stays until all have ended.
pub(super) async fn end_in_time(
    state: SavedService,
    successors: Vec<String>,
    registry: Rc<Registry>,
    surroundings: Rc<Surroundings>,
    abandoned: Rc<RefCell<Vec<SavedService>>>,
) {
    let begun = Instant::now();
    let mut file = state.file(&surroundings.runtime_dir);
    let mut said = false;
    let same = |other: &SavedService| other.abandoned == state.abandoned;
    for name in successors {
        let mut decides = std::pin::pin!(registry.decides(&name));
        loop {
            let ready = registry.is_ready(&name).await != Some(false);
            let wait = tokio::time::timeout(LOOK, &mut decides);
            if ready && wait.await.is_ok() {
                break;
            }
            tokio::time::sleep(LOOK).await;
            if begun.elapsed() > START && !std::mem::replace(&mut said, true) {
                warn!(service = name, "not ready yet, so the workers of the daemon before go on");
            }
            if !abandoned.borrow().iter().any(same) {
                return;
            }
            if file.again_at().is_none_or(|at| at <= Instant::now()) && !file.is_there() {
                file.write(&state);
            }
        }
    }
    let claimant = claimant(&state);
    deciding(&state).for_each(|saved| surroundings.claims.withdraw(&saved.asked, &claimant));
    let Some(at) = abandoned.borrow().iter().position(same) else { return };
    let told = SavedService { told: true, ..abandoned.borrow_mut().swap_remove(at) };
    if !state.told {
        end_abandoned(&state).await;
        file.write(&told);
    }
    while service::is_left(&told) {
        tokio::time::sleep(GONE).await;
    }
    file.remove();
}

/// Tells old workers to end; they finish their connections.
pub(super) async fn end_abandoned(state: &SavedService) {
    if !state.told {
        info!(service = state.config.name, "the workers of the daemon before are told to end");
        service::abandon(state).await;
    }
}

//! Workers that no state file names, because it is damaged, of another version, or removed: they are found by the
//! environment of their processes, serve until new workers do, and are ended then.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use tracing::warn;

use crate::config;
use crate::domain::listener::Listener;
use crate::kernel::marks::{self, Marked};
use crate::kernel::strangers::Census;
use crate::service;
use crate::service::sd_notify;
use crate::service::state_file::{self, Identities, SavedService};

/// Services of an earlier daemon with this runtime directory that are not among `states`, as abandoned ones;
/// `wanted`: the services whose listeners they may have. Takes some milliseconds.
pub(super) fn look(
    states: &[SavedService],
    wanted: &[config::ServiceConfig],
    runtime_dir: &Path,
) -> Vec<SavedService> {
    let workers = states.iter().flat_map(|state| &state.workers);
    let known: HashSet<&Path> =
        workers.filter_map(|worker| worker.process.notify.as_ref().map(|(path, _)| &**path)).collect();
    let mut services: BTreeMap<String, Vec<Marked>> = BTreeMap::new();
    for marked in marks::all_in(&sd_notify::directory(runtime_dir)) {
        if let Some((service, _)) = marked.worker.split_once('/')
            && config::check_name(service).is_ok()
            && !known.contains(&*marked.mark)
            && !sd_notify::is_of_joined(&marked.mark)
        {
            services.entry(service.to_owned()).or_default().push(marked);
        }
    }
    if services.is_empty() {
        return Vec::new();
    }
    let listeners = taken(states, wanted);
    let stop =
        |service: &str| wanted.iter().find(|it| it.name == service).map(|it| it.stop).unwrap_or_default();
    services
        .into_iter()
        .map(|(service, workers)| found(&service, &workers, &listeners, stop(&service)))
        .collect()
}

/// Listeners that have sockets, and for which no known service decides.
fn taken(states: &[SavedService], wanted: &[config::ServiceConfig]) -> Vec<Listener> {
    let mut listeners: Vec<Listener> =
        wanted.iter().flat_map(|service| service.listeners().copied()).collect();
    let saved = states.iter().flat_map(|state| &state.listeners).filter(|saved| saved.since > 0);
    let known: HashSet<Listener> = saved.map(|saved| saved.asked).collect();
    let census = Census::take(&listeners).unwrap_or_default();
    listeners
        .retain(|it| it.address.port() != 0 && !known.contains(it) && census.count(it, &HashSet::new()) > 0);
    listeners
}

/// What is known of the workers of `service`, which end by `stop`: as the configuration says now.
fn found(
    service: &str,
    workers: &[Marked],
    listeners: &[Listener],
    stop: config::StopSettings,
) -> SavedService {
    let pids: Vec<String> = workers.iter().map(|worker| worker.process.pid.to_string()).collect();
    warn!(
        service,
        "no state file tells of {} of its workers (processes {}): they serve until all that is configured is ready, \
         and then end",
        workers.len(),
        pids.join(", ")
    );
    let config = config::ServiceConfig::new(service, listeners.to_vec(), workers.len());
    let saved = |listener: &Listener| state_file::SavedListener {
        asked: *listener,
        bound: *listener,
        name: String::new(),
        wanted: true,
        program: None,
        since: 1,
        lost: false,
        avoided: None,
        left: Vec::new(),
    };
    let worker = |(number, marked): (usize, &Marked)| state_file::SavedWorker {
        id: state_file::SavedId { number, instance: number as u64, part: 0 },
        slot: 0,
        holds_slot: false,
        trial: false,
        revision: 0,
        weight: 1,
        life: service::unknown_life(),
        watched: false,
        stop,
        process: state_file::SavedProcess {
            identity: Some(marked.process),
            leader: None,
            cgroup: None,
            notify: Some((marked.mark.clone(), None)),
            output: None,
        },
        sockets: Vec::new(),
        bound: Vec::new(),
    };
    SavedService {
        abandoned: Some(state_file::abandoned_name(service)),
        told: false,
        stamp: state_file::Stamp::own(),
        configured: config.clone(),
        config,
        moved: 0,
        flows_cut: 0,
        tally: Default::default(),
        identities: Identities::default(),
        revision: 0,
        listeners: listeners.iter().map(saved).collect(),
        workers: workers.iter().enumerate().map(worker).collect(),
    }
}

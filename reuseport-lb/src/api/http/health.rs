//! One judgement for those who decide whether traffic is sent to this machine: `/readyz` and `/weight`.

use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};

/// Why services should get nothing new, a line for each; none: all are ready.
pub(super) fn unready(services: &[ServiceStatus]) -> Vec<String> {
    let judge = |service: &ServiceStatus| {
        let why = if service.ending {
            "is ending"
        } else if service.workers.iter().any(gets_connections) {
            return None;
        } else {
            "has no worker that is ready"
        };
        Some(format!("{} {why}", service.name))
    };
    services.iter().filter_map(judge).collect()
}

/// How much of the weight that the service with the least of it wants is ready, in percent: 0 if it is ending, at least
/// 1 if anything is ready, 100 only if all is.
pub(super) fn weight(services: &[ServiceStatus]) -> u32 {
    services.iter().map(of_service).min().unwrap_or_default()
}

fn of_service(service: &ServiceStatus) -> u32 {
    if service.ending {
        return 0;
    }
    let sum = |which: fn(&WorkerStatus) -> bool| {
        let workers = service.workers.iter().filter(|worker| which(worker));
        workers.map(|worker| u64::from(worker.weight)).sum::<u64>()
    };
    let (ready, wanted) = (sum(gets_connections), sum(WorkerStatus::is_wanted));
    let percent = (ready * 100).checked_div(wanted).unwrap_or_default() as u32;
    if ready > 0 { percent.max(1) } else { 0 }
}

/// Whether a worker gets new connections.
fn gets_connections(worker: &WorkerStatus) -> bool {
    worker.state == "ready" && worker.buckets > 0
}

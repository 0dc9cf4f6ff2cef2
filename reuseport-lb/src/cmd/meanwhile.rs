//! What commands that take their time say meanwhile, on standard error: each second, which workers are waited for.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use reuseport_lb_client::api::{Awaited, ServiceStatus, Status, Waiting};

use super::client::client;
use super::render;
use crate::daemon::Paths;
use crate::printable::printable;

/// Interval between two lines.
const EACH: Duration = Duration::from_secs(1);

/// Does `work`, which is about these services (`None`: all), and says each second what is waited for.
pub(super) fn meanwhile<T>(paths: &Paths, service: Option<&str>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let (doing, done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while done.recv_timeout(EACH) == Err(RecvTimeoutError::Timeout) {
                let status =
                    service.map_or_else(|| client(paths).status(), |name| client(paths).status_of(name));
                // A daemon that has ended is not asked.
                let lines = status.map_or_else(|_| String::new(), |status| lines(&status, begun.elapsed()));
                eprint!("{}", printable(&lines));
            }
        });
        let outcome = work();
        drop(doing);
        outcome
    })
}

/// One line for each service with workers that come or go.
fn lines(status: &Status, elapsed: Duration) -> String {
    let line = |service: &ServiceStatus| {
        let workers: Vec<Awaited> =
            service.workers.iter().filter(|it| it.state != "ready").map(Awaited::from).collect();
        let waiting = Waiting { seconds: elapsed.as_secs_f64(), workers };
        (!waiting.workers.is_empty()).then(|| render::waiting(&service.name, &waiting))
    };
    status.services.iter().filter_map(line).collect()
}

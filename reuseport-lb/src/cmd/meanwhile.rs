//! What commands that take their time say meanwhile: each second, which workers are waited for. For people on standard
//! error; as JSON on standard output, like all else.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use reuseport_lb_client::api::{Awaited, ServiceStatus, Status, Waiting};

use super::client::client;
use super::print::print_object;
use super::render;
use crate::daemon::Paths;
use crate::printable::printable;

/// Interval between two lines.
const EACH: Duration = Duration::from_secs(1);

/// Does `work`, which is about these services (`None`: all), and says each second what is waited for.
pub(super) fn meanwhile<T>(paths: &Paths, service: Option<&str>, json: bool, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let (doing, done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while done.recv_timeout(EACH) == Err(RecvTimeoutError::Timeout) {
                let status =
                    service.map_or_else(|| client(paths).status(), |name| client(paths).status_of(name));
                // A daemon that has ended is not asked.
                let Ok(status) = status else { continue };
                if json {
                    // Standard output that takes nothing fails the command at its end.
                    let _ = waiting(&status.services, begun.elapsed()).as_ref().map(print_object);
                } else {
                    eprint!("{}", printable(&lines(&status, begun.elapsed())));
                }
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
        waiting(std::slice::from_ref(service), elapsed).map(|it| render::waiting(&service.name, &it))
    };
    status.services.iter().filter_map(line).collect()
}

/// The workers that come or go, if there are any.
fn waiting(services: &[ServiceStatus], elapsed: Duration) -> Option<Waiting> {
    let workers = services.iter().flat_map(|service| &service.workers);
    let workers: Vec<Awaited> = workers.filter(|it| it.state != "ready").map(Awaited::from).collect();
    (!workers.is_empty()).then_some(Waiting { seconds: elapsed.as_secs_f64(), workers })
}

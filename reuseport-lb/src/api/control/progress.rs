//! `scale` and `drain` with `progress`: each second a line with the workers that are waited for, and the answer as the
//! last line.

use std::rc::Rc;
use std::time::Duration;

use hyper::Response;
use reuseport_lb_client::api::{
    Awaited, Drain, Refusal, Scale, Scaled, ServiceStatus, Waiting, WorkerStatus,
};
use tokio::time::{Instant, sleep, timeout};

use super::streams::{Lines, begin, write};
use crate::api::connection_limit::Permit;
use crate::api::exchange::{self, Answer, Body};
use crate::api::json;
use crate::domain::number::Number;
use crate::handle::Handle;

/// Interval between two lines.
const EACH: Duration = Duration::from_secs(1);

/// Interval between two looks whether a scaling is done.
const LOOK: Duration = Duration::from_millis(20);

/// Changes the number of workers, and reports progress until new workers are ready and surplus ones are removed.
pub(super) async fn scale(handle: &Handle, service: &str, scale: &Scale, permit: &Rc<Permit>) -> Answer {
    let before = handle.glance(service).await?;
    let scaled = handle.scale(service, scale).await?;
    let scaling = Scaling { before: own(&before).map(|worker| worker.name.clone()).collect(), scaled };
    let (handle, service, permit) = (handle.clone(), service.to_owned(), permit.clone());
    Ok(stream(move |mut lines| async move {
        let (begun, mut next) = (Instant::now(), EACH);
        loop {
            let now = handle.glance(&service).await;
            match now.and_then(|now| scaling.look(&now, begun.elapsed())) {
                Ok(false) => {}
                Ok(true) => return end(&mut lines, &permit, Ok(scaled)).await,
                Err(why) => return end(&mut lines, &permit, Err::<Scaled, Refusal>(why)).await,
            }
            if begun.elapsed() >= next {
                next += EACH;
                let now = whole(&handle, &service).await;
                let awaited = now.iter().flat_map(|now| scaling.awaited(now)).map(Awaited::from).collect();
                if !write(&mut lines, waiting(begun, awaited)).await {
                    // The connection was closed; the scaling goes on.
                    return;
                }
            }
            sleep(LOOK).await;
        }
    }))
}

/// Lets a worker leave, and reports progress until it is removed.
pub(super) async fn drain(
    handle: &Handle,
    service: &str,
    number: Number,
    drain: Drain,
    permit: &Rc<Permit>,
) -> Answer {
    let (handle, service, permit) = (handle.clone(), service.to_owned(), permit.clone());
    let begun = Instant::now();
    let mut drained = Box::pin({
        let (handle, service) = (handle.clone(), service.clone());
        async move { handle.drain(&service, number, drain).await }
    });
    // Until the first line is due, the answer is as without progress, so that a refusal has its HTTP status.
    if let Ok(answer) = timeout(EACH, &mut drained).await {
        return Ok(exchange::json(&answer?));
    }
    let name = format!("{service}/{number}");
    Ok(stream(move |mut lines| async move {
        loop {
            let now = whole(&handle, &service).await;
            let workers = now.iter().flat_map(|now| &now.workers).filter(|worker| worker.name == name);
            let workers: Vec<Awaited> =
                workers.filter(|worker| !worker.successor).map(Awaited::from).collect();
            // Without workers the worker is removed, and the answer comes.
            if !workers.is_empty() && !write(&mut lines, waiting(begun, workers)).await {
                // The connection was closed; the worker leaves nevertheless.
                return;
            }
            if let Ok(answer) = timeout(EACH, &mut drained).await {
                return end(&mut lines, &permit, answer).await;
            }
        }
    }))
}

/// A scaling that has begun.
struct Scaling {
    /// Names of the workers that the service had before, without joined ones.
    before: Vec<String>,
    scaled: Scaled,
}

impl Scaling {
    /// Whether the scaling is done; an error if it cannot succeed any more.
    fn look(&self, now: &ServiceStatus, took: Duration) -> Result<bool, Refusal> {
        if now.wanted != self.scaled.after {
            let (name, wanted) = (&now.name, now.wanted);
            return Err(format!("somebody else has scaled {name} to {wanted} workers meanwhile").into());
        }
        if let Some(worker) = self.added(now).find(|worker| worker.state == "failed") {
            let name = &worker.name;
            return Err(format!(
                "worker {name} ends before it is ready, again and again; the daemon's log says how"
            )
            .into());
        }
        let late: Vec<String> = self.added(now).filter(|worker| !worker.member).map(missing).collect();
        let limit = Duration::from_millis(now.start_timeout_ms);
        if took >= limit && !late.is_empty() {
            let late = late.join(", ");
            return Err(format!(
                "not ready within start_timeout ({limit:?}): {late}; they go on, and get their part when they are ready"
            )
            .into());
        }
        Ok(late.is_empty() && own(now).count() == self.scaled.after)
    }

    /// Workers that the scaling has added.
    fn added<'a>(&'a self, now: &'a ServiceStatus) -> impl Iterator<Item = &'a WorkerStatus> {
        own(now).filter(|worker| !self.before.contains(&worker.name))
    }

    /// Workers that the scaling waits for: new ones that are not ready, and leaving ones.
    fn awaited<'a>(&'a self, now: &'a ServiceStatus) -> impl Iterator<Item = &'a WorkerStatus> {
        let leaves = |worker: &&WorkerStatus| worker.state == "draining";
        let late = self.added(now).filter(|worker| !worker.member);
        late.chain(own(now).filter(leaves).filter(|worker| self.before.contains(&worker.name)))
    }
}

/// The workers of a service that `scale` counts: without joined ones, and without further sockets of a process.
fn own(service: &ServiceStatus) -> impl Iterator<Item = &WorkerStatus> {
    service.whole_workers().filter(|worker| !worker.joined)
}

fn missing(worker: &WorkerStatus) -> String {
    let lacks = worker.lacks.as_ref().map_or_else(String::new, |lacks| format!(", {lacks}"));
    format!("{} ({}{lacks})", worker.name, worker.state)
}

fn waiting(begun: Instant, workers: Vec<Awaited>) -> String {
    json::line(&Waiting { seconds: begun.elapsed().as_secs_f64(), workers })
}

/// The status of a service with queues and flows; `None` if they cannot be counted.
async fn whole(handle: &Handle, service: &str) -> Option<ServiceStatus> {
    handle.status(Some(service), |status| status.services).await.ok()?.pop()
}

/// Makes an answer whose lines `tell` writes.
fn stream<F: Future<Output = ()> + 'static>(tell: impl FnOnce(Lines) -> F) -> Response<Body> {
    let (lines, response) = begin();
    tokio::task::spawn_local(tell(lines));
    response
}

/// Writes the last line. From then on the connection is idle.
async fn end<T: serde::Serialize>(lines: &mut Lines, permit: &Permit, answer: Result<T, Refusal>) {
    let line = match answer {
        Ok(answer) => json::line(&answer),
        Err(refusal) => json::line(&refusal.body()),
    };
    permit.idle();
    // The connection may have been closed.
    let _ = write(lines, line).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(wanted: usize, workers: &[(&str, &str, bool)]) -> ServiceStatus {
        let workers = workers.iter().map(|(name, state, member)| {
            format!(
                r#"{{"name":"{name}","slot":0,"state":"{state}","pid":7,"weight":1,"member":{member},"share":0.0,
                "buckets":0,"flows":3,"restarts":0,"joined":{},"successor":false,"overloaded":false,
                "lacks":"does not accept","last_words":[],"sockets":[{{"listen":"tcp://127.0.0.1:80","cookie":1,
                "selected":0,"queue":2,"backlog":9}}]}}"#,
                name.ends_with('9')
            )
        });
        let workers = workers.collect::<Vec<String>>().join(",");
        let text = format!(
            r#"{{"name":"web","affinity":"flow","moved":0,"moving":0,"waiting":0,"pending":null,"flows_cut":0,
            "start_timeout_ms":5000,"wanted":{wanted},"groups":[],"workers":[{workers}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn further_sockets_of_a_process_are_no_workers() {
        let two = [("web/0", "ready", true), ("web/0.1", "ready", true), ("web/1", "ready", true)];
        let now = service(2, &two);
        assert_eq!((now.ready(), now.whole_workers().count()), (2, 2));
        assert!(from_one(2).look(&now, Duration::ZERO).unwrap());
    }

    fn from_one(after: usize) -> Scaling {
        Scaling { before: vec!["web/0".into()], scaled: Scaled { before: 1, after } }
    }

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(5);

    #[test]
    fn it_is_done_when_the_new_ones_are_ready_and_the_others_gone() {
        let more = from_one(2);
        let now =
            service(2, &[("web/0", "ready", true), ("web/1", "starting", false), ("web/9", "ready", true)]);
        assert_eq!(more.look(&now, SOON), Ok(false));
        let names = |scaling: &Scaling, now: &ServiceStatus| -> Vec<String> {
            scaling.awaited(now).map(|worker| worker.name.clone()).collect()
        };
        assert_eq!(names(&more, &now), ["web/1"]);
        let now = service(2, &[("web/0", "ready", true), ("web/1", "ready", true), ("web/9", "ready", true)]);
        assert_eq!((more.look(&now, LATE), names(&more, &now).len()), (Ok(true), 0));
        let fewer = from_one(0);
        let now = service(0, &[("web/0", "draining", false)]);
        assert_eq!((fewer.look(&now, LATE), names(&fewer, &now)), (Ok(false), vec!["web/0".into()]));
        assert_eq!(fewer.look(&service(0, &[]), LATE), Ok(true));
    }

    #[test]
    fn what_will_not_be_done_says_why() {
        let more = from_one(2);
        for (wanted, state, took, says) in [
            (3, "starting", SOON, "somebody else has scaled web to 3 workers meanwhile"),
            (2, "failed", SOON, "worker web/1 ends before it is ready, again and again"),
            (
                2,
                "loading",
                LATE,
                "not ready within start_timeout (5s): web/1 (loading, does not accept); they go on",
            ),
        ] {
            let now = service(wanted, &[("web/0", "ready", true), ("web/1", state, false)]);
            let error = more.look(&now, took).unwrap_err();
            assert!(error.status() == 422 && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_line_says_what_is_waited_for() {
        let now = service(0, &[("web/0", "draining", false)]);
        let wanted = Awaited {
            worker: "web/0".into(),
            state: "draining".into(),
            pid: Some(7),
            lacks: Some("does not accept".into()),
            queue: 2,
            flows: 3,
            connections: 0,
        };
        assert_eq!(Awaited::from(&now.workers[0]), wanted);
    }
}

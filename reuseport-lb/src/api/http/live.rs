//! `/events`: what happens, as server-sent events, with the status once a second while somebody looks.
//! (HTML Standard, 9.2 Server-sent events.)

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Response;
use hyper::body::{Bytes, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use reuseport_lb_client::api::EventLine;
use tokio::sync::watch;

use super::super::exchange::Body;
use super::super::json;
use super::shared::Shared;

/// Interval between two statuses.
const EACH: Duration = Duration::from_secs(1);

/// The statuses from now on, which are made only while somebody has such a receiver.
fn follow(all: &Rc<Shared>) -> watch::Receiver<Bytes> {
    let receiver = all.live.subscribe();
    if !all.feeding.replace(true) {
        tokio::task::spawn_local(feed(all.clone()));
    }
    receiver
}

/// Makes a status each second until nobody wants one.
async fn feed(all: Rc<Shared>) {
    while all.live.receiver_count() > 0 {
        // A status that cannot be made now is left out.
        if let Ok(text) = all.made(|status| message("status", None, &json::line(&**status))).await {
            all.live.send_replace(text);
        }
        tokio::time::sleep(EACH).await;
    }
    all.feeding.set(false);
}

/// Answers with what happened and happens, until the connection is closed. A reader that is too slow misses statuses, and
/// is told how many events it has missed.
pub(super) fn answer(all: &Rc<Shared>) -> Response<Body> {
    let (mut lines, body) = Channel::<Bytes, Infallible>::new(1);
    let (mut events, mut statuses) = (all.handle.events(), follow(all));
    tokio::task::spawn_local(async move {
        loop {
            while let Some(event) = events.read() {
                let (name, id) = match &event {
                    EventLine::Event(event) => ("event", Some(event.seq)),
                    EventLine::Missed { .. } => ("missed", None),
                };
                let text = message(name, id, &json::line(&event));
                if lines.send(Frame::data(text.into())).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = events.wait() => {}
                _ = statuses.changed() => {
                    let status = statuses.borrow_and_update().clone();
                    if lines.send(Frame::data(status)).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// One message of the stream; `text` is one line with its end.
fn message(name: &str, id: Option<u64>, text: &str) -> String {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    format!("event: {name}\n{id}data: {text}\n")
}

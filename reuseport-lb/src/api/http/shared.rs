//! What all requests share: one look of a kind at the daemon at a time, and one text that is made of it, so that a flood of
//! requests costs no more than one after the other does, and each answer is of a moment after its request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use reuseport_lb_client::api::{Refusal, ServiceStatus, Status};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use super::super::json;
use super::metrics::Format;
use super::page;
use crate::config::MetricsConfig;
use crate::domain::judgement::Judgement;
use crate::handle::Handle;
use crate::offload;

/// Least time between the beginnings of two looks of a kind.
const APART: Duration = Duration::from_millis(50);

/// Most texts in memory, with the last one of each kind, before connections that may not read theirs are closed.
const MOST_TEXTS: usize = 16;

/// The daemon, as all requests see it.
pub(super) struct Shared {
    pub(super) handle: Handle,
    pub(super) metrics: Rc<Cell<MetricsConfig>>,
    statuses: Looks<Arc<Status>>,
    glances: Looks<Arc<Vec<ServiceStatus>>>,
    /// The answer of each kind, whose bytes are in memory once however many do not read it.
    texts: BTreeMap<Text, Looks<Bytes>>,
    /// Of each service that was asked for.
    buckets: RefCell<BTreeMap<String, Rc<Looks<Bytes>>>>,
    /// What all readers of `/events` get each second.
    pub(super) live: watch::Sender<Bytes>,
    /// Whether a task makes these.
    pub(super) feeding: Cell<bool>,
    /// Held while a text is made: one at a time leaves processors to the daemon's loop.
    writing: Mutex<()>,
    /// Has a clone with each text that is in memory.
    kept: Arc<()>,
}

/// What is made of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Text {
    /// `/metrics`.
    Metrics(Format),
    /// `/status.json`.
    Json,
    /// `/`.
    Page,
}

impl Text {
    const ALL: [Self; 4] =
        [Self::Metrics(Format::OpenMetrics), Self::Metrics(Format::Text), Self::Json, Self::Page];

    fn of(self, status: &Arc<Status>, metrics: MetricsConfig) -> String {
        match self {
            Self::Metrics(format) => format.encode(status, metrics),
            Self::Json => json::line(&**status),
            Self::Page => page::text(status),
        }
    }
}

/// A text in memory.
struct Kept {
    text: String,
    _one: Arc<()>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Looks of one kind.
struct Looks<T> {
    /// Held by the request that looks.
    looking: Mutex<()>,
    /// When the last look that ended began, and what it saw.
    seen: RefCell<Option<(Instant, T)>>,
    next: Cell<Instant>,
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self { looking: Mutex::default(), seen: RefCell::default(), next: Cell::new(Instant::now()) }
    }
}

impl<T: Clone> Looks<T> {
    /// What a look of after this call sees; this request's own, or that of another one.
    async fn share(&self, look: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let asked = Instant::now();
        let _looking = self.looking.lock().await;
        if let Some((begun, seen)) = &*self.seen.borrow()
            && *begun >= asked
        {
            return Ok(seen.clone());
        }
        sleep_until(self.next.get()).await;
        let begun = Instant::now();
        self.next.set(begun + APART);
        let seen = look.await?;
        self.seen.replace(Some((begun, seen.clone())));
        Ok(seen)
    }
}

impl Shared {
    pub(super) fn new(handle: Handle, metrics: Rc<Cell<MetricsConfig>>) -> Self {
        Self {
            handle,
            metrics,
            statuses: Looks::default(),
            glances: Looks::default(),
            texts: Text::ALL.iter().map(|text| (*text, Looks::default())).collect(),
            buckets: RefCell::default(),
            live: watch::Sender::default(),
            feeding: Cell::default(),
            writing: Mutex::default(),
            kept: Arc::default(),
        }
    }

    /// The owners of a service's buckets, as `/buckets` answers.
    pub(super) async fn buckets(&self, service: &str) -> Result<Bytes, Refusal> {
        let looks = self.buckets.borrow_mut().entry(service.to_owned()).or_default().clone();
        let look = async {
            let owners = self.handle.buckets(service).await?;
            Ok(owners.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().into())
        };
        // Of a service that there is not, or not any more, nothing is kept.
        looks.share(look).await.inspect_err(|_| drop(self.buckets.borrow_mut().remove(service)))
    }

    /// What is made of the status of all services.
    pub(super) async fn text(&self, which: Text) -> Result<Bytes, Refusal> {
        let look = async {
            let metrics = self.metrics.get();
            self.made(move |status| which.of(status, metrics)).await
        };
        match self.texts.get(&which) {
            Some(looks) => looks.share(look).await,
            None => look.await,
        }
    }

    /// The status of all services.
    pub(super) async fn status(&self) -> Result<Arc<Status>, Refusal> {
        let shown = |mut status: Status| {
            // A command may have a secret among its arguments.
            status.services.iter_mut().for_each(|service| service.settings.clear());
            Arc::new(status)
        };
        self.statuses.share(self.handle.status(None, shown)).await
    }

    /// Whether new traffic should be sent here, for all services or for one.
    pub(super) async fn judged(&self, only: Option<&str>) -> Result<Judgement, Refusal> {
        let all = self.glances.share(async { self.handle.glances().await.map(Arc::new) }).await?;
        let Some(name) = only else { return Ok(self.handle.judge(&all)) };
        match all.iter().find(|service| service.name == name) {
            Some(service) => Ok(self.handle.judge(from_ref(service))),
            None => Err(Refusal::unknown_service(name, all.iter().map(|service| &*service.name))),
        }
    }

    /// Makes a text of the status of all services, in a thread, since it may be long.
    pub(super) async fn made(
        &self,
        make: impl FnOnce(&Arc<Status>) -> String + Send + 'static,
    ) -> Result<Bytes, Refusal> {
        let status = self.status().await?;
        let _writing = self.writing.lock().await;
        let made = offload::in_thread_or_here("answering", move || make(&status)).await;
        let text = made.map_err(|error| Refusal::Failed(format!("{error:#}")))?;
        Ok(Bytes::from_owner(Kept { text, _one: self.kept.clone() }))
    }

    /// Whether more texts are in memory than those need that read theirs.
    pub(super) fn keeps_many_texts(&self) -> bool {
        Arc::strong_count(&self.kept) - 1 > MOST_TEXTS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::mpsc;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::handle::Services;

    #[tokio::test(flavor = "current_thread")]
    async fn requests_that_come_together_share_a_look_that_began_after_them() {
        let (looks, looked) = (Looks::default(), Cell::new(0));
        let one = || {
            looks.share(async {
                looked.set(looked.get() + 1);
                tokio::task::yield_now().await;
                Ok(looked.get())
            })
        };
        // The look of the first one may have begun before the others came.
        let (first, second, third, fourth) = tokio::join!(one(), one(), one(), one());
        let seen = [first, second, third, fourth].map(Result::unwrap);
        assert!(looked.get() <= 2 && seen[1..] == [looked.get(); 3], "{seen:?}");
        assert_eq!(one().await, Ok(looked.get()));
        assert!(seen[3] < looked.get(), "each answer is of a moment after its request");
    }

    /// Bytes at one place are one text.
    fn places(texts: &[Bytes]) -> BTreeSet<*const u8> {
        texts.iter().map(|text| text.as_ptr()).collect()
    }

    #[test]
    fn a_flood_of_scrapes_gets_at_most_two_texts_and_who_asks_then_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let handle = Handle::new(Services::default(), mpsc::unbounded_channel().0, Rc::default());
            let all = Rc::new(Shared::new(handle, Rc::default()));
            for (which, beginning) in
                Text::ALL.into_iter().zip(["# HELP ", "# HELP ", "{\"version\"", "<!DOCTYPE"])
            {
                let ask = || {
                    let all = all.clone();
                    spawn_local(async move { all.text(which).await.unwrap() })
                };
                let asking: Vec<_> = (0..50).map(|_| ask()).collect();
                let mut answers = Vec::new();
                for answer in asking {
                    answers.push(answer.await.unwrap());
                }
                assert!(answers[0].starts_with(beginning.as_bytes()), "{which:?}: {:?}", answers[0]);
                assert!(places(&answers).len() <= 2, "{which:?}: {:?}", places(&answers));
                assert_eq!(
                    places(&answers[1..]).len(),
                    1,
                    "{which:?}: these asked before the second text was begun"
                );
                let next = ask().await.unwrap();
                assert!(
                    !places(&answers).contains(&next.as_ptr()),
                    "{which:?}: of a moment after its request"
                );
            }
            // Nobody has the others any more.
            assert_eq!(Arc::strong_count(&all.kept) - 1, Text::ALL.len());
            let mut unread = Vec::new();
            while !all.keeps_many_texts() {
                unread.push(all.text(Text::Json).await.unwrap());
            }
            assert_eq!(unread.len() + Text::ALL.len() - 1, MOST_TEXTS + 1);
            unread.pop();
            assert!(all.keeps_many_texts(), "the last one is kept");
            unread.pop();
            assert!(!all.keeps_many_texts());
        });
    }
}

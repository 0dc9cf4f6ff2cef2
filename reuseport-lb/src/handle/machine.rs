//! Whether new traffic should be sent to this machine, as services and `host drain` have it. Not: the judgement
//! (`domain/judgement.rs`).

use reuseport_lb_client::api::{HostDrain, HostDrained, HostHealth, Refusal, ServiceStatus, WorkerStatus};
use tokio::sync::oneshot;

use super::{Handle, Order};
use crate::domain::judgement::{Judgement, Measure};
use crate::kernel::host;

impl Handle {
    /// That the machine is to get nothing new now.
    #[must_use]
    pub fn host_drained(&self) -> Option<HostDrained> {
        self.host_drained.get().filter(|drained| drained.until.is_none_or(|until| host::now() < until))
    }

    /// Says whether the machine is to get nothing new.
    pub fn set_host_drained(&self, drained: Option<HostDrained>) {
        self.host_drained.set(drained);
    }

    /// Judges services that are asked for together.
    #[must_use]
    pub fn judge(&self, services: &[ServiceStatus]) -> Judgement {
        let measures: Vec<Measure<'_>> = services.iter().map(measure).collect();
        Judgement::of(self.host_drained().is_some(), &measures)
    }

    /// The judgement of all services, or of one.
    pub async fn judged(&self, only: Option<&str>) -> Result<Judgement, Refusal> {
        Ok(self.judge(&self.glances_of(only).await?))
    }

    /// The judgement of all services, or of one, as programs are told it.
    pub async fn health(&self, only: Option<&str>) -> Result<HostHealth, Refusal> {
        Ok(health(&self.judged(only).await?))
    }

    /// Makes the machine get nothing new, and answers with the judgement of all services then.
    pub async fn host_drain(&self, drain: HostDrain) -> Result<HostHealth, Refusal> {
        self.order_host(Some(drain)).await
    }

    /// Ends [`host_drain`](Self::host_drain).
    pub async fn host_undrain(&self) -> Result<HostHealth, Refusal> {
        self.order_host(None).await
    }

    async fn order_host(&self, drain: Option<HostDrain>) -> Result<HostHealth, Refusal> {
        let (answer, changed) = oneshot::channel();
        // A daemon that is ending drops the order.
        let _ = self.orders.send(Order::Host(drain, answer, self.asker.clone()));
        changed.await.map_err(|_| Refusal::ending())??;
        self.health(None).await
    }
}

/// What is judged of a service.
#[must_use]
pub fn measure(service: &ServiceStatus) -> Measure<'_> {
    let sum = |which: fn(&WorkerStatus) -> bool| {
        let workers = service.workers.iter().filter(|worker| which(worker));
        workers.map(|worker| u64::from(worker.weight)).sum()
    };
    Measure {
        service: &service.name,
        ending: service.ending,
        wanted: sum(WorkerStatus::is_wanted),
        serving: sum(|worker| worker.state == "ready" && worker.member),
        ready: service.workers.iter().filter(|worker| worker.state == "ready").count(),
    }
}

fn health(judgement: &Judgement) -> HostHealth {
    let state = match judgement {
        Judgement::Up(_) => "up",
        Judgement::Drained(_) => "drained",
        Judgement::Down(_) => "down",
    };
    HostHealth { state: state.into(), weight: judgement.weight(), reasons: judgement.reasons().to_vec() }
}

//! The types of `status`, under the names that `service/` has for them.

pub use reuseport_lb_client::api::{
    FlowCounts as Flows, GroupStatus as Group, ServiceStatus as Service, SocketStatus as Socket,
    WorkerStatus as Worker,
};

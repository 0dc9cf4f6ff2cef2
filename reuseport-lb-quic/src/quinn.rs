//! Ids for quinn: `EndpointConfig::cid_generator(move || Box::new(ids.clone()))`.

use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::Ids;

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.generate())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.may_be_ours(id) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        self.length()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

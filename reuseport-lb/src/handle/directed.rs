//! A connection to one worker, whatever the table says. Not: how it gets there (`service/directed.rs`).

use std::io;
use std::time::Duration;

use reuseport_lb_client::api::Refusal;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Handle;
use super::services::ServiceHandle;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::number::Number;
use crate::service::{Command, Directed, DirectedAt};

/// How long a connection may take to be made. It waits where the worker's queue is full, as that of any client.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a worker.
pub struct Connected {
    /// The connection itself.
    pub transport: Transport,
    /// Name of the worker.
    pub worker: String,
    /// Where it was made.
    pub listener: Listener,
    /// What is needed as long as packets of it may meet the program.
    direction: Option<Direction>,
}

/// A connection, or a socket whose datagrams go to the worker.
pub enum Transport {
    /// Of TCP, made.
    Tcp(TcpStream),
    /// Of UDP: nothing was sent yet.
    Udp(UdpSocket),
}

/// Ends the direction of a connection on drop.
struct Direction {
    service: ServiceHandle,
    at: DirectedAt,
}

impl Drop for Direction {
    fn drop(&mut self) {
        // A service that has ended directs nothing.
        let _ = self.service.tell(Command::Undirect(self.at));
    }
}

impl Connected {
    /// Notes that the first datagram was sent.
    pub async fn sent(&self) {
        if let Some(Direction { service, at }) = &self.direction {
            // Of no use to a service that has ended.
            let _ = service.ask(|answer| Command::Directed(*at, answer)).await;
        }
    }
}

impl Handle {
    /// Connects to a worker, at this listener or its first one.
    pub async fn connect(
        &self,
        service: &str,
        number: Number,
        listen: Option<Listener>,
    ) -> Result<Connected, Refusal> {
        let service = self.services.find(service)?;
        let directed = service.ask(|answer| Command::Direct(number, listen, answer)).await?;
        let Directed { socket, worker, listener, at } = directed;
        let direction = Direction { service, at };
        let failed =
            |error: io::Error| Refusal::Failed(format!("cannot connect to {worker} at {listener}: {error}"));
        if listener.protocol == Protocol::Udp {
            let transport = Transport::Udp(UdpSocket::from_std(socket.into()).map_err(failed)?);
            return Ok(Connected { transport, worker, listener, direction: Some(direction) });
        }
        let stream = TcpStream::from_std(socket.into()).map_err(failed)?;
        match timeout(PATIENCE, made(&stream)).await {
            Ok(made) => made.map_err(failed)?,
            Err(_) => {
                return Err(Refusal::Failed(format!(
                    "{worker} has let nobody in at {listener} for {PATIENCE:?}: is its queue full?"
                )));
            }
        }
        let met = direction.service.ask(|answer| Command::Directed(at, answer)).await?;
        let Some(same) = met else {
            return Err(Refusal::Unavailable(format!("{listener} was changed meanwhile: try again")));
        };
        // Where all buckets are marked for it, they are no longer than needed.
        let direction = Some(direction).filter(|_| same);
        Ok(Connected { transport: Transport::Tcp(stream), worker, listener, direction })
    }
}

/// Waits until a connection is made, or cannot be.
async fn made(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

//! Where a client's next connection or datagram would go, and why: request and answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explainable {
    /// The next connection or datagram of a client.
    Client(ClientAddress),
    /// One with a key.
    Key(u32),
}

impl From<ClientAddress> for Explainable {
    fn from(client: ClientAddress) -> Self {
        Self::Client(client)
    }
}

impl fmt::Display for Explainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => client.fmt(f),
            Self::Key(key) => write!(f, "key {key:08x}"),
        }
    }
}

/// A client: an address, and perhaps a port. Written `192.0.2.7`, `192.0.2.7:40000`, `::1` or `[::1]:40000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address; of an IPv4-mapped one the IPv4 address.
    pub address: IpAddr,
    /// The port, if one is given.
    pub port: Option<u16>,
}

impl FromStr for ClientAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).filter(|it| it.contains(':'));
        let (address, port) = match text.parse::<SocketAddr>() {
            Ok(both) => (both.ip(), Some(both.port())),
            Err(_) => {
                let address = bare.unwrap_or(text).parse::<IpAddr>().map_err(|_| {
                    format!(
                        "{text:?} is no address of a client; write it like 192.0.2.7, 192.0.2.7:40000 or \
                         [2001:db8::7]:40000 (names are not looked up)"
                    )
                })?;
                (address, None)
            }
        };
        Ok(Self { address: address.to_canonical(), port })
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// Answer to `GET /v1/services/NAME/explain?client=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The service.
    pub service: String,
    /// What decisions are made from, as the configuration has it.
    pub affinity: String,
    /// The client that was asked for.
    pub client: String,
    /// Each listener that such a client could come to.
    pub listeners: Vec<Explanation>,
}

/// Where a new connection or datagram of the client would go now that comes to one listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Address of the listener.
    pub listen: String,
    /// Hash of the client's address; `null` if it cannot be known beforehand, and then all of what follows from it.
    pub key: Option<u32>,
    /// Low 16 bits of the key.
    pub bucket: Option<u16>,
    /// The worker that the bucket points to; `null` also if there is none.
    pub bucket_of: Option<Place>,
    /// The worker that keeps the live flows of a bucket that is moving.
    pub previous: Option<Place>,
    /// `live` if a UDP flow of this key lives and so stays where it is, else `new`; `null` where no flows are tracked.
    pub flow: Option<String>,
    /// Counter of stage owner: what becomes of the bucket's worker.
    pub owner: Option<String>,
    /// Counter of stage detour: who is asked instead; `null` if the owner is taken.
    pub detour: Option<String>,
    /// Who gets it; `null` also if it is refused.
    pub goes_to: Option<Place>,
    /// Where it may go if the key cannot be known.
    pub chances: Vec<Chance>,
    /// What else is to be known of this answer, such as why there is no key.
    pub note: Option<String>,
}

/// A slot, and the worker in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The slot.
    pub slot: u16,
    /// The worker in it; `null` if there is none.
    pub worker: Option<String>,
    /// State of that worker, as in `status`.
    pub state: Option<String>,
}

/// How likely one outcome is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    /// Who gets it; `null`: it is refused.
    pub goes_to: Option<Place>,
    /// From 0 to 1: the part of all buckets.
    pub share: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_perhaps_with_a_port() {
        for (text, shown, port) in [
            ("192.0.2.7", "192.0.2.7", None),
            ("192.0.2.7:40000", "192.0.2.7:40000", Some(40_000)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:7", "[::1]:7", Some(7)),
            ("::ffff:192.0.2.7", "192.0.2.7", None),
            ("[::ffff:192.0.2.7]:7", "192.0.2.7:7", Some(7)),
        ] {
            let client: ClientAddress = text.parse().unwrap();
            assert_eq!((client.to_string(), client.port), (shown.to_owned(), port), "{text}");
        }
        for bad in [
            "",
            "nonsense",
            "localhost:80",
            "192.0.2.7:",
            "192.0.2.7:65536",
            "192.0.2",
            "[192.0.2.7]",
            "[::1]:",
        ] {
            let error = bad.parse::<ClientAddress>().unwrap_err();
            assert!(
                error.contains(&format!("{bad:?} is no address")) && error.contains("names are not"),
                "{error}"
            );
        }
    }
}

//! One protocol and address of a service, written as `tcp://127.0.0.1:8080`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Transport protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Connections: the program decides about each SYN.
    Tcp,
    /// Datagrams: the program decides about each.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`, as in front of an address.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One protocol and address; equal addresses of one protocol are one SO_REUSEPORT group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local address; IPv6 sockets are v6-only.
    pub address: SocketAddr,
}

impl Listener {
    /// A name without `/` and `:`, for LISTEN_FDNAMES and pins: `tcp-127.0.0.1-8080`, `udp-[--1]-53`.
    #[must_use]
    pub fn plain_name(&self) -> String {
        self.to_string().replace("://", "-").replace(':', "-")
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol, self.address)
    }
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!(
                "{text:?} is not a listener: {why}; write it like tcp://127.0.0.1:8080 or udp://[::]:53"
            ))
        };
        let Some((scheme, address)) = text.split_once("://") else {
            return wrong("it has no tcp:// or udp:// in front");
        };
        let protocol = match scheme {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return wrong(&format!("{other:?} is neither tcp nor udp")),
        };
        if let Ok(address) = address.parse::<SocketAddr>() {
            if let SocketAddr::V6(v6) = address
                && v6.ip().to_ipv4_mapped().is_some()
            {
                return wrong("IPv6 sockets are v6-only here; listen on the IPv4 address itself");
            }
            if address.ip().is_multicast() {
                return wrong("a multicast datagram goes to every member, so there is nothing to choose");
            }
            return Ok(Self { protocol, address });
        }
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        if port.parse::<u16>().is_err() {
            return wrong(&format!("the port {port:?} is not a number from 0 to 65535"));
        }
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            return wrong(&format!("an IPv6 address goes in brackets, [{host}]:{port}"));
        }
        wrong(&format!(
            "{host:?} is not an IP address (names are not looked up; 0.0.0.0 and [::] are all addresses)"
        ))
    }
}

impl Serialize for Listener {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listener {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_written_as_it_is_read() {
        for text in ["tcp://127.0.0.1:8080", "udp://[::1]:53", "tcp://[::]:0", "udp://0.0.0.0:65535"] {
            assert_eq!(text.parse::<Listener>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("127.0.0.1:80", "no tcp:// or udp://"),
            ("http://127.0.0.1:80", "neither tcp nor udp"),
            ("tcp://127.0.0.1", "the port"),
            ("tcp://127.0.0.1:65536", "65536"),
            ("tcp://localhost:80", "names are not looked up"),
            ("tcp://::1:80", "in brackets"),
            ("tcp://[::ffff:1.2.3.4]:80", "v6-only"),
            ("udp://224.0.0.1:80", "multicast"),
        ] {
            let error = text.parse::<Listener>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}

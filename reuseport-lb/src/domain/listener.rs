//! One protocol and address of a service, written as `tcp://127.0.0.1:8080`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local address.
    pub address: SocketAddr,
    /// Whether IPv4 clients are served as well, on an IPv6 socket bound to all addresses: written `*`. Other IPv6
    /// sockets are v6-only.
    pub dual_stack: bool,
}

impl Listener {
    /// A listener on one address, or on all addresses of one family.
    #[must_use]
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address, dual_stack: false }
    }

    /// A listener on all addresses of both families.
    #[must_use]
    pub fn on_all(protocol: Protocol, port: u16) -> Self {
        Self { protocol, address: (Ipv6Addr::UNSPECIFIED, port).into(), dual_stack: true }
    }

    /// Whether a socket on this listener's address, apart from the port, would get what is sent to `address`.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        match self.address.ip() {
            _ if self.dual_stack => true,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.is_ipv4(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.is_ipv6(),
            own => own == address,
        }
    }

    /// Whether a socket that a server binds to `address` is meant to receive what this listener does: its own address, or
    /// all addresses, of the same port. An IPv6 socket on all addresses may serve IPv4 as well.
    #[must_use]
    pub fn is_bound_by(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let all = address.ip().is_unspecified() && (address.is_ipv6() || self.address.is_ipv4());
        address.port() == self.address.port() && (all || ip == self.address.ip())
    }

    /// Whether sockets of both could receive the same packets.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let port = (self.protocol, self.address.port()) == (other.protocol, other.address.port());
        port && (self.covers(other.address.ip()) || other.covers(self.address.ip()))
    }

    /// Whether both have the same port (not 0) and the same addresses, or the same IPv6 ones: the kernel would give
    /// all of these to the sockets that were opened first.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        (self.protocol, self.address) == (other.protocol, other.address) && self.address.port() != 0
    }

    /// A name without `/` and `:`, for LISTEN_FDNAMES and pins: `tcp-127.0.0.1-8080`, `udp-[--1]-53`.
    #[must_use]
    pub fn plain_name(&self) -> String {
        self.to_string().replace("://", "-").replace(':', "-")
    }
}

impl fmt::Debug for Listener {
    /// As derived, but without a `dual_stack` that is false: of this text is the hash that an older daemon has saved of
    /// what its workers were started with (`reconfigure.rs`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, dual_stack } = self;
        let mut shown = f.debug_struct("Listener");
        shown.field("protocol", protocol).field("address", address);
        if *dual_stack {
            shown.field("dual_stack", dual_stack);
        }
        shown.finish()
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dual_stack {
            true => write!(f, "{}://*:{}", self.protocol, self.address.port()),
            false => write!(f, "{}://{}", self.protocol, self.address),
        }
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
                return wrong("it is an IPv4 address in IPv6 form; listen on the IPv4 address itself");
            }
            if address.ip().is_multicast() {
                return wrong("a multicast datagram goes to every member, so there is nothing to choose");
            }
            return Ok(Self::new(protocol, address));
        }
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let Ok(number) = port.parse::<u16>() else {
            return wrong(&format!("the port {port:?} is not a number from 0 to 65535"));
        };
        if host == "*" {
            return Ok(Self::on_all(protocol, number));
        }
        if host == "[*]" {
            return wrong(&format!("all addresses of both families are *:{port}, without brackets"));
        }
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            return wrong(&format!("an IPv6 address goes in brackets, [{host}]:{port}"));
        }
        wrong(&format!(
            "{host:?} is not an IP address (names are not looked up; 0.0.0.0 and [::] are all addresses of a family, and * of both)"
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
        let both = ["tcp://*:8080", "udp://*:0"];
        let one = ["tcp://127.0.0.1:8080", "udp://[::1]:53", "tcp://[::]:0", "udp://0.0.0.0:65535"];
        for text in one.into_iter().chain(both) {
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
            ("tcp://[::ffff:1.2.3.4]:80", "IPv4 address itself"),
            ("tcp://*", "the port"),
            ("tcp://[*]:80", "*:80, without brackets"),
            ("udp://224.0.0.1:80", "multicast"),
        ] {
            let error = text.parse::<Listener>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_means_a_listener_by_its_address_or_all() {
        for (listener, bound) in [
            (
                "tcp://127.0.0.1:80",
                ["127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::ffff:127.0.0.1]:80"].as_slice(),
            ),
            ("tcp://0.0.0.0:80", &["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80"]),
            ("udp://[::1]:80", &["[::1]:80", "[::]:80"]),
            ("tcp://[::]:80", &["[::]:80"]),
            ("tcp://*:80", &["[::]:80"]),
        ] {
            let all =
                ["127.0.0.1:80", "127.0.0.2:80", "0.0.0.0:80", "[::]:80", "[::1]:80", "[::]:81", "0.0.0.0:0"];
            let mapped = ["[::ffff:127.0.0.1]:80", "[::ffff:0.0.0.0]:80"];
            let listener: Listener = listener.parse().unwrap();
            for address in all.into_iter().chain(mapped) {
                let means = listener.is_bound_by(address.parse().unwrap());
                assert_eq!(means, bound.contains(&address), "{listener} {address}");
            }
        }
    }

    #[test]
    fn a_star_is_all_addresses_of_both_families() {
        let listener = |text: &str| text.parse::<Listener>().unwrap();
        let (all, v4, v6) = (listener("tcp://*:80"), listener("tcp://0.0.0.0:80"), listener("tcp://[::]:80"));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, by) in [("10.0.0.1", [true, true, false]), ("2001:db8::1", [true, false, true])] {
            assert_eq!([all, v4, v6].map(|it| it.covers(ip(address))), by, "{address}");
        }
        assert!(listener("tcp://10.0.0.1:80").covers(ip("10.0.0.1")));
        assert!(!listener("tcp://10.0.0.1:80").covers(ip("10.0.0.2")));
        assert!(all.collides_with(&v6) && all.collides_with(&all) && all != v6);
        assert!(!all.collides_with(&v4) && !all.collides_with(&listener("udp://*:80")));
        assert!(!listener("tcp://*:0").collides_with(&listener("tcp://[::]:0")));
        assert_eq!(all.plain_name(), "tcp-*-80");
        for (one, other, overlap) in [
            (all, v4, true),
            (all, v6, true),
            (v4, v6, false),
            (listener("tcp://10.0.0.1:80"), all, true),
            (listener("tcp://10.0.0.1:80"), v4, true),
            (listener("tcp://10.0.0.1:80"), v6, false),
            (listener("tcp://10.0.0.1:81"), all, false),
            (listener("udp://10.0.0.1:80"), all, false),
        ] {
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (overlap, overlap), "{one} {other}");
        }
        assert_eq!(format!("{v4:?}"), "Listener { protocol: Tcp, address: 0.0.0.0:80 }");
    }
}

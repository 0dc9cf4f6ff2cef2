//! A listener as it is configured: its address, and what its sockets are to be called and may do. Written as a URL, or
//! as a table with one.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::listener::Listener;

/// Longest name of a socket (`FDNAME_MAX` of systemd).
const LONGEST_NAME: usize = 255;

/// A listener of a service, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Protocol and address.
    pub listener: Listener,
    /// What its sockets are called in LISTEN_FDNAMES; `None`: as [`Listener::plain_name`] says.
    pub name: Option<String>,
    /// Whether the address may be one that the machine does not have yet (IP_FREEBIND).
    pub freebind: bool,
}

impl ListenerConfig {
    /// The listener with its options, as they follow the address in texts: ` name https freebind`.
    #[must_use]
    pub fn options(&self) -> String {
        let name = self.name.as_ref().map(|name| format!(" name {name}")).unwrap_or_default();
        name + if self.freebind { " freebind" } else { "" }
    }
}

impl From<Listener> for ListenerConfig {
    /// Without options.
    fn from(listener: Listener) -> Self {
        Self { listener, name: None, freebind: false }
    }
}

/// The table of a listener.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: Listener,
    name: Option<String>,
    #[serde(default)]
    freebind: bool,
}

impl<'de> Deserialize<'de> for ListenerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrTable;
        impl<'de> Visitor<'de> for UrlOrTable {
            type Value = ListenerConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "an address like \"tcp://127.0.0.1:8080\", or a table like { url = \"tcp://127.0.0.1:8080\", \
                     name = \"web\" }",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ListenerConfig, E> {
                text.parse().map(|listener: Listener| listener.into()).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenerConfig, A::Error> {
                let Written { url, name, freebind } = Written::deserialize(MapAccessDeserializer::new(map))?;
                if let Some(name) = &name {
                    check_name(name).map_err(A::Error::custom)?;
                }
                Ok(ListenerConfig { listener: url, name, freebind })
            }
        }
        deserializer.deserialize_any(UrlOrTable)
    }
}

impl Serialize for ListenerConfig {
    /// As a URL where that says all.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { listener, name, freebind } = self;
        if name.is_none() && !freebind {
            return listener.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("url", listener)?;
        if let Some(name) = name {
            map.serialize_entry("name", name)?;
        }
        if *freebind {
            map.serialize_entry("freebind", freebind)?;
        }
        map.end()
    }
}

/// Fails if sockets cannot be called so: by the rule of systemd (`fdname_is_valid`), and not without a letter.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(allowed) {
        return Err(format!(
            "{name:?} is no name of a socket: use 1 to {LONGEST_NAME} ASCII characters, without ':' and control \
             characters"
        ));
    }
    Ok(())
}

/// Fails if two listeners of a service have the same name.
pub(super) fn check_names(listen: &[ListenerConfig]) -> Result<(), String> {
    let name_of = |it: &ListenerConfig| it.name.clone().unwrap_or_else(|| it.listener.plain_name());
    for (at, one) in listen.iter().enumerate() {
        let name = name_of(one);
        // Two of port 0 are written alike, and get other names with their ports.
        let same =
            |other: &&ListenerConfig| name_of(other) == name && (one.name.is_some() || other.name.is_some());
        if let Some(other) = listen[..at].iter().find(same) {
            return Err(format!(
                "{} and {} have the same name {name:?}: a worker could not tell their sockets apart",
                other.listener, one.listener
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Invalid, Machine, ServiceConfig, parse};
    use super::*;

    fn listen(list: &str) -> Result<Vec<ListenerConfig>, String> {
        let text = format!("[[service]]\nname = \"web\"\nlisten = {list}\n");
        parse(&text, Machine::ANOTHER)
            .map(|mut all| all.services.remove(0).listen)
            .map_err(|Invalid(error)| error)
    }

    #[test]
    fn a_listener_is_a_url_or_a_table_with_one() {
        let list = "[\"tcp://*:80\", { url = \"tcp://0.0.0.0:443\", name = \"https\", freebind = true }, { url = \
                    \"udp://0.0.0.0:443\" }]";
        let read = listen(list).unwrap();
        assert_eq!(read[0], "tcp://*:80".parse::<Listener>().unwrap().into());
        let https = "tcp://0.0.0.0:443".parse().unwrap();
        assert_eq!(read[1], ListenerConfig { listener: https, name: Some("https".into()), freebind: true });
        assert_eq!(read[2], "udp://0.0.0.0:443".parse::<Listener>().unwrap().into());
        assert_eq!(
            read.iter().map(ListenerConfig::options).collect::<Vec<_>>(),
            ["", " name https freebind", ""]
        );
        let saved = serde_json::to_string(&read).unwrap();
        assert_eq!(
            saved,
            "[\"tcp://*:80\",{\"url\":\"tcp://0.0.0.0:443\",\"name\":\"https\",\"freebind\":true},\
             \"udp://0.0.0.0:443\"]"
        );
        assert_eq!(serde_json::from_str::<Vec<ListenerConfig>>(&saved).unwrap(), read);
        let service = ServiceConfig { listen: read, ..ServiceConfig::new("web", Vec::new(), 1) };
        let saved = serde_json::to_string(&service).unwrap();
        assert_eq!(serde_json::from_str::<ServiceConfig>(&saved).unwrap(), service);
    }

    #[test]
    fn what_is_wrong_with_one_is_named_with_its_line() {
        let table = |keys: &str| format!("[\n  {{ url = \"tcp://127.0.0.1:80\", {keys} }},\n]");
        let long = "x".repeat(256);
        for (list, says) in [
            (table("nmae = \"x\""), "line 4: unknown field `nmae`: did you mean `name`?"),
            (table("free_bind = true"), "did you mean `freebind`?"),
            (table("backlog = 7"), "unknown field `backlog`; known are url, name, freebind"),
            (table("freebind = 1"), "`freebind` cannot be 1: write true or false"),
            (table("name = 5"), "`name` cannot be 5: write a text in quotes"),
            (
                table("name = \"a:b\""),
                "line 4: \"a:b\" is no name of a socket: use 1 to 255 ASCII characters, without ':'",
            ),
            (table("name = \"\""), "\"\" is no name of a socket"),
            (table("name = \"a\\nb\""), "is no name of a socket"),
            (table("name = \"ä\""), "\"ä\" is no name of a socket"),
            (table(&format!("name = \"{long}\"")), "use 1 to 255 ASCII characters"),
            (
                "[\n{ name = \"x\" }]".into(),
                "missing field `url`: a listener needs it; write url = and an address",
            ),
            ("[{ url = \"tcp://localhost:80\" }]".into(), "line 3: \"tcp://localhost:80\" is not a listener"),
            ("[\n5]".into(), "`listen` cannot be 5: write a list of addresses"),
            ("[\n\"tcp://x:1\"]".into(), "line 4: \"tcp://x:1\" is not a listener"),
            (
                "[{ url = \"tcp://*:1\", name = \"x\" }, { url = \"tcp://*:2\", name = \"x\" }]".into(),
                "tcp://*:1 and tcp://*:2 have the same name \"x\"",
            ),
            (
                "[{ url = \"tcp://*:1\", name = \"tcp-*-2\" }, \"tcp://*:2\"]".into(),
                "tcp://*:1 and tcp://*:2 have the same name \"tcp-*-2\"",
            ),
            (
                "[{ url = \"tcp://*:1\", name = \"x\" }, { url = \"tcp://*:1\", name = \"y\" }]".into(),
                "tcp://*:1 is listed twice",
            ),
        ] {
            let error = listen(&list).expect_err(&list);
            assert!(error.contains(says), "{list}: {error}");
        }
        assert!(listen("[\"tcp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]").is_ok());
        assert!(listen(&table("name = \"a b/[*]\"")).is_ok());
    }
}

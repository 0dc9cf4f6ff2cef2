//! `quic`: connection ids that say whose they are. Not: what the kernel program does with them
//! (`reuseport_lb_common::quic`).

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reuseport_lb_common::quic::{Format, LONGEST};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::choices::{Affinity, Flows};

/// Least bytes of a connection id behind the server id: the server's own (draft-ietf-quic-load-balancers-21, 5).
const LEAST_OWN: u8 = 4;

/// As many as that unless the file says something else.
const OWN: u8 = 6;

/// The server id of a worker, as hexadecimal digits.
const ID: &str = "REUSEPORT_LB_QUIC_ID";

/// Where the server id begins, unless that is byte 1.
const OFFSET: &str = "REUSEPORT_LB_QUIC_OFFSET";

/// How a worker's connection ids look, in picoquic's text form.
const PICOQUIC: &str = "REUSEPORT_LB_QUIC_LB";

/// How connection ids name workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuicRouting {
    /// Bytes of a server id: 4 or 8.
    pub server_id_length: u8,
    /// Place of its first byte in a connection id.
    pub offset: u8,
    /// Bytes of a connection id.
    pub cid_length: u8,
    /// A variable that has the server id as base64, besides those that all workers have.
    pub env: Option<String>,
}

impl QuicRouting {
    /// What the kernel program needs to know, of a service with this word.
    #[must_use]
    pub fn format(&self, word: u64) -> Format {
        Format {
            server_id: self.server_id_length.into(),
            offset: self.offset.into(),
            length: self.cid_length.into(),
            word: [word as u32, (word >> 32) as u32],
        }
    }
}

impl QuicRouting {
    /// The variables by which a worker learns its server id, of the worker with this `tag` in `slot`: the id as hexadecimal
    /// digits; how its connection ids look, as picoquic reads it; and the id as base64 (RFC 4648), if that is wanted.
    #[must_use]
    pub fn variables(&self, word: u64, slot: u16, tag: u64) -> Vec<(String, String)> {
        let id = self.format(word).id(slot, tag).to_be_bytes();
        let id = &id[id.len() - usize::from(self.server_id_length)..];
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        // Config rotation 0, a first octet that does not tell the length, so many bytes, not encrypted.
        let picoquic = format!("0N{}C-{hex}", self.cid_length);
        let mut variables = vec![(ID.to_owned(), hex), (PICOQUIC.to_owned(), picoquic)];
        if self.offset != 1 {
            variables.push((OFFSET.to_owned(), self.offset.to_string()));
        }
        variables.extend(self.env.iter().map(|env| (env.clone(), BASE64_STANDARD.encode(id))));
        variables
    }
}

impl fmt::Display for QuicRouting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_id_length, offset, cid_length, env } = self;
        write!(f, "quic-lb, server id {server_id_length} bytes at {offset} of {cid_length}")?;
        env.iter().try_for_each(|env| write!(f, ", {env}"))
    }
}

/// Fails if connection ids cannot name the workers of a service with these settings, which get their sockets from the daemon
/// or do not.
pub(super) fn check(flows: Flows, affinity: &Affinity, get_sockets: bool) -> Result<(), String> {
    if flows == Flows::None {
        return Err(
            "`quic` needs `flows = \"track\"`: a client's first datagrams have ids of its own, and are one flow".into()
        );
    }
    if !matches!(affinity, Affinity::Flow | Affinity::Source) {
        return Err(format!(
            "`quic` does not go with `affinity = \"{affinity}\"`: say \"flow\" or \"source\", which decides where there is no id yet"
        ));
    }
    if !get_sockets {
        return Err(
            "`quic` gives each worker its id in the environment, and is for workers that get their sockets: \
             `sockets = \"pass\"`"
                .into(),
        );
    }
    Ok(())
}

/// The value of `quic` in the file.
pub(super) struct Written(pub(super) QuicRouting);

/// As a table.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    format: Option<Name>,
    server_id_length: Option<u8>,
    offset: Option<u8>,
    cid_length: Option<u8>,
    env: Option<String>,
}

/// The formats that there are.
#[derive(Deserialize)]
enum Name {
    #[serde(rename = "quic-lb")]
    QuicLb,
}

impl Table {
    fn validated(self) -> Result<QuicRouting, String> {
        let (Some(Name::QuicLb) | None) = self.format;
        // What AWS's load balancers give has eight bytes.
        let server_id_length = self.server_id_length.unwrap_or(if self.env.is_some() { 8 } else { 4 });
        if ![4, 8].contains(&server_id_length) {
            return Err(format!("`server_id_length = {server_id_length}`: it is 4 or 8"));
        }
        let offset = self.offset.unwrap_or(1);
        if !(1..=LONGEST as u8 - server_id_length - LEAST_OWN).contains(&offset) {
            return Err(format!(
                "`offset = {offset}`: the server id begins behind the first octet, from 1 on, and {LEAST_OWN} bytes of the \
                 {LONGEST} that a connection id has at most are the server's own"
            ));
        }
        let named = offset + server_id_length;
        let cid_length = self.cid_length.unwrap_or((named + OWN).min(LONGEST as u8));
        if !(named + LEAST_OWN..=LONGEST as u8).contains(&cid_length) {
            return Err(format!(
                "`cid_length = {cid_length}`: with a server id up to byte {named} a connection id has {} to {LONGEST} bytes",
                named + LEAST_OWN
            ));
        }
        if let Some(env) = &self.env {
            super::environment::check_variable(env, "")?;
            if server_id_length != 8 {
                return Err(format!(
                    "`env = {env:?}` is for servers that expect a server id of 8 bytes: say `server_id_length = 8`"
                ));
            }
        }
        Ok(QuicRouting { server_id_length, offset, cid_length, env: self.env })
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Written;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"quic-lb\" or a table like { format = \"quic-lb\", server_id_length = 8 }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Written, E> {
                match text {
                    "quic-lb" => Table::default().validated().map(Written).map_err(E::custom),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Written, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                table.validated().map(Written).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<QuicRouting, String> {
        #[derive(Deserialize)]
        struct Service {
            quic: Written,
        }
        let service = toml::from_str::<Service>(&format!("quic = {text}"));
        service.map(|it| it.quic.0).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_fits_together() {
        let all = |server_id_length, offset, cid_length| QuicRouting {
            server_id_length,
            offset,
            cid_length,
            env: None,
        };
        assert_eq!(read("\"quic-lb\"").unwrap(), all(4, 1, 11));
        assert_eq!(read("{ format = \"quic-lb\" }").unwrap(), all(4, 1, 11));
        assert_eq!(read("{ server_id_length = 8 }").unwrap(), all(8, 1, 15));
        assert_eq!(read("{ server_id_length = 8, offset = 8 }").unwrap(), all(8, 8, 20));
        let aws = read("{ env = \"AWS_LBC_QUIC_SERVER_ID\" }").unwrap();
        assert_eq!(aws, QuicRouting { env: Some("AWS_LBC_QUIC_SERVER_ID".into()), ..all(8, 1, 15) });
    }

    #[test]
    fn a_worker_is_told_its_id_in_all_forms() {
        let aws = read("{ env = \"AWS_LBC_QUIC_SERVER_ID\" }").unwrap();
        let (word, slot, tag) = (7, 3, 0x1234_5678_9abc_def1);
        let id = aws.format(word).id(slot, tag);
        let hex = format!("{id:016x}");
        let expected = [
            ("REUSEPORT_LB_QUIC_ID", hex.clone()),
            ("REUSEPORT_LB_QUIC_LB", format!("0N15C-{hex}")),
            ("AWS_LBC_QUIC_SERVER_ID", BASE64_STANDARD.encode(id.to_be_bytes())),
        ];
        assert_eq!(aws.variables(word, slot, tag), expected.map(|(name, value)| (name.to_owned(), value)));
        let short = read("\"quic-lb\"").unwrap().variables(word, slot, tag);
        assert_eq!((short[0].1.len(), short.len()), (8, 2));
        let elsewhere = read("{ offset = 3 }").unwrap().variables(word, slot, tag);
        assert_eq!(elsewhere[2], ("REUSEPORT_LB_QUIC_OFFSET".to_owned(), "3".to_owned()));
    }

    #[test]
    fn it_goes_with_flows_that_are_tracked_and_sockets_that_are_given() {
        assert_eq!(check(Flows::Track, &Affinity::Source, true), Ok(()));
        for (flows, affinity, get_sockets, says) in [
            (Flows::None, Affinity::Flow, true, "needs `flows = \"track\"`"),
            (Flows::Track, Affinity::Random, true, "does not go with `affinity = \"random\"`"),
            (Flows::Track, Affinity::Flow, false, "`sockets = \"pass\"`"),
        ] {
            let error = check(flows, &affinity, get_sockets).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        for (text, says) in [
            ("\"other\"", "quic-lb"),
            ("{ format = \"other\" }", "quic-lb"),
            ("{ server_id_length = 5 }", "it is 4 or 8"),
            ("{ offset = 0 }", "from 1 on"),
            ("{ offset = 13 }", "from 1 on"),
            ("{ cid_length = 8 }", "has 9 to 20 bytes"),
            ("{ cid_length = 21 }", "has 9 to 20 bytes"),
            ("{ env = \"A\", server_id_length = 4 }", "say `server_id_length = 8`"),
            ("{ env = \"A=B\" }", "A=B"),
            ("{ lenght = 1 }", "unknown field"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}

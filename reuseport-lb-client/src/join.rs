//! Request and answer of `join.sock`, as docs/JOIN.md describes them: one line of JSON each way. Not: sending them
//! (`worker.rs`), nor which users may join.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest request with its newline, in bytes.
pub const LONGEST_REQUEST: usize = 4096;

/// The request of a process to become a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Name of the service.
    pub service: String,
    /// Name of the worker, like `web/7`; `None`: the one with the lowest free number.
    #[serde(default)]
    pub worker: Option<String>,
    /// Weight from 0 (no new flows) to 1,000,000.
    #[serde(default = "one")]
    pub weight: u32,
    /// Of a process that opens its sockets itself: its descriptor by which its calls of bind(2) and listen(2) are answered
    /// (SECCOMP_FILTER_FLAG_NEW_LISTENER). Daemons that do not know this refuse a request that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<i32>,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The process is a worker; its sockets come with the first byte.
    Joined {
        /// Name of the worker, like `web/7`.
        worker: String,
        /// The socket that receives `READY=1` (`NOTIFY_SOCKET`).
        notify: PathBuf,
        /// Names of the sockets, in their order.
        names: Vec<String>,
        /// Longest time between two `WATCHDOG=1`, in microseconds; `None`: none are expected.
        watchdog_usec: Option<u64>,
        /// Variables that the worker is to have besides, such as its server id in connection ids of QUIC. Daemons that do not know
        /// this leave it out.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
    },
    /// The process is no worker.
    Refused {
        /// The reason, and what to do.
        error: String,
    },
}

fn one() -> u32 {
    1
}

/// Path of the join socket.
#[must_use]
pub fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("join.sock")
}

/// The number in `worker`, a name like `web/7` of `service`.
pub fn number(service: &str, worker: &str) -> Result<usize, String> {
    let number = worker.strip_prefix(service).and_then(|rest| rest.strip_prefix('/'));
    number
        // No sign and no leading zeros: each worker has one name only.
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|digits| *digits == "0" || !digits.starts_with('0'))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| {
            format!("{worker:?} is not the name of a worker of {service:?}: write it like {service}/7")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_str, to_string};

    #[test]
    fn a_request_is_written_as_documented() {
        let least = Ask { service: "web".into(), worker: None, weight: 1, calls: None };
        assert_eq!(from_str::<Ask>(r#"{"service":"web"}"#).unwrap(), least);
        let text = r#"{"service":"web","worker":"web/7","weight":3}"#;
        let whole = Ask { worker: Some("web/7".into()), weight: 3, ..least.clone() };
        assert_eq!((to_string(&whole).unwrap().as_str(), from_str::<Ask>(text).unwrap()), (text, whole));
        assert!(from_str::<Ask>(r#"{"service":"web","pid":1}"#).is_err());
        let text = r#"{"service":"web","worker":null,"weight":1,"calls":7}"#;
        let opens = Ask { calls: Some(7), ..least };
        assert_eq!((to_string(&opens).unwrap().as_str(), from_str::<Ask>(text).unwrap()), (text, opens));
    }

    #[test]
    fn an_answer_is_a_place_or_a_reason() {
        let place = Answer::Joined {
            worker: "web/7".into(),
            notify: "/run/reuseport-lb/notify/12".into(),
            names: vec!["tcp-127.0.0.1-80".into()],
            watchdog_usec: None,
            env: BTreeMap::new(),
        };
        let text = r#"{"worker":"web/7","notify":"/run/reuseport-lb/notify/12","names":["tcp-127.0.0.1-80"],"watchdog_usec":null}"#;
        assert_eq!((to_string(&place).unwrap().as_str(), from_str::<Answer>(text).unwrap()), (text, place));
        let reason = Answer::Refused { error: "no".into() };
        let text = r#"{"error":"no"}"#;
        assert_eq!((to_string(&reason).unwrap().as_str(), from_str::<Answer>(text).unwrap()), (text, reason));
        // Later versions may add fields.
        let more = r#"{"worker":"web/7","notify":"/n","names":[],"watchdog_usec":5,"zone":"a"}"#;
        assert!(matches!(from_str(more).unwrap(), Answer::Joined { watchdog_usec: Some(5), .. }));
    }

    #[test]
    fn each_worker_has_one_name() {
        assert_eq!((number("web", "web/0"), number("web", "web/17")), (Ok(0), Ok(17)));
        for wrong in
            ["web", "web/", "api/1", "web/+1", "web/01", "web/1/2", "web/99999999999999999999", "1", ""]
        {
            assert!(number("web", wrong).unwrap_err().contains("write it like web/7"), "{wrong}");
        }
    }
}

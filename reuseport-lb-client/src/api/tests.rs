//! Tests that requests and answers are written as docs/CONTROL.md says, and read back unchanged.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::{from_str, to_string};

use super::*;

/// Asserts that `value` is written as `text`, and read from it.
#[track_caller]
fn both_ways<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
    assert_eq!(to_string(value).unwrap(), text);
    assert_eq!(from_str::<T>(text).unwrap(), *value);
}

#[test]
fn requests_are_written_as_documented() {
    both_ways(&Scale::to(4), r#"{"workers":4}"#);
    both_ways(&Scale::by(-2), r#"{"add":-2}"#);
    both_ways(&Weight { weight: 5 }, r#"{"weight":5}"#);
    both_ways(&Drain { timeout_ms: Some(5000), progress: false }, r#"{"timeout_ms":5000}"#);
    both_ways(&Drain::default(), r#"{"timeout_ms":null}"#);
    both_ways(&Restart::default(), r#"{"parallel":1}"#);
    let all = Restart { parallel: 4, timeout_ms: Some(1), trial_ms: Some(2) };
    both_ways(&all, r#"{"parallel":4,"timeout_ms":1,"trial_ms":2}"#);
    both_ways(&Stop { keep: true, announce_ms: None }, r#"{"keep":true}"#);
    both_ways(&Stop { keep: false, announce_ms: Some(10_000) }, r#"{"keep":false,"announce_ms":10000}"#);
    both_ways(&HostDrain { for_ms: Some(600_000) }, r#"{"for_ms":600000}"#);
    both_ways(&HostDrain::default(), "{}");
    both_ways(&HostUndrain {}, "{}");
    both_ways(&Reload { dry_run: true }, r#"{"dry_run":true}"#);
}

#[test]
fn what_is_left_out_has_its_default_and_what_is_unknown_is_an_error() {
    assert_eq!(from_str::<Drain>("{}").unwrap(), Drain::default());
    assert_eq!(from_str::<Restart>("{}").unwrap(), Restart::default());
    assert_eq!(from_str::<Stop>("{}").unwrap(), Stop { keep: false, announce_ms: None });
    assert_eq!(from_str::<Scale>("{}").unwrap(), Scale::default());
    assert_eq!(from_str::<Reload>("{}").unwrap(), Reload { dry_run: false });
    assert!(from_str::<Weight>("{}").unwrap_err().to_string().contains("missing field `weight`"));
    let unknown = [
        from_str::<Scale>(r#"{"x":1}"#).unwrap_err(),
        from_str::<Weight>(r#"{"weight":1,"x":1}"#).unwrap_err(),
        from_str::<Drain>(r#"{"x":1}"#).unwrap_err(),
        from_str::<Restart>(r#"{"x":1}"#).unwrap_err(),
        from_str::<Stop>(r#"{"x":1}"#).unwrap_err(),
        from_str::<HostDrain>(r#"{"x":1}"#).unwrap_err(),
        from_str::<HostUndrain>(r#"{"x":1}"#).unwrap_err(),
        from_str::<Reload>(r#"{"x":1}"#).unwrap_err(),
    ];
    assert!(unknown.iter().all(|error| error.to_string().contains("unknown field `x`")), "{unknown:?}");
}

#[test]
fn answers_are_read_as_documented() {
    both_ways(&Scaled { before: 3, after: 4 }, r#"{"before":3,"after":4}"#);
    let health =
        HostHealth { state: "drained".into(), weight: 0, reasons: vec!["the host is drained".into()] };
    both_ways(&health, r#"{"state":"drained","weight":0,"reasons":["the host is drained"]}"#);
    both_ways(&Stopping { pid: 22099 }, r#"{"pid":22099}"#);
    both_ways(&Reloaded { changes: "web: new".into() }, r#"{"changes":"web: new"}"#);
    both_ways(
        &Drained {
            worker: "guests/7".into(),
            seconds: 0.138797212,
            queue: 1,
            handed_over: 2,
            flows: 3,
            flows_cut: 4,
            connections: Some(5),
            end: Some("ended".into()),
        },
        r#"{"worker":"guests/7","seconds":0.138797212,"queue":1,"handed_over":2,"flows":3,"flows_cut":4,"connections":5,"end":"ended"}"#,
    );
}

#[test]
fn each_line_of_a_restart_and_of_a_trace_says_what_it_is() {
    let worker = || String::from("demo/1");
    both_ways(
        &Progress::Starting { worker: worker(), pid: Some(28877) },
        r#"{"event":"starting","worker":"demo/1","pid":28877}"#,
    );
    both_ways(&Progress::Stopping { worker: worker() }, r#"{"event":"stopping","worker":"demo/1"}"#);
    both_ways(&Progress::Ready { worker: worker() }, r#"{"event":"ready","worker":"demo/1"}"#);
    both_ways(&Progress::Replaced { worker: worker() }, r#"{"event":"replaced","worker":"demo/1"}"#);
    both_ways(&Progress::Done { replaced: 1, error: None }, r#"{"event":"done","replaced":1,"error":null}"#);
    let decision = TracedDecision {
        listen: "tcp://127.0.0.1:3000".into(),
        client: Some("[::1]:40312".into()),
        arrival: "arrival_packet".into(),
        key: 3_880_059_168,
        bucket: 288,
        owner: "owner_taken".into(),
        detour: None,
        slot: Some(1),
        worker: Some(worker()),
    };
    both_ways(
        &Traced::Decision(decision),
        r#"{"listen":"tcp://127.0.0.1:3000","client":"[::1]:40312","arrival":"arrival_packet","key":3880059168,"bucket":288,"owner":"owner_taken","detour":null,"slot":1,"worker":"demo/1"}"#,
    );
    both_ways(&Traced::Missed { missed: 7 }, r#"{"missed":7}"#);
}

#[test]
fn each_line_of_progress_says_what_it_is() {
    both_ways(&Scale { progress: true, ..Scale::to(4) }, r#"{"workers":4,"progress":true}"#);
    both_ways(&Drain { timeout_ms: None, progress: true }, r#"{"timeout_ms":null,"progress":true}"#);
    let awaited = Awaited {
        worker: "web/2".into(),
        state: "starting".into(),
        pid: Some(7),
        lacks: None,
        queue: 1,
        flows: 2,
        connections: 0,
    };
    both_ways::<Wait<Scaled>>(
        &Wait::Waiting(Waiting { seconds: 1.5, workers: vec![awaited] }),
        r#"{"event":"waiting","seconds":1.5,"workers":[{"worker":"web/2","state":"starting","pid":7,"lacks":null,"queue":1,"flows":2,"connections":0}]}"#,
    );
    let refused = || RefusalBody { error: "the service is ending".into(), invalid: false };
    both_ways::<Wait<Scaled>>(&Wait::Refused(refused()), r#"{"error":"the service is ending"}"#);
    both_ways::<Wait<Drained>>(&Wait::Refused(refused()), r#"{"error":"the service is ending"}"#);
    both_ways(&Wait::Done(Scaled { before: 3, after: 4 }), r#"{"before":3,"after":4}"#);
    let text =
        r#"{"worker":"web/2","seconds":0.5,"queue":1,"handed_over":0,"flows":0,"flows_cut":0,"end":null}"#;
    assert!(matches!(from_str::<Wait<Drained>>(text), Ok(Wait::Done(Drained { queue: 1, .. }))));
}

#[test]
fn what_a_status_of_before_did_not_say_has_a_default() {
    let text = r#"{"version":"0.1.0","kernel":"6.1","pid":7,"services":[{"name":"web","affinity":"flow","moved":1,
        "moving":0,"waiting":0,"pending":null,"flows_cut":0,"wanted":1,"groups":[{"listen":"udp://127.0.0.1:53",
        "protocol":"udp","program_id":3,"counters":{"refused":9},"flows":{"live":2,"kept":1},"strangers":null}],
        "workers":[{"name":"web/0","slot":0,"state":"ready","pid":8,"weight":1,"member":true,"share":1.0,
        "buckets":65536,"flows":2,"restarts":0,"joined":false,"successor":false,"overloaded":false,
        "last_words":["x"],"sockets":[{"listen":"udp://127.0.0.1:53","cookie":1,"selected":2,"queue":3,
        "backlog":4}]}]}]}"#;
    let status: Status = from_str(text).unwrap();
    let [service] = status.services.as_slice() else { panic!("{status:?}") };
    assert_eq!((status.longest_step_ms, service.start_timeout_ms, &service.busy), (0.0, 0, &None));
    assert_eq!(service.groups[0].flows, Some(FlowCounts { live: 2, kept: 1 }));
    assert_eq!((service.groups[0].counters["refused"], service.groups[0].decided_by.as_deref()), (9, None));
    assert_eq!((service.workers[0].sockets[0].queue, &service.workers[0].lacks), (3, &None));
    assert_eq!(from_str::<Status>(&to_string(&status).unwrap()).unwrap(), status);
}

#[test]
fn a_refusal_comes_over_the_wire_as_it_was() {
    let text = || String::from("2000 workers are too many: a service has at most 1024");
    for (refusal, status) in [
        (Refusal::Malformed(text()), 400),
        (Refusal::Unknown(text()), 404),
        (Refusal::WrongMethod(text()), 405),
        (Refusal::Late(text()), 408),
        (Refusal::Impossible(text()), 422),
        (Refusal::InvalidConfiguration(text()), 422),
        (Refusal::Failed(text()), 500),
        (Refusal::Unavailable(text()), 503),
    ] {
        assert_eq!((refusal.status(), refusal.to_string()), (status, text()));
        let wire = to_string(&refusal.body()).unwrap();
        let mark = if matches!(refusal, Refusal::InvalidConfiguration(_)) { ",\"invalid\":true" } else { "" };
        assert_eq!(wire, format!("{{\"error\":\"{}\"{mark}}}", text()));
        assert_eq!(Refusal::from_wire(status, from_str(&wire).unwrap()), refusal);
    }
    let body = || RefusalBody { error: text(), invalid: false };
    assert_eq!(Refusal::from_wire(431, body()), Refusal::Malformed(text()));
    assert_eq!(Refusal::from_wire(502, body()), Refusal::Failed(text()));
}

#[test]
fn a_refusal_says_what_there_is() {
    for (refusal, says) in [
        (Refusal::unknown_path("/v2"), "there is no /v2; docs/CONTROL.md lists what there is"),
        (Refusal::unknown_service("web", []), "there is no service \"web\"; there is none at all"),
        (Refusal::unknown_service("web", ["a", "b"]), "there is no service \"web\"; there is a, b"),
        (Refusal::unknown_worker("web/9", []), "there is no worker web/9; there is nobody"),
        (Refusal::unknown_worker("web/9", ["web/0"]), "there is no worker web/9; there is web/0"),
    ] {
        assert_eq!((refusal.status(), refusal.to_string().as_str()), (404, says));
    }
    assert_eq!(Refusal::wrong_method("/v1/stop", "POST", "GET").to_string(), "/v1/stop takes POST, not GET");
    assert_eq!(
        (Refusal::ending().status(), Refusal::ending().to_string()),
        (503, "the service is ending".into())
    );
}

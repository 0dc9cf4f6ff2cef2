//! `policy … test`: the keys that a user's function makes of datagrams, and where they would go. Nothing is changed.

use anyhow::Result;
use reuseport_lb_client::api::{Explainable, Explained, Explanation};
use reuseport_lb_common::steer::spread;
use serde_json::json;

use super::client::client;
use super::print::{print, print_object};
use crate::cli::{PolicyArgs, PolicyTestArgs, PolicyVerb};
use crate::config::{Invalid, KeyFunction};
use crate::daemon::Paths;
use crate::kernel::{host, trial};

pub(super) fn run(arguments: &PolicyArgs, paths: &Paths) -> Result<()> {
    let PolicyVerb::Test(asked) = &arguments.verb;
    test(&arguments.service, asked, paths)
}

fn test(service: &str, asked: &PolicyTestArgs, paths: &Paths) -> Result<()> {
    let function = KeyFunction::unread(&std::path::absolute(&asked.file)?);
    let function = function.read(host::read_of_root).map_err(Invalid)?;
    let packets: Vec<Vec<u8>> = asked.packets.iter().map(|packet| packet.0.clone()).collect();
    let daemon = client(paths);
    // Whether there is such a service, before anything is tried.
    daemon.explain(service, Explainable::Key(0), None)?;
    for (key, packet) in trial::keys(&function, &packets)?.into_iter().zip(&packets) {
        let explain = |key| daemon.explain(service, Explainable::Key(spread(key)), None);
        let explained = key.map(explain).transpose()?;
        if asked.json {
            let listeners = explained.map(|it| it.listeners).unwrap_or_default();
            print_object(&json!({ "bytes": packet.len(), "key": key, "listeners": listeners }))?;
        } else {
            print(&render(packet.len(), key, explained.as_ref()))?;
        }
    }
    Ok(())
}

fn render(bytes: usize, key: Option<u32>, explained: Option<&Explained>) -> String {
    let (Some(key), Some(explained)) = (key, explained) else {
        return format!("{bytes} bytes: no key, so its addresses and ports decide (key_fallback)\n");
    };
    let to = |it: &Explanation| {
        let who = it.goes_to.as_ref().and_then(|place| place.worker.as_deref());
        let bucket = it.bucket.map(|bucket| format!(", bucket {bucket}")).unwrap_or_default();
        let note = it.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("  {}{bucket} → {}{note}\n", it.listen, who.unwrap_or("nobody"))
    };
    let listeners: String = explained.listeners.iter().map(to).collect();
    format!("{bytes} bytes: key {key:08x}\n{listeners}")
}

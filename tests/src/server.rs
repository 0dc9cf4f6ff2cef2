//! Servers that are not ours, as commands of a service.

use crate::world::{World, program};

/// The `command = …` of an HAProxy that says who answers, like the embedded worker does.
#[must_use]
pub fn haproxy(world: &World) -> String {
    let file = world.file(
        "haproxy.cfg",
        "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout client 30s\n  timeout http-keep-alive 30s\n\
         frontend f\n  bind fd@3\n  http-request return status 200 content-type text/plain lf-string \
         \"worker=%[env(REUSEPORT_LB_WORKER)]\\npid=%pid\\npeer=%[src]:%[src_port]\\n\"\n",
    );
    format!("command = [{:?}, \"-db\", \"-f\", {:?}]\n", program("haproxy"), file)
}

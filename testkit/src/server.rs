//! Servers that are not ours, as commands of a service.

use std::path::PathBuf;

use crate::world::{World, program};

/// For Python: answers a request like the embedded worker does.
const ANSWER: &str = r#"import os
def answer(stream, peer, header=''):
    host = f'[{peer[0]}]' if ':' in peer[0] else peer[0]
    body = f'worker={os.environ["REUSEPORT_LB_WORKER"]}\npid={os.getpid()}\npeer={host}:{peer[1]}\n'
    stream.sendall(f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{header}\r\n{body}'.encode())

def answer_and_close(stream, peer):
    stream.recv(4096)
    answer(stream, peer, 'Connection: close\r\n')
    stream.close()

"#;

/// A Python program that can `answer(stream, peer)` to a request like the embedded worker does; and
/// `answer_and_close`, one request a connection.
#[must_use]
pub fn python(world: &World, name: &str, source: &str) -> PathBuf {
    world.file(name, &(ANSWER.to_owned() + source))
}

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

//! Pages of servers over HTTP.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::patience::{at_most, lasts};
use testkit::requests::get;

use crate::page::Page;
use crate::proof::{Client, prove};

/// How a server over HTTP is asked.
pub(crate) struct Web {
    /// What takes it about half a second.
    pub(crate) slow: &'static str,
    /// Whether it needs a server behind it.
    pub(crate) behind: bool,
    pub(crate) reloads: bool,
}

pub(crate) const WEB: Web = Web { slow: "/slow", behind: false, reloads: false };

/// How long a long request takes.
const SLOW: Duration = Duration::from_millis(500);

impl Web {
    pub(crate) fn proves(&self, heading: &'static str) {
        let page = Page::lay(heading);
        if self.behind {
            serve_behind();
        }
        if self.slow.starts_with("/downloads") {
            fs::create_dir_all("/srv/web/downloads").unwrap();
            fs::write("/srv/web/index.html", "ok").unwrap();
            fs::write("/srv/web/downloads/slow", "x".repeat(150 * 1024)).unwrap();
        }
        prove(&page, self);
    }
}

impl Client for Web {
    fn ask(&self, long: bool, _: usize) -> Result<String, String> {
        let to = SocketAddr::from(([127, 0, 0, 1], 8080));
        get(to, if long { self.slow } else { "/" }, at_most(Duration::from_secs(20)))
    }

    fn who<'a>(&self, service: &'a ServiceStatus, answer: &str) -> Option<&'a str> {
        let pid = answer.lines().find_map(|line| line.strip_prefix("X-Worker: ")?.parse().ok());
        let of =
            |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.split(' ').nth(3)?.parse().ok();
        let parent: Option<i32> = pid.and_then(of);
        let is = |worker: &&WorkerStatus| {
            answer.contains(&worker.name) || (parent.is_some() && worker.pid == parent)
        };
        service.workers.iter().find(is).map(|worker| &*worker.name)
    }

    fn says_who(&self) -> bool {
        true
    }

    fn has_long_ones(&self) -> bool {
        true
    }

    fn reloads(&self) -> bool {
        self.reloads
    }
}

/// A server behind HAProxy, for as long as the test lasts.
fn serve_behind() {
    let listener = TcpListener::bind("127.0.0.1:9000").unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut stream = stream?;
                let mut asked = String::new();
                BufReader::new(&stream).read_line(&mut asked)?;
                if asked.starts_with("GET /slow ") {
                    lasts("a long request", SLOW);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            });
        }
    });
}

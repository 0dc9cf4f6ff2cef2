//! Pages of servers of names.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use testkit::dns::{answer, label, query, resolved};
use testkit::patience::{at_most, lasts};
use testkit::world::run;

use crate::page::Page;
use crate::proof::{Client, prove};

/// How a server of names is asked.
pub(crate) struct Names {
    /// Whether it asks another server, which takes its time for some.
    pub(crate) asks: bool,
}

/// How long the other server takes for a name that begins with `slow`.
const SLOW: Duration = Duration::from_millis(300);

impl Names {
    pub(crate) fn proves(&self, heading: &'static str) {
        let page = Page::lay(heading);
        if self.asks {
            serve_behind();
        }
        prove(&page, self);
    }
}

impl Client for Names {
    fn ask(&self, long: bool, number: usize) -> Result<String, String> {
        let failed = |error: std::io::Error| error.to_string();
        let client = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
        client.connect(SocketAddr::from(([127, 0, 0, 1], 53))).map_err(failed)?;
        client.set_read_timeout(Some(at_most(Duration::from_secs(3)))).map_err(failed)?;
        let name = if long { format!("slow{number}.example.com") } else { "www.example.com".into() };
        let query = query(number as u16, &name);
        client.send(&query).map_err(failed)?;
        let mut message = [0; 512];
        let length = client.recv(&mut message).map_err(failed)?;
        resolved(&query, &message[..length]).map(|()| String::new())
    }

    fn says_who(&self) -> bool {
        false
    }

    fn has_long_ones(&self) -> bool {
        self.asks
    }
}

/// The server that knows all names, for as long as the test lasts.
fn serve_behind() {
    run("ip", &["address", "add", "192.0.2.53/32", "dev", "lo"]);
    let socket = Arc::new(UdpSocket::bind("192.0.2.53:53").unwrap());
    std::thread::spawn(move || {
        let mut asked = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut asked) {
            let (asked, socket) = (asked[..length].to_vec(), Arc::clone(&socket));
            std::thread::spawn(move || {
                if label(&asked).starts_with(b"slow") {
                    lasts("a long question", SLOW);
                }
                // Who has asked may be gone.
                let _ = socket.send_to(&answer(&asked), from);
            });
        }
    });
}

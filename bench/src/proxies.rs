//! Configurations of HAProxy and nginx. Not: starting them (`peers.rs`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// HAProxy in TCP mode with two threads, which balances by `how`; its files are in `place`.
pub(crate) fn haproxy(how: &str, to: SocketAddr, backends: &[SocketAddr], place: &Path) -> String {
    let servers = backends.iter().enumerate().map(|(nth, at)| format!(" server s{nth} {at}\n"));
    format!(
        "global\n maxconn 8000\n nbthread 2\n hard-stop-after 10s\n stats socket {} mode 600 level admin expose-fd listeners\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n option httpchk\n\
         listen l\n bind {to}\n balance {how}\n \
         default-server check inter 100ms fall 2 rise 1 on-marked-down shutdown-sessions\n{}",
        place.join("stats").display(),
        servers.collect::<String>()
    )
}

/// nginx `stream` with two workers; `how` is the directive of its upstream that says how it balances, if any.
pub(crate) fn nginx_stream(how: &str, to: SocketAddr, backends: &[SocketAddr], place: &Path) -> String {
    format!(
        "{}worker_processes 2;\nstream {{ upstream u {{ {how}{} }}\nserver {{ listen {to} reuseport; proxy_pass u; }} }}\n",
        head(place),
        backends.iter().map(|at| format!("server {at}; ")).collect::<String>()
    )
}

/// nginx that answers by itself, from so many workers with `reuseport`.
pub(crate) fn nginx(to: SocketAddr, workers: usize, place: &Path) -> String {
    format!(
        "{}worker_processes {workers};\nhttp {{ {} access_log off; keepalive_requests 100000000; \
         server {{ listen {to} reuseport backlog=4096; return 200 \"ok\\n\"; }} }}\n",
        head(place),
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};", place.join(kind).display()))
            .join(" "),
    )
}

fn head(place: &Path) -> String {
    let modules = std::env::var_os("NGINX_MODULES").map_or("/usr/lib/nginx/modules".into(), PathBuf::from);
    format!(
        "load_module {};\ndaemon off; user root; pid {};\nevents {{ worker_connections 16384; }}\n",
        modules.join("ngx_stream_module.so").display(),
        place.join("pid").display()
    )
}

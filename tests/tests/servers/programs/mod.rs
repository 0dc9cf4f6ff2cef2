//! Servers that people run, with what they need to serve.

use std::path::PathBuf;

use testkit::world::{World, program, run};

use super::requests::long;

/// A program of this machine, and what it is told.
pub(super) fn words(name: &str, arguments: &[&str]) -> Vec<String> {
    let program = program(name).display().to_string();
    [program].into_iter().chain(arguments.iter().map(|it| (*it).to_owned())).collect()
}

/// An application for WSGI and for ASGI.
pub(super) fn application(world: &World) -> String {
    let seconds = long().as_secs();
    let _ = world.file(
        "app.py",
        &format!(
            "import asyncio, time\ndef wsgi(environ, start):\n    \
             if environ['PATH_INFO'] == '/slow': time.sleep({seconds})\n    \
             start('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '2')])\n    return [b'ok']\n\
             async def asgi(scope, receive, send):\n    \
             if scope['type'] != 'http': return\n    \
             if scope['path'] == '/slow': await asyncio.sleep({seconds})\n    \
             await send({{'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'2')]}})\n    \
             await send({{'type': 'http.response.body', 'body': b'ok'}})\n"
        ),
    );
    world.path(".").display().to_string()
}

/// uvicorn with that.
pub(super) fn uvicorn(world: &World) -> Vec<String> {
    let application = application(world);
    words("uvicorn", &["--fd", "3", "--log-level", "warning", "--app-dir", &application, "app:asgi"])
}

/// HAProxy, in the mode of this option, whose answer to /slow takes [`long`].
pub(super) fn haproxy(world: &World, mode: &str) -> Vec<String> {
    let file = world.file(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode http\n  timeout client 100s\n  timeout connect 5s\n  timeout server 5s\n  \
             timeout tarpit {}s\nfrontend f\n  bind fd@3\n  \
             http-request tarpit deny_status 200 if {{ path /slow }}\n  \
             http-request return status 200 content-type text/plain string ok\n",
            long().as_secs()
        ),
    );
    words("haproxy", &[mode, "-f", &file.to_string_lossy()])
}

/// gunicorn with that, whose patience with requests in flight is `patience`.
pub(super) fn gunicorn(world: &World, patience: &str) -> Vec<String> {
    let application = application(world);
    words(
        "gunicorn",
        &["--threads", "200", "--graceful-timeout", patience, "--chdir", &application, "app:wsgi"],
    )
}

/// hypercorn with that, and `more` options.
pub(super) fn hypercorn(world: &World, more: &[&str]) -> Vec<String> {
    let module = format!("{}:asgi", world.path("app.py").display());
    let _ = application(world);
    words("hypercorn", &[&["--bind", "fd://3"], more, &[&*module]].concat())
}

/// uWSGI with that, as its main process is told to end it in order.
pub(super) fn uwsgi(world: &World) -> Vec<String> {
    let application = application(world);
    // It is named like Debian's Python: python311.
    let python = Some(PathBuf::from("/usr/bin/python3")).filter(|it| it.exists());
    let python = python.unwrap_or_else(|| program("python3")).display().to_string();
    let plugin = run(&python, &["-c", "import sys; print('python%d%d' % sys.version_info[:2], end='')"]);
    words(
        "uwsgi-core",
        &[
            "--plugin",
            &plugin,
            "--master",
            "--disable-logging",
            "--threads",
            "200",
            "--protocol",
            "http",
            "--chdir",
            &application,
            "--module",
            "app:wsgi",
            "--hook-master-start",
            "unix_signal:15 gracefully_kill_them_all",
        ],
    )
}

/// Node with a server alone (`single`), or with two processes behind each socket (`cluster`).
pub(super) fn node(world: &World, mode: &str) -> Vec<String> {
    let file = world.file("server.js", include_str!("server.js"));
    words("node", &[&file.to_string_lossy(), mode, &long().as_secs().to_string()])
}

/// A server in Go.
pub(super) fn go(world: &World) -> Vec<String> {
    let source = world.file("server.go", include_str!("server.go"));
    let binary = world.path("go-server");
    let built = std::process::Command::new(program("go"))
        .args(["build", "-o"])
        .args([&binary, &source])
        .env("GOCACHE", world.path("go-cache"))
        .envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0")])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    vec![binary.display().to_string(), long().as_secs().to_string()]
}

/// lighttpd with a download that takes [`long`].
pub(super) fn lighttpd(world: &World) -> Vec<String> {
    const RATE: usize = 16;
    let _ = world.file("slow", &"x".repeat(RATE * 1024 * long().as_secs() as usize));
    let _ = world.file("index.html", "ok");
    let file = world.file(
        "lighttpd.conf",
        &format!(
            "server.document-root = \"{}\"\nserver.systemd-socket-activation = \"enable\"\n\
             server.bind = \"127.0.0.1\"\nserver.port = 3000\nindex-file.names = (\"index.html\")\n\
             server.feature-flags = (\"server.graceful-shutdown-timeout\" => {})\n\
             $HTTP[\"url\"] == \"/slow\" {{ connection.kbytes-per-second = {RATE} }}\n",
            world.path("").display(),
            long().as_secs() * 3
        ),
    );
    words("lighttpd", &["-D", "-f", &file.to_string_lossy()])
}

/// nginx with a listener, and the descriptors that it is told of.
pub(super) fn nginx(world: &World, listen: &str, descriptors: &str) -> Vec<String> {
    let root = world.path(".").display().to_string();
    let file = world.file(
        "nginx.conf",
        &format!(
            "daemon off;\nworker_processes 1;\nuser root;\npid {root}/nginx-$$.pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\n  access_log off;\n  client_body_temp_path {root}/b;\n  proxy_temp_path {root}/p;\n  \
             fastcgi_temp_path {root}/f;\n  uwsgi_temp_path {root}/u;\n  scgi_temp_path {root}/s;\n  \
             server {{\n    listen {listen};\n    root {root};\n    location /slow {{ limit_rate 1k; }}\n  }}\n}}\n"
        ),
    );
    let variable =
        if descriptors.is_empty() { String::new() } else { format!("export NGINX='{descriptors}'; ") };
    // Each master has a pid file of its own.
    let script = format!(
        "sed \"s/nginx-\\$\\$/nginx-$$/\" {} > {root}/$$.conf; {variable}exec {} -e stderr -c {root}/$$.conf",
        file.display(),
        program("nginx").display()
    );
    words("sh", &["-c", &script])
}

/// nginx with its socket, and with a download that takes [`long`].
pub(super) fn downloads(world: &World) -> Vec<String> {
    // As much as a kilobyte a second takes so long.
    let _ = world.file("slow", &"x".repeat(1024 * long().as_secs() as usize));
    let _ = world.file("index.html", "ok");
    nginx(world, "127.0.0.1:3000", "3;")
}

//! Chromium, driven by ChromeDriver over the WebDriver protocol (W3C WebDriver 2).

use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testkit::daemon::until;
use testkit::world::{World, program};

const DRIVER: &str = "127.0.0.1:9515";

/// A window of a browser; all of its processes end with it.
pub(crate) struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    /// Opens a window of this size (width and height in pixels) that shows a page.
    pub(crate) fn open(world: &World, page: &str, (width, height): (u32, u32)) -> Self {
        // Processes of the browser are in a PID namespace that ends with the driver.
        let driver = Command::new(program("unshare"))
            .args(["--fork", "--pid", "--mount-proc", "--kill-child"])
            .arg(program("chromedriver"))
            .arg("--port=9515")
            .env("HOME", world.path("home"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut browser = Self { driver, session: String::new() };
        until("the driver to answer", || browser.request(Method::GET, "/status", None).ok());
        let size = format!("--window-size={width},{height}");
        let arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &size];
        let options = json!({"binary": program("chromium"), "args": arguments});
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let answer = browser
            .request(Method::POST, "/session", Some(json!({"capabilities": {"alwaysMatch": wanted}})))
            .unwrap();
        browser.session = format!("/session/{}", answer["sessionId"].as_str().unwrap());
        // The window of a headless browser has a least width, and the page shall have this one.
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        browser.devtools("Emulation.setDeviceMetricsOverride", metrics);
        browser.post("url", json!({"url": page}));
        browser
    }

    /// What a function of the page returns, given its body.
    pub(crate) fn value(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    /// The text that a function of the page returns, given its body.
    pub(crate) fn text(&self, script: &str) -> String {
        self.value(script).as_str().unwrap_or_default().to_owned()
    }

    /// Lets the page look as for somebody who prefers this colour scheme.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// A picture of the window, as PNG.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let answer = self.request(Method::GET, &format!("{}/screenshot", self.session), None).unwrap();
        BASE64_STANDARD.decode(answer.as_str().unwrap()).unwrap()
    }

    /// What the browser has complained about: errors of scripts, of the network, and against the page's policy.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({"type": "browser"}));
        entries.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    fn devtools(&self, command: &str, parameters: Value) {
        self.post("goog/cdp/execute", json!({"cmd": command, "params": parameters}));
    }

    fn post(&self, command: &str, body: Value) -> Value {
        self.request(Method::POST, &format!("{}/{command}", self.session), Some(body)).unwrap()
    }

    /// The value that the driver answers.
    fn request(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(DRIVER).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let body = body.map(|body| body.to_string()).unwrap_or_default();
            let request = Request::builder().method(method).uri(path).header("host", DRIVER);
            let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
            let (head, body) = answer.into_parts();
            let said: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            anyhow::ensure!(head.status.is_success(), "{path}: {said}");
            Ok(said["value"].clone())
        })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

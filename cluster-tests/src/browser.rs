//! A real browser: Debian's Chromium without a screen, driven over WebDriver's HTTP by just enough of a client.

use base64::Engine as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long one command of WebDriver may take, on a machine busy with other things.
const COMMAND_WAIT: Duration = Duration::from_secs(60);
/// Longest answer, bytes: a screenshot.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What keeps the browser to the page, and to this machine.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// A browser with one window. Ends when dropped.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

/// The paths of Chromium and its driver.
///
/// # Errors
/// Which is missing.
pub fn installed() -> Result<(PathBuf, PathBuf), String> {
    let find = |names: &[&str]| {
        let folders = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
        let all = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
        all.into_iter().find(|path| path.is_file()).ok_or_else(|| format!("{} is not installed", names[0]))
    };
    Ok((find(&["chromium", "chromium-browser", "google-chrome"])?, find(&["chromedriver"])?))
}

impl Browser {
    /// Starts one; with `scripts` off, pages cannot run any.
    ///
    /// # Errors
    /// In words.
    pub async fn start(scripts: bool) -> Result<Self, String> {
        let (chromium, chromedriver) = installed()?;
        let profile = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut command = Command::new(&chromedriver);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut driver = command.spawn().map_err(|e| format!("{}: {e}", chromedriver.display()))?;
        let port = tokio::time::timeout(COMMAND_WAIT, port(&mut driver)).await.map_err(|_| "chromedriver names no port".to_owned())??;
        let mut browser = Self { driver, address: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments: Vec<String> =
            FLAGS.iter().map(|flag| (*flag).to_owned()).chain([profile, "--window-size=1200,1400".to_owned()]).collect();
        // 2 is "block".
        let preferences = if scripts { json!({}) } else { json!({ "profile.managed_default_content_settings.javascript": 2 }) };
        let options = json!({ "binary": chromium, "args": arguments, "prefs": preferences });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } } });
        let made = browser.ask("POST", "/session", &wanted).await?;
        made["sessionId"].as_str().ok_or_else(|| format!("no session: {made}"))?.clone_into(&mut browser.session);
        Ok(browser)
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let talk = http(&self.address, method, path, body);
        let answer = tokio::time::timeout(COMMAND_WAIT, talk).await.map_err(|_| format!("{method} {path}: no answer"))??;
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{method} {path}: {error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].clone()),
        }
    }

    async fn command(&self, method: &str, name: &str, body: &Value) -> Result<Value, String> {
        self.ask(method, &format!("/session/{}/{name}", self.session), body).await
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Errors
    /// In words.
    pub async fn open(&self, url: &str) -> Result<(), String> {
        self.command("POST", "url", &json!({ "url": url })).await.map(drop)
    }

    /// Loads the page again.
    ///
    /// # Errors
    /// In words.
    pub async fn reload(&self) -> Result<(), String> {
        self.command("POST", "refresh", &json!({})).await.map(drop)
    }

    /// What a function's body returns in the page. Works where the page's own scripts are off.
    ///
    /// # Errors
    /// In words.
    pub async fn run(&self, body: &str, arguments: &Value) -> Result<Value, String> {
        self.command("POST", "execute/sync", &json!({ "script": body, "args": arguments })).await
    }

    /// The text of each element with this `data-testid`.
    ///
    /// # Errors
    /// In words.
    pub async fn texts(&self, id: &str) -> Result<Vec<String>, String> {
        let body = "return [...document.querySelectorAll(`[data-testid=\"${arguments[0]}\"]`)].map((e) => e.innerText.trim());";
        let found = self.run(body, &json!([id])).await?;
        Ok(found.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect())
    }

    /// The text of the first such element; empty where there is none.
    ///
    /// # Errors
    /// In words.
    pub async fn text(&self, id: &str) -> Result<String, String> {
        Ok(self.texts(id).await?.into_iter().next().unwrap_or_default())
    }

    /// Waits until some element with this `data-testid` has a text as wanted; how long it took, and the text.
    ///
    /// # Errors
    /// In words, with what it said last.
    pub async fn wait(&self, id: &str, within: Duration, wanted: impl Fn(&str) -> bool) -> Result<(Duration, String), String> {
        let started = Instant::now();
        loop {
            let texts = self.texts(id).await?;
            if let Some(text) = texts.iter().find(|text| wanted(text)) {
                return Ok((started.elapsed(), text.clone()));
            }
            if started.elapsed() > within {
                return Err(format!("{id} after {within:?}: {texts:?}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Calls a method of Chromium's own protocol.
    ///
    /// # Errors
    /// In words.
    pub async fn devtools(&self, method: &str, parameters: &Value) -> Result<Value, String> {
        self.command("POST", "goog/cdp/execute", &json!({ "cmd": method, "params": parameters })).await
    }

    /// Writes what the window shows into a PNG file.
    ///
    /// # Errors
    /// In words.
    pub async fn screenshot(&self, path: &Path) -> Result<(), String> {
        let shot = self.command("GET", "screenshot", &Value::Null).await?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(shot.as_str().unwrap_or_default()).map_err(|e| e.to_string())?;
        std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Ends the browser.
    ///
    /// # Errors
    /// In words.
    pub async fn end(mut self) -> Result<(), String> {
        self.ask("DELETE", &format!("/session/{}", self.session), &Value::Null).await?;
        self.driver.kill().await.map_err(|e| e.to_string())
    }
}

/// The port that the driver tells on its output.
async fn port(driver: &mut Child) -> Result<u16, String> {
    let output = driver.stdout.take().ok_or("chromedriver has no output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await.map_err(|e| e.to_string())? {
        let number = line.rsplit_once("on port ").and_then(|(_, rest)| rest.trim_end_matches('.').parse().ok());
        if let Some(port) = number.filter(|_| line.contains("started successfully")) {
            // Read on, so that the driver never waits for a reader.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(port);
        }
    }
    Err("chromedriver ended at once".to_owned())
}

/// One request; the JSON document of the answer.
async fn http(address: &str, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let failed = |e: std::io::Error| format!("{address}: {e}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = BufReader::new(TcpStream::connect(address).await.map_err(failed)?);
    stream.write_all(format!("{head}{body}").as_bytes()).await.map_err(failed)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.map_err(failed)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| format!("a length of {value}"))?;
        }
    }
    if length > ANSWER_BYTES_MAX {
        return Err(format!("an answer of {length} bytes"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    serde_json::from_slice(&answer).map_err(|e| e.to_string())
}

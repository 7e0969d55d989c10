//! A private Dovecot 2.3 on loopback to compare with: sdbox, every save synced, no TLS, accounts `user0`… in a folder of its own.

use super::ACCOUNTS;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/sbin/dovecot";
const IMAP: u16 = 24_143;
const LMTP: u16 = 24_024;
/// Password of all accounts.
pub const PASSWORD: &str = "pw";

/// A running Dovecot; dropping it ends it.
pub struct Dovecot {
    /// IMAP address.
    pub imap: String,
    /// LMTP address.
    pub lmtp: String,
    config: PathBuf,
    dir: tempfile::TempDir,
}

impl Dovecot {
    /// True when Debian's Dovecot is installed.
    pub fn installed() -> bool {
        Path::new(PROGRAM).exists()
    }

    /// Starts one. It starts its own children under other users, and so wants root.
    ///
    /// # Errors
    /// In words.
    pub fn start() -> Result<Self, String> {
        if !Self::installed() {
            return Err(format!("{PROGRAM} is missing: install dovecot-imapd and dovecot-lmtpd"));
        }
        let busy = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_err();
        if let Some(port) = [IMAP, LMTP].into_iter().find(|p| busy(*p)) {
            return Err(format!("port {port} is in use"));
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).map(|()| path).map_err(|e| e.to_string())
        };
        let users = (0..ACCOUNTS).fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "user{n}:{{PLAIN}}{PASSWORD}::::::");
            text
        });
        write("users", &users)?;
        let config = write("dovecot.conf", &configuration(dir.path()))?;
        for name in ["run", "state", "mail"] {
            std::fs::create_dir(dir.path().join(name)).map_err(|e| e.to_string())?;
        }
        run("chmod", &["755", &dir.path().display().to_string()])?;
        run("chown", &["mail:mail", &dir.path().join("mail").display().to_string()])?;
        run(PROGRAM, &["-c", &config.display().to_string()])?;
        let dovecot = Self { imap: format!("127.0.0.1:{IMAP}"), lmtp: format!("127.0.0.1:{LMTP}"), config, dir };
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&dovecot.imap).is_err() {
            if Instant::now() > until {
                return Err("Dovecot does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(dovecot)
    }

    /// Where its master process is named.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.path().join("run/master.pid")
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let _ = run(PROGRAM, &["-c", &self.config.display().to_string(), "stop"]);
        let until = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(&self.imap).is_ok() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The daemon keeps what it inherits, so a pipe for its words would never end.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "base_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = {dir}/log\ninstance_name = parliament-bench\nlisten = 127.0.0.1\n\
         protocols = imap lmtp\nssl = no\ndisable_plaintext_auth = no\nauth_username_format = %Ln\nauth_cache_size = 16M\n\
         mail_location = sdbox:~/mail\nmail_fsync = always\nfirst_valid_uid = 1\ndefault_process_limit = 1000\n\
         default_client_limit = 19000\n\
         passdb {{\n driver = passwd-file\n args = username_format=%n {dir}/users\n}}\n\
         userdb {{\n driver = passwd-file\n args = username_format=%n {dir}/users\n override_fields = uid=mail gid=mail home={dir}/mail/%n\n}}\n\
         namespace inbox {{\n inbox = yes\n separator = /\n}}\n\
         service imap-login {{\n inet_listener imap {{\n  port = {IMAP}\n }}\n inet_listener imaps {{\n  port = 0\n }}\n\
          service_count = 0\n process_min_avail = 2\n client_limit = 10000\n}}\n\
         service imap {{\n process_limit = 1000\n}}\n\
         service lmtp {{\n inet_listener lmtp {{\n  address = 127.0.0.1\n  port = {LMTP}\n }}\n}}\n\
         protocol imap {{\n mail_max_userip_connections = 0\n}}\n"
    )
}

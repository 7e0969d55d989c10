//! Proxies that others wrote, with the configurations of `deploy/proxies`: HAProxy, nginx's mail proxy and Dovecot stand in front of
//! the nodes, which must see each client's own address; and nginx must be led to the node that holds the user.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::imap::{Imap, quote};
use parliament_cluster_tests::lmtp::Lmtp;
use parliament_cluster_tests::message::Message;
use parliament_cluster_tests::{Error, skipped};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// nginx and HAProxy connect to the nodes from here, with a PROXY header; nginx's `/nginx-auth` is believed.
const HEADERS_FROM: &str = "127.0.0.1";
/// Dovecot connects from here, without one.
const DOVECOT_FROM: &str = "127.0.0.4";
/// Clients connect to the proxies from here, and that is what the nodes must see.
const CLIENT: &str = "127.0.0.9";

const HAPROXY: &str = "/usr/sbin/haproxy";
const NGINX: &str = "/usr/sbin/nginx";
const NGINX_MAIL: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";
const DOVECOT: &str = "/usr/sbin/dovecot";
const DOVECOT_IMAP: u16 = 24_443;
const DOVECOT_POP3: u16 = 24_410;

#[test]
fn proxies() {
    super::with_demo(Options { users: 2, ..Options::default() }, async |demo| {
        let users = demo.accounts();
        put_behind_proxies(demo).await;
        haproxy(demo, &users[0]).await;
        dovecot(demo, &users[0]).await;
        nginx(demo, &users[1]).await;
    });
}

/// Starts all nodes again with the settings that the proxies need. From then on nothing on 127.0.0.1 reaches a mail port without a
/// PROXY header.
async fn put_behind_proxies(demo: &Demo) {
    let all = ["n1", "n2", "n3"];
    demo.kill_at_once(&all).await.unwrap();
    for node in all {
        let path = demo.dir().join(node).join("parliament.toml");
        let mut text = std::fs::read_to_string(&path).unwrap();
        let _ = write!(text, "\n[frontend]\ntrusted = [\"{HEADERS_FROM}\", \"{DOVECOT_FROM}\"]\nproxy_protocol = [\"{HEADERS_FROM}\"]\n");
        std::fs::write(&path, text).unwrap();
    }
    demo.start_nodes(&all).await.unwrap();
}

/// A proxy's process, ended when dropped.
struct Proxy {
    child: Child,
    dir: tempfile::TempDir,
}

impl Proxy {
    /// Starts a program with a configuration of `deploy/proxies` in which texts are replaced: each must be there.
    fn start(program: &str, file: &str, replace: &[(&str, String)], arguments: impl FnOnce(&Path) -> Vec<String>, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Dovecot's login processes run under another user.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/proxies")).join(file);
        let mut text = std::fs::read_to_string(source).unwrap();
        for (from, to) in replace {
            assert!(text.contains(from), "{file} has no {from:?}");
            text = text.replace(from, &to.replace("{dir}", &dir.path().display().to_string()));
        }
        let path = dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        let log = std::fs::File::create(dir.path().join("output")).unwrap();
        let mut command = Command::new(program);
        command.args(arguments(&path)).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut proxy = Self { child: command.spawn().unwrap(), dir };
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{program} does not listen: {}", proxy.words());
            std::thread::sleep(Duration::from_millis(50));
        }
        proxy
    }

    /// What it has said, for a failed test.
    fn words(&self) -> String {
        ["output", "error.log", "log"].map(|name| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()).concat()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the proxy said: {}", self.words());
        }
        // Asked to end first: Dovecot's children end with their parent only then.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn missing(program: &str) -> bool {
    !Path::new(program).exists()
}

async fn connect(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{CLIENT}:0").parse().unwrap()).unwrap();
    socket.connect(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap()
}

async fn login(port: u16, user: &str, password: &str) -> Result<Imap, Error> {
    let mut imap = Imap::over(connect(port).await).await?;
    imap.command(&format!("LOGIN {} {}", quote(user), quote(password))).await?;
    Ok(imap)
}

/// The same, again while the cluster is looking for a leader.
async fn login_soon(port: u16, user: &str, password: &str) -> Imap {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match login(port, user, password).await {
            Ok(imap) => return imap,
            Err(error) => {
                assert!(!error.to_string().contains("Invalid login"), "{error}");
                assert!(Instant::now() < until, "{error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Logs in to POP3; the connection stays while what is returned lives.
async fn pop3(port: u16, user: &str, password: &str) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(connect(port).await);
    let mut say = async |line: &str| {
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_line(&mut reply).await.unwrap();
        assert!(reply.starts_with("+OK"), "{line}{reply}");
    };
    say("").await;
    say(&format!("USER {user}\r\n")).await;
    say(&format!("PASS {password}\r\n")).await;
    stream
}

/// The only session of a user and protocol, once there is one.
async fn session(demo: &Demo, user: &str, protocol: &str) -> Value {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let who = demo.verb(&["who", user]).await.unwrap();
        let mut found = who["sessions"].as_array().into_iter().flatten().filter(|s| s["protocol"] == protocol);
        if let (Some(one), None) = (found.next(), found.next()) {
            return one.clone();
        }
        assert!(Instant::now() < until, "{who:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `who` tells the client's address and port, which the proxy alone knows.
async fn assert_seen(demo: &Demo, user: &str, protocol: &str) -> String {
    let session = session(demo, user, protocol).await;
    let remote = session["remote"].as_str().unwrap_or_default();
    assert!(remote.starts_with(&format!("{CLIENT}:")), "{session:#}");
    eprintln!("{user} by {protocol} is seen as {remote} at {}", session["node"]);
    session["node"].as_str().unwrap_or_default().to_owned()
}

async fn write_and_read(imap: &mut Imap, id: &str) {
    let message = Message::new(id, b"Hello.\r\n");
    let appended = imap.append("INBOX", "", &message.bytes).await.unwrap();
    imap.select("INBOX", false).await.unwrap();
    let fetched = imap.uid_fetch(&appended.uid.to_string(), "(UID BODY.PEEK[])").await.unwrap();
    assert_eq!(fetched[0].body.as_deref(), Some(&message.bytes[..]));
}

async fn haproxy(demo: &Demo, user: &str) {
    if missing(HAPROXY) {
        return skipped("IMAP and LMTP through HAProxy", "haproxy is not installed");
    }
    let (imap_port, lmtp_port) = (24_343, 24_324);
    let mut replace = vec![
        // Twice as many file descriptors as connections are wanted.
        ("maxconn 8000", "maxconn 100".to_owned()),
        ("bind :143", format!("bind 127.0.0.1:{imap_port}")),
        ("bind 127.0.0.1:24\n", format!("bind 127.0.0.1:{lmtp_port}\n")),
        ("bind :993", "bind 127.0.0.1:24393".to_owned()),
        ("bind :995", "bind 127.0.0.1:24395".to_owned()),
        // The demo has no POP3 with TLS; its HTTP ports differ from node to node.
        ("check port 7480", "check".to_owned()),
    ];
    let mut servers = Vec::new();
    for (n, from) in ["192.0.2.11", "192.0.2.12", "192.0.2.13"].into_iter().enumerate() {
        let node = demo.node(n + 1);
        let (_, http) = node.http.rsplit_once(':').unwrap();
        servers.push((format!("{from}:143\n"), format!("{} port {http}\n", node.imap)));
        servers.push((format!("{from}:24\n"), format!("{} port {http}\n", node.lmtp)));
    }
    replace.extend(servers.iter().map(|(from, to)| (from.as_str(), to.clone())));
    let arguments = |path: &Path| vec!["-db".to_owned(), "-f".to_owned(), path.display().to_string()];
    let _proxy = Proxy::start(HAPROXY, "haproxy.cfg", &replace, arguments, imap_port);
    let mut imap = login_soon(imap_port, user, &demo.password).await;
    write_and_read(&mut imap, "through-haproxy").await;
    assert_seen(demo, user, "imap").await;
    let mut lmtp = Lmtp::over(connect(lmtp_port).await).await.unwrap();
    let message = Message::new("lmtp-through-haproxy", b"Hello.\r\n");
    lmtp.deliver("tests@tests.example", &[user], &message.bytes).await.unwrap().remove(0).unwrap();
    assert_eq!(imap.status("INBOX").await.unwrap().exists, 2);
    // Past HAProxy, from its own address and without a header, nobody is served.
    let past = Imap::connect(&demo.node(1).imap).await;
    assert!(past.is_err(), "a PROXY header is required");
    imap.logout().await.unwrap();
}

async fn nginx(demo: &Demo, user: &str) {
    if missing(NGINX) || missing(NGINX_MAIL) {
        return skipped("IMAP and POP3 through nginx", "nginx and libnginx-mod-mail are not installed");
    }
    let (imap_port, pop3_port) = (24_243, 24_210);
    let mut replace = vec![
        ("worker_connections 10000;", "worker_connections 100;".to_owned()),
        ("listen 143;", format!("listen 127.0.0.1:{imap_port};")),
        ("listen 110;", format!("listen 127.0.0.1:{pop3_port};")),
        ("listen 993 ssl;", "listen 127.0.0.1:24293 ssl;".to_owned()),
        ("listen 995 ssl;", "listen 127.0.0.1:24295 ssl;".to_owned()),
        ("127.0.0.1:7481", "127.0.0.1:24281".to_owned()),
        ("/etc/ssl/mail.pem", demo.dir().join("ca/mail.pem").display().to_string()),
        ("/etc/ssl/mail.key", demo.dir().join("ca/mail.key").display().to_string()),
        // This client speaks no TLS, and an ordinary user has no /var/lib/nginx.
        ("starttls only;", "starttls on;".to_owned()),
        (
            "http {\n",
            "http {\nclient_body_temp_path {dir}/b;\nproxy_temp_path {dir}/p;\nfastcgi_temp_path {dir}/f;\n\
             uwsgi_temp_path {dir}/u;\nscgi_temp_path {dir}/s;\n"
                .to_owned(),
        ),
    ];
    for (n, from) in ["192.0.2.11:7480", "192.0.2.12:7480", "192.0.2.13:7480"].into_iter().enumerate() {
        // The comment at the top names the first one too, which does no harm.
        replace.push((from, demo.node(n + 1).http.clone()));
    }
    let arguments = |path: &Path| {
        let dir = path.parent().unwrap().display();
        let directives = format!("daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log info;");
        ["-p".to_owned(), dir.to_string(), "-c".to_owned(), path.display().to_string(), "-g".to_owned(), directives].into()
    };
    let _proxy = Proxy::start(NGINX, "nginx.conf", &replace, arguments, imap_port);
    let mut imap = login_soon(imap_port, user, &demo.password).await;
    write_and_read(&mut imap, "through-nginx").await;
    assert_seen(demo, user, "imap").await;
    imap.logout().await.unwrap();
    holder_is_named(demo, user, imap_port, pop3_port).await;
    let wrong = login(imap_port, user, "wrong").await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(wrong.contains("Invalid login or password"), "{wrong}");
    next_holder_is_named(demo, user, imap_port).await;
    without_quorum_nobody_is_refused(demo, user, imap_port).await;
}

/// Wherever the lease goes, nginx's next connection goes.
async fn holder_is_named(demo: &Demo, user: &str, imap_port: u16, pop3_port: u16) {
    for node in ["n2", "n3", "n1"] {
        demo.verb(&["lease", "move", user, "--to", node, "--yes"]).await.unwrap();
        let imap = login(imap_port, user, &demo.password).await.unwrap();
        assert_eq!(assert_seen(demo, user, "imap").await, node);
        imap.logout().await.unwrap();
        let stream = pop3(pop3_port, user, &demo.password).await;
        assert_eq!(assert_seen(demo, user, "pop3").await, node);
        drop(stream);
    }
}

async fn next_holder_is_named(demo: &Demo, user: &str, imap_port: u16) {
    let mut imap = login(imap_port, user, &demo.password).await.unwrap();
    imap.select("INBOX", false).await.unwrap();
    let holder = demo.holder(user).await.unwrap();
    assert_eq!(assert_seen(demo, user, "imap").await, holder);
    demo.kill(&holder).await.unwrap();
    drop(imap);
    let mut imap = login_soon(imap_port, user, &demo.password).await;
    assert_eq!(imap.select("INBOX", false).await.unwrap().exists, 1);
    assert_ne!(assert_seen(demo, user, "imap").await, holder);
    imap.logout().await.unwrap();
    demo.start_nodes(&[&holder]).await.unwrap();
}

async fn without_quorum_nobody_is_refused(demo: &Demo, user: &str, imap_port: u16) {
    demo.kill_at_once(&["n1", "n2"]).await.unwrap();
    let told = login(imap_port, user, &demo.password).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("NO [UNAVAILABLE]"), "{told}");
    demo.start_nodes(&["n1", "n2"]).await.unwrap();
    login_soon(imap_port, user, &demo.password).await.logout().await.unwrap();
}

async fn dovecot(demo: &Demo, user: &str) {
    if missing(DOVECOT) || missing("/usr/lib/dovecot/pop3-login") {
        return skipped("IMAP and POP3 through Dovecot", "dovecot-imapd and dovecot-pop3d are not installed");
    }
    if !rustix::process::geteuid().is_root() {
        return skipped("IMAP and POP3 through Dovecot", "Dovecot wants root");
    }
    let proxy = start_dovecot(demo, &demo.node(1).imap);
    let mut imap = login(DOVECOT_IMAP, user, &demo.password).await.unwrap();
    write_and_read(&mut imap, "through-dovecot").await;
    assert_seen(demo, user, "imap").await;
    drop((imap, proxy));
    let proxy = start_dovecot(demo, &demo.node(1).pop3);
    let stream = pop3(DOVECOT_POP3, user, &demo.password).await;
    assert_seen(demo, user, "pop3").await;
    drop((stream, proxy));
}

/// The demo's ports are not the protocols' own, and a passdb names one: Dovecot stands in front of one protocol at a time.
fn start_dovecot(demo: &Demo, node: &str) -> Proxy {
    let ca = demo.dir().join("ca");
    let replace = [
        (
            "protocols = imap pop3\n",
            "protocols = imap pop3\nbase_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = {dir}/log\nlisten = 127.0.0.1\n\
             disable_plaintext_auth = no\nauth_verbose = yes\n"
                .to_owned(),
        ),
        ("ssl = required\n", "ssl = yes\n".to_owned()),
        ("/etc/ssl/mail.pem", ca.join("mail.pem").display().to_string()),
        ("/etc/ssl/mail.key", ca.join("mail.key").display().to_string()),
        ("proxy=y host=192.0.2.11\n", format!("proxy=y host={} source_ip={DOVECOT_FROM}\n", node.replace(':', " port="))),
        ("port = 143\n", format!("port = {DOVECOT_IMAP}\n")),
        ("port = 993\n", "port = 24493\n".to_owned()),
        ("port = 110\n", format!("port = {DOVECOT_POP3}\n")),
        ("port = 995\n", "port = 24495\n".to_owned()),
    ];
    let arguments = |path: &Path| vec!["-F".to_owned(), "-c".to_owned(), path.display().to_string()];
    Proxy::start(DOVECOT, "dovecot-proxy.conf", &replace, arguments, DOVECOT_IMAP)
}

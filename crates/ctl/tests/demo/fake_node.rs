//! A node that keeps nothing on disk: enough IMAP, LMTP, HTTP and admin verbs for a demo to come up.

use async_trait::async_trait;
use parliament_config::Config;
use parliament_ctl::api::{self, Cluster, Group, Lease, Node, NodeState, Status, UserImport, UserImported};
use parliament_ctl::{AdminClient, AdminError, Target, code, exit};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A client of a fake node: a line of JSON there, one back.
struct Client(String);

pub(crate) fn connect(target: &Target, _: Duration) -> Result<Box<dyn AdminClient>, AdminError> {
    match target {
        Target::Peer { address, tls: None } => Ok(Box::new(Client(address.clone()))),
        other => Err(AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, format!("{other:?} is no fake node"))),
    }
}

#[async_trait]
impl AdminClient for Client {
    async fn call(&self, verb: &str, request: Value) -> Result<Value, AdminError> {
        let gone = |e: std::io::Error| AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, e.to_string());
        let mut stream = TcpStream::connect(&self.0).map_err(gone)?;
        stream.write_all(format!("{}\n", json!([verb, request])).as_bytes()).map_err(gone)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).map_err(gone)?;
        let answer: Result<Value, AdminError> = serde_json::from_str(&line).unwrap();
        answer
    }
}

#[derive(Default)]
struct State {
    name: String,
    formed: bool,
    users: Vec<String>,
    /// Message-IDs of the one mailbox; the index is the UID less one.
    load: Vec<Option<String>>,
}

type Shared = Arc<Mutex<State>>;

pub(crate) fn serve(config: &Config) -> u8 {
    if std::env::var_os("FAKE_NODE_FAILS").is_some() {
        eprintln!("the disk is on fire");
        return exit::DATA;
    }
    let data = &config.node.data_dir;
    std::fs::create_dir_all(data).unwrap();
    let formed = data.join("formed").exists();
    let state: Shared = Arc::new(Mutex::new(State { name: config.node.name.clone(), formed, ..State::default() }));
    let mark = data.join("formed");
    let admin = move |stream: TcpStream, state: &Shared| {
        admin(stream, state);
        if state.lock().unwrap().formed {
            std::fs::write(&mark, "").unwrap();
        }
    };
    listen(config.imap.listen[0], &state, imap);
    listen(config.lmtp.listen[0], &state, |stream, _| lmtp(stream));
    listen(config.http_listen[0], &state, |mut stream, _| {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    listen(config.peer_listen, &state, admin);
    loop {
        std::thread::park();
    }
}

fn listen(address: SocketAddr, state: &Shared, talk: impl Fn(TcpStream, &Shared) + Send + Sync + 'static) {
    let listener = TcpListener::bind(address).unwrap();
    let (state, talk) = (state.clone(), Arc::new(talk));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, talk) = (state.clone(), talk.clone());
            std::thread::spawn(move || talk(stream, &state));
        }
    });
}

fn admin(mut stream: TcpStream, state: &Shared) {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let (verb, request): (String, Value) = serde_json::from_str(&line).unwrap();
    let answer = answer(&verb, &request, &mut state.lock().unwrap());
    let _ = stream.write_all(format!("{}\n", json!(answer)).as_bytes());
}

fn answer(verb: &str, request: &Value, state: &mut State) -> Result<Value, AdminError> {
    match verb {
        api::CLUSTER_SHOW if !state.formed => Err(AdminError::new(api::NOT_FORMED, exit::UNAVAILABLE, "no cluster yet")),
        api::CLUSTER_SHOW | api::CLUSTER_INIT => {
            state.formed = true;
            Ok(json!(Cluster { name: "demo".into(), ..Cluster::default() }))
        }
        api::STATUS => Ok(json!(status(state))),
        api::USER_IMPORT => {
            let request: UserImport = serde_json::from_value(request.clone()).unwrap();
            assert!(request.users.iter().all(|u| u.credential.starts_with("{ARGON2ID}")));
            state.users.extend(request.users.into_iter().map(|u| u.name));
            Ok(json!(UserImported { created: state.users.len() as u64, ..UserImported::default() }))
        }
        api::LEASE_SHOW => Ok(json!(Lease { holder: Some("n2".into()), ..Lease::default() })),
        other => Err(AdminError::new("PC200", exit::USAGE, format!("no verb {other}"))),
    }
}

fn status(state: &State) -> Status {
    let node = Node {
        name: state.name.clone(),
        id: 1,
        zone: "z".into(),
        role: Default::default(),
        address: String::new(),
        state: NodeState::Up,
        silent_s: 0,
        boot: 1,
        version: String::new(),
        leads: 1,
        copies: 1,
        users_held: None,
        sessions: None,
        disk_free_bytes: None,
    };
    let group = Group { leader: Some(state.name.clone()), voters: vec![state.name.clone()], ..Group::default() };
    Status { formed: true, answered_by: state.name.clone(), nodes: vec![node], groups: vec![group], ..Status::default() }
}

fn lmtp(stream: TcpStream) {
    let mut out = stream.try_clone().unwrap();
    let mut say = move |text: &str| out.write_all(format!("{text}\r\n").as_bytes()).is_ok();
    say("220 fake");
    let mut body = false;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let going = match line.as_str() {
            "." if body => {
                body = false;
                say("250 2.0.0 kept")
            }
            _ if body => true,
            "DATA" => {
                body = true;
                say("354 go on")
            }
            _ if line.starts_with("RCPT TO:<nobody@") => say("550 5.1.1 unknown"),
            _ => say("250 ok"),
        };
        if !going {
            return;
        }
    }
}

fn imap(stream: TcpStream, state: &Shared) {
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    let _ = out.write_all(b"* OK fake\r\n");
    let mut line = String::new();
    while input.read_line(&mut line).is_ok_and(|n| n > 0) {
        let (tag, command) = line.trim_end().split_once(' ').unwrap();
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let reply = match verb {
            "LOGIN" if rest.ends_with("\"secret\"") => format!("{tag} OK in\r\n"),
            "LOGIN" => format!("{tag} NO [AUTHENTICATIONFAILED] no\r\n"),
            "APPEND" => {
                let size: usize = rest.rsplit_once('{').unwrap().1.trim_end_matches('}').parse().unwrap();
                let _ = out.write_all(b"+ go on\r\n");
                let mut message = vec![0; size + 2];
                input.read_exact(&mut message).unwrap();
                let uid = append(&String::from_utf8_lossy(&message), &mut state.lock().unwrap());
                format!("{tag} OK [APPENDUID 900 {uid}] in\r\n")
            }
            "EXAMINE" => format!("* OK [UIDVALIDITY 900] x\r\n{tag} OK [READ-ONLY] in\r\n"),
            "UID" => format!("{}{tag} OK done\r\n", rows(rest, &state.lock().unwrap())),
            _ => format!("{tag} OK done\r\n"),
        };
        if out.write_all(reply.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Keeps a message's Message-ID; a losing node forgets every tenth.
fn append(message: &str, state: &mut State) -> usize {
    let id = message.lines().find_map(|l| l.strip_prefix("Message-ID: ")).unwrap().to_owned();
    let loses = std::env::var_os("FAKE_NODE_LOSES").is_some() && state.load.len() % 10 == 9;
    state.load.push(Some(id).filter(|_| !loses));
    state.load.len()
}

fn rows(command: &str, state: &State) -> String {
    let from: usize = command.strip_prefix("FETCH ").unwrap().split(':').next().unwrap().parse().unwrap();
    let all = state.load.iter().enumerate().skip(from - 1);
    let kept = all.filter_map(|(index, id)| Some((index + 1, id.as_ref()?)));
    kept.map(|(uid, id)| {
        let header = format!("Message-ID: {id}\r\n\r\n");
        format!("* {uid} FETCH (UID {uid} BODY[HEADER.FIELDS (Message-ID)] {{{}}}\r\n{header})\r\n", header.len())
    })
    .collect()
}

//! Network namespaces: made for a run, and removed after it, after a panic, and after an earlier run that was killed.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names of all namespaces and interfaces of this harness begin so: what bears it belongs to a run, this one or one that was killed.
const PREFIX: &str = "parl-n";
/// The interface of a namespace's own end of the client link.
const CLIENTS: &str = "clients";
/// The interface towards the other nodes.
pub(super) const PEERS: &str = "peers";

/// A namespace of one node: loopback, a link to the clients on this host, and the interface towards the other nodes, a TUN device whose
/// packets the [`super::switch::Switch`] carries.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) name: String,
}

/// The address at which clients reach node `number`, from 1.
pub(super) fn client_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 210, octet(number), 2)
}

/// The address at which nodes reach node `number`, from 1.
pub(super) fn peer_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 211, 0, octet(number))
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// The name that the TUN device of node `number` has before it is moved into the node's namespace.
pub(super) fn tun_name(number: usize) -> String {
    format!("parl-t{number}")
}

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<String, String> {
    let output = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Why this machine cannot make network namespaces; `None` when it can.
pub fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun".to_owned());
    }
    let probe = format!("{PREFIX}probe");
    let _ = ip(&format!("netns del {probe}"));
    let tried = [
        format!("netns add {probe}"),
        format!("link add parl-probe type veth peer name parl-probed netns {probe}"),
        "link del parl-probe".to_owned(),
        "tuntap add dev parl-probe mode tun".to_owned(),
        "tuntap del dev parl-probe mode tun".to_owned(),
    ];
    let failed = tried.iter().find_map(|words| ip(words).err());
    let _ = ip("link del parl-probe");
    let _ = ip(&format!("netns del {probe}"));
    failed
}

/// Removes what an earlier run left that was killed: its processes, its namespaces, and with them its links.
pub(super) fn remove_leftovers() {
    for line in ip("netns list").unwrap_or_default().lines() {
        if let Some(name) = line.split_whitespace().next().filter(|name| name.starts_with(PREFIX)) {
            drop(Space { name: name.to_owned() });
        }
    }
}

impl Space {
    /// The clients' end of the client link.
    fn outer(&self) -> String {
        self.name.replace(PREFIX, "parl-c")
    }

    /// Makes the namespace of node `number`; its TUN device exists already.
    pub(super) fn make(number: usize) -> Result<Self, String> {
        let space = Self { name: format!("{PREFIX}{number}") };
        let (name, tun, outer) = (&space.name, tun_name(number), space.outer());
        ip(&format!("netns add {name}"))?;
        let inside = |words: &str| ip(&format!("-netns {name} {words}"));
        inside("link set lo up")?;
        ip(&format!("link add {outer} type veth peer name {CLIENTS} netns {name}"))?;
        let host = Ipv4Addr::new(10, 210, octet(number), 1);
        ip(&format!("addr add {host}/30 dev {outer}"))?;
        ip(&format!("link set {outer} up"))?;
        inside(&format!("addr add {}/30 dev {CLIENTS}", client_address(number)))?;
        inside(&format!("link set {CLIENTS} up"))?;
        ip(&format!("link set {tun} netns {name} name {PEERS}"))?;
        inside(&format!("addr add {}/24 dev {PEERS}", peer_address(number)))?;
        inside(&format!("link set {PEERS} txqueuelen 4000 up"))?;
        Ok(space)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Whatever still runs in a namespace of this harness was started by it.
        for pid in ip(&format!("netns pids {}", self.name)).unwrap_or_default().lines() {
            if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // By itself the link outlives its namespace for a while.
        let _ = ip(&format!("link del {}", self.outer()));
        if let Err(error) = ip(&format!("netns del {}", self.name)) {
            eprintln!("{error}");
        }
    }
}

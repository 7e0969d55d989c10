//! The network between nodes, in user space: every packet that a node sends to another passes through here, and is lost, delayed or
//! carried as the test says, for each direction of each pair by itself. A relay of TCP connections would hide what is lost.
//!
//! Each node's interface is a TUN device whose other end this process holds; there is no other way from node to node. A thread of its own
//! carries the packets, so that a busy test delays none.

use super::space::tun_name;
use crate::random::Random;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_tun::Tun;

/// Largest packet, bytes; the interfaces have the usual 1500.
const PACKET_BYTES_MAX: usize = 2048;
/// Packets on their way in one direction of a pair, while it delays; more are lost, as in a router whose queue is full.
const DELAYED_MAX: usize = 4096;

/// What one direction of a pair does to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Way {
    /// Loses all.
    pub cut: bool,
    /// Loses so many of 10,000.
    pub lost_of_10000: u16,
    /// Every packet takes so long.
    pub delay: Duration,
    /// And up to so long in addition; packets stay in order.
    pub jitter: Duration,
}

/// What the switch did since its start.
#[derive(Debug, Default)]
pub struct Counts {
    carried: AtomicU64,
    cut: AtomicU64,
    lost: AtomicU64,
    delayed: AtomicU64,
}

/// [`Counts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets that arrived.
    pub carried: u64,
    /// Packets lost because their way was cut.
    pub cut: u64,
    /// Packets lost at random, or in a full queue.
    pub lost: u64,
    /// Packets that arrived late because they had to.
    pub delayed: u64,
}

#[derive(Debug)]
struct Shared {
    /// `[from][to]`
    ways: Mutex<Vec<Vec<Way>>>,
    counts: Counts,
}

/// The switch; ends with this value, and with it the nodes' interfaces.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Switch {
    /// Makes the interfaces of so many nodes and carries their packets.
    ///
    /// # Errors
    /// In words, when a device cannot be made.
    pub(super) fn start(nodes: usize) -> Result<Self, String> {
        let shared = Arc::new(Shared { ways: Mutex::new(vec![vec![Way::default(); nodes]; nodes]), counts: Counts::default() });
        let (end, ended) = oneshot::channel();
        let (made, up) = std::sync::mpsc::channel();
        let carrying = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(error.to_string()))),
            };
            runtime.block_on(async {
                match open_all(nodes) {
                    Ok(devices) => {
                        drop(made.send(Ok(())));
                        carry_all(&devices, &carrying);
                        // The sender is dropped with the switch.
                        let _ = ended.await;
                    }
                    Err(error) => drop(made.send(Err(error))),
                }
            });
        });
        up.recv().unwrap_or_else(|_| Err("the switch ended".to_owned()))?;
        Ok(Self { shared, end: Some(end), thread: Some(thread) })
    }

    /// Changes ways: `change` is asked for every direction of every pair, nodes numbered from 1.
    pub fn change(&self, change: impl Fn(usize, usize, &mut Way)) {
        let mut ways = self.shared.ways.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, row) in ways.iter_mut().enumerate() {
            for (to, way) in row.iter_mut().enumerate() {
                change(from + 1, to + 1, way);
            }
        }
    }

    /// Every way is whole again.
    pub fn heal(&self) {
        self.change(|_, _, way| *way = Way::default());
    }

    /// What was done so far.
    pub fn counted(&self) -> Counted {
        let Counts { carried, cut, lost, delayed } = &self.shared.counts;
        let [carried, cut, lost, delayed] = [carried, cut, lost, delayed].map(|count| count.load(Ordering::Relaxed));
        Counted { carried, cut, lost, delayed }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open_all(nodes: usize) -> Result<Vec<Arc<Tun>>, String> {
    let open = |number| {
        let made = Tun::builder().name(&tun_name(number)).build().map_err(|e| format!("TUN device {number}: {e}"))?;
        made.into_iter().next().map(Arc::new).ok_or_else(|| format!("TUN device {number}: none"))
    };
    (1..=nodes).map(open).collect()
}

fn carry_all(devices: &[Arc<Tun>], shared: &Arc<Shared>) {
    for (from, device) in devices.iter().enumerate() {
        let port = Port { from, device: device.clone(), shared: shared.clone(), random: Random::new(from as u64), late: Vec::new() };
        tokio::spawn(port.carry(devices.to_vec()));
    }
}

/// Packets under way to one node that take their time.
struct Late {
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    /// When the last of them arrives.
    last: Instant,
}

/// What comes out of one node.
struct Port {
    from: usize,
    device: Arc<Tun>,
    shared: Arc<Shared>,
    random: Random,
    late: Vec<Late>,
}

/// The node, from 0, that a packet of IPv4 is for.
fn destination(packet: &[u8]) -> Option<usize> {
    let address = packet.get(16..20).filter(|_| packet[0] >> 4 == 4)?;
    let number = address.strip_prefix(&[10, 211, 0])?.first()?;
    usize::from(*number).checked_sub(1)
}

impl Port {
    async fn carry(mut self, devices: Vec<Arc<Tun>>) {
        let now = Instant::now();
        self.late = devices.iter().map(|device| Late { queue: deliver_late(device.clone()), last: now }).collect();
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        // An interface that is not up yet answers with an error.
        loop {
            match self.device.recv(&mut buffer).await {
                Ok(bytes) => self.pass(&buffer[..bytes], &devices).await,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn pass(&mut self, packet: &[u8], devices: &[Arc<Tun>]) {
        let counts = &self.shared.counts;
        let Some(to) = destination(packet).filter(|to| *to < devices.len() && *to != self.from) else { return };
        let way = self.shared.ways.lock().unwrap_or_else(PoisonError::into_inner)[self.from][to];
        if way.cut {
            counts.cut.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if way.lost_of_10000 > 0 && self.random.below(10_000) < usize::from(way.lost_of_10000) {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let now = Instant::now();
        let jitter = u64::try_from(way.jitter.as_micros()).unwrap_or(0);
        let more = Duration::from_micros(if jitter > 0 { self.random.next_u64() % jitter } else { 0 });
        let late = &mut self.late[to];
        // What was sent before arrives before.
        let at = (now + way.delay + more).max(late.last);
        if at <= now {
            carried(counts, devices[to].send(packet).await.is_ok());
            return;
        }
        late.last = at;
        match late.queue.try_send((at, packet.to_vec())) {
            Ok(()) => carried(counts, true),
            Err(_) => carried(counts, false),
        }
        counts.delayed.fetch_add(1, Ordering::Relaxed);
    }
}

fn carried(counts: &Counts, arrived: bool) {
    let count = if arrived { &counts.carried } else { &counts.lost };
    count.fetch_add(1, Ordering::Relaxed);
}

/// Hands packets over at their time; the queue's end ends it.
fn deliver_late(device: Arc<Tun>) -> mpsc::Sender<(Instant, Vec<u8>)> {
    let (queue, mut packets) = mpsc::channel::<(Instant, Vec<u8>)>(DELAYED_MAX);
    tokio::spawn(async move {
        while let Some((at, packet)) = packets.recv().await {
            tokio::time::sleep_until(at.into()).await;
            let _ = device.send(&packet).await;
        }
    });
    queue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_find_their_node() {
        let mut packet = vec![0x45; 40];
        packet[16..20].copy_from_slice(&[10, 211, 0, 3]);
        assert_eq!(destination(&packet), Some(2));
        packet[19] = 0;
        assert_eq!(destination(&packet), None);
        packet[16] = 11;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&[0x60; 60]), None, "IPv6");
        assert_eq!(destination(&[0x45; 12]), None, "cut short");
        assert_eq!(destination(&[]), None);
    }
}

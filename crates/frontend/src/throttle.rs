//! Limits on what one address or user may take: connections, and failed logins.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failed logins for one name from one address before further tries are refused unasked.
const FAILURES_PER_NAME_MAX: f64 = 10.0;
/// Failed logins from one address, whatever the names.
const FAILURES_PER_ADDRESS_MAX: f64 = 100.0;
/// One failure is forgiven in this time.
const FORGIVEN_IN: Duration = Duration::from_secs(30);
/// Names and addresses remembered; beyond that the forgiven ones go, then all.
const REMEMBERED_MAX: usize = 50_000;
/// The answer to the first failure waits this long, to each further one twice as long.
const DELAY_FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const DELAY_MAX: Duration = Duration::from_secs(8);

/// An address as limits count it: IPv6 hosts own a /64.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

/// Counts things in use per key, with a bound.
#[derive(Debug)]
pub(crate) struct Counted<K: Eq + Hash + Clone> {
    max: usize,
    used: Mutex<HashMap<K, usize>>,
}

/// One use; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Use<K: Eq + Hash + Clone> {
    of: Arc<Counted<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Counted<K> {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, used: Mutex::new(HashMap::new()) })
    }

    /// `None` when `key` has as many as it may have.
    pub(crate) fn take(self: &Arc<Self>, key: K) -> Option<Use<K>> {
        let mut used = lock(&self.used);
        if used.get(&key).copied().unwrap_or(0) >= self.max {
            return None;
        }
        *used.entry(key.clone()).or_insert(0) += 1;
        Some(Use { of: Arc::clone(self), key })
    }
}

impl<K: Eq + Hash + Clone> Drop for Use<K> {
    fn drop(&mut self) {
        let mut used = lock(&self.of.used);
        if let Some(count) = used.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                used.remove(&self.key);
            }
        }
    }
}

/// Remembers failed logins. A name is counted only together with an address, so that a stranger cannot lock a user out.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    by_name: Mutex<HashMap<(IpAddr, String), Score>>,
    by_address: Mutex<HashMap<IpAddr, Score>>,
}

#[derive(Clone, Copy, Debug)]
struct Score {
    failures: f64,
    at: Instant,
}

impl Score {
    fn at(self, now: Instant) -> f64 {
        let forgiven = now.saturating_duration_since(self.at).as_secs_f64() / FORGIVEN_IN.as_secs_f64();
        (self.failures - forgiven).max(0.0)
    }
}

impl Failures {
    /// True when the directory may be asked.
    pub(crate) fn may_try(&self, address: IpAddr, name: &str, now: Instant) -> bool {
        let (address, name) = key(address, name);
        let by_address = lock(&self.by_address).get(&address).map_or(0.0, |score| score.at(now));
        let by_name = lock(&self.by_name).get(&(address, name)).map_or(0.0, |score| score.at(now));
        by_address < FAILURES_PER_ADDRESS_MAX && by_name < FAILURES_PER_NAME_MAX
    }

    /// Counts a failure; the answer should wait for the time returned.
    pub(crate) fn failed(&self, address: IpAddr, name: &str, now: Instant) -> Duration {
        let (address, name) = key(address, name);
        add(&mut lock(&self.by_address), address, now);
        let failures = add(&mut lock(&self.by_name), (address, name), now);
        DELAY_FIRST.mul_f64(2f64.powf((failures - 1.0).clamp(0.0, 16.0))).min(DELAY_MAX)
    }

    /// A login succeeded: the name's failures are forgotten, the address's are not.
    pub(crate) fn succeeded(&self, address: IpAddr, name: &str) {
        lock(&self.by_name).remove(&key(address, name));
    }
}

fn key(address: IpAddr, name: &str) -> (IpAddr, String) {
    (counted(address), name.to_lowercase())
}

fn add<K: Eq + Hash>(scores: &mut HashMap<K, Score>, key: K, now: Instant) -> f64 {
    if scores.len() >= REMEMBERED_MAX {
        scores.retain(|_, score| score.at(now) > 0.0);
        if scores.len() >= REMEMBERED_MAX {
            scores.clear();
        }
    }
    let score = scores.entry(key).or_insert(Score { failures: 0.0, at: now });
    *score = Score { failures: score.at(now) + 1.0, at: now };
    score.failures
}

/// No code that holds the lock can panic half-way, so a poisoned lock's state is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_bounded_and_given_back() {
        let counted = Counted::new(2);
        let (a, _b) = (counted.take("ann").unwrap(), counted.take("ann").unwrap());
        assert!(counted.take("ann").is_none());
        assert!(counted.take("bob").is_some());
        drop(a);
        assert!(counted.take("ann").is_some());
        assert_eq!(lock(&counted.used).len(), 1);
    }

    #[test]
    fn failures_slow_then_stop_one_name_at_one_address() {
        let (failures, start) = (Failures::default(), Instant::now());
        let (here, there): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8:1::1".parse().unwrap());
        let waits: Vec<u128> = (0..10).map(|_| failures.failed(here, "Ann", start).as_millis()).collect();
        assert_eq!(waits[..4], [200, 400, 800, 1600]);
        assert_eq!(waits[9], 8000);
        assert!(!failures.may_try("2001:db8::2".parse().unwrap(), "ann", start), "the same /64");
        assert!(failures.may_try(there, "ann", start) && failures.may_try(here, "bob", start));
        assert!(failures.may_try(here, "ann", start + FORGIVEN_IN));
        failures.succeeded(here, "ann");
        assert!(failures.may_try(here, "ann", start));
        for n in 0..90 {
            failures.failed(here, &format!("user{n}"), start);
        }
        assert!(!failures.may_try(here, "carol", start));
    }
}

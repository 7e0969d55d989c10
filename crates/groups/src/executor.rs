//! Threads that carry out blocking work of all groups, so that consensus never waits for tables.

use crate::lock;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

/// A fixed set of threads with one queue. A group has at most one apply job in it, so its length is bounded by the number of
/// groups.
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

impl Executor {
    /// Starts `threads` threads.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for number in 0..threads.max(1) {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("apply-{number}")).spawn(move || work(&shared))?;
        }
        Ok(Self { shared })
    }

    /// Runs `job` and returns its result; `None` when it panicked or the executor was dropped before.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, result) = oneshot::channel();
        {
            let mut queue = lock(&self.shared.queue);
            if queue.closed {
                return None;
            }
            queue.jobs.push_back(Box::new(move || {
                let _ = sender.send(job());
            }));
        }
        self.shared.ready.notify_one();
        result.await.ok()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.ready.notify_all();
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut queue = lock(&shared.queue);
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue = shared.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        // A job that panics drops its result channel, which its group takes as a fault; other groups go on.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_fails_alone() {
        let executor = Executor::start(1).unwrap();
        assert_eq!(executor.run(|| 1).await, Some(1));
        assert_eq!(executor.run(|| -> u8 { std::panic::resume_unwind(Box::new("on purpose")) }).await, None);
        assert_eq!(executor.run(|| 2).await, Some(2));
    }
}

//! Real processes: a demo per test, killed, stopped, restarted. The demo's ports are fixed, so tests run one after the other; the
//! lock is held by [`Demo`], across processes too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod all_at_once;
mod clients;
mod clocks;
mod follow;
mod kills;
mod mails;
mod members;
mod moves;
mod newcomer;
mod other_server;
mod page;
mod partitions;
mod paused;
mod proxies;
mod roles;
mod rolling;
mod rot;
mod shares;
mod survive;
mod witness;

use parliament_cluster_tests::checkers::{self, pauses};
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::run;
use std::future::Future;
use std::panic::AssertUnwindSafe;

/// Runs a test on a demo of its own. Whatever becomes of it, no process is left; the nodes' folder is kept when it fails.
fn with_demo<T: AsyncFnOnce(&Demo)>(options: Options, test: T) {
    block_on(async {
        let mut demo = Demo::start(&options).await.unwrap_or_else(|error| panic!("{error}"));
        eprintln!("the demo was ready after {:?}", demo.ready_after);
        let passed = catch(test(&demo)).await;
        if let Err(panic) = passed {
            eprintln!("the nodes' data and logs are kept in {}", demo.keep().display());
            drop(demo);
            std::panic::resume_unwind(panic);
        }
        demo.end().await.unwrap();
    });
}

/// The end of a run whose clients were at nodes that stayed: the histories and copies are as they must be, and no command failed.
async fn assert_nothing_failed(demo: &Demo, recorder: &Recorder) {
    let history = recorder.finish();
    assert_eq!(run::replicas_equal(demo).await, Ok(true));
    let told = pauses::measure(&history);
    eprintln!("acknowledged {}, refused {}, unknown {}", told.acknowledged, told.refused, told.unknown);
    let (holds, document) = checkers::judge(&history);
    assert!(holds, "{document:#}");
    assert!(told.acknowledged > 100, "the load did not run: {}", told.acknowledged);
    assert_eq!((told.refused, told.unknown), (0, 0), "commands at nodes that stayed failed");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

async fn catch(future: impl Future<Output = ()>) -> std::thread::Result<()> {
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
        Ok(std::task::Poll::Ready(())) => std::task::Poll::Ready(Ok(())),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    })
    .await
}

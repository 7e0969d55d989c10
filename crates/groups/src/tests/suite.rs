//! openraft's storage suite on journal and tables.

use super::lab::{GROUP, Toy, group_start, journal_options};
use crate::executor::Executor;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::types::TypeConfig;
use crate::{NoBodies, start};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use parliament_journal::Journal;
use std::sync::Arc;
use tokio::sync::Semaphore;

struct Builder {
    executor: Arc<Executor>,
    builds: Arc<Semaphore>,
}

/// Dropped after the store, as tuples drop in order and the suite binds the guard first.
struct Guard {
    _journal: Journal,
    _dir: tempfile::TempDir,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let mut options = journal_options(&dir.path().join("journal"));
        options.segment_bytes = 256 * 1024;
        let journal = Journal::open(options).unwrap();
        let prepared = start::open(group_start(dir.path(), &journal, GROUP, Arc::new(NoBodies), None), Arc::new(Toy::default())).unwrap();
        let machine = StateMachine::new(prepared.core, self.executor.clone(), self.builds.clone());
        Ok((Guard { _journal: journal, _dir: dir }, prepared.log, machine))
    }
}

#[tokio::test]
async fn openraft_storage_suite() {
    let builder = Builder { executor: Arc::new(Executor::start(1).unwrap()), builds: Arc::new(Semaphore::new(1)) };
    Suite::test_all(builder).await.unwrap();
}

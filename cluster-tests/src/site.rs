//! What runs and scans need of a cluster, wherever its nodes run.

use crate::demo::{Demo, Node};
use serde_json::Value;
use std::future::Future;

/// A cluster under test.
pub trait Site: Sync {
    /// Its nodes.
    fn nodes(&self) -> &[Node];
    /// Password of all accounts.
    fn password(&self) -> &str;
    /// Runs a verb of the program with `--json`.
    fn verb(&self, words: &[&str]) -> impl Future<Output = Result<Value, String>> + Send;
}

impl Site for Demo {
    fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    fn password(&self) -> &str {
        &self.password
    }
    async fn verb(&self, words: &[&str]) -> Result<Value, String> {
        Demo::verb(self, words).await
    }
}

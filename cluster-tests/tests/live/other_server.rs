//! The clients, loads and checkers on a server that is not ours: what they demand is what any lawful IMAP server does. Without
//! this, a fault common to our server and our clients would look like success.

use parliament_cluster_tests::bench::dovecot::{Dovecot, PASSWORD};
use parliament_cluster_tests::history::{Kind, Recorder, Where};
use parliament_cluster_tests::load::{Load, Server};
use parliament_cluster_tests::{checkers, scan, skipped};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn other_server() {
    let dovecot = match Dovecot::start() {
        Ok(dovecot) => dovecot,
        Err(why) => return skipped("checkers on another server", &why),
    };
    super::block_on(async {
        let recorder = Arc::new(Recorder::new(None).unwrap());
        let load = Load {
            servers: vec![Server { id: "n1".to_owned(), imap: dovecot.imap.clone(), lmtp: dovecot.lmtp.clone() }],
            accounts: vec!["user0".to_owned(), "user1".to_owned()],
            password: PASSWORD.to_owned(),
            clients: 16,
            sizes: vec![300, 20_000],
            pause: Duration::from_millis(5),
            seed: 3,
            name: "w".to_owned(),
        };
        recorder.nemesis("setup", "", json!({ "nodes": ["n1"], "keys": load.keys() }));
        let running = load.start(&recorder);
        tokio::time::sleep(Duration::from_secs(2)).await;
        running.stop().await;
        for account in &load.accounts {
            let (key, process) = (format!("{account}/INBOX"), recorder.new_process());
            let at = Where { key: &key, node: "n1", session: "scan" };
            recorder.client(process, Kind::Invoke, "scan", at, json!({ "from": 1 }));
            let value = scan::inbox(&dovecot.imap, account, PASSWORD).await.unwrap();
            recorder.client(process, Kind::Ok, "scan", at, value);
        }
        let (holds, document) = checkers::judge(&recorder.finish());
        assert!(holds, "{document:#}");
    });
}

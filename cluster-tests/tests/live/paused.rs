//! The holder is stopped, another node takes its user over, and the holder is resumed with requests in its sockets: nothing of what
//! it answers may be old, and nothing it does may disturb what was written meanwhile.

use parliament_cluster_tests::checkers;
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::{Kind, Recorder, Where};
use parliament_cluster_tests::imap::Imap;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::message::Message;
use parliament_cluster_tests::{run, scan};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const PAUSES: usize = 3;
const PAUSE: Duration = Duration::from_secs(4);

#[test]
fn paused() {
    super::with_demo(Options { users: 1, ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        let recorder = Arc::new(Recorder::new(None).unwrap());
        run::note_setup(&recorder, demo, &[format!("{}/INBOX", accounts[0])], 0);
        for round in 0..PAUSES {
            pause_the_holder(demo, &accounts[0], &recorder, round).await;
        }
        scan::everything(demo, &accounts, &recorder).await.unwrap();
        let history = recorder.finish();
        let (holds, document) = checkers::judge(&history);
        assert!(holds, "{document:#}");
    });
}

async fn pause_the_holder(demo: &Demo, user: &str, recorder: &Arc<Recorder>, round: usize) {
    let key = format!("{user}/INBOX");
    demo.imap(1 + round % 3, user).await.unwrap().append("Drafts", "", &Message::new("touch", b"x\r\n").bytes).await.unwrap();
    let holder = demo.holder(user).await.expect("somebody holds the user who was just written");
    // Two sessions at the holder, as a reader and as a writer.
    let address = demo.named(&holder).unwrap().imap.clone();
    let mut reader = Imap::login(&address, user, &demo.password).await.unwrap();
    let mut writer = Imap::login(&address, user, &demo.password).await.unwrap();
    reader.status("INBOX").await.unwrap();
    recorder.nemesis("pause", &holder, Value::Null);
    demo.pause(&holder).await.unwrap();
    // The others are written meanwhile; nobody connects to the stopped one.
    let others = run::servers(demo).into_iter().filter(|s| s.id != holder).collect();
    let load = Load {
        servers: others,
        accounts: vec![user.to_owned()],
        password: demo.password.clone(),
        clients: 4,
        sizes: vec![500],
        pause: Duration::from_millis(5),
        seed: round as u64,
        name: format!("p{round}w"),
    };
    let running = load.start(recorder);
    tokio::time::sleep(PAUSE).await;
    // What lies in the sockets when the holder wakes up: begun after thousands of writes it knows nothing of.
    let session = format!("paused{round}");
    let at = Where { key: &key, node: &holder, session: &session };
    let (reads, writes) = (recorder.new_process(), recorder.new_process());
    let message = Message::new(&format!("late-{round}"), b"late\r\n");
    let sent = json!({ "id": message.id, "sha": message.sha, "bytes": message.bytes.len() });
    recorder.client(reads, Kind::Invoke, "status", at, Value::Null);
    reader.send("STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY)").await.unwrap();
    recorder.client(writes, Kind::Invoke, "append", at, sent.clone());
    writer.send_append("INBOX", "", &message.bytes).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    recorder.nemesis("resume", &holder, Value::Null);
    demo.resume(&holder).await.unwrap();
    let (status, appended) = tokio::join!(reader.status_reply(), writer.append_reply());
    match status {
        Ok(m) => {
            let told = json!({ "uidvalidity": m.uidvalidity, "uidnext": m.uidnext, "messages": m.exists });
            recorder.client(reads, Kind::Ok, "status", at, told);
        }
        Err(error) => recorder.client(reads, Kind::Info, "status", at, json!({ "error": error.to_string() })),
    }
    match appended {
        Ok(a) => {
            let mut told = sent;
            (told["uid"], told["uidvalidity"]) = (json!(a.uid), json!(a.uidvalidity));
            recorder.client(writes, Kind::Ok, "append", at, told);
        }
        Err(error) => recorder.client(writes, Kind::Info, "append", at, json!({ "error": error.to_string() })),
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    running.stop().await;
    let after = demo.wait_ready(&holder, Duration::from_secs(30)).await.unwrap();
    eprintln!("{holder} was stopped as the holder of {user}, and ready {after:?} after the load ended");
}

//! The status page in a real browser, while a node dies and comes back: what somebody sees who never saw it before.

use parliament_cluster_tests::browser::{Browser, installed};
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::message::Message;
use parliament_cluster_tests::skipped;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// From the kill until the page tells it.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// For what is not about time, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn page_tells_of_a_kill() {
    if let Err(why) = installed() {
        return skipped("status page in a browser", &why);
    }
    super::with_demo(Options { users: 6, ..Options::default() }, async |demo| {
        let victim = fill(demo).await;
        let user = held_by(demo, &victim).await;
        let browser = Browser::start(true).await.unwrap();
        let url = format!("http://{}/?user={user}", demo.node(1).http);
        browser.open(&url).await.unwrap();
        sound(&browser, demo).await;
        assert_eq!(browser.text("lookup-holder").await.unwrap(), victim);
        shoot(&browser, "1-healthy").await;

        browser.run("window.loadedOnce = true;", &json!([])).await.unwrap();
        let mut session = demo.imap(1, &user).await.unwrap();
        let died = kill(&browser, demo, &victim).await;
        eprintln!("the page told that {victim} was killed {died:?} after the kill");
        assert!(died <= TOLD_WITHIN, "{died:?}");

        // The session at the node that lives goes on, and the page tells who serves it now.
        session.status("INBOX").await.unwrap();
        let (_, told) = browser.wait("lookup-holder", PATIENCE, |text| text.starts_with('n') && !text.starts_with(&victim)).await.unwrap();
        happened(&browser, &format!("{told} took over ")).await;
        happened(&browser, &format!(" instead of {victim}")).await;
        shoot(&browser, "2-killed").await;
        assert_eq!(browser.run("return window.loadedOnce === true;", &json!([])).await.unwrap(), json!(true), "nothing was loaded again");

        without_scripts(demo, &victim).await;
        demo.start_nodes(&[victim.as_str()]).await.unwrap();
        happened(&browser, &format!("{victim} is back")).await;
        browser.wait("verdict", PATIENCE, |text| text.starts_with("HEALTHY")).await.unwrap();
        sound(&browser, demo).await;
        shoot(&browser, "3-back").await;
        shoot_elsewise(&browser).await;
        browser.end().await.unwrap();
    });
}

/// Writes to every account, so that each has a holder; a node other than the first that holds one.
async fn fill(demo: &Demo) -> String {
    let mut victim = None;
    for account in demo.accounts() {
        demo.imap(1, &account).await.unwrap().append("INBOX", "", &Message::new("page", b"x\r\n").bytes).await.unwrap();
        victim = victim.or(demo.holder(&account).await.filter(|holder| *holder != "n1"));
    }
    victim.expect("of six users some are held by another node than the first")
}

async fn held_by(demo: &Demo, node: &str) -> String {
    for account in demo.accounts() {
        if demo.holder(&account).await.as_deref() == Some(node) {
            return account;
        }
    }
    panic!("{node} holds nobody any more");
}

/// Every node is up, hears every other, and the page says the first line of `status`.
async fn sound(browser: &Browser, demo: &Demo) {
    browser.wait("verdict", PATIENCE, |text| text.starts_with("HEALTHY")).await.unwrap();
    let status = demo.verb(&["status"]).await.unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&browser.text("verdict").await.unwrap()), words(status["line"].as_str().unwrap()));
    for from in &demo.nodes {
        browser.wait(&format!("node-{}-state", from.id), PATIENCE, |text| text == "up").await.unwrap();
        for to in demo.nodes.iter().filter(|to| to.id != from.id) {
            browser.wait(&format!("latency-{}-{}", from.id, to.id), PATIENCE, |text| text.ends_with(" ms")).await.unwrap();
        }
    }
    browser.wait("link", PATIENCE, |text| text == "live").await.unwrap();
}

/// Kills a node and waits until the page says so in all the places where somebody may look; how long that took.
async fn kill(browser: &Browser, demo: &Demo, victim: &str) -> Duration {
    let killed = std::time::Instant::now();
    demo.kill(victim).await.unwrap();
    browser.wait(&format!("node-{victim}-state"), PATIENCE, |text| text == "down").await.unwrap();
    happened(browser, &format!("{victim} stopped answering")).await;
    browser.wait("verdict", PATIENCE, |text| text.starts_with("DEGRADED")).await.unwrap();
    browser.wait("meaning", PATIENCE, |text| text.starts_with(&format!("{victim} does not answer"))).await.unwrap();
    killed.elapsed()
}

async fn happened(browser: &Browser, what: &str) {
    browser.wait("event", PATIENCE, |text| text.contains(what)).await.unwrap();
}

async fn without_scripts(demo: &Demo, victim: &str) {
    let browser = Browser::start(false).await.unwrap();
    browser.open(&format!("http://{}/", demo.node(1).http)).await.unwrap();
    browser.reload().await.unwrap();
    assert_eq!(browser.text("link").await.unwrap(), "as loaded", "no script ran");
    assert_eq!(browser.text(&format!("node-{victim}-state")).await.unwrap(), "down");
    assert!(browser.text("verdict").await.unwrap().starts_with("DEGRADED"));
    happened(&browser, &format!("{victim} stopped answering")).await;
    browser.end().await.unwrap();
}

/// Into the folder that `PARLIAMENT_SCREENSHOTS` names, for people to look at.
async fn shoot(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os("PARLIAMENT_SCREENSHOTS").map(PathBuf::from) else { return };
    browser.screenshot(&folder.join(format!("{name}.png"))).await.unwrap();
}

/// The same in the dark and on a phone: nothing may be wider than the screen.
async fn shoot_elsewise(browser: &Browser) {
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.devtools("Emulation.setEmulatedMedia", &dark).await.unwrap();
    shoot(browser, "4-dark").await;
    let phone = json!({ "width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": true });
    browser.devtools("Emulation.setDeviceMetricsOverride", &phone).await.unwrap();
    shoot(browser, "5-phone").await;
    let wide = browser.run("return document.documentElement.scrollWidth - window.innerWidth;", &json!([])).await.unwrap();
    assert!(wide.as_i64().is_some_and(|pixels| pixels <= 0), "{wide} pixels do not fit a phone");
}

use super::*;
use crate::page::fixture::{status, view};
use NodeState::{Down, Up};
use parliament_ctl::api::Status;

const NODES: [(&str, &str, NodeState); 3] = [("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Up)];

/// The text of the first element with this `data-testid`, tags taken out.
fn text(html: &str, id: &str) -> String {
    let from = html.find(&format!("data-testid=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {html}"));
    let inner = &html[from..][html[from..].find('>').unwrap() + 1..];
    let (mut depth, mut out, mut rest) = (1, String::new(), inner);
    while depth > 0 {
        let (words, tag) = rest.split_once('<').unwrap();
        out.push_str(words);
        depth = if tag.starts_with('/') { depth - 1 } else { depth + 1 };
        rest = tag.split_once('>').unwrap().1;
    }
    out.trim().to_owned()
}

fn found() -> LookUp {
    let lease = Lease {
        user: "ann@demo.test".into(),
        group: 2,
        holder: Some("n2".into()),
        boot: 1,
        fence: 41,
        live: false,
        candidates: vec!["n1".into(), "n2".into()],
    };
    LookUp { asked: "ann".into(), found: Ok(lease) }
}

#[test]
fn every_value_has_an_address() {
    let html = page(&view(status(&NODES)), Users::Shown(Some(&found())));
    for (id, value) in [
        ("cluster", "demo"),
        ("verdict", "DEGRADED  survives no further loss"),
        ("reason", "n2 is down (7 s)"),
        ("seen-by", "n1"),
        ("event-0-age", "2 s ago"),
        ("event-0-text", "n2 stopped answering"),
        ("node-n1-state", "up"),
        ("node-n2-state", "down"),
        ("node-n2-silent", "7s"),
        ("node-n2-held", "–"),
        ("node-n1-disk", "5.0 GiB"),
        ("node-n1-boot", "2"),
        ("zone-b-answer", "0 of 1"),
        ("zone-a-nodes", "n1"),
        ("latency-n1-n3", "1.2 ms"),
        ("latency-n1-n2", "silent"),
        ("latency-n3-n1", "–"),
        ("leader-n1-groups", "0 1 2"),
        ("leader-n3-count", "0"),
        ("lease-n1-users", "4"),
        ("lease-n2-gone-users", "2"),
        ("lease-nobody-users", "4"),
        ("group-1-held", "n1 3, n2 (gone) 2"),
        ("group-2-leader", "n1"),
        ("session-1.2.3-user", "ann"),
        ("sessions", "4"),
        ("lookup-holder", "n2, which is gone; the next request takes over"),
        ("lookup-fence", "41"),
        ("lookup-candidates", "n1, n2"),
    ] {
        assert_eq!(text(&html, id), value, "{id}");
    }
}

#[test]
fn the_page_says_what_status_says() {
    for nodes in [[("n1", "a", Up), ("n2", "b", Up), ("n3", "c", Up)], NODES, [("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Down)]] {
        let view = view(status(&nodes));
        assert_eq!(text(&page(&view, Users::Shown(None)), "verdict"), view.verdict.line());
    }
    let unformed = page(&view(Status::default()), Users::Shown(None));
    assert!(text(&unformed, "verdict").contains("cluster init") && !unformed.contains("node-n1-state"), "{unformed}");
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let evil = "<script>alert(1)</script>\"' onload=x &amp;";
    let mut status = status(&NODES);
    evil.clone_into(&mut status.cluster);
    status.warnings.push(evil.to_owned());
    status.events[0].text = evil.to_owned();
    evil.clone_into(&mut status.nodes[0].name);
    evil.clone_into(&mut status.nodes[0].zone);
    evil.clone_into(&mut status.nodes[0].version);
    status.groups[0].leader = Some(evil.to_owned());
    let mut view = view(status);
    view.sessions[0].user = evil.to_owned();
    view.sessions[0].session = evil.to_owned();
    view.sessions[0].doing = Some(evil.to_owned());
    view.leases[0].holder = Some(evil.to_owned());
    for found in [Err(evil.to_owned()), Ok(Lease { user: evil.into(), holder: Some(evil.into()), ..Lease::default() })] {
        let html = page(&view, Users::Shown(Some(&LookUp { asked: evil.to_owned(), found })));
        assert_eq!(html.matches("<script").count(), 1, "the page's own script alone: {html}");
        assert_eq!(html.matches(" onload=x").count(), html.matches("&quot;' onload=x").count(), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"), "{html}");
    }
}

#[test]
fn users_are_hidden_from_who_must_not_see_them() {
    let html = page(&view(status(&NODES)), Users::Hidden);
    assert!(!html.contains("ann") && !html.contains("<form") && !html.contains("lookup"), "{html}");
    assert_eq!((text(&html, "sessions").as_str(), text(&html, "lease-n1-users").as_str()), ("4", "4"), "numbers are no names");
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let html = page(&view(status(&NODES)), Users::Shown(None));
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("src="), "{html}");
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !html.contains(" style="), "the policy forbids it");
    assert!(html.contains("<noscript><meta http-equiv=\"refresh\""), "without scripts the page loads itself again");
}

#[test]
fn ages_are_told_as_people_do() {
    assert_eq!([ago(400), ago(2_900), ago(180_000), ago(7_300_000)], ["just now", "2 s ago", "3 min ago", "2 h ago"]);
}

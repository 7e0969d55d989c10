//! The status page as HTML. Every value that comes from elsewhere is escaped by the templates, and every value stands in an element
//! of its own with a `data-testid`.

use super::meaning::meaning;
use super::view::{Held, LookUp, View, Way};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use parliament_ctl::api::{Event, Lease, Node, NodeState, Session};
use parliament_ctl::{Health, output};
use parliament_ids::NodeRole;
use std::collections::BTreeMap;

/// The page's style sheet, which stands in it.
pub(crate) const STYLE: &str = include_str!("page.css");
/// The page's script, which stands in it and only replaces the live part by a newer one.
pub(crate) const SCRIPT: &str = include_str!("page.js");
/// Events that are shown at once; the others are folded away.
const EVENTS_OPEN: usize = 12;

/// Whether users are shown by their names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Users<'a> {
    /// Not to this visitor.
    Hidden,
    /// Yes, and the one that was looked up.
    Shown(Option<&'a LookUp>),
}

/// The whole document.
pub(crate) fn page(view: &View, users: Users<'_>) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Parliament: " (view.status.cluster) }
                noscript { meta http-equiv="refresh" content="5"; }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Parliament" }
                    p.sub { "cluster " span data-testid="cluster" { (view.status.cluster) } " " span.dot data-testid="link" id="link" { "as loaded" } }
                }
                @if let Users::Shown(look_up) = users { (form(look_up.map(|l| l.asked.as_str()).unwrap_or_default())) }
                main id="live" { (live(view, users)) }
                footer { "The same in a terminal: " code { "parliament status --watch" } ". What to do: " code { "parliament doctor" } "." }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    document.into_string()
}

fn form(asked: &str) -> Markup {
    html! {
        form method="get" action="/" role="search" {
            label for="user" { "Where is the user" }
            input id="user" name="user" value=(asked) placeholder="alice" maxlength="320" autocomplete="off" spellcheck="false" data-testid="lookup-input";
            button type="submit" { "Look up" }
        }
    }
}

/// What changes while somebody looks.
pub(crate) fn live(view: &View, users: Users<'_>) -> Markup {
    html! {
        (verdict(view))
        @if let Users::Shown(Some(look_up)) = users { (looked_up(look_up)) }
        (events(&view.status.events))
        @if view.status.formed {
            (nodes(view))
            div.pair {
                (zones(&view.status.nodes))
                (latency(view))
            }
            div.pair {
                (leaders(view))
                (leases(&view.leases))
            }
            (groups(view))
            (sessions(view, matches!(users, Users::Shown(_))))
        }
    }
}

fn verdict(view: &View) -> Markup {
    let tone = match view.verdict.health {
        Health::Healthy => "good",
        Health::Degraded => "change",
        Health::NoQuorum => "bad",
    };
    let line = view.verdict.line();
    let (word, rest) = line.split_once("  ").unwrap_or((&line, ""));
    html! {
        section.verdict.(tone) aria-live="polite" {
            p.line data-testid="verdict" { strong { (word) } "  " (rest) }
            @for sentence in meaning(&view.status, &view.verdict, &view.leases) {
                p data-testid="meaning" { (sentence) }
            }
            @if !view.verdict.reasons.is_empty() {
                ul { @for reason in &view.verdict.reasons { li data-testid="reason" { (reason) } } }
            }
            p.sub { "As " span data-testid="seen-by" { (view.status.answered_by) } " sees it, " span data-testid="seen-at" { (view.at) } "." }
        }
    }
}

fn looked_up(look_up: &LookUp) -> Markup {
    html! {
        section data-testid="lookup" {
            h2 { "User " span data-testid="lookup-user" { (look_up.asked) } }
            @match &look_up.found {
                Err(why) => p.bad data-testid="lookup-error" { (why) },
                Ok(lease) => dl {
                    dt { "account" } dd data-testid="lookup-account" { (lease.user) }
                    dt { "held by" } dd data-testid="lookup-holder" { (holder(lease)) }
                    dt { "fence" } dd data-testid="lookup-fence" { (lease.fence) }
                    dt { "group" } dd data-testid="lookup-group" { (lease.group) }
                    dt { "candidates" } dd data-testid="lookup-candidates" { (lease.candidates.join(", ")) }
                },
            }
        }
    }
}

fn holder(lease: &Lease) -> String {
    match &lease.holder {
        None => "nobody yet; the first request takes the lease".to_owned(),
        Some(name) if lease.live => name.clone(),
        Some(name) => format!("{name}, which is gone; the next request takes over"),
    }
}

fn events(events: &[Event]) -> Markup {
    let rows = |from: usize, to: usize| {
        html! {
            ol.events { @for (number, event) in events.iter().enumerate().take(to).skip(from) {
                li.(event.tone) data-testid="event" {
                    span.age data-testid={ "event-" (number) "-age" } { (ago(event.age_ms)) }
                    " " span data-testid={ "event-" (number) "-text" } { (event.text) }
                }
            } }
        }
    };
    html! {
        section {
            h2 { "What happened" }
            @if events.is_empty() { p.sub data-testid="no-events" { "Nothing since this node started." } }
            (rows(0, EVENTS_OPEN))
            @if events.len() > EVENTS_OPEN {
                details id="older" { summary { "earlier" } (rows(EVENTS_OPEN, events.len())) }
            }
        }
    }
}

/// `2 s ago`, `3 min ago`.
pub(crate) fn ago(ms: u64) -> String {
    match ms / 1000 {
        0 => "just now".to_owned(),
        s @ 1..120 => format!("{s} s ago"),
        s @ 120..7_200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

fn state(node: &Node) -> (&'static str, String) {
    match node.state {
        NodeState::Up => ("good", "up".to_owned()),
        NodeState::Starting => ("change", "catching up".to_owned()),
        NodeState::Draining => ("change", "draining".to_owned()),
        NodeState::Drained => ("change", "drained".to_owned()),
        NodeState::Lost => ("bad", "given up for lost".to_owned()),
        NodeState::Down => ("bad", "down".to_owned()),
    }
}

fn nodes(view: &View) -> Markup {
    html! {
        section {
            h2 { "Nodes" }
            div.wide id="wide-nodes" { table {
                thead { tr {
                    th { "node" } th { "state" } th { "zone" } th.n { "leads" } th.n { "users held" } th.n { "sessions" }
                    th.n { "disk free" } th.n { "starts" } th { "version" } th { "silent for" }
                } }
                tbody { @for node in &view.status.nodes { (node_row(node, node.name == view.status.answered_by)) } }
            } }
        }
    }
}

fn node_row(node: &Node, is_here: bool) -> Markup {
    let (tone, word) = state(node);
    let known = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    let silent = if node.state == NodeState::Down { output::age(node.silent_s) } else { "–".to_owned() };
    let version = if node.version.is_empty() { "–" } else { &node.version };
    let is_down = node.state == NodeState::Down;
    let name = &node.name;
    html! {
        tr.(tone) data-testid={ "node-" (name) } {
            th scope="row" data-testid={ "node-" (name) "-name" } { (name) @if is_here { span.sub { " (here)" } }
                @if node.role != NodeRole::Data { span.sub data-testid={ "node-" (name) "-role" } { " " (node.role) } } }
            td { span.pill.(tone) data-testid={ "node-" (name) "-state" } { (word) } }
            td data-testid={ "node-" (name) "-zone" } { (node.zone) }
            td.n data-testid={ "node-" (name) "-leads" } { @if is_down { "–" } @else { (node.leads) } }
            td.n data-testid={ "node-" (name) "-held" } { (known(node.users_held)) }
            td.n data-testid={ "node-" (name) "-sessions" } { (known(node.sessions)) }
            td.n data-testid={ "node-" (name) "-disk" } { (node.disk_free_bytes.map_or_else(|| "–".to_owned(), output::size)) }
            td.n data-testid={ "node-" (name) "-boot" } { (node.boot) }
            td data-testid={ "node-" (name) "-version" } { (version) }
            td data-testid={ "node-" (name) "-silent" } { (silent) }
        }
    }
}

fn zones(nodes: &[Node]) -> Markup {
    let mut zones: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    nodes.iter().for_each(|node| zones.entry(&node.zone).or_default().push(node));
    html! {
        section {
            h2 { "Zones" }
            table {
                thead { tr { th { "zone" } th { "nodes" } th.n { "answer" } } }
                tbody { @for (zone, nodes) in zones {
                    @let answer = nodes.iter().filter(|node| node.state != NodeState::Down).count();
                    tr {
                        th scope="row" { (zone) }
                        td data-testid={ "zone-" (zone) "-nodes" } { (nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ")) }
                        td.n.bad[answer < nodes.len()] data-testid={ "zone-" (zone) "-answer" } { (answer) " of " (nodes.len()) }
                    }
                } }
            }
        }
    }
}

fn latency(view: &View) -> Markup {
    let names: Vec<&str> = view.status.nodes.iter().map(|node| node.name.as_str()).collect();
    html! {
        section {
            h2 { "Round trips" }
            div.wide id="wide-latency" { table {
                thead { tr { th { "from \\ to" } @for to in &names { th.n { (to) } } } }
                tbody { @for from in &names { tr {
                    th scope="row" { (from) }
                    @for to in &names {
                        @let way = view.latency.get(*from).and_then(|row| row.get(*to));
                        td.n.bad[matches!(way, Some(Way::Silent(_)))] data-testid={ "latency-" (from) "-" (to) } {
                            @if from == to { "·" } @else { (way_text(way)) }
                        }
                    }
                } } }
            } }
        }
    }
}

fn way_text(way: Option<&Way>) -> String {
    match way {
        None | Some(Way::Open(None)) => "–".to_owned(),
        Some(Way::Open(Some(us))) => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        Some(Way::Silent(_)) => "silent".to_owned(),
    }
}

fn leaders(view: &View) -> Markup {
    let mut led: BTreeMap<Option<&str>, Vec<u32>> = view.status.nodes.iter().map(|node| (Some(node.name.as_str()), Vec::new())).collect();
    view.status.groups.iter().for_each(|group| led.entry(group.leader.as_deref()).or_default().push(group.id));
    html! {
        section {
            h2 { "Groups by leader" }
            table {
                thead { tr { th { "leader" } th.n { "groups" } th { "which" } } }
                tbody { @for (leader, groups) in led {
                    @let name = leader.unwrap_or("nobody");
                    @let which = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
                    tr.bad[leader.is_none()] {
                        th scope="row" { (name) }
                        td.n data-testid={ "leader-" (name) "-count" } { (groups.len()) }
                        td data-testid={ "leader-" (name) "-groups" } { (if which.is_empty() { "–" } else { &which }) }
                    }
                } }
            }
        }
    }
}

fn leases(leases: &[Held]) -> Markup {
    html! {
        section {
            h2 { "Leases: users by holder" }
            table {
                thead { tr { th { "holder" } th.n { "users" } th { "" } } }
                tbody { @for row in leases {
                    @let name = row.holder.as_deref().unwrap_or("nobody");
                    @let id = if row.live || row.holder.is_none() { name.to_owned() } else { format!("{name}-gone") };
                    @let note = match (&row.holder, row.live) { (None, _) => "not used yet", (_, true) => "", (_, false) => "gone: taken over with the next request" };
                    tr.change[row.holder.is_some() && !row.live] {
                        th scope="row" { (name) }
                        td.n data-testid={ "lease-" (id) "-users" } { (row.users) }
                        td { (note) }
                    }
                } }
            }
        }
    }
}

fn held_text(rows: &[Held]) -> String {
    let one = |row: &Held| {
        let name = row.holder.as_deref().unwrap_or("nobody");
        let gone = if row.holder.is_some() && !row.live { " (gone)" } else { "" };
        format!("{name}{gone} {}", row.users)
    };
    rows.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn groups(view: &View) -> Markup {
    html! {
        section {
            details id="groups" {
                summary { h2 { "All groups" } }
                div.wide id="wide-groups" { table {
                    thead { tr { th.n { "group" } th { "leader" } th { "voters" } th.n { "term" } th.n { "committed" } th.n { "users" } th { "held by" } } }
                    tbody { @for group in &view.status.groups {
                        @let id = group.id;
                        tr.bad[group.leader.is_none()] {
                            th.n scope="row" { (id) }
                            td data-testid={ "group-" (id) "-leader" } { (group.leader.as_deref().unwrap_or("nobody")) }
                            td data-testid={ "group-" (id) "-voters" } { (group.voters.join(", ")) }
                            td.n data-testid={ "group-" (id) "-term" } { (group.term) }
                            td.n data-testid={ "group-" (id) "-committed" } { (group.committed) }
                            td.n data-testid={ "group-" (id) "-users" } { (group.users) }
                            td data-testid={ "group-" (id) "-held" } { (view.held.get(&id).map_or_else(String::new, |rows| held_text(rows))) }
                        }
                    } }
                } }
            }
        }
    }
}

fn sessions(view: &View, by_name: bool) -> Markup {
    let all: u64 = view.status.nodes.iter().filter_map(|node| node.sessions).sum();
    html! {
        section {
            h2 { "Sessions " span.sub data-testid="sessions" { (all) } }
            @if !by_name { p.sub data-testid="hidden" { "Who they are is shown on this machine's own address only (127.0.0.1)." } }
            @else if view.sessions.is_empty() { p.sub { "Nobody is logged in." } } @else {
                div.wide id="wide-sessions" { table {
                    thead { tr { th { "user" } th { "protocol" } th { "at node" } th { "from" } th.n { "for" } th { "doing" } } }
                    tbody { @for session in &view.sessions { (session_row(session)) } }
                } }
                @if all > view.sessions.len() as u64 { p.sub { (view.sessions.len()) " of " (all) " are shown; " code { "parliament who" } " lists all." } }
            }
        }
    }
}

fn session_row(session: &Session) -> Markup {
    let id = &session.session;
    html! {
        tr {
            th scope="row" data-testid={ "session-" (id) "-user" } { (session.user) }
            td data-testid={ "session-" (id) "-protocol" } { (session.protocol) }
            td data-testid={ "session-" (id) "-node" } { (session.node) }
            td data-testid={ "session-" (id) "-remote" } { (session.remote) }
            td.n data-testid={ "session-" (id) "-age" } { (output::age(session.age_s)) }
            td data-testid={ "session-" (id) "-doing" } { (session.doing.as_deref().unwrap_or("–")) }
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;

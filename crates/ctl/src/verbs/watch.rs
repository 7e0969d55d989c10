//! `status --watch`: in place on a terminal, one document a line with `--json`, one block after the other elsewhere.

use super::Remote;
use super::cluster::status_report;
use crate::api::{self, Event, Nothing, Status};
use crate::cli::StatusArgs;
use crate::error::{AdminError, exit};
use crate::output::{Report, age};

/// Events that are shown.
const EVENTS_SHOWN: usize = 8;
/// Goes to the upper left corner; nothing is cleared before it is written over, so nothing flickers.
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// Looks again and again until interrupted; the exit code is that of the last look.
pub(crate) async fn watch(remote: &mut Remote<'_>, args: StatusArgs) -> Report {
    let mut last = exit::OK;
    loop {
        let looked: Result<Status, AdminError> = tokio::select! {
            looked = remote.ask(api::STATUS, &Nothing {}) => looked,
            _ = tokio::signal::ctrl_c() => break,
        };
        last = show(remote, looked, args);
        if remote.terminal.is_gone() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(args.interval) => {}
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Report { json: serde_json::Value::Null, text: String::new(), exit: last }
}

fn show(remote: &mut Remote<'_>, looked: Result<Status, AdminError>, args: StatusArgs) -> u8 {
    if remote.json {
        return match looked {
            Ok(status) => {
                let report = status_report(&status, args.groups);
                remote.terminal.print(&format!("{}\n", report.json));
                report.exit
            }
            Err(error) => remote.terminal.error(&error, true),
        };
    }
    let (text, code) = match &looked {
        Ok(status) => {
            let report = status_report(status, args.groups);
            (format!("{}\n{}", report.text, happened(&status.events)), report.exit)
        }
        Err(error) => (format!("{error}\n"), error.exit),
    };
    match remote.terminal.screen_rows() {
        Some(rows) => {
            let every = parliament_config::duration_text(args.interval);
            let asked = looked.map(|status| format!("asked {}, ", status.answered_by)).unwrap_or_default();
            let head = format!("parliament status, {asked}every {every}, Ctrl-C ends\n\n");
            remote.terminal.print(&in_place(&format!("{head}{text}"), rows));
        }
        None => remote.terminal.print(&format!("{text}\n")),
    }
    code
}

/// What writes a text over the one before. Lines that the screen has no room for are left out: they would make it scroll.
fn in_place(text: &str, rows: usize) -> String {
    let text = crate::terminal::printable(text);
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let mut out = String::from(HOME);
    for line in lines.iter().take(if lines.len() > room { room - 1 } else { room }) {
        out.push_str(line);
        out.push_str(ERASE_LINE);
        out.push('\n');
    }
    if lines.len() > room {
        out.push_str(&format!("… {} more lines{ERASE_LINE}\n", lines.len() - (room - 1)));
    }
    out.push_str(ERASE_BELOW);
    out
}

fn happened(events: &[Event]) -> String {
    let line = |event: &Event| format!("{:>9} ago  {}\n", age(event.age_ms / 1000), event.text);
    let lines: String = events.iter().take(EVENTS_SHOWN).map(line).collect();
    if lines.is_empty() { lines } else { format!("what happened\n{lines}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_written_over_and_never_scrolls() {
        assert_eq!(in_place("a\nb\n", 24), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(in_place("a\nb\nc\nd\n", 4), "\x1b[Ha\x1b[K\nb\x1b[K\n… 2 more lines\x1b[K\n\x1b[J");
        assert_eq!(in_place("a\x1b[2Jb", 9), "\x1b[Ha\u{fffd}[2Jb\x1b[K\n\x1b[J", "names cannot command the terminal");
    }

    #[test]
    fn events_are_told_with_their_age() {
        let event = Event { age_ms: 61_000, tone: "bad".into(), text: "n2 stopped answering".into() };
        assert_eq!(happened(&[event]), "what happened\n    1m 1s ago  n2 stopped answering\n");
        assert_eq!(happened(&[]), "");
    }
}

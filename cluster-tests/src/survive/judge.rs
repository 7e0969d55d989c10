//! One IMAP session's stream, judged line by line: each tag answered once, no BYE, no EXPUNGE where it is forbidden, and a sequence
//! map replayed from the untagged responses alone, to be compared with what a new connection is told. No socket and no clock.

use crate::token::{Fetched, fetched, numbered};
use bytes::Bytes;
use std::collections::VecDeque;

/// Lines kept to show what went before a violation.
const RECENT_LINES: usize = 24;
/// Bytes shown of each.
const SHOWN_BYTES: usize = 140;
/// Violations kept of one session; a broken map breaks every line after it.
const VIOLATIONS_MAX: usize = 5;

/// A message as the client knows it by its sequence number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its UID, once told.
    pub uid: Option<u32>,
    /// Its flags without `\Recent`, sorted, once told.
    pub flags: Option<Vec<String>>,
}

/// A command that was sent and not answered yet.
#[derive(Clone, Debug)]
struct Open {
    tag: String,
    /// EXPUNGE is forbidden while it is carried out (RFC 9051 section 7.5.1).
    forbids: bool,
    /// It names messages by numbers that its client chose before.
    by_number: bool,
    /// It asks for EXPUNGE responses itself.
    expunges: bool,
    ends: bool,
    selects: bool,
}

/// What a line was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Untagged.
    Untagged,
    /// `+`
    Continue,
    /// The answer of a tag: its first word and the rest.
    Tagged(String, String, String),
}

/// The judge of one session.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    open: VecDeque<Open>,
    map: Option<Vec<Slot>>,
    recent: VecDeque<String>,
    violations: Vec<String>,
}

fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if bytes.len() > SHOWN_BYTES { format!(" … {} bytes", bytes.len()) } else { String::new() };
    format!("{}{more}", String::from_utf8_lossy(cut).replace(['\r', '\n'], "|"))
}

/// Flags that are compared: without `\Recent`, in a fixed order.
pub fn comparable(flags: &[String]) -> Vec<String> {
    let mut flags: Vec<String> = flags.iter().filter(|f| !f.eq_ignore_ascii_case("\\Recent")).map(|f| f.to_ascii_lowercase()).collect();
    flags.sort();
    flags
}

impl Judge {
    /// Notes a violation with what went before it.
    pub fn violation(&mut self, what: &str) {
        if self.violations.len() < VIOLATIONS_MAX {
            let context: Vec<&str> = self.recent.iter().map(String::as_str).collect();
            self.violations.push(format!("{what}\n    {}", context.join("\n    ")));
        }
    }

    /// Takes the violations found so far.
    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    fn keep(&mut self, line: String) {
        if self.recent.len() == RECENT_LINES {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// A command goes out, together with those that wait before it.
    pub fn sent(&mut self, tag: &str, command: &str) {
        self.keep(format!("C: {tag} {}", shown(command.as_bytes())));
        let mut words = command.split(' ').map(str::to_ascii_uppercase);
        let verb = words.next().unwrap_or_default();
        let is = |list: &[&str]| list.contains(&verb.as_str());
        let selects = is(&["SELECT", "EXAMINE"]);
        if selects {
            self.map = None;
        }
        let uid_expunges = verb == "UID" && words.next().is_some_and(|w| w == "EXPUNGE" || w == "MOVE");
        self.open.push_back(Open {
            tag: tag.to_owned(),
            forbids: is(&["FETCH", "STORE", "SEARCH"]),
            by_number: is(&["FETCH", "STORE", "SEARCH", "COPY", "MOVE"]),
            expunges: is(&["EXPUNGE", "MOVE"]) || uid_expunges,
            ends: verb == "LOGOUT",
            selects,
        });
    }

    /// A line came, literals included, without its final CRLF.
    pub fn heard(&mut self, line: &Bytes) -> Heard {
        self.keep(format!("S: {}", shown(line)));
        if line.starts_with(b"+") {
            return Heard::Continue;
        }
        if line.starts_with(b"* ") {
            self.untagged(line);
            return Heard::Untagged;
        }
        let text = String::from_utf8_lossy(line).into_owned();
        let mut words = text.splitn(3, ' ').map(str::to_owned);
        let (tag, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        match self.open.iter().position(|open| open.tag == tag) {
            None => self.violation(&format!("tag {tag:?} was answered twice or never sent")),
            Some(at) => {
                if at != 0 {
                    self.violation(&format!("tag {tag:?} was answered before an earlier one"));
                }
                self.open.remove(at);
            }
        }
        Heard::Tagged(tag, status, rest)
    }

    fn untagged(&mut self, line: &Bytes) {
        let word = |n: &[u8]| line.get(2..2 + n.len()).is_some_and(|w| w.eq_ignore_ascii_case(n));
        if word(b"BYE") && !self.open.front().is_some_and(|open| open.ends) {
            return self.violation("BYE");
        }
        if word(b"VANISHED") {
            return self.violation("VANISHED without QRESYNC");
        }
        if word(b"SEARCH") {
            return self.searched(line);
        }
        let Some((number, keyword, _)) = numbered(line) else { return };
        match keyword.to_ascii_uppercase().as_str() {
            "EXISTS" => self.exists(number),
            "EXPUNGE" => self.expunged(number),
            "FETCH" => match fetched(line) {
                Ok(Some(message)) => self.fetched(&message),
                Ok(None) => {}
                Err(error) => self.violation(&error.to_string()),
            },
            _ => {}
        }
    }

    fn exists(&mut self, number: u32) {
        let selecting = self.open.front().is_some_and(|open| open.selects);
        let wanted = number as usize;
        match &mut self.map {
            None if selecting => self.map = Some(vec![Slot::default(); wanted]),
            None => self.violation("EXISTS without a selected mailbox"),
            Some(map) if wanted < map.len() => {
                let known = map.len();
                self.violation(&format!("EXISTS {number}, but {known} messages were told and not expunged"));
            }
            Some(map) => map.resize(wanted, Slot::default()),
        }
    }

    fn expunged(&mut self, number: u32) {
        match self.open.front() {
            None => self.violation("EXPUNGE while no command is in progress"),
            Some(open) if open.forbids => self.violation("EXPUNGE during FETCH, STORE or SEARCH"),
            Some(open) if !open.expunges && self.open.iter().skip(1).any(|open| open.by_number) => {
                self.violation("EXPUNGE before a pipelined command that names messages by number");
            }
            Some(_) => {}
        }
        let length = self.len();
        match &mut self.map {
            Some(map) if number > 0 && number <= length => drop(map.remove(number as usize - 1)),
            _ => self.violation(&format!("EXPUNGE of message {number} of {length}")),
        }
    }

    fn fetched(&mut self, message: &Fetched) {
        let length = self.len();
        let slot = self.map.as_mut().and_then(|map| map.get_mut((message.seq as usize).checked_sub(1)?));
        let Some(slot) = slot else { return self.violation(&format!("FETCH of message {} of {length}", message.seq)) };
        if let (Some(known), Some(told)) = (slot.uid, message.uid)
            && known != told
        {
            return self.violation(&format!("message {} had UID {known} and now has {told}", message.seq));
        }
        slot.uid = message.uid.or(slot.uid);
        if let Some(flags) = &message.flags {
            slot.flags = Some(comparable(flags));
        }
    }

    /// Numbers that SEARCH tells must be those of messages.
    fn searched(&mut self, line: &Bytes) {
        let length = self.len();
        let text = String::from_utf8_lossy(line).into_owned();
        let beyond = text.split(' ').skip(2).filter_map(|n| n.parse::<u32>().ok()).find(|n| *n > length);
        if let (Some(number), Some(true)) = (beyond, self.open.front().map(|open| open.forbids)) {
            self.violation(&format!("SEARCH tells message {number} of {length}"));
        }
    }

    /// Messages in the map; 0 when nothing is selected.
    pub fn len(&self) -> u32 {
        self.map.as_ref().map_or(0, |map| u32::try_from(map.len()).unwrap_or(u32::MAX))
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True while a mailbox is selected.
    pub fn is_selected(&self) -> bool {
        self.map.is_some()
    }

    /// The UID of a sequence number, once told.
    pub fn uid(&self, seq: u32) -> Option<u32> {
        self.map.as_ref()?.get((seq as usize).checked_sub(1)?)?.uid
    }

    /// What the client itself changed without asking for the echo is not known any more.
    pub fn forget_flags(&mut self) {
        self.map.iter_mut().flatten().for_each(|slot| slot.flags = None);
    }

    /// Compares the replayed map with what a new connection was told, while nothing else changed the mailbox.
    pub fn compare(&mut self, fresh: &[(u32, Vec<String>)]) {
        let Some(map) = &self.map else { return };
        if map.len() != fresh.len() {
            let known = map.len();
            return self.violation(&format!("the replay has {known} messages, a new connection {}", fresh.len()));
        }
        let wrong = map.iter().zip(fresh).enumerate().find_map(|(at, (slot, (uid, flags)))| {
            let seq = at + 1;
            match slot {
                Slot { uid: Some(known), .. } if known != uid => Some(format!("message {seq}: replay UID {known}, new connection {uid}")),
                Slot { flags: Some(known), .. } if *known != comparable(flags) => {
                    Some(format!("message {seq} (UID {uid}): replay {known:?}, new connection {flags:?}"))
                }
                _ => None,
            }
        });
        if let Some(wrong) = wrong {
            self.violation(&wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session with a mailbox of three messages, UIDs 11 to 13.
    fn selected() -> Judge {
        let mut judge = Judge::default();
        judge.sent("a1", "SELECT INBOX");
        tell(&mut judge, &["* 3 EXISTS", "a1 OK done"]);
        judge.sent("a2", "FETCH 1:* (UID FLAGS)");
        tell(&mut judge, &["* 1 FETCH (UID 11 FLAGS (\\Recent))", "* 2 FETCH (UID 12 FLAGS (\\Seen))", "* 3 FETCH (UID 13 FLAGS ())"]);
        tell(&mut judge, &["a2 OK done"]);
        judge
    }

    fn tell(judge: &mut Judge, lines: &[&'static str]) {
        lines.iter().for_each(|line| drop(judge.heard(&Bytes::from_static(line.as_bytes()))));
    }

    /// The first line of each violation.
    fn found(mut judge: Judge) -> Vec<String> {
        judge.take_violations().iter().map(|v| v.lines().next().unwrap_or_default().to_owned()).collect()
    }

    fn fresh(uids: &[u32]) -> Vec<(u32, Vec<String>)> {
        uids.iter().map(|uid| (*uid, if *uid == 12 { vec!["\\Seen".into(), "\\Recent".into()] } else { vec![] })).collect()
    }

    #[test]
    fn a_lawful_stream_has_no_violation() {
        let mut judge = selected();
        judge.compare(&fresh(&[11, 12, 13]));
        judge.sent("a3", "NOOP");
        tell(&mut judge, &["* 4 EXISTS", "* 1 EXPUNGE", "* 3 FETCH (UID 14 FLAGS (x))", "a3 OK done"]);
        judge.sent("a4", "UID SEARCH ALL");
        tell(&mut judge, &["* SEARCH 12 13 14", "* 2 EXPUNGE", "a4 OK done"]);
        let mut map = fresh(&[12, 14]);
        map[1].1 = vec!["X".into()];
        judge.compare(&map);
        judge.sent("a5", "LOGOUT");
        tell(&mut judge, &["* BYE", "a5 OK done"]);
        assert_eq!(found(judge), [""; 0]);
    }

    #[test]
    fn planted_an_expunge_where_it_is_forbidden() {
        for command in ["FETCH 1 (FLAGS)", "STORE 1 +FLAGS (x)", "SEARCH ALL"] {
            let mut judge = selected();
            judge.sent("a3", command);
            tell(&mut judge, &["* 1 EXPUNGE", "a3 OK done"]);
            assert_eq!(found(judge), ["EXPUNGE during FETCH, STORE or SEARCH"], "{command}");
        }
        let mut judge = selected();
        tell(&mut judge, &["* 1 EXPUNGE"]);
        assert_eq!(found(judge), ["EXPUNGE while no command is in progress"]);
    }

    #[test]
    fn planted_an_expunge_under_a_number_that_waits() {
        let mut judge = selected();
        judge.sent("a3", "NOOP");
        judge.sent("a4", "FETCH 2 (FLAGS)");
        tell(&mut judge, &["* 1 EXPUNGE"]);
        assert_eq!(found(judge), ["EXPUNGE before a pipelined command that names messages by number"]);
    }

    #[test]
    fn planted_tags_answered_twice_never_asked_or_out_of_turn() {
        let mut judge = selected();
        tell(&mut judge, &["a2 OK done", "zz OK done"]);
        judge.sent("a3", "NOOP");
        judge.sent("a4", "NOOP");
        tell(&mut judge, &["a4 OK done"]);
        assert_eq!(found(judge).len(), 3);
    }

    #[test]
    fn planted_numbers_and_uids_that_do_not_fit() {
        let lines = [
            ("* 2 EXISTS", "EXISTS 2, but 3 messages were told and not expunged"),
            ("* 4 EXPUNGE", "EXPUNGE of message 4 of 3"),
            ("* 9 FETCH (FLAGS ())", "FETCH of message 9 of 3"),
            ("* 2 FETCH (UID 13 FLAGS ())", "message 2 had UID 12 and now has 13"),
            ("* BYE bye", "BYE"),
            ("* VANISHED 3", "VANISHED without QRESYNC"),
        ];
        for (line, violation) in lines {
            let mut judge = selected();
            judge.sent("a3", "NOOP");
            tell(&mut judge, &[line]);
            assert_eq!(found(judge), [violation]);
        }
        let mut judge = selected();
        judge.sent("a3", "SEARCH ALL");
        tell(&mut judge, &["* SEARCH 1 4"]);
        assert_eq!(found(judge), ["SEARCH tells message 4 of 3"]);
    }

    #[test]
    fn planted_a_map_that_a_new_connection_does_not_share() {
        for wrong in [fresh(&[11, 12]), fresh(&[11, 13, 12]), fresh(&[11, 12, 14])] {
            let mut judge = selected();
            judge.compare(&wrong);
            assert_eq!(found(judge).len(), 1);
        }
        let mut judge = selected();
        judge.compare(&[(11, vec![]), (12, vec![]), (13, vec![])]);
        assert_eq!(found(judge).len(), 1, "a flag that was told and is not there");
    }
}

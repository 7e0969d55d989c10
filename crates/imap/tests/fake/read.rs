//! Requests that change nothing.

use super::{Fake, Mailbox, Message, Outcome, flag_row};
use parliament_ids::limits::FETCH_INLINE_BYTES_MAX;
use parliament_ids::*;
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::*;

impl Fake {
    pub(crate) fn read(&self, request: &Request) -> Outcome {
        match request {
            Request::Select(select) => {
                let at = match &select.mailbox {
                    MailboxRef::Name(name) => self.find(name)?,
                    MailboxRef::Id(id) => self.by_id(*id)?,
                };
                Ok(Reply::Selected(Box::new(self.select(&self.mailboxes[at]))))
            }
            Request::Status(status) => Ok(Reply::Status(self.status(&self.mailboxes[self.find(&status.name)?]))),
            Request::List(list) => Ok(Reply::List(self.list(list))),
            Request::Fetch(fetch) => {
                let at = self.by_id(fetch.mailbox)?;
                Ok(Reply::Fetched(self.fetch(&self.mailboxes[at], fetch)))
            }
            Request::Search(search) => {
                let at = self.by_id(search.mailbox)?;
                Ok(Reply::Found(self.search(&self.mailboxes[at], search)))
            }
            Request::GetQuota => {
                let messages = self.mailboxes.iter().flat_map(|m| m.messages.values());
                let storage_bytes = messages.clone().map(|m| m.body.len() as u64).sum();
                let usage = QuotaUsage { storage_bytes, messages: messages.count() as u64, mailboxes: self.mailboxes.len() as u64 };
                Ok(Reply::Quota { limits: self.limits, usage })
            }
            other => panic!("not asked by this protocol yet: {other:?}"),
        }
    }

    fn select(&self, mailbox: &Mailbox) -> Selected {
        let unseen = mailbox.messages.iter().find(|(_, m)| !m.system.contains(SystemFlags::SEEN));
        Selected {
            mailbox: mailbox.id,
            name: mailbox.name.clone(),
            uid_validity: UidValidity(mailbox.uid_validity),
            uid_next: Uid(mailbox.uid_next),
            highest_modseq: mailbox.changed,
            uids: mailbox.messages.keys().map(|uid| Uid(*uid)).collect(),
            first_unseen: unseen.map(|(uid, _)| Uid(*uid)),
            keywords: mailbox.keywords.clone(),
            rights: self.rights,
            recent_from: Uid(mailbox.uid_next),
        }
    }

    fn status(&self, mailbox: &Mailbox) -> StatusData {
        let count = |test: fn(&Message) -> bool| mailbox.messages.values().filter(|m| test(m)).count() as u32;
        StatusData {
            mailbox: mailbox.id,
            messages: mailbox.messages.len() as u32,
            unseen: count(|m| !m.system.contains(SystemFlags::SEEN)),
            deleted: count(|m| m.system.contains(SystemFlags::DELETED)),
            size: mailbox.messages.values().map(|m| m.body.len() as u64).sum(),
            uid_next: Uid(mailbox.uid_next),
            uid_validity: UidValidity(mailbox.uid_validity),
            highest_modseq: mailbox.changed,
            recent: 0,
        }
    }

    fn list(&self, list: &ListRequest) -> Vec<ListRow> {
        let mut names: Vec<MailboxName> = self.mailboxes.iter().map(|m| m.name.clone()).collect();
        if list.subscribed {
            names.extend(self.subscribed.iter().flat_map(|name| [Some(name.clone()), name.parent()]).flatten());
        }
        names.sort();
        names.dedup();
        let selects = |name: &MailboxName| {
            let special = self.find(name).is_ok_and(|at| !self.mailboxes[at].special_use.is_empty());
            (!list.subscribed || self.subscribed.contains(name)) && (!list.special_use || special)
        };
        let matches = |name: &MailboxName| list.patterns.iter().any(|p| glob(p.0.as_bytes(), name.as_str().as_bytes()));
        let rows = names.iter().filter(|name| matches(name)).filter_map(|name| {
            let child_matches = list.recursive_match && names.iter().any(|child| child.is_below(name) && selects(child));
            let mailbox = self.find(name).ok().map(|at| &self.mailboxes[at]);
            (selects(name) || child_matches).then(|| ListRow {
                name: name.clone(),
                mailbox: mailbox.map(|m| m.id),
                has_children: self.mailboxes.iter().any(|m| m.name.is_below(name)),
                subscribed: self.subscribed.contains(name),
                child_matches,
                special_use: mailbox.map(|m| m.special_use.clone()).unwrap_or_default(),
                status: mailbox.filter(|_| list.with_status).map(|m| self.status(m)),
            })
        });
        rows.collect()
    }

    fn fetch(&self, mailbox: &Mailbox, fetch: &FetchRequest) -> FetchPage {
        let mut page = FetchPage { keywords: mailbox.keywords.clone(), ..FetchPage::default() };
        let last = mailbox.uid_next.saturating_sub(1);
        for uid in fetch.uids.intersection(&UidSet::range(Uid(1), Uid(last))).iter() {
            if page.rows.len() == self.page {
                page.next = Some(uid);
                break;
            }
            match mailbox.messages.get(&uid.0) {
                None => page.missing.insert(uid),
                Some(message) if fetch.changed_since.is_some_and(|since| message.modseq <= since) => {}
                Some(message) => page.rows.push(row(uid.0, message, &fetch.items)),
            }
        }
        page
    }

    fn search(&self, mailbox: &Mailbox, search: &SearchRequest) -> SearchPage {
        let mut page = SearchPage::default();
        for (seen, (uid, message)) in mailbox.messages.range(search.from.0..).enumerate() {
            if seen == self.page {
                page.next = Some(Uid(*uid));
                break;
            }
            if meets(&search.key, mailbox, *uid, message) {
                page.uids.insert(Uid(*uid));
                page.highest_modseq = page.highest_modseq.max(message.modseq);
            }
        }
        page
    }
}

fn row(uid: u32, message: &Message, items: &FetchItems) -> FetchRow {
    let wire = |asked: bool, text: &str| asked.then(|| BytesField(text.to_owned().into()));
    FetchRow {
        flags: flag_row(uid, message),
        internal_date: message.date,
        save_date: message.date.seconds,
        size: message.body.len() as u64,
        hash: Some(super::hash_of(&message.body)),
        email_id: EmailId(message.email_id),
        thread_id: ThreadId(7),
        envelope: wire(items.envelope, "(NIL \"hi\" NIL NIL NIL NIL NIL NIL NIL NIL)"),
        body: wire(items.body, "(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 5 1)"),
        body_structure: wire(items.body_structure, "(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 5 1 NIL NIL NIL NIL)"),
        preview: items.preview.then(|| "A pre\"view".to_owned()),
        parts: items.sections.iter().map(|section| PartResult { data: part(section, &message.body) }).collect(),
    }
}

fn part(section: &Section, body: &[u8]) -> Option<PartData> {
    let split = body.windows(4).position(|w| w == b"\r\n\r\n").map_or(body.len(), |at| at + 4);
    let (header, text) = body.split_at(split);
    let named = |names: &[String], keep: bool| {
        let lines = header.split_inclusive(|b| *b == b'\n').filter(|line| {
            let name = line.split(|b| *b == b':').next().unwrap_or_default();
            *line == b"\r\n" || names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(name)) == keep
        });
        lines.flatten().copied().collect::<Vec<u8>>()
    };
    let bytes = match (&section.kind, section.path.as_slice()) {
        (SectionKind::Whole, []) => body.to_vec(),
        (SectionKind::Header, []) => header.to_vec(),
        (SectionKind::HeaderFields(names), []) => named(names, true),
        (SectionKind::HeaderFieldsNot(names), []) => named(names, false),
        (SectionKind::Text, []) | (SectionKind::Whole | SectionKind::Binary, [1]) => text.to_vec(),
        (SectionKind::BinarySize, [1]) => return Some(PartData::Size(text.len() as u64)),
        _ => return None,
    };
    let from = section.partial.map_or(0, |(offset, _)| offset as usize).min(bytes.len());
    let to = section.partial.map_or(bytes.len(), |(_, count)| (from + count as usize).min(bytes.len()));
    if to - from > FETCH_INLINE_BYTES_MAX && section.path.is_empty() && section.kind == SectionKind::Whole {
        return Some(PartData::Range { offset: from as u64, length: (to - from) as u64 });
    }
    Some(PartData::Inline(BytesField(bytes[from..to].to_vec().into())))
}

fn meets(key: &SearchKey, mailbox: &Mailbox, uid: u32, message: &Message) -> bool {
    let text = String::from_utf8_lossy(&message.body);
    match key {
        SearchKey::All => true,
        SearchKey::Never => false,
        SearchKey::And(keys) => keys.iter().all(|key| meets(key, mailbox, uid, message)),
        SearchKey::Or(keys) => keys.iter().any(|key| meets(key, mailbox, uid, message)),
        SearchKey::Not(key) => !meets(key, mailbox, uid, message),
        SearchKey::Uids(uids) => uids.contains(Uid(uid)),
        SearchKey::Flag(flag) => message.system.contains(*flag),
        SearchKey::Keyword(keyword) => {
            mailbox.keywords.iter().position(|k| k == keyword).is_some_and(|bit| message.keywords >> bit & 1 == 1)
        }
        SearchKey::Larger(size) => message.body.len() as u64 > *size,
        SearchKey::Smaller(size) => (message.body.len() as u64) < *size,
        SearchKey::OlderThan(bound) => message.date.seconds <= *bound,
        SearchKey::YoungerThan(bound) => message.date.seconds >= *bound,
        SearchKey::Header(header) => text.to_lowercase().contains(&header.text.to_lowercase()),
        SearchKey::Body(needle) | SearchKey::Text(needle) => text.to_lowercase().contains(&needle.to_lowercase()),
        SearchKey::ModSeq(modseq) => message.modseq >= *modseq,
        SearchKey::EmailId(id) => message.email_id == *id,
        SearchKey::ThreadId(id) => *id == 7,
        other => panic!("dates are tested elsewhere: {other:?}"),
    }
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|at| glob(rest, &name[at..])),
        Some((b'%', rest)) => (0..=name.len()).take_while(|at| !name[..*at].contains(&b'/')).any(|at| glob(rest, &name[at..])),
        Some((byte, rest)) => name.first() == Some(byte) && glob(rest, &name[1..]),
    }
}

//! A page of SEARCH: cheap keys (flags, sizes, dates of the records) first, bodies only for messages that those leave open.

use crate::{Parsing, ReadError};
use parliament_ids::{AccountId, Keyword, Uid, UidSet};
use parliament_mail_api::{FlagRow, SearchDate, SearchKey, SearchPage, SearchRequest};
use parliament_mailbox_state::Tables;
use parliament_mailbox_state::view::{self, MessageRow};
use parliament_mime as mime;
use std::collections::HashMap;

/// Messages that one page looks at when no body is needed.
const ROWS_MAX: usize = 65_536;
/// Messages whose bodies one page reads.
const BODIES_MAX: usize = 256;

/// Makes one page. Rights were checked by the caller.
///
/// # Errors
/// [`ReadError`].
pub fn search_page(
    tables: &dyn Tables,
    parsing: &Parsing<'_>,
    account: AccountId,
    request: &SearchRequest,
) -> Result<SearchPage, ReadError> {
    let keywords = view::keywords(tables, account, request.mailbox)?;
    let key = compile(&request.key, &keywords);
    let (mut flags, mut page) = (Vec::new(), SearchPage::default());
    let asked = UidSet::range(request.from, Uid(u32::MAX));
    view::flag_rows(tables, account, request.mailbox, &asked, None, &mut |row| {
        if flags.len() == ROWS_MAX {
            page.next = Some(row.uid);
            return false;
        }
        flags.push(row);
        true
    })?;
    let mut messages = HashMap::new();
    if key.needs_record() {
        let uids: UidSet = flags.iter().map(|row| row.uid).collect();
        view::message_rows(tables, account, request.mailbox, &uids, &mut |row| {
            messages.insert(row.uid, row);
            true
        })?;
    }
    let mut bodies = 0;
    for row in &flags {
        let mut one = One { flags: row, message: messages.get(&row.uid), parsing, body: None, read: false };
        if one.message.is_none() && key.needs_record() {
            continue;
        }
        if one.matches(&key)? {
            page.uids.insert(row.uid);
            page.highest_modseq = page.highest_modseq.max(row.modseq);
        }
        bodies += usize::from(one.read);
        if bodies == BODIES_MAX {
            page.next = Some(row.uid.next());
            break;
        }
    }
    Ok(page)
}

/// A key made ready for many messages.
enum Key {
    Always(bool),
    And(Vec<Key>),
    Or(Vec<Key>),
    Not(Box<Key>),
    Uids(UidSet),
    Flag(u8),
    Keyword(u32),
    ModSeq(u64),
    Larger(u64),
    Smaller(u64),
    Arrived(Range),
    Saved(Range),
    OlderThan(i64),
    YoungerThan(i64),
    EmailId(u64),
    ThreadId(u64),
    Sent(Range),
    Header(String, mime::Needle),
    Body(mime::Needle),
    Text(mime::Needle),
}

/// Days from and to, inclusive, as (year, month, day).
struct Range {
    from: Option<Day>,
    to: Option<Day>,
}

type Day = (u16, u8, u8);

impl Range {
    fn before(date: &SearchDate) -> Self {
        // The day before is not computed: "to" is compared exclusively by the one key that needs it.
        Self { from: None, to: Some((date.year, date.month, date.day)) }
    }
    fn on(date: &SearchDate) -> Self {
        let day = (date.year, date.month, date.day);
        Self { from: Some(day), to: Some((date.year, date.month, date.day.saturating_add(1))) }
    }
    fn since(date: &SearchDate) -> Self {
        Self { from: Some((date.year, date.month, date.day)), to: None }
    }
    /// `from <= day < to`; days compare as tuples, so the day after the 31st need not exist.
    fn holds(&self, day: Day) -> bool {
        self.from.is_none_or(|from| from <= day) && self.to.is_none_or(|to| day < to)
    }
}

fn compile(key: &SearchKey, keywords: &[Keyword]) -> Key {
    let all = |keys: &[SearchKey]| {
        let mut keys: Vec<Key> = keys.iter().map(|key| compile(key, keywords)).collect();
        // Cheap keys first: a body is read only when they leave the question open.
        keys.sort_by_key(Key::cost);
        keys
    };
    match key {
        SearchKey::All => Key::Always(true),
        SearchKey::Never => Key::Always(false),
        SearchKey::And(keys) => Key::And(all(keys)),
        SearchKey::Or(keys) => Key::Or(all(keys)),
        SearchKey::Not(key) => Key::Not(Box::new(compile(key, keywords))),
        SearchKey::Uids(uids) => Key::Uids(uids.clone()),
        SearchKey::Flag(flag) => Key::Flag(flag.0),
        SearchKey::Keyword(keyword) => match keywords.iter().position(|known| known == keyword) {
            Some(bit) => Key::Keyword(u32::try_from(bit).unwrap_or(127)),
            None => Key::Always(false),
        },
        SearchKey::Larger(size) => Key::Larger(*size),
        SearchKey::Smaller(size) => Key::Smaller(*size),
        SearchKey::Before(date) => Key::Arrived(Range::before(date)),
        SearchKey::On(date) => Key::Arrived(Range::on(date)),
        SearchKey::Since(date) => Key::Arrived(Range::since(date)),
        SearchKey::SentBefore(date) => Key::Sent(Range::before(date)),
        SearchKey::SentOn(date) => Key::Sent(Range::on(date)),
        SearchKey::SentSince(date) => Key::Sent(Range::since(date)),
        SearchKey::SavedBefore(date) => Key::Saved(Range::before(date)),
        SearchKey::SavedOn(date) => Key::Saved(Range::on(date)),
        SearchKey::SavedSince(date) => Key::Saved(Range::since(date)),
        SearchKey::OlderThan(second) => Key::OlderThan(*second),
        SearchKey::YoungerThan(second) => Key::YoungerThan(*second),
        SearchKey::Header(header) => Key::Header(header.field.clone(), mime::Needle::new(&header.text)),
        SearchKey::Body(text) => Key::Body(mime::Needle::new(text)),
        SearchKey::Text(text) => Key::Text(mime::Needle::new(text)),
        SearchKey::ModSeq(modseq) => Key::ModSeq(modseq.0),
        SearchKey::EmailId(id) => Key::EmailId(*id),
        SearchKey::ThreadId(id) => Key::ThreadId(*id),
    }
}

impl Key {
    /// 0: flags are enough. 1: the message's record is needed. 2: its header. 3: its text.
    fn cost(&self) -> u8 {
        match self {
            Self::Always(_) | Self::Uids(_) | Self::Flag(_) | Self::Keyword(_) | Self::ModSeq(_) => 0,
            Self::Larger(_) | Self::Smaller(_) | Self::Arrived(_) | Self::Saved(_) => 1,
            Self::OlderThan(_) | Self::YoungerThan(_) | Self::EmailId(_) | Self::ThreadId(_) => 1,
            Self::Sent(_) | Self::Header(..) => 2,
            Self::Body(_) | Self::Text(_) => 3,
            Self::Not(key) => key.cost(),
            Self::And(keys) | Self::Or(keys) => keys.iter().map(Self::cost).max().unwrap_or(0),
        }
    }
    fn needs_record(&self) -> bool {
        self.cost() > 0
    }
}

/// The day that a UTC second is in a zone (Howard Hinnant's days-to-civil algorithm).
pub(crate) fn day_of(seconds: i64, zone_minutes: i16) -> Day {
    let days = seconds.saturating_add(i64::from(zone_minutes) * 60).div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |n: i64| u8::try_from(n).unwrap_or(0);
    (u16::try_from(year.clamp(0, 9999)).unwrap_or(0), small(month), small(day))
}

/// One message under test; its body is read at most once.
struct One<'a> {
    flags: &'a FlagRow,
    message: Option<&'a MessageRow>,
    parsing: &'a Parsing<'a>,
    body: Option<(bytes::Bytes, mime::Structure)>,
    read: bool,
}

impl One<'_> {
    fn matches(&mut self, key: &Key) -> Result<bool, ReadError> {
        Ok(match key {
            Key::Always(answer) => *answer,
            Key::And(keys) => {
                for key in keys {
                    if !self.matches(key)? {
                        return Ok(false);
                    }
                }
                true
            }
            Key::Or(keys) => {
                for key in keys {
                    if self.matches(key)? {
                        return Ok(true);
                    }
                }
                false
            }
            Key::Not(key) => !self.matches(key)?,
            Key::Uids(uids) => uids.contains(self.flags.uid),
            Key::Flag(flag) => self.flags.system.0 & flag == *flag,
            Key::Keyword(bit) => self.flags.keywords & (1_u128 << bit) != 0,
            Key::ModSeq(modseq) => self.flags.modseq.0 >= *modseq,
            Key::Sent(range) => {
                let (body, structure) = self.body()?;
                mime::sent_date(body, structure).is_some_and(|date| range.holds((date.year, date.month, date.day)))
            }
            Key::Header(field, needle) => {
                let (body, structure) = self.body()?;
                mime::header_contains(body, structure, field, needle)
            }
            Key::Body(needle) => {
                let (body, structure) = self.body()?;
                mime::body_contains(body, structure, needle)
            }
            Key::Text(needle) => {
                let (body, structure) = self.body()?;
                mime::text_contains(body, structure, needle)
            }
            _ => self.message.is_some_and(|message| record_matches(message, key)),
        })
    }

    fn body(&mut self) -> Result<(&bytes::Bytes, &mime::Structure), ReadError> {
        if self.body.is_none() {
            self.read = true;
            let body = match self.message {
                Some(message) => self.parsing.bodies.read(&message.hash)?,
                None => bytes::Bytes::new(),
            };
            let structure = mime::Structure::parse(&body);
            self.body = Some((body, structure));
        }
        let (body, structure) = self.body.get_or_insert_with(|| (bytes::Bytes::new(), mime::Structure::parse(b"")));
        Ok((body, structure))
    }
}

fn record_matches(message: &MessageRow, key: &Key) -> bool {
    let arrived = message.internal_date;
    match key {
        Key::Larger(size) => message.size > *size,
        Key::Smaller(size) => message.size < *size,
        Key::Arrived(range) => range.holds(day_of(arrived.seconds, arrived.zone_minutes)),
        Key::Saved(range) => range.holds(day_of(message.save_date, 0)),
        Key::OlderThan(second) => arrived.seconds <= *second,
        Key::YoungerThan(second) => arrived.seconds >= *second,
        Key::EmailId(id) => message.email_id.0 == *id,
        Key::ThreadId(id) => message.thread_id.0 == *id,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_known_seconds() {
        assert_eq!(day_of(0, 0), (1970, 1, 1));
        assert_eq!(day_of(0, -1), (1969, 12, 31));
        assert_eq!(day_of(951_782_399, 0), (2000, 2, 28));
        assert_eq!(day_of(951_782_400, 0), (2000, 2, 29));
        assert_eq!(day_of(951_868_800, 0), (2000, 3, 1));
        assert_eq!(day_of(1_735_689_599, 0), (2024, 12, 31));
        assert_eq!(day_of(1_735_689_599, 60), (2025, 1, 1));
        assert_eq!(day_of(i64::MAX, 0).0, 9999);
    }

    #[test]
    fn ranges_of_days_at_the_ends_of_months() {
        let date = SearchDate { year: 2024, month: 12, day: 31 };
        assert!(Range::on(&date).holds((2024, 12, 31)) && !Range::on(&date).holds((2025, 1, 1)));
        assert!(Range::before(&date).holds((2024, 12, 30)) && !Range::before(&date).holds((2024, 12, 31)));
        assert!(Range::since(&date).holds((2025, 1, 1)) && !Range::since(&date).holds((2024, 12, 30)));
    }
}

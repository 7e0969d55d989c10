//! A page of SEARCH: cheap keys (flags, sizes, dates of the records) first, bodies only for messages that those leave open.

use crate::body::PAGE_READ_BYTES;
use crate::rows::Mailbox;
use crate::{Parsing, ReadError};
use parliament_ids::limits::KEYWORDS_PER_MAILBOX_MAX;
use parliament_ids::{AccountId, Keyword, Uid, UidSet};
use parliament_mail_api::{FlagRow, SearchDate, SearchKey, SearchPage, SearchRequest};
use parliament_mailbox_state::Tables;
use parliament_mailbox_state::view::{self, MessageRow};
use parliament_mime as mime;

/// Messages that one page looks at.
const ROWS_MAX: usize = 65_536;
/// Messages whose rows are read at a time: with bodies nobody knows how many the page will look at.
const ROWS_AT_ONCE: usize = 8192;
const BODY_ROWS_AT_ONCE: usize = 256;
/// Messages whose bodies one page reads.
const BODIES_MAX: usize = 256;

/// Makes one page. Rights were checked by the caller.
///
/// A page ends after 65,536 messages looked at, 256 bodies or 32 MiB of bodies read; then `next` says where to go on. A page
/// whose first body cannot be read is an error; at a later one the page ends.
///
/// # Errors
/// [`ReadError`].
pub fn search_page(
    tables: &dyn Tables,
    parsing: &Parsing<'_>,
    account: AccountId,
    request: &SearchRequest,
) -> Result<SearchPage, ReadError> {
    let mailbox = Mailbox { tables, account, id: request.mailbox };
    let key = compile(&request.key, &view::keywords(tables, account, request.mailbox)?);
    let at_once = if key.needs_body() { BODY_ROWS_AT_ONCE } else { ROWS_AT_ONCE };
    let scope = key.scope().unwrap_or_else(|| UidSet::range(Uid(1), Uid(u32::MAX)));
    let mut scan =
        Scan { parsing, key: &key, page: SearchPage { next: Some(request.from), ..SearchPage::default() }, looked: 0, bodies: 0, read: 0 };
    while let Some(from) = scan.page.next
        && scan.looked < ROWS_MAX
    {
        let flags = mailbox.flags(&scope.intersection(&UidSet::range(from, Uid(u32::MAX))), None, at_once)?;
        let records = if key.needs_record() { mailbox.records(&flags.rows)? } else { Vec::new() };
        scan.page.next = flags.next;
        if !scan.look(&flags.rows, &records)? {
            break;
        }
    }
    Ok(scan.page)
}

/// A page being made.
struct Scan<'a> {
    parsing: &'a Parsing<'a>,
    key: &'a Key,
    page: SearchPage,
    looked: usize,
    bodies: usize,
    read: u64,
}

impl Scan<'_> {
    /// Looks at messages; false when the page ends before the last of them. `records` is empty when the key needs none.
    fn look(&mut self, flags: &[FlagRow], records: &[Option<MessageRow>]) -> Result<bool, ReadError> {
        for (n, row) in flags.iter().enumerate() {
            if self.bodies >= BODIES_MAX || self.read >= PAGE_READ_BYTES {
                self.page.next = Some(row.uid);
                return Ok(false);
            }
            let record = records.get(n).and_then(Option::as_ref);
            if record.is_none() && self.key.needs_record() {
                // Expunged between the two looks at the tables.
                continue;
            }
            let mut one = One { flags: row, message: record, parsing: self.parsing, body: None };
            let matches = match one.matches(self.key) {
                Err(ReadError::Body(_)) if self.bodies > 0 => {
                    self.page.next = Some(row.uid);
                    return Ok(false);
                }
                matches => matches?,
            };
            if let Some((body, _)) = &one.body {
                self.bodies += 1;
                self.read += body.len() as u64;
            }
            self.looked += 1;
            if matches {
                self.page.uids.insert(row.uid);
                self.page.highest_modseq = self.page.highest_modseq.max(row.modseq);
            }
        }
        Ok(true)
    }
}

/// A key made ready for many messages.
enum Key {
    Always(bool),
    And(Vec<Key>),
    Or(Vec<Key>),
    Not(Box<Key>),
    Uids(UidSet),
    Flag(u8),
    Keyword(u128),
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

/// Days from one up to, but without, another.
struct Range {
    from: Option<Day>,
    to: Option<Day>,
}

/// Year, month, day.
type Day = (u16, u8, u8);

impl Range {
    fn before(date: &SearchDate) -> Self {
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
        SearchKey::Keyword(keyword) => {
            let bit = keywords.iter().take(KEYWORDS_PER_MAILBOX_MAX).position(|known| known == keyword);
            bit.map_or(Key::Always(false), |bit| Key::Keyword(1 << bit))
        }
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
    fn needs_body(&self) -> bool {
        self.cost() > 1
    }
    /// The UIDs outside of which nothing matches, when the key names them; other messages are not looked at.
    fn scope(&self) -> Option<UidSet> {
        match self {
            Self::Uids(uids) => Some(uids.clone()),
            Self::Always(false) => Some(UidSet::new()),
            Self::And(keys) => keys.iter().filter_map(Self::scope).reduce(|a, b| a.intersection(&b)),
            _ => None,
        }
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
            Key::Keyword(bit) => self.flags.keywords & bit != 0,
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

    /// Asked only of messages whose record is at hand.
    fn body(&mut self) -> Result<(&bytes::Bytes, &mime::Structure), ReadError> {
        let (body, structure) = match (self.body.take(), self.message) {
            (Some(read), _) => read,
            (None, message) => {
                let body = message.map_or(Ok(bytes::Bytes::new()), |message| self.parsing.bodies.read(&message.hash))?;
                let structure = mime::Structure::parse(&body);
                (body, structure)
            }
        };
        let (body, structure) = self.body.insert((body, structure));
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

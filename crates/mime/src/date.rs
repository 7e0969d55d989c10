//! The Date field (RFC 5322 section 3.3, obsolete forms of 4.3), for SENT* and SORT.

use crate::content::Scanner;
use crate::header::Fields;
use crate::structure::Structure;

/// A date as its sender wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SentDate {
    /// Seconds since 1970 UTC, for SORT (RFC 5256 section 2.2): a time that cannot be read is midnight, such a zone is UTC.
    pub unix_seconds: i64,
    /// Year in the sender's zone, 0 to 9999. SENTBEFORE, SENTON and SENTSINCE compare this day.
    pub year: u16,
    /// Month from 1.
    pub month: u8,
    /// Day from 1; exists in that month.
    pub day: u8,
}

/// When the message says it was sent; `None` without a Date field that names a day.
#[must_use]
pub fn sent_date(message: &[u8], structure: &Structure) -> Option<SentDate> {
    parse_date(Fields::first(structure.header(message, structure.root()), "Date")?)
}

/// Reads the value of a Date field: comments, obsolete years and zones, and a day of the week of any kind or none are accepted,
/// as is `Jan 31` for `31 Jan`.
#[must_use]
pub fn parse_date(value: &[u8]) -> Option<SentDate> {
    let mut tokens = Tokens { scanner: Scanner { rest: value } };
    let mut token = tokens.next()?;
    if !token.first()?.is_ascii_digit() && month_of(token).is_none() {
        token = tokens.next()?;
    }
    let (day, month) = match month_of(token) {
        Some(month) => (number(tokens.next()?)?, month),
        None => (number(token)?, month_of(tokens.next()?)?),
    };
    let mut year_or_time = tokens.next()?;
    let mut clock = None;
    if year_or_time.contains(&b':') {
        // The form of asctime: the time stands before the year.
        clock = clock_of(year_or_time);
        year_or_time = tokens.next()?;
    }
    let year = full_year(year_or_time)?;
    if day == 0 || day > days_in(year, month) || year > 9999 {
        return None;
    }
    let clock = clock.or_else(|| clock_of(tokens.next()?)).unwrap_or(0);
    let zone = tokens.next().and_then(zone_of).unwrap_or(0);
    let unix_seconds = days_since_1970(year, month, day) * 86_400 + clock - zone;
    Some(SentDate { unix_seconds, year: year as u16, month: month as u8, day: day as u8 })
}

/// Words and numbers between blanks, commas, hyphens within dates, and comments.
struct Tokens<'m> {
    scanner: Scanner<'m>,
}

impl<'m> Tokens<'m> {
    fn next(&mut self) -> Option<&'m [u8]> {
        loop {
            self.scanner.skip_cfws();
            if self.scanner.take(b',') || self.scanner.take(b'"') {
                continue;
            }
            // A hyphen joins day, month and year in some senders' dates; before four digits it is a zone's sign.
            let rest = self.scanner.rest;
            if rest.first() == Some(&b'-') && !rest.get(1..5).is_some_and(|d| d.iter().all(u8::is_ascii_digit) && is_zone_end(rest)) {
                self.scanner.take(b'-');
                continue;
            }
            let sign = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
            let length = rest[sign..].iter().position(|&b| !is_token_byte(b)).map_or(rest.len(), |at| at + sign);
            if length == 0 {
                // Something odd: passed over, unless nothing is left.
                self.scanner.rest = rest.get(1..)?;
                continue;
            }
            let (token, rest) = rest.split_at(length);
            self.scanner.rest = rest;
            return Some(token);
        }
    }
}

fn is_zone_end(rest: &[u8]) -> bool {
    // `-1996 12:00` is a year after a hyphen: a zone is the last word but for comments.
    !rest.get(5..).unwrap_or_default().iter().take_while(|&&b| b != b'(').any(|&b| b == b':')
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b':' || byte == b'.'
}

fn number(token: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(token).ok()?;
    (text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// RFC 5322 section 4.3: two digits below 50 are of 2000, other short years of 1900.
fn full_year(token: &[u8]) -> Option<i64> {
    let year = number(token)?;
    Some(match token.len() {
        1 | 2 if year < 50 => year + 2000,
        1..=3 => year + 1900,
        _ => year,
    })
}

fn month_of(token: &[u8]) -> Option<i64> {
    const NAMES: [&[u8; 3]; 12] = [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let start = token.get(..3)?;
    NAMES.iter().position(|name| name.eq_ignore_ascii_case(start)).map(|index| index as i64 + 1)
}

/// Seconds since midnight of `hh:mm` or `hh:mm:ss`; a leap second counts as the one before it.
fn clock_of(token: &[u8]) -> Option<i64> {
    let whole = token.split(|&b| b == b'.').next()?;
    let mut parts = whole.split(|&b| b == b':').map(number);
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().flatten().unwrap_or(0);
    (hours < 24 && minutes < 60 && seconds <= 60).then(|| hours * 3600 + minutes * 60 + seconds.min(59))
}

/// Seconds east of UTC.
fn zone_of(token: &[u8]) -> Option<i64> {
    const NAMES: [(&[u8], i64); 11] = [
        (b"UT", 0),
        (b"GMT", 0),
        (b"Z", 0),
        (b"EST", -5),
        (b"EDT", -4),
        (b"CST", -6),
        (b"CDT", -5),
        (b"MST", -7),
        (b"MDT", -6),
        (b"PST", -8),
        (b"PDT", -7),
    ];
    if let Some((_, hours)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(token)) {
        return Some(hours * 3600);
    }
    let (sign, digits) = match token.split_first()? {
        (b'+', digits) => (1, digits),
        (b'-', digits) => (-1, digits),
        _ => return None,
    };
    let value = number(digits).filter(|_| digits.len() == 4)?;
    (value % 100 < 60).then(|| sign * (value / 100 * 3600 + value % 100 * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counted from March so that leap days come last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + days_before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (value, expected) in [
            ("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)", Some((837_595_405, 1996, 7, 17))),
            ("Thu, 1 Jan 1970 00:00:00 +0000", Some((0, 1970, 1, 1))),
            ("31 Dec 2024 23:30 +0530", Some((1_735_668_000, 2024, 12, 31))),
            ("Fri,\r\n (c(o)m) 21 Nov (x) 97 09:55:06(y)-0600", Some((880_127_706, 1997, 11, 21))),
            ("1 Jan 49 00:00:00 GMT", Some((2_493_072_000, 2049, 1, 1))),
            ("Mon, 29 Feb 2000 12:00:00 EST", Some((951_843_600, 2000, 2, 29))),
            ("29 Feb 2001 12:00:00 EST", None),
            ("Sat Nov 21 23:56:15 2026", Some((1_795_305_375, 2026, 11, 21))),
            ("Sat, 02-Feb-2002 03:04:05 -0000", Some((1_012_619_045, 2002, 2, 2))),
            ("Tuesday, 3 September 2002 nonsense", Some((1_031_011_200, 2002, 9, 3))),
            ("3 Sep 2002 25:00:00 +0200", Some((1_031_004_000, 2002, 9, 3))),
            ("99999999999 Sep 2002", None),
            ("", None),
            ("yesterday", None),
            ("- - -", None),
        ] {
            let found = parse_date(value.as_bytes()).map(|d| (d.unix_seconds, d.year, d.month, d.day));
            assert_eq!(found, expected, "{value:?}");
        }
    }
}

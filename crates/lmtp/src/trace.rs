//! Trace header fields (RFC 5321 section 4.4).

use crate::session::{Peer, Settings};
use std::fmt::Write;

/// `Return-Path:` and `Received:` for a message that arrives at `now`, seconds since 1970 UTC. All parts were checked to
/// hold no line ends. The recipient is not named: every copy of a message has the same bytes.
pub(crate) fn headers(settings: &Settings, peer: &Peer, lhlo: &str, from: &str, utf8: bool, number: u64, now: i64) -> String {
    let with = match (utf8, peer.tls) {
        (false, false) => "LMTP",
        (false, true) => "LMTPS",
        (true, false) => "UTF8LMTP",
        (true, true) => "UTF8LMTPS",
    };
    let mut text = format!("Return-Path: <{from}>\r\n");
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "Received: from {lhlo} ([{}])\r\n\tby {} with {with} id {}.{number};\r\n\t{}\r\n",
        peer.address,
        settings.host,
        peer.session,
        date(now)
    );
    text
}

/// RFC 5322 date-time in UTC; years beyond four digits are written as they are.
fn date(now: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let weekday = DAYS[usize::try_from(days.rem_euclid(7)).unwrap_or(0)];
    let month = MONTHS[usize::try_from(month - 1).unwrap_or(0) % 12];
    format!("{weekday}, {day} {month} {year:04} {:02}:{:02}:{:02} +0000", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day counted from 1970-01-01: years begin in March, so the leap day ends a year, and an era of
/// 400 years has 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let since_era_zero = days.saturating_add(719_468);
    let (era, day_of_era) = (since_era_zero.div_euclid(146_097), since_era_zero.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_note() {
        for (seconds, text) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (-1, "Wed, 31 Dec 1969 23:59:59 +0000"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}

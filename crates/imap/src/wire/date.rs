//! INTERNALDATE both ways (RFC 9051 section 9, `date-time`). The proleptic Gregorian calendar, by hand and in whole days.

use parliament_ids::DateTime;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Month of a three-letter name, from 1.
pub(crate) fn month_number(name: &[u8]) -> Option<u8> {
    MONTHS.iter().zip(1..).find(|(month, _)| month.as_bytes().eq_ignore_ascii_case(name)).map(|(_, n)| n)
}

/// Days since 1970-01-01 of a date; years count from March so that leap days come last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days_of`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// ` 1-Jan-2026 00:00:00 +0000`, without quotes.
pub(crate) fn internal_date(date: DateTime) -> String {
    let zone = i64::from(date.zone_minutes).clamp(-1439, 1439);
    // Beyond the years that four digits can tell the date is told as the nearest one that they can.
    let local = date.seconds.clamp(-62_135_596_800, 253_402_214_400).saturating_add(zone * 60);
    let (year, month, day) = date_of(local.div_euclid(86_400));
    let time = local.rem_euclid(86_400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let sign = if zone < 0 { '-' } else { '+' };
    let name = usize::try_from(month - 1).ok().and_then(|m| MONTHS.get(m)).copied().unwrap_or("Jan");
    format!("{day:2}-{name}-{year:04} {hour:02}:{minute:02}:{second:02} {sign}{:02}{:02}", zone.abs() / 60, zone.abs() % 60)
}

/// Reads what stands between the quotes of a `date-time`; `None` when it is none.
pub(crate) fn parse_internal_date(text: &[u8]) -> Option<DateTime> {
    let &[d1, d2, b'-', m1, m2, m3, b'-', y1, y2, y3, y4, b' ', h1, h2, b':', n1, n2, b':', s1, s2, b' ', sign, z1, z2, z3, z4] = text
    else {
        return None;
    };
    let number = |digits: &[u8]| digits.iter().try_fold(0_i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')));
    let day = if d1 == b' ' { number(&[d2])? } else { number(&[d1, d2])? };
    let month = i64::from(month_number(&[m1, m2, m3])?);
    let year = number(&[y1, y2, y3, y4])?;
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[n1, n2])?, number(&[s1, s2])?);
    let (zone_hours, zone_minutes) = (number(&[z1, z2])?, number(&[z3, z4])?);
    let zone = zone_hours * 60 + zone_minutes;
    let zone = match sign {
        b'+' => zone,
        b'-' => -zone,
        _ => return None,
    };
    let days = days_of(year, month, day);
    if date_of(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 || zone_minutes > 59 || zone.abs() > 1439 {
        return None;
    }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - zone * 60;
    Some(DateTime { seconds, zone_minutes: i16::try_from(zone).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        let date = DateTime { seconds: 1_767_225_600, zone_minutes: 0 };
        assert_eq!(internal_date(date), " 1-Jan-2026 00:00:00 +0000");
        assert_eq!(parse_internal_date(b"17-Jul-1996 02:44:25 -0700").unwrap(), DateTime { seconds: 837_596_665, zone_minutes: -420 });
        assert_eq!(internal_date(DateTime { seconds: 951_782_399, zone_minutes: 330 }), "29-Feb-2000 05:29:59 +0530");
        for bad in
            ["31-Feb-2020 00:00:00 +0000", "1-Jan-2026 00:00:00 +0000", " 1-Jan-2026 24:00:00 +0000", " 1-Jan-2026 00:00:00 +2400", ""]
        {
            assert_eq!(parse_internal_date(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(seconds in -60_000_000_000_i64..250_000_000_000, zone_minutes in -1439_i16..=1439) {
            let date = DateTime { seconds, zone_minutes };
            prop_assert_eq!(parse_internal_date(internal_date(date).as_bytes()), Some(date));
        }
        #[test]
        fn any_value_is_written(seconds: i64, zone_minutes: i16) {
            let text = internal_date(DateTime { seconds, zone_minutes });
            prop_assert!(text.len() >= 26);
        }
    }
}

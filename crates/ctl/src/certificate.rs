//! When certificates end: just enough of PEM and DER to read the validity of an X.509 certificate.

use crate::api::Certificate;
use base64::Engine as _;
use parliament_config::Config;
use std::path::Path;

/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const DAY_SECONDS: i64 = 86_400;

/// The certificates that a configuration names, and when they end. Reads files.
#[must_use]
pub fn of_config(config: &Config, now_unix_seconds: i64) -> Vec<Certificate> {
    let mut named: Vec<(&str, &Path)> = Vec::new();
    if let Some(tls) = &config.tls_cluster {
        named.extend([("tls.cluster.ca", tls.ca.as_path()), ("tls.cluster.cert", tls.cert.as_path())]);
    }
    named.extend(config.tls_mail.as_ref().map(|tls| ("tls.mail.cert", tls.cert.as_path())));
    let look = |(setting, path): (&str, &Path)| {
        let setting = setting.to_owned();
        match read(path).and_then(|pem| first_end(&pem)) {
            Ok(end) => Certificate { setting, days_left: Some((end - now_unix_seconds).div_euclid(DAY_SECONDS)), problem: None },
            Err(why) => Certificate { setting, days_left: None, problem: Some(format!("{}: {why}", path.display())) },
        }
    };
    named.into_iter().map(look).collect()
}

fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes are too many for certificates"));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

/// When the first certificate of a PEM file ends, seconds since 1970 UTC.
///
/// # Errors
/// In words: there is none, or one is garbled.
pub fn first_end(pem: &str) -> Result<i64, String> {
    let mut first: Option<i64> = None;
    let mut rest = pem;
    while let Some((_, from)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
        let (base64, after) = from.split_once("-----END CERTIFICATE-----").ok_or("a certificate without its end")?;
        let text: String = base64.chars().filter(|c| !c.is_whitespace()).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| e.to_string())?;
        let end = not_after(&der).ok_or("a certificate that cannot be read")?;
        first = Some(first.map_or(end, |known| known.min(end)));
        rest = after;
    }
    first.ok_or_else(|| "holds no certificate".to_owned())
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version of a certificate, `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;

/// Takes one element off: its tag and content.
fn element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes.iter().try_fold(0usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    *der = after;
    Some((tag, content))
}

fn expect<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    element(der).filter(|(found, _)| *found == tag).map(|(_, content)| content)
}

/// Certificate → TBSCertificate → version, serial number, algorithm, issuer, validity → notAfter (RFC 5280, 4.1).
fn not_after(mut der: &[u8]) -> Option<i64> {
    let mut certificate = expect(&mut der, SEQUENCE)?;
    let mut to_be_signed = expect(&mut certificate, SEQUENCE)?;
    if to_be_signed.first() == Some(&VERSION) {
        element(&mut to_be_signed)?;
    }
    expect(&mut to_be_signed, INTEGER)?;
    expect(&mut to_be_signed, SEQUENCE)?;
    expect(&mut to_be_signed, SEQUENCE)?;
    let mut validity = expect(&mut to_be_signed, SEQUENCE)?;
    element(&mut validity)?;
    let (tag, time) = element(&mut validity)?;
    time_of(tag, time)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5), in seconds since 1970.
fn time_of(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = digits[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day) = (part(0).filter(|m| (1..=12).contains(m))?, part(2).filter(|d| (1..=31).contains(d))?);
    Some(days(year, month, day) * DAY_SECONDS + part(4)? * 3600 + part(6)? * 60 + part(8)?)
}

/// Days from 1970-01-01, by eras of 400 years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_days() {
        for (date, number) in
            [((1970, 1, 1), 0), ((1970, 3, 1), 59), ((2000, 2, 29), 11_016), ((2024, 2, 29), 19_782), ((2027, 1, 1), 20_819)]
        {
            assert_eq!(days(date.0, date.1, date.2), number, "{date:?}");
        }
    }

    #[test]
    fn times_of_both_kinds_are_read_and_nonsense_is_not() {
        assert_eq!(time_of(UTC_TIME, b"700101000001Z"), Some(1));
        assert_eq!(time_of(UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(time_of(GENERALIZED_TIME, b"20500101000000Z"), Some(2_524_608_000));
        for bad in [&b"20500101000000"[..], b"2050010100000Z", b"20501301000000Z", b"2050010100000xZ", b""] {
            assert_eq!(time_of(GENERALIZED_TIME, bad), None);
        }
    }

    #[test]
    fn the_end_of_a_real_certificate_is_found() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["mx1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 6);
        let late = params.self_signed(&key).unwrap().pem();
        params.not_after = rcgen::date_time_ymd(2055, 5, 6);
        let later = params.self_signed(&key).unwrap().pem();
        assert_eq!(first_end(&later), Ok(days(2055, 5, 6) * DAY_SECONDS));
        assert_eq!(first_end(&format!("{later}{late}")), Ok(days(2031, 5, 6) * DAY_SECONDS), "the first of a chain");
        assert!(first_end("nothing").is_err());
        // Whatever the bytes, an answer comes and nothing is read past the end.
        let der: Vec<u8> = params.self_signed(&key).unwrap().der().to_vec();
        for cut in 0..der.len() {
            let _ = not_after(&der[..cut]);
        }
    }
}

//! Dates as logs write them.
//!
//! | written as | by |
//! |---|---|
//! | `20/Mar/2026:10:00:00 +0000` | the common log format, nginx's `$time_local` |
//! | `2026-03-20T10:00:00.123Z`, also with a space, an offset, a comma | RFC 3339: Envoy, Traefik, kubectl, containerd |
//! | `2026/03/20 10:00:00` | nginx's error log |
//! | `1774000800`, `1774000800.123` | seconds since 1970: nginx's `$msec`, Caddy |
//! | `1774000800123`, with 16 digits, with 19 | milliseconds, microseconds, nanoseconds since 1970 |
//!
//! A date without a zone is UTC, as containers are. One without a year, as in syslog, is none: nobody knows when it was.

use jiff::{Timestamp, civil::DateTime, tz::Offset};

/// The longest text that is looked at, in bytes: a date with nanoseconds, an offset and some room.
const MAX_BYTES: usize = 40;

/// Reads dates, and remembers the last: a busy log has many lines in one second.
#[derive(Clone, Debug)]
pub struct Dates {
    text: [u8; MAX_BYTES],
    length: usize,
    at: Option<Timestamp>,
}

impl Default for Dates {
    fn default() -> Self {
        Self { text: [0; MAX_BYTES], length: 0, at: None }
    }
}

impl Dates {
    /// The same as [`timestamp`].
    #[inline]
    pub fn timestamp(&mut self, text: &[u8]) -> Option<Timestamp> {
        if !self.is_last(text) {
            // What is too long to be remembered is no date.
            self.text.get_mut(..text.len())?.copy_from_slice(text);
            self.length = text.len();
            self.at = timestamp(text);
        }
        self.at
    }

    /// Whether it is the last text again. The usual ones have a length of their own, at which they compare without a
    /// call.
    #[inline]
    fn is_last(&self, text: &[u8]) -> bool {
        const LENGTH: usize = "20/Mar/2026:10:00:00 +0000".len();
        match <&[u8; LENGTH]>::try_from(text) {
            Ok(text) => self.length == LENGTH && self.text.first_chunk() == Some(text),
            Err(_) => self.text[..self.length] == *text,
        }
    }
}

/// Reads a date of any of the kinds above. `None` for all else, and for dates that don't exist.
#[must_use]
pub fn timestamp(text: &[u8]) -> Option<Timestamp> {
    match text {
        _ if text.len() > MAX_BYTES => None,
        [_, _, b'/', ..] => common_log(text),
        [_, _, _, _, b'-', ..] => rfc3339(text),
        [_, _, _, _, b'/', ..] => error_log(text),
        _ => epoch(text),
    }
}

/// `20/Mar/2026:10:00:00 +0000`
fn common_log(text: &[u8]) -> Option<Timestamp> {
    const NAMES: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let text: &[u8; 26] = text.try_into().ok()?;
    let [b'/', b'/', b':', b':', b':', b' '] = [2, 6, 11, 14, 17, 20].map(|place| text[place]) else {
        return None;
    };
    let month = (1..).zip(NAMES).find(|(_, name)| *name == &text[3..6])?.0;
    let [day, century, year, hour, minute, second] = [0, 7, 9, 12, 15, 18].map(|place| pair(text, place));
    let at = civil([i16::from(century?) * 100 + i16::from(year?), month], [day?, hour?, minute?, second?])?;
    // No clock is set a day ahead; what is beyond that, or no number of minutes, is another text.
    let hours = pair(text, 22).filter(|&hours| hours < 24)?;
    let minutes = pair(text, 24).filter(|&minutes| minutes < 60)?;
    let east = i32::from(hours) * 3600 + i32::from(minutes) * 60;
    let offset = match text[21] {
        b'+' => Offset::from_seconds(east),
        b'-' => Offset::from_seconds(-east),
        _ => return None,
    };
    offset.ok()?.to_timestamp(at).ok()
}

/// `2026/03/20 10:00:00`
fn error_log(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 19] = text.try_into().ok()?;
    let [b'/', b'/', b' ', b':', b':'] = [4, 7, 10, 13, 16].map(|place| text[place]) else { return None };
    let [century, year, month, day, hour, minute, second] =
        [0, 2, 5, 8, 11, 14, 17].map(|place| pair(text, place));
    let year = i16::from(century?) * 100 + i16::from(year?);
    Offset::UTC.to_timestamp(civil([year, i16::from(month?)], [day?, hour?, minute?, second?])?).ok()
}

fn civil([year, month]: [i16; 2], [day, hour, minute, second]: [i8; 4]) -> Option<DateTime> {
    // Second 60 is a leap second, which clocks count as the one before.
    DateTime::new(year, i8::try_from(month).ok()?, day, hour, minute, second.min(59), 0)
        .ok()
        .filter(|_| second <= 60)
}

/// `2026-03-20T10:00:00.123+01:00`
fn rfc3339(text: &[u8]) -> Option<Timestamp> {
    // Shorter ones have no time of day.
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() >= "2026-03-20T10:00:00".len())?;
    let without_zone = || Offset::UTC.to_timestamp(text.parse().ok()?).ok();
    text.parse().ok().or_else(without_zone)
}

/// `1774000800.123`; the number of digits tells the unit.
fn epoch(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if ![whole, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return None;
    }
    // The length of the unit in nanoseconds, as a power of ten.
    let power: u32 = match whole.len() {
        9..=11 => 9,
        12..=14 => 6,
        15..=17 => 3,
        18..=19 => 0,
        _ => return None,
    };
    let nanos = |digits: &str| digits.parse::<i128>().ok();
    let digits = &fraction[..fraction.len().min(power as usize)];
    let rest = power.checked_sub(u32::try_from(digits.len()).ok()?)?;
    let part = if digits.is_empty() { 0 } else { nanos(digits)? * 10_i128.pow(rest) };
    Timestamp::from_nanosecond(nanos(whole)? * 10_i128.pow(power) + part).ok()
}

/// The number of two digits.
fn pair(text: &[u8], place: usize) -> Option<i8> {
    match text[place..place + 2] {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => i8::try_from((tens - b'0') * 10 + (ones - b'0')).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_log_date_is_the_instant_it_names_or_none() {
        #[rustfmt::skip]
        let table = [
            // the common log format
            ("20/Mar/2026:10:00:00 +0000",  Some("2026-03-20T10:00:00Z")),
            ("01/Jan/2026:00:30:00 +0100",  Some("2025-12-31T23:30:00Z")),
            ("29/Feb/2024:23:59:59 -0730",  Some("2024-03-01T07:29:59Z")),
            ("31/Dec/2016:23:59:60 +0000",  Some("2016-12-31T23:59:59Z")),
            ("31/Dec/2016:23:59:61 +0000",  None),
            ("29/Feb/2026:10:00:00 +0000",  None),
            ("20/Mär/2026:10:00:00 +0000",  None),
            ("20/Mar/2026:24:00:00 +0000",  None),
            ("20/Mar/2026:10:00:00 -2359",  Some("2026-03-21T09:59:00Z")),
            ("20/Mar/2026:10:00:00 -0760",  None),
            ("20/Mar/2026:10:00:00 +2400",  None),
            ("20/Mar/2026:10:00:00 +9900",  None),
            ("20/Mar/2026:10:00:00 +00000", None),
            ("20/Mar/2026:10:00:00",        None),
            // RFC 3339 and its kin
            ("2026-11-22T10:00:00Z",                Some("2026-11-22T10:00:00Z")),
            ("2026-11-22T10:00:00.123Z",            Some("2026-11-22T10:00:00.123Z")),
            ("2026-11-22T10:00:00.123456789Z",      Some("2026-11-22T10:00:00.123456789Z")),
            ("2026-11-22 10:00:00.123+01:00",       Some("2026-11-22T09:00:00.123Z")),
            ("2026-11-22T10:00:00+0100",            Some("2026-11-22T09:00:00Z")),
            ("2026-11-22 10:00:00,123",             Some("2026-11-22T10:00:00.123Z")),
            ("2026-11-22T10:00:00",                 Some("2026-11-22T10:00:00Z")),
            ("2026-11-22T10:00:60Z",                Some("2026-11-22T10:00:59Z")),
            ("2026-11-22",                          None),
            ("2026-02-29T10:00:00Z",                None),
            ("2026-11-22T10:00:00Zx",               None),
            // nginx's error log
            ("2026/11/22 10:00:00",         Some("2026-11-22T10:00:00Z")),
            ("2026/13/22 10:00:00",         None),
            ("2026/11/22 10:00",            None),
            // numbers
            ("1774000800",                  Some("2026-03-20T10:00:00Z")),
            ("1774000800.123",              Some("2026-03-20T10:00:00.123Z")),
            ("1774000800.1234567890123",    Some("2026-03-20T10:00:00.123456789Z")),
            ("1774000800123",               Some("2026-03-20T10:00:00.123Z")),
            ("1774000800123.5",             Some("2026-03-20T10:00:00.1235Z")),
            ("1774000800123456",            Some("2026-03-20T10:00:00.123456Z")),
            ("1774000800123456789",         Some("2026-03-20T10:00:00.123456789Z")),
            ("1774000800123456789.9",       Some("2026-03-20T10:00:00.123456789Z")),
            ("99999999999999999999",        None),
            ("-1774000800",                 None),
            ("1774000800.",                 None),
            ("1.774e9",                     None),
            ("404",                         None),
            // of no year, of no date
            ("Nov 22 10:00:00",             None),
            ("",                            None),
            ("-",                           None),
        ];
        for (given, expect) in table {
            let got = timestamp(given.as_bytes()).map(|at| at.to_string());
            assert_eq!(got.as_deref(), expect, "given {given:?}");
        }
    }

    #[test]
    fn a_remembered_date_is_the_one_that_was_asked_for() {
        let mut dates = Dates::default();
        for text in [
            "20/Mar/2026:10:00:00 +0000",
            "20/Mar/2026:10:00:00 +0000",
            "20/Mar/2026:10:00:00 +0100",
            "20/Mar/2026:10:00:0",
            "",
            "2026-11-22T10:00:00Z",
            &"2".repeat(41),
            "2026-11-22T10:00:00Z",
            "x",
        ] {
            assert_eq!(dates.timestamp(text.as_bytes()), timestamp(text.as_bytes()), "given {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..45)) {
            let _unused = timestamp(&bytes);
        }

        #[test]
        fn any_text_like_a_date_is_taken_or_refused(text in r"[0-9]{2,4}[/-][0-9M]{2}[0-9ar/-]{0,4}[ T:0-9.,Z+-]{0,25}") {
            let _unused = timestamp(text.as_bytes());
        }

        #[test]
        fn an_instant_reads_as_it_was_written(nanos in 0i64..4_000_000_000_000_000_000) {
            let at = Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
            prop_assert_eq!(timestamp(at.to_string().as_bytes()), Some(at));
        }
    }
}

//! Dates as logs write them.
//!
//! The one place that knows `chrono`, which has civil dates with offsets; the rest of the crate knows instants.

use chrono::{FixedOffset, NaiveDate};
use jiff::Timestamp;

/// Reads dates, and remembers the last: a busy log has many lines in one second.
#[derive(Clone, Debug, Default)]
pub struct Dates {
    last: Option<([u8; DATE_BYTES], Timestamp)>,
}

/// Bytes of `20/Mar/2026:10:00:00 +0000`.
const DATE_BYTES: usize = 26;

impl Dates {
    /// The same as [`timestamp`].
    pub fn timestamp(&mut self, text: &[u8]) -> Option<Timestamp> {
        let date: [u8; DATE_BYTES] = text.try_into().ok()?;
        match self.last {
            Some((last, at)) if last == date => Some(at),
            _ => {
                let at = timestamp(text)?;
                self.last = Some((date, at));
                Some(at)
            }
        }
    }
}

/// Reads the common log format's date, nginx's `$time_local`: `20/Mar/2026:10:00:00 +0000`.
///
/// Exactly 26 bytes. `None` for all else, and for dates that don't exist.
#[must_use]
pub fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let [
        d1,
        d2,
        b'/',
        m1,
        m2,
        m3,
        b'/',
        y1,
        y2,
        y3,
        y4,
        b':',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        sign,
        rest @ ..,
    ] = text
    else {
        return None;
    };
    let [o1, o2, o3, o4] = rest else { return None };
    let month = month([*m1, *m2, *m3])?;
    let year = number(*y1, *y2)? * 100 + number(*y3, *y4)?;
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, number(*d1, *d2)?)?;
    // Second 60 is a leap second; chrono has it as 59 and the second after.
    let second = number(*s1, *s2)?.min(59);
    let time = date.and_hms_opt(number(*h1, *h2)?, number(*n1, *n2)?, second)?;
    let east = i32::try_from(number(*o1, *o2)? * 3600 + number(*o3, *o4)? * 60).ok()?;
    let offset = match sign {
        b'+' => FixedOffset::east_opt(east)?,
        b'-' => FixedOffset::west_opt(east)?,
        _ => return None,
    };
    let at = time.and_local_timezone(offset).single()?;
    Timestamp::from_second(at.timestamp()).ok()
}

fn month(name: [u8; 3]) -> Option<u32> {
    const NAMES: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    (1..).zip(NAMES).find(|&(_, known)| *known == name).map(|(number, _)| number)
}

fn number(tens: u8, ones: u8) -> Option<u32> {
    (tens.is_ascii_digit() && ones.is_ascii_digit())
        .then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_log_date_is_the_instant_it_names_or_none() {
        #[rustfmt::skip]
        let table = [
            ("20/Mar/2026:10:00:00 +0000",  Some("2026-03-20T10:00:00Z")),
            ("01/Jan/2026:00:30:00 +0100",  Some("2025-12-31T23:30:00Z")),
            ("29/Feb/2024:23:59:59 -0730",  Some("2024-03-01T07:29:59Z")),
            ("31/Dec/2016:23:59:60 +0000",  Some("2016-12-31T23:59:59Z")),
            ("29/Feb/2026:10:00:00 +0000",  None),
            ("20/Mär/2026:10:00:00 +0000",  None),
            ("20/Mar/2026:24:00:00 +0000",  None),
            ("20/Mar/2026:10:00:00 +9900",  None),
            ("20/Mar/2026:10:00:00 +00000", None),
            ("20/Mar/2026:10:00:00",        None),
            ("2026-03-20T10:00:00Z",        None),
            ("",                            None),
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
            "",
            "x",
        ] {
            assert_eq!(dates.timestamp(text.as_bytes()), timestamp(text.as_bytes()), "given {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _unused = timestamp(&bytes);
        }
    }
}

//! Durations as Gateway API writes them (GEP-2257): `90s`, `2m`, `24h`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

/// A duration in Gateway API's form: whole milliseconds, at most four parts of at most five digits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GatewayDuration(Duration);

/// Why a text is no [`GatewayDuration`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a duration is one to four of a number of at most five digits and h, m, s or ms, such as 90s or 1h30m"
)]
pub struct DurationError;

impl GatewayDuration {
    /// The time it stands for.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for GatewayDuration {
    /// What is below a millisecond is left out.
    fn from(duration: Duration) -> Self {
        Self(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl FromStr for GatewayDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=5).contains(&digits) || parts == 4 {
                return Err(DurationError);
            }
            let number: u64 = rest[..digits].parse().map_err(|_| DurationError)?;
            rest = &rest[digits..];
            let (unit, length) = match rest.as_bytes() {
                [b'm', b's', ..] => (1, 2),
                [b'h', ..] => (3_600_000, 1),
                [b'm', ..] => (60_000, 1),
                [b's', ..] => (1_000, 1),
                _ => return Err(DurationError),
            };
            rest = &rest[length..];
            millis += number * unit; // at most 4 × 99,999 h: far from overflow
            parts += 1;
        }
        if parts == 0 { Err(DurationError) } else { Ok(Self(Duration::from_millis(millis))) }
    }
}

impl fmt::Display for GatewayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let parts = [
            (millis / 3_600_000, "h"),
            (millis / 60_000 % 60, "m"),
            (millis / 1_000 % 60, "s"),
            (millis % 1_000, "ms"),
        ];
        if millis == 0 {
            return f.write_str("0s");
        }
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gateway_api_durations_are_read_as_the_standard_says() {
        #[rustfmt::skip]
        let table = [
            ("90s", Ok(90_000)),   ("2m", Ok(120_000)), ("1h30m", Ok(5_400_000)), ("100ms", Ok(100)),
            ("0s", Ok(0)),         ("1m1ms", Ok(60_001)),
            ("", Err(())),         ("5", Err(())),      ("-5s", Err(())),         ("1.5h", Err(())),
            ("123456s", Err(())),  ("1h1m1s1ms1h", Err(())), ("1d", Err(())),     (" 1s", Err(())),
        ];
        for (given, expect) in table {
            let got = given.parse::<GatewayDuration>().map(|d| d.get().as_millis()).map_err(|_| ());
            assert_eq!(got, expect, "given {given:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(millis in 0u64..359_996_400_000) {
            let duration = GatewayDuration(Duration::from_millis(millis));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}

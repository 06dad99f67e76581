//! Dates, without a crate: the log's bytes depend on nothing that may change.

/// Year, month, day, hour, minute and second in UTC.
fn civil(second: i64) -> (i64, i64, i64, i64, i64, i64) {
    let (days, of_day) = (second.div_euclid(86_400), second.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day, of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

/// As nginx's access log has it: `20/Mar/2026:10:00:00 +0000`.
pub(crate) fn common_log(second: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, hour, minute, second) = civil(second);
    let name = usize::try_from(month - 1).ok().and_then(|index| MONTHS.get(index)).unwrap_or(&"Jan");
    format!("{day:02}/{name}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// As nginx's error log has it: `2026/03/20 10:00:00`.
pub(crate) fn error_log(second: i64) -> String {
    let (year, month, day, hour, minute, second) = civil(second);
    format!("{year}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}")
}

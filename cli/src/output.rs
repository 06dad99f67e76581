//! Results on standard output, as kubectl would print them.

mod bans;
mod explanations;
mod summary;

use std::{
    error::Error,
    io::{self, Write},
    iter,
};

use serde::Serialize;

pub use self::{bans::Bans, explanations::Explanations, summary::Summary};

/// The longest text of a log that a table shows, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Tells people something beside the results. That nobody listens is no error.
pub fn tell(text: &str) {
    io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}

/// An error with its causes, each said once and in words.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let each = iter::successors(Some(error), |error| (*error).source());
    each.map(|error| in_words(&error.to_string())).collect::<Vec<_>>().join(": ")
}

/// A message of the system without its number.
pub(crate) fn in_words(message: &str) -> String {
    match message.rsplit_once(" (os error ") {
        Some((words, number)) if number.ends_with(')') => words.to_owned(),
        _ => message.to_owned(),
    }
}

/// `1 ban`, `2 bans`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A text of a log without what a terminal would act on, cut where it is long.
fn shown(text: &str) -> String {
    let escape = |char: char| match char {
        '\u{20}'..='\u{7e}' => char.to_string(),
        char => char.escape_default().to_string(),
    };
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).map(escape).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// By way of a text, since errors in writing it would not come out as such.
fn to_yaml(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(serde_yaml_ng::to_string(value).map_err(io::Error::other)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_in_words() {
        let missing = io::Error::from_raw_os_error(2);
        assert_eq!(causes(&missing), "No such file or directory");
        assert_eq!(in_words("no (os error"), "no (os error");
    }

    #[test]
    fn nothing_in_a_log_moves_a_terminal() {
        assert_eq!(shown("/a\x1b[2J\u{202e}é"), "/a\\u{1b}[2J\\u{202e}\\u{e9}");
        assert_eq!(shown(&"x".repeat(300)).len(), MAX_SHOWN_CHARS + 3);
    }
}

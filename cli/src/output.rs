//! Results on standard output, as kubectl would print them.

mod bans;
mod explanations;
mod summary;

use std::io::{self, Write};

use serde::Serialize;

pub use self::{bans::Bans, explanations::Explanations, summary::Summary};

/// The longest text of a log that a table shows, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Tells people something beside the results. That nobody listens is no error.
pub fn tell(text: &str) {
    io::stderr().write_all(text.as_bytes()).unwrap_or_default();
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
    fn nothing_in_a_log_moves_a_terminal() {
        assert_eq!(shown("/a\x1b[2J\u{202e}é"), "/a\\u{1b}[2J\\u{202e}\\u{e9}");
        assert_eq!(shown(&"x".repeat(300)).len(), MAX_SHOWN_CHARS + 3);
    }
}

//! What a line looks like, without a word of what it says.
//!
//! A pod's log may hold secrets, and more people read a policy's status than its pods' logs. So what is published of a
//! line is its shape: enough to see why it does not have the policy's format.
//!
//! ```text
//! 203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /index.html HTTP/1.1" 200 612
//! d.d.d.d - - [t] "M /…" n n
//! ```

use std::net::IpAddr;

use super::{date, record};

/// The longest shape, in characters.
const MAX_CHARS: usize = 120;

/// What is kept as it is: it separates the words of every format.
const SEPARATORS: &[u8] = b" \t\"[]{}()<>,=|;";

/// The shape of a line:
///
/// | in the shape | in the line |
/// |---|---|
/// | `d.d.d.d`, `x:x` | an IPv4 or IPv6 address |
/// | `t` | a date, a time or both |
/// | `n` | a number |
/// | `M` | capitals, as a method is |
/// | `/…` | a path, and within quotes all that follows it |
/// | `w`, `w…` | any other word, or several |
///
/// Spaces, quotes, brackets, braces, commas and the signs `=`, `|`, `;` and `:` stay.
#[must_use]
pub fn shape(line: &[u8]) -> String {
    let mut shape = Shape::default();
    let mut rest = line;
    while let Some(&first) = rest.first()
        && shape.chars < MAX_CHARS
    {
        if SEPARATORS.contains(&first) {
            shape.separator(first);
            rest = &rest[1..];
            continue;
        }
        let end = rest.iter().position(|byte| SEPARATORS.contains(byte)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        shape.word(word);
        rest = match word.first() {
            // What follows a path in a request line may have spaces, and says nothing of the format.
            Some(b'/') if shape.is_quoted => {
                &after[after.iter().position(|&byte| byte == b'"').unwrap_or(after.len())..]
            }
            _ => after,
        };
    }
    shape.text
}

/// The shape so far.
#[derive(Default)]
struct Shape {
    text: String,
    chars: usize,
    is_quoted: bool,
    /// Separators that are kept back: a space between two words or after a date is left out with what follows it.
    spaces: bool,
}

impl Shape {
    fn separator(&mut self, byte: u8) {
        if matches!(byte, b' ' | b'\t') {
            self.spaces = !self.text.is_empty();
            return;
        }
        self.is_quoted ^= byte == b'"';
        self.push_spaced(char::from(byte).encode_utf8(&mut [0; 4]));
    }

    fn word(&mut self, word: &[u8]) {
        let kind = kind(word);
        let is_more_of = |end: &str| self.spaces && self.text.ends_with(end);
        if kind == "w" && is_more_of("w…")
            || is_offset(word) && is_more_of("t")
            || kind == "t" && is_more_of("t")
        {
            self.spaces = false;
        } else if kind == "w" && is_more_of("w") {
            self.spaces = false;
            self.push("…");
        } else {
            self.push_spaced(&kind);
        }
    }

    fn push_spaced(&mut self, text: &str) {
        if std::mem::take(&mut self.spaces) {
            self.push(" ");
        }
        self.push(text);
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.chars += text.chars().count();
    }
}

/// What a word is. `name:value` and `address:port` are two.
fn kind(word: &[u8]) -> String {
    let all = |is: fn(&u8) -> bool| word.iter().all(is);
    match record::client(word) {
        Some(IpAddr::V4(_)) => return "d.d.d.d".to_owned(),
        Some(IpAddr::V6(_)) => return "x:x".to_owned(),
        None => {}
    }
    if word == b"-" {
        "-".to_owned()
    } else if word[0] == b'/' {
        "/…".to_owned()
    } else if word[0].is_ascii_digit() && all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        "n".to_owned()
    } else if all(u8::is_ascii_uppercase) {
        "M".to_owned()
    } else if is_time(word) {
        "t".to_owned()
    } else if let Some(at) = word.iter().position(|&byte| byte == b':') {
        let part = |part: &[u8]| if part.is_empty() { String::new() } else { kind(part) };
        // Of many the first say enough, and nobody chooses how deep this goes.
        let after = &word[at + 1..];
        let after = if after.contains(&b':') && record::client(after).is_none() {
            "w".to_owned()
        } else {
            part(after)
        };
        format!("{}:{after}", part(&word[..at]))
    } else {
        "w".to_owned()
    }
}

/// A date or a time as logs write them: `20/Mar/2026:10:00:00`, `2026-03-20T10:00:00Z`, `2026/03/20`, `10:00:00.5`.
fn is_time(word: &[u8]) -> bool {
    let count = |is: fn(&u8) -> bool| word.iter().filter(|byte| is(byte)).count();
    let digits = count(u8::is_ascii_digit);
    let letters = count(u8::is_ascii_alphabetic);
    let signs = count(|byte| matches!(byte, b'/' | b':' | b'-' | b'.' | b'+'));
    let is_like_one = record::leading_ipv4(word).is_none()
        && word[0].is_ascii_digit()
        && digits >= 6
        && signs >= 2
        && letters <= 4;
    date::timestamp(word).is_some() || is_like_one && digits + letters + signs == word.len()
}

/// `+0000`
fn is_offset(word: &[u8]) -> bool {
    matches!(word, [b'+' | b'-', digits @ ..] if digits.len() == 4 && digits.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_shape_shows_how_a_line_is_made_and_not_what_it_says() {
        #[rustfmt::skip]
        let table = [
            (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /index.html?token=x HTTP/1.1" 200 612 "-" "curl/8.5.0 (x y)""#,
             r#"d.d.d.d - - [t] "M /…" n n "-" "w (w…)""#),
            (r#"2001:db8::7 - alice [20/Mar/2026:10:00:00 +0000] "\x16\x03" 400 0"#, r#"x:x - w [t] "w" n n"#),
            (r#"{"ip":"203.0.113.7","uri":"/login","password":"hunter2","n":0.5}"#,
             r#"{"w":"d.d.d.d","w":"/…","w":"w","w":n}"#),
            ("time=2026-03-20T10:00:00Z level=info msg=secret", "w=t w=w…=w"),
            ("2026/03/20 10:00:00 [notice] 1#1: start worker processes", "t [w] w: w…"),
            ("203.0.113.7:443 db-password:hunter2", "d.d.d.d:n w:w"),
            ("hunter2", "w"),
            ("AKIAEXAMPLE", "M"),
            ("", ""),
        ];
        for (line, expect) in table {
            assert_eq!(shape(line.as_bytes()), expect, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_of_a_line_is_in_its_shape(line in proptest::collection::vec(any::<u8>(), 0..400)) {
            let shape = shape(&line);
            prop_assert!(shape.chars().all(|char| "dnxtwM-./:… \"[]{}()<>,=|;".contains(char)), "{}", shape);
            prop_assert!(shape.chars().count() <= MAX_CHARS + 20, "{}", shape);
        }

        #[test]
        fn lines_that_differ_in_words_alone_have_one_shape(a in "[a-z]{1,9}[0-9]{1,3}", b in "[a-z]{1,9}") {
            let line = |word: &str| format!(r#"203.0.113.7 - {word} [x] "GET /{word} HTTP/1.1" 404 1 "{word}""#);
            prop_assert_eq!(shape(line(&a).as_bytes()), shape(line(&b).as_bytes()));
        }
    }
}

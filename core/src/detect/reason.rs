//! Why a source earned a ban, in one short line: which threshold its hits met, and on what.
//!
//! The line is a function of the window's hits and of the policy alone. Patterns are named in the policy's order, so
//! hits of one instant give the same line in whichever order they came.

use std::{borrow::Cow, collections::BTreeSet};

use super::{
    decision::{MAX_TEXT_CHARS, Threshold},
    paths::{ANY_PATH, Paths},
    window::Hit,
};

/// The most patterns that are named.
const MAX_NAMED: usize = 3;

/// `2 different patterns: /wp-admin, /.env`, of at most [`MAX_TEXT_CHARS`].
pub(super) fn reason(threshold: Threshold, hits: &[Hit], paths: &Paths) -> String {
    let patterns: BTreeSet<u16> = hits.iter().map(|hit| hit.pattern).collect();
    let what = match threshold {
        Threshold::Hits => counted(hits.len(), "hit", "hits"),
        Threshold::UniquePatterns => counted(patterns.len(), "pattern", "different patterns"),
        Threshold::UniquePaths => {
            let paths: BTreeSet<u64> = hits.iter().map(|hit| hit.path).collect();
            counted(paths.len(), "path", "different paths")
        }
    };
    let on = match paths {
        Paths::Any(text) if threshold == Threshold::UniquePaths => {
            text.trim_start_matches(ANY_PATH).to_owned()
        }
        Paths::Any(text) => format!(": {text}"),
        Paths::Matching(matcher) => {
            let named: Vec<_> =
                patterns.iter().take(MAX_NAMED).map(|&number| plain(matcher.text(number))).collect();
            let more = if patterns.len() > MAX_NAMED { ", …" } else { "" };
            format!(": {}{more}", named.join(", "))
        }
    };
    cut(what + &on)
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn cut(mut text: String) -> String {
    if let Some((last, _)) = text.char_indices().nth(MAX_TEXT_CHARS - 1)
        && text[last..].chars().nth(1).is_some()
    {
        text.truncate(last);
        text.push('…');
    }
    text
}

/// A pattern as people read it: `^/\.env` is the path `/.env`. One that is more than a literal beginning stays as it is.
fn plain(pattern: &str) -> Cow<'_, str> {
    literal_beginning(pattern).map_or(Cow::Borrowed(pattern), Cow::Owned)
}

fn literal_beginning(pattern: &str) -> Option<String> {
    let mut rest = pattern.strip_prefix('^')?.chars();
    let mut literal = String::with_capacity(pattern.len());
    while let Some(next) = rest.next() {
        literal.push(match next {
            '\\' => rest.next().filter(|&escaped| is_special(escaped))?,
            special if is_special(special) => return None,
            plain => plain,
        });
    }
    Some(literal)
}

/// Whether it means something else than itself in an expression, unless it is escaped.
const fn is_special(character: char) -> bool {
    matches!(character, '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::matcher::Matcher;

    const PATTERNS: [&str; 6] =
        [r"^/wp-admin", r"^/\.env", r"^/a|^/b", r"\.php$", r"^/caf\x{e9}", r"(?i)^/shell"];

    fn matching(patterns: &[&str]) -> Paths {
        Paths::Matching(Box::new(Matcher::new(patterns).unwrap()))
    }

    /// Hits of these patterns and paths, all of one instant.
    fn hits(of: &[(u16, u64)]) -> Vec<Hit> {
        of.iter().map(|&(pattern, path)| Hit { at: 0, path, sample: 0, pattern }).collect()
    }

    #[test]
    fn the_reason_names_the_threshold_that_was_met_and_what_was_asked_for() {
        use Threshold::{Hits, UniquePaths, UniquePatterns};
        let patterns = matching(&PATTERNS);
        let any = |narrowing: &str| Paths::Any(format!("any path{narrowing}").into());
        #[rustfmt::skip]
        let table: [(_, &[_], _, _); 13] = [
            (UniquePatterns, &[(0, 1), (1, 2)],         &patterns,              "2 different patterns: /wp-admin, /.env"),
            (UniquePatterns, &[(1, 2), (0, 1)],         &patterns,              "2 different patterns: /wp-admin, /.env"),
            (UniquePatterns, &[(2, 2), (3, 1), (2, 1)], &patterns,              r"2 different patterns: ^/a|^/b, \.php$"),
            (UniquePatterns, &[(4, 2), (5, 1)],         &patterns,              r"2 different patterns: ^/caf\x{e9}, (?i)^/shell"),
            (UniquePatterns, &[(0, 0), (1, 0), (2, 0), (3, 0)], &patterns,      "4 different patterns: /wp-admin, /.env, ^/a|^/b, …"),
            (UniquePatterns, &[(1, 1)],                 &patterns,              "1 pattern: /.env"),
            (Hits,           &[(0, 1), (0, 2), (0, 1)], &patterns,              "3 hits: /wp-admin"),
            (Hits,           &[(0, 1), (1, 2), (0, 1)], &patterns,              "3 hits: /wp-admin, /.env"),
            (Hits,           &[(0, 1)],                 &patterns,              "1 hit: /wp-admin"),
            (Hits,           &[(0, 1), (0, 2)],         &any(", status 404"),   "2 hits: any path, status 404"),
            (UniquePaths,    &[(0, 1), (0, 2), (0, 1)], &any(""),               "2 different paths"),
            (UniquePaths,    &[(0, 1), (0, 2), (0, 3)], &any(", status 404"),   "3 different paths, status 404"),
            (UniquePaths,    &[(0, 1), (0, 2)],         &patterns,              "2 different paths: /wp-admin"),
        ];
        for (threshold, of, paths, expect) in table {
            assert_eq!(reason(threshold, &hits(of), paths), expect);
        }
    }

    #[test]
    fn a_reason_is_never_longer_than_the_field_that_holds_it() {
        for length in [200, 247, 248, 249, 255] {
            let pattern = format!("^/{}", "é".repeat(length));
            let text = reason(Threshold::Hits, &hits(&[(0, 1)]), &matching(&[&pattern]));
            let whole = format!("1 hit: /{}", "é".repeat(length));
            let is_whole = whole.chars().count() <= MAX_TEXT_CHARS;
            assert_eq!(text == whole, is_whole, "{length}");
            assert!(text.chars().count() <= MAX_TEXT_CHARS);
            assert!(is_whole || text.ends_with("é…"), "{text}");
        }
    }
}

//! Patterns by the thousand, and requests that make a search for them work.

use std::io::{Result, Write};

use ip_sentry_core::detect::catalogue::Catalogue;

use crate::{START, clock, numbers::Numbers};

const SYLLABLES: [&str; 24] = [
    "ba", "ce", "di", "fo", "gu", "ha", "jo", "ke", "li", "mo", "na", "pe", "ro", "su", "ta", "ve", "wi",
    "xo", "yu", "za", "bre", "clo", "dri", "sto",
];
const FOLDERS: [&str; 12] = [
    "wp-content/plugins",
    "wp-includes",
    "cgi-bin",
    "vendor",
    "actuator",
    "solr/admin",
    "owa/auth",
    "console",
    "api/jsonws",
    r"\.svn",
    r"\.vscode",
    "backup",
];
const ENDINGS: [&str; 8] = [r"\.php", r"\.php", "/", r"\.asp", r"\.jsp", r"\.cgi", r"\.env", ""];

/// The default catalogue's, and then as many made-up ones as are asked for, of the kinds that people write.
pub(crate) fn patterns(count: usize) -> Vec<String> {
    let mut numbers = Numbers(7);
    let mut patterns: Vec<String> =
        Catalogue::Default.patterns().iter().take(count).map(|&pattern| pattern.to_owned()).collect();
    while patterns.len() < count {
        let pattern = pattern(&mut numbers);
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    patterns
}

fn pattern(numbers: &mut Numbers) -> String {
    let kind = numbers.below(100);
    let mut word = |longest: u64| {
        let syllables = 2 + numbers.below(longest - 1);
        (0..syllables).map(|_| numbers.pick(&SYLLABLES)).collect::<String>()
    };
    let (one, two, three, four) = (word(4), word(3), word(3), word(3));
    let folder = numbers.pick(&FOLDERS);
    let ending = numbers.pick(&ENDINGS);
    match kind {
        0..=35 => format!("^/{folder}/{one}{ending}"),
        36..=69 => format!("^/{one}{two}{ending}"),
        70..=75 => format!("^/{folder}/{one}/(?:{two}|{three}|{four}){ending}"),
        76..=79 => format!("(?i)^/{one}{two}admin"),
        80..=89 => format!("/{one}{two}{ending}"),
        90..=94 => format!(r"\.{one}\.(?:bak|sql|old|zip)$"),
        95..=97 => format!(r"^/[a-z0-9_-]{{1,20}}/{one}{two}\.php"),
        _ => format!(r"^/.*/{one}{two}\.php$"),
    }
}

/// Well-formed lines whose paths of about 2 kB are what the patterns look for, each cut short or in a place where the
/// pattern does not match: whatever walks along them goes from one state to another and never comes to an end, or has
/// to ask a pattern's own expression every few bytes.
pub(crate) fn write(patterns: &[String], lines: u64, is_whole: bool, out: &mut impl Write) -> Result<()> {
    const PATH_BYTES: usize = 2_000;
    let mut numbers = Numbers(3);
    let literals: Vec<String> = if is_whole {
        patterns.iter().filter_map(|pattern| inner_literal(pattern)).collect()
    } else {
        patterns.iter().map(|pattern| first_literal(pattern)).filter(|literal| literal.len() > 3).collect()
    };
    let date = clock::common_log(START);
    for line in 0..lines {
        let mut path = if is_whole { "/a/b/c" } else { "/" }.to_owned();
        while path.len() < PATH_BYTES {
            let literal = &literals[numbers.place(literals.len())];
            let length = if is_whole { literal.len() } else { 2 + numbers.place(literal.len() - 2) };
            path.push_str(&literal[..length]);
        }
        // Nor does the last one stand at the end, where some patterns want it.
        path.push('~');
        writeln!(out, r#"198.51.100.{} - - [{date}] "GET {path} HTTP/1.1" 404 146 "-" "-""#, line % 250)?;
    }
    Ok(())
}

/// What a pattern begins with, without what is no literal.
fn first_literal(pattern: &str) -> String {
    let plain = pattern.trim_start_matches("(?i)").trim_start_matches('^');
    let end = plain.find(['(', '[', '*', '$']).unwrap_or(plain.len());
    plain[..end].replace('\\', "").trim_end_matches('.').to_owned()
}

/// What a pattern needs somewhere in the path, and more beside it: `.a.` of `\.a\.(?:bak|sql)$`, `/a.php` of
/// `^/.*/a\.php$`.
fn inner_literal(pattern: &str) -> Option<String> {
    let behind = |mark: &str| pattern.split_once(mark).map(|(_, literal)| literal.trim_end_matches('$'));
    let literal = behind("}").or_else(|| behind(".*"));
    let literal = literal.or_else(|| pattern.strip_suffix("(?:bak|sql|old|zip)$"))?;
    Some(literal.replace('\\', ""))
}

use std::sync::LazyLock;

use proptest::prelude::*;
use regex::bytes::{Regex, RegexBuilder};

use super::*;
use crate::detect::catalogue::Catalogue;

/// The patterns as a list of expressions.
fn list<S: AsRef<str>>(patterns: &[S]) -> Vec<Regex> {
    patterns.iter().map(|text| RegexBuilder::new(text.as_ref()).unicode(false).build().unwrap()).collect()
}

/// The list, one after the other, as the predecessor did it.
fn naive(list: &[Regex], target: &[u8]) -> Option<u16> {
    list.iter().position(|regex| regex.is_match(target)).map(|index| u16::try_from(index).unwrap())
}

/// Patterns of every kind that the engine tells apart.
const PATTERNS: [&str; 18] = [
    r"^/wp-admin",
    r"^/wp-[a-z]+\.php$",
    r"\.sql$",
    r"(?i)phpmyadmin",
    r"^/[0-9]+$",
    r"\benv\b",
    r"^/(?:old|new|bak)/",
    r"^/a|/b/c/d",
    r"union.+select",
    r"^/\.env",
    r"/\.git/(?:config|HEAD)$",
    r"^/x/\S+/shell\.php",
    r"[?&]cmd=",
    r"^/.{3}$",
    r"^/wp-admin/setup",
    r"(?:eval|exec)\(",
    r"^(?:/[a-z]){3}/q+\.php",
    r"\xff",
];

#[test]
fn a_pattern_is_found_with_its_place_and_its_assertions() {
    #[rustfmt::skip]
    let table: &[(&[u8], Option<u16>)] = &[
        (b"/wp-admin/setup",          Some(0)),
        (b"/x/wp-admin",              None),
        (b"/wp-login.php",            Some(1)),
        (b"/wp-login.php5",           None),
        (b"/dump.sql",                Some(2)),
        (b"/dump.sqlite",             None),
        (b"/PhpMyAdmin/",             Some(3)),
        (b"/123",                     Some(4)),
        (b"/123a",                    None),
        (b"/my-env.txt",              Some(5)),
        (b"/environment",             None),
        (b"/.env",                    Some(5)),
        (b"/.env_1",                  Some(9)),
        (b"/x/b/c/d",                 Some(7)),
        (b"/?q=union+all+select",     Some(8)),
        (b"/x/y/z/shell.php",         Some(11)),
        (b"/q?a=b&cmd=ls",            Some(12)),
        (b"/\xff",                    Some(17)),
        (b"",                         None),
    ];
    let mut matcher = Matcher::new(&PATTERNS).unwrap();
    let list = list(&PATTERNS);
    for (target, expect) in table {
        assert_eq!(matcher.find(target), *expect, "target {}", target.escape_ascii());
        assert_eq!(naive(&list, target), *expect, "the table itself, target {}", target.escape_ascii());
    }
}

#[test]
fn a_literal_inside_another_is_not_taken_for_one_at_the_start() {
    let mut matcher = Matcher::new(&["^/setup", r"^/wp-admin/setup\.php$", "^/wp-admin/setup"]).unwrap();
    assert_eq!(matcher.find(b"/wp-admin/setup"), Some(2));
    let mut matcher = Matcher::new(&["^/setup", r"^/wp-admin/setup\.php$"]).unwrap();
    assert_eq!(matcher.find(b"/wp-admin/setup-guide"), None);
}

#[test]
fn the_default_catalogue_is_the_predecessor_s() {
    let patterns = Catalogue::Default.patterns();
    let mut matcher = Matcher::new(patterns).unwrap();
    let probes = [
        "/wp-admin/",
        "/wp-login.php",
        "/xmlrpc.php",
        "/.env.bak",
        "/.git/config",
        "/.aws/credentials",
        "/.ssh/id_rsa",
        "/phpmyadmin/",
        "/manager/html",
        "/admin.php",
        "/config.php",
        "/setup.php",
        "/shell.php",
        "/eval.php",
        "/boaform/admin/formLogin",
    ];
    for (number, probe) in (0..).zip(probes) {
        assert_eq!(matcher.find(probe.as_bytes()), Some(number), "probe {probe}");
    }
    for benign in
        ["/", "/wp-content/x.js", "/env", "/.well-known/acme", "/a/.env", "/gitea/.git", "/?x=/wp-admin"]
    {
        assert_eq!(matcher.find(benign.as_bytes()), None, "path {benign}");
    }
}

#[test]
fn what_can_not_be_a_pattern_is_refused_with_its_number() {
    #[rustfmt::skip]
    let table = [
        (r"^/a(",            "does not compile: unclosed group, at character 4"),
        (r"^/\pL",           "does not compile: Unicode not allowed here, at character 3"),
        (r"^/a(?=b)",        "does not compile: look-around, including look-ahead and look-behind, is not supported, at character 4"),
        (r"x*",              "matches the empty text, and so everything: say what must be there"),
        (r"^",               "matches the empty text, and so everything: say what must be there"),
        (r"(\w{200}){200}x", "takes more than 262144 bytes when compiled: use smaller repetitions"),
    ];
    for (pattern, expect) in table {
        let (index, error) = Matcher::new(&["^/fine", pattern]).unwrap_err();
        assert_eq!((index, error.to_string().as_str()), (1, expect), "pattern {pattern}");
    }
    let long = "a".repeat(MAX_PATTERN_BYTES + 1);
    assert_eq!(Matcher::new(&[long]).unwrap_err(), (0, PatternError::TooLong(513)));
}

#[test]
fn thousands_of_patterns_take_some_megabytes() {
    let pattern = |number: u32| match number % 5 {
        0 => format!("^/{number:x}abc\\.php"),
        1 => format!("/{number:x}abc/"),
        2 => format!("\\.{number:x}abc\\.(?:bak|sql)$"),
        3 => format!("^/[a-z0-9_-]{{1,20}}/{number:x}abc\\.php"),
        _ => format!("(?i)^/{number:x}admin"),
    };
    let patterns: Vec<String> = (0..5_000).map(pattern).collect();
    let matcher = Matcher::new(&patterns).unwrap();
    assert!(matcher.memory_usage() < 16 << 20, "{} bytes", matcher.memory_usage());
    assert!(matcher.memory_usage() > 5_000 * 32);
}

/// Both engines for [`PATTERNS`], compiled once.
static ENGINES: LazyLock<(Matcher, Vec<Regex>)> =
    LazyLock::new(|| (Matcher::new(&PATTERNS).unwrap(), list(&PATTERNS)));

proptest! {
    #[test]
    fn the_engine_finds_what_the_list_finds(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "/", "wp-admin", "/wp-", "login", ".php", ".sql", "phpMYadmin", "123", "env", " ", "old/", "a", "/b/c/d",
            "union", "select", ".git/", "config", "/x/", "shell", "?", "cmd=", "eval", "(", "/q/q/q", "_", "setup",
        ]), 0..8),
    ) {
        let target = pieces.concat();
        let mut matcher = ENGINES.0.clone();
        for _ in 0..2 {
            prop_assert_eq!(matcher.find(target.as_bytes()), naive(&ENGINES.1, target.as_bytes()), "target {}", &target);
        }
    }

    #[test]
    fn any_pattern_is_refused_or_means_what_the_list_means(
        patterns in prop::collection::vec(r"(\^)?[/ab]{1,3}[ab./()|*+?\[\]$\\]{0,8}", 1..6),
        target in "[/ab.]{0,12}",
    ) {
        if let Ok(mut matcher) = Matcher::new(&patterns) {
            prop_assert_eq!(matcher.find(target.as_bytes()), naive(&list(&patterns), target.as_bytes()));
        }
    }

    /// Literals at the start, at the end and inside of what is short, long or without end, and far more of them than
    /// belong to a match.
    #[test]
    fn a_literal_is_confirmed_wherever_it_stands(
        patterns in prop::collection::vec(any_composed_pattern(), 1..6),
        pieces in prop::collection::vec(
            prop::sample::select(vec!["abc", "bca", "a", "b", "c", ".", "/", "x", "ABC", "abcabcabcabcabcabcabcabc"]),
            0..24,
        ),
    ) {
        let target = pieces.concat();
        if let Ok(mut matcher) = Matcher::new(&patterns) {
            let expect = naive(&list(&patterns), target.as_bytes());
            for _ in 0..2 {
                prop_assert_eq!(matcher.find(target.as_bytes()), expect, "{:?} in {}", &patterns, &target);
            }
        }
    }
}

fn any_composed_pattern() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "abc",
        "bca",
        "(?:abc|bca)",
        "a",
        "[ab]{1,3}",
        "[^/]{2,70}",
        "c+",
        ".*",
        r"\.",
        "/",
        r"\b",
        "(?i:abc)",
        "b?",
        "$",
        "^",
    ]);
    let ends = (prop::sample::select(vec!["", "^", "^/"]), prop::sample::select(vec!["", "$"]));
    (ends, prop::collection::vec(piece, 1..5))
        .prop_map(|((start, end), pieces)| format!("{start}{}{end}", pieces.concat()))
}

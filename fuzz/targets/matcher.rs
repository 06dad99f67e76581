//! Patterns and a target: the first line is the target, each other line a pattern. What is found is what a list of
//! regular expressions, asked one after the other, finds.
#![no_main]

use std::cell::RefCell;

use expression::{expression, first_line};
use ip_sentry_core::detect::matcher::Matcher;
use libfuzzer_sys::fuzz_target;
use regex::bytes::{Regex, RegexBuilder};

/// More patterns than this only make the fuzzer slow.
const MAX_PATTERNS: usize = 6;

thread_local! {
    /// The last patterns compiled: a fuzzer changes the target more often.
    static LAST: RefCell<Option<(Vec<String>, Matcher, Vec<Regex>)>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    let (target, rest) = first_line(data);
    let texts: Option<Vec<String>> =
        rest.split(|&byte| byte == b'\n').take(MAX_PATTERNS).map(expression).collect();
    let Some(texts) = texts else { return };
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(known, ..)| *known != texts) {
            let Ok(matcher) = Matcher::new(&texts) else { return };
            let list =
                texts.iter().map(|text| RegexBuilder::new(text).unicode(false).build().unwrap()).collect();
            *last = Some((texts, matcher, list));
        }
        let Some((texts, matcher, list)) = last else { return };
        let expect = list.iter().position(|regex| regex.is_match(target));
        // Twice: a search leaves nothing behind.
        for _ in 0..2 {
            let found = matcher.find(target).map(usize::from);
            assert_eq!(found, expect, "patterns {texts:?}, target {}", target.escape_ascii());
        }
    });
});

//! A format of the user's own: the first line of the input is the expression, the rest the log line. Whichever way it is
//! matched, the record holds the groups that the regex finds.
#![no_main]

use std::cell::RefCell;

use expression::{expression, first_line};
use ip_sentry_core::detect::{
    format::{Format, FormatDraft},
    record::{self, Record, RecordError},
};
use libfuzzer_sys::fuzz_target;
use regex::bytes::{Regex, RegexBuilder};

/// Where the client may stand.
const HEADS: [&str; 4] = [r"^(\S+)", r"^([0-9a-f.:]+)", r"^(.+?)", r"^\S* ?([^ ]*)"];

thread_local! {
    /// The last expression compiled: a fuzzer changes the line more often than the expression.
    static LAST: RefCell<Option<(String, Format, Regex)>> = const { RefCell::new(None) };
}

fn text(bytes: &[u8]) -> Option<String> {
    let tail = expression(bytes)?;
    if tail.starts_with('^') {
        return Some(tail);
    }
    let head = HEADS[usize::from(bytes.first().copied().unwrap_or_default()) % HEADS.len()];
    // Without a group of its own the path is what follows.
    let path = if tail.replace("(?", "").contains('(') { "" } else { "(.*)" };
    Some(format!("{head}{tail}{path}"))
}

fn by_regex<'line>(regex: &Regex, line: &'line [u8]) -> Result<Record<'line>, RecordError> {
    let groups = regex.captures(line).ok_or(RecordError::Shape)?;
    let is_named = regex.capture_names().flatten().count() > 0;
    let group = |name: &str, place: Option<usize>| match place {
        Some(place) if !is_named => groups.get(place),
        _ => groups.name(name),
    };
    let bytes = |name: &str, place| group(name, place).map_or(&b""[..], |found| found.as_bytes());
    let client = record::client(bytes("ip", Some(1))).ok_or(RecordError::Client)?;
    let has_path = if is_named {
        regex.capture_names().any(|name| name == Some("path"))
    } else {
        regex.captures_len() > 2
    };
    let target = bytes("path", Some(2));
    if has_path && target.is_empty() {
        return Err(RecordError::Request);
    }
    Ok(Record {
        target,
        time: bytes("time", None),
        method: bytes("method", None),
        status: bytes("status", None),
        host: bytes("host", None),
        user_agent: bytes("userAgent", None),
        forwarded_for: bytes("forwardedFor", None),
        ..Record::of(client)
    })
}

fuzz_target!(|data: &[u8]| {
    let (first, line) = first_line(data);
    let Some(text) = text(first) else { return };
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(known, ..)| *known != text) {
            let Ok(format) = Format::compile(&FormatDraft::Regex(text.clone())) else { return };
            let regex = RegexBuilder::new(&text).unicode(false).build().unwrap();
            *last = Some((text, format, regex));
        }
        let Some((text, format, regex)) = last else { return };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.ends_with(b"\r") {
            return;
        }
        let expect = by_regex(regex, line);
        match (format.parse(line), expect) {
            // Why it is none shows without what others wrote in front, nginx's own messages too.
            (Err(_), Err(RecordError::Shape | RecordError::Client)) => {}
            (Ok(got), Err(RecordError::Shape | RecordError::Client)) => {
                let is_rest = |start| {
                    by_regex(regex, &line[start..]).is_ok_and(|rest| Record { time: got.time, ..rest } == got)
                };
                assert!((1..line.len()).any(is_rest), "expression {text}, line {}", line.escape_ascii());
            }
            (got, expect) => assert_eq!(got, expect, "expression {text}, line {}", line.escape_ascii()),
        }
    });
});

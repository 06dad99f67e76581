//! A format of the user's own: a regular expression over the whole line.
//!
//! Bytes, not text: a request for `/.env?\xff` must count, so `.` and `\S` match any byte and `\d`, `\w`, `\s` are
//! ASCII. The expression must be anchored with `^`, or a line inside a line could speak for another client.

use regex::bytes::{CaptureLocations, Regex, RegexBuilder};
use regex_automata::nfa::thompson;
use regex_syntax::hir::{Hir, HirKind, Look};

use super::{Field, Fields, steps::Steps};
use crate::detect::{
    record::{self, Record, RecordError},
    trail::PIECE_BYTES,
};

/// The longest expression, in bytes.
const MAX_BYTES: usize = 1024;

/// The most memory that the compiled expression may take, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// The most that a search may cache, in bytes. There is a cache for each direction, and another two where another thread
/// searches.
const MAX_CACHE_BYTES: usize = 256 << 10;

/// The names that a group may have.
const GROUPS: [&str; 8] = ["ip", "path", "status", "method", "host", "userAgent", "time", "forwardedFor"];

/// Why an expression can't be a format.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LineRegexError {
    /// Longer than the limit.
    #[error("has {0} bytes; {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// Not a regular expression.
    #[error("does not compile: {0}")]
    Syntax(String),
    /// Compiled, it is over the limit.
    #[error("takes more than {MAX_COMPILED_BYTES} bytes when compiled: use smaller repetitions")]
    TooBig,
    /// It could match in the middle of a line.
    #[error("must begin with ^, or a client could write a line of its own into its user agent")]
    NotAnchored,
    /// A group of a name that means nothing.
    #[error("has a group named {0}; the names are {names}", names = GROUPS.join(", "))]
    UnknownGroup(String),
    /// No group for the address or the path.
    #[error(
        "has no group for the {0}: name one (?<{0}>…), or without names make group 1 the address and group 2 the path"
    )]
    NoGroup(&'static str),
}

/// About what an expression takes compiled: an automaton for each direction, and one that tells the groups.
fn compiled_bytes(hir: &Hir) -> Result<usize, LineRegexError> {
    let automaton = thompson::Compiler::new().build_from_hir(hir).map_err(|_| LineRegexError::TooBig)?;
    Ok(3 * automaton.memory_usage())
}

/// Where a group stands that is not in the line.
const ABSENT: usize = usize::MAX;

/// A compiled expression, and which of its groups is what.
#[derive(Clone, Debug)]
pub(super) struct LineRegex {
    /// The quick way, where the expression's shape allows it.
    steps: Option<Steps>,
    /// The steps up to the address and the path, for lines that are cut.
    beginning: Option<Steps>,
    regex: Regex,
    groups: CaptureLocations,
    /// Beginning and end of each group in the present line.
    marks: Vec<usize>,
    ip: usize,
    path: Option<usize>,
    status: Option<usize>,
    method: Option<usize>,
    host: Option<usize>,
    user_agent: Option<usize>,
    time: Option<usize>,
    forwarded_for: Option<usize>,
    is_known_by_its_beginning: bool,
    memory_usage: usize,
}

impl LineRegex {
    pub(super) fn compile(text: &str) -> Result<Self, LineRegexError> {
        if text.len() > MAX_BYTES {
            return Err(LineRegexError::TooLong(text.len()));
        }
        let hir = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .parse(text)
            .map_err(|error| LineRegexError::Syntax(crate::detect::matcher::one_line(&error)))?;
        if !hir.properties().look_set_prefix().contains(Look::Start) {
            return Err(LineRegexError::NotAnchored);
        }
        let regex = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_CACHE_BYTES)
            .build()
            .map_err(|_| LineRegexError::TooBig)?;
        let named: Vec<(usize, &str)> =
            regex.capture_names().enumerate().filter_map(|(index, name)| Some((index, name?))).collect();
        if let Some((_, unknown)) = named.iter().find(|(_, name)| !GROUPS.contains(name)) {
            return Err(LineRegexError::UnknownGroup((*unknown).to_owned()));
        }
        let group = |wanted: &str| named.iter().find(|(_, name)| *name == wanted).map(|&(index, _)| index);
        // Without any name the groups count by their place.
        let by_place = |place: usize| (named.is_empty() && regex.captures_len() > place).then_some(place);
        let ip = group("ip").or_else(|| by_place(1)).ok_or(LineRegexError::NoGroup("ip"))?;
        let path = group("path").or_else(|| by_place(2));
        let steps = Steps::compile(&hir);
        let caches = if steps.is_some() { 0 } else { 4 * MAX_CACHE_BYTES };
        Ok(Self {
            memory_usage: compiled_bytes(&hir)? + caches,
            ip,
            path,
            status: group("status"),
            method: group("method"),
            host: group("host"),
            user_agent: group("userAgent"),
            time: group("time"),
            forwarded_for: group("forwardedFor"),
            is_known_by_its_beginning: begins_with_group(&hir, ip) || begins_with_word(&hir),
            beginning: beginning(&hir, ip, path),
            steps,
            groups: regex.capture_locations(),
            marks: vec![ABSENT; 2 * regex.captures_len()],
            regex,
        })
    }

    /// What it takes compiled, with what searches may cache, in bytes.
    pub(super) fn memory_usage(&self) -> usize {
        self.memory_usage
    }

    /// What there are groups for.
    pub(super) fn fields(&self) -> Fields {
        let groups = [
            (Field::Path, self.path),
            (Field::Status, self.status),
            (Field::Method, self.method),
            (Field::Host, self.host),
            (Field::UserAgent, self.user_agent),
            (Field::Time, self.time),
            (Field::ForwardedFor, self.forwarded_for),
        ];
        groups.into_iter().fold(Fields::default(), |all, (field, group)| all.with(field, group.is_some()))
    }

    /// Whether a line begins with the address, with nothing left of it but what the expression spells out, or with a
    /// word that no prefix begins with: then nothing of a client's can be taken for a prefix.
    pub(super) fn is_known_by_its_beginning(&self) -> bool {
        self.is_known_by_its_beginning
    }

    pub(super) fn parse<'line>(&mut self, line: &'line [u8]) -> Result<Record<'line>, RecordError> {
        if self.find(line) { self.record(line) } else { Err(RecordError::Shape) }
    }

    /// What the marks say of a line.
    fn record<'line>(&self, line: &'line [u8]) -> Result<Record<'line>, RecordError> {
        let group = |index: usize| match self.marks[2 * index..2 * index + 2] {
            [start, end] if start != ABSENT => Some(&line[start..end]),
            _ => None,
        };
        let optional = |index: Option<usize>| index.and_then(group).unwrap_or_default();
        // What stands behind the first piece of a long line may be another's text.
        let is_behind =
            |index: usize| self.marks[2 * index + 1] != ABSENT && self.marks[2 * index + 1] > PIECE_BYTES;
        if is_behind(self.ip) || self.forwarded_for.is_some_and(is_behind) {
            return Err(RecordError::Piece);
        }
        let client = group(self.ip).and_then(record::client).ok_or(RecordError::Client)?;
        let target = optional(self.path);
        if self.path.is_some() && target.is_empty() {
            return Err(RecordError::Request);
        }
        Ok(Record {
            client,
            time: optional(self.time),
            method: optional(self.method),
            target,
            status: optional(self.status),
            host: optional(self.host),
            user_agent: optional(self.user_agent),
            forwarded_for: optional(self.forwarded_for),
        })
    }

    /// Reads whose request it was and for what from a line's first piece, where the expression's shape allows it.
    pub(super) fn parse_beginning<'line>(
        &mut self,
        first_piece: &'line [u8],
    ) -> Result<Record<'line>, RecordError> {
        self.marks.fill(ABSENT);
        let found = self.beginning.as_ref().map(|steps| steps.find(first_piece, &mut self.marks));
        if found == Some(Ok(true)) { self.record(first_piece) } else { Err(RecordError::Shape) }
    }

    /// Whether the line matches; the marks then say where its groups are.
    fn find(&mut self, line: &[u8]) -> bool {
        if let Some(steps) = &self.steps
            && let Ok(is_match) = steps.find(line, &mut self.marks)
        {
            return is_match;
        }
        let is_match = self.regex.captures_read(&mut self.groups, line).is_some();
        for (index, mark) in self.marks.chunks_exact_mut(2).enumerate() {
            let (start, end) = self.groups.get(index).unwrap_or((ABSENT, ABSENT));
            mark.copy_from_slice(&[start, end]);
        }
        is_match
    }
}

/// Whether an expression is `^`, then perhaps literals, and then the group of that number.
fn begins_with_group(hir: &Hir, wanted: usize) -> bool {
    let HirKind::Concat(parts) = hir.kind() else { return false };
    let mut parts = parts
        .iter()
        .skip_while(|part| matches!(part.kind(), HirKind::Look(Look::Start) | HirKind::Literal(_)));
    parts
        .next()
        .is_some_and(|part| matches!(part.kind(), HirKind::Capture(group) if group.index as usize == wanted))
}

/// The steps up to the groups for the address and the path, if the address comes first: then no text of a client's is
/// taken for it, however much of the line is missing.
fn beginning(hir: &Hir, ip: usize, path: Option<usize>) -> Option<Steps> {
    let HirKind::Concat(parts) = hir.kind() else { return None };
    if !begins_with_group(hir, ip) {
        return None;
    }
    let place = |wanted: usize| {
        let is_it =
            |part: &Hir| matches!(part.kind(), HirKind::Capture(group) if group.index as usize == wanted);
        parts.iter().position(is_it)
    };
    // What stands behind an address says where it ends.
    let last = path.map_or_else(|| place(ip).map(|place| place + 1), place)?;
    Steps::compile(&Hir::concat(parts.get(..=last)?.to_vec()))
}

/// Whether every match begins with the same four letters. No prefix does: of those, months alone begin with letters, and
/// they are three.
fn begins_with_word(hir: &Hir) -> bool {
    const LETTERS: usize = 4;
    let HirKind::Concat(parts) = hir.kind() else { return false };
    let beginning = parts.iter().find(|part| !matches!(part.kind(), HirKind::Look(Look::Start)));
    beginning.is_some_and(|part| match part.kind() {
        HirKind::Literal(literal) => {
            literal.0.len() >= LETTERS && literal.0[..LETTERS].iter().all(u8::is_ascii_alphabetic)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The predecessor's default, of which many policies will be copies.
    const PREDECESSOR: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;

    fn compiled(text: &str) -> LineRegex {
        LineRegex::compile(text).unwrap()
    }

    #[test]
    fn groups_count_by_name_or_else_by_place() {
        let line = br#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /a HTTP/1.1" 404 1"#;
        let named =
            r#"^(?<ip>\S+) \S+ \S+ \[(?<time>[^]]+)\] "(?<method>[A-Z]+) (?<path>\S+) \S+" (?<status>\d+)"#;
        let by_place = compiled(PREDECESSOR).parse(line).unwrap();
        let by_name = compiled(named).parse(line).unwrap();
        assert_eq!((by_place.client, by_place.target), (by_name.client, by_name.target));
        assert_eq!((by_place.method, by_place.status, by_place.time), (&b""[..], &b""[..], &b""[..]));
        assert_eq!((by_name.method, by_name.status), (&b"GET"[..], &b"404"[..]));
        assert_eq!(by_name.time, b"20/Mar/2026:10:00:00 +0000");
    }

    #[test]
    fn every_named_group_becomes_its_field() {
        let text = r#"^(?<ip>\S+) "(?<forwardedFor>[^"]*)" \[(?<time>[^]]+)\] (?<host>\S+) (?<method>\S+) (?<path>\S+) (?<status>\d+) "(?<userAgent>[^"]*)""#;
        let record = compiled(text)
            .parse(br#"203.0.113.7 "198.51.100.1, 192.0.2.1" [1774000800.1] a.example GET /b 404 "c d""#)
            .unwrap();
        let expect = Record {
            time: b"1774000800.1",
            method: b"GET",
            target: b"/b",
            status: b"404",
            host: b"a.example",
            user_agent: b"c d",
            forwarded_for: b"198.51.100.1, 192.0.2.1",
            ..Record::of("203.0.113.7".parse().unwrap())
        };
        assert_eq!(record, expect);
        let only_ip = r"^sshd: Failed password for .* from (?<ip>\S+)$";
        let record = compiled(only_ip).parse(b"sshd: Failed password for root from 203.0.113.7").unwrap();
        assert_eq!(record, Record::of("203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn a_line_is_known_by_its_beginning_where_that_is_an_address_or_a_word() {
        #[rustfmt::skip]
        let table = [
            (PREDECESSOR,                                true),
            (r"^(?<ip>\S+) (?<path>\S+)",                true),
            (r"^client=\[(?<ip>[^]]+)\] (?<path>\S+)",   true),
            (r"^(?<host>\S+) (?<ip>\S+) (?<path>\S+)",   false),
            (r"^\S+ (?<ip>\S+) (?<path>\S+)",            false),
            (r"^(?:x )?(?<ip>\S+) (?<path>\S+)",         false),
            (r"^((?<ip>\S+)) (?<path>\S+)",              false),
            (r"^Failed \S+ for .* from (?<ip>\S+)$",     true),
            (r"^Nov \d+ (?<host>\S+) (?<ip>\S+)$",       false),
            (r"^<(?<host>\S+)> (?<ip>\S+)$",             false),
            (r"^(?i)Failed for \S+ from (?<ip>\S+)$",    false),
            (r"^(?:Failed|Invalid) .* from (?<ip>\S+)$", false),
        ];
        for (text, expect) in table {
            assert_eq!(compiled(text).is_known_by_its_beginning(), expect, "expression {text}");
        }
    }

    #[test]
    fn a_beginning_says_as_much_as_there_is_where_the_address_comes_first() {
        type Read = Result<&'static [u8], RecordError>;
        let line: &[u8] = br#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /a HTTP/1.1" 404 1"#;
        #[rustfmt::skip]
        let table: [(&str, usize, Read); 6] = [
            (PREDECESSOR,                           52, Ok(b"/a")),
            (PREDECESSOR,                           51, Ok(b"/")),
            (PREDECESSOR,                           50, Err(RecordError::Shape)),
            (r"^(?<ip>\S+) - - (?<time>.*)$",       51, Ok(b"")),
            (r"^(?<ip>\S+) - (?:(?<path>\S+))?",    51, Err(RecordError::Shape)),
            (r"^\S*(?<ip>\S+) - (?<path>\S+)",     51, Err(RecordError::Shape)),
        ];
        for (text, length, expect) in table {
            let mut regex = compiled(text);
            let read = regex.parse_beginning(&line[..length]);
            assert_eq!(read.map(|record| record.target), expect, "{text}, {length} bytes");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_a_request() {
        let line = b"203.0.113.7 - \xfe [\xff] \"GET /.env?\xff\xc0 HTTP/1.1\" 404 1";
        assert_eq!(compiled(PREDECESSOR).parse(line).unwrap().target, b"/.env?\xff\xc0");
    }

    #[test]
    fn what_can_not_be_a_format_is_refused_with_what_to_write() {
        #[rustfmt::skip]
        let table = [
            (r"^(\S+",                    "does not compile: unclosed group, at character 2"),
            (r"(\S+) (\S+)",              "must begin with ^, or a client could write a line of its own into its user agent"),
            (r"(?m)^(\S+) (\S+)",         "must begin with ^, or a client could write a line of its own into its user agent"),
            (r"^(\S+) (\S+)|(\S+) x",     "must begin with ^, or a client could write a line of its own into its user agent"),
            (r"^(?<path>\S+) (\S+)",      "has no group for the ip: name one (?<ip>…), or without names make group 1 the address and group 2 the path"),
            (r"^(?<ip>\S+) (?<url>\S+)",  "has a group named url; the names are ip, path, status, method, host, userAgent, time, forwardedFor"),
            (r"^(\w{999}) (\w{999}){99}", "takes more than 1048576 bytes when compiled: use smaller repetitions"),
        ];
        for (given, expect) in table {
            assert_eq!(LineRegex::compile(given).unwrap_err().to_string(), expect, "given {given}");
        }
        assert_eq!(LineRegex::compile(&"^".repeat(1025)).unwrap_err(), LineRegexError::TooLong(1025));
    }

    #[test]
    fn a_line_without_an_address_or_a_path_is_named() {
        #[rustfmt::skip]
        let table = [
            (r#"nobody - - [t] "GET /a HTTP/1.1" 200"#,      RecordError::Client),
            (r#"203.0.113.7 - - [t] "\x16\x03" 400"#,        RecordError::Shape),
        ];
        for (line, expect) in table {
            assert_eq!(compiled(PREDECESSOR).parse(line.as_bytes()), Err(expect), "line {line}");
        }
        let may_lack = r"^(?<ip>\S+)(?: (?<path>\S*))?";
        assert_eq!(compiled(may_lack).parse(b"203.0.113.7"), Err(RecordError::Request));
        assert_eq!(compiled(may_lack).parse(b"203.0.113.7 "), Err(RecordError::Request));
    }
}

use super::*;

/// The predecessor's default.
const PREDECESSOR: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;

/// With names, and the client's own words around the address.
const NAMED: &str =
    r#"^(?<host>\S+) (?<ip>\S+) \[(?<time>[^]]+)\] "(?<method>[A-Z]+) (?<path>\S+) \S+" (?<status>\d+)"#;

fn regex(text: &str) -> Format {
    Format::compile(&FormatDraft::Regex(text.to_owned())).unwrap()
}

fn json() -> Format {
    let draft = JsonDraft { ip: "/ip".to_owned(), path: Some("/path".to_owned()), ..JsonDraft::default() };
    Format::compile(&FormatDraft::Json(draft)).unwrap()
}

fn nginx() -> Format {
    Format::compile(&FormatDraft::Preset(Preset::NginxCombined)).unwrap()
}

#[test]
fn the_gateways_own_messages_are_told_from_lines_of_another_format() {
    let mut format = nginx();
    #[rustfmt::skip]
    let table = [
        ("2026/03/20 10:00:00 [notice] 1#1: start worker processes", RecordError::Message),
        ("2026-03-20T10:00:00Z stdout F 2026/03/20 10:00:00 [notice] 1#1: start worker processes", RecordError::Message),
        ("2026/03/20 10:00:00 [error] 7#7: *1 open() failed, client: 203.0.113.7, server: _", RecordError::Message),
        ("2026-03-20 10:00:00 [error] something else",               RecordError::Shape),
        ("2026/03/20",                                               RecordError::Shape),
    ];
    for (line, expect) in table {
        assert_eq!(format.parse(line.as_bytes()).map(drop), Err(expect), "{line}");
    }
}

#[test]
fn a_prefix_is_taken_off_where_the_line_does_not_parse_with_it() {
    let combined = r#"203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 404 1"#;
    let object = r#"{"ip":"203.0.113.7","path":"/a"}"#;
    for prefix in [
        "",
        "2026-11-22T10:00:00.5Z stdout F ",
        "2026-11-22T10:00:00.5Z ",
        "[pod/a/b] ",
        "<134>Nov 22 10:00:00 a b[7]: ",
        "\x1b[32m",
    ] {
        let stamp = if prefix.starts_with("2026") { &b"2026-11-22T10:00:00.5Z"[..] } else { b"" };
        let own: &[u8] = b"22/Nov/2026:10:00:00 +0000";
        for (mut format, line, time) in
            [(nginx(), combined, own), (regex(PREDECESSOR), combined, stamp), (json(), object, stamp)]
        {
            let line = format!("{prefix}{line}\r");
            let record = format.parse(line.as_bytes()).unwrap();
            assert_eq!((record.target, record.time), (&b"/a"[..], time), "line {line}");
            assert_eq!(record.client.to_string(), "203.0.113.7");
        }
    }
}

#[test]
fn an_expression_that_expects_the_prefix_sees_it() {
    let mut format = regex(r"^(?<time>\S+) stdout F (?<ip>\S+) (?<path>\S+)");
    let record = format.parse(b"2026-11-22T10:00:00.5Z stdout F 203.0.113.7 /a").unwrap();
    assert_eq!(record.time, b"2026-11-22T10:00:00.5Z");
}

#[test]
fn a_line_that_begins_with_a_word_is_found_behind_a_prefix() {
    let mut format = regex(r"^Failed password for .* from (?<ip>\S+) port \d+ ssh2$");
    for prefix in [
        "",
        "Nov 22 10:00:00 gw sshd[7]: ",
        "2026-11-22T10:00:00.5Z stderr F ",
        "<38>Nov 22 10:00:00 gw sshd[7]: ",
    ] {
        let line = format!("{prefix}Failed password for root from 203.0.113.7 port 4022 ssh2");
        assert_eq!(format.parse(line.as_bytes()).unwrap().client.to_string(), "203.0.113.7", "line {line}");
        let forged = format!(
            "{prefix}Invalid user Nov 22 10:00:00 gw sshd[7]: Failed password for a from 198.51.100.9 port 1 ssh2 \
             from 203.0.113.7 port 4022"
        );
        assert_eq!(format.parse(forged.as_bytes()), Err(RecordError::Shape), "line {forged}");
    }
}

#[test]
fn a_client_s_own_words_in_front_of_the_address_are_no_prefix() {
    // The client chose the host, and with a space in the path the line does not parse.
    let line =
        br#"2026-11-22T10:00:00Z 203.0.113.7 [x] "GET a [x] "GET 198.51.100.9 [x] "GET /wp-admin x" 404"#;
    assert_eq!(regex(NAMED).parse(line), Err(RecordError::Shape));
}

#[test]
fn junk_behind_a_prefix_is_named_for_what_it_is() {
    let line = br#"2026-11-22T10:00:00Z stdout F 203.0.113.7 - - [x] "\x16\x03\x01" 400 157 "-" "-""#;
    assert_eq!(nginx().parse(line).map(|record| (record.target, record.status)), Ok((&b""[..], &b"400"[..])));
    let line = b"2026-11-22T10:00:00Z stdout P 203.0.113.7 - - [x] \"GET / HTTP/1.1\" 200 1";
    assert_eq!(nginx().parse(line), Err(RecordError::Piece));
}

use proptest::prelude::*;

use super::*;

fn parse(line: &[u8]) -> Result<Record<'_>, RecordError> {
    super::parse(line, true)
}

/// The client, method, target and status of a line, in words.
fn read(line: &str) -> Result<String, RecordError> {
    let record = parse(line.as_bytes())?;
    let text = String::from_utf8_lossy;
    Ok(format!("{} {} {} {}", record.client, text(record.method), text(record.target), text(record.status)))
}

#[test]
fn lines_that_gateways_write_are_read() {
    #[rustfmt::skip]
    let table = [
        // combined
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 612 "-" "curl/8.5.0""#, "203.0.113.7 GET /a?b=c 200"),
        // the common log format ends after the size, or after the status
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.0" 304 -"#, "203.0.113.7 GET / 304"),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.0" 304"#, "203.0.113.7 GET / 304"),
        // IPv6, HTTP/2 and HTTP/3, more fields after the user agent
        (r#"2001:db8::7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/2.0" 404 9 "" "" 462 0.050 [up] -"#, "2001:db8::7 GET / 404"),
        // a user that logged in, with a space and a bracket in the name
        (r#"203.0.113.7 - ann [20/Mar/2026:10:00:00 +0000] "POST /x HTTP/1.1" 401 0 "-" "-""#, "203.0.113.7 POST /x 401"),
        (r#"203.0.113.7 - a [b] c [20/Mar/2026:10:00:00 +0000] "POST /x HTTP/1.1" 401 0 "-" "-""#, "203.0.113.7 POST /x 401"),
        // another time format
        (r#"203.0.113.7 - - [2026-03-20T10:00:00+00:00] "GET / HTTP/1.1" 200 1"#, "203.0.113.7 GET / 200"),
        // a space in the path; HTTP/0.9; an absolute URI; CONNECT
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /.env x HTTP/1.1" 400 0 "-" "-""#, "203.0.113.7 GET /.env x 400"),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /.env" 400 0 "-" "-""#, "203.0.113.7 GET /.env 400"),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /x  HTTP/2.0" 404 0 "-" "-""#, "203.0.113.7 GET /x  404"),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET http://a.example/x HTTP/1.1" 400 0 "-" "-""#, "203.0.113.7 GET http://a.example/x 400"),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "CONNECT a.example:443 HTTP/1.1" 400 0 "-" "-""#, "203.0.113.7 CONNECT a.example:443 400"),
        // escaped by nginx, escaped by Apache
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /\x22\x5C HTTP/1.1" 404 0 "-" "-""#, r"203.0.113.7 GET /\x22\x5C 404"),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /\"\\ HTTP/1.1" 404 0 "-" "-""#, r#"203.0.113.7 GET /\"\\ 404"#),
    ];
    for (line, expect) in table {
        assert_eq!(read(line).as_deref(), Ok(expect), "line {line}");
    }
}

#[test]
fn what_is_no_request_still_has_a_client_and_a_status() {
    #[rustfmt::skip]
    let table = [
        r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "\x16\x03\x01\x02\x00\x01" 400 157 "-" "-""#,
        r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "" 400 0 "-" "-""#,
        r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "-" 408 0 "-" "-""#,
        r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "SSH-2.0-Go" 400 157 "-" "-""#,
        r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "get / HTTP/1.1" 400 157 "-" "-""#,
        r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET  HTTP/1.1" 400 157 "-" "-""#,
    ];
    for line in table {
        let record = parse(line.as_bytes()).unwrap();
        assert_eq!((record.method, record.target), (&b""[..], &b""[..]), "line {line}");
        assert_eq!(record.client.to_string(), "203.0.113.7", "line {line}");
        assert!([&b"400"[..], b"408"].contains(&record.status), "line {line}");
    }
}

#[test]
fn junk_is_named_and_never_read() {
    #[rustfmt::skip]
    let table = [
        (r#"unix: - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-""#,                   RecordError::Client),
        (r#"a.example - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-""#,               RecordError::Client),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 2000 1"#,                    RecordError::Shape),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1""#,                           RecordError::Shape),
        (r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HT"#,                                  RecordError::Shape),
        (r#"203.0.113.7 - - "GET / HTTP/1.1" 200 1"#,                                                  RecordError::Shape),
        (r#"203.0.113.7 - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1"#,                       RecordError::Shape),
        (r#" 203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1"#,                    RecordError::Client),
        ("2026/03/20 10:00:00 [error] 7#7: *1 open() failed, client: 203.0.113.7",                     RecordError::Shape),
        ("\u{16}\u{3}\u{1}\0\0",                                                                       RecordError::Shape),
        ("-",                                                                                          RecordError::Shape),
    ];
    for (line, expect) in table {
        assert_eq!(read(line), Err(expect), "line {line}");
    }
}

/// A whole line of somebody else's probe, as a client can put it into a field: nginx escapes the quotes.
const FAKE: &str = r"198.51.100.9 - - [20/Mar/2026:10:00:00 +0000] \x22GET /wp-admin HTTP/1.1\x22 404 0";
/// The same where the quotes come through, as they would with `escape=none`.
const RAW: &str =
    r#"" 200 1 "-" "-" 198.51.100.9 - - [20/Mar/2026:10:00:00 +0000] "GET /wp-admin HTTP/1.1" 404 0"#;

#[test]
fn no_field_that_a_client_controls_becomes_an_address() {
    let line = |user: &str, path: &str, referer: &str, agent: &str| {
        format!(
            r#"203.0.113.7 - {user} [20/Mar/2026:10:00:00 +0000] "GET {path} HTTP/1.1" 200 612 "{referer}" "{agent}""#
        )
    };
    for fake in [FAKE, RAW] {
        let lines = [
            line(fake, "/", "-", "-"),
            line("-", fake, "-", "-"),
            line("-", "/", fake, "-"),
            line("-", "/", "-", fake),
        ];
        for line in lines {
            let client = parse(line.as_bytes()).map(|record| record.client.to_string());
            assert!(
                matches!(client.as_deref(), Ok("203.0.113.7") | Err(RecordError::Shape)),
                "{client:?} from {line}"
            );
        }
    }
}

#[test]
fn a_user_name_does_not_move_the_time_or_the_request() {
    for user in [FAKE, "- [", "- [20/Mar/2026:10:00:00 +0000", "- - [x"] {
        let line = format!(
            r#"203.0.113.7 - {user} [21/Mar/2026:10:00:00 +0000] "GET /home HTTP/1.1" 200 1 "-" "-""#
        );
        let record = parse(line.as_bytes()).unwrap();
        assert_eq!(
            (record.time, record.target),
            (&b"21/Mar/2026:10:00:00 +0000"[..], &b"/home"[..]),
            "{line}"
        );
    }
}

#[test]
fn the_headers_behind_the_status_are_read_as_far_as_they_go() {
    const LINE: &str = r#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 404"#;
    #[rustfmt::skip]
    let table = [
        (r#" 612 "-" "curl/8" "198.51.100.9, 10.0.0.1""#,   "curl/8",    "198.51.100.9, 10.0.0.1"),
        (r#" 612 "-" "curl/8" "-""#,                         "curl/8",    "-"),
        (r#" 612 "-" "curl/8" "" "x""#,                      "curl/8",    ""),
        (r#" 612 "-" "curl/8""#,                             "curl/8",    ""),
        (r#" 612 "-" "curl/8" 462 0.050 [up] "10.0.0.9""#,   "curl/8",    ""),
        (r#" - "" "" "10.0.0.9""#,                           "",          "10.0.0.9"),
        // Apache escapes quotes
        (r#" 612 "a\" \"b\" \"c" "d\\" "10.0.0.9""#,         r"d\\",      "10.0.0.9"),
        // cut short, or another format
        (r#" 612 "-" "curl/8" "10.0.0"#,                     "curl/8",    ""),
        (r#" 612 "-" "curl/8"#,                              "",          ""),
        (r#" 612 - "curl/8" "10.0.0.9""#,                    "",          ""),
        (r#" 612 "-"  "curl/8" "10.0.0.9""#,                 "",          ""),
        (r#" "-" "curl/8" "10.0.0.9""#,                      "",          ""),
        (" 612",                                             "",          ""),
        (" ",                                                "",          ""),
        ("",                                                 "",          ""),
    ];
    for (rest, user_agent, forwarded_for) in table {
        let line = format!("{LINE}{rest}");
        let record = parse(line.as_bytes()).unwrap();
        let got = (record.user_agent, record.forwarded_for);
        assert_eq!(got, (user_agent.as_bytes(), forwarded_for.as_bytes()), "rest {rest}");
        let without = super::parse(line.as_bytes(), false).unwrap();
        assert_eq!(without, Record { user_agent: b"", forwarded_for: b"", ..record });
    }
}

/// What nginx writes for bytes that a client sent (`escape=default`, `ngx_http_log_escape`).
fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' | ..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    bytes.iter().map(escape).collect()
}

proptest! {
    #[test]
    fn whatever_clients_send_the_line_says_who_and_what(
        user in prop::collection::vec(any::<u8>(), 1..40),
        path in prop::collection::vec(any::<u8>(), 0..80),
        agent in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let (user, path, agent) = (escaped(&user), escaped(&path), escaped(&agent));
        let line = format!(
            r#"203.0.113.7 - {user} [20/Mar/2026:10:00:00 +0000] "GET /{path} HTTP/1.1" 200 612 "{agent}" "{agent}" "{agent}, 192.0.2.1""#
        );
        let record = parse(line.as_bytes()).unwrap();
        prop_assert_eq!(record.client.to_string(), "203.0.113.7");
        prop_assert_eq!(record.time, b"20/Mar/2026:10:00:00 +0000");
        let target = format!("/{path}");
        prop_assert_eq!(record.target, target.as_bytes());
        prop_assert_eq!(record.status, b"200");
        prop_assert_eq!(record.user_agent, agent.as_bytes());
        prop_assert!(record.forwarded_for.ends_with(b", 192.0.2.1"));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _unused = parse(&line);
    }

    #[test]
    fn any_bytes_of_the_format_s_own_alphabet_are_taken_or_refused(line in r#"[12. \-\[\]"\\:GETHP/x]{0,120}"#) {
        if let Ok(record) = parse(line.as_bytes()) {
            prop_assert!(line.starts_with(&record.client.to_string()));
        }
    }
}

//! Messages of nginx that quote a client with its line breaks, where the kubelet mixes standard error with standard
//! output: nobody is counted for what another writes into them.

use super::*;
use crate::detect::format::JsonDraft;

const VICTIM: &str = "198.51.100.9";
const TIME: &str = "[22/Nov/2026:10:00:00 +0000]";

/// The predecessor's default.
const REGEX: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;

fn jails() -> [(&'static str, Jail); 3] {
    let (ip, path) = ("/ip".to_owned(), Some("/uri".to_owned()));
    let of = |format: FormatDraft| jail(&PolicyDraft { format, ..PolicyDraft::default() });
    [
        ("preset", jail(&PolicyDraft::default())),
        ("regex", of(FormatDraft::Regex(REGEX.to_owned()))),
        ("json", of(FormatDraft::Json(JsonDraft { ip, path, ..JsonDraft::default() }))),
    ]
}

/// Takes in the lines of one write, which the container runtime stamps some microseconds apart.
fn observe(jail: &mut Jail, trail: &mut Trail, milli: i64, written: &str) -> Vec<Verdict> {
    let start = at("10:00:00") + jiff::SignedDuration::from_millis(milli);
    let lines = written.lines().zip(0..);
    let observe = |(line, place): (&str, i64)| {
        let at = start + jiff::SignedDuration::from_micros(10 * place);
        jail.observe_in(trail, Some(at), line.as_bytes(), &Networks::default(), &|_, _| false)
    };
    lines.map(observe).collect()
}

/// What a client wants to have counted, in every format.
fn forged() -> String {
    let line = |path: &str| format!(r#"{VICTIM} - - {TIME} "GET {path} HTTP/1.1" 404 153 "-" "x""#);
    let json = |path: &str| format!(r#"{{"ip":"{VICTIM}","uri":"{path}"}}"#);
    [line("/.env"), line("/wp-login.php"), json("/.env"), json("/wp-login.php")].join("\n")
}

/// The messages that nginx 1.28 writes of a request for a file that there isn't and of a name that nobody has, with line
/// breaks in them; then the first once more as a client writes it that wants it to look complete.
fn messages() -> [String; 3] {
    let forged = forged();
    // A name ends at its first colon.
    let name = forged.replace(':', "");
    let begin = "2026/11/22 10:00:00 [error] 7#7: *1";
    let end =
        r#", client: 203.0.113.7, server: , request: "GET /z%0A198.51 HTTP/1.1", host: "shop.example.com""#;
    let complete = r#"" failed (2: No such file or directory), client: 203.0.113.8, server: , request: "GET /z HTTP/1.1""#;
    [
        format!("{begin} open() \"/srv/www/z\n{forged}\n\" failed (2: No such file or directory){end}"),
        format!("{begin} user \"z\n{name}\n\" was not found in \"/etc/nginx/users\"{end}"),
        format!(
            "{begin} open() \"/srv/www/z{complete}\n{forged}\n\" failed (2: No such file or directory){end}"
        ),
    ]
}

#[test]
fn whoever_writes_line_breaks_into_a_message_bans_nobody_in_any_format() {
    for message in messages() {
        for (format, mut jail) in jails() {
            let mut trail = Trail::stamped();
            for second in 0..20 {
                let verdicts = observe(&mut jail, &mut trail, second * 700, &message);
                let counted = verdicts.iter().find(|verdict| !matches!(verdict, Verdict::Unparsed(_)));
                assert_eq!(counted, None, "{format}: {message}");
            }
            assert_eq!(jail.counters().hits, 0, "{format}");
            let is_colon_needed = format == "json" && message.contains("user ");
            let expect = if is_colon_needed { 0 } else { 40 };
            assert_eq!(jail.counters().unparsed(RecordError::Quoted), expect, "{format}: {message}");
        }
    }
}

#[test]
fn after_a_second_everybody_counts_again() {
    let [message, ..] = messages();
    let mut jail = jail(&PolicyDraft::default());
    let mut trail = Trail::stamped();
    let request = format!(r#"{VICTIM} - - {TIME} "GET /.env HTTP/1.1" 404 153 "-" "x""#);
    observe(&mut jail, &mut trail, 0, &message);
    assert_eq!(observe(&mut jail, &mut trail, 990, &request), [Verdict::Unparsed(RecordError::Quoted)]);
    assert_eq!(observe(&mut jail, &mut trail, 1_010, &request), [Verdict::Counted]);
}

#[test]
fn after_a_login_that_failed_all_lines_count_but_those_that_a_name_can_hold() {
    let failed = r#"2026/11/22 10:00:00 [error] 7#7: *1 user "root": password mismatch, client: 203.0.113.7, request: "GET / HTTP/1.1""#;
    for (time, expect) in [(TIME, Verdict::Counted), ("[x]", Verdict::Unparsed(RecordError::Quoted))] {
        let mut jail = jail(&PolicyDraft::default());
        let mut trail = Trail::stamped();
        let request = format!(r#"{VICTIM} - root {time} "GET /.env HTTP/1.1" 401 153 "-" "x""#);
        let verdicts = observe(&mut jail, &mut trail, 0, &format!("{failed}\n{request}"));
        assert_eq!(verdicts, [Verdict::Unparsed(RecordError::Message), expect], "{time}");
    }
}

#[test]
fn messages_about_no_connection_leave_all_lines_counted() {
    let mut jail = jail(&PolicyDraft::default());
    let mut trail = Trail::stamped();
    let message = "2026/11/22 10:00:00 [notice] 7#7: using the \"epoll\" event method\n";
    let request = format!(r#"{VICTIM} - - {TIME} "GET /.env HTTP/1.1" 404 153 "-" "x""#);
    let verdicts = observe(&mut jail, &mut trail, 0, &(message.to_owned() + &request));
    assert_eq!(verdicts, [Verdict::Unparsed(RecordError::Message), Verdict::Counted]);
}

#[test]
fn messages_that_quote_a_request_only_as_it_came_or_the_configuration_leave_all_lines_counted() {
    let end = r#"client: 203.0.113.7, server: , request: "GET /.env HTTP/1.1", upstream: "http://10.0.0.1:80/.env", host: "h""#;
    let mut jail = jail(&PolicyDraft::default());
    let mut trail = Trail::stamped();
    for what in [
        "connect() failed (111: Connection refused) while connecting to upstream",
        "upstream timed out (110: Connection timed out) while reading response header from upstream",
        "access forbidden by rule",
        "no live upstreams while connecting to upstream",
        r#"limiting requests, excess: 1.000 by zone "logins""#,
        r#"limiting connections by zone "addresses""#,
        r#"delaying request, excess: 0.500, by zone "logins""#,
        r#"using uninitialized "target" variable"#,
    ] {
        let message = format!("2026/11/22 10:00:00 [error] 7#7: *1 {what}, {end}\n");
        let request = format!(r#"{VICTIM} - - {TIME} "GET / HTTP/1.1" 502 153 "-" "x""#);
        let verdicts = observe(&mut jail, &mut trail, 0, &(message + &request));
        assert_eq!(verdicts, [Verdict::Unparsed(RecordError::Message), Verdict::Miss], "{what}");
    }
}

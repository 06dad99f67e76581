//! Lines of 16 KiB and more, and what the kubelet makes of them where a line of standard error comes between their
//! pieces: nobody is counted for another's text, and nobody hides behind long requests.

use super::*;
use crate::detect::{format::JsonDraft, record::MAX_LINE_BYTES, trail::PIECE_BYTES};

const CLIENT: &str = "203.0.113.7";
const VICTIM: &str = "198.51.100.9";
const TIME: &str = "[22/Nov/2026:10:00:00 +0000]";
const STDERR: &str = "2026/11/22 10:00:00 [error] 7#7: *1 open() failed";

/// The predecessor's default.
const REGEX: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;

fn of(format: FormatDraft) -> Jail {
    jail(&PolicyDraft { format, ..PolicyDraft::default() })
}

fn of_regex() -> Jail {
    of(FormatDraft::Regex(REGEX.to_owned()))
}

fn of_json() -> Jail {
    let (ip, path) = ("/ip".to_owned(), Some("/uri".to_owned()));
    of(FormatDraft::Json(JsonDraft { ip, path, ..JsonDraft::default() }))
}

/// A line as the kubelet sends it when one of standard error comes after its first piece: joined with that one, and the
/// rest as a line of its own.
fn cut(line: &str) -> [String; 2] {
    let (first, rest) = line.split_at(PIECE_BYTES);
    [format!("{first}{STDERR}"), rest.to_owned()]
}

/// Takes in lines that are stamped so many milliseconds after ten o'clock.
fn observe(jail: &mut Jail, trail: &mut Trail, milli: i64, line: &str) -> Verdict {
    let at = at("10:00:00") + jiff::SignedDuration::from_millis(milli);
    jail.observe_in(trail, Some(at), line.as_bytes(), &Networks::default(), &|_, _| false)
}

fn request(client: &str, path: &str) -> String {
    format!(r#"{client} - - {TIME} "GET {path} HTTP/1.1" 404 1 "-" "-""#)
}

/// nginx escapes a byte of a name that is not text as four bytes, so its header buffers hold enough to reach the cut.
fn with_a_user_up_to_the_cut(victims: &str) -> String {
    let mut line = format!("{CLIENT} - ");
    while line.len() + 4 <= PIECE_BYTES {
        line += r"\xFF";
    }
    let pad = "-".repeat(PIECE_BYTES - line.len());
    line + &pad + victims
}

#[test]
fn the_rest_of_a_line_that_was_cut_in_the_users_name_bans_nobody() {
    let forged = with_a_user_up_to_the_cut(&request(VICTIM, "/wp-admin"));
    let mut jail = jail(&PolicyDraft::default());
    let mut trail = Trail::stamped();
    for milli in 0..50 {
        for line in cut(&forged) {
            let verdict = observe(&mut jail, &mut trail, milli * 100, &line);
            assert!(matches!(verdict, Verdict::Unparsed(_)), "{verdict:?}");
        }
    }
    assert_eq!(jail.counters().unparsed(RecordError::Rest), 50);
    // One line of another is lost for each of those at most.
    let [long, _] = cut(&forged);
    observe(&mut jail, &mut trail, 6_000, &long);
    let verdicts = [0, 1].map(|_| observe(&mut jail, &mut trail, 6_001, &request(VICTIM, "/wp-admin")));
    assert_eq!(verdicts, [Verdict::Unparsed(RecordError::Rest), Verdict::Counted]);
}

#[test]
fn behind_a_long_request_of_nginx_everybody_else_is_counted() {
    let mut jail = jail(&PolicyDraft::default());
    let mut trail = Trail::stamped();
    for line in cut(&request(CLIENT, &format!("/{}{VICTIM} - - {TIME}", "x".repeat(PIECE_BYTES)))) {
        observe(&mut jail, &mut trail, 0, &line);
    }
    assert_eq!(observe(&mut jail, &mut trail, 1, &request(VICTIM, "/wp-admin")), Verdict::Counted);
}

#[test]
fn the_rest_of_a_long_line_of_an_expression_bans_nobody_for_a_second() {
    // The attacker pads so that the cut falls right before the victim's address.
    let front = format!("{CLIENT} - - {TIME} \"GET /");
    let forged = format!("{front}{}{}", "x".repeat(PIECE_BYTES - front.len()), request(VICTIM, "/wp-admin"));
    let mut jail = of_regex();
    let mut trail = Trail::stamped();
    for milli in 0..9 {
        for line in cut(&forged) {
            assert!(!matches!(observe(&mut jail, &mut trail, milli * 100, &line), Verdict::Earned(_)));
        }
    }
    let after = |jail: &mut Jail, trail: &mut Trail, milli| {
        observe(jail, trail, milli, &request(VICTIM, "/wp-admin"))
    };
    assert_eq!(after(&mut jail, &mut trail, 1_800), Verdict::Unparsed(RecordError::Rest));
    assert_eq!(after(&mut jail, &mut trail, 1_801), Verdict::Counted);
    assert_eq!(jail.counters().long_lines, 9);
}

#[test]
fn nobody_hides_his_probes_behind_long_requests_of_his_own() {
    for mut jail in [jail(&PolicyDraft::default()), of_regex()] {
        let mut trail = Trail::stamped();
        // Cut in two, so that no more than its beginning can be read.
        let [long, _] = cut(&request(CLIENT, &format!("/{}", "x".repeat(PIECE_BYTES))));
        observe(&mut jail, &mut trail, 0, &long);
        let verdicts =
            ["/wp-admin", "/.env"].map(|path| observe(&mut jail, &mut trail, 1, &request(CLIENT, path)));
        assert_eq!(earned(&verdicts[1]).evidence.hits, 2);
    }
}

#[test]
fn a_long_probe_counts_for_the_client_that_its_first_piece_names() {
    let query = "x".repeat(MAX_LINE_BYTES);
    let nginx = |path: &str| request(CLIENT, &format!("{path}?{query}"));
    let json = |path: &str| format!(r#"{{"ip":"{CLIENT}","uri":"{path}","agent":"{query}"}}"#);
    let cases: [(Jail, [String; 2]); 3] = [
        (of_regex(), ["/wp-admin", "/.env"].map(nginx)),
        (jail(&PolicyDraft::default()), ["/wp-admin", "/.env"].map(nginx)),
        (of_json(), ["/wp-admin", "/.env"].map(json)),
    ];
    for (mut jail, lines) in cases {
        let mut trail = Trail::stamped();
        // Longer than is looked at, and joined with a line of standard error.
        let joined = format!("{}{STDERR}", &lines[1][..PIECE_BYTES]);
        let verdicts = [&lines[0], &joined].map(|line| observe(&mut jail, &mut trail, 0, line));
        assert_eq!(earned(&verdicts[1]).source.to_string(), format!("{CLIENT}/32"));
        assert_eq!(jail.counters().beginnings, 2);
    }
}

#[test]
fn an_address_that_stands_behind_the_first_piece_is_nobodys() {
    let mut jail = jail(&PolicyDraft {
        format: FormatDraft::Regex(r"^Failed password for .* from (?<ip>\S+)$".to_owned()),
        any_path: true,
        catalogues: vec![],
        ..PolicyDraft::default()
    });
    let line = format!("Failed password for {} from {VICTIM}", "x".repeat(PIECE_BYTES));
    assert_eq!(observe(&mut jail, &mut Trail::stamped(), 0, &line), Verdict::Unparsed(RecordError::Piece));
}

#[test]
fn each_log_has_long_lines_of_its_own() {
    let mut jail = of_regex();
    let mut trails = [Trail::stamped(), Trail::stamped()];
    observe(&mut jail, &mut trails[0], 0, &request(CLIENT, &format!("/{}", "x".repeat(PIECE_BYTES))));
    let verdicts = [0, 1].map(|log| observe(&mut jail, &mut trails[log], 1, &request(VICTIM, "/wp-admin")));
    assert_eq!(verdicts, [Verdict::Unparsed(RecordError::Rest), Verdict::Counted]);
}

#[test]
fn in_a_log_without_stamps_the_next_line_is_in_doubt_whatever_time_it_names() {
    let mut jail = of(FormatDraft::Regex(
        r#"^(?<ip>\S+) \S+ \S+ \[(?<time>[^\]]+)\] "\S+ (?<path>\S+) \S+" (?<status>\d+)"#.to_owned(),
    ));
    let mut observe = |line: &str| jail.observe(None, line.as_bytes(), &Networks::default());
    observe(&request(CLIENT, &format!("/{}", "x".repeat(PIECE_BYTES))));
    let later = request(VICTIM, "/wp-admin").replace("10:00:00", "11:00:00");
    assert_eq!(observe(&later), Verdict::Unparsed(RecordError::Rest));
    assert_eq!(observe(&later), Verdict::Counted);
}

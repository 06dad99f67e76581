use proptest::prelude::*;

use super::*;

const LINE: &str = r#"203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1"#;

/// What can stand in front of a line, and the time that it tells.
#[rustfmt::skip]
pub(in crate::detect::format) const TABLE: [(&str, &str); 19] = [
    ("2026-11-22T10:00:00.123456789Z stdout F ",                     "2026-11-22T10:00:00.123456789Z"),
    ("2026-11-22T10:00:00.123456789+01:00 stderr F ",                "2026-11-22T10:00:00.123456789+01:00"),
    ("2026-11-22T10:00:00.123456789Z ",                              "2026-11-22T10:00:00.123456789Z"),
    ("[pod/gateway-5c9f-x/nginx] ",                                  ""),
    ("[pod/gateway-5c9f-x/nginx] 2026-11-22T10:00:00Z ",             "2026-11-22T10:00:00Z"),
    ("<134>Nov 22 10:00:00 gw-1 nginx[7]: ",                         ""),
    ("<134>Nov  2 10:00:00 gw-1.example.com nginx: ",                ""),
    ("<190>Nov 22 10:00:00 nginx: ",                                 ""),
    ("Nov 22 10:00:00 gw-1 nginx[7]: ",                              ""),
    ("Nov 22 10:00:00 nginx: ",                                      ""),
    ("2026-11-22T10:00:00.123456+01:00 gw-1 nginx[7]: ",             "2026-11-22T10:00:00.123456+01:00"),
    ("<134>1 2026-11-22T10:00:00.123Z gw-1 nginx 7 - - ",            "2026-11-22T10:00:00.123Z"),
    ("<134>1 2026-11-22T10:00:00.123Z - - - - - ",                   "2026-11-22T10:00:00.123Z"),
    (r#"<134>1 2026-11-22T10:00:00Z gw nginx 7 - [a@1 b="c\"] d"][e] "#, "2026-11-22T10:00:00Z"),
    ("\x1b[0m",                                                      ""),
    ("\x1b[1;32m\x1b[m",                                             ""),
    ("\x1b[32m2026-11-22T10:00:00Z \x1b[0m",                         "2026-11-22T10:00:00Z"),
    // one inside the other: the inner one was there first
    ("2026-11-22T10:00:09Z <134>1 2026-11-22T10:00:00Z gw nginx 7 - - ", "2026-11-22T10:00:00Z"),
    ("2026-11-22T10:00:09Z <134>Nov 22 10:00:00 gw nginx: ",         "2026-11-22T10:00:09Z"),
];

fn bare(line: &[u8]) -> Option<Bare<'_>> {
    Prefixes::default().strip(line).unwrap()
}

#[test]
fn what_others_wrote_in_front_is_taken_off_and_its_time_is_kept() {
    for (prefix, stamp) in TABLE {
        let whole = format!("{prefix}{LINE}");
        let expect = Bare { line: LINE.as_bytes(), stamp: stamp.as_bytes() };
        assert_eq!(bare(whole.as_bytes()), Some(expect), "in front: {prefix:?}");
    }
}

#[test]
fn what_only_resembles_a_prefix_stays() {
    for line in [
        LINE,
        "2026-11-22 203.0.113.7",
        "2026-13-22T10:00:00Z 203.0.113.7",
        "2026-11-22T10:00:00 x",
        "22:10:00:00 203.0.113.7",
        "[pod/x 203.0.113.7",
        "[2001:db8::1] - -",
        "<>Nov 22 10:00:00 gw nginx: x",
        "<13x>Nov 22 10:00:00 gw nginx: x",
        "<12345>Nov 22 10:00:00 gw nginx: x",
        "<134>203.0.113.7 x: y",
        "Nov 22 10:00:00 203.0.113.7 nginx: x",
        "Nov 22 10:00:00 gw nginx x",
        "Nov 22 10:00:00 fd00:: nginx: x",
        "Nov 22 10:00:00 gw 203.0.113.7: x",
        "<134>1 2026-11-22T10:00:00Z 203.0.113.7 nginx 7 - - x",
        "<134>1 2026-11-22T10:00:00Z gw nginx 7 - [a x",
        "\x1b[32",
        "\x1b[2Jx",
        "\x16\x03\x01",
        "",
    ] {
        let rest = bare(line.as_bytes()).map(|bare| bare.line.escape_ascii().to_string());
        // A date without a zone is UTC, and is taken off alone.
        let expect = (line == "2026-11-22T10:00:00 x").then(|| "x".to_owned());
        assert_eq!(rest, expect, "line {line:?}");
    }
}

#[test]
fn a_line_that_the_runtime_cut_is_no_line_and_neither_is_its_end() {
    let mut prefixes = Prefixes::default();
    let mut strip = |rest: &str| {
        let line = format!("2026-11-22T10:00:00Z {rest}");
        prefixes.strip(line.as_bytes()).map(drop)
    };
    #[rustfmt::skip]
    let table = [
        ("stdout F a", Ok(())),
        ("stdout P a", Err(RecordError::Piece)),
        ("stderr F a", Ok(())), // another stream
        ("stdout P b", Err(RecordError::Piece)),
        ("stdout F c", Err(RecordError::Piece)),
        ("stdout F d", Ok(())),
    ];
    for (line, expect) in table {
        assert_eq!(strip(line), expect, "{line}");
    }
}

/// What a client would write to have another's address read.
fn fake() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "2026-11-22T10:00:00Z ",
        "stdout F ",
        "host nginx: ",
        "x: ",
        "<134>",
        "1 ",
        "Nov 22 10:00:00 ",
        "- - - - ",
        "[pod/a/b] ",
        "\x1b[0m",
        " ",
        ":",
        "]",
        "198.51.100.9 - - [t] \"GET /wp-admin HTTP/1.1\" 404 0",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_line_that_begins_with_an_address_has_no_prefix(
        address in any::<std::net::IpAddr>(), brackets: bool, separator in "[ :,|]", text in fake(),
    ) {
        let address = if brackets { format!("[{address}]") } else { address.to_string() };
        let line = format!("{address}{separator}{text}");
        prop_assert_eq!(bare(line.as_bytes()), None);
        // And behind prefixes, none of them passes over it.
        for (prefix, _) in TABLE {
            let whole = format!("{prefix}{line}");
            prop_assert_eq!(bare(whole.as_bytes()).unwrap().line, line.as_bytes(), "in front: {}", prefix);
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused(line in prop::collection::vec(any::<u8>(), 0..80), text in fake()) {
        let _unused = Prefixes::default().strip(&line);
        let _unused = Prefixes::default().strip(text.as_bytes());
    }
}
